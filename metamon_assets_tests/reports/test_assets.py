"""The report as an asset: its rows, what Dagster shows of it, and that computing it again changes nothing."""

from __future__ import annotations

from metamon_assets_tests.sample import DAYS, Pipeline

ROWS = (
    "SELECT section, rank, key, severity, statement, value, money_per_month, runs, query"
    " FROM metamon.report_findings WHERE day = %s ORDER BY 1, 2"
)


def test_the_last_day_of_a_run_has_a_report(pipeline: Pipeline) -> None:
    pipeline.run(*DAYS)
    assert pipeline.rows(ROWS, DAYS[0]) == []
    found = pipeline.rows(ROWS, DAYS[-1])
    sections = {section for section, *_ in found}
    assert {"cost", "steps"} <= sections
    assert not [key for _, _, key, *_ in found if key.endswith(".failed")]
    (total,) = [row for row in found if row[2] == "cost.total"]
    ((cost,),) = pipeline.rows("SELECT sum(total_cost)::float8 FROM metamon.traces")
    assert total[5] == cost
    assert total[6] is None, "three days are too few for a month"

    shown = pipeline.metadata("report_findings", DAYS[-1])
    assert shown["dagster/partition_row_count"] == len(found)
    assert shown["sections_failed"] == 0
    assert "What it costs" in shown["findings"]
    assert shown["picture"].startswith("![US dollars a day](data:image/svg+xml;base64,")
    assert pipeline.metadata("report_findings", DAYS[0])["dagster/partition_row_count"] == 0
    for check in ("sections_were_built", "figures_are_whole"):
        assert all(passed for passed, _ in pipeline.check("report_findings", check, DAYS).values())

    pipeline.run(DAYS[-1])
    assert [row[:8] for row in pipeline.rows(ROWS, DAYS[-1])] == [row[:8] for row in found]
