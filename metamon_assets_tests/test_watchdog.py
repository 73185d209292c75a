"""What the watchdog makes of signs of life, at times that the test names. The look itself runs in test_supervisor."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from metamon_assets.supervisor import Child
from metamon_assets.supervisor.plan import DAGSTER_DAEMON
from metamon_assets.supervisor.watchdog import HEARTBEAT, SILENCE_SECONDS, Finding, Sight, Watchdog, news

MINUTE = 60.0
START = 1_000.0  # of the monotonic clock
DAY = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def feed() -> Iterator[Child]:
    """A child that runs since START and gives the sign of life ``feed``."""
    yield from running(Child("feed", ["sleep", "1000"], beat="feed"))


@pytest.fixture
def daemon() -> Iterator[Child]:
    yield from running(Child("daemon", ["sleep", "1000"], beat=DAGSTER_DAEMON))


def running(child: Child) -> Iterator[Child]:
    child.process = subprocess.Popen(child.command)
    child.note_start(START)
    yield child
    child.process.kill()
    child.process.wait()


def sight(minute: float, *names: str) -> Sight:
    """Signs of life that were given ``minute`` minutes after the start of the day."""
    return Sight(dict.fromkeys(names or ("feed",), DAY + timedelta(minutes=minute)))


def states(watchdog: Watchdog) -> dict[str, str]:
    return {finding.component: finding.state for finding in watchdog.findings}


def test_who_gives_signs_of_life_is_left_alone(feed: Child) -> None:
    watchdog = Watchdog()
    for minute in range(60):
        assert watchdog.judge(sight(minute), [feed], START + minute * MINUTE) == []
    assert not watchdog.findings


def test_who_falls_silent_hangs_after_five_minutes(feed: Child) -> None:
    watchdog = Watchdog()
    assert watchdog.judge(sight(0), [feed], START + 10) == []
    assert watchdog.judge(sight(0), [feed], START + 10 + SILENCE_SECONDS) == []
    assert watchdog.judge(sight(0), [feed], START + 11 + SILENCE_SECONDS) == [feed]
    (finding,) = watchdog.findings
    assert (finding.component, finding.state) == ("feed", "hung")
    assert "no sign of life for 5 minutes" in finding.detail


def test_who_never_gave_a_sign_hangs_too(feed: Child) -> None:
    watchdog = Watchdog()
    assert watchdog.judge(Sight(), [feed], START + 10) == []
    assert watchdog.judge(Sight(), [feed], START + 11 + SILENCE_SECONDS) == [feed]


def test_patience_doubles_until_there_is_a_sign_of_life(feed: Child) -> None:
    watchdog = Watchdog()
    watchdog.judge(sight(0), [feed], START)
    feed.hangs = 2  # started again twice, for nothing
    feed.note_start(START + 10 * MINUTE)
    assert watchdog.judge(sight(0), [feed], START + 29 * MINUTE) == []
    assert watchdog.judge(sight(0), [feed], START + 31 * MINUTE) == [feed]
    watchdog.judge(sight(31), [feed], START + 32 * MINUTE)
    assert feed.hangs == 0


def test_nobody_hangs_while_the_database_is_away(feed: Child) -> None:
    watchdog = Watchdog()
    watchdog.judge(sight(0), [feed], START)
    assert watchdog.judge(Sight(trouble="could not connect"), [feed], START + 20 * MINUTE) == []
    assert watchdog.findings == [Finding("database", "unreachable", "could not connect")]
    assert watchdog.judge(sight(0), [feed], START + 20.5 * MINUTE) == []
    assert watchdog.judge(sight(0), [feed], START + 25 * MINUTE) == []
    assert watchdog.judge(sight(0), [feed], START + 26 * MINUTE) == [feed]


def test_a_finding_keeps_the_time_when_it_began(feed: Child) -> None:
    watchdog = Watchdog()
    watchdog.judge(Sight(trouble="one"), [feed], START)
    first = watchdog.findings[0].since
    watchdog.judge(Sight(trouble="two"), [feed], START + MINUTE)
    assert (watchdog.findings[0].since, watchdog.findings[0].detail) == (first, "two")


def test_what_was_found_elsewhere_is_kept_as_long_as_it_is_known() -> None:
    watchdog = Watchdog()
    full = Finding("log", "full", "no space")
    watchdog.judge(Sight(), [], START, [full])
    watchdog.judge(Sight(), [], START, [Finding("log", "full", "no space", full.since + timedelta(hours=1))])
    assert [finding.since for finding in watchdog.findings] == [full.since]
    watchdog.judge(Sight(), [], START)
    assert not watchdog.findings


def test_news_is_what_began_and_what_is_over() -> None:
    one, two = Finding("feed", "hung", "silent"), Finding("log", "full", "no space")
    assert [(level, finding) for level, _, finding in news([one], [two])] == [("error", two), ("info", one)]
    assert not list(news([one], [Finding("feed", "hung", "silent for longer")]))


def test_ending_again_and_again_is_a_finding_and_one_end_is_none() -> None:
    watchdog = Watchdog()
    child = Child("web", ["false"])
    child.note_failure(START, "exit code 1")
    watchdog.judge(Sight(), [child], START)
    assert not watchdog.findings
    child.note_failure(START, "exit code 1")
    child.note_failure(START, "exit code 1")
    watchdog.judge(Sight(), [child], START)
    assert states(watchdog) == {"web": "down"}
    assert "ended 3 times in a row, last: exit code 1" in watchdog.findings[0].detail


def test_a_sensor_that_stops_ticking_is_stale_and_one_of_an_earlier_version_is_not(daemon: Child) -> None:
    watchdog = Watchdog()
    old = {"sensor removed": DAY}
    for minute in range(3):
        watchdog.judge(Sight({**sight(minute, DAGSTER_DAEMON, HEARTBEAT, "sensor late").beats, **old}), [daemon], START + minute * MINUTE)
    for minute in range(3, 14):
        assert not watchdog.judge(
            Sight({**sight(minute, DAGSTER_DAEMON, HEARTBEAT).beats, **sight(2, "sensor late").beats, **old}),
            [daemon],
            START + minute * MINUTE,
        )
    assert states(watchdog) == {"sensor late": "stale"}
    assert "last tick 2026-01-02 00:02:00 UTC" in watchdog.findings[0].detail


def test_the_heartbeat_sensor_is_missed_even_when_it_never_ticked(daemon: Child) -> None:
    watchdog = Watchdog()
    for minute in range(12):
        watchdog.judge(sight(minute, DAGSTER_DAEMON), [daemon], START + minute * MINUTE)
    assert states(watchdog) == {HEARTBEAT: "stale"}


def test_a_dead_daemon_is_no_stale_sensor(daemon: Child) -> None:
    watchdog = Watchdog()
    watchdog.judge(sight(0, DAGSTER_DAEMON, HEARTBEAT), [daemon], START)
    assert watchdog.judge(sight(0, DAGSTER_DAEMON, HEARTBEAT), [daemon], START + 15 * MINUTE) == [daemon]
    assert states(watchdog) == {"daemon": "hung"}
