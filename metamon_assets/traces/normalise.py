"""From what a source said to what is stored: filled, checked, excluded, priced, redacted, on whole columns.

Here belongs every rule about the content of a row that holds for all sources. Reading a wire is the source's part
(values have their column's type by then), merging with what is already stored is ``traces.merge``'s. A row that breaks
a rule becomes a ``Reject`` with a stable reason and what to do about it; it is never mended by guessing, because a
wrong figure that looks right is worse than one that is missing. Good rows are handled as Arrow columns only.

Decisions, for runs:

- ``run_type`` that is missing is llm where a model is named, chain otherwise. Statuses and run types are known by their
  usual other names (``ok``, ``timeout``, HTTP status codes, ``generation``, ``invoke_agent``, …); others are rejected.
- A status that is missing is error where there is an error, success otherwise; a source must say pending itself.
- ``latency_seconds`` is end − start. Where a source reports a latency that differs by more than a second, its two
  clock readings win and what it reported is kept as ``reported_latency_seconds`` in the metadata; a smaller difference
  is rounding, and the reported one stays.
- The first token comes between start and end; up to 10 ms past the end is rounding and cut, more is rejected.
- ``input_tokens`` includes cached tokens and ``output_tokens`` reasoning. A source counts cached tokens *beside* the
  input when there are more of them than input, or when total = input + output + cached; then they are added and the
  metadata says ``"token_convention":"additive"``. The same for reasoning (``"reasoning_convention"``). The output is
  never derived from a total. ``total_tokens`` is input + output; a different one that was reported is kept in the
  metadata as ``reported_total_tokens``.
- ``quality_score`` outside 0 to 1 is rejected, not cut: another scale belongs divided in the mapping, or in feedback.
- NUL characters are removed (Postgres cannot store them), empty text is NULL, identifiers longer than 1,024 bytes are
  rejected (a shortened one would be another's), other text is shortened with a mark that tells its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.traces import columns, security
from metamon_assets.traces.pricing import MOST_TOKENS, PriceBook
from metamon_assets.traces.redaction import Redactor
from metamon_assets.traces.sources.base import Batch, Reject
from metamon_assets.traces.sources.conversion import DEAREST, LONGEST_SECONDS

NAME_LIMIT = 1_024  # bytes
MESSAGE_LIMIT = 8_192
METADATA_LIMIT = 65_536
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)  # clocks differ
ROUNDING_SECONDS = 1.0
FIRST_TOKEN_ROUNDING_SECONDS = 0.01
_SLICE_BYTES = 1 << 28  # a string column holds less than 2 GB; batches larger than this are taken in parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the rows of one source are kept.

    ``now`` bounds plausible times. ``payload_limit`` is in bytes for each of inputs and outputs. The exclusions leave
    out runs by project, agent name or any of their tags (other kinds: by project and agent, where they have them).
    """

    source: str
    project: str
    now: datetime
    store_payloads: bool = False
    payload_limit: int = 65_536
    exclude_projects: frozenset[str] = frozenset()
    exclude_agents: frozenset[str] = frozenset()
    exclude_tags: frozenset[str] = frozenset()
    redactor: Redactor = field(default_factory=Redactor)
    prices: PriceBook = field(default_factory=PriceBook)


@dataclass(frozen=True, slots=True)
class Normalised:
    """The good rows in their kind's schema and order, the bad ones with reasons (raw text not yet redacted), and how many were excluded.

    ``flags``: what looked dangerous in the texts of the good rows, which are redacted by now.
    """

    rows: pa.Table
    rejects: tuple[Reject, ...]
    excluded: int
    flags: tuple[security.Flag, ...] = ()


def normalise_runs(batch: Batch, rules: Rules) -> Normalised:
    """Runs ready to be merged. Raises ValueError when the batch's columns are not the unified ones."""
    return _normalise(batch, rules, columns.RUNS, _runs)


def normalise_feedback(batch: Batch, rules: Rules) -> Normalised:
    """Feedback ready to be merged. Raises ValueError when the batch's columns are not the unified ones."""
    return _normalise(batch, rules, columns.FEEDBACK, _feedback)


