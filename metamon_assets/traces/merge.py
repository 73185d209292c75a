"""From normalised runs to traces and spans: whose child is whose, which day they live in, what a root adds up to.

Here belongs what makes a set of runs a trace. A trace lives in the UTC day of its root's start, and its spans and
payloads with it, even when they started after midnight. Runs come in any order and may be split over files and
reads: children before roots, roots without children, children whose root never comes. ``warehouse.merge`` does
the writing; everything happens in the caller's transaction. One writer of a day at a time: whoever writes a day holds its
lock, and with spans of a day's first hour also that of the day before, where another may be writing their roots.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import psycopg2.errors
from psycopg2 import sql

from metamon_assets.traces.sources.base import Kind, Reject, Window
from metamon_assets.traces.tables import PAYLOADS, SPANS, TRACES
from metamon_assets.warehouse import merge
from metamon_assets.warehouse.merge import MergeTable, Notes

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg2.extensions import cursor as Cursor

# What a root takes from its children where its source left it empty. Tokens and cost come from the model calls
# that are not themselves made of model calls, so that doubly instrumented calls count once.
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_output_tokens",
)
_COSTS = ("input_cost", "output_cost", "total_cost")
_CALLS = {"llm_calls": "llm", "tool_calls": "tool", "retrievals": "retriever"}
DERIVED = (*_TOKENS, *_COSTS, *_CALLS)
TOUCHED_FOR = timedelta(days=14)  # five-minute buckets of older runs are not computed again
# How far live data look for other days of a trace, by when pending runs are given up: merging a few rows every second,
# to plan a query over all the days that there are would cost more than to run it (a quarter of the time at 90 days).
LIVE_REACH = timedelta(days=15)
# How long before a span its root may have started for two writers, one with each, to be kept from missing each other.
ROOT_REACH = timedelta(hours=1)
_NOTED = Notes("changed_runs", ("day", "project", "trace_id", "parent_run_id", "run_type", "start_time", "end_time", "status"))


@dataclass(slots=True)
class RunCounts:
    """What became of the runs of one read."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    moved: int = 0
    outside: int = 0
    inferred: int = 0
    touched: int = 0  # buckets
    days: set[date] = field(default_factory=set)
    conflicts: list[Reject] = field(default_factory=list)


