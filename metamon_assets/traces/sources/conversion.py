"""Loose values into the unified columns: text, numbers and nested JSON as files and wires spell them.

Here belongs the one place where a value of the wrong type is told from one that is merely spelled differently.
Numbers as text (also 1,234.5 and, as an amount, $0.01), whole floats as integers, ISO times with Z, an offset or none
(UTC is assumed), epoch seconds, milli-, micro- and nanoseconds are read; what is ambiguous is not guessed at but
reported, row by row. Every column is first tried as a whole by Arrow and value by value only when that fails. Ranges and
logic (negative durations, an end before its start) are ``traces.normalise``'s, unless a mapping asks for such values
to be left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.traces import columns
from metamon_assets.traces.pricing import MOST_TOKENS
from metamon_assets.traces.sources.base import Kind

SCHEMAS: Mapping[Kind, pa.Schema] = {
    Kind.RUNS: columns.RUNS,
    Kind.FEEDBACK: columns.FEEDBACK,
    Kind.EVENTS: columns.EVENTS,
    Kind.GAUGES: columns.GAUGES,
}
IDENTIFIERS: Mapping[Kind, str] = {Kind.RUNS: "run_id", Kind.FEEDBACK: "feedback_id", Kind.EVENTS: "event_id", Kind.GAUGES: "name"}
TIMES: Mapping[Kind, str] = {Kind.RUNS: "start_time", Kind.FEEDBACK: "created_at", Kind.EVENTS: "time", Kind.GAUGES: "time"}
JSON_OBJECTS = frozenset({"metadata", "labels"})
JSON_VALUES = frozenset({"correction"})
FREE_TEXT = frozenset({"inputs", "outputs", "error_message", "value", "comment", "degradation_reason"})  # may be nested JSON
DERIVED = frozenset({"day", "ingested_at", "content_hash", "root_inferred"})  # in an export of our own tables; computed anew

_MISSING = frozenset({"", "null", "none", "nan", "n/a", "na"})
_TRUE, _FALSE = frozenset({"true", "t", "yes", "y", "1"}), frozenset({"false", "f", "no", "n", "0"})
_INTEGER_LIMIT = 2**63
_MONEY_STEP = Decimal(1).scaleb(-columns.MONEY.scale)
_MONEY_LIMIT = Decimal(10) ** (columns.MONEY.precision - columns.MONEY.scale)
# Plausible epochs lie between 2000 and 2100; seconds, milli-, micro- and nanoseconds then never overlap.
_EPOCH_FIRST, _EPOCH_LAST = 946_684_800, 4_102_444_800
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Thousands in groups where nothing else can be meant: 1,234.5 and 1,234,567 and 1'234.5, but not 1,234 (see ``decimal_comma``).
_GROUPED = re.compile(r"[+-]?\d{1,3}((,\d{3})+\.\d+|(,\d{3}){2,}|([ '\u2019\u00a0\u202f]\d{3})+(\.\d+)?)")
_GROUPED_WHOLE = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
_GROUP_MARKS = str.maketrans("", "", ", '\u2019\u00a0\u202f")
_DOLLARS = re.compile(r"([+-]?)\s*(?:US)?\$\s*(.*)|(.*?)\s*(?:USD|US\$|\$)|USD\s*(.*)", re.IGNORECASE | re.DOTALL)
_RAW_SHOWN = 80

LEFT_OUT = "left_out"  # in metadata: the values that were left out of a row, by column
LONGEST_SECONDS = 10 * 365 * 86_400.0  # beyond it a start plus a duration leaves the calendar
DEAREST = 10_000_000  # US dollars for one run


class Problem(NamedTuple):
    """Why a row was not accepted: a short stable code, and what is wrong with how to mend it."""

    reason: str
    detail: str


class _UnreadableError(ValueError):
    """A single value that does not fit its column; the message says what was expected."""


Problems = dict[int, Problem]  # by position of the row


@dataclass(slots=True)
class Findings:
    """What is wrong with the rows of a chunk: those that cannot be accepted, and the values that are left out of others.

    Without ``leaves_out`` a value that does not fit costs its row. With it the row stays without the value, unless the
    value is one of ``needed``: the row's identifier and its time.
    """

    leaves_out: bool = False
    needed: frozenset[str] = frozenset()
    problems: Problems = field(default_factory=dict)  # the first of each row counts
    left_out: dict[int, dict[str, Any]] = field(default_factory=dict)  # by row and column

    def unreadable(self, row: int, column: str, value: Any, problem: Problem) -> None:
        """Note a value that its column cannot hold."""
        if self.leaves_out and column not in self.needed:
            self.left_out.setdefault(row, {})[column] = value
        else:
            self.problems.setdefault(row, problem)


def to_table(
    kind: Kind, values: Mapping[str, Sequence[Any] | pa.Array], rows: int, findings: Findings | None = None
) -> tuple[pa.Table, Problems]:
    """Unified columns of ``kind`` as an Arrow table of ``rows`` rows, and the rows that do not fit.

    The table keeps every row, in order; the caller drops those that have a problem. Keys of ``values`` must be
    columns of the kind. Each row needs the kind's identifier (run_id, feedback_id, event_id; gauges their name).
    ``findings`` are those of a mapping, which is where these problems are added.
    """
    schema = SCHEMAS[kind]
    findings = findings or Findings()
    problems = findings.problems
    arrays: dict[str, pa.Array] = {}
    for name in schema.names:
        if name in values:
            arrays[name] = to_column(name, values[name], schema.field(name).type, findings)
            if findings.leaves_out and name in _MOST:
                arrays[name] = _within(name, arrays[name], findings)
    if findings.leaves_out and {"start_time", "end_time"} <= arrays.keys():
        arrays["end_time"] = _not_before(arrays["end_time"], arrays["start_time"], findings)
    identifier = IDENTIFIERS[kind]
    ids = arrays.get(identifier)
    if ids is None:
        ids = arrays[identifier] = pa.nulls(rows, pa.string())
    missing = pc.or_kleene(pc.is_null(ids), pc.equal(ids, ""))
    if pc.any(missing).as_py():
        detail = f"{identifier} is missing; write one that stays the same when the row is written again, or map one with hash or line"
        for row in pc.indices_nonzero(missing).to_pylist():
            problems.setdefault(row, Problem("missing_id", detail))
    return pa.table(arrays), problems


def to_column(name: str, values: Sequence[Any] | pa.Array, wanted: pa.DataType, findings: Findings) -> pa.Array:
    """One unified column. Values that do not fit become NULL and are noted."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        column = _from_arrow(name, values, wanted)
        if column is not None:
            return column
        values = values.to_pylist()
    types = set(map(type, values))
    types.discard(type(None))
    if not types:
        return pa.nulls(len(values), wanted)
    column = _whole(name, values, types, wanted)
    return column if column is not None else _one_by_one(name, values, wanted, findings)


