"""The catalogue of rules: what comes with Metamon, what users change, and mistakes told by their lines."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from metamon_assets.alerts.catalogue import bundled, duration_text, read
from metamon_assets.config import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_rule_of_the_requirements_is_there_once() -> None:
    ids = [rule.id for rule in bundled().values()]
    assert sorted(ids, key=lambda text: int(text[4:])) == [f"ALR-{number}" for number in range(1, 33)]


def test_summaries_can_be_filled_in() -> None:
    known = {"group", "value", "threshold", "window", "hold", "sample", "metric", "expected", "reason"}
    for name, rule in bundled().items():
        assert set(re.findall(r"\{(\w+)\}", rule.summary)) <= known, name


def test_without_a_file_the_rules_are_those_that_come_with_it(tmp_path: Path) -> None:
    assert read(tmp_path / "rules.yaml").rules == bundled()


def test_a_file_changes_single_keys_switches_off_and_adds(tmp_path: Path) -> None:
    added = "{metric: error_rate, above: 0.5, summary: 'half of {group} fails', runbook: 'call the person on duty, whoever that is today'}"
    path = written(tmp_path, f"HighErrorRate: {{above: 0.2, for: 15m}}\nHighCPUUsage: {{enabled: false}}\nHalfFails: {added}\n")
    found = read(path)
    rule = found.rules["HighErrorRate"]
    assert (rule.above, rule.hold, rule.window) == (0.2, timedelta(minutes=15), timedelta(minutes=5))
    assert "HighCPUUsage" not in found.enabled
    assert "HighCPUUsage" in found.rules
    assert found.enabled["HalfFails"].severity == "warning"


def test_a_bound_on_the_other_side_takes_the_place_of_the_first(tmp_path: Path) -> None:
    rule = read(written(tmp_path, "HighErrorRate: {below: 0.01}\n")).rules["HighErrorRate"]
    assert (rule.above, rule.below, rule.worst_is) == (None, 0.01, -1)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("\nHighErrorRate: {abvoe: 0.1}\n", 2, "did you mean above?"),
        ("HighErrorRate:\n  above: much\n", 2, "HighErrorRate.above"),
        ("HighErrorRate:\n  above: 0.1\n  for: soon\n", 3, "write a duration like"),
        ("HighErrorRate:\n  above: 0.1\n  for: 900000000d\n", 3, "of at most ten years"),
        ("HighErrorRate:\n  above: 0.1\n  for: 99999999999d\n", 3, "of at most ten years"),
        ("HighErrorRate: {metric: eror_rate}\n", 1, "did you mean error_rate?"),
        ("HighErrorRate: {above: 0.1, below: 0.2}\n", 1, "either above or below"),
        ("HighErrorRate: {by: [tool]}\n", 1, "error_rate is not known by tool"),
        ("HighErrorRat: {above: 0.1}\n", 1, "did you mean the rule HighErrorRate?"),
        ("high: {above: 0.1}\n", 1, "the first one a capital"),
        ("HighErrorRate: 0.1\n", 1, "must be keys and values"),
        ("- HighErrorRate\n", 1, "rules by name"),
        ("HighErrorRate: {severity: fatal}\n", 1, "severity"),
        ("HighErrorRate: {above: [\n", 2, "not YAML"),
        ("HighErrorRate: {above: 5}\n", 1, "5 % is 0.05"),
        ("HighErrorRate: {above: .nan}\n", 1, "must be a number"),
        ("HighLatency: {below: 3}\n", 1, "can only be above a limit"),
        ("HighLatency: {above: 0}\n", 1, "larger than 0"),
        ("HighErrorRate: {window: 7m}\n", 1, "multiple of 5m"),
        ("HighErrorRate: {window: 3d}\n", 1, "at most 1d"),
        ("HighQueueLength: {window: 0s}\n", 1, "longer than nothing"),
        ("HighErrorRate: {by: []}\n", 1, "by"),
        ("Anomaly: {above: 3}\n", 1, "decides by itself"),
        ("HighErrorRate: {summary: 'it is {foo} now'}\n", 1, "cannot fill in foo"),
        ("HighErrorRate: {summary: 'it is { now'}\n", 1, "summary"),
    ],
)
def test_mistakes_are_told_with_their_lines(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, text))
    assert said in str(caught.value)
    assert f"rules.yaml:{line}:" in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, "HighErrorRate: {above: x}\nHighLatency: {abov: 1}\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_durations_read_as_they_are_written() -> None:
    assert [duration_text(timedelta(seconds=seconds)) for seconds in (30, 300, 5400, 86_400, 604_800)] == ["30s", "5m", "90m", "1d", "1w"]
