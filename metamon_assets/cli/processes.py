"""Commands about the processes of a home and its health."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import json_option, print_json, say, with_settings
from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings


@main.command()
@with_settings
def up(settings: Settings) -> None:
    """Keep Postgres, the Dagster UI, its daemon and the schedules running until Ctrl-C."""
    from metamon_assets.supervisor import Supervisor

    Supervisor(settings, say).run()


@main.command()
@with_settings
def down(settings: Settings) -> None:
    """Stop what `metamon up` started."""
    from metamon_assets import supervisor

    if not supervisor.down(settings, say):
        say(f"Nothing runs in {settings.home}.")


@main.command()
@json_option
@with_settings
def status(settings: Settings, as_json: bool) -> None:
    """Show which processes run."""
    from metamon_assets import doctor

    found = doctor.status(settings)
    if as_json:
        print_json(found)
        return
    click.echo(f"Home      {found['home']}")
    click.echo(f"Dagster   {found['ui'] or 'not up: metamon up'}")
    for process in found["processes"]:
        state = f"process {process['pid']}" if process["pid"] else "down, starts again"
        click.echo(f"          {process['name']}: {state}, {process['restarts']} restarts")
    click.echo(f"Postgres  {found['postgres']}")


@main.command(name="doctor")
@json_option
@with_settings
def doctor_command(settings: Settings, as_json: bool) -> None:
    """Say what is configured, reachable, missing, and how to mend it. Exit code 1 when something is broken."""
    from metamon_assets import doctor

    findings = doctor.examine(settings)
    if as_json:
        print_json(findings)
    else:
        marks = {"ok": click.style("ok  ", fg="green"), "note": click.style("note", fg="yellow"), "broken": click.style("FAIL", fg="red")}
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            click.echo(f"{marks[finding.state]}  {finding.subject:<{width}}  {finding.found}")
            if finding.mend:
                click.echo(f"      {'':<{width}}  → {finding.mend}")
    if any(finding.state == "broken" for finding in findings):
        sys.exit(1)


@main.command()
@click.option("--dry-run", is_flag=True, help="Only list what would be applied.")
@with_settings
def migrate(settings: Settings, dry_run: bool) -> None:
    """Bring the database to the shape that this version needs."""
    from metamon_assets.warehouse import server

    with server.running(settings, say):
        names = server.bring_up_to_date(settings, say, dry_run=dry_run)
    verb = "To apply" if dry_run else "Applied"
    click.echo(f"{verb}: {', '.join(names)}" if names else "The database is up to date.")


@main.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@with_settings
def execute(settings: Settings, command: tuple[str, ...]) -> None:
    """Run a program, such as `dagster` or `dg`, with Postgres up and this home's Dagster environment.

    \b
    metamon exec dagster job list -m metamon_assets.definitions
    """
    import os
    import subprocess
    import sysconfig

    from metamon_assets.supervisor import dagster_environment
    from metamon_assets.warehouse import server

    with server.ready(settings, say):
        server.prepare_dagster_storage(settings)
        environment = dagster_environment(settings)
        environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), environment.get("PATH", "")])
        try:
            code = subprocess.run(command, env=environment, check=False).returncode
        except FileNotFoundError as error:
            raise MetamonError(f"There is no program {command[0]} on PATH.") from error
    sys.exit(code)


@main.command()
def version() -> None:
    """Print the versions of Metamon, Python and Dagster."""
    import platform
    from importlib.metadata import version as version_of

    click.echo(f"metamon {version_of('metamon')}, Python {platform.python_version()}, Dagster {version_of('dagster')}")
