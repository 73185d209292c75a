"""What Metamon is told: ``metamon.yaml`` and the environment, as one typed, frozen object.

Here belongs the shape of the configuration, its defaults and its checks. Opening what it names (databases,
sources, servers) belongs to the parts that use it. An empty or missing file works. Secrets are never written in
the file: it names the environment variable that holds them (``api_key: env:LANGSMITH_API_KEY``).

Environment: ``METAMON_HOME`` (data folder, default ``.metamon``), ``METAMON_CONFIG`` (default
``<METAMON_HOME>/metamon.yaml``), ``METAMON_DATABASE_URL`` (a Postgres of your own instead of the embedded one),
``METAMON_DAGSTER_DATABASE_URL`` (needed only beside it, for Dagster's own storage).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, JsonValue, SecretStr, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    import yaml

CONFIG_NAME = "metamon.yaml"
DEFAULT_HOME = ".metamon"
DEFAULT_START_DAY = date(2024, 1, 1)  # a fixed day: a moving one would shift Dagster's partitions every day


class ConfigError(MetamonError):
    """The configuration cannot be used; the message names the file, the line, the key and how to mend it."""


class Secret:
    """Names the environment variable that holds a secret, and never the secret itself."""

    pattern = r"^env:[A-Za-z_][A-Za-z0-9_]*$"

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def __repr__(self) -> str:
        return f"Secret('env:{self.variable}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.variable == self.variable

    def __hash__(self) -> int:
        return hash(self.variable)

    @property
    def available(self) -> bool:
        """Whether the variable is set and not empty."""
        return bool(os.environ.get(self.variable))

    def value(self) -> SecretStr:
        """The secret, wrapped so that printing it shows asterisks. Raises ConfigError when the variable is not set."""
        text = os.environ.get(self.variable)
        if not text:
            raise ConfigError(f"The environment variable {self.variable}, which {CONFIG_NAME} names, is not set: export {self.variable}=…")
        return SecretStr(text)

    @classmethod
    def _parse(cls, text: str) -> Secret:
        if not re.match(cls.pattern, text):
            message = "a secret is not written here: put it into an environment variable and write env:NAME_OF_IT"
            raise PydanticCustomError("literal_secret", message)
        return cls(text.removeprefix("env:"))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read from ``env:NAME``, written back as it, and described so in the JSON Schema."""
        return core_schema.no_info_after_validator_function(
            cls._parse,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: f"env:{secret.variable}"),
            metadata={"pydantic_js_updates": {"pattern": cls.pattern, "description": "env:NAME of the variable that holds the secret"}},
        )


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PydanticCustomError("timezone", "no such time zone; write one like UTC or Europe/Vienna") from None
    return name


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise PydanticCustomError("regex", "not a regular expression: {reason}", {"reason": str(error)}) from None
    return text