def normalise_events(batch: Batch, rules: Rules) -> Normalised:
    """Events ready to be merged. Raises ValueError when the batch's columns are not the unified ones."""
    return _normalise(batch, rules, columns.EVENTS, _events)


def normalise_gauges(batch: Batch, rules: Rules) -> Normalised:
    """Gauge samples ready to be merged. Raises ValueError when the batch's columns are not the unified ones."""
    return _normalise(batch, rules, columns.GAUGES, _gauges)


# The kinds ----------------------------------------------------------------------------------------------------


def _runs(rows: _Rows, rules: Rules) -> None:
    rows.require("run_id", "missing_id", "run_id is missing: give each run an id that stays the same when it is read again")
    rows.refuse_long("project", "run_id", "trace_id", "parent_run_id", "tenant_id", "user_id", "conversation_id")
    _times(rows, rules)
    _status(rows)
    _durations(rows)
    _tokens(rows)
    _amounts(rows)
    own_parent = _true(pc.equal(rows["parent_run_id"], rows["run_id"]))
    rows["parent_run_id"] = pc.if_else(own_parent, pa.scalar(None, pa.string()), rows["parent_run_id"])  # a root, as some spell it
    rows["trace_id"] = pc.coalesce(rows["trace_id"], rows["run_id"])
    rows["time_declared"] = pc.fill_null(rows["time_declared"], fill_value=False)
    rows.drop_bad()
    rows.flags = security.scan(rows.table())  # before redaction takes away what it looks for
    _texts(rows, rules)
    table = rules.prices.price(rows.table())
    for name in ("input_cost", "output_cost", "total_cost", "cost_source"):
        rows[name] = table.column(name).combine_chunks()


def _feedback(rows: _Rows, rules: Rules) -> None:
    rows.require("feedback_id", "missing_id", "feedback_id is missing: give each judgement an id that stays the same when it is edited")
    rows.require("key", "missing_key", "key is missing: say what was judged, such as user_rating or correctness")
    rows.refuse_long("project", "feedback_id", "run_id", "trace_id", "user_id")
    rows.require_time("created_at", rules.now)
    rows.require_finite("score")
    rows.drop_bad()
    for name in ("value", "comment"):
        rows[name] = _shortened(rules.redactor.column(rows[name]), MESSAGE_LIMIT)
    rows["correction"] = _json(rows["correction"], rules.redactor, objects=False)
    rows["metadata"] = _json(rows["metadata"], rules.redactor)
    rows.shorten("key", "source_type", "evaluator_name", "evaluator_version")


def _events(rows: _Rows, rules: Rules) -> None:
    rows.require("event_id", "missing_id", "event_id is missing: give each event an id that stays the same when it is read again")
    rows.refuse_long("event_id")
    rows.require_time("time", rules.now)
    rows["kind"] = pc.fill_null(rows["kind"], "other")
    rows.translate("kind", _EVENT_KINDS)
    rows["inferred"] = pc.fill_null(rows["inferred"], fill_value=False)
    rows.drop_bad()
    rows["metadata"] = _json(rows["metadata"], rules.redactor)
    rows.shorten("agent_name", "version", "commit_sha", "actor")
    rows["url"] = _shortened(rules.redactor.column(rows["url"]), MESSAGE_LIMIT)


def _gauges(rows: _Rows, rules: Rules) -> None:
    rows.require("name", "missing_name", "name is missing: say what was measured, such as cache_size")
    rows.refuse_long("project", "name")
    rows.require_time("time", rules.now)
    rows.require("value", "missing_value", "value is missing: leave the sample out when there is no reading")
    rows.require_finite("value")
    rows["kind"] = pc.fill_null(rows["kind"], "gauge")
    rows.translate("kind", _GAUGE_KINDS)
    falling = pc.and_(pc.equal(rows["kind"], "counter"), pc.less(rows["value"], 0))
    rows.reject(falling, "negative_counter", "a counter's sample is its increase since the one before and cannot be {value}; send a gauge")
    rows.drop_bad()
    rows["labels"] = _json(pc.fill_null(rows["labels"], "{}"), rules.redactor, sort=True)
    rows.shorten("unit")


# Rules for runs -----------------------------------------------------------------------------------------------


