"""`metamon targets` as a person uses it, and the document that explains it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metamon_assets.cli import targets as _registers  # noqa: F401
from metamon_assets.cli.group import main
from metamon_assets.health import slo, targets
from metamon_assets.health.targets import SUGGESTED
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres

Metamon = Callable[..., Result]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "health.md"


@pytest.fixture
def metamon(tmp_path: Path, postgres: EmbeddedPostgres, database_name: str, monkeypatch: pytest.MonkeyPatch) -> Metamon:
    """The command with a home whose configuration has a target, and a database."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "metamon.yaml").write_text("agents: {support: {targets: {error_rate: {max: 0.05}}}}\n")
    monkeypatch.setenv("METAMON_HOME", str(home))
    monkeypatch.setenv("METAMON_DATABASE_URL", postgres.url(database_name, ADMINISTRATOR))
    return lambda *arguments: CliRunner().invoke(main, ["targets", *arguments])


def test_a_person_lists_accepts_and_withdraws(metamon: Metamon, owned_database: str) -> None:
    listed = metamon("list")
    assert listed.exit_code == 0, listed.output
    assert "tokens_per_request at most 1000" in listed.stdout
    assert "accepted by metamon.yaml" in listed.stdout
    assert "computed by `metamon run`" in listed.stderr
    found = {line["name"]: line for line in json.loads(metamon("list", "--json").stdout)}
    assert list(found) == [target.name for target in SUGGESTED] + ["support.error_rate.max"]
    assert found["error_rate"]["state"] == "suggested"

    accepted = metamon("accept", "monthly_cost", "--objective", "250")
    assert accepted.stdout == "monthly_cost counts from now on: total_cost at most 250 over 30 days.\n"
    day = datetime.now(UTC).date() - timedelta(days=1)
    with closing(connect(owned_database)) as connection:
        slo.status(connection, day, datetime.now(UTC))
        assert [target.name for target in targets.listed(connection, accepted=True)] == ["monthly_cost", "support.error_rate.max"]
    only = {line["name"]: line for line in json.loads(metamon("list", "--accepted", "--json").stdout)}
    assert list(only) == ["monthly_cost", "support.error_rate.max"]
    assert only["monthly_cost"]["day"] == str(day)
    assert only["monthly_cost"]["remark"].startswith("no data")

    assert metamon("withdraw", "monthly_cost").stdout == "monthly_cost is a suggestion again.\n"
    again = metamon("withdraw", "monthly_cost")
    assert (again.exit_code, "nothing to withdraw" in again.stderr) == (1, True)
    unknown = metamon("accept", "eror_rate")
    assert (unknown.exit_code, "did you mean error_rate?" in unknown.stderr) == (1, True)
    of_file = metamon("withdraw", "support.error_rate.max")
    assert (of_file.exit_code, "stands in metamon.yaml" in of_file.stderr) == (1, True)


def test_the_document_names_every_target() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert not [target.name for target in SUGGESTED if target.name not in text]
    assert not [threshold for _, threshold, _, _ in slo.CONDITIONS if f"| {threshold:g} |" not in text]
