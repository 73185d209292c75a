"""What the local LangSmith holds: projects, runs with their history, feedback; and the language of its filters.

Here belongs what is true of the data whichever interface shows it: when a run becomes visible, how it is patched
and when it expires, what a root's subtree used. ``langsmith_server`` speaks HTTP over it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

SHORT_LIVED = timedelta(days=14)
LONG_LIVED = timedelta(days=400)
TENANT = "b5c1d7a2-3f1e-4a55-9d0c-6f6f1c2b7a10"
OWN_USAGE = (
    "prompt_tokens", "completion_tokens", "total_tokens", "prompt_token_details", "completion_token_details",
    "prompt_cost", "completion_cost", "total_cost", "prompt_cost_details", "completion_cost_details",
)  # fmt: skip


class BadFilterError(Exception):
    """A filter that the server does not understand; it answers 400."""


@dataclass
class StoredRun:
    """A run and what later patches change, each from its own time on."""

    fields: dict[str, Any]
    visible_from: datetime
    tier: str = "shortlived"
    patches: list[tuple[datetime, dict[str, Any]]] = field(default_factory=list)

    def at(self, now: datetime) -> dict[str, Any]:
        state = dict(self.fields)
        for when, change in self.patches:
            if when <= now:
                state |= change
        return state

    def visible(self, now: datetime) -> bool:
        kept = SHORT_LIVED if self.tier == "shortlived" else LONG_LIVED
        return self.visible_from <= now < self.visible_from + kept


@dataclass
class StoredFeedback:
    fields: dict[str, Any]
    patches: list[tuple[datetime, dict[str, Any]]] = field(default_factory=list)

    def at(self, now: datetime) -> dict[str, Any]:
        state = dict(self.fields)
        for when, change in self.patches:
            if when <= now:
                state |= change | {"modified_at": when}
        return state


class LangSmithStore:
    """Projects, runs and feedback as of the clock's time."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.projects: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, StoredRun] = {}
        self.feedback: dict[str, StoredFeedback] = {}

    def add_project(self, name: str, project_id: str | None = None, *, dataset_id: str | None = None) -> str:
        project_id = project_id or str(uuid4())
        self.projects[project_id] = {
            "id": project_id,
            "name": name,
            "tenant_id": TENANT,
            "start_time": self.clock(),
            "reference_dataset_id": dataset_id,
        }
        return project_id

    def project_named(self, name: str) -> str:
        found = [key for key, project in self.projects.items() if project["name"] == name]
        return found[0] if found else self.add_project(name)

    def add_run(
        self,
        project: str,
        *,
        start_time: datetime,
        seconds: float | None = 1.0,
        parent: str | None = None,
        run_id: str | None = None,
        visible_from: datetime | None = None,
        tier: str = "shortlived",
        **fields: Any,
    ) -> str:
        """Store a run; without ``seconds`` it is pending. It is seen from ``visible_from`` on (default: its start)."""
        run_id = run_id or str(uuid4())
        above = self.runs[parent].fields if parent else None
        mark = f"{start_time:%Y%m%dT%H%M%S%f}Z{run_id}"
        end_time = None if seconds is None else start_time + timedelta(seconds=seconds)
        stored: dict[str, Any] = {
            "id": run_id,
            "trace_id": above["trace_id"] if above else run_id,
            "parent_run_id": parent,
            "session_id": self.project_named(project),
            "name": "run",
            "run_type": "chain",
            "start_time": start_time,
            "end_time": end_time,
            "status": "pending" if end_time is None else "error" if fields.get("error") else "success",
            "inputs": {},
            "outputs": None if end_time is None else {},
            "extra": {},
            "tags": [],
            "dotted_order": f"{above['dotted_order']}.{mark}" if above else mark,
        } | fields
        self.runs[run_id] = StoredRun(stored, visible_from or start_time, tier)
        return run_id

    def patch_run(self, run_id: str, *, at: datetime | None = None, **change: Any) -> None:
        if "status" not in change and "end_time" in change:
            change["status"] = "error" if change.get("error") else "success"
        self.runs[run_id].patches.append((at or self.clock(), change))

    def add_feedback(self, run_id: str | None, key: str, *, created_at: datetime | None = None, **fields: Any) -> str:
        """Store feedback; its run, and with it the trace, is then kept for 400 days."""
        feedback_id = fields.pop("feedback_id", None) or str(uuid4())
        created = created_at or self.clock()
        run = self.runs[run_id].fields if run_id in self.runs else {}
        stored = {
            "id": feedback_id,
            "run_id": run_id,
            "trace_id": run.get("trace_id"),
            "session_id": run.get("session_id"),
            "key": key,
            "score": None,
            "value": None,
            "comment": None,
            "correction": None,
            "created_at": created,
            "modified_at": created,
            "feedback_source": {"type": "api", "metadata": None, "user_id": None},
            "extra": None,
        } | fields
        self.feedback[feedback_id] = StoredFeedback(stored)
        for other in self.runs.values():
            if run and other.fields["trace_id"] == run["trace_id"]:
                other.tier = "longlived"
        return feedback_id

    def edit_feedback(self, feedback_id: str, *, at: datetime | None = None, **change: Any) -> None:
        self.feedback[feedback_id].patches.append((at or self.clock(), change))

    # ---- what is there now

    def visible_runs(self, projects: Iterable[str] | None = None) -> list[dict[str, Any]]:
        now = self.clock()
        wanted = None if projects is None else set(projects)
        return [
            run.at(now) for run in list(self.runs.values()) if run.visible(now) and (wanted is None or run.fields["session_id"] in wanted)
        ]

    def visible_feedback(self) -> list[dict[str, Any]]:
        now = self.clock()
        return [feedback.at(now) for feedback in list(self.feedback.values()) if feedback.fields["created_at"] <= now]

    def ancestors(self, run: dict[str, Any]) -> list[str]:
        """Ids from the root down to the direct parent."""
        return [part.split("Z", 1)[1] for part in run["dotted_order"].split(".")[:-1]]

    def subtree_usage(self, run: dict[str, Any], tree: list[dict[str, Any]]) -> dict[str, Any]:
        """Tokens, costs and first token of a run and all below it, as LangSmith shows them on a root."""
        below = [other for other in tree if other["dotted_order"].startswith(run["dotted_order"])]
        return {name: _sum([other.get(name) for other in below]) for name in OWN_USAGE} | {
            "first_token_time": min((other["first_token_time"] for other in below if other.get("first_token_time")), default=None)
        }