def _times(rows: _Rows, rules: Rules) -> None:
    rows.require_time("start_time", rules.now)
    late = pa.scalar(rules.now + AHEAD, columns.TIMESTAMP)
    for name in ("end_time", "first_token_time"):
        rows.reject(
            pc.greater(rows[name], late), f"{name}_out_of_range", f"{name} {{{name}}} is in the future: check the clock and the unit"
        )
    before = pc.less(rows["end_time"], rows["start_time"])
    rows.reject(before, "end_before_start", "end_time {end_time} lies before start_time {start_time}: check both clocks and the time zone")


def _status(rows: _Rows) -> None:
    said = rows["status"]
    rows.translate("status", _STATUSES, also=_status_code)
    failed = pc.or_(pc.is_valid(rows["error_type"]), pc.is_valid(rows["error_message"]))
    rows["status"] = pc.coalesce(rows["status"], pc.if_else(failed, "error", "success"))
    # An ending that has a name of its own keeps it.
    named = pc.is_in(pc.utf8_lower(said), pa.array(sorted(_NAMED_ERRORS)))
    rows["error_type"] = pc.coalesce(rows["error_type"], pc.if_else(named, pc.utf8_lower(said), pa.scalar(None, pa.string())))
    model = pc.or_(pc.is_valid(rows["request_model"]), pc.is_valid(rows["response_model"]))
    rows.translate("run_type", _RUN_TYPES)
    rows["run_type"] = pc.coalesce(rows["run_type"], pc.if_else(model, "llm", "chain"))
    rows.translate("cost_source", _COST_SOURCES)


def _durations(rows: _Rows) -> None:
    for name in ("latency_seconds", "time_to_first_token_seconds"):
        rows.require_finite(name)
        rows.reject(
            pc.less(rows[name], 0), "negative_duration", f"{name} is {{{name}}}: a duration cannot be negative; leave it out when unknown"
        )
        rows.reject(
            pc.greater(rows[name], LONGEST_SECONDS),
            "duration_out_of_range",
            f"{name} is {{{name}}}, which is over ten years: check the unit",
        )
    rows.drop_bad()  # what follows computes with the durations
    start, end, first, latency = rows["start_time"], rows["end_time"], rows["first_token_time"], rows["latency_seconds"]
    ended = pc.is_in(rows["status"], pa.array(["success", "error"]))
    end = pc.coalesce(end, pc.if_else(ended, _later(start, latency), pa.scalar(None, columns.TIMESTAMP)))
    measured = _seconds(start, end)
    differs = _true(pc.greater(pc.abs(pc.subtract(measured, latency)), ROUNDING_SECONDS))
    rows.annotate(differs, "reported_latency_seconds", latency)
    latency = pc.if_else(differs, measured, pc.coalesce(latency, measured))
    waited = pc.coalesce(rows["time_to_first_token_seconds"], _seconds(start, first))
    rows.reject(pc.less(waited, 0), "first_token_before_start", "first_token_time {first_token_time} lies before start_time {start_time}")
    late = pc.greater(waited, pc.add(latency, FIRST_TOKEN_ROUNDING_SECONDS))
    rows.reject(late, "first_token_after_end", "the first token comes later than the end: check time_to_first_token_seconds and its unit")
    waited = pc.if_else(_true(pc.greater(waited, latency)), latency, waited)
    rows["end_time"], rows["latency_seconds"], rows["time_to_first_token_seconds"] = end, latency, waited
    rows["first_token_time"] = pc.coalesce(first, _later(start, waited))


