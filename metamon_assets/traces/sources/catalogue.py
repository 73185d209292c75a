"""What is known about files that were read before, so that a day's read opens only those that can hold it.

Here belong the catalogue that the file and OTLP sources share and the joining of their batches. Storing the
entries (metamon.source_files) is ingest's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.traces.sources import reading
from metamon_assets.traces.sources.base import Batch, Holding, Kind, Window
from metamon_assets.traces.sources.conversion import TIMES
from metamon_assets.traces.sources.reading import SourceFile

BATCH_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What a complete reading found out about a file: a row of metamon.source_files.

    ``path`` and ``kind`` together name the entry; of a mapped file the path ends with the mapping's fingerprint, since
    another mapping may find other times. ``first`` and ``last`` are the earliest and latest start of its runs
    (feedback: creation, others: time), None when it has none.
    """

    path: str
    kind: Kind
    size: int  # bytes
    modified: datetime
    first: datetime | None
    last: datetime | None
    rows: int


Entries = Mapping[tuple[str, Kind], CatalogueEntry]


@dataclass(slots=True)
class Catalogue:
    """Entries of earlier reads, and those of the reads that go on now. ``fingerprint`` is that of the mapping in use."""

    known: Entries
    fingerprint: str = ""
    read: dict[tuple[str, Kind], CatalogueEntry] = field(default_factory=dict)

    def may_hold(self, file: SourceFile, kind: Kind, window: Window | None) -> bool:
        """Whether the file must be opened for the window: not if its name's day or its unchanged content lie elsewhere."""
        if window is None:
            return True
        if not reading.can_hold(file, window):
            return False
        entry = self.read.get(self._key(file, kind)) or self.known.get(self._key(file, kind))
        if entry is None or (entry.size, entry.modified) != (file.size, file.modified) or entry.first is None or entry.last is None:
            return True
        return reading.overlaps(entry.first, entry.last, window)

    def changed(self, file: SourceFile, kind: Kind, since: datetime) -> bool:
        """Whether the file was written at or after ``since`` and is not as it was when it was last read."""
        entry = self.read.get(self._key(file, kind)) or self.known.get(self._key(file, kind))
        return file.modified >= since and (entry is None or (entry.size, entry.modified) != (file.size, file.modified))

    def noting(self, file: SourceFile, kind: Kind, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a whole file, passed on; its entry is made when they end."""
        rows = 0
        first: datetime | None = None
        last: datetime | None = None
        for batch in batches:
            rows += batch.rows.num_rows
            if TIMES[kind] in batch.rows.column_names:
                span = pc.min_max(batch.rows[TIMES[kind]]).as_py()
                if span["min"] is not None:
                    first = min(first or span["min"], span["min"])
                    last = max(last or span["max"], span["max"])
            yield batch
        key = self._key(file, kind)
        self.read[key] = CatalogueEntry(key[0], kind, file.size, file.modified, first, last, rows)

    def holding(self, file: SourceFile, kind: Kind, batches: Callable[[], Iterable[Batch]]) -> Holding | None:
        """The days of a file: by its name, by what is known of it, or by reading it; None when it has no times."""
        key = self._key(file, kind)
        entry = self.read.get(key) or self.known.get(key)
        unread = entry is None or (entry.size, entry.modified) != (file.size, file.modified)
        if day := reading.day_of_name(file.relative):
            return Holding(day, day, unread)
        if unread:
            for _ in self.noting(file, kind, batches()):
                pass
            entry = self.read[key]
        if entry is None or entry.first is None or entry.last is None:
            return None
        return Holding(entry.first.date(), entry.last.date(), unread)

    def _key(self, file: SourceFile, kind: Kind) -> tuple[str, Kind]:
        return (f"{file.path} mapping {self.fingerprint}" if self.fingerprint else str(file.path), kind)


def gathered(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches joined up to some 50,000 rows, so that each is worth a merge."""
    held: list[Batch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.rows.num_rows + len(batch.rejects)
        if rows >= BATCH_ROWS:
            yield _joined(held)
            held, rows = [], 0
    if rows:
        yield _joined(held)


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    table = pa.concat_tables([batch.rows for batch in batches], promote_options="default").combine_chunks()
    rejects = tuple(reject for batch in batches for reject in batch.rejects)
    locations = tuple(location for batch in batches for location in batch.row_locations or ())
    return Batch(batches[0].kind, table, rejects, batches[0].location, locations)
