"""The audit log grows and never changes, whoever tries."""

from __future__ import annotations

import pytest
from psycopg2 import errors

from metamon_assets.warehouse import audit, connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import OWNER, WRITER

CHANGES = ("UPDATE metamon.audit_log SET actor = 'somebody else'", "DELETE FROM metamon.audit_log", "TRUNCATE metamon.audit_log")


def test_an_entry_is_kept_whole(database: str) -> None:
    connection = connect(database)
    with connection:
        audit_id = audit.record(connection, "Ada", "approve", "proposal:7", "it is better", {"gain": 0.07})
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT actor, action, subject, reason, evidence, now() - at < '1 minute' FROM metamon.audit_log WHERE audit_id = %s",
            (audit_id,),
        )
        assert cursor.fetchone() == ("Ada", "approve", "proposal:7", "it is better", {"gain": 0.07}, True)


def test_an_entry_goes_with_its_transaction(database: str) -> None:
    connection = connect(database)
    audit_id = audit.record(connection, "Ada", "approve", "proposal:7")
    connection.rollback()
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metamon.audit_log WHERE audit_id = %s", (audit_id,))
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("role", [ADMINISTRATOR, OWNER, WRITER])
def test_no_one_changes_or_removes_entries(postgres: EmbeddedPostgres, database_name: str, role: str, change: str) -> None:
    connection = connect(postgres.url(database_name, role))
    with pytest.raises(errors.InsufficientPrivilege), connection, connection.cursor() as cursor:
        cursor.execute(change)


def test_a_session_that_plays_a_replica_is_refused_too(postgres: EmbeddedPostgres, database_name: str) -> None:
    connection = connect(postgres.url(database_name, ADMINISTRATOR))
    with pytest.raises(errors.InsufficientPrivilege, match="append-only"), connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("DELETE FROM metamon.audit_log")
