"""A small version of benchmarks/report.py: one sample world and its quiet twin, through the real ingestion, scored against the truth."""

from __future__ import annotations

from datetime import date

import pytest

from metamon_assets.warehouse import connect
from metamon_assets_tests.reports.scoring import claims_of, context_of, score
from metamon_assets_tests.reports.worlds import Stage, fill

FIRST = date(2026, 3, 2)


@pytest.mark.parametrize("seed", [11])
def test_most_of_what_can_be_seen_in_a_world_is_stated_and_nothing_else(database: str, seed: int) -> None:
    stage = Stage(seed, FIRST, 14, 1000)
    connection = connect(database)
    try:
        fill(connection, stage)
        found = score(connection, stage, context_of(connection, stage))
    finally:
        connection.close()
    visible = [fact for fact in found.facts if fact.visible]
    assert len(visible) >= 4
    assert sum(bool(fact.stated_by) for fact in visible) >= len(visible) / 2
    assert len(found.wrong) <= 1, found.wrong


def test_of_a_quiet_world_nothing_is_claimed(database: str) -> None:
    stage = Stage(11, FIRST, 10, 600, quiet=True)
    connection = connect(database)
    try:
        fill(connection, stage)
        claims = claims_of(context_of(connection, stage))
    finally:
        connection.close()
    assert [finding.statement for _, finding in claims] == []
