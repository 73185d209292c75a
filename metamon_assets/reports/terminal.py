"""The report on a terminal: readable at 80 columns, without colour in a pipe, and ending with what to do next.

Text of strangers never reaches the terminal as it is: ``words.clean`` takes out what it would obey, and rich's own
markup is off.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from metamon_assets import words
from metamon_assets.reports.findings import Finding, RunReference, Table
from metamon_assets.reports.rejected import QUERY, sentence
from metamon_assets.reports.report import Facts, Part, Report

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
RUNS = 2  # examples of a finding
LONGEST_QUERY = 600  # characters that somebody can still copy from a terminal
WORDS = 24  # columns that words get before they are broken into lines
_STYLES = {"serious": "bold red", "notice": "bold yellow", "info": "dim"}
MARKS = {"serious": "!!", "notice": "! ", "info": "- "}


def print_report(report: Report, file: IO[str], *, width: int | None = None) -> None:
    """Write the report. ``width``: columns; None for those of the terminal, 80 in a pipe."""
    from rich.console import Console

    console = Console(file=file, width=width or (None if file.isatty() else WIDTH), highlight=False, markup=False, emoji=False)
    _Printer(console).report(report)


class _Printer:
    """Prints a report part by part."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = min(console.width, 110)

    def report(self, report: Report) -> None:
        self._heading(f"Metamon report, {period(report)}", underline="═")
        for line in facts(report):
            self._text(line)
        if report.highlights:
            self._heading("What matters most")
        for _, finding in report.highlights:
            self._finding(finding, short=True)
        for part in report.parts:
            self._part(part)
        self._heading("What to do next")
        for line, command in next_steps(report):
            self._text(line)
            if command:
                self._console.print(f"    {words.clean(command)}", style="cyan", soft_wrap=True)

    def _part(self, part: Part) -> None:
        self._heading(part.section.title)
        if part.failure:
            self._text(f"This section failed and is missing: {part.failure}", style="bold red")
        if part.content.silence:
            self._text(part.content.silence)
        for finding in part.content.findings:
            self._finding(finding)
        for table in part.content.tables:
            self._table(table)

    def _finding(self, finding: Finding, *, short: bool = False) -> None:
        self._text(
            finding.statement, first=f"{MARKS[finding.severity]} ", style="" if finding.severity == "info" else _STYLES[finding.severity]
        )
        if finding.money:
            self._text(f"{finding.money}.", first="   ")
        if short:
            return
        self._text(finding.certainty, first="   ", style="dim")
        if finding.runs:
            self._text(f"Runs: {', '.join(_run(run) for run in finding.runs[:RUNS])}", first="   ", style="dim")

    def _heading(self, text: str, underline: str = "─") -> None:
        self._console.print()
        self._text(text, style="bold")
        self._console.print(underline * min(len(text), self._width))

    def _text(self, text: str, *, first: str = "", style: str = "") -> None:
        for line in textwrap.wrap(
            words.clean(text), self._width, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
        ):
            self._console.print(line, style=style or None, soft_wrap=True)

    def _table(self, table: Table) -> None:
        from rich import box
        from rich.table import Table as Grid
        from rich.text import Text

        self._console.print()
        self._text(table.title, style="italic")
        if len(table.columns) == 1:  # lines to copy
            for line in (table.columns[0], *(row[0] for row in table.rows)):
                self._console.print(words.clean(line), soft_wrap=True)
            return
        if not self._fits(table):
            self._list(table)
            return
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for place, column in enumerate(table.columns):
            grid.add_column(Text(words.clean(column)), justify="left" if words_in(table, place) else "right", overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text(words.clean(cell)) for cell in row))
        self._console.print(grid)

    def _fits(self, table: Table) -> bool:
        """Whether the table can be read here: figures in one line, words broken only where they are many."""
        longest = [max(len(words.clean(row[place])) for row in (table.columns, *table.rows)) for place in range(len(table.columns))]
        needed = [min(width, WORDS) if words_in(table, place) else width for place, width in enumerate(longest)]
        return sum(needed) + 3 * (len(needed) - 1) <= self._width

    def _list(self, table: Table) -> None:
        """A table too wide for the terminal, row by row: what it is about, and its figures below."""
        for row in table.rows:
            figures = zip(table.columns[1:], row[1:], strict=True)
            self._text(row[0], first="-  ")
            self._text("; ".join(f"{name}: {cell}" for name, cell in figures if cell not in {"", "–"}), first="   ", style="dim")


