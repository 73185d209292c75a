"""What LangSmith's runs and feedback mean in the unified columns; shared by its API and its bulk export.

Here belong the mapping of columns and the reading of values (times without a zone are UTC, costs are floats or
text, token counts of 0 mean unknown). Runs come in as columns, whether they were JSON objects or Parquet, and
leave as one Arrow table; a row that cannot be read leaves as a Reject.

Where a column is found when the user's ``map`` does not say otherwise is ``DEFAULT_MAP``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.traces.columns import FEEDBACK, RUNS, TIMESTAMP
from metamon_assets.traces.sources.base import Batch, Kind, Reject, SourceError

Paths = str | Sequence[str]
Columns = Mapping[str, Sequence[Any] | pa.Array]

# Dotted paths into a run; the first that holds something wins. ``metadata`` stands for ``extra.metadata``.
DEFAULT_MAP: dict[str, tuple[str, ...]] = {
    "agent_name": ("metadata.agent_name", "metadata.lc_agent_name", "metadata.graph_id"),
    "agent_version": ("metadata.agent_version", "metadata.revision_id"),
    "mode": ("metadata.mode",),
    "tenant_id": ("metadata.tenant_id",),
    "user_id": ("metadata.user_id",),
    "conversation_id": ("thread_id", "metadata.thread_id", "metadata.session_id", "metadata.conversation_id"),
    "environment": ("metadata.environment", "metadata.env"),
    "provider": ("metadata.ls_provider",),
    "request_model": ("metadata.ls_model_name", "extra.invocation_params.model", "extra.invocation_params.model_name"),
    "response_model": ("metadata.response_model",),
    "prompt_name": ("metadata.lc_hub_repo",),
    "prompt_version": ("metadata.lc_hub_commit_hash",),
    "cache_hit": ("metadata.cache_hit",),
    "quality_score": ("metadata.quality_score",),
    "degraded": ("metadata.degraded",),
    "degradation_reason": ("metadata.degradation_reason",),
    "warnings": ("metadata.warnings",),
    "task_completed": ("metadata.task_completed",),
    "variant": ("metadata.variant",),
}

# LangChain's names of providers in OpenTelemetry's (gen_ai.provider.name).
PROVIDERS = {
    "amazon_bedrock": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
}

# feedback_source.type: "app" is a person in LangSmith's own pages; "model" and "auto_eval" are evaluators, most of
# them language models (LangSmith does not say which are plain code); "api" is whatever an application sent.
FEEDBACK_SOURCES = {"app": "human", "model": "llm", "auto_eval": "llm", "api": "api"}

_SMALLEST_MONEY, _LARGEST_MONEY = Decimal("1e-12"), Decimal("1e8")  # what columns.MONEY can hold
_ERROR_CLASS = re.compile(
    r"^(?:\w+\.)*([A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout|Cancelled|Warning|Failure|Exceeded|Denied))\s*(?:[:(]|$)"
)
_ZONE = r"(?:[Zz]|[+-]\d{2}:?\d{2})$"


def check_map(found_at: Mapping[str, Any] | None) -> dict[str, Paths]:
    """The user's map, once it is known to be one. Raises SourceError."""
    columns = {*DEFAULT_MAP, "tool_name"}
    if unknown := sorted(set(found_at or ()) - columns):
        raise SourceError(f"map: {', '.join(unknown)} cannot be mapped; what can be: {', '.join(sorted(columns))}")
    for column, paths in (found_at or {}).items():
        if not isinstance(paths, str) and not (isinstance(paths, Sequence) and all(isinstance(path, str) for path in paths)):
            raise SourceError(f"map: {column} must be a dotted path or a list of them, not {paths!r}; for example metadata.{column}")
    return dict(found_at or {})


class _Reader:
    """Columns of one answer and the rows of it that turned out to be unreadable."""

    def __init__(self, columns: Columns, rows: int) -> None:
        self.columns = columns
        self.rows = rows
        self.bad: dict[int, tuple[str, str]] = {}

    def values(self, name: str) -> Sequence[Any]:
        column = self.columns.get(name)
        if column is None:
            return [None] * self.rows
        return column.to_pylist() if isinstance(column, pa.Array | pa.ChunkedArray) else column

    def reject(self, row: int, reason: str, detail: str) -> None:
        self.bad.setdefault(row, (reason, detail))

    def convert(self, name: str, convert: Callable[[Any], Any]) -> list[Any]:
        """Convert each value; ValueError rejects the row."""
        out: list[Any] = []
        for row, value in enumerate(self.values(name)):
            try:
                out.append(None if value is None else convert(value))
            except (ValueError, TypeError, OverflowError, InvalidOperation):
                out.append(None)
                shown = str(value)[:80]
                self.reject(row, f"bad_{name}", f"{name} is {shown!r}, no number that can be stored; mend it at the source and read again")
        return out

    def required(self, name: str) -> list[str | None]:
        texts = [_text(value) for value in self.values(name)]
        for row, text in enumerate(texts):
            if not text:
                self.reject(row, f"missing_{name}", f"the row has no {name}; without one it cannot be told from others")
        return texts

    def times(self, name: str, *, required: bool = False) -> pa.Array:
        column = self.columns.get(name)
        if column is None:
            column = [None] * self.rows
        times, bad = parse_times(column)
        for row in bad:
            self.reject(row, f"bad_{name}", f"{name} is not a time; expected ISO 8601 such as 2026-01-05T16:46:01.068924")
        if required:
            for row in pc.indices_nonzero(pc.is_null(times)).to_pylist():
                self.reject(row, f"missing_{name}", f"the row has no {name}, so it belongs to no day")
        return times


