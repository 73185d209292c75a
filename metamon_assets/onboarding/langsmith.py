"""LangSmith in the first hour: is the key right, which projects are there, what do their runs look like.

Here belong the questions to LangSmith that come before reading: each answers quickly or says what is wrong in words that
tell a wrong key from a missing right, an address that nobody answers at, a project that is not there or is empty.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from metamon_assets.days import midnight
from metamon_assets.errors import MetamonError
from metamon_assets.onboarding.guess import SAMPLE_RUNS, Guess, flattened, guess_identity, printable
from metamon_assets.traces.configured import OWN_PROJECT
from metamon_assets.traces.sources.base import Window
from metamon_assets.traces.sources.langsmith import BEGINNING
from metamon_assets.traces.sources.langsmith_api import LARGEST_PAGE, LangSmithApi, LangSmithError, RunQuery
from metamon_assets.traces.sources.langsmith_rows import DEFAULT_MAP

KEY_VARIABLES = ("LANGSMITH_API_KEY", "LANGCHAIN_API_KEY")
CLOCK_TOLERANCE = timedelta(minutes=2)
RUN_QUERIES_PER_SECOND = 1.5  # 15 in 10 seconds for each key
SHOWN_PROJECTS = 20
_PATIENCE = 20.0  # seconds that one question is repeated: somebody sits and waits
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"lsv2_|ls__")


class ConnectError(MetamonError):
    """The source cannot be connected; the message says why and what to do. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Project:
    """A tracing project."""

    project_id: str
    name: str
    runs: int | None  # traces, as LangSmith counts them; None: it does not say


@dataclass(frozen=True, slots=True)
class RunSample:
    """What some runs of a project look like. ``runs_per_trace`` is how many runs a trace has, its root included."""

    runs: int
    traces: int
    guesses: tuple[Guess, ...]
    root_names: tuple[str, ...]
    runs_per_trace: float


