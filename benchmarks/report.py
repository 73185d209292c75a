"""What the report's statistical sections find of what was planted in sample worlds, what they wrongly claim, how often they
claim anything of quiet histories, and how long they take.

A world is 14 days of 1,000 traces a day (Stage) with its problems and changes; a quiet one has the same people and traffic, no
problems, and changes that do nothing. Facts are visible when somebody who knew slice and time would see them at six deviations,
and they did not begin within the first two days, before which there is nothing. (`scoring` in the tests tells the rules.)
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from datetime import date, timedelta

from _common import Report, Stopwatch, Target, arguments, home

from metamon_assets.reports import history
from metamon_assets.reports.past_incidents import Search
from metamon_assets.warehouse.postgres import EmbeddedPostgres
from metamon_assets_tests.reports.scoring import Score, claims_of, context_of, score
from metamon_assets_tests.reports.worlds import Stage, database_of, fill

TARGETS = (
    Target("planted facts stated", "%"),
    Target("planted problems stated", "%"),
    Target("planted changes stated", "%"),
    Target("visible facts stated", "%"),
    Target("visible problems stated", "%"),
    Target("visible changes stated", "%"),
    Target("claims that nothing planted explains", "%"),
    Target("quiet histories with a false statement", "of all", 0.05, at_least=False),
    Target("sections, 14 days × 1,000", "s", 10, at_least=False),
    Target("search, 90 days × 2,000", "s", 30, at_least=False),
)
FIRST = date(2025, 9, 1)  # earliest start of a history
RANGE = 300  # days later, at most


def stages(seed: int, count: int, *, quiet: bool) -> list[Stage]:
    """Worlds with seeds and periods of their own."""
    rng = random.Random(f"{seed} {quiet}")
    return [Stage(rng.randrange(1, 10**6), FIRST + timedelta(days=rng.randrange(RANGE)), 14, 1000, quiet) for _ in range(count)]


def main() -> int:
    report = Report("report", TARGETS, arguments(__doc__ or "").parse_args())
    seed, quick = report.arguments.seed, report.arguments.quick
    scores: list[Score] = []
    seconds: list[float] = []
    false = 0
    with home() as settings:
        settings.home.mkdir(parents=True)
        settings.home.chmod(0o755)
        server = EmbeddedPostgres(settings.home)
        server.start()
        try:
            for stage in stages(seed, 3 if quick else 8, quiet=False):
                with database_of(server, "world") as connection:
                    fill(connection, stage)
                    scores.append(score(connection, stage, context_of(connection, stage)))
                    for wrong in scores[-1].wrong:
                        print(f"world {stage.seed} from {stage.first}: not planted: {wrong}", flush=True)
            quiet = stages(seed, 3 if quick else 20, quiet=True)
            for stage in quiet:
                with database_of(server, "quiet") as connection:
                    fill(connection, stage)
                    with Stopwatch() as watch:
                        claims = claims_of(context_of(connection, stage))
                    seconds.append(watch.seconds)
                    false += bool(claims)
                    for key, finding in claims:
                        print(f"quiet world {stage.seed} from {stage.first}: {key}: {finding.statement}", flush=True)
            record(report, scores, false, len(quiet), seconds)
            if not quick:
                record_long(report, server, seed)
        finally:
            server.stop()
    return report.finish()


def record(report: Report, scores: list[Score], false: int, quiet: int, seconds: list[float]) -> None:
    """The figures, each with its counts."""
    facts = [fact for found in scores for fact in found.facts]
    for name, chosen in (
        ("facts", facts),
        ("problems", [fact for fact in facts if not fact.kind.startswith("change")]),
        ("changes", [fact for fact in facts if fact.kind.startswith("change")]),
    ):
        for word, some in (("planted", chosen), ("visible", [fact for fact in chosen if fact.visible])):
            stated = sum(bool(fact.stated_by) for fact in some)
            report.record(
                f"{word} {name} stated",
                100 * stated / len(some) if some else float("nan"),
                f"{stated} of {len(some)}, {len(scores)} worlds",
            )
    claims, wrong = sum(found.claims for found in scores), sum(len(found.wrong) for found in scores)
    report.record("claims that nothing planted explains", 100 * wrong / max(claims, 1), f"{wrong} of {claims}")
    report.record("quiet histories with a false statement", false / quiet, f"{false} of {quiet}")
    report.record("sections, 14 days × 1,000", seconds, "incidents, changes and errors of a quiet history")
    kinds = Counter(fact.kind for fact in facts if fact.visible)
    stated_kinds = Counter(fact.kind for fact in facts if fact.visible and fact.stated_by)
    print("visible, by kind: " + ", ".join(f"{kind} {stated_kinds[kind]} of {count}" for kind, count in sorted(kinds.items())))


def record_long(report: Report, server: EmbeddedPostgres, seed: int) -> None:
    """The search over 90 days."""
    stage = Stage(seed, FIRST, 90, 2000)
    with database_of(server, "long") as connection:
        fill(connection, stage)
        with Stopwatch() as watch:
            loaded = history.load(context_of(connection, stage))
            found = Search(loaded, history.tool_calls(context_of(connection, stage), loaded)).run()
        report.record(
            "search, 90 days × 2,000", watch.seconds, f"{len(loaded.runs):,} runs, {found.series} series, {len(found.incidents)} incidents"
        )


if __name__ == "__main__":
    sys.exit(main())
