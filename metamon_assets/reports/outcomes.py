"""Whose runs do not tell whether they failed.

A table without a column for it stands in the tables as successes, since a run without an error is one. The report must not make
"none failed" of that. Which tables those are, the mapping in ``metamon.yaml`` says.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from metamon_assets.config import FilesSource
from metamon_assets.traces.sources import mapping
from metamon_assets.traces.sources.base import Kind, SourceError

if TYPE_CHECKING:
    from metamon_assets.config import Settings

TELLING = frozenset({"status", "error_type", "error_message"})
HOW = "If a column does, name it: `metamon connect files PATH --map status=COLUMN`."
_LOG = logging.getLogger(__name__)


def untold(settings: Settings | None) -> tuple[tuple[str, str], ...]:
    """Sources with their projects of which no mapping says where runs tell that they failed."""
    silent: dict[tuple[str, str], bool] = {}
    for part in settings.sources if settings is not None else ():
        key = part.source, part.project
        silent[key] = silent.get(key, True) and settings is not None and isinstance(part, FilesSource) and _is_silent(settings, part)
    return tuple(key for key, nothing in silent.items() if nothing)


def _is_silent(settings: Settings, part: FilesSource) -> bool:
    if part.map is None:
        return False
    is_path = isinstance(part.map, str) and part.map.endswith((".yaml", ".yml"))
    try:
        found = mapping.load(settings.path_of(str(part.map)) if is_path else part.map)
    except SourceError as error:  # nothing is read by it either, which `metamon doctor` tells
        _LOG.warning("whether runs of %s/%s tell that they failed is not known: %s", part.source, part.project, error)
        return False
    trace = found.trace
    made = {*found.columns, *(trace.columns if trace else ())}
    made |= {name for rule in (*found.rules, *(trace.rules if trace else ())) for name in rule.set}
    return found.kind is Kind.RUNS and not made & TELLING