def json_text(value: Any) -> str:
    """JSON as text, for values that JSON has no name for as well (times, decimals, bytes)."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, orjson.JSONEncodeError):  # integers beyond 64 bits, lone surrogates, very deep nesting
        return orjson.dumps(_printable(value), default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()


def as_number(value: Any) -> Decimal | None:
    """A number, whatever way it is spelled; None for what stands for no value. Raises ValueError, saying what was expected."""
    return _number(value)


def as_amount(value: Any) -> Decimal | None:
    """An amount in US dollars: a number, with or without the sign of the currency. Raises ValueError like ``as_number``."""
    if isinstance(value, str) and (match := _DOLLARS.fullmatch(value.strip())):
        return _number("".join(part for part in match.groups() if part))
    return _number(value)


def is_amount(column: str) -> bool:
    """Whether a unified column holds money."""
    return column.endswith("_cost")


def shown(value: Any) -> str:
    """A value for a message: short and printable."""
    text = repr(value)
    return text if len(text) <= _RAW_SHOWN else text[:_RAW_SHOWN] + "…"


def parse_time(value: Any) -> datetime | None:
    """A moment in UTC from ISO text (UTC assumed without an offset) or an epoch number of any usual unit.

    Raises ValueError, saying what was expected, when the value is neither or could mean several things.
    """
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _MISSING:
            return None
        if _NUMBER.fullmatch(text) and len(text) != 8:  # eight digits are a date, 20260822
            return _epoch(int(text) if text.isdigit() else float(text))
        try:
            return parse_time(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            raise _UnreadableError("a time like 2026-08-22T10:00:00Z, or an epoch in seconds, ms, us or ns") from None
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return _epoch(value)
    raise _UnreadableError("a time like 2026-08-22T10:00:00Z, or an epoch in seconds, ms, us or ns")


def _epoch(value: int | float | Decimal) -> datetime:
    for scale in (1, 10**3, 10**6, 10**9):
        if _EPOCH_FIRST * scale <= value < _EPOCH_LAST * scale:
            microseconds = int(value) * 10**6 // scale if value == int(value) else round(value * 10**6 / scale)
            return datetime.fromtimestamp(microseconds // 10**6, UTC).replace(microsecond=microseconds % 10**6)
    raise _UnreadableError("an epoch between the years 2000 and 2100 in seconds, ms, us or ns; use ISO text for other times")


# Whole columns ---------------------------------------------------------------------------------------------


def _from_arrow(name: str, values: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    """An Arrow column that needs no more than a cast, or None."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), wanted)
    given = values.type
    text = pa.types.is_string(given) or pa.types.is_large_string(given)
    try:
        if wanted == pa.string():
            return values.cast(wanted) if text and name not in JSON_OBJECTS | JSON_VALUES else None
        if wanted == columns.TIMESTAMP:
            if not pa.types.is_timestamp(given):
                return None
            microseconds = values.cast(pa.timestamp("us", tz=given.tz), safe=False)  # cuts nanoseconds
            return microseconds.cast(wanted) if given.tz else pc.assume_timezone(microseconds, "UTC")
        if wanted == columns.MONEY:
            return values.cast(wanted) if pa.types.is_decimal(given) else None
        if wanted == pa.float64():
            plain = values.cast(wanted) if pa.types.is_floating(given) or pa.types.is_integer(given) else None
            return None if plain is None or _has_infinite(plain) else pc.if_else(pc.is_nan(plain), None, plain)
        if pa.types.is_integer(wanted):
            return values.cast(wanted) if pa.types.is_integer(given) else None
        return values.cast(wanted) if given == wanted else None
    except pa.ArrowInvalid:
        return None