def key_variable(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The name of the environment variable that holds the key. Raises ConnectError when there is none, or a key was typed."""
    if given is not None:
        given = given.removeprefix("env:")
        if _KEY.match(given) or not _VARIABLE.fullmatch(given):
            raise ConnectError(
                "That is not the name of an environment variable. A key is never typed here, since it would stay in the shell's history"
                " and in metamon.yaml. Put it into the environment and name the variable:\n  read -rs LANGSMITH_API_KEY && export"
                " LANGSMITH_API_KEY\n  metamon connect langsmith --key LANGSMITH_API_KEY"
            )
        if not environment.get(given):
            raise ConnectError(f"The environment variable {given} is not set: export {given}=… and try again.")
        return given
    held = [name for name in KEY_VARIABLES if environment.get(name)]
    held = held or sorted(name for name, value in environment.items() if _KEY.match(value) and _VARIABLE.fullmatch(name))
    if not held:
        raise ConnectError(
            "No LangSmith key was found. Make one in LangSmith (Settings, API keys), then:\n  read -rs LANGSMITH_API_KEY && export"
            " LANGSMITH_API_KEY\nand run this again. Another variable: --key NAME_OF_IT."
        )
    return held[0]


class LangSmith:
    """One workspace of LangSmith, asked by somebody who waits."""

    def __init__(self, variable: str, endpoint: str | None = None, workspace_id: str | None = None, now: datetime | None = None) -> None:
        self.variable = variable
        self.now = now or datetime.now(UTC)
        self._api = LangSmithApi(
            api_key=os.environ[variable], api_url=endpoint, workspace_id=workspace_id, patience_seconds=_PATIENCE, timeout_seconds=_PATIENCE
        )

    @property
    def address(self) -> str:
        """Where the key is sent."""
        return self._api.api_url

    @property
    def page(self) -> int:
        """How many runs LangSmith gives at once."""
        return LARGEST_PAGE[self._api.dialect]

    def clock_error(self) -> timedelta | None:
        """How far this machine's clock is ahead of LangSmith's, where that is more than a network explains. Raises ConnectError."""
        try:
            theirs = self._api.server_time()
        except LangSmithError as error:
            raise self._explained(error) from error
        ahead = self.now - theirs.astimezone(UTC) if theirs else timedelta(0)
        return ahead if abs(ahead) > CLOCK_TOLERANCE else None

    def projects(self) -> list[Project]:
        """The projects that can be read, those with most runs first. Raises ConnectError."""
        try:
            listed = self._api.projects()
        except LangSmithError as error:
            raise self._explained(error) from error
        found = [Project(str(item["id"]), str(item["name"]), item.get("run_count")) for item in listed if item["name"] != OWN_PROJECT]
        if not found:
            raise ConnectError(
                "The key is right, and its workspace has no project yet: set LANGSMITH_TRACING=true in your application and send a trace."
                " If you expected some, the key belongs to another workspace: name it with --workspace ID."
            )
        return sorted(found, key=lambda project: (-(project.runs or 0), project.name))

    def traces_since(self, project: Project, start: date) -> int | None:
        """How many traces started since then; None: LangSmith does not say."""
        try:
            stats = self._api.stats(project.project_id, Window(midnight(start), self.now + timedelta(days=1)))
        except LangSmithError:
            return None
        return stats.get("run_count")

    def sample(self, project: Project) -> RunSample:
        """Some of the newest runs. Raises ConnectError for a project without any."""
        try:
            for back in (timedelta(days=1), timedelta(days=14), self.now - BEGINNING):
                window = Window(self.now - back, self.now + timedelta(hours=2))
                if roots := self._some(project, window, roots=True, most=SAMPLE_RUNS * 3 // 5):
                    children = self._some(project, window, roots=False, most=SAMPLE_RUNS - len(roots))
                    return _sample_of(roots, children)
        except LangSmithError as error:
            raise self._explained(error) from error
        raise ConnectError(
            f"The project {printable(project.name)} is empty: send a trace to it (LANGSMITH_TRACING=true, LANGSMITH_PROJECT="
            f"{printable(project.name)} in your application), then connect it. Nothing was written."
        )

    def _some(self, project: Project, window: Window, *, roots: bool, most: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for page in self._api.runs(project.project_id, RunQuery(window, roots=roots, payloads=False)):
            found += page.items
            if len(found) >= most:
                break
        return found[:most]

    def _explained(self, error: LangSmithError) -> ConnectError:
        where = self._api.api_url
        said = f" It said: {printable(error.said, 200)}" if error.said else ""
        if error.status == 401:
            text = (
                f"LangSmith at {where} does not know the key in {self.variable} (401). Check that it was copied whole, was not revoked,"
                " and belongs to this address: keys of the EU need --endpoint https://eu.api.smith.langchain.com, a server of your own"
                " its address."
            )
        elif error.status == 403:
            text = (
                f"LangSmith knows the key in {self.variable} and does not let it read here (403). Give its role read access to projects"
                " and runs; a key for a whole organisation also needs --workspace ID."
            )
        elif error.status is None or error.status >= 500:
            text = f"LangSmith could not be reached at {where}. Check the address (--endpoint), the network and a proxy, then try again."
        elif error.status == 429:
            text = "LangSmith kept refusing because others use this key as well (429): try again in a minute, or with a key of its own."
        elif error.status in (404, 405):
            text = f"There is no LangSmith at {where}: check --endpoint. A server of your own ends with /api/v1."
        else:
            text = str(error)
        return ConnectError(f"{text}{said}")


def choose(answer: str, projects: Sequence[Project]) -> list[Project]:
    """The projects that an answer names: numbers of the list, names, or ids, separated by commas. Raises ConnectError."""
    chosen: list[Project] = []
    by_name = {project.name: project for project in projects} | {project.project_id: project for project in projects}
    for part in [answer] if answer in by_name else [part.strip() for part in answer.split(",") if part.strip()]:
        project = by_name.get(part)
        if project is None and part.isdecimal() and 1 <= int(part) <= len(projects):
            project = projects[int(part) - 1]
        if project is None:
            raise ConnectError(_unknown(part, [project.name for project in projects]))
        if project not in chosen:
            chosen.append(project)
    if not chosen:
        raise ConnectError("No project was named.")
    return chosen


def minutes_to_read(traces: int, sample: RunSample, page: int) -> float:
    """How long reading takes at the rate that LangSmith allows."""
    return traces * sample.runs_per_trace / page / RUN_QUERIES_PER_SECOND / 60


def _unknown(name: str, names: Sequence[str]) -> str:
    folded = {known.casefold(): known for known in names}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    hint = (
        f"did you mean {' or '.join(map(printable, near))}?" if near else f"there are {', '.join(map(printable, names[:SHOWN_PROJECTS]))}."
    )
    return f"There is no project {printable(name)}: {hint}"


def _sample_of(roots: Sequence[Mapping[str, Any]], children: Sequence[Mapping[str, Any]]) -> RunSample:
    described = len({child.get("trace_id") for child in children})
    guesses = tuple(guess_identity([_places(root) for root in roots], {**DEFAULT_MAP}))
    names = sorted({printable(str(root.get("name"))) for root in roots})
    return RunSample(len(roots) + len(children), len(roots), guesses, tuple(names), 1 + (len(children) / described if described else 0))


def _places(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run as ``map`` sees it: metadata.<name>, and some keys of its own."""
    extra = run.get("extra") if isinstance(run.get("extra"), Mapping) else {}
    metadata = (extra or {}).get("metadata")
    found = dict(flattened(metadata, "metadata.")) if isinstance(metadata, Mapping) else {}
    return {name: value for name, value in found.items() if not name.startswith("metadata.ls_")} | {"thread_id": run.get("thread_id")}
