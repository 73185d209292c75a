"""``metamon connect``: from a key or a path to metamon.yaml, with at most three questions (ONB-1).

Here belongs the course of it for each kind of source: check, sample, guess, ask, write. What is guessed and how stands in
``guess`` and ``guess_columns``, the file's text in ``configuration_file``, reading the past in ``backfill``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue, ValidationError

from metamon_assets.config import ConfigError, FilesSource, LangSmithSource, OtlpSource, Settings, read_configuration
from metamon_assets.errors import closest
from metamon_assets.onboarding import configuration_file
from metamon_assets.onboarding.configuration_file import NewSource
from metamon_assets.onboarding.dialogue import Answer, AnswerError, Dialogue
from metamon_assets.onboarding.guess import Guess, guess_identity, printable
from metamon_assets.onboarding.guess_columns import FileGuess, columns_of, guess_columns
from metamon_assets.onboarding.langsmith import (
    SHOWN_PROJECTS,
    ConnectError,
    LangSmith,
    Project,
    RunSample,
    choose,
    key_variable,
    minutes_to_read,
)
from metamon_assets.onboarding.preview import read_through
from metamon_assets.onboarding.sampling import sample_files, sample_spans
from metamon_assets.traces.sources.base import Holding, Kind
from metamon_assets.traces.sources.langsmith_rows import DEFAULT_MAP

if TYPE_CHECKING:
    from metamon_assets.config import SourceConfig

DAYS = 14  # read at first unless somebody says otherwise: what LangSmith keeps of short-lived traces
_NONE = frozenset({"none", "no", "-", "0"})
_EDIT = re.compile(r"\s*([a-z_]+)\s*=\s*(.*?)\s*")
_MAPPABLE = frozenset(DEFAULT_MAP) | {"tool_name"}
_OTHERS_SHOWN = 20
_WORDS = {"convention": "by convention", "said": "as you said", "likely": "guessed", "possible": "not used", "none": ""}


@dataclass(frozen=True, slots=True)
class Options:
    """What was said on the command line; what was not is asked or has its default."""

    projects: tuple[str, ...] = ()
    edits: Mapping[str, str | None] = field(default_factory=dict)  # column to place; None: nowhere
    first: date | None = None
    days: int | None = None
    key: str | None = None
    endpoint: str | None = None
    workspace_id: str | None = None
    zone: str | None = None
    backfill: bool | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """What came of it: whether the past is to be read now, and from which day on (None: from its beginning)."""

    backfill: bool
    first: date | None = None


def refuse_sample_world(settings: Settings) -> None:
    """Own data never shares a home with the sample world. Raises ConnectError, which names another home."""
    if (settings.home / "sample" / "manifest.json").exists():
        raise ConnectError(
            f"{settings.home} holds the sample world, which is kept apart from data of your own. Use another home:\n"
            "  export METAMON_HOME=.metamon\nand run this again."
        )


def read_edits(texts: Sequence[str]) -> dict[str, str | None]:
    """``tenant_id=metadata.customer`` as column and place; ``none`` for nowhere. Raises AnswerError."""
    edits: dict[str, str | None] = {}
    for text in texts:
        match = _EDIT.fullmatch(text)
        if not match:
            raise AnswerError(f"{printable(text)} is not understood: write column=place, such as tenant_id=metadata.customer.")
        column, place = match.groups()
        edits[column] = None if place.lower() in _NONE or not place else place
    return edits


def refuse_others(edits: Iterable[str], columns: frozenset[str]) -> None:
    """Raises AnswerError for edits of other columns than these."""
    for column in edits:
        if column not in columns:
            near = closest(column, columns)
            hint = f"did you mean {near}?" if near else f"these are: {', '.join(sorted(columns))}."
            raise AnswerError(f"{column} is no column that can be mapped; {hint}")


# LangSmith -------------------------------------------------------------------------------------------------


def connect_langsmith(settings: Settings, options: Options, dialogue: Dialogue) -> Connected:
    """A LangSmith project, or several, into metamon.yaml."""
    refuse_sample_world(settings)
    refuse_others(options.edits, _MAPPABLE)
    variable = key_variable(options.key)
    langsmith = LangSmith(variable, options.endpoint, options.workspace_id)
    dialogue.say(f"LangSmith at {printable(langsmith.address, 200)}, with the key in {variable}")
    compare_clocks(langsmith, dialogue)
    projects = langsmith.projects()
    chosen = _choose_projects(projects, options, dialogue)
    samples = {project: langsmith.sample(project) for project in chosen}
    for project, sample in samples.items():
        _show_sample(project, sample, dialogue)
    edits = dict(options.edits) or _confirm_guesses(dialogue, _checked(_MAPPABLE), "tenant_id=metadata.customer")
    first = _first_day(langsmith, samples, settings, options, dialogue)
    sources = [_langsmith_source(project, sample, variable, options, edits) for project, sample in samples.items()]
    _write(settings, LangSmithSource, sources, None if first is None else first, dialogue)
    return Connected(_wants_backfill(options, first is not None), first)


def compare_clocks(langsmith: LangSmith, dialogue: Dialogue) -> None:
    """Say so when this machine's clock is wrong."""
    ahead = langsmith.clock_error()
    if ahead is not None:
        minutes = round(abs(ahead).total_seconds() / 60)
        dialogue.say(
            f"This machine's clock is {minutes} min {'ahead of' if ahead > timedelta(0) else 'behind'} LangSmith's. Set it right"
            " (timedatectl set-ntp true): days end, and new runs are looked for, by this clock."
        )


