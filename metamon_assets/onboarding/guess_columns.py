"""Guessing what the columns of somebody's file are, and writing it down as a mapping.

Here belong pure functions over a sample of rows as they stand in the file. Beside whom a run belongs to (``guess``) a file
may name anything as it likes: its time, with or without a zone; latency in seconds or milliseconds, told by the name or by
size; status in words, codes or as a flag. What cannot be told is left out and said, never made up. Nested objects are
seen as columns by their keys with dots between.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from decimal import Decimal
from functools import cache
from http import HTTPStatus
from typing import Any

from pydantic import JsonValue

from metamon_assets.errors import closest
from metamon_assets.onboarding.dialogue import AnswerError
from metamon_assets.onboarding.guess import (
    IDENTITY,
    Confidence,
    Guess,
    Place,
    best_named,
    described,
    flattened,
    is_empty,
    places,
    printable,
    word_set,
)
from metamon_assets.traces.columns import RUNS
from metamon_assets.traces.normalise import known_run_type, known_status
from metamon_assets.traces.sources.base import Kind
from metamon_assets.traces.sources.conversion import as_amount, as_number, parse_time
from metamon_assets.traces.sources.mapping import Mapping as ColumnMapping
from metamon_assets.traces.sources.mapping import bundled, joined, load, with_point

Reader = Callable[[Any], Any]  # what a value means; None: nothing that can be read

REQUIRED = ("start_time", "latency_seconds", "status")  # said even when they are not found
_READABLE = 0.95  # of the values of a column must be times for it to be taken as one whatever its name
_MOSTLY = 0.5  # of the values of a column that is named for it must be what the name says; the others are dirt, and said
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
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
_PERHAPS_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # a thousand and more, or one and something
_SURELY_GROUPED = re.compile(r"[+-]?\d{1,3}((,\d{3})+\.\d+|(,\d{3}){2,})|[+-]?\d+\.\d+")
_SURELY_DECIMAL = re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+")
_CURRENCY = re.compile(r"[€£¥₹]|\b(EUR|GBP|JPY|CNY|INR|CHF)\b", re.IGNORECASE)
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
        "run_id": "run_id request_id span_id call_id id uuid log_id event_id message_id req_id req request_no req_no call_no",
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
            " request_duration time_taken execution_time e2e_latency dauer dur ms msec millis milliseconds secs seconds time rt lat"
        ),
        "time_to_first_token_seconds": "time_to_first_token ttft first_token_latency first_token_time first_token time_to_first_byte ttfb",
        "status": (
            "status state outcome result run_status http_status status_code response_code http_status_code response_status http_code"
            " code exit_code return_code rc success succeeded is_success ok passed is_error has_error errored failed is_failed failure"
        ),
        "error_message": "error_message error error_msg exception exception_message err failure_reason error_text error_detail fehler",
        "error_type": "error_type error_code error_class exception_type error_name error_kind",
        "request_model": "request_model model model_name model_id llm_model llm engine deployment_name",
        "response_model": "response_model",
        "provider": "provider vendor llm_provider model_provider",
        "input_tokens": (
            "input_tokens prompt_tokens tokens_in in_tokens num_input_tokens"
            " num_prompt_tokens n_input_tokens context_tokens request_tokens input_token_count tokens_input"
            " prompt_token_count tokens_prompt"
        ),
        "output_tokens": (
            "output_tokens completion_tokens tokens_out out_tokens num_output_tokens"
            " num_completion_tokens generated_tokens response_tokens output_token_count tokens_output"
            " completion_token_count tokens_completion"
        ),
        "total_tokens": "total_tokens tokens num_tokens token_count n_tokens tokens_total",
        "total_cost": "total_cost cost cost_total cost_usd price total_price usd amount_usd cost_in_usd cost_dollars spend",
        "prompt_name": "prompt_name prompt_template prompt_id",
        "prompt_version": "prompt_version",
    }.items()
}  # fmt: skip
_FAILURE_FLAGS = frozenset({"is_error", "has_error", "errored", "failed", "is_failed", "failure"})
_FLAG_WORDS = {"true": True, "1": True, "yes": True, "y": True, "t": True, "false": False, "0": False, "no": False, "n": False, "f": False}
_SAYS_ERROR = re.compile(
    r"err|fail|exception|timeout|timed|abort|cancel|denied|reject|refus|crash|limit|invalid|unavailable|\bko\b|\bnok\b|\bnot\b|unsuc|incompl"
    r"|unfin|\b[45]\d\d\b|fehl|misserf|abgebroch|échec|echec|fall[ao]|falha",
    re.IGNORECASE,
)
_SAYS_SUCCESS = re.compile(
    r"succe|^ok|okay|\bok\b|complete|done|finish|pass|good|\b2\d\d\b|erfolg|fertig|réussi|succès|éxito|exito|sucesso", re.IGNORECASE
)
_SUCCESS_ABROAD, _ERROR_ABROAD = (
    word_set("erfolg erfolgreich succès réussi éxito exitoso sucesso successo riuscito"),
    word_set("fehler fehlgeschlagen abgebrochen misserfolg échec échoué erreur fallo fallido erro falha errore fallito nok ko"),
)
_STATUS_WORDS = word_set(
    "status state outcome result http code success succeeded error failed failure ergebnis resultado estado statut esito stato"
)
_HTTP_CODES = frozenset(str(code.value) for code in HTTPStatus) | word_set("499 520 521 522 523 524 529 598 599")
_OURS = frozenset({"source", "observed_time"})  # what no mapping sets
_WORDS_OF_STATUS = 30  # more different ones are no statuses
_SPELLED = {"tok": "tokens", "toks": "tokens"}
_HOLDS: Mapping[str, str] = {
    **dict.fromkeys(("start_time", "end_time"), "times"),
    **dict.fromkeys(("latency_seconds", "time_to_first_token_seconds"), "durations"),
    **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), "numbers"),
    "total_cost": "amounts in US dollars",
    "status": f"statuses, which are at most {_WORDS_OF_STATUS} different words",
}  # what a column must hold to be read as it


@dataclass(frozen=True, slots=True)
class FileGuess:
    """What a file's columns are: a guess for each unified column, the mapping that says so, and what people should know."""

    guesses: tuple[Guess, ...]
    mapping: dict[str, JsonValue] | str | None  # as in metamon.yaml; a name: one that comes with Metamon; None: unified names
    remarks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # of REQUIRED, what was not found
    others: tuple[str, ...] = ()  # columns that nothing is read from; they are kept in metadata

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
    name none (otherwise they are taken as UTC); ``edits`` says of some columns where they are, or None: nowhere. Raises
    AnswerError for edits that name no column, or one that does not hold what they say.
    """
    edits = edits or {}
    refuse_unknown(edits, columns_of(rows))
    given, rows = rows, [dict(flattened(row)) for row in rows]
    found = places(rows)
    if not edits and _in_unified_names(found) and delimiter is None and zone is None:
        names = [name for name in RUNS.names if name in found]
        remarks = said_of_one_clock(found["start_time"].name, readable_times(found["start_time"], _MOSTLY))
        return FileGuess(tuple(described(name, found[name], "convention") for name in names), None, tuple(remarks))
    if not edits and zone is None and (known := _bundled(given)):
        return FileGuess((), known, (f"These are the columns of the mapping {known}, which comes with Metamon.",))
    maker = _Maker(found, rows, zone, edits)
    maker.make()
    if _in_unified_names(found):
        maker.keep_unified(columns_of(given))
    mapping: dict[str, JsonValue] = {"columns": maker.columns(project), "unreadable": "leave_out"}
    if maker.rules:
        mapping["rules"] = maker.rules
    if delimiter is not None:
        mapping["delimiter"] = delimiter
    if gaps := sorted(name for name in maker.used if any(name not in row for row in rows)):
        mapping["optional"] = list(gaps)
    missing = tuple(column for column in REQUIRED if not (column in maker.guesses and maker.guesses[column].used))
    objects = {name for row in given for name, value in row.items() if isinstance(value, Mapping)}
    others = tuple(name for name in columns_of(given) if name not in maker.used | objects)
    return FileGuess(tuple(maker.guesses.values()), mapping, tuple(maker.remarks), missing, others)


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of these rows, in their order, with those of nested objects."""
    return list(dict.fromkeys(name for row in rows for name in (*row, *(path for path, _ in flattened(row)))))