def _whole(name: str, values: Sequence[Any], types: set[type], wanted: pa.DataType) -> pa.Array | None:
    """A list of plain Python values in one Arrow call, or None when some value needs a closer look."""
    try:
        if types == {str}:
            return _whole_text(name, pa.array(values, pa.string()), wanted)
        if types == {dict}:
            return pa.array([None if value is None else orjson.dumps(value).decode() for value in values]) if name == "metadata" else None
        if types <= {int, float} and wanted in (pa.float64(), columns.MONEY):
            return _whole_numbers(pa.array(values, pa.float64()), wanted)
        if types == {datetime} and not all(value is None or value.tzinfo for value in values):
            return None
        return pa.array(values, wanted) if types == {_SPELLED.get(wanted)} else None
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, UnicodeEncodeError, orjson.JSONEncodeError):
        return None


# What Python calls a value that Arrow takes as it is. (Arrow itself would take 1.5 as the integer 1, and "ab" as a list.)
_SPELLED: Mapping[pa.DataType, type] = {
    columns.STRINGS: list,
    columns.TIMESTAMP: datetime,
    pa.bool_(): bool,
    pa.int32(): int,
    pa.int64(): int,
}


def _whole_numbers(numbers: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    if wanted == columns.MONEY:
        return _money_of(numbers)
    return None if _has_infinite(numbers) else numbers


def _whole_text(name: str, text: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    if wanted == pa.string():
        return None if name in JSON_OBJECTS | JSON_VALUES else text
    if wanted == columns.STRINGS or wanted == pa.bool_():
        return None
    if wanted == columns.TIMESTAMP:
        try:
            return text.cast(wanted)  # every value carries Z or an offset
        except pa.ArrowInvalid:
            return pc.assume_timezone(text.cast(pa.timestamp("us")), "UTC")  # none does
    if pc.any(pc.match_substring_regex(text, r"[^0-9.eE+-]")).as_py():  # nan, inf, 0x10, spaces
        return None
    return text.cast(wanted)


def _money_of(numbers: pa.Array) -> pa.Array:
    """Exact amounts from binary floats: by their shortest text (0.1 is 0.1), rounded where that has over 12 decimals."""
    try:
        return numbers.cast(pa.string()).cast(columns.MONEY)
    except pa.ArrowInvalid:
        if (pc.max(pc.abs(numbers)).as_py() or 0) > 1_000:  # beyond it a float does not carry 12 decimals
            raise
        return numbers.cast(columns.MONEY)


def _has_infinite(numbers: pa.Array) -> bool:
    return bool(pc.any(pc.is_inf(numbers)).as_py())


_MOST: Mapping[str, int | float] = {
    name: LONGEST_SECONDS if name.endswith("_seconds") else DEAREST if kind == columns.MONEY else MOST_TOKENS
    for name, kind in columns.RUN_FIELDS
    if name.endswith(("_seconds", "_tokens", "_calls", "_cost", "retrievals"))
}


def _within(name: str, column: pa.Array, findings: Findings) -> pa.Array:
    """The column without figures that cannot be: negative ones, and those beyond what one run can have."""
    figures = column.cast(pa.float64(), safe=False)
    possible = pc.and_(pc.greater_equal(figures, 0), pc.less_equal(figures, float(_MOST[name])))  # which NaN is not
    bad = pc.invert(pc.fill_null(possible, fill_value=True))
    return _without_values(name, column, bad, findings)


def _not_before(ends: pa.Array, starts: pa.Array, findings: Findings) -> pa.Array:
    """The ends without those that lie before the start."""
    return _without_values("end_time", ends, pc.fill_null(pc.less(ends, starts), fill_value=False), findings)


def _without_values(name: str, column: pa.Array, bad: pa.Array, findings: Findings) -> pa.Array:
    if not pc.any(bad).as_py():
        return column
    for row in pc.indices_nonzero(bad).to_pylist():
        value = column[row].as_py()
        findings.unreadable(row, name, value, Problem("impossible_value", f"{name} is {shown(value)}: leave it out when it is unknown"))
    return pc.if_else(bad, pa.scalar(None, column.type), column)


# Single values ---------------------------------------------------------------------------------------------


def _one_by_one(name: str, values: Sequence[Any], wanted: pa.DataType, findings: Findings) -> pa.Array:
    read = _reader(name, wanted)
    result: list[Any] = []
    for row, value in enumerate(values):
        if value is None:
            result.append(None)
            continue
        try:
            result.append(read(value))
        except ValueError as error:
            result.append(None)
            findings.unreadable(row, name, value, Problem("wrong_type", f"{name} is {shown(value)}; expected {error}"))
    return pa.array(result, wanted)


def _reader(name: str, wanted: pa.DataType) -> Callable[[Any], Any]:
    if name == "labels":
        return _labels
    if name in JSON_OBJECTS:
        return lambda value: _json_object(name, value)
    if name in JSON_VALUES:
        return _json_value
    if wanted == pa.string():
        return _free_text if name in FREE_TEXT else _text
    if wanted == columns.TIMESTAMP:
        return parse_time
    if wanted == columns.MONEY:
        return _money
    if wanted == columns.STRINGS:
        return _strings
    if wanted == pa.bool_():
        return _boolean
    if wanted == pa.float64():
        return _float
    return lambda value: _integer(value, 2**31 if wanted == pa.int32() else _INTEGER_LIMIT)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return _without_surrogates(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, Decimal)):
        return str(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    raise _UnreadableError("text")


def _free_text(value: Any) -> str:
    return json_text(value) if isinstance(value, (dict, list)) else _text(value)


def _json_value(value: Any) -> str:
    if isinstance(value, str):
        try:
            orjson.loads(value)
            return value
        except orjson.JSONDecodeError:
            pass  # plain text: kept as a JSON string
    return json_text(value)


def _json_object(name: str, value: Any) -> str | None:
    if isinstance(value, str):
        if value.strip().lower() in _MISSING:
            return None
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict):
            return value
    return json_text(value if isinstance(value, dict) else {name: value})


def _labels(value: Any) -> str:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            value = None
    if not isinstance(value, dict):
        raise _UnreadableError('a JSON object of texts, such as {"cache": "answers"}')
    flat = {str(key): item if isinstance(item, str) else json_text(item) for key, item in value.items() if item is not None}
    return orjson.dumps({_without_surrogates(key): _without_surrogates(item) for key, item in sorted(flat.items())}).decode()


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise _UnreadableError("a number")
    text = str(value).strip()
    if text.lower() in _MISSING:
        return None
    if _GROUPED.fullmatch(text):
        text = text.translate(_GROUP_MARKS)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise _UnreadableError("a number, with a point for decimals and no units") from None
    if not number.is_finite() or "_" in text:
        raise _UnreadableError("a finite number")
    return number


def _float(value: Any) -> float | None:
    number = _number(value)
    if number is None:
        return None
    result = float(number)
    if math.isinf(result):
        raise _UnreadableError("a number below 1.8e308")
    return result


def _integer(value: Any, limit: int) -> int | None:
    if isinstance(value, str) and _GROUPED_WHOLE.fullmatch(value.strip()):  # of a whole number, 1,234 has one meaning only
        value = value.replace(",", "")
    number = _number(value)
    if number is None:
        return None
    if abs(number) >= limit or number != int(number):
        raise _UnreadableError(f"a whole number below {limit}")
    return int(number)


def _money(value: Any) -> Decimal | None:
    number = as_amount(value)
    if number is None:
        return None
    if abs(number) >= _MONEY_LIMIT:
        raise _UnreadableError(f"an amount in US dollars below {_MONEY_LIMIT}")
    return number.quantize(_MONEY_STEP, ROUND_HALF_EVEN)


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        if text in _MISSING:
            return None
    raise _UnreadableError("true or false")


def _strings(value: Any) -> list[str] | None:
    if isinstance(value, str):
        if value.strip().lower() in _MISSING:
            return None
        if value.lstrip().startswith("["):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                raise _UnreadableError("a list of texts") from None
        else:
            value = [value]
    if not isinstance(value, (list, tuple)):
        raise _UnreadableError("a list of texts")
    return [_free_text(item) for item in value if item is not None]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def _printable(value: Any, depth: int = 0) -> Any:
    """The same value without what JSON text cannot carry; nesting below 100 levels becomes text."""
    if isinstance(value, str):
        return _without_surrogates(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _INTEGER_LIMIT:
        return str(value)
    if isinstance(value, (dict, list)) and depth >= 100:
        return _without_surrogates(repr(value))
    if isinstance(value, dict):
        return {_without_surrogates(str(key)): _printable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item, depth + 1) for item in value]
    return value


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
