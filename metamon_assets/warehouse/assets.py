"""How a table becomes an asset: the description that Dagster shows comes from the table's own COMMENTs.

Here belongs what all assets share: owner, kinds, partitions, freshness, column schema, and the figures that every
partition carries. Nothing about a particular table is told here, and nothing is told twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from metamon_assets import partitions
from metamon_assets.warehouse import contracts

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

OWNER = "team:ai-platform"
# Yesterday is ingested at 00:15 and everything that follows from it is done well before three.
FRESHNESS = dg.FreshnessPolicy.cron(deadline_cron="0 3 * * *", lower_bound_delta=timedelta(hours=3), timezone="UTC")


def table_spec(
    table: str,
    *,
    group: str,
    deps: Iterable[str] = (),
    kinds: Iterable[str] = (),
    lineage: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> dg.AssetSpec:
    """The asset of ``metamon.<table>``. ``lineage`` maps a column to the (table, column) pairs that it comes from."""
    contract = contracts.declared()[f"metamon.{table}"]
    metadata: dict[str, Any] = {
        "dagster/table_name": f"metamon.{table}",
        "dagster/storage_kind": "postgres",
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name=column.name,
                    type=column.type,
                    description=column.comment,
                    constraints=dg.TableColumnConstraints(nullable=column.nullable),
                )
                for column in contract.columns
            ]
        ),
    }
    if lineage:
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(
            {
                name: [dg.TableColumnDep(asset_key=dg.AssetKey(upstream), column_name=column) for upstream, column in origins]
                for name, origins in lineage.items()
            }
        )
    return dg.AssetSpec(
        key=dg.AssetKey(table),
        description=contract.comment,
        group_name=group,
        deps=[dg.AssetKey(dep) for dep in deps],
        kinds={"postgres", *kinds},
        owners=[OWNER],
        partitions_def=partitions.daily,
        freshness_policy=FRESHNESS,
        metadata=metadata,
    )


def report_days(context: dg.AssetExecutionContext, table: str, figures: Mapping[date, Mapping[str, Any]]) -> None:
    """Attach to each partition its own figures; ``figures`` has a ``rows`` for every day of the run.

    One result object would stamp the same figures on every day of a range. A table that this run was not asked for
    (it was computed along with another) shows nothing.
    """
    if dg.AssetKey(table) not in context.selected_asset_keys:
        return
    for day in partitions.days_of(context):
        of_day = dict(figures[day])
        context.add_asset_metadata(
            {"dagster/partition_row_count": int(of_day.pop("rows")), **{name: _shown(value) for name, value in of_day.items()}},
            asset_key=dg.AssetKey(table),
            partition_key=partitions.key_of(day),
        )


def _shown(value: Any) -> Any:
    """A time as Dagster shows times: in the reader's own zone."""
    return dg.MetadataValue.timestamp(value) if isinstance(value, datetime) else value


def results(context: dg.AssetExecutionContext, tables: Sequence[str]) -> Iterator[dg.MaterializeResult]:
    """One result for each of the tables that the run was asked for; ``tables`` stand in the order of their dependence."""
    return (dg.MaterializeResult(table) for table in tables if dg.AssetKey(table) in context.selected_asset_keys)


def figures_per_day(connection: Connection, query: str, days: Sequence[date]) -> dict[date, dict[str, Any]]:
    """Rows of ``query`` (first column ``day``, takes %(days)s) by day; days without a row get ``rows`` 0."""
    with connection, connection.cursor() as cursor:
        cursor.execute(query, {"days": list(days)})
        names = [column.name for column in cursor.description or ()]
        found = {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in cursor.fetchall()}
    return {day: found.get(day, {"rows": 0}) for day in days}


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> dg.MetadataValue:
    """A small table for metadata. Cells are text of strangers: what would end a cell or start HTML is defused."""
    lines = ["| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )
    # As entities, not with backslashes: a backslash of the stranger's own before the character would undo ours.
    return " ".join(text.splitlines()).translate(_DEFUSED)


_DEFUSED = str.maketrans({"&": "&amp;", "<": "&lt;", "|": "&#124;", "`": "&#96;", "[": "&#91;", "\\": "&#92;"})
