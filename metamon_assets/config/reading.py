"""Reading ``metamon.yaml``: everything that is wrong is told at once, each with line, key and remedy."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from metamon_assets.config.part import Part
from metamon_assets.config.secret import ConfigError, MistakesError, Secret
from metamon_assets.config.shape import Configuration
from metamon_assets.config.sources import FilesSource, LangSmithExportSource, LangSmithSource, OtlpSource
from metamon_assets.errors import closest

if TYPE_CHECKING:
    import yaml

SCHEMA_NAME = "metamon.schema.json"
SCHEMA_LINE = f"# yaml-language-server: $schema=./{SCHEMA_NAME}"
MOST_VALUES = 100_000
_PASSWORD = re.compile(r"://[^/?#\s:@]*:[^/?#\s@]+@")
_SOURCE_MODELS: dict[str, type[Part]] = {
    "files": FilesSource,
    "otlp": OtlpSource,
    "langsmith": LangSmithSource,
    "langsmith_export": LangSmithExportSource,
}
_ACROSS = ("routes",)  # where the one check across parts says what is wrong
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
    root, content = parsed(path)
    if content is None:
        return Configuration()
    if not isinstance(content, dict):
        raise ConfigError(f"{path}:1: the file must consist of keys and values, such as `timezone: UTC`.")
    found, errors, places = _validated(content)
    problems = [*_duplicate_keys(root), *_passwords(root), *(_explain(error, root) for error in errors)]
    if problems:
        raise MistakesError(path, [f"{path.name}:{line}: {text}" for line, text in sorted(problems)], found, places)
    return found


def _validated(content: dict[Any, Any]) -> tuple[Configuration, list[Any], list[tuple[Any, ...]]]:
    """What can be used of the file, everything that is wrong, and which places are therefore left out.

    Pydantic alone stops at a part that it cannot tell the type of, and compares parts with each other only when each is right.
    """
    remaining, errors, taken = copy.deepcopy(content), list[Any](), list[tuple[Any, ...]]()
    while True:
        try:
            return Configuration.model_validate(remaining), errors, taken
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
        across = [problem for problem in found if not problem["loc"]]  # of parts that are compared with each other
        if not taken:
            errors += [further for problem in found for further in (problem, *_mistyped_source(problem, content))]
        elif not any(place[:1] == ("channels",) for place in taken):  # a channel that was taken out is no channel that is missing
            errors += across
        for place in sorted((_wrong_place(problem["loc"], remaining) for problem in found), key=str, reverse=True):
            taken.append(place)
            _take_out(remaining, place)


def _mistyped_source(problem: Any, content: dict[Any, Any]) -> list[Any]:
    """What else is wrong with a source whose type is misspelt."""
    if problem["type"] != "union_tag_invalid" or not (near := closest(problem["ctx"]["tag"], _SOURCE_MODELS)):
        return []
    try:
        _SOURCE_MODELS[near].model_validate(content["sources"][problem["loc"][1]] | {"type": near})
    except ValidationError as error:
        further = error.errors(include_url=False, include_input=False)
        return [{**inner, "loc": (*problem["loc"], near, *inner["loc"])} for inner in further]
    return []


def _wrong_place(location: tuple[str | int, ...], content: Any) -> tuple[Any, ...]:
    """What to take out of the file so that an error goes: what is wrong, or the part in which something is missing."""
    place: tuple[Any, ...] = ()
    for step in location:
        known: Any = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
        if step in known:
            content, place = content[step], (*place, step)
    return place or _ACROSS


def _take_out(content: Any, place: tuple[Any, ...]) -> None:
    for step in place[:-1]:
        if (step not in content) if isinstance(content, dict) else step >= len(content):
            return  # it went with the part that it was in
        content = content[step]
    with contextlib.suppress(KeyError, IndexError):
        del content[place[-1]]


def parsed(path: Path) -> tuple[yaml.Node | None, Any]:
    """The file as nodes, which know their lines, and as plain values. Raises ConfigError."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(root, path)
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
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply: no key of it has more than a few levels.") from error
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(f"{path} has a value that cannot be read: {error}") from error
    return root, content


def _check_size(root: yaml.Node | None, path: Path) -> None:
    """Refuse aliases that contain themselves, or that a few lines of make millions of values."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MOST_VALUES + 1  # until it is known: what comes back to itself has no end
            inner = node.value if isinstance(node.value, list) else []
            sizes[id(node)] = 1 + sum(map(size, (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))))
        return sizes[id(node)]

    if root is not None and size(root) > MOST_VALUES:
        raise ConfigError(f"{path} has more than {MOST_VALUES:,} values when its aliases (*name) are written out: write what is meant.")


def _passwords(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Addresses with a password in them, which would be shown wherever the configuration is."""
    if node is not None and isinstance(node.value, str):
        if _PASSWORD.search(node.value):
            yield node.start_mark.line + 1, "an address with a password is not written here: leave the password out"
        return
    for item in node.value if node is not None else []:
        for part in item if isinstance(item, tuple) else (item,):
            yield from _passwords(part)


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
    path, line = _locate(problem["loc"] or _ACROSS, root)
    kind = problem["type"]
    if kind == "extra_forbidden":
        return line, f"{path}: unknown key{_nearest(problem['loc'])}"
    if kind == "missing":
        return line, f"{path}: missing; add it{' as env:NAME_OF_THE_VARIABLE' * _is_secret(problem['loc'])}"
    if kind == "union_tag_not_found":
        return line, f"{path}.type: missing; one of {_SOURCE_TYPES}"
    if kind == "union_tag_invalid":
        near = closest(problem["ctx"]["tag"], _SOURCE_MODELS)
        return line, f"{path}.type: must be one of {_SOURCE_TYPES}" + (f"; did you mean {near}?" if near else "")
    return line, f"{path}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _nearest(location: tuple[str | int, ...]) -> str:
    """The keys that are known there: the one that was probably meant, else all."""
    known = [*part_at(location[:-1]).model_fields]
    close = closest(location[-1], known)
    return f"; did you mean {close}?" if close else f"; known here: {', '.join(known)}"


def _is_secret(location: tuple[str | int, ...]) -> bool:
    field = part_at(location[:-1]).model_fields.get(str(location[-1]))
    return field is not None and field.annotation is Secret


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