def _tokens(rows: _Rows) -> None:
    """Settles what the counts mean (see the module's decisions; the rule is that of notes on other tools' wrong bills)."""
    for name in _TOKEN_COUNTS:
        rows.reject(pc.less(rows[name], 0), "negative_tokens", f"{name} is {{{name}}}: leave a count out when it is unknown")
        rows.reject(
            pc.greater(rows[name], MOST_TOKENS),
            "tokens_out_of_range",
            f"{name} is {{{name}}}: more than {MOST_TOKENS:,} cannot be one run's",
        )
    rows.drop_bad()
    given, produced, total = rows["input_tokens"], rows["output_tokens"], rows["total_tokens"]
    cached = pc.add(pc.fill_null(rows["cache_read_input_tokens"], 0), pc.fill_null(rows["cache_creation_input_tokens"], 0))
    thought = pc.fill_null(rows["reasoning_output_tokens"], 0)
    if not (_any(pc.greater(cached, 0)) or _any(pc.greater(thought, 0))):
        cache_beside = thought_beside = pa.array(np.zeros(len(given), bool))
    else:
        plain = pc.add(given, produced)
        both = pc.equal(total, pc.add(plain, pc.add(cached, thought)))
        cache_in_total = pc.or_kleene(pc.equal(total, pc.add(plain, cached)), both)
        cache_beside = _true(pc.and_kleene(pc.greater(cached, 0), pc.or_kleene(pc.greater(cached, given), cache_in_total)))
        # Where cached and thought are as many, the total cannot tell which it includes: cached, by far the more usual.
        thought_in_total = pc.or_kleene(pc.and_kleene(pc.equal(total, pc.add(plain, thought)), pc.invert(cache_beside)), both)
        thought_beside = _true(pc.and_kleene(pc.greater(thought, 0), pc.or_kleene(pc.greater(thought, produced), thought_in_total)))
    given = pc.if_else(cache_beside, pc.add(given, cached), given)
    produced = pc.if_else(thought_beside, pc.add(produced, thought), produced)
    summed = pc.add(given, produced)
    rows.annotate(cache_beside, "token_convention", "additive")
    rows.annotate(thought_beside, "reasoning_convention", "additive")
    rows.annotate(_true(pc.not_equal(total, summed)), "reported_total_tokens", total)
    rows["input_tokens"], rows["output_tokens"], rows["total_tokens"] = given, produced, pc.coalesce(summed, total)
    too_many = pc.or_kleene(pc.greater(given, MOST_TOKENS), pc.greater(produced, MOST_TOKENS))
    rows.reject(too_many, "tokens_out_of_range", f"input or output with cached or reasoning tokens is more than {MOST_TOKENS:,}")


def _amounts(rows: _Rows) -> None:
    for name in ("input_cost", "output_cost", "total_cost"):
        rows.reject(pc.less(rows[name], pa.scalar(0, columns.MONEY)), "negative_cost", f"{name} is {{{name}}}: leave it out when unknown")
        rows.reject(pc.greater(rows[name], _DEAREST), "cost_out_of_range", f"{name} is {{{name}}} US dollars for one run: check the unit")
    rows.require_finite("quality_score")
    score = rows["quality_score"]
    outside = pc.or_(pc.less(score, 0), pc.greater(score, 1))
    detail = (
        "quality_score is {quality_score}, not within 0 and 1: divide it in the mapping, or send it as feedback with a scale of its own"
    )
    rows.reject(outside, "quality_out_of_range", detail)
    for name in ("llm_calls", "tool_calls", "retrievals"):
        rows.reject(pc.less(rows[name], 0), "negative_count", f"{name} is {{{name}}}: leave it out when unknown")


def _texts(rows: _Rows, rules: Rules) -> None:
    rows.shorten(
        "name", "agent_name", "agent_version", "tool_name", "mode", "environment", "error_type", "provider", "request_model",
        "response_model", "prompt_name", "prompt_version", "degradation_reason", "variant",
    )  # fmt: skip
    for name in ("tags", "warnings"):
        rows[name] = _each(rows[name], lambda items: _shortened(items, NAME_LIMIT))
    rows["error_message"] = _shortened(rules.redactor.column(rows["error_message"]), MESSAGE_LIMIT)
    rows["metadata"] = _json(rows["metadata"], rules.redactor)
    for name in ("inputs", "outputs"):
        if rules.store_payloads:
            rows[name] = _shortened(rules.redactor.column(rows[name]), rules.payload_limit)
        else:
            rows[name] = pa.nulls(len(rows), pa.string())


_DEAREST = pa.scalar(DEAREST, columns.MONEY)
_TOKEN_COUNTS = tuple(name for name, _ in columns.RUN_FIELDS if name.endswith("_tokens"))


# Names that others give ---------------------------------------------------------------------------------------


