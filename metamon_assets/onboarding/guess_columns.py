"""Guessing what the columns of somebody's file are, and writing it down as a mapping.

Here belong pure functions over a sample of rows as they stand in the file. Beside whom a run belongs to (``guess``) a file
may name anything as it likes: its time, with or without a zone; latency in seconds or milliseconds, told by the name or by
size; status in words, codes or as a flag. What cannot be told is left out and said, never made up.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from functools import cache
from typing import Any

from pydantic import JsonValue

from metamon_assets.onboarding.guess import IDENTITY, Confidence, Guess, Place, best_named, described, is_empty, places, printable, word_set
from metamon_assets.traces.columns import RUNS
from metamon_assets.traces.normalise import known_status
from metamon_assets.traces.sources.base import Kind
from metamon_assets.traces.sources.conversion import parse_time
from metamon_assets.traces.sources.mapping import Mapping as ColumnMapping
from metamon_assets.traces.sources.mapping import bundled, joined, load

Reader = Callable[[Any], Any]  # what a value means; None: nothing that can be read

REQUIRED = ("start_time", "latency_seconds", "status")  # said even when they are not found
_READABLE = 0.95  # of the values of a column must be times for it to be taken as one whatever its name
_MOSTLY = 0.5  # of the values of a column that is named for it must be what the name says; the others are dirt, and said
_FEW_WORDS = 10  # so many different values may stand for "unknown"; more are faults of the file
_LONGEST_WORD = 20
_ENOUGH = 20  # times from which on it means something that all have the same time of day
_DAY_FIRST, _MONTH_FIRST = "%d/%m/%Y", "%m/%d/%Y"
_DATES = (
    "%Y-%m-%d",
    "%d.%m.%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    _MONTH_FIRST,
    _DAY_FIRST,
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%d %b %Y",
    "%b %d, %Y",
    "%d/%b/%Y",
)
_CLOCKS = (" %H:%M:%S", " %H:%M:%S.%f", " %H:%M", " %I:%M:%S %p", " %I:%M %p", "T%H:%M:%S", ":%H:%M:%S %z", " %H:%M:%S %z", "")
FORMATS = (*(date + clock for date in _DATES for clock in _CLOCKS), "%a, %d %b %Y %H:%M:%S %z", "%a %b %d %H:%M:%S %Y")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s?([AaPp][Mm])?([Zz]|[+-]\d{2}:?\d{2})?")
_CLOCK_WORDS = word_set("time clock hour tod zeit uhrzeit heure hora ora")
_NO_CLOCK_WORDS: Mapping[str, frozenset[str]] = {
    column: word_set(f"{others} response total run processing latency duration elapsed took taken wall execution first zone")
    for column, others in {"start_time": "end ended finish finished stop", "end_time": "start started begin begun"}.items()
}
_EPOCHS = (("seconds", 1e11), ("milliseconds", 1e14), ("microseconds", 1e17), ("nanoseconds", float("inf")))  # each below
_ZONE = re.compile(r"([Zz]|[+-]\d{2}:?\d{2}|\s(?:UTC|GMT))$")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
_WITH_UNIT = re.compile(r"([0-9]*\.?[0-9]+)\s?(ms|msec|millis|milliseconds|us|µs|s|sec|secs|seconds|min|m)", re.IGNORECASE)
_UNITS: Mapping[str, frozenset[str]] = {
    "ms": word_set("ms msec msecs millis millisecond milliseconds"),
    "us": word_set("us µs usec micros microsecond microseconds"),
    "ns": word_set("ns nanos nanosecond nanoseconds"),
    "min": word_set("min m mins minute minutes"),
    "s": word_set("s sec secs second seconds"),
}

# Usual names of other columns than those of ``guess``, the best first; units at their end are taken off before.
_NAMES: Mapping[str, tuple[str, ...]] = {
    column: tuple(names.split())
    for column, names in {
        "run_id": "run_id request_id span_id call_id id uuid log_id event_id message_id",
        "trace_id": "trace_id trace root_id root_run_id",
        "parent_run_id": "parent_run_id parent_id parent_span_id parent",
        "name": "name operation operation_name span_name endpoint route task",
        "run_type": "run_type span_kind kind",
        "tool_name": "tool_name tool function_name",
        "environment": "environment env deployment_environment stage",
        "mode": "mode",
        "start_time": (
            "start_time started_at start started timestamp time ts date_time datetime date when created_at created begin begin_time"
            " begun_at request_time requested_at event_time logged_at log_time at_timestamp time_stamp unix_time epoch zeit zeitpunkt"
        ),
        "end_time": "end_time ended_at end ended finished_at finish_time completed_at stop_time stopped_at response_at",
        "latency_seconds": (
            "latency duration elapsed elapsed_time took response_time total_time run_time runtime processing_time wall_time total_latency"
            " request_duration time_taken execution_time e2e_latency dauer dur ms msec millis milliseconds secs seconds time rt"
        ),
        "time_to_first_token_seconds": "time_to_first_token ttft first_token_latency first_token_time first_token time_to_first_byte ttfb",
        "status": (
            "status state outcome result run_status http_status status_code response_code http_status_code response_status code success"
            " succeeded is_success ok passed is_error has_error errored failed is_failed failure"
        ),
        "error_message": "error_message error error_msg exception exception_message err failure_reason error_text error_detail fehler",
        "error_type": "error_type error_code error_class exception_type error_name error_kind",
        "request_model": "request_model model model_name model_id llm_model llm engine deployment_name",
        "response_model": "response_model",
        "provider": "provider vendor llm_provider model_provider",
        "input_tokens": (
            "input_tokens prompt_tokens tokens_in in_tokens in_tok tok_in input_tok prompt_tok num_input_tokens"
            " num_prompt_tokens n_input_tokens context_tokens request_tokens input_token_count tokens_input"
            " prompt_token_count tokens_prompt"
        ),
        "output_tokens": (
            "output_tokens completion_tokens tokens_out out_tokens out_tok tok_out output_tok completion_tok num_output_tokens"
            " num_completion_tokens generated_tokens response_tokens output_token_count tokens_output"
            " completion_token_count tokens_completion"
        ),
        "total_tokens": "total_tokens tokens num_tokens token_count n_tokens tokens_total",
        "total_cost": "total_cost cost cost_usd price total_price usd amount_usd cost_in_usd cost_dollars spend",
        "prompt_name": "prompt_name prompt_template prompt_id",
        "prompt_version": "prompt_version",
    }.items()
}  # fmt: skip
_FAILURE_FLAGS = frozenset({"is_error", "has_error", "errored", "failed", "is_failed", "failure"})
_FLAG_WORDS = {"true": True, "1": True, "yes": True, "y": True, "t": True, "false": False, "0": False, "no": False, "n": False, "f": False}
_SAYS_ERROR = re.compile(
    r"err|fail|exception|timeout|timed|abort|cancel|denied|reject|refus|crash|limit|invalid|unavailable|\bko\b", re.IGNORECASE
)
_SAYS_SUCCESS = re.compile(r"succe|^ok|okay|\bok\b|complete|done|finish|pass|good|200", re.IGNORECASE)
_WORDS_OF_STATUS = 30  # more different ones are no statuses


@dataclass(frozen=True, slots=True)
class FileGuess:
    """What a file's columns are: a guess for each unified column, the mapping that says so, and what people should know."""

    guesses: tuple[Guess, ...]
    mapping: dict[str, JsonValue] | str | None  # as in metamon.yaml; a name: one that comes with Metamon; None: unified names
    remarks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # of REQUIRED, what was not found

    @property
    def usable(self) -> bool:
        """Whether there is enough to tell when each run started."""
        return "start_time" not in self.missing