class Part(BaseModel):
    """What all parts of the file have in common: unknown keys are refused, values stay out of error messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


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


class Privacy(Part):
    """What is kept of what people and agents wrote."""

    store_payloads: bool = True
    """Keep inputs and outputs (redacted, in a table that analysts cannot read)."""
    payload_limit: int = Field(default=65_536, ge=256)
    """Longest input or output that is kept, in bytes; longer ones are cut and marked."""
    redact: bool = True
    """Replace addresses, keys, card numbers and the like before anything is stored."""
    redact_off: tuple[str, ...] = ()
    """Kinds of sensitive text that are left alone, such as ip_address."""
    redact_patterns: dict[str, Annotated[str, AfterValidator(_regular_expression)]] = {}
    """Further kinds: a name and the regular expression whose matches are replaced by it."""


class PriceOverride(Part):
    """A price that goes before the bundled price table: a contract, a model of your own. US dollars per million tokens."""

    model: str
    """Model as in traces, requested or answering."""
    provider: str = "*"
    """Provider as in traces; * for any."""
    valid_from: date = date(1970, 1, 1)
    """First UTC day on which the price holds, until the next one."""
    input_per_million: Decimal | None = Field(default=None, ge=0)
    """Input tokens that were neither read from nor written to the cache."""
    output_per_million: Decimal | None = Field(default=None, ge=0)
    """Output tokens."""
    cache_read_per_million: Decimal | None = Field(default=None, ge=0)
    """Tokens read from the cache; none: as input."""
    cache_creation_per_million: Decimal | None = Field(default=None, ge=0)
    """Tokens written to the cache; none: as input."""
    note: str | None = None
    """Where the price comes from."""


class Configuration(Part):
    """``metamon.yaml``."""

    timezone: Annotated[str, AfterValidator(_known_timezone)] = "UTC"
    """Time zone of digests and of what people read; partitions are UTC always."""
    start_day: date = DEFAULT_START_DAY
    """First day that is kept (UTC): the first daily partition."""
    ui_port: int = Field(default=3000, ge=1, le=65_535)
    """Port of the Dagster UI on this machine; the next free one when it is taken."""
    sources: tuple[SourceConfig, ...] = ()
    """Where traces come from."""
    privacy: Privacy = Privacy()
    """What is kept of texts."""
    exclude: Exclude = Exclude()
    """Traces that are never taken in, whatever their source."""
    price_overrides: tuple[PriceOverride, ...] = ()
    """Prices that go before the bundled table."""


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


def json_schema() -> dict[str, Any]:
    """JSON Schema of ``metamon.yaml``, for editors and for ``metamon config``."""
    return Configuration.model_json_schema()


def read_configuration(path: Path) -> Configuration:
    """The checked contents of ``path``. Raises ConfigError, which lists everything that is wrong and on which line."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.load(text, Loader=_plain_loader())  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem or error.context}. Check indentation, colons and quotes.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if content is None:
        return Configuration()
    if not isinstance(content, dict):
        raise ConfigError(f"{path}:1: the file must consist of keys and values, such as `timezone: UTC`.")
    problems = list(_duplicate_keys(root))
    try:
        found = Configuration.model_validate(content)
    except ValidationError as error:
        problems += [_explain(problem, root) for problem in error.errors(include_url=False, include_input=False)]
    if problems:
        listed = "\n".join(f"  {path.name}:{line}: {text}" for line, text in sorted(problems))
        raise ConfigError(f"{path} has {len(problems)} thing{'s' * (len(problems) > 1)} to mend:\n{listed}")
    return found


def _plain_loader() -> type[yaml.SafeLoader]:
    """YAML's safe loader, with dates left as text: pydantic reads those and says what is wrong with 2026-13-01."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012 - the loader's own way of being told
            first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return Loader


def _duplicate_keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[int, str]]:
    """Keys that stand twice in one place, of which YAML would silently take the last."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicate_keys(item, prefix)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            yield line, f"{prefix}{key.value} stands here and on line {seen[key.value]}: keep one"
        seen[key.value] = line
        yield from _duplicate_keys(value, f"{prefix}{key.value}.")


def _explain(problem: Any, root: yaml.Node | None) -> tuple[int, str]:
    """Line and sentence for one of pydantic's errors."""
    path, line = _locate(problem["loc"], root)
    kind = problem["type"]
    if kind == "extra_forbidden":
        return line, f"{path}: unknown key{_nearest(problem['loc'])}"
    if kind == "missing":
        return line, f"{path}: missing; add it"
    if kind == "union_tag_not_found":
        return line, f"{path}.type: missing; one of {_SOURCE_TYPES}"
    if kind == "union_tag_invalid":
        return line, f"{path}.type: must be one of {_SOURCE_TYPES}"
    return line, f"{path}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


_SOURCE_MODELS: dict[str, type[Part]] = {
    "files": FilesSource,
    "otlp": OtlpSource,
    "langsmith": LangSmithSource,
    "langsmith_export": LangSmithExportSource,
}
_SOURCE_TYPES = ", ".join(_SOURCE_MODELS)
_MODELS: dict[str, type[Part]] = {"exclude": Exclude, "privacy": Privacy, "price_overrides": PriceOverride, **_SOURCE_MODELS}


def _nearest(location: tuple[str | int, ...]) -> str:
    """The keys that are known there: the one that was probably meant, else all."""
    owner = next((_MODELS[part] for part in reversed(location[:-1]) if isinstance(part, str) and part in _MODELS), Configuration)
    known = [*owner.model_fields]
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def _locate(location: tuple[str | int, ...], root: yaml.Node | None) -> tuple[str, int]:
    """The place as people write it (``sources[0].path``) and its line, as near as the file shows it."""
    import yaml

    node, line, path = root, 1, ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            if isinstance(node, yaml.SequenceNode) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode) and (entry := next(((k, v) for k, v in node.value if k.value == part), None)):
            path += f".{part}"
            line = entry[0].start_mark.line + 1
            node = entry[1]
        elif not (part in _SOURCE_MODELS and path.endswith("]")):  # pydantic puts the type of a source into the location
            path += f".{part}"
    return path.lstrip("."), line