def _aliases(own: Iterable[str], others: Mapping[str, str]) -> dict[str, str]:
    """Other names to ours; spelled without regard to case, hyphens and spaces."""
    return {name: name for name in own} | {name: ours for ours, names in others.items() for name in names.split()}


_NAMED_ERRORS = frozenset({"timeout", "cancelled", "canceled", "interrupted", "aborted", "timed_out"})
_STATUSES = _aliases(
    columns.STATUSES,
    {
        "success": "ok succeeded successful completed complete done finished passed unset status_code_ok status_code_unset true",
        "error": "failed failure fail errored err exception rejected status_code_error false " + " ".join(sorted(_NAMED_ERRORS)),
        "pending": "running in_progress started queued open processing streaming incomplete",
        "abandoned": "stale",
    },
)
_RUN_TYPES = _aliases(
    columns.RUN_TYPES,
    {
        "llm": "chat chat_model chatmodel completion generation generate generate_content text_completion model llm_call model_call",
        "tool": "function function_call execute_tool tool_call mcp",
        "retriever": "retrieval rag search vector_search",
        "embedding": "embeddings embed",
        "reranker": "rerank reranking",
        "agent": "invoke_agent create_agent agent_run",
        "workflow": "invoke_workflow graph",
        "guardrail": "guard guardrails moderation",
        "evaluator": "evaluation eval judge",
        "parser": "output_parser",
        "chain": "span task step root trace unknown internal handoff decision",
    },
)
_COST_SOURCES = _aliases(
    columns.COST_SOURCES, {"reported": "provider source api", "computed": "calculated estimated", "unpriced": "unknown none"}
)
_EVENT_KINDS = _aliases(
    columns.EVENT_KINDS,
    {"deployment": "deploy release rollout rollback", "configuration": "config setting flag", "incident": "outage alert", "version": "tag"},
)
_GAUGE_KINDS = _aliases(columns.GAUGE_KINDS, {"gauge": "level updowncounter", "counter": "sum delta increase"})


def known_status(word: str) -> str | None:
    """The unified status that a source's word or code means; None: it needs a ``map``."""
    return _translation(word, _STATUSES, _status_code)


def known_run_type(word: str) -> str | None:
    """The unified run type that a source's word means; None: it needs a ``map``."""
    return _translation(word, _RUN_TYPES, lambda _: None)


def _status_code(name: str) -> str | None:
    """HTTP status codes, which a plain log of requests has as its status."""
    if len(name) == 3 and name.isdecimal() and "100" <= name <= "599":
        return "success" if name < "400" else "error"
    return None


# Columns of a batch --------------------------------------------------------------------------------------------


def _normalise(batch: Batch, rules: Rules, schema: pa.Schema, check: Callable[[_Rows, Rules], None]) -> Normalised:
    parts = [_part(_Rows(batch, table, first), rules, schema, check) for table, first in _slices(_unified(batch, schema))]
    return Normalised(
        rows=pa.concat_tables([part.rows for part in parts]),
        rejects=tuple(reject for part in parts for reject in part.rejects),
        excluded=sum(part.excluded for part in parts),
        flags=tuple(flag for part in parts for flag in part.flags),
    )