def refuse_unknown(edits: Mapping[str, str | None], known: Sequence[str]) -> None:
    """Raises AnswerError, with the nearest name, for an edit of what is no unified column or to what is no column of the file."""
    ours = [name for name in RUNS.names if name not in _OURS]
    for column, place in edits.items():
        if column not in ours:
            near = closest(column, ours)
            hint = f"Did you mean {near}?" if near else f"There are: {', '.join(ours)}"
            raise AnswerError(f"{printable(column)}={printable(place or 'none')}: Metamon has no column {printable(column)}. {hint}")
        for name in _named_places(column, place, known):
            if name not in known:
                near = closest(name, known)
                hint = f" Did you mean {printable(near)}?" if near else ""
                listed = ", ".join(map(printable, known))
                raise AnswerError(f"{column}={printable(place or '')}: there is no column {printable(name)}.{hint} There are: {listed}")


def _named_places(column: str, place: str | None, known: Iterable[str]) -> list[str]:
    """The columns that an edit names: of a time it may be several, with + between them."""
    if place is None:
        return []
    several = column in ("start_time", "end_time") and place not in known
    return [part.strip() for part in place.split("+")] if several else [place]


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
        self._said()

    def keep_unified(self, names: Sequence[str]) -> None:
        """Of a file in our names, also the columns that nothing is guessed for."""
        for name in RUNS.names:
            free = name not in self.taken and name not in self.edits and name not in _OURS
            if name in names and free and not (name in self.guesses and self.guesses[name].used):
                self.keep(name, self.found.get(name) or Place(name, (), len(self.rows)), name)

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
        confidence: Confidence = "said" if column in self.edits else "convention" if place.name == column else "likely"
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
            self.keep(column, found[0], self._time_rule(*found), self._said_of_time(column, *found))

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

    def _time_rule(self, place: Place, times: Times) -> JsonValue:
        origin: dict[str, JsonValue] = {"join": [*self.joins[place.name]]} if place.name in self.joins else {"column": place.name}
        steps: dict[str, JsonValue] = {}
        if times.kind not in ("ISO", "epoch"):
            steps["format"] = times.kind
        if self.zone is not None and times.kind != "epoch" and not _has_zone(place):
            steps["zone"] = self.zone
        return {**origin, **steps} if steps or "join" in origin else place.name

    def _said_of_time(self, column: str, place: Place, times: Times) -> str:
        kind, name = times.kind, printable(place.name)
        self._say_dirt(place, "a time", times.read, unknown=column != "start_time")  # a row needs a start, not an end
        self.remarks += said_of_one_clock(place.name, times)
        if kind == "epoch":
            return f"{_epoch_units(place)} since 1970"
        if not _has_zone(place) and self.zone is None:
            self.remarks.append(f"The times in {name} name no zone and are taken as UTC; otherwise say --zone Europe/Vienna.")
        if times.either:
            first = "days" if kind.startswith("%d") else "months"
            self.remarks.append(f"In {name} {first} seem to come first; if not, correct `format` in metamon.yaml.")
        return "" if kind == "ISO" else kind

    def _say_dirt(self, place: Place, what: str, read: Reader, *, unknown: bool = True) -> None:
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
            if place.words[-1:] == ("lat",) and _is_latitude(place, self.found.values()):
                continue
            plain, steps = _with_points(place)
            if found := _duration_rule(plain, steps, self._measured(plain)):
                spelled = _share_of(plain, _duration_of) < _MOSTLY
                self._say_dirt(plain, "a duration", _spelled_duration if spelled else _duration_of)
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
                money = column == "total_cost"
                plain, steps = _with_points(place, whole=not money)
                read = _amount_of if money else _duration_of
                if _share_of(plain, read) >= _MOSTLY:
                    cents = money and "cents" in place.words
                    self._say_dirt(plain, "an amount" if money else "a number", read)
                    rule = _rule(place, steps | ({"scale": 0.01} if cents else {}))
                    self.keep(column, place, rule, "cents" if cents else "US dollars" if money else "")
                    break
                if money and sum(bool(_CURRENCY.search(text)) for text in place.texts) >= _MOSTLY * len(place.values):
                    self.remarks.append(f"{printable(place.name)} is in another currency than US dollars, so it is not read as the cost.")

    # Status ------------------------------------------------------------------------------------------------

    def _status(self) -> None:
        named = self.candidates("status")
        for place in named if "status" in self.edits else [*named, *self._like_statuses(named)]:
            words = Counter(text.strip() for text in place.texts)
            if len(words) > _WORDS_OF_STATUS:
                continue
            rule, remark, unknown = _status_rule(place, words)
            shown = ", ".join(printable(word) for word in unknown[:4])
            if "status" not in self.edits and sum(words[word] for word in unknown) > (1 - _MOSTLY) * len(place.values):
                self.remarks.append(f"What {shown} in {printable(place.name)} means is not known, so it is not read as the status.")
                continue
            if unknown:
                self.remarks.append(f"What {shown} in {printable(place.name)} means is not known, so it counts as an error: see `map`.")
            self.keep("status", place, rule, remark)
            return

    def _like_statuses(self, named: Sequence[Place]) -> list[Place]:
        """Further places that hold statuses: by their values together with a part of the name, or by their values alone."""
        free = [place for name, place in self.found.items() if name not in self.taken and place not in named]
        free = [place for place in free if not all(isinstance(value, bool) for value in place.values)]
        by_name = [place for place in free if {*place.words} & _STATUS_WORDS and _share_of(place, _plain_status) >= _READABLE]
        by_values = [place for place in free if place not in by_name and _are_statuses(place)]
        return by_name + by_values

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
            different = place.distinct == len(place.values) == place.runs
            if different or "run_id" in self.edits:
                self.keep("run_id", place, place.name)
                if not different:
                    self.remarks.append(
                        f"{printable(place.name)} does not tell all rows apart: of rows with the same one the last counts, and rows"
                        " without it are put into quarantine."
                    )
                break
        if "run_id" in self.guesses:
            for column in ("trace_id", "parent_run_id"):
                self._text(column)

    def _text(self, column: str) -> None:
        for place in self.candidates(column):
            if column == "run_type" and column not in self.edits and _share_of(place, _run_type_of) < _READABLE:
                continue
            self.keep(column, place, place.name)
            return

    def _prompt(self) -> None:
        for column in ("prompt_name", "prompt_version"):
            self._text(column)

    def _identity(self) -> None:
        for column in IDENTITY:
            if column in self.edits:
                for place in self.edited(column):
                    self.keep(column, place, place.name)
                continue
            if column in self.found and column not in self.taken:
                self.keep(column, self.found[column], column)
                continue
            guess = best_named(column, self.found.values(), self.taken)
            self.guesses[column] = guess
            if guess.used and guess.place:
                self.taken.add(guess.place)

    def _said(self) -> None:
        """What somebody said of columns that nothing is guessed for, or of which the sample has no values."""
        for column, name in self.edits.items():
            if name is None or (column in self.guesses and self.guesses[column].used):
                continue
            place = next(iter(self.edited(column)), None)
            if place and column in _HOLDS:
                shown = ", ".join(described(column, place, "said").examples)
                raise AnswerError(f"{column}={printable(name)}: {printable(name)} does not hold {_HOLDS[column]}, but {shown}.")
            self.keep(column, place or Place(name, (), len(self.rows)), name, "" if place else "without a single value in the sample")

    def edited(self, column: str) -> list[Place]:
        """The place that somebody named for the column, if the sample has it."""
        named = self.edits[column] or ""
        if named in self.found:
            return [self.found[named]]
        parts = _named_places(column, named, self.found)
        together = len(parts) > 1 and all(part in self.found for part in parts)
        return [place] if together and (place := self._together(parts)).values else []


