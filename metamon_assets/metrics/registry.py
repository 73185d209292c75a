"""One list of all metrics that come from rollups: what views, rules, exposition, charts and documents are made from.

Here belongs what a metric is: its name, unit, kind, direction and how it follows from the columns of a rollup row. How
those columns come about is in ``sql/rollups``; what they mean, in the comments of ``sql/migrations/0003_metrics.sql``.
Metrics of other stages (learning, routing, the system's own health) are registered by those stages.

A metric adds up over rows: that of a range is ``sum(numerator) / sum(denominator)``, or the quantile of the merged
histograms; averages of ratios or of percentiles are never taken. A metric without data is NULL, never 0.

``sql/views/metrics.sql`` is ``views()``; after a change of the list write it again::

    python -c "from metamon_assets.metrics.registry import views; print(views(), end='')" > sql/views/metrics.sql
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LOWER, HIGHER, NEUTRAL = "lower_is_better", "higher_is_better", "neutral"


class Kind(StrEnum):
    """How a metric follows from a row."""

    COUNTER = "counter"  # a sum
    GAUGE = "gauge"  # a level, which may fall, or a figure that does not add up over rows
    RATIO = "ratio"  # numerator / denominator, each of which adds up
    HISTOGRAM = "histogram"  # a quantile of a histogram column


class Scope(StrEnum):
    """The finest rollup that has the metric; coarser ones have it too."""

    FIVE_MINUTES = "five_minute_metrics"
    FIFTEEN_MINUTES = "fifteen_minute_metrics"
    DAY = "daily_metrics"


SECONDS = {Scope.FIVE_MINUTES: 300, Scope.FIFTEEN_MINUTES: 900, Scope.DAY: 86_400}
_COARSER = {scope: list(Scope)[index:] for index, scope in enumerate(Scope)}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. ``numerator`` and ``denominator`` are SQL over the columns of a rollup row; ``{seconds}`` is the row's length.

    ``sample`` is SQL for the number of requests (or calls, units) that the figure rests on. ``unit`` is UCUM.
    ``needs`` says what traces must carry for the metric to exist, as a line to write; "" for what every trace has.
    """

    name: str
    unit: str
    kind: Kind
    direction: str
    numerator: str
    description: str
    requirement: str
    denominator: str = ""
    quantile: float | None = None
    sample: str = "requests"
    scope: Scope = Scope.FIVE_MINUTES
    needs: str = ""

    def expression(self, scope: Scope) -> str:
        """SQL for the metric over one row of the rollup of ``scope``."""
        if self.quantile is not None:
            h = self.numerator
            return f"metamon.histogram_quantile({h}_bins, {h}_counts, {h}_zeros, {self.quantile:g})"
        numerator = self.numerator.replace("{seconds}", str(SECONDS[scope]))
        if not self.denominator:
            return numerator
        return f"CAST({numerator} AS double precision) / nullif({self.denominator.replace('{seconds}', str(SECONDS[scope]))}, 0)"

    @property
    def prometheus_name(self) -> str:
        """The name at ``/metrics`` (MET-10): ``metamon_`` before it and, by Prometheus' custom, the unit and ``_total`` behind it."""
        suffix = {"s": "_seconds", "USD": "_dollars", "{token}": "_tokens", "1/s": "_per_second"}.get(self.unit, "")
        name = self.name if suffix.strip("_") in self.name.split("_") else self.name + suffix
        return f"metamon_{name}" + ("_total" if self.kind is Kind.COUNTER else "")

    def in_scope(self, scope: Scope) -> bool:
        """Whether rows of ``scope`` have the metric."""
        return scope in _COARSER[self.scope]


def _latency(name: str, q: float, label: str) -> Metric:
    description = f"{label} latency, within 1 %."
    return Metric(name, "s", Kind.HISTOGRAM, LOWER, "latency", description, "MET-1", quantile=q, sample="latency_count")


_FIRST_TOKEN = "first_token_time on the run"  # noqa: S105 - not a secret
_QUALITY = "quality_score on the run, 0 to 1"
_COST = "provider, request_model and token counts on the run, or total_cost"
_CACHE = "cache_hit on the run, true or false"
_TOKENS = "input_tokens and output_tokens on the run"
_TOOLS = "a child run of run_type tool, with its status"
_RETRIEVALS = "a child run of run_type retriever, with its status"
_FEEDBACK = "feedback with the run_id: LangSmith's create_feedback, or a line of feedback in a file"

