"""A declarative mapping: which columns of somebody's file are which unified columns.

Here belongs the small language in which a YAML file says so, its validation, and its application to a chunk of
rows. It reads no files and decides no types: ``files`` feeds it, ``conversion`` reads the values afterwards.
``mappings/`` holds examples; the reference stands in the classes below.

    kind: runs                      # or feedback, events, gauges
    columns:
      run_id: {hash: [time, region, model]}     # or {line: true}, or {template: "run-{task}-{trial}"}
      start_time: time                          # the source's column of that name; {join: [date, time]} for two columns
      latency_seconds: {column: took, unit: ms}
      provider: {column: model, match: {"^gpt-": openai, "^claude": anthropic}}
      run_type: {value: llm}
      status: {column: state, map: {ok: success, failed: error}}
    rules:
      - when: {not_empty: error}
        set: {status: error}

A column of nested objects is named by its keys with dots between: ``tenant_id: customer.id``. Columns of the source that
no unified column holds whole go to metadata, unless ``leftovers: drop``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from metamon_assets.errors import closest
from metamon_assets.traces.normalise import known_run_type, known_status
from metamon_assets.traces.sources.base import Kind, SourceError
from metamon_assets.traces.sources.conversion import (
    IDENTIFIERS,
    SCHEMAS,
    TIMES,
    Findings,
    Problem,
    as_amount,
    as_number,
    is_amount,
    json_text,
    parse_time,
    shown,
)

Scalar = str | int | float | bool
Rows = dict[str, list[Any]]  # column name to one value per row

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_OURS = frozenset({"source", "observed_time"})  # the file source fills these
_POINTED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d+)?")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return pattern


def _aware(value: object) -> object:
    return parse_time(value) if isinstance(value, (str, datetime)) or hasattr(value, "year") else value


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone; write one like Europe/Vienna") from None
    return name


Pattern = Annotated[str, AfterValidator(_regex)]
Zone = Annotated[str, AfterValidator(_known_zone)]
Moment = Annotated[datetime, BeforeValidator(_aware)]


class ColumnRule(_Model):
    """How one unified column is made: exactly one origin, then the steps in the order below."""

    # Origins
    column: str | None = None
    """The source's column; of nested objects the keys with dots between."""
    join: list[str] | None = Field(default=None, min_length=2)
    """The texts of several columns with a space between them, such as a date and a time of day; NULL when one of them is."""
    value: Scalar | None = None
    """The same value for every row."""
    hash: list[str] | None = Field(default=None, min_length=1)
    """A stable identifier from several columns that tell rows apart together."""
    template: str | None = None
    """Text with {column} in it; NULL when one of them is."""
    line: bool = False
    """A stable identifier from the file's name and the line's number, for rows that nothing else tells apart."""
    # Steps
    zero_is_missing: bool = False
    """0 stands for unknown."""
    pattern: Pattern | None = None
    """Only the first group of this regular expression (or the whole match); NULL where it does not match."""
    match: dict[Pattern, Scalar] | None = None
    """The value of the first regular expression that is found in the text; NULL where none is."""
    map: dict[str, Scalar | None] | None = None
    """Values to replace, spelled as text (1.0 also stands for 1); others pass unchanged."""
    decimal_comma: bool = False
    """Numbers are written with a comma, as 0,85; points group thousands, as in 1.234,5."""
    thousands_comma: bool = False
    """Commas group thousands also where that cannot be seen, as in 1,234. (1,234.5 and 1,234,567 are read without it.)"""
    scale: float | None = None
    """Factor for numbers."""
    unit: Literal["s", "ms", "us", "ns", "min", "h"] | None = None
    """Unit of a duration (made seconds), or of a number of a time column: since 1970, or since ``base``."""
    format: str | None = None
    """strptime format of a time; without zone it is taken as UTC."""
    zone: Zone | None = None
    """Time zone of times that name none, such as Europe/Vienna. In the hour that autumn repeats, the first is meant."""
    base: Moment | None = None
    """Declared moment that the numbers of a time column count from; marks the rows as time_declared."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        named = [key for key in ("column", "join", "value", "hash", "template") if getattr(self, key) is not None] + ["line"] * self.line
        if len(named) != 1:
            raise ValueError(f"needs exactly one of column, join, value, hash, template, line; has {', '.join(named) or 'none'}")
        if self.format and (self.unit or self.base):
            raise ValueError("format goes with neither unit nor base: it reads text, they read numbers")
        if self.base and not self.unit:
            raise ValueError("base needs unit: what the numbers count, for example unit: s")
        if self.decimal_comma and self.thousands_comma:
            raise ValueError("decimal_comma and thousands_comma exclude each other: a comma means the one or the other")
        return self

    @property
    def inputs(self) -> set[str]:
        """Columns of the source that the rule reads."""
        fields = {name for _, name, _, _ in Formatter().parse(self.template or "") if name}
        return fields | set(self.hash or []) | self.held

    @property
    def held(self) -> set[str]:
        """Columns of the source that the rule holds whole, before its steps."""
        return set(self.join or []) | ({self.column} if self.column is not None else set())


def _rules(value: object) -> object:
    """A column name alone, one rule, or several of which the first that gives a value counts."""
    values = value if isinstance(value, list) else [value]
    return [{"column": item} if isinstance(item, str) else item for item in values]


Column = Annotated[list[ColumnRule], BeforeValidator(_rules), Field(min_length=1)]


class Condition(_Model):
    """When a rule holds: all of what is named here, on the source's own columns."""

    all_zero: list[str] = []
    empty: str | list[str] = []
    not_empty: str | list[str] = []
    equals: dict[str, Scalar | list[Scalar]] = {}
    matches: dict[str, Pattern] = {}

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.all_zero or self.empty or self.not_empty or self.equals or self.matches):
            raise ValueError("needs at least one of all_zero, empty, not_empty, equals, matches")
        return self

    @property
    def inputs(self) -> set[str]:
        return {*self.all_zero, *_names(self.empty), *_names(self.not_empty), *self.equals, *self.matches}

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether a row of the source meets all of it."""
        return (
            all(_is_zero(at(row, name)) for name in self.all_zero)
            and all(_is_empty(at(row, name)) for name in _names(self.empty))
            and not any(_is_empty(at(row, name)) for name in _names(self.not_empty))
            and all(_key(at(row, name)) in _keys(wanted) for name, wanted in self.equals.items())
            and all(re.search(pattern, _as_text(at(row, name))) for name, pattern in self.matches.items())
        )


class Rule(_Model):
    """What to change in the rows that meet a condition. Rules apply in order, after the columns are made."""

    when: Condition
    set: dict[str, Scalar | ColumnRule] = {}
    clear: list[str] = []
    """Unified columns to make NULL: figures that are not known."""
    reject: str | None = None
    """Send the row to quarantine with this as the detail."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not (self.set or self.clear or self.reject):
            raise ValueError("needs at least one of set, clear, reject")
        return self


