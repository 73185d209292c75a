"""Guessing where a source says which agent, version, tenant, conversation and user a run belongs to.

Here belong pure functions over a sample of runs, seen as ``{place: value}`` each: a place is what ``map`` in metamon.yaml
would say ("metadata.customer" for LangSmith, an attribute's name for OTLP). Names that a convention gives go before
guesses by name and value. Columns of files have more to be guessed and are ``guess_columns``'s; where samples come from
is ``sampling``'s.

A guess is "likely" when name and values both speak for it; what only the name speaks for is "possible": it is shown and
never used unless somebody says so.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from metamon_assets.traces.redaction import Redactor

Confidence = Literal["convention", "said", "likely", "possible", "none"]
Sample = Sequence[Mapping[str, Any]]

IDENTITY = ("agent_name", "agent_version", "tenant_id", "conversation_id", "user_id")
SAMPLE_RUNS = 500
EXAMPLES = 3
_EXAMPLE_LENGTH = 40
_LONGEST_IDENTIFIER = 200  # characters; longer text is no name or identifier
_FEW = 50  # more different agents or versions than this are something else
_ENOUGH = 20  # values from which on "all different" and "all the same" mean something
_LIKELY_SHARE = 0.5  # of the runs
_COMMON = 0.05  # of the runs: what fewer have is left out of the candidates


def word_set(text: str) -> frozenset[str]:
    """The words of a text; long lists read better so."""
    return frozenset(text.split())


# Names of one place for each column, the best first, as words joined by "_"; and words that speak for it inside a longer name.
_NAMES: Mapping[str, tuple[str, ...]] = {
    column: tuple(names.split())
    for column, names in {
        "agent_name": (
            "agent_name agent agent_id graph_id assistant_name assistant assistant_id bot_name bot bot_id workflow_name workflow app_name"
            " app application service_name service flow pipeline crew chain_name chatbot skill"
        ),
        "agent_version": (
            "agent_version app_version release_version version revision_id revision release git_sha git_commit commit_sha commit"
            " commit_hash build build_id build_number deployment deployment_id deploy_id service_version sha tag_version"
        ),
        "tenant_id": (
            "tenant_id tenant tenant_name customer_id customer customer_name organization_id organization organisation_id organisation"
            " org_id org org_name company_id company account_id account account_name client_id client client_name workspace_id workspace"
            " team_id team shop_id merchant_id merchant brand"
        ),
        "conversation_id": (
            "conversation_id conversation thread_id thread session_id session chat_id chat dialog_id dialogue_id conversation_uuid"
            " ticket_id ticket case_id call_sid"
        ),
        "user_id": (
            "user_id user user_uuid uid user_name username end_user_id end_user enduser_id enduser member_id person_id visitor_id"
            " caller_id user_email email employee_id profile_id who"
        ),
    }.items()
}
_WORDS: Mapping[str, frozenset[str]] = {
    "agent_name": frozenset({"agent", "bot", "assistant", "graph"}),
    "agent_version": frozenset({"version", "revision", "release", "commit", "build", "sha"}),
    "tenant_id": frozenset({"tenant", "customer", "organization", "organisation", "org", "account", "company", "client", "merchant"}),
    "conversation_id": frozenset({"conversation", "thread", "session", "chat"}),
    "user_id": frozenset({"user", "enduser", "member"}),
}
# Words that make a name mean something else: the version of a library is not the agent's.
_OTHERWISE: Mapping[str, frozenset[str]] = {
    "agent_name": word_set("version url token key type user tool model prompt message input output path count"),
    "agent_version": word_set(
        "langchain langgraph langsmith sdk library lib runtime python py node core schema api protocol model prompt os platform telemetry"
        " http browser scope date time user"
    ),
    "tenant_id": word_set("user message type tier plan email url ip agent version token count http sdk library"),
    "conversation_id": word_set("length count turns turn message type url start started title summary token tokens user pool"),
    "user_id": word_set("agent message messages input query prompt count type role tier plan token tokens locale language ip cost"),
}


# Keys of nested objects that mean something only together with the object's name, and names of objects that mean nothing.
_SAYS_LITTLE = word_set("id name type version code message input output total prompt completion uuid key value")
_SAYS_NOTHING = word_set(
    "metadata meta data attributes attrs context ctx info properties props extra extras fields payload log record body headers labels tags"
    " params details"
)


@dataclass(frozen=True, slots=True)
class Guess:
    """Where a unified column seems to be found. ``share`` is that of the sampled runs which have a value there, 0 to 1."""

    column: str
    place: str | None  # None: found nowhere
    confidence: Confidence
    share: float = 0.0
    distinct: int = 0
    examples: tuple[str, ...] = ()  # redacted, shortened, printable
    rule: JsonValue = None  # what ``map`` needs; None: nothing needs to be written
    remark: str = ""

    @property
    def used(self) -> bool:
        """Whether it counts unless somebody says otherwise."""
        return self.confidence in ("convention", "said", "likely")


@dataclass(frozen=True, slots=True)
class Place:
    """What stands at one place in the sampled runs."""

    name: str
    values: tuple[Any, ...]  # those that are not empty
    runs: int

    @property
    def share(self) -> float:
        return len(self.values) / self.runs if self.runs else 0.0

    @property
    def texts(self) -> list[str]:
        return [str(value) for value in self.values]

    @property
    def distinct(self) -> int:
        return len(set(self.texts))

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the last part of the name: customerId and customer-id are both (customer, id), as is customer.id."""
        *above, last = self.name.split(".")
        words = words_of(last)
        outer = words_of(above[-1]) if above else ()
        return outer + words if words and set(words) <= _SAYS_LITTLE and not set(outer) & _SAYS_NOTHING else words