def guess_columns(
    rows: Sequence[Mapping[str, Any]],
    *,
    project: str,
    delimiter: str | None = None,
    zone: str | None = None,
    edits: Mapping[str, str | None] | None = None,
) -> FileGuess:
    """What the columns of these rows are.

    ``delimiter`` is written into the mapping of a CSV file that is not separated by commas; ``zone`` is that of times which
    name none (otherwise they are taken as UTC); ``edits`` says of some columns where they are, or None: nowhere.
    """
    found = places(rows)
    edits = edits or {}
    if not edits and _in_unified_names(found) and delimiter is None and zone is None:
        names = [name for name in RUNS.names if name in found]
        remarks = said_of_one_clock(found["start_time"].name, readable_times(found["start_time"], _MOSTLY))
        return FileGuess(tuple(described(name, found[name], "convention") for name in names), None, tuple(remarks))
    if not edits and zone is None and (known := _bundled(rows)):
        return FileGuess((), known, (f"These are the columns of the mapping {known}, which comes with Metamon.",))
    maker = _Maker(found, rows, zone, edits)
    maker.make()
    mapping: dict[str, JsonValue] = {"columns": maker.columns(project)}
    if maker.rules:
        mapping["rules"] = maker.rules
    if delimiter is not None:
        mapping["delimiter"] = delimiter
    if gaps := sorted(name for name in maker.used if any(name not in row for row in rows)):
        mapping["optional"] = list(gaps)
    missing = tuple(column for column in REQUIRED if not (column in maker.guesses and maker.guesses[column].used))
    return FileGuess(tuple(maker.guesses.values()), mapping, tuple(maker.remarks), missing)