class RunMerge:
    """Collects the runs of one read and, at the end, merges them. One object for one transaction.

    ``window`` limits the read to traces whose root starts in it; None takes everything.
    ``across_projects``: one trace may span projects (OpenTelemetry: several services). ``direct``: roots of a day that
    does not exist yet are loaded as they come, which keeps others out of that day until the read has ended; not for
    sources that take long to answer. ``touch``: note the five-minute buckets of what changed in metamon.touched_buckets.
    """

    def __init__(
        self,
        cursor: Cursor,
        source: str,
        window: Window | None,
        *,
        across_projects: bool = False,
        direct: bool = True,
        touch: bool = False,
    ) -> None:
        self._cursor = cursor
        self._source = source
        self._window = window
        self._across_projects = across_projects
        self._direct = direct
        self._notes = _NOTED if touch else None
        self._direct_days: set[date] = set()
        self._staged_days: set[date] = set()
        self._root_days: set[date] = set()  # where another writer may have the roots of our spans
        self._has_spans = False
        self.counts = RunCounts()
        merge.allow_bulk_memory(cursor)
        for table in (TRACES, SPANS, PAYLOADS):
            merge.create_staging(cursor, table)
        self._run_columns = merge.table_columns(cursor, TRACES)
        if window is not None:
            cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS outside_traces (trace_id text, project text) ON COMMIT DELETE ROWS")
        if touch:
            cursor.execute(
                sql.SQL(
                    "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {} FROM staged_traces WITH NO DATA"
                ).format(sql.Identifier(_NOTED.target), _NOTED.names())
            )

    # --- collecting -----------------------------------------------------------------------------------------

    def add(self, rows: pa.Table) -> None:
        """Take a batch of normalised runs (schema ``columns.RUNS``)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = rows.append_column("day", pc.cast(pc.floor_temporal(rows["start_time"], unit="day"), pa.date32()))
        is_root = pc.is_null(rows["parent_run_id"])
        roots, children = rows.filter(is_root), rows.filter(pc.invert(is_root))
        roots = self._inside_window(roots)
        payload_columns = ["inputs", "outputs"]
        has_payload = pc.or_(pc.is_valid(rows["inputs"]), pc.is_valid(rows["outputs"]))
        self._add_roots(roots, alone=children.num_rows == 0)
        if children.num_rows:
            self._has_spans = True
            merge.copy_rows(self._cursor, SPANS.staged(), children.drop_columns(payload_columns))
            self._staged_days.update(pc.unique(children["day"]).to_pylist())
            reached = pc.floor_temporal(pc.subtract(children["start_time"], pa.scalar(ROOT_REACH)), unit="day")
            self._root_days.update(pc.unique(pc.cast(reached, pa.date32())).to_pylist())
        if pc.any(has_payload).as_py():
            self._add_payloads(roots, children)

    def _inside_window(self, roots: pa.Table) -> pa.Table:
        import pyarrow.compute as pc

        if self._window is None or roots.num_rows == 0:
            return roots
        start = roots["start_time"]
        inside = pc.and_(pc.greater_equal(start, self._window.start), pc.less(start, self._window.end))
        outside = roots.filter(pc.invert(inside))
        if outside.num_rows:
            self.counts.outside += outside.num_rows
            merge.copy_rows(self._cursor, sql.Identifier("outside_traces"), outside.select(["trace_id", "project"]))
        return roots.filter(inside)

    def _add_roots(self, roots: pa.Table, *, alone: bool) -> None:
        """Roots without children at hand go straight into a day that does not exist yet; the others wait."""
        import pyarrow.compute as pc

        roots = roots.drop_columns(["inputs", "outputs"])
        for day in pc.unique(roots["day"]).to_pylist():
            of_day = roots.filter(pc.equal(roots["day"], day))
            if alone and self._direct and day not in self._direct_days and self._begin_day(day):
                self._direct_days.add(day)
            if alone and day in self._direct_days:
                merge.copy_rows(self._cursor, merge.loading(TRACES, day), of_day)
                self.counts.inserted += of_day.num_rows
            else:
                merge.copy_rows(self._cursor, TRACES.staged(), of_day)
                self._staged_days.add(day)

    def _begin_day(self, day: date) -> bool:
        """Whether this read is the one that builds the day. The day is locked before its partition, as in ``finish``:
        in the other order two readers of a new day would wait for each other."""
        return merge.try_lock_day(self._cursor, self._source, day) and merge.begin_partition(self._cursor, TRACES, day, wait=False)

    def _add_payloads(self, *tables: pa.Table) -> None:
        import pyarrow.compute as pc

        for table in tables:
            payloads = table.select(["day", "source", "project", "run_id", "inputs", "outputs", "observed_time"])
            present = payloads.filter(pc.or_(pc.is_valid(payloads["inputs"]), pc.is_valid(payloads["outputs"])))
            merge.copy_rows(self._cursor, PAYLOADS.staged(), present)

    # --- finishing ------------------------------------------------------------------------------------------

    def finish(self) -> RunCounts:
        """Merge everything that was added; gives the counts. The transaction is the caller's to commit."""
        for day in sorted(self._staged_days | self._direct_days | self._root_days):
            merge.lock_day(self._cursor, self._source, day)
        for table in (TRACES, SPANS):
            self._drop_duplicates(table, table.staged())
        merge.remove_duplicates(self._cursor, PAYLOADS, PAYLOADS.staged(), per_day=False)
        restaged = sum(self._attach(day) for day in sorted(self._direct_days))
        restaged += self._settle_moves(TRACES.staged(), sorted(self._staged_days))
        if restaged:
            restaged -= len(merge.remove_duplicates(self._cursor, SPANS, SPANS.staged(), per_day=False))
        if self._has_spans or restaged or self._staged_days:
            self._find_roots()
            self._infer_roots()
            self._place_spans()
            self._drop_older_spans()
            self._complete_roots()
        self._merge(restaged)
        if self._notes:
            self._touch()
        return self.counts

    def _execute(self, statement: str, *, roots: sql.Composable | None = None, **values: Any) -> int:
        """Run SQL in which {names} stands for the run columns and {same_trace} for two rows being of one trace."""
        self._cursor.execute(self._composed(statement, roots), {"source": self._source, **values})
        return self._cursor.rowcount

    def _keep(self, name: str, query: str, *, roots: sql.Composable | None = None, **values: Any) -> int:
        """The rows of such a query as a temporary table; gives their number."""
        return merge.keep_result(self._cursor, name, self._composed(query, roots), {"source": self._source, **values})

    def _composed(self, statement: str, roots: sql.Composable | None) -> str:
        return (
            sql.SQL(statement)
            .format(
                names=sql.SQL(", ").join(map(sql.Identifier, self._run_columns)),
                roots=roots or TRACES.staged(),
                same_trace=sql.SQL("a.trace_id = b.trace_id" + ("" if self._across_projects else " AND a.project = b.project")),
            )
            .as_string(self._cursor)
        )

    def _drop_duplicates(self, table: MergeTable, target: sql.Composable) -> int:
        removed = merge.remove_duplicates(self._cursor, table, target, per_day=False)
        for row, contradicts in removed:
            if contradicts:
                self.counts.conflicts.append(_conflict(row))
            else:
                self.counts.duplicate += 1
        return len(removed)

    def _attach(self, day: date) -> int:
        """Finish a day that was loaded directly; gives spans staged again because their root moved here.

        Duplicates are looked for only when its key says that there are some.
        """
        target = merge.loading(TRACES, day)
        unchanged_before = self.counts.unchanged
        restaged = self._settle_moves(target, [day])
        self.counts.inserted -= self.counts.unchanged - unchanged_before
        self._cursor.execute("SAVEPOINT attach")
        try:
            merge.attach_partition(self._cursor, TRACES, day)
        except psycopg2.errors.UniqueViolation:
            self._cursor.execute("ROLLBACK TO SAVEPOINT attach")
            self.counts.inserted -= self._drop_duplicates(TRACES, target)
            merge.attach_partition(self._cursor, TRACES, day)
        self.counts.days.add(day)
        return restaged

    def _find_roots(self) -> None:
        """The table trace_roots: for every staged span's trace its root, in this read or already here."""
        merge.analyze_staging(self._cursor, SPANS, "trace_id", "parent_run_id")
        self._keep("span_traces", "SELECT trace_id, project, min(day) AS first_day, max(day) AS last_day FROM staged_spans GROUP BY 1, 2")
        self._execute("ANALYZE span_traces")
        self._keep(
            "trace_roots",
            "SELECT a.trace_id, a.project, b.project AS root_project, b.run_id, b.day, true AS in_read"
            " FROM span_traces a JOIN {roots} b ON {same_trace}",
        )
        # Nearly always the root is in a day next to its spans: look there before looking everywhere.
        self._cursor.execute("SELECT min(first_day), max(last_day) FROM span_traces")
        earliest, latest = self._cursor.fetchone()  # type: ignore[misc]
        for first, last in self._where_roots_may_be(earliest, latest):
            self._execute(
                "INSERT INTO trace_roots SELECT a.trace_id, a.project, b.project, b.run_id, b.day, false"
                " FROM span_traces a JOIN metamon.traces b ON {same_trace} AND b.source = %(source)s"
                " AND b.day BETWEEN %(first)s AND %(last)s"
                " WHERE NOT EXISTS (SELECT FROM trace_roots r WHERE r.trace_id = a.trace_id AND r.project = a.project"
                "   AND r.run_id = b.run_id AND r.root_project = b.project)",
                first=first,
                last=last,
            )
            self._cursor.execute(
                "SELECT (SELECT count(*) FROM span_traces) = (SELECT count(DISTINCT (trace_id, project)) FROM trace_roots)"
            )
            if self._cursor.fetchone()[0]:  # type: ignore[index]
                break
        self._drop_spans_outside()
        # A root read again without its children keeps what it took from them, and so does another root of its trace.
        self._execute(
            "WITH again AS (SELECT a.trace_id, a.project, a.run_id AS staged, b.project AS other_project, b.run_id AS other, a.day"
            "   FROM staged_traces a JOIN metamon.traces b ON {same_trace} AND b.source = a.source AND b.day = a.day"
            "   WHERE b.day = ANY(%(days)s) AND b.derived_columns IS NOT NULL),"
            " both_roots AS (SELECT trace_id, project, project AS root_project, staged AS run_id, day, true AS in_read FROM again"
            "   UNION SELECT trace_id, project, other_project, other, day, false FROM again WHERE other <> staged)"
            " INSERT INTO trace_roots SELECT * FROM both_roots n WHERE NOT EXISTS (SELECT FROM trace_roots r"
            "   WHERE r.trace_id = n.trace_id AND r.project = n.project AND r.run_id = n.run_id AND r.root_project = n.root_project)",
            days=sorted(self._staged_days),
        )

    def _where_roots_may_be(self, earliest: date | None, latest: date | None) -> list[tuple[date | str, date | str]]:
        """Where to look for the roots of spans of these days, and where then."""
        if earliest is None or latest is None:
            return []
        reach = (earliest - LIVE_REACH, latest + LIVE_REACH) if self._notes else ("-infinity", "infinity")
        return [(earliest - timedelta(days=1), latest + timedelta(days=1)), reach]

    def _drop_spans_outside(self) -> None:
        """Spans of traces that this read was not asked for."""
        if self._window is None:
            return
        self.counts.outside += self._drop_staged_spans(
            "USING (SELECT DISTINCT trace_id, project FROM outside_traces) b WHERE {same_trace}"
            " AND NOT EXISTS (SELECT FROM trace_roots r WHERE r.trace_id = a.trace_id AND r.project = a.project AND r.in_read)"
        )
        self.counts.outside += self._drop_staged_spans(
            "USING trace_roots b WHERE {same_trace} AND (b.day < %(first)s OR b.day > %(last)s)"
            " AND NOT EXISTS (SELECT FROM trace_roots r WHERE r.trace_id = a.trace_id AND r.project = a.project"
            "   AND (r.in_read OR r.day BETWEEN %(first)s AND %(last)s))",
            first=self._window.start.date(),
            last=(self._window.end - timedelta(microseconds=1)).date(),
        )

    def _drop_staged_spans(self, using: str, **values: Any) -> int:
        """Delete spans (a) of this read together with their payloads; gives the number of spans."""
        return self._execute(
            f"WITH dropped AS (DELETE FROM staged_spans a {using} RETURNING a.project, a.run_id),"
            " payloads AS (DELETE FROM staged_payloads p USING dropped d WHERE p.run_id = d.run_id AND p.project = d.project)"
            " SELECT FROM dropped",
            **values,
        )

    def _infer_roots(self) -> None:
        """Where no root was ever seen, a row stands in for it: under the id of the missing parent, over the time of
        the runs that are there, marked as inferred. The real root takes its place when it comes."""
        rootless = self._keep("rootless", "SELECT a.* FROM staged_spans a WHERE NOT EXISTS (SELECT FROM trace_roots b WHERE {same_trace})")
        if not rootless:
            return
        if self._window is not None:
            self._drop_rootless_outside(self._window)
        by_trace = "source, trace_id" if self._across_projects else "source, trace_id, project"
        self._execute(
            "INSERT INTO staged_traces (day, source, project, run_id, trace_id, run_type, agent_name, agent_version, mode, tenant_id,"
            "   user_id, conversation_id, environment, start_time, end_time, latency_seconds, status, cost_source, variant,"
            "   root_inferred, observed_time)"
            f" SELECT DISTINCT ON ({by_trace}) (min(start_time) OVER w AT TIME ZONE 'UTC')::date, source, project,"
            "   COALESCE(parent_run_id, run_id), trace_id, 'chain', agent_name, agent_version, mode, tenant_id,"
            "   user_id, conversation_id, environment, min(start_time) OVER w, max(end_time) OVER w,"
            "   extract(epoch FROM max(end_time) OVER w - min(start_time) OVER w),"
            "   CASE WHEN bool_or(status = 'pending') OVER w THEN 'pending' WHEN bool_or(status = 'error' AND topmost) OVER w THEN 'error'"
            "     WHEN bool_or(status = 'abandoned') OVER w THEN 'abandoned' ELSE 'success' END, 'unpriced', variant, true, observed_time"
            " FROM (SELECT s.*, NOT EXISTS (SELECT FROM rootless p WHERE p.trace_id = s.trace_id AND p.run_id = s.parent_run_id) AS topmost"
            "   FROM rootless s) s"
            f" WINDOW w AS (PARTITION BY {by_trace}) ORDER BY {by_trace}, topmost DESC, start_time, run_id"
        )
        self._staged_days.update(self._days_of("staged_traces"))
        self._execute(
            "INSERT INTO trace_roots SELECT DISTINCT a.trace_id, a.project, b.project, b.run_id, b.day, true FROM rootless a"
            " JOIN staged_traces b ON {same_trace} AND b.root_inferred"
        )
        self._cursor.execute("SELECT count(*) FROM staged_traces WHERE root_inferred")
        self.counts.inferred += self._cursor.fetchone()[0]  # type: ignore[index]

    def _drop_rootless_outside(self, window: Window) -> None:
        outside = "SELECT trace_id, project FROM rootless GROUP BY 1, 2 HAVING min(start_time) < %(start)s OR min(start_time) >= %(end)s"
        values: dict[str, Any] = {"start": window.start, "end": window.end}
        self.counts.outside += self._drop_staged_spans(f"USING ({outside}) b WHERE {{same_trace}}", **values)
        self._execute(f"DELETE FROM rootless a USING ({outside}) b WHERE {{same_trace}}", **values)

    def _settle_moves(self, roots: sql.Composable, days: Sequence[date]) -> int:
        """A root whose day changed leaves its old day, with its spans and payloads; gives rows staged again.

        Looked for among pending runs of any day, since those are the ones that get patched, and among all runs of
        the days next to the new one. A row that stood in for a root gives way to it in the same manner.
        """
        if not days:
            return 0
        # The only day of a read cannot be a day that its roots left: leaving it out spares the largest join.
        near = sorted({day + timedelta(days=step) for day in days for step in ((-1, 1) if len(days) == 1 else (-1, 0, 1))})
        found = self._keep(
            "moves",
            "SELECT s.run_id, s.project, s.trace_id, t.day AS old_day, s.day AS new_day,"
            f" ({TRACES.version.format(row='s')}, s.content_hash) > ({TRACES.version.format(row='t')}, t.content_hash) AS newer"
            " FROM {roots} s JOIN metamon.traces t ON t.run_id = s.run_id AND t.project = s.project AND t.source = s.source"
            " AND t.day <> s.day AND (t.status = 'pending' OR t.day = ANY(%(near)s)) AND t.day BETWEEN %(first)s AND %(last)s"
            " UNION ALL SELECT a.run_id, a.project, a.trace_id, a.day, b.day, true FROM metamon.traces a JOIN {roots} b ON {same_trace}"
            " WHERE a.root_inferred AND a.source = %(source)s AND (a.run_id, a.project) <> (b.run_id, b.project) AND NOT b.root_inferred"
            " AND a.day BETWEEN %(first)s AND %(last)s",
            roots=roots,
            near=near,
            first=days[0] - LIVE_REACH if self._notes else "-infinity",
            last=days[-1] + LIVE_REACH if self._notes else "infinity",
        )
        if not found:
            return 0
        # A version older than the one that is here stays out.
        self.counts.unchanged += self._execute(
            "DELETE FROM {roots} s USING moves m WHERE NOT m.newer AND s.run_id = m.run_id AND s.project = m.project AND s.day = m.new_day",
            roots=roots,
        )
        self._execute(
            "WITH gone AS (DELETE FROM metamon.traces t USING moves m WHERE m.newer AND t.source = %(source)s"
            " AND t.run_id = m.run_id AND t.project = m.project AND t.day = m.old_day RETURNING t.*)"
            + (_NOTE_GONE if self._notes else " SELECT FROM gone")
        )
        self._execute(
            "WITH moved AS (DELETE FROM metamon.payloads p USING ("
            "     SELECT run_id, project, old_day, new_day FROM moves WHERE newer"
            "     UNION SELECT a.run_id, a.project, b.old_day, b.new_day FROM metamon.spans a JOIN moves b ON {same_trace}"
            "     WHERE b.newer AND a.source = %(source)s AND a.day = b.old_day) m"
            "   WHERE p.source = %(source)s AND p.run_id = m.run_id AND p.project = m.project AND p.day = m.old_day"
            "   RETURNING m.new_day, p.source, p.project, p.run_id, p.inputs, p.outputs, p.observed_time)"
            " INSERT INTO staged_payloads (day, source, project, run_id, inputs, outputs, observed_time) SELECT * FROM moved"
        )
        merge.remove_duplicates(self._cursor, PAYLOADS, PAYLOADS.staged(), per_day=False)
        restaged = self._execute(
            "WITH moved AS (DELETE FROM metamon.spans a USING moves b WHERE b.newer AND a.source = %(source)s AND a.day = b.old_day"
            "   AND {same_trace} RETURNING a.*)"
            " INSERT INTO staged_spans ({names}) SELECT {names} FROM moved"
        )
        self._execute("UPDATE staged_spans a SET day = b.new_day FROM moves b WHERE b.newer AND {same_trace} AND a.day <> b.new_day")
        self._cursor.execute("SELECT count(*) FILTER (WHERE old_day <> new_day), array_agg(DISTINCT old_day) FROM moves WHERE newer")
        moved, old_days = self._cursor.fetchone()  # type: ignore[misc]
        self.counts.moved += moved
        self.counts.days.update(old_days or ())
        return restaged

    def _place_spans(self) -> None:
        """Spans and their payloads live in their root's day."""
        self._execute(
            "UPDATE staged_spans a SET day = b.day FROM (SELECT trace_id, project, min(day) AS day FROM trace_roots GROUP BY 1, 2) b"
            " WHERE {same_trace} AND a.day <> b.day"
        )
        self._execute(
            "UPDATE staged_payloads p SET day = s.day FROM staged_spans s"
            " WHERE p.run_id = s.run_id AND p.project = s.project AND p.day <> s.day"
        )

    def _drop_older_spans(self) -> None:
        """A span older than the one that is here stays out, before its root takes figures from it."""
        self.counts.unchanged += self._execute(
            "DELETE FROM staged_spans s USING metamon.spans t"
            " WHERE t.run_id = s.run_id AND t.project = s.project AND t.source = s.source AND t.day = s.day AND t.day = ANY(%(days)s)"
            " AND t.content_hash <> s.content_hash"
            f" AND ({SPANS.version.format(row='t')}, t.content_hash) > ({SPANS.version.format(row='s')}, s.content_hash)",
            days=self._days_of("staged_spans"),
        )

    def _complete_roots(self) -> None:
        """Fill what the source left empty on a root from its children, those of this read and those already here."""
        columns = ", ".join(f"b.{column}" for column in (*_CHILD_FACTS, *_TOKENS, *_COSTS))
        roots = f"(SELECT DISTINCT trace_id, {'' if self._across_projects else 'project, '}root_project, run_id, day FROM trace_roots) a"
        self._keep(
            "trace_runs",
            f"SELECT a.run_id AS root_run_id, a.root_project, a.day, {columns} FROM {roots} JOIN staged_spans b ON {{same_trace}}",
        )
        root_days = self._days_of("trace_roots")
        self._execute(
            f"INSERT INTO trace_runs SELECT a.run_id, a.root_project, a.day, {columns}"
            f" FROM {roots} JOIN metamon.spans b ON {{same_trace}} AND b.day = a.day"
            " WHERE b.source = %(source)s AND b.day = ANY(%(days)s)"
            " AND NOT EXISTS (SELECT FROM staged_spans s WHERE s.run_id = b.run_id AND s.project = b.project)",
            days=root_days,
        )
        self._execute("ANALYZE trace_runs")
        self._tell_roots_apart()
        self._keep("trace_totals", _TRACE_TOTALS)
        in_place = "t.day = ANY(%(days)s) AND t.source = %(source)s"
        if self._notes:
            self._execute(f"{_NOTE_INFERRED} AND {in_place} AND ({_FILL_DIFFERS})", days=root_days)
        for target, condition in ((TRACES.staged(), "true"), (TRACES.qualified, in_place)):
            self._execute(
                f"{_FILL_ROOTS} WHERE t.run_id = c.run_id AND t.project = c.project AND t.day = c.day AND {condition}"
                f" AND ({_FILL_DIFFERS})",
                roots=target,
                days=root_days,
            )
        if self._cursor.rowcount:  # roots that had been here before
            self.counts.days.update(root_days)

    def _tell_roots_apart(self) -> None:
        """Where a trace has several roots, each gets the runs that descend from it; the first gets those of unknown descent."""
        several = self._keep(
            "several_roots",
            "SELECT trace_id, min(run_id) AS first_root, array_agg(DISTINCT run_id) AS roots FROM trace_roots"
            f" GROUP BY trace_id{'' if self._across_projects else ', project'} HAVING count(DISTINCT run_id) > 1",
        )
        if not several:
            return
        self._execute(
            "WITH RECURSIVE known AS (SELECT r.root_run_id, r.run_id, r.parent_run_id, s.first_root FROM trace_runs r"
            "   JOIN several_roots s ON r.root_run_id = ANY(s.roots)),"
            " descent AS (SELECT root_run_id, run_id FROM known WHERE parent_run_id = root_run_id"
            "   UNION SELECT k.root_run_id, k.run_id FROM known k JOIN descent d"
            "     ON d.root_run_id = k.root_run_id AND d.run_id = k.parent_run_id)"
            " DELETE FROM trace_runs r USING known k WHERE r.root_run_id = k.root_run_id AND r.run_id = k.run_id"
            " AND NOT EXISTS (SELECT FROM descent d WHERE d.root_run_id = r.root_run_id AND d.run_id = r.run_id)"
            " AND (r.root_run_id <> k.first_root OR EXISTS (SELECT FROM descent d WHERE d.run_id = r.run_id))"
        )

    def _days_of(self, relation: str) -> list[date]:
        self._cursor.execute(sql.SQL("SELECT DISTINCT day FROM {} ORDER BY day").format(sql.Identifier(relation)))
        return [day for (day,) in self._cursor.fetchall()]

    def _merge(self, restaged: int) -> None:
        for table in (TRACES, SPANS):
            merged, days = merge.merge_staged(self._cursor, table, self._notes)
            self.counts.inserted += merged.inserted
            self.counts.updated += merged.updated
            self.counts.unchanged += merged.unchanged
            self.counts.days.update(days)
        self.counts.inserted -= restaged + self.counts.inferred
        _, days = merge.merge_staged(self._cursor, PAYLOADS)
        self.counts.days.update(days)
        for day in sorted(self.counts.days):
            merge.ensure_partitions(self._cursor, (TRACES, SPANS, PAYLOADS), day)

    def _touch(self) -> None:
        """Book the buckets of what changed, as it was and as it is, and tell whoever computes them."""
        self.counts.touched = self._execute(_TOUCH, days=sorted(self.counts.days), direct_days=sorted(self._direct_days), kept=TOUCHED_FOR)
        if self.counts.touched:
            self._cursor.execute("NOTIFY metamon_touched")


