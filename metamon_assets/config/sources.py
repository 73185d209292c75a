"""Where traces come from: the part ``sources`` of ``metamon.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue

from metamon_assets.config.part import Part
from metamon_assets.config.secret import Secret


class Exclude(Part):
    """Traces that are never taken in. Metamon's own calls are excluded in any case."""

    projects: tuple[str, ...] = ()
    """Projects to leave out."""
    agents: tuple[str, ...] = ()
    """Agents to leave out, by agent_name."""
    tags: tuple[str, ...] = ()
    """Traces with any of these tags are left out."""


class SourcePart(Part):
    """What every source has."""

    project: str = Field(min_length=1)
    """Value of the column project; for LangSmith the name of the project to read."""
    name: str | None = None
    """Value of the column source, when two sources of one type should be told apart; otherwise the type."""
    exclude: Exclude = Exclude()
    """Traces of this source that are left out, beside the general exclusions."""

    @property
    def source(self) -> str:
        """Value of the column ``source``."""
        return self.name or str(getattr(self, "type", ""))


class FilesSource(SourcePart):
    """JSONL, Parquet or CSV files, in the unified column names or with a mapping to them."""

    type: Literal["files"]
    """Kind of source."""
    path: str
    """File, folder or pattern (logs/**/*.jsonl), from the folder of metamon.yaml."""
    map: dict[str, JsonValue] | str | None = None
    """Where the columns come from, or a YAML file that says so; none: the files use the unified names."""


class OtlpSource(SourcePart):
    """OTLP/JSON files as a collector's file exporter writes them."""

    type: Literal["otlp"]
    """Kind of source."""
    path: str
    """File, folder or pattern, from the folder of metamon.yaml."""
    map: dict[str, JsonValue] | str | None = None
    """Where columns without a convention come from, such as tenant_id."""


class LangSmithSource(SourcePart):
    """A project in LangSmith, by its API."""

    type: Literal["langsmith"]
    """Kind of source."""
    api_key: Secret
    """Key, as env:NAME."""
    endpoint: str | None = None
    """Address of the API; none: LangSmith's own default for the key."""
    workspace_id: str | None = None
    """Workspace, for keys that see several."""
    map: dict[str, JsonValue] | str | None = None
    """Where columns without a convention come from, such as tenant_id: metadata.tenant."""


class LangSmithExportSource(SourcePart):
    """A LangSmith bulk export: Parquet files in the hive layout."""

    type: Literal["langsmith_export"]
    """Kind of source."""
    path: str
    """Folder of the export, from the folder of metamon.yaml."""
    map: dict[str, JsonValue] | str | None = None
    """Where columns without a convention come from."""


SourceConfig: TypeAlias = Annotated[FilesSource | OtlpSource | LangSmithSource | LangSmithExportSource, Field(discriminator="type")]