def runs_batch(
    columns: Columns,
    rows: int,
    *,
    source: str,
    project: str,
    observed_time: datetime,
    location: str,
    found_at: Mapping[str, Paths] | None = None,
    payloads: bool = True,
    first_row: int = 1,
) -> Batch:
    """LangSmith runs, in the columns of its v1 query, as unified rows; ``found_at`` overrides DEFAULT_MAP by column."""
    reader = _Reader(columns, rows)
    extras = [_object(value) for value in reader.values("extra")]
    metadata = [_object(extra.get("metadata")) for extra in extras]
    run_ids, names = reader.required("id"), [_text(value) for value in reader.values("name")]
    parents = [_text(value) or None for value in reader.values("parent_run_id")]
    run_types = [str(value).lower() if value else None for value in reader.values("run_type")]
    errors = [_text(value) or None for value in reader.values("error")]
    tokens, costs = _usage(reader)

    out: dict[str, Any] = {
        "source": [source] * rows,
        "project": [project] * rows,
        "run_id": run_ids,
        "trace_id": [_text(trace) or run for trace, run in zip(reader.values("trace_id"), run_ids, strict=True)],
        "parent_run_id": parents,
        "run_type": run_types,
        "name": names,
        "tool_name": [name if kind == "tool" else None for name, kind in zip(names, run_types, strict=True)],
        "start_time": reader.times("start_time", required=True),
        "end_time": reader.times("end_time"),
        "first_token_time": reader.times("first_token_time"),
        "status": [str(value).lower() if value else None for value in reader.values("status")],
        "error_type": [_error_class(error) for error in errors],
        "error_message": errors,
        **tokens,
        **costs,
        "cost_source": ["reported" if cost is not None else None for cost in costs["total_cost"]],
        "tags": [_strings(value) for value in reader.values("tags")],
        "metadata": _metadata(reader, extras, metadata),
        "observed_time": [observed_time] * rows,
    }
    places = {**reader.columns, "extra": extras, "metadata": metadata}
    for column, paths in {**DEFAULT_MAP, **(found_at or {})}.items():
        found = _first_found(places, rows, [paths] if isinstance(paths, str) else list(paths))
        read = _READERS.get(column, _text_or_json)
        out[column] = [None if value is None else read(value) for value in found]
    out["provider"] = [PROVIDERS.get(provider, provider) for provider in out["provider"]]
    if "agent_name" not in (found_at or {}):  # a root without a named agent is that agent
        by_row = zip(out["agent_name"], names, parents, strict=True)
        out["agent_name"] = [agent or (name if parent is None else None) for agent, name, parent in by_row]
    if payloads:
        out |= {name: [_json_text(value) for value in reader.values(name)] for name in ("inputs", "outputs")}
    return _batch(Kind.RUNS, out, reader, location=location, first_row=first_row)


def feedback_batch(items: Sequence[dict[str, Any]], *, source: str, project: str, observed_time: datetime, location: str) -> Batch:
    """LangSmith feedback as unified rows."""
    rows = len(items)
    reader = _Reader(columns_of(items), rows)
    given_by = [_object(value) for value in reader.values("feedback_source")]
    about = [_object(who.get("metadata")) for who in given_by]
    out: dict[str, Any] = {
        "source": [source] * rows,
        "project": [project] * rows,
        "feedback_id": reader.required("id"),
        "run_id": [_text(value) for value in reader.values("run_id")],
        "trace_id": [_text(value) for value in reader.values("trace_id")],
        "key": reader.required("key"),
        "score": reader.convert("score", float),
        "value": [_text_or_json(value) for value in reader.values("value")],
        "comment": [_text(value) for value in reader.values("comment")],
        "correction": [None if value is None else orjson.dumps(value).decode() for value in reader.values("correction")],
        "source_type": [FEEDBACK_SOURCES.get(str(who.get("type")), _text(who.get("type"))) for who in given_by],
        "evaluator_name": [_text(what.get("evaluator_name")) for what in about],
        "evaluator_version": [_text(what.get("evaluator_version")) for what in about],
        "user_id": [_text(who.get("user_id") or who.get("ls_user_id")) for who in given_by],
        "created_at": reader.times("created_at", required=True),
        "modified_at": reader.times("modified_at"),
        "metadata": [_json_text(_feedback_rest(item)) for item in items],
        "observed_time": [observed_time] * rows,
    }
    return _batch(Kind.FEEDBACK, out, reader, location=location)


