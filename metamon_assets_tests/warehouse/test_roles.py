"""Who may do what (SEC-1): the whole matrix, and attempts to get around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from psycopg2 import errors, sql

from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import ANALYST, OWNER, ROLES, TENANT, WRITER, RolesError, create_tenant_role, ensure_roles

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection, Cursor

READ = frozenset({"SELECT"})
WRITE = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
NOTHING: frozenset[str] = frozenset()
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
ROLLUPS = ("five_minute_metrics", "fifteen_minute_metrics", "completion_metrics", "daily_metrics", "unit_daily")

# What deviates from the rule of its schema; a new table that should deviate has to be named here.
WRITER_EXCEPTIONS = {
    "metamon.schema_migrations": READ,
    "metamon.tenant_roles": READ,
    "metamon.audit_log": frozenset({"SELECT", "INSERT"}),
    "metamon.incident_events": frozenset({"SELECT", "INSERT"}),
    "metamon.incidents": frozenset({"SELECT", "INSERT", "UPDATE"}),
}
ANALYST_EXCEPTIONS = {"metamon.payloads": NOTHING, "metamon.rate_budgets": NOTHING, "metamon.api_tokens": NOTHING}
TENANT_READS = {f"metamon.{rollup}" for rollup in ROLLUPS} | {"metamon.tenant_roles"}


def expected(role: str, relation: str, kind: str) -> frozenset[str]:
    """The rule: rights on a whole relation, by role."""
    schema = relation.partition(".")[0]
    if schema in {"partitions", "loading"} or kind == "S":
        return NOTHING
    if role == TENANT:
        return READ if relation in TENANT_READS else NOTHING
    if role == WRITER:
        return WRITER_EXCEPTIONS.get(relation, READ if schema == "analytics" else WRITE)
    return ANALYST_EXCEPTIONS.get(relation, READ if schema in {"metamon", "analytics"} else NOTHING)


@contextmanager
def session(url: str, role: str | None = None) -> Iterator[Connection]:
    connection = connect(url)
    try:
        if role is not None:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        yield connection
    finally:
        connection.close()


def rows(connection: Connection, query: str, *arguments: object) -> list[tuple]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchall() if cursor.description else []


def refused(connection: Connection, query: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege), connection, connection.cursor() as cursor:
        cursor.execute(query)


@pytest.fixture
def filled(owned_database: str) -> str:
    """A database with a trace that has a payload, a rejected row and rollups of two tenants."""
    with session(owned_database) as connection, connection, connection.cursor() as cursor:
        for table in ("traces", "payloads", "five_minute_metrics", "fifteen_minute_metrics", "completion_metrics", "unit_daily"):
            cursor.execute("SELECT metamon.ensure_partition(%s, '2026-08-22')", (table,))
        cursor.execute(
            "INSERT INTO metamon.traces (day, source, project, run_id, trace_id, run_type, start_time, status, cost_source, observed_time) "
            "VALUES ('2026-08-22', 'files', 'p', 'r1', 'r1', 'chain', '2026-08-22', 'success', 'unpriced', now())"
        )
        cursor.execute(
            "INSERT INTO metamon.payloads (day, source, project, run_id, inputs, observed_time) "
            "VALUES ('2026-08-22', 'files', 'p', 'r1', repeat('a secret ', 1000), now())"
        )
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, status) "
            "VALUES ('files', 'p', 'runs', now(), 'complete')"
        )
        cursor.execute(
            "INSERT INTO quarantine.rejected_rows (ledger_id, source, project, kind, reason, detail, location, raw, fingerprint) "
            "VALUES (1, 'files', 'p', 'runs', 'malformed_json', 'd', 'l', 'a secret', 'f')"
        )
        for tenant in ("acme", "globex"):
            for table in ROLLUPS:
                _insert_rollup(cursor, table, tenant)
    return owned_database


def _insert_rollup(cursor: Cursor, table: str, tenant: str) -> None:
    """One row with the named values, and zero or a fitting constant in every other column that must not be null."""
    known = {
        "day": "'2026-08-22'",
        "bucket_start": "'2026-08-22'",
        "dimension": "'tenant'",
        "dimension_value": f"'{tenant}'",
        "tenant_id": f"'{tenant}'",
        "unit_type": "'user'",
        "unit_id": "'u1'",
    }
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
        "AND (attnotnull OR attname = 'tenant_id') AND NOT atthasdef",
        (f"metamon.{table}",),
    )
    columns = dict(cursor.fetchall())
    constants = {"jsonb": "'{}'", "timestamp with time zone": "'2026-08-22'"}
    values = [known.get(name, constants.get(kind, "0")) for name, kind in columns.items()]
    cursor.execute(f"INSERT INTO metamon.{table} ({', '.join(columns)}) VALUES ({', '.join(values)})")


@pytest.fixture
def tenant_login(postgres: EmbeddedPostgres, filled: str, database_name: str) -> Iterator[str]:
    """URL of a real login that reads for tenant acme."""
    role = f"reader_{database_name}"
    login = postgres.url(database_name, role)
    with session(postgres.url(database_name, ADMINISTRATOR)) as connection:
        create_tenant_role(connection, "acme", role, urlsplit(login).password)
        yield login
        rows(connection, f"DROP ROLE {role}")


def test_every_relation_has_exactly_the_privileges_of_the_matrix(filled: str) -> None:
    with session(filled) as connection:
        relations = rows(
            connection,
            "SELECT n.nspname || '.' || c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')",
        )
        assert {"metamon.traces", "partitions.traces_20260822", "analytics.langsmith_runs"} <= {name for name, _ in relations}
        wrong = []
        for relation, kind in relations:
            for role in (WRITER, ANALYST, TENANT):
                asked = PRIVILEGES if kind != "S" else ("USAGE", "SELECT", "UPDATE")
                function = "has_sequence_privilege" if kind == "S" else "has_table_privilege"
                (has,) = rows(
                    connection, f"SELECT array(SELECT p FROM unnest(%s) p WHERE {function}(%s, %s, p))", list(asked), role, relation
                )[0]
                if frozenset(has) != expected(role, relation, kind):
                    wrong.append((role, relation, has))
        assert wrong == []


def test_column_privileges_are_the_named_ones_only(owned_database: str) -> None:
    with session(owned_database) as connection:
        granted = rows(
            connection,
            "SELECT c.oid::regclass::text, a.attname, a.attacl::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.attacl IS NOT NULL AND n.nspname !~ '^pg_'",
        )
        assert {relation for relation, _, _ in granted} == {"quarantine.rejected_rows"}
        assert "raw" not in {column for _, column, _ in granted}
        assert all(acl == f"{{{ANALYST}=r/{OWNER}}}" for _, _, acl in granted)
        (columns,) = rows(
            connection, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'quarantine.rejected_rows'::regclass AND attnum > 0"
        )[0]
        assert len(granted) == columns - 1, "a new column of quarantine.rejected_rows must be granted or refused in 0004_access.sql"


def test_schema_and_database_privileges(owned_database: str, database_name: str) -> None:
    with session(owned_database) as connection:
        schemas = {
            role: set(
                rows(
                    connection,
                    "SELECT nspname::text, right_name FROM pg_namespace, unnest(array['USAGE', 'CREATE']) right_name "
                    "WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND has_schema_privilege(%s, nspname, right_name)",
                    role,
                )
            )
            for role in (WRITER, ANALYST, TENANT)
        }
        assert schemas == {
            WRITER: {(schema, "USAGE") for schema in ("metamon", "analytics", "quarantine", "loading", "public")},
            ANALYST: {(schema, "USAGE") for schema in ("metamon", "analytics", "quarantine", "public")},
            TENANT: {(schema, "USAGE") for schema in ("metamon", "analytics", "public")},
        }
        rights = "SELECT array(SELECT p FROM unnest(array['CONNECT', 'CREATE', 'TEMPORARY']) p WHERE has_database_privilege(%s, %s, p))"
        assert [rows(connection, rights, role, database_name)[0][0] for role in (WRITER, ANALYST, TENANT, "public")] == [
            ["CONNECT", "TEMPORARY"],
            ["CONNECT"],
            ["CONNECT"],
            [],
        ]


def test_functions_that_run_as_the_owner_are_for_the_writer_only_and_pin_their_search_path(owned_database: str) -> None:
    with session(owned_database) as connection:
        found = rows(
            connection,
            "SELECT p.oid::regprocedure::text, p.proconfig, "
            "array(SELECT r FROM unnest(%s) r WHERE has_function_privilege(r, p.oid, 'EXECUTE')) FROM pg_proc p WHERE p.prosecdef",
            [WRITER, ANALYST, TENANT, "public"],
        )
        assert {name.split("(")[0] for name, _, _ in found} == {
            "metamon.ensure_partition",
            "metamon.begin_partition",
            "metamon.attach_partition",
            "metamon.drop_old_partitions",
        }
        for name, configuration, callers in found:
            assert configuration == ["search_path=pg_catalog, pg_temp"], name
            assert callers == [WRITER], name


def test_views_run_with_the_rights_of_who_asks_and_policies_cover_every_rollup(owned_database: str) -> None:
    with session(owned_database) as connection:
        assert (
            rows(
                connection,
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE c.relkind IN ('v', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' "
                "AND NOT coalesce(c.reloptions, '{}') && array['security_invoker=true', 'security_invoker=on']",
            )
            == []
        )
        secured = rows(connection, "SELECT relname FROM pg_class WHERE relrowsecurity")
        assert {name for (name,) in secured} == {*ROLLUPS, "tenant_roles"}
        policies = rows(connection, "SELECT qual FROM pg_policies WHERE 'metamon_tenant' = ANY(roles)")
        assert len(policies) == len(ROLLUPS) + 1
        assert all("CURRENT_USER" in qual and "current_setting" not in qual for (qual,) in policies)


def test_everything_belongs_to_the_owner_and_no_role_is_more_than_it_should_be(owned_database: str) -> None:
    with session(owned_database) as connection:
        assert (
            rows(
                connection,
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname IN ('metamon', 'partitions', 'analytics', 'quarantine', 'loading') AND pg_get_userbyid(c.relowner) <> %s",
                OWNER,
            )
            == []
        )
        assert (
            rows(
                connection,
                "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls)",
                [*ROLES],
            )
            == []
        )
        assert (
            rows(
                connection,
                "SELECT m.roleid::regrole::text, m.member::regrole::text FROM pg_auth_members m WHERE m.member::regrole::text = ANY(%s)",
                [WRITER, ANALYST, TENANT],
            )
            == []
        )


def test_analyst_reads_everything_but_payloads_and_raw_rows(postgres: EmbeddedPostgres, filled: str, database_name: str) -> None:
    with session(filled) as owner:
        toast = rows(owner, "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'partitions.payloads_20260822'::regclass")[0][0]
    with session(postgres.url(database_name, ANALYST)) as connection:  # a real login
        assert rows(connection, "SELECT run_id FROM analytics.traces") == [("r1",)]
        assert rows(connection, "SELECT id, is_root FROM analytics.langsmith_runs") == [("r1", True)]
        assert rows(connection, "SELECT reason FROM quarantine.rejected_rows") == [("malformed_json",)]
        assert len(rows(connection, "SELECT dimension_value FROM metamon.daily_metrics")) == 2
        for query in (
            "SELECT * FROM metamon.payloads",
            "SELECT count(*) FROM metamon.payloads",
            "SELECT inputs FROM partitions.payloads_20260822",
            "SELECT run_id FROM partitions.traces_20260822",
            f"SELECT chunk_data FROM {toast}",
            "COPY metamon.payloads TO STDOUT",
            "SELECT raw FROM quarantine.rejected_rows",
            "SELECT * FROM quarantine.rejected_rows",
            "SELECT r FROM quarantine.rejected_rows r",
            "INSERT INTO metamon.watched_groups (dimension, dimension_value) VALUES ('agent', 'mine')",
            "UPDATE metamon.traces SET status = 'error'",
            "DELETE FROM metamon.traces",
            "TRUNCATE metamon.traces",
            "UPDATE analytics.traces SET status = 'error'",
            "CREATE TABLE public.mine (a int)",
            "CREATE TEMPORARY TABLE mine (a int)",
            "SELECT metamon.ensure_partition('traces', '2026-08-23')",
            f"SET ROLE {WRITER}",
            f"SET ROLE {OWNER}",
        ):
            refused(connection, query)
        # A view of somebody else's does not lend its owner's rights either.
    with session(filled) as owner:
        rows(owner, "CREATE VIEW analytics.slip WITH (security_invoker = true) AS SELECT inputs FROM metamon.payloads")
    with session(postgres.url(database_name, ANALYST)) as connection:
        refused(connection, "SELECT * FROM analytics.slip")
        assert rows(connection, "SELECT * FROM pg_stats WHERE tablename LIKE 'payloads%%'") == []


def test_tenant_sees_its_rollups_and_nothing_else(tenant_login: str) -> None:
    with session(tenant_login) as connection:
        for table in ROLLUPS:
            column = "tenant_id" if table == "unit_daily" else "dimension_value"
            assert rows(connection, f"SELECT {column} FROM metamon.{table}") == [("acme",)], table
        assert rows(connection, "SELECT tenant_id FROM metamon.tenant_roles") == [("acme",)]
        for query in (
            "SELECT * FROM metamon.traces",
            "SELECT * FROM metamon.payloads",
            "SELECT * FROM analytics.traces",
            "SELECT * FROM quarantine.rejected_rows",
            "SELECT * FROM metamon.audit_log",
            "SELECT * FROM partitions.five_minute_metrics_20260822",
            "INSERT INTO metamon.tenant_roles (role_name, tenant_id) VALUES (current_user, 'globex')",
            "UPDATE metamon.tenant_roles SET tenant_id = 'globex'",
            "DELETE FROM metamon.daily_metrics",
            "UPDATE metamon.daily_metrics SET dimension_value = 'acme'",
            "CREATE TEMPORARY TABLE tenant_roles (role_name name, tenant_id text)",
            f"SET ROLE {ANALYST}",
            f"SET ROLE {OWNER}",
        ):
            refused(connection, query)


@pytest.mark.parametrize(
    "trick",
    [
        "SELECT set_config('metamon.tenant_id', 'globex', false)",
        "SELECT set_config('app.current_tenant', 'globex', false)",
        "SELECT set_config('role', 'none', false)",
        "SELECT set_config('row_security', 'off', false)",
        "SET search_path = public, pg_temp, metamon",
    ],
)
def test_no_session_variable_changes_what_a_tenant_sees(tenant_login: str, trick: str) -> None:
    with session(tenant_login) as connection:
        rows(connection, trick)
        try:
            assert rows(connection, "SELECT tenant_id FROM metamon.unit_daily") == [("acme",)]
        except errors.InsufficientPrivilege:
            assert "row_security" in trick  # off means: refuse to filter, so the query is refused


def test_the_group_without_a_tenant_sees_no_row(postgres: EmbeddedPostgres, filled: str, database_name: str) -> None:
    with session(postgres.url(database_name, ADMINISTRATOR), TENANT) as connection:
        assert [rows(connection, f"SELECT count(*) FROM metamon.{table}") for table in ROLLUPS] == [[(0,)]] * len(ROLLUPS)


def test_a_role_reads_for_one_tenant_only(postgres: EmbeddedPostgres, tenant_login: str, database_name: str) -> None:
    role = f"reader_{database_name}"
    with session(postgres.url(database_name, ADMINISTRATOR)) as connection:
        create_tenant_role(connection, "acme", role)  # again: nothing changes
        with pytest.raises(RolesError, match="already reads for tenant acme"):
            create_tenant_role(connection, "globex", role)
        with pytest.raises(errors.CheckViolation):  # the rest of everybody is not a tenant
            create_tenant_role(connection, "(other)", f"other_{database_name}")
        assert rows(connection, "SELECT rolname FROM pg_roles WHERE rolname = %s", f"other_{database_name}") == []


def test_writer_fills_a_day_without_a_right_on_partitions(postgres: EmbeddedPostgres, database_name: str) -> None:
    columns = "day, source, project, run_id, inputs, observed_time"
    with session(postgres.url(database_name, WRITER)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT metamon.begin_partition('payloads', '2026-08-23')")
            assert cursor.fetchone() == (True,)
            cursor.execute(f"INSERT INTO loading.payloads_20260823 ({columns}) VALUES ('2026-08-23', 'files', 'p', 'r', 'x', now())")
            cursor.execute("SELECT metamon.attach_partition('payloads', '2026-08-23')")
        assert rows(connection, "SELECT metamon.begin_partition('payloads', '2026-08-23')") == [(False,)]
        assert rows(connection, "SELECT inputs FROM metamon.payloads") == [("x",)]
        rows(connection, f"INSERT INTO metamon.payloads ({columns}) VALUES ('2026-08-23', 'files', 'p', 's', 'y', now())")
        refused(connection, "SELECT * FROM partitions.payloads_20260823")
        refused(connection, "CREATE TABLE metamon.mine (a int)")
        refused(connection, "DROP TABLE metamon.payloads")
    with session(postgres.url(database_name)) as owner:
        indexes = rows(owner, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'partitions' AND tablename = 'payloads_20260823'")
        assert len(indexes) == 1
        acl = rows(owner, "SELECT relacl::text FROM pg_class WHERE oid = 'partitions.payloads_20260823'::regclass")
        assert WRITER not in (acl[0][0] or "")


def test_roles_are_set_up_again_without_harm(postgres: EmbeddedPostgres, database_name: str) -> None:
    with session(postgres.url(database_name, ADMINISTRATOR)) as connection:
        ensure_roles(connection)
        ensure_roles(connection)


def test_a_user_who_may_not_create_roles_is_told_what_to_ask_for(postgres: EmbeddedPostgres, database_name: str) -> None:
    role = f"plain_{database_name}"
    with session(postgres.url(database_name, ADMINISTRATOR)) as administrator:
        rows(administrator, f"CREATE ROLE {role}")
        rows(administrator, f"SET ROLE {role}")
        with pytest.raises(RolesError, match=f"GRANT {OWNER} TO {role}"):
            ensure_roles(administrator)
        rows(administrator, "RESET ROLE")
        rows(administrator, f"DROP ROLE {role}")
