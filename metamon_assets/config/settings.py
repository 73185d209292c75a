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
    ui_url: str | None = None
    """Where `metamon up` has put the Dagster UI, which it tells its children; None: at ``ui_port``, if anywhere."""

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the environment (``os.environ`` by default) and the file that it leads to. Raises ConfigError."""
        environment = os.environ if environment is None else environment
        home, path = _places(environment)
        if environment.get("METAMON_CONFIG") and not path.exists():
            raise ConfigError(f"METAMON_CONFIG names {path}, which does not exist: correct it, or unset it to use {home / CONFIG_NAME}.")
        return cls._of(read_configuration(path) if path.exists() else Configuration(), environment)

    @classmethod
    def load_or_defaults(cls, environment: Mapping[str, str] | None = None) -> tuple[Settings, ConfigError | None]:
        """As ``load``, for what must work while the file cannot be used: then the defaults, and what is wrong with the file.

        Raises ConfigError for the environment.
        """
        environment = os.environ if environment is None else environment
        defaults = cls._of(Configuration(), environment)
        try:
            return cls.load(environment), None
        except ConfigError as error:
            return defaults, error

    @classmethod
    def _of(cls, found: Configuration, environment: Mapping[str, str]) -> Settings:
        home, path = _places(environment)
        return cls(
            **{name: getattr(found, name) for name in Configuration.model_fields},
            home=home,
            config_path=path,
            database_url=_database_url(environment, "METAMON_DATABASE_URL"),
            dagster_database_url=_database_url(environment, "METAMON_DAGSTER_DATABASE_URL"),
            ui_url=environment.get("METAMON_UI_URL") or None,
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


def last_written(path: Path) -> tuple[int, int] | None:
    """When a file was last written (nanoseconds) and its size, to see whether it changed; None if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _places(environment: Mapping[str, str]) -> tuple[Path, Path]:
    """The home and where its metamon.yaml is, or would be."""
    home = Path(environment.get("METAMON_HOME") or DEFAULT_HOME).expanduser().absolute()
    named = environment.get("METAMON_CONFIG")
    return home, Path(named).expanduser().absolute() if named else home / CONFIG_NAME


def _database_url(environment: Mapping[str, str], name: str) -> SecretStr | None:
    url = environment.get(name)
    if not url:
        return None
    if not re.match(r"postgres(ql)?(\+psycopg2)?://", url):
        raise ConfigError(f"{name} must be an address like postgresql://user:password@host:5432/database.")
    return SecretStr(url)