# Values ------------------------------------------------------------------------------------------------------


def _joined(place: Place) -> str:
    """The name in our spelling, without a unit at its end: responseTimeMs is response_time."""
    words = [_SPELLED.get(word, word) for word in place.words]
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
    if isinstance(value, str) and _COMMA_NUMBER.fullmatch(value.strip()):
        return float(value.replace(",", "."))
    return _read_number(value, as_number)


def _amount_of(value: Any) -> float | None:
    """A number that may be a price, with or without the sign of the dollar."""
    number = _read_number(value, as_amount)
    return number if number is not None and number >= 0 else None


def _read_number(value: Any, read: Callable[[Any], Decimal | None]) -> float | None:
    try:
        number = None if is_empty(value) else read(value)
    except ValueError:
        return None
    return None if number is None else float(number)


def _duration_of(value: Any) -> float | None:
    """A number that may be a duration."""
    number = _number_of(value)
    return number if number is not None and number >= 0 else None


def _spelled_duration(value: Any) -> re.Match[str] | None:
    """Number and unit of a duration that carries its unit."""
    return _WITH_UNIT.fullmatch(str(value).strip())


def _run_type_of(value: Any) -> str | None:
    return known_run_type(str(value))


def _is_latitude(place: Place, others: Iterable[Place]) -> bool:
    """Whether a place named lat is one of two coordinates rather than a latency."""
    return any({*other.words} & {"lon", "lng", "long", "longitude"} for other in others if other is not place)


