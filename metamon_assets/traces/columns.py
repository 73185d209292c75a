"""The unified columns: what every source delivers, whatever it calls things itself.

Here belong the Arrow schemas that sources produce and the merge writes, and nothing else. The meaning of
each column is written once, as a COMMENT in ``sql/migrations``; a test keeps names and types in step with it.
Names are those of OpenTelemetry's GenAI conventions in snake case. ``session_id`` is not among them on
purpose: LangSmith means a project by it, OpenInference a conversation.
"""

from __future__ import annotations

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
MONEY = pa.decimal128(20, 12)  # US dollars; exact, never a float that is added up
STRINGS = pa.list_(pa.string())

# A run is one timed piece of work: the root of a trace or any of its children (OpenTelemetry's span).
RUN_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("source", pa.string()),
    ("project", pa.string()),
    ("run_id", pa.string()),
    ("trace_id", pa.string()),
    ("parent_run_id", pa.string()),
    ("run_type", pa.string()),
    ("name", pa.string()),
    ("agent_name", pa.string()),
    ("agent_version", pa.string()),
    ("tool_name", pa.string()),
    ("mode", pa.string()),
    ("tenant_id", pa.string()),
    ("user_id", pa.string()),
    ("conversation_id", pa.string()),
    ("environment", pa.string()),
    ("start_time", TIMESTAMP),
    ("end_time", TIMESTAMP),
    ("first_token_time", TIMESTAMP),
    ("latency_seconds", pa.float64()),
    ("time_to_first_token_seconds", pa.float64()),
    ("status", pa.string()),
    ("error_type", pa.string()),
    ("error_message", pa.string()),
    ("provider", pa.string()),
    ("request_model", pa.string()),
    ("response_model", pa.string()),
    ("prompt_name", pa.string()),
    ("prompt_version", pa.string()),
    ("input_tokens", pa.int64()),
    ("output_tokens", pa.int64()),
    ("total_tokens", pa.int64()),
    ("cache_read_input_tokens", pa.int64()),
    ("cache_creation_input_tokens", pa.int64()),
    ("reasoning_output_tokens", pa.int64()),
    ("input_cost", MONEY),
    ("output_cost", MONEY),
    ("total_cost", MONEY),
    ("cost_source", pa.string()),
    ("cache_hit", pa.bool_()),
    ("quality_score", pa.float64()),
    ("degraded", pa.bool_()),
    ("degradation_reason", pa.string()),
    ("warnings", STRINGS),
    ("task_completed", pa.bool_()),
    ("llm_calls", pa.int32()),
    ("tool_calls", pa.int32()),
    ("retrievals", pa.int32()),
    ("variant", pa.string()),
    ("tags", STRINGS),
    ("metadata", pa.string()),  # a JSON object as text; jsonb in Postgres
    ("time_declared", pa.bool_()),
    ("observed_time", TIMESTAMP),
)

# Payloads travel with the run and are stored apart from it, or not at all (IN-10).
PAYLOAD_FIELDS: tuple[tuple[str, pa.DataType], ...] = (("inputs", pa.string()), ("outputs", pa.string()))

FEEDBACK_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("source", pa.string()),
    ("project", pa.string()),
    ("feedback_id", pa.string()),
    ("run_id", pa.string()),
    ("trace_id", pa.string()),
    ("key", pa.string()),
    ("score", pa.float64()),
    ("value", pa.string()),
    ("comment", pa.string()),
    ("correction", pa.string()),  # JSON text
    ("source_type", pa.string()),
    ("evaluator_name", pa.string()),
    ("evaluator_version", pa.string()),
    ("user_id", pa.string()),
    ("created_at", TIMESTAMP),
    ("modified_at", TIMESTAMP),
    ("metadata", pa.string()),
    ("observed_time", TIMESTAMP),
)

EVENT_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("source", pa.string()),
    ("project", pa.string()),
    ("event_id", pa.string()),
    ("kind", pa.string()),
    ("agent_name", pa.string()),
    ("version", pa.string()),
    ("commit_sha", pa.string()),
    ("url", pa.string()),
    ("actor", pa.string()),
    ("time", TIMESTAMP),
    ("inferred", pa.bool_()),
    ("metadata", pa.string()),
    ("observed_time", TIMESTAMP),
)

GAUGE_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("source", pa.string()),
    ("project", pa.string()),
    ("name", pa.string()),
    ("time", TIMESTAMP),
    ("value", pa.float64()),
    ("unit", pa.string()),
    ("kind", pa.string()),
    ("labels", pa.string()),  # a JSON object of strings, keys sorted
    ("observed_time", TIMESTAMP),
)

RUNS = pa.schema(RUN_FIELDS + PAYLOAD_FIELDS)
FEEDBACK = pa.schema(FEEDBACK_FIELDS)
EVENTS = pa.schema(EVENT_FIELDS)
GAUGES = pa.schema(GAUGE_FIELDS)

RUN_TYPES = (
    "chain",
    "agent",
    "llm",
    "tool",
    "retriever",
    "embedding",
    "reranker",
    "guardrail",
    "evaluator",
    "prompt",
    "parser",
    "workflow",
)
STATUSES = ("success", "error", "pending", "abandoned")
COST_SOURCES = ("reported", "computed", "unpriced")
EVENT_KINDS = ("deployment", "version", "model", "prompt", "configuration", "incident", "other")
GAUGE_KINDS = ("gauge", "counter")  # a counter sample is the increase since the sample before it
