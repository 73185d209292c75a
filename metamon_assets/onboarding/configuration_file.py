"""Writing a new source into metamon.yaml: adds, and changes nothing of what stands there, comments included.

Here belongs the editing of the text. The new text is read back before it takes the old one's place: it must mean what the
old one meant and the addition besides, or nothing is written and the person gets the lines to paste.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from metamon_assets.config import CONFIG_NAME, Configuration, read_configuration
from metamon_assets.errors import MetamonError

_HEADER = """\
# What Metamon reads. `metamon connect` began this file; change it as you like: what is here is never overwritten.
"""


class ConfigurationFileError(MetamonError):
    """The file cannot be added to; the message says why and what to paste where."""


@dataclass(frozen=True, slots=True)
class NewSource:
    """A source for metamon.yaml: its keys, and comment lines that stand above its map."""

    keys: Mapping[str, JsonValue]
    comments: Sequence[str] = ()


def with_sources(path: Path, sources: Sequence[NewSource], start_day: date | None = None) -> str:
    """The text of the file at ``path`` (which need not exist) with the sources added, and ``start_day`` where it has none.

    Raises ConfigError for a file that is wrong already, ConfigurationFileError where it cannot be added to.
    """
    before = path.read_bytes().decode("utf-8") if path.exists() else ""  # with its own line ends
    known = read_configuration(path) if path.exists() else Configuration()
    after = _inserted(before, "".join(_block(source, 0) for source in sources)) if before else _HEADER + _sources(sources)
    if start_day is not None and "start_day" not in known.model_fields_set:
        first, separator = (_HEADER, "") if not before else ("", "\n" if before.startswith("#") else "")
        after = f"{first}start_day: {start_day}  # days before this one are not kept\n{separator}{after.removeprefix(first)}"
    _verify(path, after, known, len(sources), "".join(_block(source, 2) for source in sources))
    return after


def difference(before: str, after: str, name: str = CONFIG_NAME) -> str:
    """What changes, as a unified diff."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=2)
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Put the text in the file's place at once: whoever reads sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _sources(sources: Sequence[NewSource]) -> str:
    return "sources:\n" + "".join(_block(source, 2) for source in sources)


def _block(source: NewSource, indent: int) -> str:
    """A source as an item of a list."""
    keys = dict(source.keys)
    last = {"map": keys.pop("map")} if "map" in keys else {}
    lines = _dumped(keys) + [f"# {comment}".rstrip() for comment in source.comments] + (_dumped(last) if last else [])
    return "".join(f"{' ' * indent}{'- ' if number == 0 else '  '}{line}".rstrip() + "\n" for number, line in enumerate(lines))


def _dumped(keys: Mapping[str, Any]) -> list[str]:
    return yaml.safe_dump(dict(keys), sort_keys=False, allow_unicode=True, default_flow_style=False, width=110).splitlines()


def _inserted(text: str, block: str) -> str:
    """``text`` with the items of ``block`` at the end of its list ``sources``."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    entry = (
        next(((key, value) for key, value in root.value if key.value == "sources"), None) if isinstance(root, yaml.MappingNode) else None
    )
    if entry is None:
        return "".join(lines) + ("\n" if lines else "") + "sources:\n" + _indented(block, 2)
    key, value = entry
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        end = value.end_mark.line if value.end_mark.column == 0 else value.end_mark.line + 1
        last = value.value[-1].start_mark.line
        while end > last + 1 and _follows_after(lines[end - 1], value.start_mark.column):
            end -= 1
        return "".join([*lines[:end], _indented(block, value.start_mark.column), *lines[end:]])
    if not value.value or value.value in ("null", "~"):  # `sources:` or `sources: []`
        line = key.start_mark.line
        if value.end_mark.line == line:
            lines[line] = lines[line][: key.end_mark.column] + ":" + lines[line][max(value.end_mark.column, key.end_mark.column + 1) :]
            return "".join([*lines[: line + 1], _indented(block, 2), *lines[line + 1 :]])
    return text  # written in one line or in another way that is not edited: found by the check afterwards


def _indented(block: str, columns: int) -> str:
    return "".join(" " * columns + line for line in block.splitlines(keepends=True))


def _follows_after(line: str, column: int) -> bool:
    """Whether a line after the last item is no part of it: blank, or a comment that is not indented like the item."""
    text = line.lstrip()
    return not text.strip() or (text.startswith("#") and len(line) - len(text) <= column)


def _verify(path: Path, text: str, before: Configuration, added: int, block: str) -> None:
    """Read the new text back. Raises ConfigurationFileError when it is not the old one and the additions."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(text.encode())
        try:
            after = read_configuration(copy)
        except MetamonError as error:
            raise ConfigurationFileError(_paste(path, block, str(error).replace(str(copy), str(path)))) from error
    same = all(getattr(after, name) == getattr(before, name) for name in Configuration.model_fields if name not in ("sources", "start_day"))
    if not same or after.sources[:-added] != before.sources:
        raise ConfigurationFileError(_paste(path, block))


def _paste(path: Path, block: str, why: str = "") -> str:
    reason = f" ({why})" if why else ""
    return (
        f"{path} cannot be added to without changing how it is written{reason}. Paste this under `sources:` and run `metamon run`:\n{block}"
    )