def words_in(table: Table, column: int) -> bool:
    """Whether a column of a table holds words, which stand to the left, and not figures."""
    figures = ("unpriced", "unknown", "–", "too few", "under", "over", "-", "+", "$")
    return column == 0 or any(row[column] and not row[column][0].isdigit() and not row[column].startswith(figures) for row in table.rows)


def _run(run: RunReference) -> str:
    return run.url or run.run_id


def period(report: Report) -> str:
    """The days that the report is about, and what it is limited to."""
    from datetime import timedelta

    last = (report.end - timedelta(microseconds=1)).date()
    limits = [f"project {words.name(report.project)}"] if report.project is not None else []
    limits += [f"agent {words.name(report.agent)}"] if report.agent is not None else []
    days = f"{report.start.date()} to {last}" if last > report.start.date() else f"{last}"
    return f"{days} (UTC{', so far' if report.now < report.end else ''}){''.join(f', {limit}' for limit in limits)}"


def facts(report: Report) -> Iterator[str]:
    """Sentences about the period as a whole."""
    found = report.facts
    if not found.traces:
        yield "There are no traces in this period, so there is nothing to report."
        yield from filter(None, [sentence(found.rejected)])
        return
    projects = f" of {words.many(found.projects, 'project')}" if found.projects > 1 else ""
    agents = f" by {words.many(found.agents, 'agent')}" if found.agents else ""
    yield f"{words.many(found.traces, 'trace')}{projects}{agents} on {words.many(found.days, 'day')}: {_outcomes(found)}."
    if found.cost is None:
        yield "None of them has a price, so nothing is said about money."
    else:
        yield f"{words.dollars(found.cost)} in all; {words.percent(found.priced / found.traces)} of the traces have a price."
    yield from filter(None, [sentence(found.rejected)])
    if found.missing:
        yield (
            "Not in these traces, and therefore not in this report: " + "; ".join(f"{what} ({lost})" for what, lost in found.missing) + "."
        )


def _outcomes(found: Facts) -> str:
    if found.untold == found.traces:
        return "unknown whether they failed"
    parts = [f"{found.succeeded:,} succeeded", f"{found.failed:,} failed"]
    if ended := found.succeeded + found.failed:
        parts[1] += f" ({words.percent(found.failed / ended)})"
    parts += [f"{found.unended:,} {'has' if found.unended == 1 else 'have'} not ended"] if found.unended else []
    parts += [f"of {found.untold:,} it is unknown"] if found.untold else []
    return ", ".join(parts)


def next_steps(report: Report) -> list[tuple[str, str]]:
    """What a reader does with it: sentences, each with a command or an empty text."""
    rejected = [("See the rejected rows and what is wrong with each:", f'metamon sql "{QUERY}"')] if report.facts.rejected.rows else []
    if not report.facts.traces:
        return [
            *rejected,
            ("Connect a source, if there is none yet (langsmith, files or otlp):", "metamon connect langsmith"),
            ("Look at what is configured and reachable:", "metamon doctor"),
            ("Look at other days:", "metamon report --from DAY --to DAY"),
        ]
    steps = []
    if finding := next((found for _, found in report.highlights if 0 < len(found.query) <= LONGEST_QUERY), None):
        which = "the first finding" if finding is report.highlights[0][1] else f"“{_start_of(finding.statement)}”"
        steps.append((f"List the runs behind {which} (--html has the query of each):", f"metamon sql {_shell(finding.query)}"))
    steps += rejected
    steps.append(("Read it with pictures, or send it to somebody:", "metamon report --html report.html"))
    if any(part.section.key == "cost" and any(t.columns == ("price_overrides:",) for t in part.content.tables) for part in report.parts):
        steps.append(("Give the unpriced models a price: put the lines above into metamon.yaml.", ""))
    return steps


def _start_of(statement: str) -> str:
    return textwrap.shorten(words.clean(statement), 60, placeholder=" …")


def _shell(query: str) -> str:
    """A query as one argument: in double quotes, which are easier to read where it holds none, nor what a shell replaces in them."""
    import shlex

    line = " ".join(query.split())
    return shlex.quote(line) if set(line) & set('"$`\\!') else f'"{line}"'