def _unified(batch: Batch, schema: pa.Schema) -> pa.Table:
    """All columns of the schema, in order; absent ones are NULL."""
    table = batch.rows
    if unknown := sorted(set(table.column_names) - set(schema.names)):
        raise ValueError(f"{batch.location or 'a batch'}: columns {', '.join(unknown)} are not unified ones; put them into metadata")
    arrays = [
        table.column(name) if name in table.column_names else pa.nulls(table.num_rows, schema.field(name).type) for name in schema.names
    ]
    try:
        return pa.Table.from_arrays([array.cast(kind) for array, kind in zip(arrays, schema.types, strict=True)], schema=schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{batch.location or 'a batch'}: columns are not of their unified types: {error}") from error


def _slices(table: pa.Table) -> Iterable[tuple[pa.Table, int]]:
    """The table in parts of bounded size, with the position of their first rows."""
    parts = max(1, math.ceil(table.nbytes / _SLICE_BYTES))
    size = max(1, math.ceil(table.num_rows / parts))
    for first in range(0, max(table.num_rows, 1), size):
        yield table.slice(first, size), first


def _part(rows: _Rows, rules: Rules, schema: pa.Schema, check: Callable[[_Rows, Rules], None]) -> Normalised:
    rows["source"] = pc.coalesce(rows["source"], pa.scalar(rules.source))
    rows["project"] = pc.coalesce(rows["project"], pa.scalar(rules.project))
    rows["observed_time"] = pc.coalesce(rows["observed_time"], pa.scalar(rules.now, columns.TIMESTAMP))
    excluded = rows.exclude(rules)
    check(rows, rules)
    rows.drop_bad()
    return Normalised(rows.table().cast(schema), tuple(rows.rejects), excluded, rows.flags)


class _Rows:
    """The columns of a batch while rules are applied to them; knows which rows have been found bad, and why."""

    def __init__(self, batch: Batch, table: pa.Table, first: int) -> None:
        self._batch = batch
        self._original = table
        self._positions = np.arange(table.num_rows)  # in the original table
        self._first = first
        self._columns = {name: _plain_text(_single(table.column(name))) for name in table.column_names}
        self._bad: dict[int, tuple[str, str]] = {}  # by position; the first reason counts
        self.rejects: list[Reject] = []
        self.flags: tuple[security.Flag, ...] = ()

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, name: str) -> pa.Array:
        return self._columns[name]

    def __setitem__(self, name: str, values: pa.Array) -> None:
        self._columns[name] = _single(values)

    def table(self) -> pa.Table:
        return pa.table(self._columns)

    def exclude(self, rules: Rules) -> int:
        """Leaves out rows by project, agent or tag; gives their number."""
        out = np.zeros(len(self), bool)
        for name, excluded in (("project", rules.exclude_projects), ("agent_name", rules.exclude_agents)):
            if excluded and name in self._columns:
                out |= _mask(pc.is_in(self[name], pa.array(sorted(excluded))))
        if rules.exclude_tags and "tags" in self._columns:
            tagged = pc.is_in(pc.list_flatten(self["tags"]), pa.array(sorted(rules.exclude_tags)))
            out[pc.list_parent_indices(self["tags"]).filter(tagged).to_numpy()] = True
        self._keep(~out)
        return int(out.sum())

    def reject(self, bad: pa.Array, reason: str, detail: str) -> None:
        """Marks rows as bad (NULL counts as good). ``detail`` may name columns of the row in braces."""
        if not _any(bad):
            return
        for place in np.flatnonzero(_mask(bad)).tolist():
            position = int(self._positions[place])
            if position not in self._bad:
                said = {name: _said(column, position) for name in self._original.column_names if f"{{{name}}}" in detail
                        for column in (self._original.column(name),)}  # fmt: skip
                self._bad[position] = reason, detail.format(**said)

    def require(self, name: str, reason: str, detail: str) -> None:
        self.reject(pc.is_null(self[name]), reason, detail)

    def require_time(self, name: str, now: datetime) -> None:
        """The row's time must be there and plausible."""
        self.require(name, f"missing_{name}", f"{name} is missing: without it the row has no day; map a column to it or declare one")
        early = pc.less(self[name], pa.scalar(EARLIEST, columns.TIMESTAMP))
        late = pc.greater(self[name], pa.scalar(now + AHEAD, columns.TIMESTAMP))
        detail = f"{name} {{{name}}} lies before {EARLIEST:%Y} or in the future: check its unit (seconds, ms, ns) and time zone"
        self.reject(pc.or_(early, late), f"{name}_out_of_range", detail)
        # Later rules compute with the column; what is bad anyhow must not overflow there.
        self[name] = pc.if_else(pc.or_(early, late), pa.scalar(EARLIEST, columns.TIMESTAMP), self[name])

    def require_finite(self, name: str) -> None:
        bad = pc.invert(pc.is_finite(self[name]))
        if _any(bad):
            self.reject(bad, "non_finite_value", f"{name} is {{{name}}}: leave it out when it is unknown")
            self[name] = pc.if_else(bad, None, self[name])

    def refuse_long(self, *names: str) -> None:
        for name in names:
            self.reject(
                _longer(self[name], NAME_LIMIT),
                "id_too_long",
                f"{name} is longer than {NAME_LIMIT} bytes: is it mapped to the right column?",
            )

    def translate(self, name: str, known: Mapping[str, str], also: Callable[[str], str | None] = lambda _: None) -> None:
        """Replaces names by ours; rows with unknown ones are bad."""
        encoded = self[name].dictionary_encode()
        ours = [_translation(value, known, also) for value in encoded.dictionary.to_pylist()]
        self[name] = pa.array(ours, pa.string()).take(encoded.indices)
        if None in ours:
            unknown = pc.and_(pc.is_valid(encoded), pc.is_null(self[name]))
            accepted = ", ".join(dict.fromkeys(known.values()))
            self.reject(unknown, f"unknown_{name}", f"{name} {{{name}}} is unknown: map it to one of {accepted}")

    def annotate(self, which: pa.Array, key: str, value: pa.Array | str) -> None:
        """Adds an entry to the metadata of some rows."""
        if not _any(which):
            return
        quoted = f'"{value}"' if isinstance(value, str) else pc.cast(value.filter(which), pa.string())
        before = pc.utf8_trim_whitespace(pc.fill_null(self["metadata"].filter(which), "{}"))
        # jsonb keeps the last of equal keys. What is not an object is made one first.
        before = pa.array([text if _is_object(text) else _wrapped(text) for text in before.to_pylist()], pa.string())
        body = pc.utf8_rtrim_whitespace(pc.utf8_slice_codeunits(before, 0, stop=-1))
        comma = pc.if_else(pc.equal(body, "{"), "", ",")
        entry = pc.binary_join_element_wise(body, comma, f'"{key}":', quoted, "}", "")
        self["metadata"] = pc.replace_with_mask(self["metadata"], which, entry)

    def shorten(self, *names: str) -> None:
        for name in names:
            self[name] = _shortened(self[name], NAME_LIMIT)

    def drop_bad(self) -> None:
        """Turns the rows marked as bad into rejects and goes on without them."""
        if not self._bad:
            return
        for position, (reason, detail) in sorted(self._bad.items()):
            self.rejects.append(self._reject(position, reason, detail))
        bad = np.fromiter(self._bad, np.int64)
        self._bad = {}
        self._keep(~np.isin(self._positions, bad))

    def _keep(self, kept: np.ndarray) -> None:
        if kept.all():
            return
        mask = pa.array(kept)
        self._positions = self._positions[kept]
        self._columns = {name: column.filter(mask) for name, column in self._columns.items()}

    def _reject(self, position: int, reason: str, detail: str) -> Reject:
        row = {name: value for name, value in self._original.slice(position, 1).to_pylist()[0].items() if value is not None}
        number = self._first + position
        locations = self._batch.row_locations
        location = locations[number] if locations is not None else f"{self._batch.location} row {number + 1}".strip()
        raw = orjson.dumps(row, default=str).decode()
        return Reject(self._batch.kind, reason, detail, location, raw, row.get("run_id"))