METRICS: tuple[Metric, ...] = (
    # MET-1 performance
    Metric("requests", "{request}", Kind.COUNTER, NEUTRAL, "requests", "Traces that started (dimension tool: calls).", "MET-1"),
    Metric("request_rate", "1/s", Kind.GAUGE, NEUTRAL, "requests", "Requests per second.", "MET-1", "{seconds}"),
    Metric("errors", "{request}", Kind.COUNTER, LOWER, "errors", "Requests that failed.", "MET-1"),
    Metric(
        "error_rate",
        "1",
        Kind.RATIO,
        LOWER,
        "errors",
        "Failed share of the requests that ended.",
        "MET-1",
        "(successes + errors)",
        sample="successes + errors",
    ),
    Metric(
        "success_rate",
        "1",
        Kind.RATIO,
        HIGHER,
        "successes",
        "Successful share of the requests that ended.",
        "MET-1",
        "(successes + errors)",
        sample="successes + errors",
    ),
    Metric("pending_requests", "{request}", Kind.GAUGE, NEUTRAL, "pending", "Requests still pending.", "MET-1"),
    Metric("abandoned_requests", "{request}", Kind.COUNTER, LOWER, "abandoned", "Requests pending for 14 days and given up.", "MET-1"),
    Metric("latency_mean", "s", Kind.RATIO, LOWER, "latency_sum", "Mean latency.", "MET-1", "latency_count", sample="latency_count"),
    _latency("latency_p50", 0.5, "Median"),
    _latency("latency_p95", 0.95, "95th percentile of"),
    _latency("latency_p99", 0.99, "99th percentile of"),
    Metric(
        "cache_hit_latency_mean",
        "s",
        Kind.RATIO,
        LOWER,
        "hit_latency_sum",
        "Mean latency of requests that the cache answered.",
        "MET-1",
        "hit_latency_count",
        sample="hit_latency_count",
        needs=_CACHE,
    ),
    Metric(
        "cache_miss_latency_mean",
        "s",
        Kind.RATIO,
        LOWER,
        "miss_latency_sum",
        "Mean latency of requests that the cache did not answer.",
        "MET-1",
        "miss_latency_count",
        sample="miss_latency_count",
        needs=_CACHE,
    ),
    Metric(
        "time_to_first_token_mean",
        "s",
        Kind.RATIO,
        LOWER,
        "time_to_first_token_sum",
        "Mean time to the first token.",
        "MET-1",
        "time_to_first_token_count",
        sample="time_to_first_token_count",
        needs=_FIRST_TOKEN,
    ),
    *(
        Metric(
            f"time_to_first_token_p{round(q * 100)}",
            "s",
            Kind.HISTOGRAM,
            LOWER,
            "time_to_first_token",
            f"{round(q * 100)}th percentile of the time to the first token, within 1 %.",
            "MET-1",
            quantile=q,
            sample="time_to_first_token_count",
            scope=Scope.FIFTEEN_MINUTES,
            needs=_FIRST_TOKEN,
        )
        for q in (0.5, 0.95)
    ),
    Metric(
        "active_workflows",
        "{request}",
        Kind.GAUGE,
        NEUTRAL,
        "latency_sum",
        "Requests under way at a time, on average (Little's law).",
        "MET-1",
        "{seconds}",
        sample="latency_count",
    ),
    Metric("tool_calls", "{call}", Kind.COUNTER, NEUTRAL, "tool_calls", "Tool calls in the traces.", "MET-1", needs=_TOOLS),
    Metric(
        "tool_errors", "{call}", Kind.COUNTER, LOWER, "tool_errors", "Tool calls that failed.", "MET-1", sample="tool_results", needs=_TOOLS
    ),
    Metric(
        "tool_success_rate",
        "1",
        Kind.RATIO,
        HIGHER,
        "(tool_results - tool_errors)",
        "Successful share of the tool calls that ended.",
        "MET-1",
        "tool_results",
        sample="tool_results",
        needs=_TOOLS,
    ),
    Metric("retrievals", "{call}", Kind.COUNTER, NEUTRAL, "retrievals", "Retrievals in the traces.", "MET-1", needs=_RETRIEVALS),
    Metric(
        "retrieval_success_rate",
        "1",
        Kind.RATIO,
        HIGHER,
        "(retrieval_results - retrieval_errors)",
        "Successful share of the retrievals that ended.",
        "MET-1",
        "retrieval_results",
        sample="retrieval_results",
        needs=_RETRIEVALS,
    ),
    Metric(
        "llm_calls",
        "{call}",
        Kind.COUNTER,
        NEUTRAL,
        "llm_calls",
        "Model calls in the traces.",
        "MET-1",
        needs="a child run of run_type llm",
    ),
    # MET-2 cache, as far as traces tell
    Metric(
        "cache_hit_rate",
        "1",
        Kind.RATIO,
        HIGHER,
        "cache_hits",
        "Share of the requests that the application's cache answered.",
        "MET-2",
        "cache_known",
        sample="cache_known",
        needs=_CACHE,
    ),
    Metric(
        "cache_saved_cost",
        "USD",
        Kind.GAUGE,
        HIGHER,
        "hit_priced_requests * miss_cost / nullif(miss_priced_requests, 0) - hit_cost",
        "What the priced cache hits would have cost at the mean cost of the misses, less what they did cost.",
        "MET-2",
        sample="hit_priced_requests",
        needs=_CACHE,
    ),
    # MET-3 quality
    Metric(
        "quality_mean",
        "1",
        Kind.RATIO,
        HIGHER,
        "quality_sum",
        "Mean quality score.",
        "MET-3",
        "quality_count",
        sample="quality_count",
        needs=_QUALITY,
    ),
    *(
        Metric(
            f"quality_p{round(q * 100)}",
            "1",
            Kind.HISTOGRAM,
            HIGHER,
            "quality",
            f"{round(q * 100)}th percentile of the quality score, within 1 %.",
            "MET-3",
            quantile=q,
            sample="quality_count",
            scope=Scope.FIFTEEN_MINUTES,
            needs=_QUALITY,
        )
        for q in (0.1, 0.5)
    ),
    Metric(
        "degradation_rate",
        "1",
        Kind.RATIO,
        LOWER,
        "degraded",
        "Share of degraded answers.",
        "MET-3",
        "degraded_known",
        sample="degraded_known",
        needs="degraded on the run, true or false",
    ),
    Metric("warning_rate", "1", Kind.RATIO, LOWER, "warned_requests", "Share of requests with a warning.", "MET-3", "requests"),
    Metric(
        "task_completion_rate",
        "1",
        Kind.RATIO,
        HIGHER,
        "tasks_completed",
        "Share of completed tasks.",
        "MET-3",
        "tasks_known",
        sample="tasks_known",
        needs="task_completed on the run, true or false",
    ),
    Metric(
        "user_satisfaction",
        "1",
        Kind.RATIO,
        HIGHER,
        "CAST(feedback #>> '{user_rating,score_sum}' AS double precision)",
        "Mean user_rating, on the scale of the feedback itself.",
        "MET-3",
        "CAST(feedback #>> '{user_rating,score_count}' AS bigint)",
        sample="coalesce(CAST(feedback #>> '{user_rating,score_count}' AS bigint), 0)",
        scope=Scope.DAY,
        needs=_FEEDBACK + ", key user_rating",
    ),
    # MET-4 cost
    Metric(
        "total_cost",
        "USD",
        Kind.COUNTER,
        LOWER,
        "total_cost",
        "US dollars of the priced requests.",
        "MET-4",
        sample="priced_requests",
        needs=_COST,
    ),
    Metric(
        "input_cost",
        "USD",
        Kind.COUNTER,
        LOWER,
        "input_cost",
        "US dollars for input tokens.",
        "MET-4",
        sample="priced_requests",
        needs=_COST,
    ),
    Metric(
        "output_cost",
        "USD",
        Kind.COUNTER,
        LOWER,
        "output_cost",
        "US dollars for output tokens.",
        "MET-4",
        sample="priced_requests",
        needs=_COST,
    ),
    Metric(
        "llm_cost",
        "USD",
        Kind.COUNTER,
        LOWER,
        "total_cost - coalesce(retrieval_cost, 0)",
        "US dollars of model calls: the total less embeddings, reranking and retrieval.",
        "MET-4",
        sample="priced_requests",
        needs=_COST,
    ),
    Metric(
        "tool_cost",
        "USD",
        Kind.COUNTER,
        LOWER,
        "tool_cost",
        "US dollars that tool calls told as their own.",
        "MET-4",
        sample="tool_results",
        needs="total_cost on the tool's run",
    ),
    Metric(
        "retrieval_cost",
        "USD",
        Kind.COUNTER,
        LOWER,
        "retrieval_cost",
        "US dollars of embeddings, reranking and retrieval.",
        "MET-4",
        sample="retrieval_results",
        needs="total_cost on the retriever's, embedding's or reranker's run",
    ),
    Metric(
        "cost_per_request",
        "USD",
        Kind.RATIO,
        LOWER,
        "total_cost",
        "US dollars per priced request.",
        "MET-4",
        "priced_requests",
        sample="priced_requests",
        needs=_COST,
    ),
    Metric("unpriced_share", "1", Kind.RATIO, LOWER, "unpriced_requests", "Share of requests whose cost is unknown.", "MET-4", "requests"),
    Metric(
        "cache_hit_cost_per_request",
        "USD",
        Kind.RATIO,
        LOWER,
        "hit_cost",
        "US dollars per request that the cache answered.",
        "MET-4",
        "hit_priced_requests",
        sample="hit_priced_requests",
        needs=_CACHE,
    ),
    Metric(
        "cache_miss_cost_per_request",
        "USD",
        Kind.RATIO,
        LOWER,
        "miss_cost",
        "US dollars per request that the cache did not answer.",
        "MET-4",
        "miss_priced_requests",
        sample="miss_priced_requests",
        needs=_CACHE,
    ),
    *(
        Metric(name, "{token}", Kind.COUNTER, NEUTRAL, name, description, "MET-4", sample="tokens_count", needs=_TOKENS)
        for name, description in (
            ("input_tokens", "Tokens sent to models, cached ones included."),
            ("output_tokens", "Tokens that models produced, reasoning included."),
            ("total_tokens", "Input and output tokens."),
            ("cache_read_input_tokens", "Input tokens that providers served from their prompt caches."),
            ("reasoning_output_tokens", "Output tokens spent on reasoning."),
        )
    ),
    Metric(
        "tokens_per_request",
        "{token}",
        Kind.RATIO,
        LOWER,
        "total_tokens",
        "Tokens per request that tells them.",
        "MET-4",
        "tokens_count",
        sample="tokens_count",
        needs=_TOKENS,
    ),
    Metric(
        "month_cost_estimate",
        "USD",
        Kind.GAUGE,
        LOWER,
        "total_cost * extract(day FROM date_trunc('month', day) + interval '1 month' - interval '1 day')",
        "What the month would cost if each of its days cost what this one did.",
        "MET-4",
        sample="priced_requests",
        scope=Scope.DAY,
        needs=_COST,
    ),
    # MET-5 business
    Metric(
        "daily_active_users",
        "{user}",
        Kind.GAUGE,
        HIGHER,
        "users",
        "Distinct users of the day.",
        "MET-5",
        sample="users",
        scope=Scope.DAY,
        needs="user_id on the run",
    ),
    Metric(
        "daily_conversations",
        "{conversation}",
        Kind.GAUGE,
        NEUTRAL,
        "conversations",
        "Distinct conversations of the day.",
        "MET-5",
        sample="conversations",
        scope=Scope.DAY,
        needs="conversation_id on the run",
    ),
    Metric(
        "feedback_collection_rate",
        "1",
        Kind.RATIO,
        HIGHER,
        "rated_requests",
        "Share of requests that got feedback, however late.",
        "MET-5",
        "requests",
        scope=Scope.DAY,
        needs=_FEEDBACK,
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def markdown() -> str:
    """All metrics as one table for the documents."""
    lines = ["| metric | unit | kind | better | at `/metrics` | from | meaning |", "|---|---|---|---|---|---|---|"]
    for metric in METRICS:
        better = {LOWER: "lower", HIGHER: "higher", NEUTRAL: "–"}[metric.direction]
        lines.append(
            f"| {metric.name} | {metric.unit} | {metric.kind} | {better} | {metric.prometheus_name} |"
            f" {metric.requirement}, {metric.scope} | {metric.description} |"
        )
    return "\n".join(lines) + "\n"


# --- the views that are made from the list ----------------------------------------------------------------------


def views() -> str:
    """The text of ``sql/views/metrics.sql``."""
    return "\n".join((_HEADER, *(_rollup_view(scope) for scope in Scope), _values_view(), _instrumentation_view()))


def _rollup_view(scope: Scope) -> str:
    # A derived figure of the same name as a sum is that sum: the table's own column stands for it.
    derived = [m for m in METRICS if m.in_scope(scope) and m.expression(scope) != m.name]
    columns = ",\n".join(f"       {metric.expression(scope)} AS {metric.name}" for metric in derived)
    view = f"analytics.{scope}"
    comments = "\n".join(f"COMMENT ON COLUMN {view}.{m.name} IS {_literal(f'{m.description} Unit {m.unit}.')};" for m in derived)
    return (
        f"CREATE OR REPLACE VIEW {view} WITH (security_invoker = true) AS\nSELECT m.*,\n{columns}\nFROM metamon.{scope} AS m;\n"
        f"COMMENT ON VIEW {view} IS {_literal(_VIEW_COMMENTS[scope])};\n"
        f"SELECT metamon.copy_comments('metamon.{scope}', '{view}');\n{comments}\n"
    )


def _values_view() -> str:
    rows = ",\n".join(
        f"    ({_literal(metric.name)}, CAST({metric.expression(Scope.DAY)} AS double precision), {metric.sample})" for metric in METRICS
    )
    return (
        "CREATE OR REPLACE VIEW analytics.metric_values WITH (security_invoker = true) AS\n"
        "SELECT m.day, m.dimension, m.dimension_value, v.metric, v.value, v.n\n"
        f"FROM metamon.daily_metrics AS m\nCROSS JOIN LATERAL (VALUES\n{rows}\n) AS v (metric, value, n);\n" + _VALUES_COMMENTS
    )


def _instrumentation_view() -> str:
    rows = ",\n".join(
        f"    ({_literal(metric.name)}, {_literal(metric.requirement)}, {_literal(metric.needs)})" for metric in METRICS if metric.needs
    )
    gauges = ",\n".join(
        f"    ({_literal(name)}, 'MET-2', {_literal(_GAUGE_LINE.format(name=name, more=more))})" for name, more in _GAUGES_EXPECTED
    )
    return _INSTRUMENTATION.format(rows=rows, gauges=gauges)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_HEADER = """\
-- What the traces add up to, for analysts. Written by metamon_assets/metrics/registry.py from the one list of metrics;
-- a test fails when the two differ. Ratios of rows are for reading a row: over several rows divide the sums, and
-- take percentiles from metamon.histogram_merge, never from averages.
"""
_VIEW_COMMENTS = {
    Scope.FIVE_MINUTES: "Five-minute buckets of the last 14 days by one dimension at a time: sums, and the figures derived from them.",
    Scope.FIFTEEN_MINUTES: "Fifteen-minute buckets by one dimension at a time: sums, and the figures derived from them.",
    Scope.DAY: "UTC days by one dimension at a time: sums, and the figures derived from them.",
}
_VALUES_COMMENTS = """\
COMMENT ON VIEW analytics.metric_values IS 'Every metric of every day and group as one row, for whatever takes any metric.';
SELECT metamon.copy_comments('metamon.daily_metrics', 'analytics.metric_values');
COMMENT ON COLUMN analytics.metric_values.metric IS 'Name of the metric.';
COMMENT ON COLUMN analytics.metric_values.value IS 'Its value; NULL when there is nothing to tell it from.';
COMMENT ON COLUMN analytics.metric_values.n IS 'Number of requests (calls, users) that the value rests on.';
"""
# A line of a JSONL file of gauges (IN-4): the least that makes the metric exist.
_GAUGE_LINE = '{{"name": "{name}", "time": "2026-08-22T12:00:00Z", "value": 1{more}}}'
_GAUGES_EXPECTED = (
    ("cache_operations", ', "kind": "counter", "labels": {"operation": "hit"}'),
    ("cache_size", ""),
    ("cache_memory", ', "unit": "By"'),
    ("cache_entry_age", ', "unit": "s"'),
    ("cache_entry_lifetime", ', "unit": "s"'),
)
_INSTRUMENTATION = """\
CREATE OR REPLACE VIEW analytics.instrumentation WITH (security_invoker = true) AS
WITH seen AS (
    SELECT metric, max(day) FILTER (WHERE n > 0 AND value IS NOT NULL) AS last_day
    FROM analytics.metric_values WHERE dimension = 'overall' GROUP BY metric
    UNION ALL
    SELECT name, max(day) FROM metamon.gauge_samples GROUP BY name
)
SELECT e.metric, e.requirement, CASE WHEN s.last_day IS NULL THEN 'not instrumented' ELSE 'instrumented' END AS state, s.last_day,
       e.what_would_change_that
FROM (VALUES
{rows},
{gauges}
) AS e (metric, requirement, what_would_change_that)
LEFT JOIN seen AS s ON s.metric = e.metric;
COMMENT ON VIEW analytics.instrumentation IS 'Which metrics have a producer. Where one has none, show that and what would change it.';
COMMENT ON COLUMN analytics.instrumentation.metric IS 'Name of the metric or gauge.';
COMMENT ON COLUMN analytics.instrumentation.requirement IS 'Requirement that asks for it.';
COMMENT ON COLUMN analytics.instrumentation.state IS 'instrumented or not instrumented.';
COMMENT ON COLUMN analytics.instrumentation.last_day IS 'Last UTC day that had it.';
COMMENT ON COLUMN analytics.instrumentation.what_would_change_that IS 'What to put on the run, or the line to write.';
"""
