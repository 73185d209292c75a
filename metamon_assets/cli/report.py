"""The command that says what was found: ``metamon report``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import database, day_option, json_option, print_json, say, with_settings
from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.reports.findings import Registry
    from metamon_assets.reports.report import Report


@main.command()
@day_option("from", "First day; by default 14 days up to the last one with traces")
@day_option("to", "Last day; by default the last one with traces")
@click.option("--days", type=click.IntRange(min=1), help="How many days to look back. [default: 14]")
@click.option("--project", help="Only traces of this project.")
@click.option("--agent", help="Only traces of this agent.")
@click.option("--section", "keys", multiple=True, metavar="KEY", help="Only this section, such as cost; may be given more than once.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write one page with pictures to FILE instead."
)
@json_option
@with_settings
def report(
    settings: Settings,
    *,
    from_day: datetime | None,
    to_day: datetime | None,
    days: int | None,
    project: str | None,
    agent: str | None,
    keys: tuple[str, ...],
    html: Path | None,
    as_json: bool,
) -> None:
    """Say what was found: cost, slow steps, errors, changes, repeats, savings, and which runs show it."""
    from metamon_assets.reports.report import as_json as document
    from metamon_assets.reports.report import build_report, check_names, last_days
    from metamon_assets.reports.terminal import print_report

    if from_day and days:
        raise click.UsageError("--from and --days both say where to begin: give one.")
    if from_day and to_day and from_day > to_day:
        raise click.UsageError("--from lies after --to.")
    registry, now = _chosen(keys), datetime.now(UTC)
    with database(settings, existing=True) as connection:
        check_names(connection, project, agent)
        start, end = last_days(connection, now, days or 14, project, agent)
        if to_day:
            end = to_day.replace(tzinfo=UTC) + timedelta(days=1)
            start = end - timedelta(days=days or 14)
        if from_day:
            start, end = from_day.replace(tzinfo=UTC), max(end, from_day.replace(tzinfo=UTC) + timedelta(days=1))
        found = build_report(connection, settings, start, end, now, project, agent, registry)
    if html:
        _write_page(found, html)
    if as_json:
        print_json(document(found))
    elif not html:
        print_report(found, sys.stdout)
    if found.failures:
        failed = ", ".join(f"{part.section.title} ({part.failure})" for part in found.failures)
        raise MetamonError(f"The report is incomplete; {len(found.failures)} of {len(found.parts)} sections failed: {failed}")


def _chosen(keys: tuple[str, ...]) -> Registry:
    from metamon_assets.reports.findings import Registry
    from metamon_assets.reports.sections import default_registry

    registry = default_registry()
    if unknown := [key for key in keys if key not in registry.sections]:
        raise click.UsageError(f"There is no section {', '.join(unknown)}; there are {', '.join(registry.sections)}.")
    return Registry({key: registry.sections[key] for key in keys}) if keys else registry


def _write_page(found: Report, path: Path) -> None:
    from metamon_assets.reports.html import page

    try:
        path.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise MetamonError(
            f"{path} cannot be written: {error.strerror}. Name a file in a folder that exists and that you may write."
        ) from error
    say(f"Wrote {path}")
