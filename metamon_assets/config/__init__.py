"""What Metamon is told: ``metamon.yaml`` and the environment, as one typed, frozen object.

Here belong the shape of the configuration (``shape``, ``sources``), how the file is read and what is said of its mistakes
(``reading``), the allowed metric expressions (``expressions``), and comparing and explaining configurations (``changes``).
Opening what it names (databases, sources, servers) belongs to the parts that use it. An empty or missing file works. Secrets are
never written in the file: it names the environment variable that holds them (``api_key: env:LANGSMITH_API_KEY``).

Environment: ``METAMON_HOME`` (data folder, default ``.metamon``), ``METAMON_CONFIG`` (default
``<METAMON_HOME>/metamon.yaml``), ``METAMON_DATABASE_URL`` (a Postgres of your own instead of the embedded one),
``METAMON_DAGSTER_DATABASE_URL`` (needed only beside it, for Dagster's own storage), ``METAMON_UI_URL`` (where the Dagster UI is,
which ``metamon up`` tells its children).
"""

from metamon_assets.config.part import Part
from metamon_assets.config.reading import json_schema, read_configuration, write_schema
from metamon_assets.config.secret import CONFIG_NAME, ConfigError, MistakesError, Secret
from metamon_assets.config.settings import DEFAULT_HOME, Settings, last_written
from metamon_assets.config.shape import (
    Agent,
    AgentMetric,
    Configuration,
    Feed,
    PriceOverride,
    Privacy,
    Web,
)
from metamon_assets.config.sources import Exclude, FilesSource, LangSmithExportSource, LangSmithSource, OtlpSource, SourceConfig, SourcePart

__all__ = [
    "CONFIG_NAME",
    "DEFAULT_HOME",
    "Agent",
    "AgentMetric",
    "ConfigError",
    "Configuration",
    "Exclude",
    "Feed",
    "FilesSource",
    "LangSmithExportSource",
    "LangSmithSource",
    "MistakesError",
    "OtlpSource",
    "Part",
    "PriceOverride",
    "Privacy",
    "Secret",
    "Settings",
    "SourceConfig",
    "SourcePart",
    "Web",
    "json_schema",
    "last_written",
    "read_configuration",
    "write_schema",
]
