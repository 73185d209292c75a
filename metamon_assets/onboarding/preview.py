"""What of a person's files can be read: counted before anything is written, by the same reading and the same rules.

Here belongs the counting alone. Files that are too large to be read twice are not counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from metamon_assets.onboarding.guess import printable
from metamon_assets.traces.sources.base import Kind
from metamon_assets.traces.sources.conversion import LEFT_OUT

if TYPE_CHECKING:
    import pyarrow as pa

    from metamon_assets.traces.sources.files import FilesSource
    from metamon_assets.traces.sources.otlp import OtlpSource

_MOST_BYTES = 256 * 1024 * 1024  # of all files together; some ten seconds
_SHOWN = 3  # reasons and columns
_DETAIL = 120  # characters


@dataclass(slots=True)
class Preview:
    """The rows of files, why some of them cannot be accepted, and of which the value of a column is left out."""

    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    details: dict[str, str] = field(default_factory=dict)  # an example of each reason
    left_out_rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by column

    def lines(self) -> list[str]:
        """What people should know of it."""
        lines = []
        if self.rejected:
            count = self.rejected.total()
            lines.append(f"{count:,} of them cannot be accepted and {'goes' if count == 1 else 'go'} to quarantine:")
            for reason, number in self.rejected.most_common(_SHOWN):
                lines.append(f"  {number:,} {reason}, such as: {printable(self.details[reason], _DETAIL)}")
        if self.left_out_rows:
            columns = ", ".join(f"{column} {number:,}" for column, number in self.left_out.most_common())
            error = ", a status counting as an error" * ("status" in self.left_out)
            lines.append(
                f"{self.left_out_rows:,} of them have a value that cannot be read and are taken without it{error}: {columns}"
                f" (it stands in metadata under {LEFT_OUT})"
            )
        return lines


def read_through(source: FilesSource | OtlpSource) -> Preview | None:
    """Read all runs of the source as they will be read; None when that would take long. Raises SourceError."""
    from metamon_assets.traces.normalise import Rules, normalise_runs
    from metamon_assets.traces.sources import files, otlp, reading

    suffixes = files.SUFFIXES if isinstance(source, files.FilesSource) else otlp.SUFFIXES
    if sum(file.size for file in reading.find_files(source.paths, suffixes)) > _MOST_BYTES:
        return None
    preview = Preview()
    rules = Rules(source=source.name, project=source.project, now=datetime.now(UTC))
    for batch in source.read(Kind.RUNS, None):
        normalised = normalise_runs(batch, rules)
        preview.rows += batch.rows.num_rows + len(batch.rejects)
        for reject in (*batch.rejects, *normalised.rejects):
            preview.rejected[reject.reason] += 1
            preview.details.setdefault(reject.reason, reject.detail)
        _count_left_out(normalised.rows, preview)
    return preview


def _count_left_out(rows: pa.Table, preview: Preview) -> None:
    import orjson
    import pyarrow.compute as pc

    metadata = rows["metadata"]
    for text in metadata.filter(pc.match_substring(metadata, f'"{LEFT_OUT}"')).to_pylist():
        values = orjson.loads(text).get(LEFT_OUT)
        if isinstance(values, dict):
            preview.left_out_rows += 1
            preview.left_out.update(values.keys())