# Old versions of runs that leave their day, and of stand-ins that grow: no merge sees those.
_NOTE_GONE = f" INSERT INTO changed_runs SELECT {', '.join(_NOTED.columns)} FROM gone"
_NOTE_INFERRED = (
    f"INSERT INTO changed_runs SELECT {', '.join(f't.{column}' for column in _NOTED.columns)}"
    " FROM metamon.traces t, trace_totals c WHERE t.run_id = c.run_id AND t.project = c.project AND t.day = c.day AND t.root_inferred"
)
# A span counts where its root is; a tool call also where itself is, or, when it starts outside of its root's day, at that end
# of the day. By the clock of ends a run touches every bucket from its
# start to its end, or to now: it is in flight in all but the last.
_TOUCH = """
    WITH roots AS (
        SELECT start_time, end_time, status FROM changed_runs WHERE parent_run_id IS NULL
        UNION ALL
        SELECT t.start_time, t.end_time, t.status FROM metamon.traces t
        WHERE t.day = ANY(%(days)s) AND t.source = %(source)s
            AND (t.day, t.trace_id) IN (SELECT day, trace_id FROM changed_runs WHERE parent_run_id IS NOT NULL)
        UNION ALL
        SELECT t.start_time, t.end_time, t.status FROM metamon.traces t WHERE t.day = ANY(%(direct_days)s) AND t.source = %(source)s),
    runs AS (
        SELECT start_time AS counted_at, start_time, end_time, status FROM roots
        UNION ALL
        SELECT least(greatest(start_time, day::timestamp AT TIME ZONE 'UTC'),
            (day + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 second'), start_time, end_time, status
        FROM changed_runs WHERE parent_run_id IS NOT NULL AND run_type = 'tool'),
    moments AS (
        SELECT 'start' AS clock, counted_at AS moment FROM runs
        UNION ALL SELECT 'end', passed.moment FROM runs CROSS JOIN LATERAL generate_series(
            date_bin('5 minutes', greatest(start_time, statement_timestamp() - %(kept)s), 'epoch'),
            CASE WHEN end_time IS NOT NULL THEN least(end_time, start_time + %(kept)s)
                WHEN status IN ('pending', 'abandoned') THEN least(start_time + %(kept)s, statement_timestamp())
                ELSE start_time END,
            interval '5 minutes') AS passed (moment))
    INSERT INTO metamon.touched_buckets (bucket_start, clock)
    SELECT DISTINCT date_bin('5 minutes', moment, 'epoch'), clock FROM moments
    WHERE moment > statement_timestamp() - %(kept)s"""


