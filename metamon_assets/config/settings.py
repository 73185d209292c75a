"""``metamon.yaml`` and the environment together: what the rest of the program is given."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from metamon_assets.config.reading import read_configuration
from metamon_assets.config.secret import CONFIG_NAME, ConfigError
from metamon_assets.config.shape import Configuration

DEFAULT_HOME = ".metamon"


class Settings(Configuration):
    """``metamon.yaml`` together with what the environment says."""

    home: Path
    """Folder that holds all data; absolute."""
    config_path: Path
    """Where metamon.yaml is, or would be; absolute."""
    database_url: SecretStr | None = None
    """A Postgres of your own; None: the embedded one in ``home``."""
    dagster_database_url: SecretStr | None = None
    """Where Dagster keeps its own storage, beside a database of your own."""

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the environment (``os.environ`` by default) and the file that it leads to. Raises ConfigError."""
        environment = os.environ if environment is None else environment
        home = Path(environment.get("METAMON_HOME") or DEFAULT_HOME).expanduser().absolute()
        named = environment.get("METAMON_CONFIG")
        path = Path(named).expanduser().absolute() if named else home / CONFIG_NAME
        if named and not path.exists():
            raise ConfigError(f"METAMON_CONFIG names {path}, which does not exist: correct it, or unset it to use {home / CONFIG_NAME}.")
        found = read_configuration(path) if path.exists() else Configuration()
        return cls(
            **{name: getattr(found, name) for name in Configuration.model_fields},
            home=home,
            config_path=path,
            database_url=_database_url(environment, "METAMON_DATABASE_URL"),
            dagster_database_url=_database_url(environment, "METAMON_DAGSTER_DATABASE_URL"),
        )

    def path_of(self, text: str) -> Path:
        """A path from the file, seen from the file's folder."""
        return self.config_path.parent / Path(text).expanduser()

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME of this home."""
        return self.home / "dagster"

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.home / "logs"


def _database_url(environment: Mapping[str, str], name: str) -> SecretStr | None:
    url = environment.get(name)
    if not url:
        return None
    if not re.match(r"postgres(ql)?(\+psycopg2)?://", url):
        raise ConfigError(f"{name} must be an address like postgresql://user:password@host:5432/database.")
    return SecretStr(url)
