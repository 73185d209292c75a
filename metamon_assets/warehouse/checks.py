"""Asset checks over daily partitions, behind one helper, since Dagster's partitioned checks are still in preview.

Here belongs how a check over days is declared and reported; what is checked stands in each stage's ``checks.py``.
A check looks at all days of its run in one query and gives a verdict for each. A run over several days can report
one result only, so the verdict of each day is reported on its own as well, and every partition shows what was found
for it and nothing else.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from metamon_assets import partitions
from metamon_assets.warehouse.assets import markdown_table
from metamon_assets.warehouse.expectations import Between, Failure, failures, profile
from metamon_assets.warehouse.resources import Warehouse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found for a day: whether it passed, one sentence, and figures."""

    passed: bool
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


Evaluate = Callable[["Connection", list[date]], Mapping[date, Verdict]]


def day_check(
    *,
    asset: str,
    name: str,
    description: str,
    evaluate: Evaluate,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """A check of a daily asset. ``evaluate`` gets the days of the run and gives a verdict for each of them.

    Only a blocking check that fails at ERROR stops what is downstream and fails the run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)

        @dg.asset_check(
            asset=dg.AssetKey(asset),
            name=name,
            description=description,
            blocking=blocking,
            partitions_def=partitions.daily,
        )
        def check(context: dg.AssetCheckExecutionContext, warehouse: Warehouse) -> dg.AssetCheckResult:
            days = partitions.days_of(context)
            with warehouse.connection() as connection:
                verdicts = evaluate(connection, days)
            if missing := [day for day in days if day not in verdicts]:
                raise RuntimeError(f"{name} gave no verdict for {', '.join(map(str, missing))}")
            if len(days) == 1:
                verdict = verdicts[days[0]]
                return dg.AssetCheckResult(
                    passed=verdict.passed, severity=severity, description=verdict.description or None, metadata=dict(verdict.metadata)
                )
            _report_each(context, dg.AssetKey(asset), name, severity, verdicts)
            return _together(verdicts, severity)

    return check


def shape_check(table: str, query: str, suite: Sequence[Between]) -> dg.AssetChecksDefinition:
    """A blocking check that each day's figures meet the suite."""

    def evaluate(connection: "Connection", days: list[date]) -> dict[date, Verdict]:
        failed = failures(profile(connection, query, days), suite)
        return {day: verdict(failed.get(day, ())) for day in days}

    def verdict(found: Sequence[Failure]) -> Verdict:
        return Verdict(not found, "; ".join(map(str, found)), {"expectations_failed": len(found)})

    return day_check(
        asset=table,
        name="shape_and_ranges",
        description=f"Great Expectations over the day's figures: {'; '.join(map(str, suite))}.",
        evaluate=evaluate,
        blocking=True,
    )


def sql_check(
    *,
    asset: str,
    name: str,
    description: str,
    query: str,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """A check in SQL: each row of ``query`` is a finding (day, text) and fails its day. Takes %(days)s and %(now)s."""

    def evaluate(connection: "Connection", days: list[date]) -> dict[date, Verdict]:
        with connection, connection.cursor() as cursor:
            cursor.execute(query, {"days": days, "now": datetime.now(UTC)})
            findings: dict[date, list[str]] = {}
            for day, text in cursor.fetchall():
                findings.setdefault(day, []).append(text)
        return {
            day: Verdict(day not in findings, "; ".join(findings.get(day, ())), {"findings": len(findings.get(day, ()))}) for day in days
        }

    return day_check(asset=asset, name=name, description=description, evaluate=evaluate, blocking=blocking, severity=severity)


def _report_each(
    context: dg.AssetCheckExecutionContext, asset: dg.AssetKey, name: str, severity: dg.AssetCheckSeverity, verdicts: Mapping[date, Verdict]
) -> None:
    """In the run's own name: that settles the entry which Dagster planned for each partition when the run began.

    (Reported outside a run, an evaluation could be stored once only for a partition, and the entry would stay planned.)
    """
    for day, verdict in verdicts.items():
        evaluation = dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=name,
            passed=verdict.passed,
            severity=severity,
            description=verdict.description or None,
            metadata=dict(verdict.metadata),
            partition=partitions.key_of(day),
        )
        context.instance.report_dagster_event(
            dg.DagsterEvent(
                event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
                job_name=context.run.job_name,
                event_specific_data=evaluation,
                message=f"{name} of {day} {'passed' if verdict.passed else 'failed'}",
            ),
            run_id=context.run.run_id,
        )


def _together(verdicts: Mapping[date, Verdict], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    failed = {day: verdict for day, verdict in sorted(verdicts.items()) if not verdict.passed}
    days = markdown_table(("day", "finding"), ((day, verdict.description) for day, verdict in failed.items()))
    return dg.AssetCheckResult(
        passed=not failed,
        severity=severity,
        description=f"{len(failed)} of {len(verdicts)} days failed" if failed else f"all {len(verdicts)} days passed",
        metadata={"failed_days": days} if failed else {},
    )