def _sum(values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return known[0] if known else None
    if isinstance(known[0], dict):
        return {key: _sum([value.get(key) for value in known]) for key in sorted({key for value in known for key in value})}
    return sum(known)


# ---- filters: and(gte(start_time, "…"), eq(feedback_key, "…"), has(tags, "…"), in(id, ["…"]))

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z_]+)|(-?\d+(?:\.\d+)?)|([(),\[\]]))')
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "gt": lambda a, b: a is not None and a > b,
    "gte": lambda a, b: a is not None and a >= b,
    "lt": lambda a, b: a is not None and a < b,
    "lte": lambda a, b: a is not None and a <= b,
    "in": lambda a, b: a in b,
    "has": lambda a, b: b in (a or []),
}
_TIMES = {"start_time", "end_time"}
_FIELDS = {
    "id",
    "trace_id",
    "name",
    "run_type",
    "status",
    "error",
    "tags",
    "total_tokens",
    "latency",
    "feedback_key",
    "feedback_score",
} | _TIMES


@dataclass
class Filter:
    """A parsed filter: its conditions can be asked of a run together with that run's feedback."""

    text: str

    def __post_init__(self) -> None:
        self._tokens = self._split()
        self._tree = self._call()
        if self._tokens:
            raise BadFilterError(f"unexpected {self._tokens[0]!r} in {self.text!r}")

    @property
    def asks_for_feedback(self) -> bool:
        return "feedback_" in self.text

    def matches(self, run: dict[str, Any], feedback: list[dict[str, Any]]) -> bool:
        return self._holds(self._tree, run, feedback)

    def _split(self) -> list[str]:
        tokens, position = [], 0
        while position < len(self.text.rstrip()):
            match = _TOKEN.match(self.text, position)
            if not match:
                raise BadFilterError(f"cannot read {self.text[position:]!r}")
            tokens.append(match.group(0).strip())
            position = match.end()
        return tokens

    def _take(self, expected: str | None = None) -> str:
        if not self._tokens or (expected and self._tokens[0] != expected):
            raise BadFilterError(f"expected {expected or 'more'} in {self.text!r}")
        return self._tokens.pop(0)

    def _call(self) -> tuple[str, list[Any]]:
        name = self._take()
        if name not in {"and", "or", "not", *_COMPARE}:
            raise BadFilterError(f"unknown operator {name!r}")
        self._take("(")
        if name in {"and", "or", "not"}:
            arguments: list[Any] = [self._call()]
            while self._tokens and self._tokens[0] == ",":
                self._take(",")
                arguments.append(self._call())
        else:
            subject = self._take()
            if subject not in _FIELDS:
                raise BadFilterError(f"unknown field {subject!r}")
            self._take(",")
            value = self._value()
            arguments = [subject, _time(value) if subject in _TIMES else value]
        self._take(")")
        return name, arguments

    def _value(self) -> Any:
        import json

        token = self._take()
        if token != "[":
            return json.loads(token)
        values = []
        while self._tokens and self._tokens[0] != "]":
            values.append(self._value())
            if self._tokens[0] == ",":
                self._take(",")
        self._take("]")
        return values

    def _holds(self, node: tuple[str, list[Any]], run: dict[str, Any], feedback: list[dict[str, Any]]) -> bool:
        name, arguments = node
        if name in {"and", "or", "not"}:
            held = [self._holds(argument, run, feedback) for argument in arguments]
            return {"and": all(held), "or": any(held), "not": not held[0]}[name]
        subject, value = arguments
        if subject.startswith("feedback_"):
            return any(_COMPARE[name](given[subject.removeprefix("feedback_")], value) for given in feedback)
        if subject == "latency":
            end = run.get("end_time")
            return end is not None and _COMPARE[name]((end - run["start_time"]).total_seconds(), value)
        return _COMPARE[name](run.get(subject), value)


def _time(value: Any) -> datetime:
    return parse_time(value)


def parse_time(text: str) -> datetime:
    """ISO 8601; without a zone it is UTC."""
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise BadFilterError(f"not a time: {text!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def is_uuid(text: Any) -> bool:
    try:
        UUID(str(text))
    except ValueError:
        return False
    return True