def _translation(value: str, known: Mapping[str, str], also: Callable[[str], str | None]) -> str | None:
    name = value.strip().lower().replace("-", "_").replace(" ", "_")
    return known.get(name) or also(name)


def _said(column: pa.ChunkedArray, position: int) -> str:
    value = column[position].as_py()
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= 80 else text[:80] + "…"


# Arrays ---------------------------------------------------------------------------------------------------------


def _single(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
    return values


def _true(mask: pa.Array) -> pa.Array:
    """NULL counts as false."""
    return pc.fill_null(mask, fill_value=False)


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask).as_py())


def _mask(mask: pa.Array) -> np.ndarray:
    return np.asarray(_true(mask).to_numpy(zero_copy_only=False))


def _longer(texts: pa.Array, limit: int) -> pa.Array:
    return pc.greater(pc.binary_length(texts), limit)


def _seconds(start: pa.Array, end: pa.Array) -> pa.Array:
    return pc.divide(pc.cast(pc.subtract(end, start).cast(pa.int64()), pa.float64()), 1e6)


def _later(start: pa.Array, seconds: pa.Array) -> pa.Array:
    microseconds = pc.round(pc.multiply(seconds, 1e6)).cast(pa.int64())
    return pc.add(start, microseconds.cast(pa.duration("us")))


