"""Comparing configurations, and explaining one: what holds, where it was said, what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metamon_assets.config.part import Part
from metamon_assets.config.reading import lines_of
from metamon_assets.config.settings import Settings
from metamon_assets.config.shape import Configuration

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A key whose value differs; None stands for a key that is not there."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.key}: {_shown(self.after)}"
        if self.after is None:
            return f"- {self.key}: {_shown(self.before)}"
        return f"~ {self.key}: {_shown(self.before)} → {_shown(self.after)}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A key: the value in effect, where it comes from, what it means."""

    key: str
    value: Any
    origin: str  # "metamon.yaml:7" or "default"
    meaning: str
    read_by_something: bool


def content(configuration: Configuration) -> dict[str, Any]:
    """Everything that differs from the defaults, as plain JSON values; secrets are names of variables."""
    fields = set(Configuration.model_fields)
    return configuration.model_dump(mode="json", include=fields, exclude_defaults=True)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What changed from one content to another, key by key.

    >>> print(*differences({"timezone": "UTC"}, {"timezone": "Europe/Vienna", "ui_port": 3001}), sep="\\n")
    ~ timezone: UTC → Europe/Vienna
    + ui_port: 3001
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    keys = [*old, *(key for key in new if key not in old)]
    return [Change(_words(key), old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def explain(settings: Settings, key: str = "") -> list[Explanation]:
    """Every key that holds, those below ``key`` only where one is given ("sources[0]", "web.port")."""
    lines = lines_of(settings.config_path)
    values = settings.model_dump(mode="json", include=set(Configuration.model_fields))
    explained = [_explain_key(settings, path, value, lines) for path, value in _leaves(values, empty=True)]
    return [entry for entry in explained if not key or entry.key == key or entry.key.startswith((f"{key}.", f"{key}["))]


def without_effect(settings: Settings) -> list[str]:
    """Top keys that the file sets and that no part of the program reads yet."""
    return [key for key in content(settings) if _planned(Configuration, key)]


def _explain_key(settings: Settings, path: Path, value: Any, lines: Mapping[Path, int]) -> Explanation:
    owner: Any = settings
    meaning, planned = "", False
    for step in path:
        if isinstance(owner, Part) and isinstance(step, str):
            meaning = type(owner).model_fields[step].description or meaning
            planned = planned or _planned(type(owner), step)
            owner = getattr(owner, step)
        else:  # a place in a list, or a name that somebody gave
            owner = owner[step]
    origin = f"{settings.config_path.name}:{lines[path]}" if path in lines else "default"
    return Explanation(_words(path), value, origin, meaning, not planned)


def _planned(owner: type[Part], key: str) -> bool:
    field = owner.model_fields.get(key)
    extra = field.json_schema_extra if field else None
    return isinstance(extra, dict) and bool(extra.get("x-metamon-not-read-yet"))


def _leaves(value: Any, path: Path = (), *, empty: bool = False) -> Iterator[tuple[Path, Any]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    if not value and path and empty:
        yield path, value
    for step, inner in items:
        yield from _leaves(inner, (*path, step), empty=empty)


def _words(path: Path) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.lstrip(".")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