def _choose_projects(projects: Sequence[Project], options: Options, dialogue: Dialogue) -> list[Project]:
    if options.projects:
        return [project for name in options.projects for project in choose(name, projects)]
    dialogue.say("Projects in this workspace:")
    for number, project in enumerate(projects[:SHOWN_PROJECTS], start=1):
        count = "" if project.runs is None else f"{project.runs:>10,} traces"
        dialogue.say(f"  {number:>2}  {printable(project.name):<40} {count}")
    if len(projects) > SHOWN_PROJECTS:
        dialogue.say(f"      and {len(projects) - SHOWN_PROJECTS} more, which can be given by name")
    if len(projects) == 1:
        return list(projects)

    def read(answer: str) -> list[Project]:
        try:
            return choose(answer, projects)
        except ConnectError as error:
            raise AnswerError(str(error)) from error

    return dialogue.ask("Which project? (number or name; several with commas)", "1", read)


def _show_sample(project: Project, sample: RunSample, dialogue: Dialogue) -> None:
    dialogue.say(f"\n{printable(project.name)}: {sample.runs} runs of {sample.traces} traces sampled")
    for line in guess_lines(sample.guesses):
        dialogue.say(f"  {line}")
    agent = sample.guesses[0]
    if not (agent.used and agent.place):
        dialogue.say(f"  agent_name is the name of the root run: {', '.join(sample.root_names[:3])}")


def _first_day(
    langsmith: LangSmith, samples: Mapping[Project, RunSample], settings: Settings, options: Options, dialogue: Dialogue
) -> date | None:
    """From which day on to read; None: nothing now."""
    today = langsmith.now.date()
    if options.first or options.days is not None:
        chosen = options.first or (today - timedelta(days=options.days or 0) if options.days else None)
    else:
        since = today - timedelta(days=DAYS)
        counts = {project: langsmith.traces_since(project, since) for project in samples}
        minutes = sum(minutes_to_read(counts[project] or 0, sample, langsmith.page) for project, sample in samples.items())
        if any(count is not None for count in counts.values()):
            total = sum(count or 0 for count in counts.values())
            dialogue.say(f"\nThe last {DAYS} days hold {total:,} traces; reading them takes about {max(1, round(minutes))} min.")
        chosen = dialogue.ask(
            "How many days back should be read? (0: none now; or a day like 2026-11-01)", str(DAYS), _reader_of_days(today)
        )
    if chosen is not None and _says_start_day(settings) and chosen < settings.start_day:
        dialogue.say(f"Days before {settings.start_day} are not kept (start_day in {settings.config_path}), so reading begins there.")
    return chosen


def _reader_of_days(today: date) -> Any:
    def read(answer: str) -> date | None:
        if answer.isdecimal():
            days = int(answer)
            if days > 3650:
                raise AnswerError("That is more than ten years: give a number of days, such as 14.")
            return today - timedelta(days=days) if days else None
        return _day(answer, today, f"Give a number of days, or a day like {today} (today, UTC).")

    return read


def _day(answer: str, latest: date, possible: str) -> date:
    """The day that somebody gave. Raises AnswerError with what is possible."""
    try:
        day = date.fromisoformat(answer)
    except ValueError:
        raise AnswerError(f"{printable(answer)} is no day. {possible}") from None
    if day > latest:
        raise AnswerError(f"There is nothing after {latest}. {possible}")
    return day


