"""Commands about alert rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import database, json_option, print_json, print_table, say, with_settings

if TYPE_CHECKING:
    from metamon_assets.alerts.backtest import Replay
    from metamon_assets.config import Settings


@main.group()
def rules() -> None:
    """Alert rules: what there is, whether your changes are right, what would have fired, files for Prometheus."""


@rules.command("list")
@json_option
@with_settings
def list_rules(settings: Settings, as_json: bool) -> None:
    """All rules, with what they said last: ok, pending, firing, too few events, no data, or not applicable."""
    from metamon_assets.alerts import catalogue
    from metamon_assets.alerts.catalogue import duration_text
    from metamon_assets.warehouse import connect, server

    known = catalogue.load(settings)
    with server.ready(settings, say) as url:
        connection = connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT rule, state, count(*) FROM metamon.rule_states GROUP BY 1, 2 ORDER BY 1, 3 DESC")
            states: dict[str, list[str]] = {}
            for name, state, count in cursor.fetchall():
                states.setdefault(name, []).append(state if count == 1 else f"{state} ({count})")
        connection.close()
    rows = []
    for name, rule in known.rules.items():
        bound = "by itself" if rule.threshold is None else f"{'>' if rule.above is not None else '<'} {rule.threshold:g}"
        state = ", ".join(states.get(name, [])) if rule.enabled else "switched off"
        rows.append((name, rule.id, rule.metric, bound, duration_text(rule.window), duration_text(rule.hold), rule.severity, state or "–"))
    columns = ["rule", "id", "metric", "fires", "window", "for", "severity", "state"]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


@rules.command()
@click.argument("path", required=False, type=click.Path(path_type=Path, dir_okay=False))
@with_settings
def check(settings: Settings, path: Path | None) -> None:
    """Check rules.yaml (of the home, or PATH): every mistake with its line. Exit code 1 when there is one."""
    from metamon_assets.alerts import catalogue
    from metamon_assets.config import ConfigError

    path = path or settings.home / catalogue.FILE
    if not path.exists():
        raise ConfigError(f"{path} is not there: write the rules that you change into it, such as `HighErrorRate: {{above: 0.1}}`.")
    known = catalogue.read(path)
    changed = [name for name, rule in known.rules.items() if catalogue.bundled().get(name) != rule]
    say(f"{path} is right: {len(changed)} of {len(known.rules)} rules are not as they come with Metamon: {', '.join(changed) or 'none'}.")


@rules.command()
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to write them (default: here).")
@with_settings
def render(settings: Settings, directory: Path) -> None:
    """Write the rules for Prometheus (metamon.rules.yml) and the routes for Alertmanager (metamon.alertmanager.yml).

    They are made from the same rules as Metamon's own alerts, over the names at /metrics.
    """
    from metamon_assets.alerts import catalogue, prometheus

    known = catalogue.load(settings)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in prometheus.files(known):
        (directory / name).write_text(content, encoding="utf-8")
        say(f"{directory / name} is written.")
    for sentence in prometheus.rule_file(known).left_out:
        say(f"Left out: {sentence}.")
    say("Name the first one under rule_files in prometheus.yml; put your addresses into the second one, which names files for secrets.")


@rules.command()
@click.option(
    "--days", type=click.IntRange(1, 14), default=14, show_default=True, help="How far back; five-minute buckets are kept for 14 days."
)
@json_option
@with_settings
def backtest(settings: Settings, days: int, as_json: bool) -> None:
    """What the rules, as they are now, would have told over the last days, and thresholds that would tell less.

    Nothing is written and nobody is told. A suggested threshold is one that would have opened at most one incident a week; copy the lines
    that you agree with into rules.yaml.
    """
    from datetime import UTC, datetime

    from metamon_assets.alerts import backtest as past
    from metamon_assets.alerts import catalogue

    known = catalogue.load(settings)
    with database(settings, existing=True) as connection:
        found = past.backtest(connection, known, datetime.now(UTC), days, say)
    suggestions = list(past.lines(found, days))
    if as_json:
        print_json({"days": days, "rules": [past.document(replay, days) for replay in found], "suggestions": suggestions})
        return
    print_table(["rule", "fires", "incidents", "a week", "open for", "where", "messages", ""], [_row(replay, days) for replay in found])
    click.echo("\n".join(["# Lines for rules.yaml; those that are comments would tell more than now.", *suggestions]))


def _row(replay: Replay, days: int) -> tuple[object, ...]:
    """A rule that was tried on the past, as a row."""
    rule, count = replay.rule, len(replay.incidents)
    bound = "by itself" if rule.threshold is None else f"{'>' if rule.above is not None else '<'} {rule.threshold:g}"
    if not count:
        return replay.name, bound, None if replay.note else 0, None, None, "", None if replay.note else 0, replay.note
    hours = f"{replay.seconds / 3600:.1f} h"
    where = ", ".join(f"{metric} of {dimension} {value}: {times}" for (metric, dimension, value), times in replay.groups[:3])
    more = f", {len(replay.groups) - 3} more" if len(replay.groups) > 3 else ""
    return replay.name, bound, count, round(count * 7 / days, 1), hours, where + more, replay.messages, replay.note