def _in_unified_names(found: Mapping[str, Place]) -> bool:
    """Whether a file needs no mapping: it has the two columns that every row needs, under our names and readable."""
    if not {"run_id", "start_time"} <= found.keys():
        return False
    times = readable_times(found["start_time"], _MOSTLY)
    return times is not None and times.kind == "ISO"


def _bundled(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The mapping that comes with Metamon for files of just these columns."""
    names = {name for row in rows for name in row}
    for known, mapping in _bundled_mappings().items():
        if mapping.kind is Kind.RUNS and mapping.inputs <= names and len(mapping.inputs) > len(names) / 2:
            return known
    return None


@cache
def _bundled_mappings() -> dict[str, ColumnMapping]:
    return {name: load(name) for name in bundled()}


class _Maker:
    """The guesses for one file as they are made: what is taken for one column is not taken for another."""

    def __init__(
        self, found: Mapping[str, Place], rows: Sequence[Mapping[str, Any]], zone: str | None, edits: Mapping[str, str | None]
    ) -> None:
        self.found = found
        self.rows = rows
        names = {name for row in rows for name in row}
        self.empty = [Place(name, (), 0) for name in sorted(names - found.keys())]  # columns without a value in the sample
        self.joins: dict[str, list[str]] = {}  # columns that make one place together, by its name
        self.placed: dict[str, Place] = {}
        self.zone = zone
        self.edits = edits
        self.guesses: dict[str, Guess] = {}
        self.rules: list[JsonValue] = []
        self.remarks: list[str] = []
        self.taken: set[str] = set()

    def make(self) -> None:
        self._time("start_time")
        self._time("end_time")
        self._latency("latency_seconds")
        self._latency("time_to_first_token_seconds")
        self._figures()
        self._status()
        self._errors()
        self._identifiers()
        for column in ("request_model", "response_model", "provider", "tool_name", "environment", "mode", "name", "run_type"):
            self._text(column)
        self._prompt()
        self._identity()

    def columns(self, project: str) -> dict[str, JsonValue]:
        """The part ``columns`` of the mapping."""
        columns: dict[str, JsonValue] = {
            column: guess.rule for column, guess in self.guesses.items() if guess.used and guess.rule is not None
        }
        if "run_id" not in columns:
            columns = {"run_id": {"line": True}, **columns}
        if "agent_name" not in columns and "agent_name" not in self.edits:
            columns["agent_name"] = {"value": project}
            self.remarks.append(f"No column names an agent: all runs count as one agent, {printable(project)}.")
        return columns

    def candidates(self, column: str) -> list[Place]:
        """Places that are named for the column, the best name first; or the one that somebody named."""
        if column in self.edits:
            return self.edited(column)
        names = _NAMES[column]
        free = [place for name, place in self.found.items() if name not in self.taken]
        ranked = [(names.index(joined), place) for place in free if (joined := _joined(place)) in names]
        own = [place for place in free if place.name == column]
        return own + [place for _, place in sorted(ranked, key=lambda item: item[0]) if place not in own]

    def keep(self, column: str, place: Place, rule: JsonValue, remark: str = "") -> None:
        confidence: Confidence = "convention" if place.name == column else "likely"
        self.guesses[column] = described(column, place, confidence, rule=rule, remark=remark)
        self.placed[column] = place
        self.taken.update(self.joins.get(place.name, [place.name]))

    @property
    def used(self) -> set[str]:
        """The columns that the mapping reads."""
        used = {name for guess in self.guesses.values() if guess.used and (name := guess.place)}
        return {name for place in used for name in self.joins.get(place, [place])}

    # Times -------------------------------------------------------------------------------------------------

    def _time(self, column: str) -> None:
        named = self.candidates(column)
        found = self._best_time(column, named, _MOSTLY)
        if found is None and column == "start_time" and column not in self.edits:
            others = [place for place in self.found.values() if place not in named and place.name not in self.taken and _is_text(place)]
            found = self._best_time(column, others, _READABLE)
        if found is not None:
            self.keep(column, found[0], self._time_rule(column, *found), self._said_of_time(*found))

    def _best_time(self, column: str, named: Sequence[Place], least: float) -> tuple[Place, Times] | None:
        """The first place with times; dates alone are taken with the time of day that stands beside them, or in the end as they are."""
        found = [(place, times) for place in named if (times := readable_times(place, least))]
        if whole := [(place, times) for place, times in found if times.only_clock is None]:
            return whole[0]
        pairs = (pair for place, _ in found if column not in self.edits and (pair := self._with_clock(column, place)))
        return next(pairs, found[0] if found else None)

    def _with_clock(self, column: str, day: Place) -> tuple[Place, Times] | None:
        clocks = [place for place in self.found.values() if place.name not in self.taken and _is_clock(place, _NO_CLOCK_WORDS[column])]
        for clock in sorted(clocks, key=lambda place: (-len({*place.words} & {*day.words}), len(place.words), place.name)):
            both = self._together([day.name, clock.name])
            if both.values and (times := readable_times(both, _MOSTLY)):
                return both, times
        return None

    def _together(self, names: list[str]) -> Place:
        """Several columns as one place, as ``join`` in a mapping reads them."""
        texts = [joined(row.get(name) for name in names) for row in self.rows]
        name = " + ".join(names)
        self.joins[name] = names
        return Place(name, tuple(text for text in texts if text is not None), len(self.rows))

    def _time_rule(self, column: str, place: Place, times: Times) -> JsonValue:
        origin: dict[str, JsonValue] = {"join": [*self.joins[place.name]]} if place.name in self.joins else {"column": place.name}
        steps = _unknown(place, times.read) if column == "end_time" else {}  # a row needs a start, not an end
        if times.kind not in ("ISO", "epoch"):
            steps["format"] = times.kind
        if self.zone is not None and times.kind != "epoch" and not _has_zone(place):
            steps["zone"] = self.zone
        return {**origin, **steps} if steps or "join" in origin else place.name

    def _said_of_time(self, place: Place, times: Times) -> str:
        kind, name = times.kind, printable(place.name)
        self._say_dirt(place, "a time", times.read)
        self.remarks += said_of_one_clock(place.name, times)
        if kind == "epoch":
            return f"{_epoch_units(place)} since 1970"
        if not _has_zone(place) and self.zone is None:
            self.remarks.append(f"The times in {name} name no zone and are taken as UTC; otherwise say --zone Europe/Vienna.")
        if times.either:
            first = "days" if kind.startswith("%d") else "months"
            self.remarks.append(f"In {name} {first} seem to come first; if not, correct `format` in metamon.yaml.")
        return "" if kind == "ISO" else kind

    def _say_dirt(self, place: Place, what: str, read: Reader, *, unknown: bool = False) -> None:
        """Say of how many rows a column is what it is taken for, where something else stands in the others."""
        dirt = [str(value) for value in place.values if read(value) is None]
        if not dirt:
            return
        share = (len(place.values) - len(dirt)) / place.runs
        common = ", ".join(printable(word, 20) for word, _ in Counter(dirt).most_common(3))
        then = "which counts as unknown" if unknown else "and such rows are put into quarantine with the reason"
        self.remarks.append(f"{printable(place.name)} is {what} in {min(share, 0.99):.0%} of the rows; in others it is {common}, {then}.")

    # Figures -----------------------------------------------------------------------------------------------

    def _latency(self, column: str) -> None:
        for place in self.candidates(column):
            if found := _duration_rule(place, self._measured(place)):
                spelled = _share_of(place, _duration_of) < _MOSTLY  # what a pattern does not find is unknown too
                read = _spelled_duration if spelled else _duration_of
                self._say_dirt(place, "a duration", read, unknown=spelled or bool(_unknown(place, read)))
                self.keep(column, place, *found)
                return

    def _measured(self, place: Place) -> float | None:
        """The median of end − start in seconds, where a file has all three for all runs: it tells the unit for sure."""
        both = [self.placed[name] for name in ("start_time", "end_time") if name in self.placed]
        if len(both) < 2 or len({len(part.values) for part in (*both, place)}) > 1:
            return None
        try:
            spans = [_moment(end) - _moment(start) for start, end in zip(both[0].values, both[1].values, strict=True)]
        except ValueError:
            return None
        return statistics.median(spans)

    def _figures(self) -> None:
        for column in ("input_tokens", "output_tokens", "total_tokens", "total_cost"):
            for place in self.candidates(column):
                if _share_of(place, _number_of) >= _MOSTLY:
                    cents = "cents" in place.words
                    remark = "cents" if cents else "US dollars" if column == "total_cost" else ""
                    unknown = _unknown(place, _number_of)
                    self._say_dirt(place, "a number", _number_of, unknown=bool(unknown))
                    self.keep(column, place, _number_rule(place, unknown | ({"scale": 0.01} if cents else {})), remark)
                    break

    # Status ------------------------------------------------------------------------------------------------

    def _status(self) -> None:
        for place in self.candidates("status"):
            words = Counter(text.strip() for text in place.texts)
            if len(words) > _WORDS_OF_STATUS:
                continue
            rule, remark, unknown = _status_rule(place, words)
            if unknown:
                shown = ", ".join(printable(word) for word in unknown)
                self.remarks.append(f"What {shown} in {printable(place.name)} means is not known, so it counts as an error: see `map`.")
            self.keep("status", place, rule, remark)
            return

    def _errors(self) -> None:
        for column in ("error_type", "error_message"):
            for place in self.candidates(column):
                flags = {text.strip().lower() for text in place.texts} <= _FLAG_WORDS.keys()
                if flags and "status" not in self.guesses and column == "error_message":
                    self.keep("status", place, {"column": place.name, "map": _flag_map(place, failure=True)}, "true is an error")
                elif not flags and _is_text(place):
                    self.keep(column, place, place.name)
                    if "status" not in self.guesses and column == "error_message":
                        self._failed_where(place)
                    break

        # Where nothing failed in the sample, something will.
        for place in self.empty:
            if "error_message" not in self.guesses and "error_message" not in self.edits and _joined(place) in _NAMES["error_message"]:
                self.guesses["error_message"] = Guess("error_message", place.name, "likely", rule=place.name, remark="empty in the sample")
                if "status" not in self.guesses:
                    self._failed_where(place)

    def _failed_where(self, place: Place) -> None:
        """Without a status, a run failed where an error is written."""
        self.guesses["status"] = replace(described("status", place, "likely"), remark="error where it is not empty")
        self.rules.append({"when": {"not_empty": place.name}, "set": {"status": "error"}})

    # Names -------------------------------------------------------------------------------------------------

    def _identifiers(self) -> None:
        for place in self.candidates("run_id"):
            if place.distinct == len(place.values) == place.runs:
                self.keep("run_id", place, place.name)
                break
        if "run_id" in self.guesses:
            for column in ("trace_id", "parent_run_id"):
                self._text(column)

    def _text(self, column: str) -> None:
        for place in self.candidates(column):
            self.keep(column, place, place.name)
            return

    def _prompt(self) -> None:
        for column in ("prompt_name", "prompt_version"):
            self._text(column)

    def _identity(self) -> None:
        for column in IDENTITY:
            if column in self.edits:
                for place in self.edited(column):
                    self.keep(column, place, place.name, "as you said")
                continue
            if column in self.found and column not in self.taken:
                self.keep(column, self.found[column], column)
                continue
            guess = best_named(column, self.found.values(), self.taken)
            self.guesses[column] = guess
            if guess.used and guess.place:
                self.taken.add(guess.place)

    def edited(self, column: str) -> list[Place]:
        """The place that somebody named for the column, if the sample has it."""
        named = self.edits[column] or ""
        if named in self.found:
            return [self.found[named]]
        parts = [part.strip() for part in named.split("+")]
        together = column in ("start_time", "end_time") and len(parts) > 1 and all(part in self.found for part in parts)
        return [place] if together and (place := self._together(parts)).values else []


# Values ------------------------------------------------------------------------------------------------------


def _joined(place: Place) -> str:
    """The name in our spelling, without a unit at its end: responseTimeMs is response_time."""
    words = list(place.words)
    if len(words) > 1 and words[-1] in frozenset().union(*_UNITS.values(), {"cents"}):
        words.pop()
        if len(words) > 1 and words[-1] == "in":  # duration_in_ms, but not tokens_in
            words.pop()
    return "_".join(words)


def _is_text(place: Place) -> bool:
    """Whether the values are words rather than figures."""
    return all(isinstance(value, (str, datetime)) for value in place.values) and _share_of(place, _number_of) < 0.5


def _share_of(place: Place, read: Reader) -> float:
    return sum(read(value) is not None for value in place.values) / len(place.values)


def _number_of(value: Any) -> float | None:
    if isinstance(value, bool) or is_empty(value):
        return None
    if isinstance(value, str):
        text = value.strip()
        if _COMMA_NUMBER.fullmatch(text):
            return float(text.replace(",", "."))
        return float(text) if _NUMBER.fullmatch(text) else None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _duration_of(value: Any) -> float | None:
    """A number that may be a duration."""
    number = _number_of(value)
    return number if number is not None and number >= 0 else None


def _spelled_duration(value: Any) -> re.Match[str] | None:
    """Number and unit of a duration that carries its unit."""
    return _WITH_UNIT.fullmatch(str(value).strip())


def _unknown(place: Place, read: Reader) -> dict[str, JsonValue]:
    """A step that makes the words for "unknown" (-1, n/a) empty; no step where there are none, or too many for words."""
    words = {str(value).strip() for value in place.values if read(value) is None}
    if not words or len(words) > _FEW_WORDS or max(map(len, words)) > _LONGEST_WORD:
        return {}
    return {"map": dict.fromkeys(sorted(words))}


def _decimal_commas(place: Place) -> bool:
    return any(isinstance(value, str) and _COMMA_NUMBER.fullmatch(value.strip()) for value in place.values)


def _number_rule(place: Place, steps: dict[str, JsonValue]) -> JsonValue:
    if _decimal_commas(place):
        steps = {"decimal_comma": True, **steps}
    return {"column": place.name, **steps} if steps else place.name


@dataclass(frozen=True, slots=True)
class Times:
    """How the values of a place are times."""

    kind: str  # "ISO", "epoch" or a strptime format
    read: Reader
    only_clock: time | None  # where all have the same time of day: dates, most likely
    either: bool = False  # whether an order with days first and one with months first are both possible


def readable_times(place: Place, least: float) -> Times | None:
    """How at least this share of the values are times; None: they are not."""
    for kind, read in (("ISO", _iso), ("epoch", _epoch)):
        if _share_of(place, read) >= least and (kind == "ISO" or place.words[-1:] != ("id",)):
            return Times(kind, read, _only_clock(place, read))
    step = max(1, len(place.values) // 20)
    spread = Place(place.name, place.values[::step], place.runs)
    shares = {
        form: share
        for form in FORMATS
        if _share_of(spread, _reader(form)) >= least / 2 and (share := _share_of(place, _reader(form))) >= least
    }
    if not shares:
        return None
    fitting = [form for form, share in shares.items() if share == max(shares.values())]
    form = min(fitting, key=lambda form: _span(place, _reader(form)))
    either = "%b" not in form and {"%d", "%m"} <= {form[:2] for form in fitting}
    return Times(form, _reader(form), _only_clock(place, _reader(form)), either)


def said_of_one_clock(name: str, times: Times | None) -> list[str]:
    """A remark on times that are all at the same time of day, which makes hours and minutes meaningless."""
    if times is None or times.only_clock is None:
        return []
    when = "at midnight" if times.only_clock == time(0) else f"at {times.only_clock}"
    remark = (
        f"All times in {printable(name)} are {when}: they tell the day of a run and not the time of day, so nothing within a day "
        "(incidents, the minutes of a change) can be right. If another column has it: --map start_time=COLUMN, or "
        f"--map start_time={printable(name)}+COLUMN for a time of day alone."
    )
    return [remark]


def _only_clock(place: Place, read: Reader) -> time | None:
    """The time of day that all of the times have."""
    moments = [moment for value in place.values if (moment := read(value)) is not None]
    clocks = {moment.time() for moment in moments}
    clock = clocks.pop()
    return clock if not clocks and (clock == time(0) or len(moments) >= _ENOUGH) else None


def _is_clock(place: Place, otherwise: frozenset[str]) -> bool:
    """Whether values and name are those of a time of day; one that never reaches an hour is rather a duration."""
    words = {*place.words}
    if not words & _CLOCK_WORDS or words & otherwise:
        return False
    texts = [text.strip() for text in place.texts]
    if len(texts) >= _ENOUGH and all(text.startswith(("00:", "0:")) for text in texts):
        return False
    return sum(bool(_CLOCK.fullmatch(text)) for text in texts) >= _MOSTLY * len(texts)


@cache
def _reader(form: str) -> Reader:
    """What reads times of a strptime format."""

    def read(value: Any) -> datetime | None:
        try:
            return datetime.strptime(str(value).strip(), form)  # noqa: DTZ007 - compared with each other only
        except ValueError:
            return None

    return read


def _span(place: Place, read: Reader) -> float:
    """Seconds between the first and the last time: the wrong order of day and month tears a log of some days apart."""
    moments = [moment for value in place.values if (moment := read(value)) is not None]
    try:
        return float((max(moments) - min(moments)).total_seconds())
    except TypeError:  # some with a zone
        return 0.0


def _epoch_units(place: Place) -> str:
    """What numbers since 1970 count, by their size."""
    numbers = [number for value in place.values if (number := _number_of(value)) is not None and _epoch(value) is not None]
    units = {next(unit for unit, below in _EPOCHS if number < below) for number in numbers}
    return " or ".join(unit for unit, _ in _EPOCHS if unit in units)


def _iso(value: Any) -> datetime | None:
    try:
        return None if _number_of(value) is not None and len(str(value).strip()) != 8 else parse_time(value)
    except ValueError:
        return None


def _epoch(value: Any) -> datetime | None:
    try:
        return parse_time(value) if _number_of(value) is not None else None
    except ValueError:
        return None


def _moment(value: Any) -> float:
    moment = parse_time(value)
    if moment is None:
        raise ValueError(value)
    return moment.timestamp()


def _has_zone(place: Place) -> bool:
    if all(isinstance(value, datetime) for value in place.values):
        return all(value.tzinfo is not None for value in place.values)
    return all(_ZONE.search(text.strip()) for text in place.texts)


def _duration_rule(place: Place, measured: float | None) -> tuple[JsonValue, str] | None:
    """How a place gives seconds, and how its unit was told; None: its values are no durations."""
    if any(isinstance(value, bool) for value in place.values):
        return None
    numbers = [number for value in place.values if (number := _duration_of(value)) is not None]
    if len(numbers) < _MOSTLY * len(place.values):
        return _spelled_durations(place)
    unit, why = _unit(place, numbers, measured)
    steps = _unknown(place, _duration_of)
    if unit != "s":
        steps["unit"] = unit
    return _number_rule(place, steps), f"{unit}, {why}"


def _unit(place: Place, numbers: Sequence[float], measured: float | None) -> tuple[str, str]:
    """The unit of durations: by the name, by the times of start and end, or by size."""
    for unit, words in _UNITS.items():
        if place.words and place.words[-1] in words:
            return unit, "by its name"
    positive = [number for number in numbers if number > 0]
    middle = statistics.median(positive) if positive else 0.0
    if measured and middle:
        ratio = middle / measured
        for unit, per_second in (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
            if 0.5 < ratio / per_second < 2:
                return unit, "by start and end"
    # Calls of models take from tens of milliseconds to minutes: as seconds, medians lie below 100; as milliseconds, above.
    for unit, least in (("ns", 1e9), ("us", 1e6), ("ms", 100.0)):
        if middle >= least:
            return unit, f"by its size (median {middle:,.6g})"
    return "s", f"by its size (median {middle:,.4g})"


def _spelled_durations(place: Place) -> tuple[JsonValue, str] | None:
    """Durations that carry their unit: 1.2s, 350 ms."""
    matches = [_spelled_duration(value) for value in place.values]
    found = {match.group(2) for match in matches if match}
    if not found or sum(match is None for match in matches) > (1 - _MOSTLY) * len(matches):
        return None
    rules: list[JsonValue] = []
    for spelling in sorted(found):
        unit = next(
            (unit for unit, words in _UNITS.items() if spelling.lower() in words), {"µs": "us", "m": "min"}.get(spelling.lower(), "s")
        )
        rules.append({"column": place.name, "pattern": rf"^\s*([0-9.]+)\s?{spelling}\s*$", "unit": unit})
    return (rules if len(rules) > 1 else rules[0]), "with their units"


def _status_rule(place: Place, words: Mapping[str, int]) -> tuple[JsonValue, str, list[str]]:
    """How a place says whether a run succeeded, a remark, and the words whose meaning had to be guessed."""
    if {word.lower() for word in words} <= _FLAG_WORDS.keys():
        failure = _joined(place) in _FAILURE_FLAGS
        return {"column": place.name, "map": _flag_map(place, failure=failure)}, f"true is {'an error' if failure else 'a success'}", []
    meaning: dict[str, JsonValue] = {}
    unknown = []
    for word in words:
        if known_status(word) is None:
            succeeded = bool(_SAYS_SUCCESS.search(word)) and not _SAYS_ERROR.search(word)
            meaning[word] = "success" if succeeded else "error"
            if not succeeded and not _SAYS_ERROR.search(word):
                unknown.append(word)
    remark = ", ".join(f"{printable(word, 20)} = {meaning.get(word) or known_status(word)}" for word in list(words)[:4])
    return ({"column": place.name, "map": meaning} if meaning else place.name), remark, unknown


def _flag_map(place: Place, *, failure: bool) -> dict[str, JsonValue]:
    words = {text.strip() if isinstance(value, str) else text.lower() for value, text in zip(place.values, place.texts, strict=True)}
    return {word: "error" if _FLAG_WORDS[word.lower()] is failure else "success" for word in sorted(words)}