def _langsmith_source(project: Project, sample: RunSample, variable: str, options: Options, edits: Mapping[str, str | None]) -> NewSource:
    keys: dict[str, JsonValue] = {"type": "langsmith", "project": project.name, "api_key": f"env:{variable}"}
    if options.endpoint:
        keys["endpoint"] = options.endpoint
    if options.workspace_id:
        keys["workspace_id"] = options.workspace_id
    if found := _map_of(sample.guesses, edits):
        keys["map"] = found
    comments = [f"Found in {sample.runs} sampled runs (share of the traces that have it):", *_comment_lines(sample.guesses, edits)]
    return NewSource(keys, comments)


def _map_of(guesses: Sequence[Guess], edits: Mapping[str, str | None]) -> dict[str, JsonValue]:
    """What ``map`` has to say: guesses in use that no convention makes, and what somebody said."""
    found: dict[str, JsonValue] = {
        guess.column: guess.rule
        for guess in guesses
        if guess.confidence == "likely" and guess.rule is not None and guess.column not in edits
    }
    # A path that nothing stands at, for a column that must stay empty although a convention would fill it.
    return found | {column: place or "metadata.none" for column, place in edits.items()}


# OpenTelemetry files ---------------------------------------------------------------------------------------


def connect_otlp(settings: Settings, path: Path, options: Options, dialogue: Dialogue) -> Connected:
    """OTLP/JSON files, as a collector writes them, into metamon.yaml."""
    refuse_sample_world(settings)
    sample = sample_spans(path)
    project = options.projects[0] if options.projects else (sample.services or (_project_of(path),))[0]
    guesses = [_with_metadata(guess) for guess in guess_identity(sample.spans, sample.conventions)]
    dialogue.say(f"{path}: {len(sample.spans)} spans sampled, of {', '.join(map(printable, sample.services[:3])) or 'no named service'}")
    for line in guess_lines(guesses):
        dialogue.say(f"  {line}")
    edits = dict(options.edits) or _confirm_guesses(dialogue, dict, "tenant_id=app.customer")
    keys: dict[str, JsonValue] = {"type": "otlp", "project": project, "path": str(path.absolute())}
    if found := _map_of(guesses, edits):
        keys["map"] = found
    source = NewSource(keys, [f"Found in {len(sample.spans)} sampled spans:", *_comment_lines(guesses, edits)])
    return _connect_held(settings, OtlpSource, source, options, dialogue)


def _with_metadata(guess: Guess) -> Guess:
    """An attribute may stand by itself, or as a key of OpenInference's ``metadata``."""
    return replace(guess, rule=[guess.place, f"metadata.{guess.place}"]) if guess.rule is not None else guess


# Files -----------------------------------------------------------------------------------------------------


def connect_files(settings: Settings, path: Path, options: Options, dialogue: Dialogue) -> Connected:
    """Files in any column names into metamon.yaml, with the mapping that they need."""
    refuse_sample_world(settings)
    project = options.projects[0] if options.projects else _project_of(path)
    sample = sample_files(path)

    def guessed(edits: Mapping[str, str | None]) -> FileGuess:
        return guess_columns(sample.rows, project=project, delimiter=sample.delimiter, zone=options.zone, edits=edits)

    guess = guessed(options.edits)
    dialogue.say(f"{path}: {len(sample.files)} file{'s' * (len(sample.files) > 1)}, {len(sample.rows)} rows sampled")
    _show_columns(guess, dialogue)
    if not options.edits:
        corrected = _confirm_guesses(dialogue, lambda edits: guessed(edits) if edits else None, "latency_seconds=took_ms")
        if corrected is not None:
            guess = corrected
            _show_columns(guess, dialogue)
    if guess.mapping is not None and not guess.usable:
        names = columns_of(sample.rows)
        only = "Its columns are" if len(names) > 1 else "No delimiter was recognised, and it has one column only"
        raise ConnectError(
            f"{path}: no column tells when a run started, without which it belongs to no day. Say which does, with"
            f" --map start_time=COLUMN. {only}: {', '.join(map(printable, names))}."
        )
    keys: dict[str, JsonValue] = {"type": "files", "project": project, "path": str(path.absolute())}
    if guess.mapping is not None:
        keys["map"] = guess.mapping
    source = NewSource(keys, [f"Found in {len(sample.rows)} sampled rows:", *_comment_lines(guess.guesses, {})] if guess.guesses else [])
    return _connect_held(settings, FilesSource, source, options, dialogue)