class TraceRule(_Model):
    """Rows are the steps of a trace: a root is made for each group, from the group's first row.

    Rows of a group should stand together in one file: each file makes its own roots.
    """

    by: str
    """The source's column that rows of one trace share; trace_id, and the root's run_id."""
    columns: dict[str, Column] = {}
    """The root's columns; times, project and agent_name are taken from the first step unless named."""
    rules: list[Rule] = []


class Mapping(_Model):
    """A whole mapping file."""

    description: str = ""
    kind: Kind = Kind.RUNS
    columns: dict[str, Column]
    rules: list[Rule] = []
    trace: TraceRule | None = None
    declared_time: Moment | None = None
    """Start of rows that have no time of their own; marks them as time_declared."""
    keep: list[str] = []
    """Columns that go to metadata although they are mapped too."""
    drop: list[str] = []
    """Columns that are not loaded at all, such as labels that must not be seen."""
    optional: list[str] = []
    """Columns that are read where a file has them; a CSV or Parquet file must have all others."""
    unreadable: Literal["reject", "leave_out"] = "reject"
    """What becomes of a value that its column cannot hold (text for a number, a negative duration): its row goes to quarantine,
    or the row stays without the value, which metadata then keep under ``left_out``. A status that is not known then counts as
    an error. An identifier or a start that cannot be read always costs the row."""
    leftovers: Literal["metadata", "drop"] = "metadata"
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Of CSV files; a comma by default."""

    @model_validator(mode="after")
    def _known_columns(self) -> Self:
        known = [name for name in SCHEMAS[self.kind].names if name not in _OURS]
        named = [("columns", name) for name in self.columns]
        for place, rules in (("rules", self.rules), ("trace.rules", self.trace.rules if self.trace else [])):
            named += [(place, name) for rule in rules for name in [*rule.set, *rule.clear]]
        named += [("trace.columns", name) for name in (self.trace.columns if self.trace else {})]
        for place, name in named:
            if name not in known:
                near = closest(name, known)
                hint = f"did you mean {near}?" if near else f"use one of {', '.join(known)}"
                raise ValueError(f"{place}.{name}: not a unified column of {self.kind}; {hint}")
        if self.trace and self.kind is not Kind.RUNS:
            raise ValueError("trace: only runs have traces; remove it or set kind: runs")
        if self.declared_time and self.kind is not Kind.RUNS:
            raise ValueError("declared_time: only runs can be marked as having a declared time")
        return self

    @cached_property
    def inputs(self) -> set[str]:
        """Columns of the source that must be there."""
        rules = [rule for column in self._all_columns for rule in column]
        for changes in (*self.rules, *(self.trace.rules if self.trace else ())):
            rules += [value for value in changes.set.values() if isinstance(value, ColumnRule)]
        conditions = [rule.when for rule in (*self.rules, *(self.trace.rules if self.trace else ()))]
        named = set().union(*(rule.inputs for rule in rules), *(condition.inputs for condition in conditions), self.keep)
        return named | ({self.trace.by} if self.trace else set())

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the mapping does."""
        return _digest([self.model_dump_json()])

    @cached_property
    def _all_columns(self) -> list[list[ColumnRule]]:
        return [*self.columns.values(), *(self.trace.columns.values() if self.trace else ())]

    @cached_property
    def _consumed(self) -> set[str]:
        """Columns that need not go to metadata, since a unified column holds them whole."""
        rules = [rule for column in self._all_columns for rule in column]
        rules += [value for rule in self.rules for value in rule.set.values() if isinstance(value, ColumnRule)]
        held = set().union(*(rule.held for rule in rules if rule.pattern is None and rule.match is None))
        return ((held | ({self.trace.by} if self.trace else set())) - set(self.keep)) | set(self.drop)

    def require(self, present: Sequence[str], where: str) -> None:
        """Raises SourceError when a file with a fixed header lacks a column that the mapping reads."""
        missing = sorted(self.inputs - set(present) - set(self.optional))
        if missing:
            raise SourceError(
                f"{where}: the mapping reads {', '.join(missing)}, which the file has not; its columns are {', '.join(present)}. "
                "Correct the mapping's column names or the file's header"
            )

    def apply(self, rows: list[dict[str, Any]], lines: Sequence[int], file: str, seen_traces: set[str]) -> tuple[Rows, list[int], Findings]:
        """Unified columns, loosely typed, of a chunk of the source's rows.

        ``lines`` are the rows' numbers in ``file`` (a name that stays the same). ``seen_traces`` is kept by the
        caller for one file. Returns the columns, for each output row the input row that it came from (roots of
        traces are additional rows), and what is wrong with the output rows.
        """
        needed = frozenset({IDENTIFIERS[self.kind], TIMES[self.kind]})
        given = _Given(rows, lines, file, Findings(leaves_out=self.unreadable == "leave_out", needed=needed))
        result = _make(self.columns, given)
        if self.kind is Kind.RUNS:
            _declare_time(self, result, len(rows))
        if self.leftovers == "metadata" and self.kind is not Kind.GAUGES:
            _fold_leftovers(result, rows, self._consumed)
        _change(self.rules, result, given)
        if self.kind is Kind.RUNS:
            _add_end(result, len(rows))
        origins = list(range(len(rows)))
        if self.trace:
            _link(self.trace, result, rows)
            firsts = _first_steps(self.trace.by, rows, seen_traces)
            _append_roots(self.trace, result, given, firsts)
            origins += firsts
        if self.unreadable == "leave_out" and self.kind is Kind.RUNS:
            _leave_out_unknown_words(result, given.findings)
        return result, origins, given.findings


