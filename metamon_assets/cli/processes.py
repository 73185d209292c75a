"""Commands about the processes of a home and its health."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import json_option, print_json, say, shown, with_home, with_settings
from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config import Settings

LEVELS = ("debug", "info", "warning", "error", "critical")  # those of ``log``, which would take half as long to import as all else here
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType):
    """A length of time as people write it: a number and s, m, h or d."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The length; fails with what would be right."""
        number, unit = str(value)[:-1], str(value)[-1:]
        if unit not in UNITS or not number.isdecimal() or len(number) > 5:
            self.fail(f"{value!r} is no length of time: write a number and s, m, h or d, such as 15m.", param, ctx)
        return timedelta(**{UNITS[unit]: int(number)})


@main.command()
@with_settings
def up(settings: Settings) -> None:
    """Keep Postgres, the live feed, alerts, the web server and Dagster running until Ctrl-C."""
    from metamon_assets.supervisor import Supervisor

    Supervisor(settings, say).run()


@main.command()
@with_home
def down(settings: Settings) -> None:
    """Stop what `metamon up` started."""
    from metamon_assets import supervisor

    if not supervisor.down(settings, say):
        say(f"Nothing runs in {settings.home}.")


@main.command()
@with_settings
def watch(settings: Settings) -> None:
    """Watch signs of life alone, where containers and not `metamon up` run the processes."""
    import signal
    import threading

    from metamon_assets import log
    from metamon_assets.supervisor.elsewhere import watch as run
    from metamon_assets.supervisor.watchdog import Watchdog

    log.configure("watch")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    run(settings, stopping, Watchdog())


@main.command()
@click.option(
    "--alive", metavar="COMPONENT", help="Exit code 1 unless this one gave a sign of life within five minutes; for health checks."
)
@json_option
@with_home
def status(settings: Settings, alive: str | None, as_json: bool) -> None:
    """Show which processes run, where, and when each was last seen alive."""
    from metamon_assets import doctor

    found = doctor.status(settings)
    if alive is not None:
        doctor.must_be_alive(alive, found["signs_of_life"])
    if as_json:
        print_json(found)
        return
    click.echo(f"Home        {found['home']}")
    click.echo(f"Metamon     {found['web'] or 'not up: metamon up'}")
    click.echo(f"Dagster     {found['ui'] or 'not up: metamon up'}")
    click.echo(f"Postgres    {found['postgres']}")
    for process in found["processes"]:
        words = f"process {process['pid']} since {process['since']}" if process["pid"] else f"{process['state']}, starts by itself"
        restarts = f", {process['restarts']} restarts, last: {process['last_exit']}" if process["restarts"] else ""
        click.echo(f"            {process['name']}: {words}{restarts}")
    for sign in found["signs_of_life"]:
        click.echo(f"Last seen   {sign['component']}: {sign['age_seconds']:.0f} s ago")
    for finding in found["findings"]:
        words = f"{finding['state'].capitalize():<11} {finding['component']}: {finding['detail']} (since {finding['since']})"
        click.secho(shown(words), fg="red")


@main.command()
@click.option("--component", "components", multiple=True, help="Only this process; may be given several times.")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Only records of this level and above.")
@click.option("--since", type=Duration(), default="1h", show_default=True, help="How far back: 90s, 15m, 2h, 7d.")
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@json_option
@with_home
def logs(settings: Settings, components: tuple[str, ...], level: str, since: timedelta, follow: bool, as_json: bool) -> None:
    """Show what the processes of `metamon up` logged."""
    import contextlib

    from metamon_assets import log

    path = settings.logs / log.FILE_NAME
    if not path.exists() and not follow:
        raise log.LogError(f"There is no log in {settings.logs} yet: `metamon up` writes it.")
    lowest = LEVELS.index(level)
    with contextlib.suppress(KeyboardInterrupt):
        for entry in log.read(path, datetime.now(UTC) - since, follow):
            if LEVELS.index(entry["level"]) >= lowest and (not components or entry["component"] in components):
                click.echo(log.to_line(entry).rstrip() if as_json else log.to_text(entry, colour=True))


@main.command(name="doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Say what is configured, reachable, missing, and how to mend it. Exit code 1 when something is broken."""
    from metamon_assets import doctor
    from metamon_assets.config import Settings

    findings = doctor.examine(*Settings.load_or_defaults())
    if as_json:
        print_json(findings)
    else:
        marks = {"ok": click.style("ok  ", fg="green"), "note": click.style("note", fg="yellow"), "broken": click.style("FAIL", fg="red")}
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            click.echo(f"{marks[finding.state]}  {finding.subject:<{width}}  {shown(finding.found)}")
            if finding.mend:
                click.echo(f"      {'':<{width}}  → {shown(finding.mend)}")
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


@main.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
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
            if settings.database_url is not None:  # nothing to hold open: become the program, so that signals reach it
                os.execvpe(command[0], command, environment)  # noqa: S606
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