def _show_columns(guess: FileGuess, dialogue: Dialogue) -> None:
    for line in guess_lines(guess.guesses):
        dialogue.say(f"  {line}")
    if "latency_seconds" in guess.missing:
        dialogue.say("  No column tells how long a run took. If one does: --map latency_seconds=COLUMN.")
    if "status" in guess.missing:
        dialogue.say("  No column tells whether a run failed, so nothing is known of failures. If one does: --map status=COLUMN.")
    for remark in guess.remarks:
        dialogue.say(f"  {remark}")
    if guess.others:
        more = f" and {len(guess.others) - _OTHERS_SHOWN} more" if len(guess.others) > _OTHERS_SHOWN else ""
        dialogue.say(f"  Kept in metadata: {', '.join(map(printable, guess.others[:_OTHERS_SHOWN]))}{more}")


def _connect_held(
    settings: Settings, kind: type[FilesSource | OtlpSource], source: NewSource, options: Options, dialogue: Dialogue
) -> Connected:
    """The second half for sources that lie here and can tell which days they have."""
    first, last = _days_held(settings, kind, source, dialogue)
    chosen: date | None = max(options.first, first) if options.first else first
    if options.first is None and options.backfill is None and first != last:
        chosen = dialogue.ask(
            f"From which day on should they be read now? (Enter: {first}, which is everything; a day up to {last}; or none)",
            str(first),
            lambda answer: _start_of_files(answer, first, last),
        )
        if chosen is None:
            dialogue.say("None are read now.")
    _write(settings, kind, [source], first, dialogue)
    return Connected(_wants_backfill(options, chosen is not None), chosen)


def _start_of_files(answer: str, first: date, last: date) -> date | None:
    if answer.lower() in ("y", "yes", "all"):
        return first
    if answer.lower() in _NONE | {"n"}:
        return None
    return max(first, _day(answer, last, f"Give one from {first} to {last}, or none to read nothing now."))


def _days_held(settings: Settings, kind: type[FilesSource | OtlpSource], source: NewSource, dialogue: Dialogue) -> tuple[date, date]:
    """The first and the last day of the files, and what of them can be read. Raises ConnectError when nothing can."""
    opened = _opened(settings, _part(kind, source))
    preview = read_through(opened)
    holdings: list[Holding] = list(opened.holdings())
    if not holdings:
        reason = next((f": {reject.detail} ({reject.location})" for batch in _batches(opened) for reject in batch.rejects), "")
        raise ConnectError(f"{source.keys['path']}: no row can be read{reason}. Nothing was written.")
    first, last = min(held.first for held in holdings), max(held.last for held in holdings)
    if last < date(2000, 1, 1) or first > datetime.now(UTC).date() + timedelta(days=1):
        raise ConnectError(f"{source.keys['path']}: the times lie between {first} and {last}; check which column is the time (--map).")
    rows = preview.rows if preview else sum(entry.rows for entry in opened.catalogue_entries())
    span = f"{first}" if first == last else f"{first} to {last}"
    dialogue.say(f"  {rows:,} rows, {span} (UTC days)" if rows else f"  {span} (UTC days)")
    for line in preview.lines() if preview else ():
        dialogue.say(f"  {line}")
    return first, last


def _batches(source: Any) -> Any:
    return source.read(Kind.RUNS, None)


def _opened(settings: Settings, part: SourceConfig) -> Any:
    from metamon_assets.traces.sources import files, mapping
    from metamon_assets.traces.sources.otlp import OtlpSource as Otlp

    where = settings.path_of(part.path)  # type: ignore[union-attr]
    if isinstance(part, OtlpSource):
        return Otlp([where], project=part.project, attributes=part.map if isinstance(part.map, dict) else None)  # type: ignore[arg-type]
    found = None if part.map is None else mapping.load(part.map)
    return files.FilesSource([where], project=part.project, mapping=found)


def _project_of(path: Path) -> str:
    """A project named for a file or folder, unless somebody says better."""
    name = path.absolute().name.split("*")[0] or path.absolute().parent.name
    for suffix in (".gz", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".json"):
        name = name.removesuffix(suffix)
    return name.strip(" ._-") or "default"