def columns_of(items: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Objects turned into columns; a key that an object lacks is None."""
    names: dict[str, None] = {}
    for item in items:
        names.update(dict.fromkeys(item))
    return {name: [item.get(name) for item in items] for name in names}


def parse_times(column: Sequence[Any] | pa.Array) -> tuple[pa.Array, list[int]]:
    """Times as UTC microseconds, and the rows that hold something else.

    Takes ISO 8601 text (without a zone it is UTC), timestamps and dates of any unit, and integers since 1970 in
    seconds, milliseconds, microseconds or nanoseconds, told apart by their size.
    """
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        try:
            column = pa.array(column, pa.string())
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return _times_one_by_one(column)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if getattr(kind, "tz", None):
            return column.cast(TIMESTAMP, safe=False), []
        return pc.assume_timezone(column.cast(pa.timestamp("us"), safe=False), "UTC"), []
    if pa.types.is_integer(kind):
        return _times_from_integers(column), []
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        text = pc.replace_substring_regex(pc.utf8_trim_whitespace(column.cast(pa.string())), r"(\.\d{6})\d+", r"\1")
        zoned = pc.if_else(pc.match_substring_regex(text, _ZONE), text, pc.binary_join_element_wise(text, "Z", ""))
        try:
            return zoned.cast(TIMESTAMP), []
        except pa.ArrowInvalid:
            pass  # at least one is not a time: find out which
    return _times_one_by_one(column.to_pylist())


def _times_from_integers(column: pa.Array) -> pa.Array:
    largest = pc.max(pc.abs(column.cast(pa.int64()))).as_py() or 0
    unit = next(unit for unit, limit in (("s", 10**11), ("ms", 10**14), ("us", 10**17), ("ns", 2**63)) if largest < limit)
    return column.cast(pa.int64()).cast(pa.timestamp(unit)).cast(pa.timestamp("us"), safe=False).cast(TIMESTAMP)


def _times_one_by_one(values: Iterable[Any]) -> tuple[pa.Array, list[int]]:
    times: list[datetime | None] = []
    bad: list[int] = []
    for row, value in enumerate(values):
        try:
            time = None if value is None else value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except (ValueError, TypeError):
            time = None
            bad.append(row)
        times.append(time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time)
    return pa.array(times, TIMESTAMP), bad


def _usage(reader: _Reader) -> tuple[dict[str, list[int | None]], dict[str, list[Decimal | None]]]:
    """Tokens and costs. LangSmith writes 0 tokens where it knows of none: all zero is unknown, and so is its zero cost."""
    prompt, completion, total = (reader.convert(name, _integer) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    costs = {
        column: reader.convert(name, money)
        for column, name in (("input_cost", "prompt_cost"), ("output_cost", "completion_cost"), ("total_cost", "total_cost"))
    }
    of_prompt = [_object(value) for value in reader.values("prompt_token_details")]
    of_completion = [_object(value) for value in reader.values("completion_token_details")]
    known = [bool(p or c or t) for p, c, t in zip(prompt, completion, total, strict=True)]

    def where_known(values: Iterable[Any]) -> list[Any]:
        return [value if counted else None for value, counted in zip(values, known, strict=True)]

    tokens = {
        "input_tokens": where_known(prompt),
        "output_tokens": where_known(completion),
        "total_tokens": where_known(total),
        "cache_read_input_tokens": where_known(_count(details, "cache_read") for details in of_prompt),
        "cache_creation_input_tokens": where_known(_count(details, "cache_creation", "cache_write") for details in of_prompt),
        "reasoning_output_tokens": where_known(_count(details, "reasoning") for details in of_completion),
    }
    for column, values in costs.items():
        costs[column] = [value if value or counted else None for value, counted in zip(values, known, strict=True)]
    return tokens, costs


def _metadata(reader: _Reader, extras: list[dict[str, Any]], metadata: list[dict[str, Any]]) -> list[str | None]:
    """The application's metadata, and under "langsmith" what else the run says that does not change between readings."""
    examples = reader.values("reference_example_id")
    absent = [
        [name for name, payload, url in (("inputs", i, iu), ("outputs", o, ou)) if payload is None and url]
        for i, o, iu, ou in zip(*(reader.values(name) for name in ("inputs", "outputs", "inputs_s3_urls", "outputs_s3_urls")), strict=True)
    ]
    texts: list[str | None] = []
    for extra, own, example, missing in zip(extras, metadata, examples, absent, strict=True):
        rest = {key: value for key, value in extra.items() if key != "metadata" and value}
        if example:
            rest["reference_example_id"] = example
        if missing:
            rest["payloads_not_inlined"] = missing  # too large for the run itself; the signed addresses expire, so they are not kept
        texts.append(_json_text({**own, "langsmith": rest} if rest else own or None))
    return texts


def _feedback_rest(item: dict[str, Any]) -> dict[str, Any] | None:
    names = ("feedback_source", "extra", "feedback_group_id", "comparative_experiment_id", "feedback_thread_id")
    return {name: item[name] for name in names if item.get(name)} or None


def _batch(kind: Kind, out: dict[str, Any], reader: _Reader, *, location: str, first_row: int = 1) -> Batch:
    schema = RUNS if kind is Kind.RUNS else FEEDBACK
    fields = [schema.field(name) for name in out]
    typed = zip(out.values(), fields, strict=True)
    arrays = [column if isinstance(column, pa.Array) else pa.array(column, field.type) for column, field in typed]
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    if not reader.bad:
        return Batch(kind, table, location=location)
    rejects = tuple(
        Reject(kind, reason, detail, f"{location}, row {first_row + row}", _raw(reader.columns, row), out["run_id"][row])
        for row, (reason, detail) in sorted(reader.bad.items())
    )
    good = pa.array([row not in reader.bad for row in range(reader.rows)])
    return Batch(kind, table.filter(good), rejects, location)


def _raw(columns: Columns, row: int) -> str:
    cells = ((name, column[row]) for name, column in columns.items())
    shown = {name: cell.as_py() if isinstance(cell, pa.Scalar) else cell for name, cell in cells}
    return orjson.dumps(shown, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


# ---- single values


def money(value: Any) -> Decimal:
    """A cost exactly as it was written: floats by their shortest text, to 12 decimals."""
    amount = value if isinstance(value, Decimal) else Decimal(str(value))
    if not amount.is_finite() or abs(amount) >= _LARGEST_MONEY:
        raise ValueError(value)
    return amount.quantize(_SMALLEST_MONEY)


def _integer(value: Any) -> int:
    number = float(value)
    if not number.is_integer() or abs(number) >= 2**63:
        raise ValueError(value)
    return int(number)


def _count(details: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = details.get(name)
        if isinstance(value, int | float):
            return int(value)
    return None


def _object(value: Any) -> dict[str, Any]:
    """An object, or JSON text of one. Text that is not is kept whole under "unparsed"."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {"unparsed": value}
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> list[str] | None:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [value]
    if isinstance(value, str):
        return [value]
    return [str(item) for item in value if item is not None] if isinstance(value, list) else None


def _text(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else str(value)


def _text_or_json(value: Any) -> str | None:
    if isinstance(value, dict | list | bool):
        return orjson.dumps(value).decode()
    return _text(value)


def _json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (ValueError, TypeError):
        return None  # the words stay in the metadata


def _yes_or_no(value: Any) -> bool | None:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return value if isinstance(value, bool) else words.get(str(value).lower())


_READERS: dict[str, Callable[[Any], Any]] = {
    "quality_score": _number,
    "cache_hit": _yes_or_no,
    "degraded": _yes_or_no,
    "task_completed": _yes_or_no,
    "warnings": _strings,
}


def _error_class(error: str | None) -> str | None:
    """``RateLimitError`` from "RateLimitError('429')…", "openai.RateLimitError: 429…", or the last line of a traceback."""
    if error is None:
        return None
    first = error
    if error.startswith("Traceback"):
        first = next((line for line in reversed(error.splitlines()) if line.strip()), "")
    match = _ERROR_CLASS.match(first.strip())
    return match.group(1) if match else None


def _first_found(places: Mapping[str, Any], rows: int, paths: list[str]) -> list[Any]:
    """For each row what stands at the first of these paths that holds something."""
    found: list[Any] = [None] * rows
    for path in paths:
        place, _, rest = path.partition(".")
        column = places.get(place)
        if column is None:
            continue
        values = column.to_pylist() if isinstance(column, pa.Array | pa.ChunkedArray) else column
        if place == "metadata" and "." not in rest:  # nearly all paths: worth a shortcut
            values = [value.get(rest) for value in values]
        elif rest:
            values = [_at(value, rest) for value in values]
        found = [value if old in (None, "") else old for old, value in zip(found, values, strict=True)]
    return [None if value == "" else value for value in found]


def _at(value: Any, path: str) -> Any:
    """What stands at a dotted path; a key that itself holds dots is found too."""
    if isinstance(value, str):
        value = _object(value)
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    key, _, rest = path.partition(".")
    return _at(value.get(key), rest) if rest else None
