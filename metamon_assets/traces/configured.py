"""From configuration to sources: which ones there are, how they are opened, and by which rules their rows are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from metamon_assets.config import Configuration, FilesSource, LangSmithExportSource, LangSmithSource, OtlpSource, Settings
from metamon_assets.traces.normalise import Rules
from metamon_assets.traces.pricing import PriceBook, PriceOverride
from metamon_assets.traces.redaction import Redactor
from metamon_assets.traces.sources.base import Kind, Source, SourceError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

PATIENCE, LIVE_PATIENCE = 600.0, 45.0  # seconds for one request and its repetitions
TIMEOUT, LIVE_TIMEOUT = 60.0, 20.0  # seconds for one answer
OWN_PROJECT = "metamon"  # where Metamon's own model calls go; they never come back in as traces (IN-8)


@dataclass(frozen=True, slots=True)
class ConfiguredSource:
    """A source and the rules for its rows."""

    source: Source
    rules: Rules

    @property
    def label(self) -> str:
        return f"{self.source.name}/{self.source.project}"


def open_sources(connection: Connection, settings: Settings) -> list[ConfiguredSource]:
    """The sources of the configuration. Raises SourceError, or ConfigError for a secret that is not set."""
    return [ConfiguredSource(open_source(connection, settings, part), rules_for(connection, settings, part)) for part in settings.sources]


def rules_for(connection: Connection, settings: Settings, part: Any) -> Rules:
    """How rows of this source are checked, priced and redacted."""
    privacy = settings.privacy
    return Rules(
        source=part.source,
        project=part.project,
        store_payloads=privacy.store_payloads,
        payload_limit=privacy.payload_limit,
        exclude_projects=frozenset((OWN_PROJECT, *settings.exclude.projects, *part.exclude.projects)),
        exclude_agents=frozenset((*settings.exclude.agents, *part.exclude.agents)),
        exclude_tags=frozenset((*settings.exclude.tags, *part.exclude.tags)),
        redactor=Redactor(off=privacy.redact_off, extra=privacy.redact_patterns) if privacy.redact else Redactor.disabled(),
        prices=PriceBook(price_overrides(connection, settings)),
        now=datetime.now(UTC),
    )


def price_overrides(connection: Connection, settings: Configuration) -> list[PriceOverride]:
    """Prices of metamon.yaml and of the table price_overrides; the file goes first."""
    names = (
        "provider",
        "model",
        "valid_from",
        "input_per_million",
        "output_per_million",
        "cache_read_per_million",
        "cache_creation_per_million",
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(names)} FROM metamon.price_overrides ORDER BY provider, model, valid_from")
        rows: list[Mapping[str, Any]] = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    written = {
        (part.provider, part.model, part.valid_from): {name: getattr(part, name) for name in names} for part in settings.price_overrides
    }
    merged = {(row["provider"], row["model"], row["valid_from"]): row for row in rows} | written
    return [PriceOverride(**row) for row in merged.values()]


def open_source(connection: Connection, settings: Settings, part: Any, *, live: bool = False) -> Source:
    """One source of the configuration, ready to be read.

    ``live``: for the live feed, which may use all of the key's rate budget and gives up soon, since it asks again soon.
    """
    if isinstance(part, FilesSource):
        return _open_files(connection, settings, part)
    if isinstance(part, OtlpSource):
        from metamon_assets.traces.sources.otlp import OtlpSource as Otlp

        return Otlp(
            [settings.path_of(part.path)],
            project=part.project,
            attributes=_mapping(settings, part.map),
            catalogue=read_catalogue(connection, part.source, part.project),
            name=part.source,
        )
    if isinstance(part, LangSmithExportSource):
        from metamon_assets.traces.sources.langsmith_export import LangSmithExportSource as Export

        return Export(settings.path_of(part.path), project=part.project, map=_mapping(settings, part.map), name=part.source)
    if isinstance(part, LangSmithSource):
        from metamon_assets.traces.rate_budget import SharedBudget
        from metamon_assets.traces.sources.langsmith import LangSmithSource as LangSmith
        from metamon_assets.traces.sources.langsmith_api import DEFAULT_URL

        api_key, api_url = part.api_key.value().get_secret_value(), part.endpoint or DEFAULT_URL
        return LangSmith(
            project=part.project,
            api_key=api_key,
            api_url=api_url,
            budget=SharedBudget(connection, api_url, api_key, live=live),
            workspace_id=part.workspace_id,
            map=_mapping(settings, part.map),
            payloads=settings.privacy.store_payloads,
            name=part.source,
            patience_seconds=LIVE_PATIENCE if live else PATIENCE,
            timeout_seconds=LIVE_TIMEOUT if live else TIMEOUT,
        )
    raise TypeError(f"no source for {type(part).__name__}")


def with_new_catalogue(connection: Connection, configured: ConfiguredSource) -> ConfiguredSource:
    """The same source, and of a source of files what is known of them now: what was learnt in a read that failed is forgotten."""
    from metamon_assets.traces.sources.files import FilesSource as Files
    from metamon_assets.traces.sources.otlp import OtlpSource as Otlp

    source = configured.source
    if not isinstance(source, Files | Otlp):
        return configured
    return replace(configured, source=replace(source, catalogue=read_catalogue(connection, source.name, source.project)))


def _open_files(connection: Connection, settings: Settings, part: FilesSource) -> Source:
    from metamon_assets.traces.sources import files, mapping

    found = None if part.map is None else mapping.load(_path_or_itself(settings, part.map))
    return files.FilesSource(
        [settings.path_of(part.path)],
        project=part.project,
        mapping=found,
        catalogue=read_catalogue(connection, part.source, part.project),
        name=part.source,
    )


def _path_or_itself(settings: Settings, given: dict[str, Any] | str) -> dict[str, Any] | str | Path:
    """A YAML file is seen from the configuration's folder; the name of a bundled mapping stays a name."""
    return settings.path_of(given) if isinstance(given, str) and given.endswith((".yaml", ".yml")) else given


def _mapping(settings: Settings, part: dict[str, Any] | str | None) -> dict[str, Any]:
    """Where columns are found: what the source itself says, or the YAML file that it names, before what holds for all sources."""
    return dict(settings.map) | (_read_map(settings, part) if isinstance(part, str) else part or {})


def _read_map(settings: Settings, part: str) -> dict[str, Any]:
    path = settings.path_of(part)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"the map {path} cannot be read: {error.strerror}. Correct `map` in {settings.config_path}.") from error
    except yaml.YAMLError as error:
        raise SourceError(f"the map {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"the map {path} must consist of column names and where they are found.")
    return content


def read_catalogue(connection: Connection, source: str, project: str) -> dict[tuple[str, Kind], Any]:
    """What earlier reads found out about the files of a source."""
    from metamon_assets.traces.sources.catalogue import CatalogueEntry

    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT path, kind, size_bytes, modified_at, first_time, last_time, rows FROM metamon.source_files"
            " WHERE source = %s AND project = %s",
            (source, project),
        )
        rows = cursor.fetchall()
    return {(path, Kind(kind)): CatalogueEntry(path, Kind(kind), *facts) for path, kind, *facts in rows}