# What all share --------------------------------------------------------------------------------------------


def guess_lines(guesses: Sequence[Guess]) -> list[str]:
    """A table of guesses: column, where, share, how it was found, examples, what speaks against it."""
    lines = []
    for guess in guesses:
        if guess.place is None:
            continue
        notes = "; ".join(part for part in (_WORDS[guess.confidence], guess.remark) if part)
        shown = f"{guess.distinct:,} different, such as {', '.join(guess.examples)}" if guess.examples else ""
        lines.append(f"{guess.column:<28} {printable(guess.place, 30):<30} {guess.share:>4.0%}  {notes:<16}  {shown}".rstrip())
    if absent := [guess.column for guess in guesses if guess.place is None]:
        lines.append(f"not found: {', '.join(absent)} (say where with --map {absent[-1]}=PLACE)")
    return lines


def _comment_lines(guesses: Sequence[Guess], edits: Mapping[str, str | None]) -> list[str]:
    """The same for metamon.yaml, without anybody's values."""
    lines = [f"  {column}: {printable(place or 'nowhere')}, as you said" for column, place in edits.items()]
    for guess in guesses:
        if guess.column not in edits and guess.place is not None:
            notes = "; ".join(part for part in (_WORDS[guess.confidence], guess.remark) if part)
            lines.append(f"  {guess.column}: {printable(guess.place)}, {guess.share:.0%}, {notes}")
    if absent := [guess.column for guess in guesses if guess.place is None and guess.column not in edits]:
        lines.append(f"  not found: {', '.join(absent)}")
    return lines


def _confirm_guesses(dialogue: Dialogue, read: Callable[[dict[str, str | None]], Answer], example: str) -> Answer:
    """What ``read`` makes of the corrections that somebody gives, which may be none. It raises AnswerError for impossible ones."""

    def corrections(answer: str) -> Answer:
        agreed = answer.lower() in ("", "y", "yes")
        return read({} if agreed else read_edits([part for part in answer.split(",") if part.strip()]))

    return dialogue.ask(f"Is that right? (yes, or what is not: {example}, user_id=none)", "yes", corrections)


def _checked(columns: frozenset[str]) -> Callable[[dict[str, str | None]], dict[str, str | None]]:
    """Passes on edits of these columns."""

    def check(edits: dict[str, str | None]) -> dict[str, str | None]:
        refuse_others(edits, columns)
        return edits

    return check


def _wants_backfill(options: Options, by_answer: bool) -> bool:
    return by_answer if options.backfill is None else options.backfill


def _says_start_day(settings: Settings) -> bool:
    path = settings.config_path
    return path.exists() and "start_day" in read_configuration(path).model_fields_set


def _part(kind: type[SourceConfig], source: NewSource) -> Any:
    try:
        return kind.model_validate(dict(source.keys))
    except ValidationError as error:
        raise ConfigError(f"The source cannot be written down: {error.errors(include_input=False)[0]['msg']}") from error


def _write(settings: Settings, kind: Any, sources: Sequence[NewSource], first: date | None, dialogue: Dialogue) -> None:
    """Add what metamon.yaml does not have yet, and show what changed."""
    known = [(part.type, part.project, getattr(part, "path", None) and settings.path_of(part.path)) for part in settings.sources]  # type: ignore[union-attr]
    new = []
    for source in sources:
        part = _part(kind, source)
        place = getattr(part, "path", None)
        if (part.type, part.project, place and settings.path_of(place)) in known:
            dialogue.say(
                f"{settings.config_path} has {part.type} {printable(part.project)} already; it stays as it is."
                " To have it written anew, remove it there first."
            )
        else:
            new.append(source)
    if first is not None and first < settings.start_day and _says_start_day(settings):
        raise ConnectError(
            f"There is data of {first}, before the first day that is kept: set `start_day: {first}` in {settings.config_path}, or say"
            f" --from {settings.start_day}. Nothing was written."
        )
    if not new:
        return
    path = settings.config_path
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    # LangSmith reaches back without an end, so the answer bounds it; files end by themselves, and older ones may follow.
    bounds = kind is LangSmithSource and not settings.sources
    start = first if first is not None and (bounds or first < settings.start_day) else None
    after = configuration_file.with_sources(path, new, start)
    configuration_file.write(path, after)
    dialogue.say(f"\n{path}:\n{configuration_file.difference(before, after) if before else after.rstrip()}\n")
