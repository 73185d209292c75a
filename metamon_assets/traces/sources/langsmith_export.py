"""LangSmith's bulk export (IN-2): Parquet files in folders named for export, project and day.

Here belongs which files can hold a window and how they are read in flat memory; what their columns mean is
``langsmith_rows``. The layout, below any folder:

    export_id=…/tenant_id=…/session_id=…/runs/year=2026/month=1/day=5/*.parquet

The export holds roots and children alike and neither feedback, token details nor thread ids (those are looked for
in the metadata). ``observed_time`` is a file's time of modification, so the newest copy of a run wins.

A project that is also read through the API must carry the same source name and project here
(``name="langsmith"``), so that its runs merge instead of counting twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from metamon_assets.traces.sources.base import Batch, Kind, SourceCount, SourceError, Window
from metamon_assets.traces.sources.langsmith_rows import check_map, runs_batch

ROWS_AT_ONCE = 5_000
COLUMNS = (
    "id", "trace_id", "parent_run_id", "session_id", "name", "run_type", "start_time", "end_time", "first_token_time", "status", "error",
    "extra", "tags", "thread_id", "reference_example_id", "prompt_tokens", "completion_tokens", "total_tokens", "prompt_token_details",
    "completion_token_details", "prompt_cost", "completion_cost", "total_cost",
)  # fmt: skip
PAYLOADS = ("inputs", "outputs")
REQUIRED = ("id", "start_time")

_DAY = re.compile(r"year=(\d+)/month=(\d+)/day=(\d+)")
_SESSION = re.compile(r"session_id=([^/]+)")


class LangSmithExportSource:
    """Exported runs of one LangSmith project below ``path``; ``project`` is the name that the rows carry.

    ``session_id`` picks one project where the folder holds the exports of several; without it more than one is
    refused, since their runs would be mixed. ``map`` and ``payloads`` are those of LangSmithSource.
    """

    def __init__(
        self,
        path: Path | str,
        project: str,
        *,
        session_id: str | None = None,
        map: Mapping[str, Any] | None = None,  # noqa: A002 - its name in metamon.yaml
        payloads: bool = True,
        name: str = "langsmith_export",
    ) -> None:
        self.name = name
        self.path = Path(path)
        self.project = project
        self._session_id = session_id
        self._found_at = check_map(map)
        self._payloads = payloads

    def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
        """Runs in the files of the window's days and of the days beside it: a superset of the window.

        The neighbours are read because children lie in the day of their own start, their root perhaps the day
        before. Raises SourceError when a file cannot be read; an export has nothing but runs.
        """
        if kind is not Kind.RUNS:
            return
        for file in self._files(window):
            yield from self._read_file(file)

    def count(self, window: Window) -> SourceCount:
        """Nothing: how many rows an export wrote is told by LangSmith's API, not by its files."""
        return SourceCount()

    def days(self) -> list[datetime]:
        """The days (UTC midnight) that the export has folders for, in order."""
        return sorted({day for file in self._all_files() if (day := _day_of(file))})

    def _files(self, window: Window) -> list[Path]:
        def may_hold(file: Path) -> bool:
            day = _day_of(file)
            return day is None or (day + timedelta(days=2) > window.start and day - timedelta(days=1) < window.end)

        return sorted((file for file in self._all_files() if may_hold(file)), key=lambda file: (_day_of(file) or window.start, str(file)))

    def _all_files(self) -> list[Path]:
        if not self.path.is_dir():
            raise SourceError(
                f"{self.path}: no such folder. Give the folder that the bulk export was written to (a local copy of the bucket)."
            )
        files = list(self.path.rglob("*.parquet"))
        sessions = {match.group(1) for file in files if (match := _SESSION.search(file.as_posix()))}
        if self._session_id:
            return [file for file in files if f"session_id={self._session_id}/" in file.as_posix()]
        if len(sessions) > 1:
            raise SourceError(
                f"{self.path} holds exports of {len(sessions)} LangSmith projects: {', '.join(sorted(sessions))}. Set session_id to one "
                "of them and configure a source for each."
            )
        return files

    def _read_file(self, file: Path) -> Iterator[Batch]:
        import pyarrow.parquet as pq

        observed = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        wanted = {*COLUMNS, *(PAYLOADS if self._payloads else ())}
        row = 1
        try:
            with pq.ParquetFile(file) as parquet:
                present = [name for name in parquet.schema_arrow.names if name in wanted]
                if missing := [name for name in REQUIRED if name not in present]:
                    raise SourceError(
                        f"{file}: no column {' and no column '.join(missing)}, so this is not an export of runs. "
                        "Include the default fields when the export is created (export_fields)."
                    )
                for rows in parquet.iter_batches(ROWS_AT_ONCE, columns=present):
                    yield self._batch(rows, file, observed, row)
                    row += rows.num_rows
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"{file}: not readable as Parquet beyond row {row}: {' '.join(str(error).split())}. Copy the file again, or take its "
                "day from a newer export; nothing of the window was taken over."
            ) from error

    def _batch(self, rows: pa.RecordBatch, file: Path, observed: datetime, first_row: int) -> Batch:
        return runs_batch(
            dict(zip(rows.schema.names, rows.columns, strict=True)),
            rows.num_rows,
            source=self.name,
            project=self.project,
            observed_time=observed,
            location=str(file),
            found_at=self._found_at,
            payloads=self._payloads,
            first_row=first_row,
        )


def _day_of(file: Path) -> datetime | None:
    match = _DAY.search(file.as_posix())
    return datetime(*map(int, match.groups()), tzinfo=UTC) if match else None  # type: ignore[arg-type, misc]
