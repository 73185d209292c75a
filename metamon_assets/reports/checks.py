"""That the report is whole: no section failed, every figure lies within its interval, every query may be asked."""

from __future__ import annotations

from metamon_assets.warehouse.checks import sql_check

sections_were_built = sql_check(
    asset="report_findings",
    name="sections_were_built",
    description="No section of the day's report failed.",
    query="SELECT day, statement FROM metamon.report_findings WHERE day = ANY(%(days)s) AND key = section || '.failed'",
)
figures_are_whole = sql_check(
    asset="report_findings",
    name="figures_are_whole",
    description="Figures lie within their intervals and say what unit they have; every finding says how sure it is.",
    query="""
        SELECT day, format('%%s: %%s in %%s to %%s %%s', key, value, low, high, unit) FROM metamon.report_findings
        WHERE day = ANY(%(days)s) AND key <> section || '.failed'
            AND (value < low OR value > high OR (value IS NULL) <> (unit IS NULL) OR certainty = '')""",
)

checks = [sections_were_built, figures_are_whole]
