"""Reading ``metamon.yaml``: everything that is wrong is told at once, each with line, key and remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from metamon_assets.config.part import Part
from metamon_assets.config.secret import ConfigError
from metamon_assets.config.shape import Configuration
from metamon_assets.config.sources import FilesSource, LangSmithExportSource, LangSmithSource, OtlpSource

if TYPE_CHECKING:
    import yaml

SCHEMA_NAME = "metamon.schema.json"
SCHEMA_LINE = f"# yaml-language-server: $schema=./{SCHEMA_NAME}"
_SOURCE_MODELS: dict[str, type[Part]] = {
    "files": FilesSource,
    "otlp": OtlpSource,
    "langsmith": LangSmithSource,
    "langsmith_export": LangSmithExportSource,
}
_SOURCE_TYPES = ", ".join(_SOURCE_MODELS)


def json_schema() -> dict[str, Any]:
    """JSON Schema of ``metamon.yaml``, for editors and for ``metamon config``."""
    return Configuration.model_json_schema()


def write_schema(config_path: Path) -> Path:
    """Write the JSON Schema beside the file, name it in the file's first line, and give its path."""
    path = config_path.with_name(SCHEMA_NAME)
    path.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
    text = config_path.read_text(encoding="utf-8") if config_path.exists() else ""
    if SCHEMA_LINE not in text:
        config_path.write_text(f"{SCHEMA_LINE}\n{text}", encoding="utf-8")
    return path


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


def lines_of(path: Path) -> dict[tuple[str | int, ...], int]:
    """The line of every key that a readable file sets, by its place in the file; nothing for a missing file."""
    import yaml

    if not path.exists():
        return {}
    return dict(_lines(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)))


def _lines(node: yaml.Node | None, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], int]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*place, number), item.start_mark.line + 1
            yield from _lines(item, (*place, number))


def _plain_loader() -> type[yaml.SafeLoader]:
    """YAML's safe loader, with dates left as text: pydantic reads those and says what is wrong with 2026-13-01."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
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


def _nearest(location: tuple[str | int, ...]) -> str:
    """The keys that are known there: the one that was probably meant, else all."""
    known = [*part_at(location[:-1]).model_fields]
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def part_at(location: tuple[str | int, ...]) -> type[Part]:
    """The part whose keys stand at a place of the file, such as ("sources", 0, "files", "exclude")."""
    owners: list[type[Part]] = [Configuration]
    for step in location:
        if step in _SOURCE_MODELS and len(owners) > 1:
            owners = [_SOURCE_MODELS[str(step)]]
            continue
        inner = [part for owner in owners if step in owner.model_fields for part in _parts(owner.model_fields[str(step)].annotation)]
        owners = inner or owners  # a number, or a name that somebody gave: the same part
    return owners[0]


def _parts(annotation: Any) -> Iterator[type[Part]]:
    """The parts that a type is made of: Agent in dict[str, Agent], all sources in their union."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


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
