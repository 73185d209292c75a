"""Loading files once, by hand, without a place in the configuration: ``metamon ingest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metamon_assets.config import FilesSource, LangSmithExportSource, OtlpSource, Settings, SourcePart
from metamon_assets.errors import MetamonError
from metamon_assets.traces.configured import open_source, rules_for
from metamon_assets.traces.ingest import Progress, ingest
from metamon_assets.traces.sources.base import Kind

if TYPE_CHECKING:
    from metamon_assets.traces.ledger import LedgerEntry
    from metamon_assets.warehouse.connection import Connection

TYPES: dict[str, type[SourcePart]] = {"files": FilesSource, "otlp": OtlpSource, "langsmith_export": LangSmithExportSource}


class LoadingError(MetamonError):
    """The files cannot be loaded; the message says why and what to do."""


def load_once(
    connection: Connection,
    settings: Settings,
    path: str,
    *,
    source_type: str = "files",
    project: str,
    mapping: str | None = None,
    progress: Progress | None = None,
) -> list[LedgerEntry]:
    """Read everything at ``path`` (a file, folder or pattern) into the tables; gives the entries of what was there.

    ``mapping`` is a YAML file or the name of a bundled mapping. Raises SourceError or IngestError when something
    cannot be read whole, and LoadingError when nothing there has rows.
    """
    if not path.strip():
        raise LoadingError("No path was given (an empty text; perhaps a variable is not set).")
    if (settings.home / "sample" / "manifest.json").exists():
        raise LoadingError(f"{settings.home} holds the sample world, apart from data of your own: let METAMON_HOME name another folder.")
    if mapping is not None and Path(mapping).exists():
        mapping = str(Path(mapping).absolute())
    part = TYPES[source_type].model_validate(
        {"type": source_type, "project": project, "path": str(Path(path).expanduser().absolute()), "map": mapping}
    )
    source, rules = open_source(connection, settings, part), rules_for(connection, settings, part)
    entries = [ingest(connection, source, kind, None, rules, progress=progress) for kind in Kind]
    found = [entry for entry in entries if entry.rows_read]
    if not found:
        raise LoadingError(f"Nothing was found in {path}: name files of type {source_type}, or say with --type what they are.")
    return found
