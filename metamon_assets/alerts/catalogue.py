"""The catalogue of alert rules: what a rule is, and reading ``rules.yaml`` with every mistake told by its line.

The rules that come with Metamon are in the file beside this one. A ``rules.yaml`` in the home changes single keys of these by name
(``HighErrorRate: {above: 0.1}``), switches a rule off (``enabled: false``), or adds rules. What a metric is and which groupings it has
is in ``signals``; whether a rule fires is decided in ``judgement``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from metamon_assets.alerts.incidents import Severity
from metamon_assets.alerts.signals import SIGNALS
from metamon_assets.config.part import Part
from metamon_assets.config.reading import lines_of, parsed
from metamon_assets.config.secret import ConfigError
from metamon_assets.errors import closest

if TYPE_CHECKING:
    from metamon_assets.alerts.signals import Signal
    from metamon_assets.config import Settings

FILE = "rules.yaml"
BUNDLED = Path(__file__).with_name(FILE)
WINDOWS = tuple(timedelta(minutes=minutes) for minutes in (5, 15, 60, 360, 1440))  # a window that is too thin widens to the next
_DURATION = re.compile(r"(\d{1,8})(s|m|h|d|w)")
LONGEST = timedelta(days=3_652)  # ten years: what is longer is a mistake, and would take dates out of their range
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAME = re.compile(r"[A-Z][A-Za-z0-9]{2,63}")


def _duration(text: object) -> object:
    if isinstance(text, timedelta):
        return text
    duration = parse_duration(text) if isinstance(text, str) else None
    if duration is None:
        raise PydanticCustomError("duration", "write a duration like 30s, 10m, 1h, 2d or 1w, of at most ten years")
    return duration


def parse_duration(text: str, units: str = "smhdw") -> timedelta | None:
    """A duration as people write it, in one of the units; None if it is none, or longer than LONGEST.

    >>> parse_duration("90m"), parse_duration("1w", units="mhd")
    (datetime.timedelta(seconds=5400), None)
    """
    match = _DURATION.fullmatch(text)
    if match is None or match[2] not in units:
        return None
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    return duration if duration <= LONGEST else None


def duration_text(duration: timedelta) -> str:
    """A duration as it is written in rules, and in Prometheus' files.

    >>> duration_text(timedelta(minutes=90)), duration_text(timedelta(0))
    ('90m', '0s')
    """
    seconds = int(duration.total_seconds())
    for unit, length in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


FILLED_IN = frozenset({"group", "value", "threshold", "window", "hold", "sample", "metric", "expected", "reason"})
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Channel = Literal["email", "slack", "pagerduty", "webhook"]


class Rule(Part):
    """One rule. Exactly one of ``above`` and ``below`` is given, but for rules whose signal decides by itself."""

    id: str = ""
    """Requirement that it comes from, such as ALR-17."""
    metric: str
    """What it looks at: a signal."""
    by: tuple[str, ...] = Field(default=("overall",), min_length=1)
    """Groups that are looked at, each value of a dimension on its own: overall, agent, tenant, model, tool, …"""
    above: float | None = None
    """Fires above this value, in the metric's own unit."""
    below: float | None = None
    """Fires below this value."""
    window: Duration = timedelta(minutes=5)
    """Time that the metric is taken over."""
    hold: Duration = Field(default=timedelta(0), alias="for")
    """How long the condition must hold without a break."""
    minimum_sample: int = Field(default=0, ge=0)
    """Events that the metric must rest on; with fewer the window widens to 15 minutes, 1 hour, 6 hours, 1 day."""
    no_data: Literal["keep", "ok", "fire"] = "keep"
    """Without data: stays as it is, counts as well, or fires."""
    severity: Severity = "warning"
    """How bad it is."""
    channels: tuple[Channel, ...] = ()
    """Kinds of channels that are told, where no route says otherwise."""
    enabled: bool = True
    """Whether it is looked at."""
    shadow: bool = False
    """Recorded and in the digest, never sent."""
    summary: str = Field(min_length=10)
    """What is wrong, for people: {group}, {value}, {threshold}, {window} are filled in."""
    runbook: str = Field(min_length=40)
    """What to do about it."""

    @model_validator(mode="after")
    def _fits_its_signal(self) -> Self:
        signal = SIGNALS.get(self.metric)
        if signal is None:
            near = closest(self.metric, SIGNALS)
            known = f"; did you mean {near}?" if near else f"; known: {', '.join(sorted(SIGNALS))}"
            raise PydanticCustomError("metric", "metric: there is no metric {metric}{known}", {"metric": self.metric, "known": known})
        if problem := _wrong_bound(self, signal) or _wrong_window(self, signal) or _wrong_words(self):
            raise PydanticCustomError("rule", "{problem}", {"problem": problem})
        if wrong := [dimension for dimension in self.by if dimension not in signal.dimensions]:
            known = ", ".join(signal.dimensions)
            words = {"metric": self.metric, "wrong": ", ".join(wrong), "known": known}
            raise PydanticCustomError("by", "by: {metric} is not known by {wrong}; known: {known}", words)
        return self

    @property
    def threshold(self) -> float | None:
        """The bound, whichever it is."""
        return self.above if self.above is not None else self.below

    @property
    def worst_is(self) -> int:
        """1 when larger values are worse, −1 when smaller ones are."""
        return -1 if self.below is not None else 1


