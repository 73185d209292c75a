"""Commands about metamon.yaml: check it, compare it, explain it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import database, has_database, json_option, print_json, print_table, with_settings
from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings
    from metamon_assets.warehouse.configuration import Version


@main.group()
def config() -> None:
    """Check, compare and explain metamon.yaml."""


@config.command()
@json_option
def check(as_json: bool) -> None:
    """Say whether metamon.yaml can be used, and everything that is wrong with it. Exit code 1 when something is."""
    from metamon_assets.config import MistakesError, Settings
    from metamon_assets.config.changes import without_effect
    from metamon_assets.metrics.expressions import check_expressions

    settings, unusable = Settings.load_or_defaults()
    if isinstance(unusable, MistakesError):
        usable, mistakes = unusable.usable, [*unusable.mistakes, *check_expressions(unusable.usable, unusable.places)]
    elif unusable:
        raise unusable
    else:
        usable, mistakes = settings, check_expressions(settings)
    idle = without_effect(settings)
    if as_json:
        print_json({"path": settings.config_path, "exists": settings.config_path.exists(), "problems": mistakes, "without_effect": idle})
    elif not settings.config_path.exists():
        click.echo(f"There is no {settings.config_path}: the defaults hold.")
    elif not mistakes:
        click.echo(f"{settings.config_path} can be used.")
    if idle and not as_json:
        click.echo(f"Kept, but nothing reads it yet: {', '.join(idle)}.")
    if mistakes:
        raise MistakesError(settings.config_path, mistakes, usable)


def _versions(settings: Settings) -> list[Version]:
    from metamon_assets.warehouse.configuration import versions

    if not has_database(settings):
        return []
    with database(settings, noted=False) as connection:
        return versions(connection)


@config.command()
@click.option("--since", type=int, metavar="VERSION", help="Compare with this version instead of the last; `metamon config history`.")
@json_option
@with_settings
def diff(settings: Settings, since: int | None, as_json: bool) -> None:
    """Show what changed in metamon.yaml since the version that ran last."""
    from metamon_assets.config.changes import content, differences

    known = _versions(settings)
    found = next((version for version in known if since in (None, version.number)), None)
    if since is not None and found is None:
        raise MetamonError(f"There is no version {since}: `metamon config history` lists them.")
    changes = differences(found.content if found else {}, content(settings))
    if as_json:
        print_json({"version": found.number if found else None, "changes": changes})
        return
    since_when = f"version {found.number} of {found.since:%Y-%m-%d %H:%M} UTC by {found.actor}" if found else "the defaults"
    click.echo(f"Compared with {since_when}: {'no change' if not changes else ''}".rstrip())
    for change in changes:
        click.echo(str(change))


@config.command()
@json_option
@with_settings
def history(settings: Settings, as_json: bool) -> None:
    """List the versions of metamon.yaml that ran, the newest first."""

    known = _versions(settings)
    if as_json:
        print_json(known)
    elif not known:
        click.echo("Only the defaults have run so far.")
    else:
        rows = [(v.number, f"{v.since:%Y-%m-%d %H:%M} UTC", v.actor, "\n".join(v.changes)) for v in known]
        print_table(["version", "since", "by", "changes"], rows)


@config.command()
@click.argument("key", default="")
@json_option
@with_settings
def explain(settings: Settings, key: str, as_json: bool) -> None:
    """Show every key (those below KEY, such as web or sources[0]): its value, where that was set, what it means."""
    from metamon_assets.config.changes import explain as explain_keys

    found = explain_keys(settings, key)
    if not found:
        raise MetamonError(f"There is no key {key}: `metamon config explain` lists all.")
    if as_json:
        print_json(found)
        return
    for entry in found:
        click.echo(f"{click.style(entry.key, bold=True)}: {'' if entry.value is None else entry.value}  ({entry.origin})")
        click.echo(f"    {entry.meaning}{'' if entry.read_by_something else ' (Nothing reads it yet.)'}")


@config.command()
@click.option("--write", is_flag=True, help="Write it beside metamon.yaml, and name it there, so that editors complete and check the file.")
@with_settings
def schema(settings: Settings, write: bool) -> None:
    """Print the JSON Schema of metamon.yaml, for editors."""
    from metamon_assets.config import json_schema, write_schema

    if write:
        click.echo(f"Wrote {write_schema(settings.config_path)}.")
    else:
        print_json(json_schema())
