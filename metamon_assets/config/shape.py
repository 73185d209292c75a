"""The shape of ``metamon.yaml``: every key, its default, its check and its meaning.

A field's docstring is its description in the JSON Schema and in ``metamon config explain``. A key that no stage reads yet
is marked with NOT_READ_YET: it is checked and kept, and ``config check`` says that it has no effect so far.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from metamon_assets.config.part import Part
from metamon_assets.config.secret import Secret
from metamon_assets.config.sources import Exclude, SourceConfig

DEFAULT_START_DAY = date(2024, 1, 1)  # a fixed day: a moving one would shift Dagster's partitions every day
NOT_READ_YET: dict[str, Any] = {"x-metamon-not-read-yet": True}
Direction = Literal["higher_is_better", "lower_is_better"]
Severity = Literal["info", "warning", "critical"]


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PydanticCustomError("timezone", "no such time zone; write one like UTC or Europe/Vienna") from None
    return name


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise PydanticCustomError("regex", "not a regular expression: {reason}", {"reason": str(error)}) from None
    return text


def _metric_expression(text: str) -> str:
    from metamon_assets.config.expressions import ExpressionError, parse

    try:
        parse(text)
    except ExpressionError as error:
        raise PydanticCustomError("expression", "{reason}", {"reason": str(error)}) from None
    return text


class Retention(Part):
    """How long rows are kept, in days; none: for ever."""

    payload_days: int | None = Field(default=None, ge=1)
    """Inputs and outputs."""
    trace_days: int | None = Field(default=None, ge=1)
    """Traces and spans; what they added up to stays."""


class Privacy(Part):
    """What is kept of what people and agents wrote."""

    store_payloads: bool = True
    """Keep inputs and outputs (redacted, in a table that analysts cannot read)."""
    payload_limit: int = Field(default=65_536, ge=256)
    """Longest input or output that is kept, in bytes; longer ones are cut and marked."""
    redact: bool = True
    """Replace addresses, keys, card numbers and the like before anything is stored."""
    redact_off: tuple[str, ...] = ()
    """Kinds of sensitive text that are left alone, such as ip_address."""
    redact_patterns: dict[str, Annotated[str, AfterValidator(_regular_expression)]] = {}
    """Further kinds: a name and the regular expression whose matches are replaced by it."""
    retention: Retention = Field(default_factory=Retention, json_schema_extra=NOT_READ_YET)
    """How long rows are kept."""


class PriceOverride(Part):
    """A price that goes before the bundled price table: a contract, a model of your own. US dollars per million tokens."""

    model: str
    """Model as in traces, requested or answering."""
    provider: str = "*"
    """Provider as in traces; * for any."""
    valid_from: date = date(1970, 1, 1)
    """First UTC day on which the price holds, until the next one."""
    input_per_million: Decimal | None = Field(default=None, ge=0)
    """Input tokens that were neither read from nor written to the cache."""
    output_per_million: Decimal | None = Field(default=None, ge=0)
    """Output tokens."""
    cache_read_per_million: Decimal | None = Field(default=None, ge=0)
    """Tokens read from the cache; none: as input."""
    cache_creation_per_million: Decimal | None = Field(default=None, ge=0)
    """Tokens written to the cache; none: as input."""
    note: str | None = None
    """Where the price comes from."""


class Web(Part):
    """The web server: API, OTLP receiver, metrics, dashboard."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 makes it reachable from other machines."""
    port: int = Field(default=4318, ge=1, le=65_535)
    """Port to listen on; 4318 is where OpenTelemetry exporters send to by default. The next free one when it is taken."""
    public_url: str | None = None
    """Address under which people and applications reach it, for links; none: host and port."""
    max_request_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Largest request that is accepted, after unpacking."""
    webhook_secret: Secret | None = None
    """Secret that the Git host signs its webhooks with; none: webhooks are refused."""


class Feed(Part):
    """The live feed, which asks the sources all the time."""

    interval_seconds: int = Field(default=60, ge=5)
    """Seconds from one question to the next."""
    overlap_minutes: int = Field(default=20, ge=1, le=24 * 60)
    """How far back each question reaches: runs that arrive or end later than this are found by the daily reading."""


class Alerts(Part):
    """When people are told."""

    shadow_hours: int = Field(default=48, ge=0)
    """Hours after its first reading in which a new source pages nobody: what fires is recorded, and told in the digest."""
    digest_hour: int = Field(default=9, ge=0, le=23)
    """Hour of the daily digest, in the time zone above."""


class AgentMetric(Part):
    """A metric of one agent that traces alone do not have: from feedback, or from an expression over each trace."""

    feedback: str | None = None
    """Key of the feedback whose scores are the metric."""
    sql: Annotated[str, AfterValidator(_metric_expression)] | None = None
    """Expression over the columns of a trace, such as (metadata ->> 'resolved') = 'true'; checked, and never pasted into a query."""
    direction: Direction = "higher_is_better"
    """Which way is better."""
    guardrail_margin: float | None = Field(default=None, ge=0)
    """Largest loss, in the metric's own unit, that a change may cost; none: the metric is no guardrail."""
    proxy: bool = False
    """Stands for quality without being it (a retry, a rephrased question): named so wherever it is shown."""
    description: str | None = None
    """What it means, for people."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.feedback is None) == (self.sql is None):
            raise PydanticCustomError("origin", "give either feedback (a key) or sql (an expression)")
        return self


class Target(Part):
    """What a metric should be."""

    min: float | None = None
    """Not below this."""
    max: float | None = None
    """Not above this."""

    @model_validator(mode="after")
    def _a_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise PydanticCustomError("bound", "give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise PydanticCustomError("bound", "min is above max")
        return self


class Agent(Part):
    """What is known of one agent."""

    owner: str | None = None
    """Who is told about it: a person or a team."""
    unit: Literal["request", "conversation", "user"] = "conversation"
    """What tests count as one observation."""
    target: str | None = None
    """What evaluations run: an import path (package.module:function) or an address (https://…)."""
    metrics: dict[str, AgentMetric] = {}
    """Metrics of its own, by name."""
    targets: dict[str, Target] = {}
    """What metrics should be, by name."""
    monthly_budget: Decimal | None = Field(default=None, ge=0)
    """US dollars a month."""


class ValueModel(Part):
    """What things are worth, in US dollars: the unit values of the ROI ledger."""

    engineering_hour: Decimal | None = Field(default=None, ge=0)
    """An hour of engineering."""
    failed_request: Decimal | None = Field(default=None, ge=0)
    """What a request that fails costs."""
    user_minute: Decimal | None = Field(default=None, ge=0)
    """A minute that a user waits."""


class Channel(Part):
    """Where messages go."""

    type: Literal["email", "slack", "pagerduty", "webhook"]
    """Kind of channel."""
    url: Secret
    """Address with its credentials, as env:NAME."""


class Route(Part):
    """Which messages go to which channels."""

    channels: tuple[str, ...] = Field(min_length=1)
    """Names of channels."""
    severities: tuple[Severity, ...] = ("info", "warning", "critical")
    """For which severities."""
    agents: tuple[str, ...] = ()
    """For which agents; none: all."""


class AutoApprove(Part):
    """When a proposal needs no person."""

    enabled: bool = False
    """Off unless switched on here."""
    confidence: float = Field(default=0.95, ge=0.95, lt=1)
    """Least confidence."""


class Automation(Part):
    """What Metamon may do by itself."""

    rollout_stages: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (10, 50, 100)
    """Shares of the traffic, in per cent, through which a change is rolled out."""
    auto_approve: AutoApprove = AutoApprove()
    """When a proposal needs no person."""


class Judge(Part):
    """A language model that scores answers."""

    endpoint: str
    """Address of an OpenAI-compatible API."""
    model: str
    """Name of the model there."""
    api_key: Secret
    """Key, as env:NAME."""


class Evaluations(Part):
    """How agents are evaluated."""

    judge: Judge | None = None
    """Language model that scores answers; none: no such scores."""
    daily_budget: Decimal | None = Field(default=None, ge=0)
    """US dollars that a day's evaluation may spend; none: no limit."""


class Configuration(Part):
    """``metamon.yaml``."""

    timezone: Annotated[str, AfterValidator(_known_timezone)] = "UTC"
    """Time zone of digests and of what people read; partitions are UTC always."""
    start_day: date = DEFAULT_START_DAY
    """First day that is kept (UTC): the first daily partition."""
    ui_port: int = Field(default=3000, ge=1, le=65_535)
    """Port of the Dagster UI on this machine; the next free one when it is taken."""
    web: Web = Web()
    """The web server."""
    feed: Feed = Feed()
    """The live feed."""
    sources: tuple[SourceConfig, ...] = ()
    """Where traces come from."""
    map: dict[str, str | tuple[str, ...]] = {}
    """Where unified columns are found in LangSmith and OpenTelemetry runs (tenant_id: metadata.customer); a source's own map goes first."""
    privacy: Privacy = Privacy()
    """What is kept of texts."""
    exclude: Exclude = Exclude()
    """Traces that are never taken in, whatever their source."""
    agents: dict[str, Agent] = Field(default={}, json_schema_extra=NOT_READ_YET)
    """What is known of each agent, by agent_name."""
    value_model: ValueModel = Field(default=ValueModel(), json_schema_extra=NOT_READ_YET)
    """What things are worth."""
    alerts: Alerts = Alerts()
    """When people are told."""
    channels: dict[str, Channel] = {}
    """Where messages go, by name."""
    routes: tuple[Route, ...] = ()
    """Which messages go to which channels."""
    automation: Automation = Field(default=Automation(), json_schema_extra=NOT_READ_YET)
    """What Metamon may do by itself."""
    price_overrides: tuple[PriceOverride, ...] = ()
    """Prices that go before the bundled table."""
    evaluations: Evaluations = Field(default=Evaluations(), json_schema_extra=NOT_READ_YET)
    """How agents are evaluated."""

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Self:
        unknown = sorted({name for route in self.routes for name in route.channels} - self.channels.keys())
        if unknown:
            known = ", ".join(self.channels) or "none is defined"
            raise PydanticCustomError(
                "route",
                "they name channels that are not there: {unknown} (channels: {known})",
                {"unknown": ", ".join(unknown), "known": known},
            )
        return self