def _plain_text(values: pa.Array) -> pa.Array:
    """Text that Postgres can store: valid UTF-8 without NUL characters; empty text is NULL."""
    if pa.types.is_list(values.type):
        return _each(values, _storable)
    if not pa.types.is_string(values.type) or values.null_count == len(values):
        return values
    values = _storable(values)
    empty = pc.equal(pc.binary_length(values), 0)
    return pc.if_else(empty, pa.scalar(None, pa.string()), values) if _any(empty) else values


def _each(lists: pa.Array, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Lists with all their items changed at once."""
    items = pc.list_flatten(lists)
    changed = change(items)
    if changed is items:
        return lists
    ends = np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy())
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, changed, mask=lists.is_null())


def _storable(texts: pa.Array) -> pa.Array:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        raw = texts.cast(pa.binary()).to_pylist()
        texts = pa.array([None if text is None else text.decode("utf-8", "replace") for text in raw], pa.string())
    nul = pc.match_substring(texts, "\0")
    return pc.replace_substring(texts, "\0", "") if _any(nul) else texts


def _shortened(texts: pa.Array, limit: int) -> pa.Array:
    """Text of more than ``limit`` bytes is cut between characters, with a mark that tells its size."""
    long = _longer(texts, limit)
    if not _any(long):
        return texts
    cut = []
    for text in texts.filter(_true(long)).to_pylist():
        data = text.encode()
        cut.append(f"{data[:limit].decode('utf-8', 'ignore')}… [shortened from {len(data):,} bytes]")
    return pc.replace_with_mask(texts, _true(long), pa.array(cut, pa.string()))


def _json(texts: pa.Array, redactor: Redactor, *, objects: bool = True, sort: bool = False) -> pa.Array:
    """JSON that Postgres can store, redacted. What is not an object (or not JSON) is wrapped into one, or into a string."""
    if texts.null_count == len(texts):
        return texts
    encoded = texts.dictionary_encode()
    distinct = encoded.dictionary
    mended = [_mended(text, objects=objects, sort=sort) for text in distinct.to_pylist()]
    if any(text is not None for text in mended):
        distinct = pa.array([was if now is None else now for was, now in zip(distinct.to_pylist(), mended, strict=True)], pa.string())
        encoded = pa.DictionaryArray.from_arrays(encoded.indices, redactor.json_column(distinct))
        return encoded.cast(pa.string())
    return redactor.json_column(texts)


_NUL, _WRAPPED, _DEEPEST = "\\u0000", "value", 100


def _mended(text: str, *, objects: bool, sort: bool) -> str | None:
    """The document in a form that can be stored, or None when it is that already. Parsed by orjson, 0.5 µs for a small one."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value, changed = _cut(text), True
    else:
        changed = len(text) > METADATA_LIMIT or _too_deep(text)
        value = _cut(text) if changed else value
    if _NUL in text:
        value, changed = _without_nul(value), True
    if objects and not isinstance(value, dict):
        value, changed = {_WRAPPED: value}, True
    if sort:
        value, changed = {name: label if isinstance(label, str) else orjson.dumps(label).decode() for name, label in value.items()}, True
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort else None).decode() if changed else None


def _too_deep(text: str) -> bool:
    """Nesting that would exhaust the stack of what reads it later; brackets inside strings count too."""
    if len(text) <= _DEEPEST or text.count("[") + text.count("{") <= _DEEPEST:
        return False
    steps = np.frombuffer(text.encode(), np.uint8)
    opened = np.isin(steps, np.frombuffer(b"[{", np.uint8)).astype(np.int64) - np.isin(steps, np.frombuffer(b"]}", np.uint8))
    return int(np.cumsum(opened).max()) > _DEEPEST


def _cut(text: str) -> str:
    return text if len(text) <= METADATA_LIMIT else f"{text[:METADATA_LIMIT]}… [shortened from {len(text):,} characters]"


def _wrapped(text: str) -> str:
    """Text that is not a JSON object, as one."""
    return orjson.dumps({_WRAPPED: _cut(text)}).decode()


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(inner) for inner in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(inner) for key, inner in value.items()}
    return value