def load(given: str | Path | dict[str, Any]) -> Mapping:
    """A mapping from a YAML file, from one of the bundled examples by name, or from the content of such a file.

    Raises SourceError saying key, fault and remedy.
    """
    if isinstance(given, dict):
        return parse(given)
    name = str(given)
    try:
        text = _bundled(name) or Path(given).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceError(f"mapping {name}: does not exist; give a YAML file or one of {', '.join(bundled())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"mapping {name}: cannot be read: {error}; it must be a YAML file in UTF-8 that this user may read") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SourceError(f"mapping {name}: is not YAML: {' '.join(str(error).split())}") from error
    return parse(content, name)


def parse(content: object, name: str = "mapping") -> Mapping:
    """A mapping from what a YAML file holds. Raises SourceError saying key, fault and remedy."""
    if not isinstance(content, dict):
        raise SourceError(f"mapping {name}: must be a YAML object with the key columns, not {type(content).__name__}")
    try:
        return Mapping.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(_fault(item["loc"], item["msg"], item["type"]) for item in error.errors())
        raise SourceError(f"mapping {name}: {faults}") from error


def bundled() -> list[str]:
    """Names of the example mappings that come with Metamon."""
    folder = resources.files("metamon_assets.traces.sources") / "mappings"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def _bundled(name: str) -> str | None:
    if name not in bundled():
        return None
    return (resources.files("metamon_assets.traces.sources") / "mappings" / f"{name}.yaml").read_text("utf-8")


def _fault(location: tuple[int | str, ...], message: str, code: str) -> str:
    key = ".".join(str(part) for part in location)
    message = message.removeprefix("Value error, ")
    if code == "missing":
        message = "is missing; add it"
    elif code == "extra_forbidden":
        message = "is not a key that a mapping knows; remove it or correct its spelling"
    return f"{key}: {message}" if key else message


# Making columns --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Given:
    """Rows of the source as they stood in a file, and what turned out to be wrong with them, by row."""

    rows: list[dict[str, Any]]
    lines: Sequence[int]
    file: str
    findings: Findings = field(default_factory=Findings)

    def only(self, places: list[int]) -> _Given:
        findings = Findings(leaves_out=self.findings.leaves_out, needed=self.findings.needed)
        return _Given([self.rows[place] for place in places], [self.lines[place] for place in places], self.file, findings)

    def add(self, places: Sequence[int], others: Findings) -> None:
        """What is wrong with rows that were taken out of these, by where they stand here."""
        for row, problem in others.problems.items():
            self.findings.problems.setdefault(places[row], problem)
        for row, values in others.left_out.items():
            self.findings.left_out[places[row]] = self.findings.left_out.get(places[row], {}) | values


def _make(columns: dict[str, list[ColumnRule]], given: _Given) -> Rows:
    result: Rows = {}
    for name, alternatives in columns.items():
        values = _evaluate(name, alternatives[0], given)
        for rule in alternatives[1:]:
            if None not in values:
                break
            others = _evaluate(name, rule, given)
            values = [other if value is None else value for value, other in zip(values, others, strict=True)]
        result[name] = values
        if any(rule.base for rule in alternatives):
            result["time_declared"] = [value is not None for value in values]
    return result


def _evaluate(name: str, rule: ColumnRule, given: _Given) -> list[Any]:
    values = _origin(rule, given)
    if rule.zero_is_missing:
        values = [None if _is_zero(value) else value for value in values]
    if rule.pattern is not None:
        values = [_captured(re.search(rule.pattern, _as_text(value))) if value is not None else None for value in values]
    if rule.match is not None:
        values = [_matched(rule.match, _as_text(value)) if value is not None else None for value in values]
    if rule.map is not None:
        replaced = {_key(key): value for key, value in rule.map.items()}
        values = [replaced.get(_key(value), value) if value is not None else None for value in values]
    if rule.decimal_comma:
        values = [with_point(value) if isinstance(value, str) else value for value in values]
    if rule.thousands_comma:
        values = [value.replace(",", "") if isinstance(value, str) else value for value in values]
    if rule.scale is not None or rule.unit is not None or rule.format is not None or rule.zone is not None:
        values = _figures(name, rule, values, given.findings)
    return values


def _origin(rule: ColumnRule, given: _Given) -> list[Any]:
    rows = given.rows
    if rule.column is not None:
        return [None if _is_empty(value := at(row, rule.column)) else value for row in rows]
    if rule.join is not None:
        return [joined(at(row, name) for name in rule.join) for row in rows]
    if rule.hash is not None:
        return [_digest([_as_text(at(row, name)) for name in rule.hash]) for row in rows]
    if rule.template is not None:
        parts = [(text, name, form or "") for text, name, form, _ in Formatter().parse(rule.template)]
        return [_rendered(parts, row) for row in rows]
    if rule.line:
        return [_digest([given.file, str(line)]) for line in given.lines]
    return [rule.value] * len(rows)


def _rendered(parts: list[tuple[str, str | None, str]], row: dict[str, Any]) -> str | None:
    """A template's text and fields with what a row has for them; None when one is empty."""
    values = [at(row, name) if name else "" for _, name, _ in parts]
    if any(name and _is_empty(value) for (_, name, _), value in zip(parts, values, strict=True)):
        return None
    return "".join(text + format(value, form) for (text, _, form), value in zip(parts, values, strict=True))


def _as_float(name: str, value: Any) -> float | None:
    """A number whatever its spelling; the usual one at once. Raises ValueError."""
    try:
        number = float(value)
        if math.isfinite(number):
            return number
    except ValueError:
        pass
    read = as_amount(value) if is_amount(name) else as_number(value)
    return None if read is None else float(read)


def _figure(name: str, rule: ColumnRule, value: Any) -> Any:
    """A number in the unified unit, or a time."""
    is_time = name.endswith(("_time", "_at")) or name == "time"
    zone = ZoneInfo(rule.zone) if rule.zone else UTC
    if rule.format is not None:
        moment = datetime.strptime(_as_text(value).strip(), rule.format)  # noqa: DTZ007 - the zone is added below
        return (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).astimezone(UTC)
    if rule.zone is not None and rule.unit is None:
        return _in_zone(value, zone)
    number = _as_float(name, value)
    if number is None:
        return None
    if rule.scale is not None:
        number *= rule.scale
    if rule.unit is not None:
        number *= _SECONDS[rule.unit]
        if is_time:
            return (rule.base or datetime(1970, 1, 1, tzinfo=UTC)) + timedelta(seconds=number)
    return number


def _in_zone(value: Any, zone: tzinfo) -> datetime | None:
    """A time as ``parse_time`` reads it, except that one without a zone is of this one."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(_as_text(value).strip())
    except ValueError:
        return parse_time(value)
    return (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).astimezone(UTC)


def _figures(name: str, rule: ColumnRule, values: list[Any], findings: Findings) -> list[Any]:
    result = []
    for row, value in enumerate(values):
        try:
            result.append(None if value is None else _figure(name, rule, value))
        except (ValueError, TypeError, OverflowError) as error:
            result.append(None)
            problem = Problem("wrong_type", f"{name} is {shown(value)}, which the mapping cannot read: {error}")
            findings.unreadable(row, name, value, problem)
    return result


def _leave_out_unknown_words(result: Rows, findings: Findings) -> None:
    """A status that is not known counts as an error: it must not pass for a success. A run type that is not known is none."""
    for name, known, instead in (("status", known_status, "error"), ("run_type", known_run_type, None)):
        unknown = {word for word in set(map(_as_text, result.get(name, ()))) if word and known(word) is None}
        for row, value in enumerate(result[name] if unknown else ()):
            if _as_text(value) in unknown:
                findings.left_out.setdefault(row, {})[name] = value
                result[name][row] = instead


def _declare_time(mapping: Mapping, result: Rows, count: int) -> None:
    if mapping.declared_time is None:
        return
    times = result.setdefault(TIMES[mapping.kind], [None] * count)
    declared = result.setdefault("time_declared", [False] * count)
    for row, value in enumerate(times):
        if value is None:
            times[row], declared[row] = mapping.declared_time, True


def _add_end(result: Rows, count: int) -> None:
    """end_time = start_time + latency_seconds where only those two are known."""
    if "start_time" not in result or "latency_seconds" not in result:
        return
    ends = result.setdefault("end_time", [None] * count)
    for row, (start, latency, end) in enumerate(zip(result["start_time"], result["latency_seconds"], ends, strict=True)):
        if end is None and start is not None and latency is not None:
            try:
                begun, took = parse_time(start), _as_float("latency_seconds", latency)
                if begun is not None and took is not None and took >= 0:
                    ends[row] = begun + timedelta(seconds=took)
            except (ValueError, TypeError, OverflowError):
                continue  # the value itself is reported when its column is converted


def _fold_leftovers(result: Rows, rows: list[dict[str, Any]], consumed: set[str]) -> None:
    given = result.get("metadata") or [None] * len(rows)
    nested = [name for name in consumed if "." in name]
    folded: list[Any] = []
    for row, own in zip(rows, given, strict=True):
        extra = {str(key): value for key, value in row.items() if key not in consumed and not _is_empty(value)}
        for name in nested:
            extra = _without(extra, name)
        if own is not None:
            extra |= own if isinstance(own, dict) else {"metadata": own}
        folded.append(extra or None)
    result["metadata"] = folded


def _change(rules: list[Rule], result: Rows, given: _Given, offset: int = 0) -> None:
    """Apply rules in place: to the rows of ``result`` from ``offset`` on, by the source's rows that they came from."""
    for rule in rules:
        hits = [place for place, row in enumerate(given.rows) if rule.when.holds(row)]
        if not hits:
            continue
        for name, value in rule.set.items():
            column = result.setdefault(name, [None] * (offset + len(given.rows)))
            for hit, new in zip(hits, _new_values(name, value, given, hits), strict=True):
                column[offset + hit] = new
        for name in rule.clear:
            for hit in hits if name in result else ():
                result[name][offset + hit] = None
        if rule.reject is not None:
            for hit in hits:
                given.findings.problems.setdefault(hit, Problem("rule", rule.reject))


def _new_values(name: str, value: Scalar | ColumnRule, given: _Given, hits: list[int]) -> list[Any]:
    if not isinstance(value, ColumnRule):
        return [value] * len(hits)
    chosen = given.only(hits)
    values = _evaluate(name, value, chosen)
    given.add(hits, chosen.findings)
    return values


# Traces made of steps --------------------------------------------------------------------------------------


def _link(trace: TraceRule, result: Rows, rows: list[dict[str, Any]]) -> None:
    groups = [_as_text(at(row, trace.by)) or None for row in rows]
    result.setdefault("trace_id", groups)
    parents = result.setdefault("parent_run_id", [None] * len(rows))
    result["parent_run_id"] = [group if parent is None else parent for group, parent in zip(groups, parents, strict=True)]


def _first_steps(by: str, rows: list[dict[str, Any]], seen: set[str]) -> list[int]:
    firsts = []
    for position, row in enumerate(rows):
        group = _as_text(at(row, by))
        if group and group not in seen:
            seen.add(group)
            firsts.append(position)
    return firsts


def _append_roots(trace: TraceRule, result: Rows, given: _Given, firsts: list[int]) -> None:
    steps, count = given.only(firsts), len(given.rows)
    roots = _make(trace.columns, steps)
    groups: list[Any] = [_as_text(at(step, trace.by)) for step in steps.rows]
    roots |= {"run_id": groups, "trace_id": groups, "parent_run_id": [None] * len(groups)}
    for name in ("start_time", "time_declared", "project", "agent_name"):
        if name in result:
            roots.setdefault(name, [result[name][first] for first in firsts])
    for name in roots.keys() - result.keys():
        result[name] = [None] * count
    for name, column in result.items():
        column.extend(roots.get(name, [None] * len(groups)))
    _change(trace.rules, result, steps, offset=count)
    given.add(range(count, count + len(firsts)), steps.findings)


# Values ----------------------------------------------------------------------------------------------------


def at(row: dict[str, Any], name: str) -> Any:
    """What stands in the column of a name, or in nested objects under its keys with dots between; None where there is nothing."""
    if name in row or "." not in name:
        return row.get(name)
    for dot in re.finditer(r"\.", name):
        inner = row.get(name[: dot.start()])
        if isinstance(inner, dict) and (value := at(inner, name[dot.end() :])) is not None:
            return value
    return None


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    """The row without what stands at a place in its nested objects; objects that are empty then are left out too."""
    for dot in re.finditer(r"\.", name):
        key, rest = name[: dot.start()], name[dot.end() :]
        inner = row.get(key)
        if isinstance(inner, dict):
            left = {other: value for other, value in _without(inner, rest).items() if other != rest}
            row = {other: value for other, value in row.items() if other != key} | ({key: left} if left else {})
    return row


def with_point(text: str) -> str:
    """A number with a comma for decimals as others write it."""
    return (text.replace(".", "") if _POINTED.fullmatch(text.strip()) else text).replace(",", ".")


def _names(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_zero(value: Any) -> bool:
    if isinstance(value, bool) or _is_empty(value):
        return False
    try:
        return float(value) == 0
    except (ValueError, TypeError):
        return False


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json_text(value) if isinstance(value, (dict, list, bool)) else str(value)


def _key(value: Any) -> str:
    """A value as it is compared: 1, 1.0 and "1.0" are the same."""
    text = _as_text(value).strip()
    try:
        return repr(float(text))
    except ValueError:
        return text


def _keys(wanted: Scalar | list[Scalar]) -> set[str]:
    return {_key(item) for item in (wanted if isinstance(wanted, list) else [wanted])}


def joined(values: Iterable[Any]) -> str | None:
    """Values as one text, with a space between them; None when one is empty."""
    parts = list(values)
    return None if any(_is_empty(part) for part in parts) else " ".join(_as_text(part).strip() for part in parts)


def _matched(patterns: dict[str, Scalar], text: str) -> Scalar | None:
    return next((value for pattern, value in patterns.items() if re.search(pattern, text)), None)


def _captured(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    return match.group(1) if match.re.groups else match.group()


def _digest(parts: list[str]) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]