def _ours(column: str) -> str:
    """Whether a root's value may be replaced: the source gave none, or we filled it before, or it is a cost that we
    computed from the root's own tokens while its children tell theirs."""
    ours = f"t.{column} IS NULL OR '{column}' = ANY(t.derived_columns)"
    if column in _COSTS:
        ours += " OR (t.cost_source = 'computed' AND t.run_type NOT IN ('llm', 'embedding') AND c.total_cost IS NOT NULL)"
    return f"({ours})"


def _filled(column: str) -> str:
    """The column's value after filling."""
    return f"CASE WHEN {_ours(column)} THEN c.{column} ELSE t.{column} END"


_CHILD_FACTS = ("run_id", "parent_run_id", "run_type", "cost_source", "start_time", "end_time", "status")

_TRACE_TOTALS = (
    "SELECT c.root_run_id AS run_id, c.root_project AS project, c.day, "
    + ", ".join(f"sum(c.{column}) FILTER (WHERE model_call)::bigint AS {column}" for column in _TOKENS)
    + ", sum(c.input_cost) FILTER (WHERE model_call) AS input_cost, sum(c.output_cost) FILTER (WHERE model_call) AS output_cost,"
    # A total that lacks a part would pass for the whole: one unpriced call leaves the trace unpriced.
    " CASE WHEN bool_and(c.total_cost IS NOT NULL) FILTER (WHERE model_call) THEN sum(c.total_cost) FILTER (WHERE model_call) END"
    " AS total_cost,"
    " CASE WHEN bool_and(c.cost_source = 'reported') FILTER (WHERE model_call) THEN 'reported' ELSE 'computed' END AS cost_source, "
    + ", ".join(
        f"count(*) FILTER (WHERE c.run_type = '{run_type}'{' AND model_call' if run_type == 'llm' else ''})::integer AS {column}"
        for column, run_type in _CALLS.items()
    )
    + ", min(c.start_time) AS start_time, max(c.end_time) AS end_time,"
    " CASE WHEN bool_or(c.status = 'pending') THEN 'pending' WHEN bool_or(c.status = 'error' AND topmost) THEN 'error'"
    "   WHEN bool_or(c.status = 'abandoned') THEN 'abandoned' ELSE 'success' END AS status"
    " FROM (SELECT c.*, c.run_type IN ('llm', 'embedding') AND NOT EXISTS (SELECT FROM trace_runs i"
    "   WHERE i.root_run_id = c.root_run_id AND i.parent_run_id = c.run_id AND i.run_type = c.run_type) AS model_call,"
    "   NOT EXISTS (SELECT FROM trace_runs i WHERE i.root_run_id = c.root_run_id AND i.run_id = c.parent_run_id) AS topmost"
    "   FROM trace_runs c) c GROUP BY 1, 2, 3"
)
_NEW_DERIVED = (
    "NULLIF(ARRAY(SELECT name FROM unnest(ARRAY["
    + ", ".join(f"CASE WHEN {_ours(column)} AND c.{column} IS NOT NULL THEN '{column}' END" for column in DERIVED)
    + "]) name WHERE name IS NOT NULL), '{{}}')"
)
_COST_SOURCE = (
    f"CASE WHEN NOT COALESCE({_ours('total_cost')}, false) THEN t.cost_source"
    " WHEN c.total_cost IS NULL THEN 'unpriced' ELSE c.cost_source END"
)
# A root that nobody saw lasts from the first of its runs to the last, and fails when one of the topmost fails. It stays in
# its day: a run from before midnight that comes later would else take it out of every bucket, its day's and the one before's.
_INFERRED = {
    "start_time": "greatest(c.start_time, t.day::timestamp AT TIME ZONE 'UTC')",
    "end_time": "c.end_time",
    "latency_seconds": "extract(epoch FROM c.end_time - c.start_time)",
    "status": "c.status",
}
_NEW_VALUES = {column: _filled(column) for column in DERIVED} | {
    column: f"CASE WHEN t.root_inferred THEN {value} ELSE t.{column} END" for column, value in _INFERRED.items()
}
_FILL_ROOTS = (
    "UPDATE {roots} t SET "
    + ", ".join(f"{column} = {value}" for column, value in _NEW_VALUES.items())
    + f", cost_source = {_COST_SOURCE}, derived_columns = {_NEW_DERIVED} FROM trace_totals c"
)
_FILL_DIFFERS = " OR ".join(f"t.{column} IS DISTINCT FROM {value}" for column, value in _NEW_VALUES.items())


def _conflict(row: dict[str, object]) -> Reject:
    run_id = str(row["run_id"])
    return Reject(
        kind=Kind.RUNS,
        reason="conflicting_duplicate",
        detail=f"run {run_id} stands twice in this read with different contents; one version was kept. Give each run an id of its own.",
        location=f"run {run_id}",
        raw=json.dumps(row, ensure_ascii=False),  # not orjson: a number in metadata may be larger than 64 bits
        run_id=run_id,
    )