def _wrong_bound(rule: Rule, signal: Signal) -> str | None:
    """What is wrong with the bound."""
    limit = rule.threshold
    if signal.decides:
        return None if limit is None else f"{rule.metric} decides by itself: leave out above and below"
    if (rule.above is None) == (rule.below is None):
        return "give either above or below"
    if limit is None or not math.isfinite(limit):
        return "the bound must be a number"
    if signal.kind == "share" and not 0 < limit < 1:
        return f"{rule.metric} is a share: its bound lies between 0 and 1 (5 % is 0.05)"
    if signal.kind == "quantile" and (rule.below is not None or limit <= 0):
        return f"{rule.metric} can only be above a limit, which is larger than 0"
    return None


def _wrong_window(rule: Rule, signal: Signal) -> str | None:
    """What is wrong with the window: completion buckets last five minutes, and a day of them is at hand."""
    if rule.window <= timedelta(0):
        return "window: must be longer than nothing"
    if signal.of_buckets and (rule.window % WINDOWS[0] or rule.window > WINDOWS[-1]):
        return "window: of this metric it is a multiple of 5m, and at most 1d"
    return None


def _wrong_words(rule: Rule) -> str | None:
    """What cannot be filled in in the summary."""
    try:
        used = {name for _, name, _, _ in Formatter().parse(rule.summary) if name is not None}
    except ValueError as error:
        return f"summary: {error}"
    unknown = sorted(used - FILLED_IN)
    return f"summary: cannot fill in {', '.join(unknown)}; known: {', '.join(sorted(FILLED_IN))}" if unknown else None


@dataclass(frozen=True)
class Catalogue:
    """All rules by name, and the file of the user that they were changed by, if there is one."""

    rules: Mapping[str, Rule]
    path: Path | None = None

    @cached_property
    def enabled(self) -> dict[str, Rule]:
        """Those that are looked at."""
        return {name: rule for name, rule in self.rules.items() if rule.enabled}

    @property
    def channels(self) -> dict[str, tuple[str, ...]]:
        """Kinds of channels by rule."""
        return {name: rule.channels for name, rule in self.rules.items()}

    @property
    def runbooks(self) -> dict[str, str]:
        """What to do, by rule."""
        return {name: rule.runbook for name, rule in self.rules.items()}


def load(settings: Settings) -> Catalogue:
    """The rules that come with Metamon, as the home's ``rules.yaml`` changes them. Raises ConfigError with every mistake in it."""
    return read(settings.home / FILE)


def read(path: Path) -> Catalogue:
    """The bundled rules as the file at ``path`` changes them; a missing file changes nothing. Raises ConfigError."""
    if not path.exists():
        return Catalogue(bundled())
    _, content = parsed(path)
    return Catalogue(_checked(path, content or {}, _plain()), path)


@lru_cache(maxsize=1)
def bundled() -> Mapping[str, Rule]:
    """The rules that come with Metamon."""
    return _checked(BUNDLED, _plain(), {})


@lru_cache(maxsize=1)
def _plain() -> dict[str, dict[str, Any]]:
    _, content = parsed(BUNDLED)
    return content


def _checked(path: Path, content: Any, base: Mapping[str, Mapping[str, Any]]) -> dict[str, Rule]:
    """``base`` with the changes of ``content``, each part of it checked. Raises ConfigError that lists everything that is wrong."""
    if not isinstance(content, dict):
        raise ConfigError(f"{path}:1: the file must consist of rules by name, such as `HighErrorRate: {{above: 0.1}}`.")
    lines, problems, rules = lines_of(path), list[str](), dict[str, Rule]()
    for name, changes in {**{name: {} for name in base}, **content}.items():
        line = lines.get((name,), 1)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problems.append(f"{path.name}:{line}: {name}: a rule's name consists of letters and digits, the first one a capital")
        elif not isinstance(changes, dict):
            problems.append(f"{path.name}:{line}: {name}: must be keys and values, such as `above: 0.1`")
        else:
            try:
                rules[name] = Rule.model_validate(_merged(base.get(name, {}), changes))
            except ValidationError as error:
                problems += [_told(path, name, problem, lines, base) for problem in error.errors(include_url=False, include_input=False)]
    if problems:
        raise ConfigError("\n".join([f"{path} cannot be used:", *(f"  {problem}" for problem in problems)]))
    return rules


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A rule with changed keys; a new bound takes the place of the one on the other side."""
    merged = {**base, **changes}
    for given, other in (("above", "below"), ("below", "above")):
        if given in changes and other not in changes:
            merged.pop(other, None)
    return merged


def _told(path: Path, name: str, problem: Any, lines: Mapping[tuple[str | int, ...], int], base: Mapping[str, Any]) -> str:
    """A mistake with its line."""
    place = tuple(problem["loc"])
    line = next((lines[known] for end in range(len(place), -1, -1) if (known := (name, *place[:end])) in lines), 1)
    where = ".".join(map(str, (name, *place)))
    keys = sorted(entry.alias or key for key, entry in Rule.model_fields.items())
    if problem["type"] == "extra_forbidden":
        near = closest(str(place[-1]), keys)
        return f"{path.name}:{line}: {where}: unknown key" + (f"; did you mean {near}?" if near else f"; known: {', '.join(keys)}")
    if problem["type"] == "missing":
        meant = closest(name, base) if place == ("metric",) else None
        hint = f"; or did you mean the rule {meant}?" if meant else ""
        return f"{path.name}:{line}: {where}: missing; a new rule needs it{hint}"
    return f"{path.name}:{line}: {where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