def guess_identity(sample: Sample, conventions: Mapping[str, Sequence[str]]) -> list[Guess]:
    """A guess for each of IDENTITY, from runs as ``{place: value}``.

    ``conventions`` names the places that are read without being told, the first of them that has a value first.
    """
    found = places(sample)
    known = {place for names in conventions.values() for place in names}
    candidates = [place for place in found.values() if place.name not in known and place.share >= _COMMON]
    guesses = []
    taken: set[str] = set()
    for column in IDENTITY:
        guess = _by_convention(column, conventions.get(column, ()), found) or best_named(column, candidates, taken)
        guesses.append(guess)
        if guess.place and guess.used:
            taken.add(guess.place)
    return guesses


def places(sample: Sample) -> dict[str, Place]:
    """What is found at each place of the sampled runs, for places that hold single values."""
    values: dict[str, list[Any]] = {}
    for run in sample:
        for name, value in run.items():
            if not isinstance(value, (dict, list, tuple)) and not is_empty(value):
                values.setdefault(name, []).append(value)
    return {name: Place(name, tuple(held), len(sample)) for name, held in values.items()}


def best_named(column: str, candidates: Iterable[Place], taken: Iterable[str] = ()) -> Guess:
    """The candidate whose name and values speak most for the column."""
    passed = set(taken)
    scored = [
        (score, place, doubt)
        for place in candidates
        if place.name not in passed and (score := named(column, place.words)) and (doubt := doubts(column, place)) != "unusable"
    ]
    if not scored:
        return Guess(column, None, "none")
    # A name that says it exactly, then values without a doubt, then more runs; the name's text only to be the same every time.
    score, place, doubt = max(scored, key=lambda item: (not item[2], item[0] * math.sqrt(item[1].share), item[1].name))
    likely = not doubt and score >= 0.5 and place.share >= _LIKELY_SHARE
    if not doubt and not likely:
        doubt = f"only {place.share:.0%} of the runs have it" if place.share < _LIKELY_SHARE else "only a part of its name says so"
    return described(column, place, "likely" if likely else "possible", rule=place.name, remark=doubt)


def described(column: str, place: Place, confidence: Confidence, *, rule: JsonValue = None, remark: str = "") -> Guess:
    """A guess with what can be seen at its place."""
    return Guess(column, place.name, confidence, place.share, place.distinct, examples(place.texts), rule, remark)


def named(column: str, words: tuple[str, ...]) -> float:
    """How much a name speaks for a column: from 1 (the usual name) down to 0."""
    names, joined = _NAMES[column], "_".join(words)
    if joined in names:
        return 1.0 - 0.4 * names.index(joined) / len(names)
    if set(words) & _OTHERWISE[column]:
        return 0.0
    return 0.45 if set(words) & _WORDS[column] else 0.0


def doubts(column: str, place: Place) -> str:
    """What speaks against a column's values: "" nothing, "unusable" everything, otherwise a doubt in words."""
    texts = place.texts
    if any(isinstance(value, (bool, float)) for value in place.values) or max(map(len, texts)) > _LONGEST_IDENTIFIER:
        return "unusable"
    distinct, many = place.distinct, len(texts) >= _ENOUGH
    if column in ("agent_name", "agent_version") and distinct > _FEW:
        return f"{distinct} different values are many for it"
    if column in ("agent_name", "tenant_id") and many and distinct == len(texts):
        return "every run has another value"
    if column == "conversation_id" and many and distinct == 1:
        return "all runs have the same value"
    return ""


def _by_convention(column: str, names: Sequence[str], found: Mapping[str, Place]) -> Guess | None:
    held = [found[name] for name in names if name in found]
    if not held:
        return None
    best = max(held, key=lambda place: place.share)
    return described(column, best, "convention", remark="" if best.share >= _LIKELY_SHARE else "by convention, in few of the runs")


def words_of(name: str) -> tuple[str, ...]:
    """A name taken apart: tenantId, TENANT-ID and "tenant id" are (tenant, id)."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return tuple(word for word in re.split(r"[^0-9a-z]+", parted.lower()) if word)


def is_empty(value: Any) -> bool:
    """Whether a value says nothing."""
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and math.isnan(value))


def examples(texts: Iterable[str]) -> tuple[str, ...]:
    """The most frequent values as people may see them on a screen: redacted, short, without control characters."""
    frequent = Counter(texts).most_common(EXAMPLES)
    return tuple(printable(text) for text, _ in frequent)


def printable(text: str, longest: int = _EXAMPLE_LENGTH) -> str:
    """Somebody's text for a screen: redacted, one line, without control characters (which could move the cursor), shortened."""
    shown = Redactor().text(text[:1_000])
    shown = "".join(mark if mark.isprintable() else " " for mark in shown)
    shown = " ".join(shown.split())
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def flattened(value: Mapping[str, Any], prefix: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Single values of nested objects by their dotted path."""
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping):
            if depth > 1:
                yield from flattened(item, f"{path}.", depth - 1)
        elif not isinstance(item, (list, tuple)):
            yield path, item