def _with_points(place: Place, *, whole: bool = False) -> tuple[Place, dict[str, JsonValue]]:
    """The place with its numbers written as others write them, and the step that does so; ``whole``: there are no decimals."""
    commas = _commas([value.strip() for value in place.values if isinstance(value, str)], whole=whole)
    if commas is None:
        return place, {}
    rewritten = with_point if commas == "decimal_comma" else _without_commas
    values = tuple(rewritten(value) if isinstance(value, str) else value for value in place.values)
    return replace(place, values=values), {commas: True}


def _without_commas(text: str) -> str:
    return text.replace(",", "")


def _commas(texts: Sequence[str], *, whole: bool) -> str | None:
    """What commas in numbers are: ``decimal_comma`` or ``thousands_comma``; None where there are none."""
    with_comma = [text for text in texts if _COMMA_NUMBER.fullmatch(text)]
    perhaps = sum(bool(_PERHAPS_GROUPED.fullmatch(text)) for text in with_comma)
    decimal = len(with_comma) - perhaps + sum(bool(_SURELY_DECIMAL.fullmatch(text)) for text in texts)
    if not with_comma and not decimal:
        return None
    grouped = sum(bool(_SURELY_GROUPED.fullmatch(text)) for text in texts)
    if decimal == grouped == 0:
        # 1,234 and nothing that tells. Beside whole numbers below a thousand it is one thousand.
        others = [text for text in texts if text.isdecimal()]
        grouped = perhaps if whole or (others and all(len(text) <= 3 for text in others)) else 0
    return "thousands_comma" if grouped > decimal else "decimal_comma"


def _rule(place: Place, steps: dict[str, JsonValue]) -> JsonValue:
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


def _duration_rule(place: Place, steps: dict[str, JsonValue], measured: float | None) -> tuple[JsonValue, str] | None:
    """How a place gives seconds, and how its unit was told; None: its values are no durations."""
    if any(isinstance(value, bool) for value in place.values):
        return None
    numbers = [number for value in place.values if (number := _duration_of(value)) is not None]
    if len(numbers) < _MOSTLY * len(place.values):
        return _spelled_durations(place)
    unit, why = _unit(place, numbers, measured)
    if unit != "s":
        steps = {**steps, "unit": unit}
    return _rule(place, steps), f"{unit}, {why}"


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
    if "0" in words and {*place.words} & {"code", "rc"} and all(word.isdecimal() and len(word) < 3 for word in words):
        return {"column": place.name, "map": {word: "error" if int(word) else "success" for word in sorted(words)}}, "0 is a success", []
    if {word.lower() for word in words} <= _FLAG_WORDS.keys():
        failure = _joined(place) in _FAILURE_FLAGS
        return {"column": place.name, "map": _flag_map(place, failure=failure)}, f"true is {'an error' if failure else 'a success'}", []
    meaning: dict[str, JsonValue] = {}
    unknown = []
    for word in words:
        if known_status(word) is None:
            told = _plain_status(word)
            meaning[word] = told or "error"
            if told is None:
                unknown.append(word)
    remark = ", ".join(f"{printable(word, 20)} = {meaning.get(word) or known_status(word)}" for word in list(words)[:4])
    return ({"column": place.name, "map": meaning} if meaning else place.name), remark, unknown


def _plain_status(value: Any) -> str | None:
    """What a word or code says of a run, as far as people would see it at once; None: nothing."""
    word = re.sub(r"^(\d{3})\.0$", r"\1", str(value).strip())
    if (known := known_status(word)) is not None:
        return known
    if _SAYS_ERROR.search(word):
        return "error"
    return "success" if _SAYS_SUCCESS.search(word) else None


def _sure_status(word: str) -> str | None:
    """The same where nothing else can be meant, whatever the column is called."""
    plain = re.sub(r"^(\d{3})\.0$", r"\1", word.strip().lower())
    if plain.isdecimal():
        return known_status(plain) if plain in _HTTP_CODES else None
    if plain in _SUCCESS_ABROAD | _ERROR_ABROAD:
        return "success" if plain in _SUCCESS_ABROAD else "error"
    return None if plain in _FLAG_WORDS else known_status(plain)


def _are_statuses(place: Place) -> bool:
    """Whether all values are statuses, and of both kinds."""
    words = set(place.texts) if place.distinct <= _WORDS_OF_STATUS else set()
    return {"success", "error"} <= {_sure_status(word) for word in words} and None not in map(_sure_status, words)


def _flag_map(place: Place, *, failure: bool) -> dict[str, JsonValue]:
    words = {text.strip() if isinstance(value, str) else text.lower() for value, text in zip(place.values, place.texts, strict=True)}
    return {word: "error" if _FLAG_WORDS[word.lower()] is failure else "success" for word in sorted(words)}
