"""Who may do what in the database (SEC-1): the four roles, and the tenants' own.

Here belongs what needs rights beyond the schema's owner: making roles and opening the database to them. What each
role may read and write is in ``sql/migrations/0004_access.sql``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

OWNER = "metamon_owner"  # owns schemas, tables and functions; migrations run as it
WRITER = "metamon_writer"  # the pipeline
ANALYST = "metamon_analyst"  # reads everything but payloads and raw rejected rows
TENANT = "metamon_tenant"  # group of the tenants' readers; a member sees the rollups of its own tenant
ROLES = (OWNER, WRITER, ANALYST, TENANT)


class RolesError(RuntimeError):
    """The connecting user may not set up roles; the message has the SQL that somebody who may has to run."""


def ensure_roles(connection: Connection) -> None:
    """Create the roles that this server lacks, let the connecting user act as the owner, open the database to them.

    Idempotent; roles belong to the whole server, so a second Metamon database on it finds them made.
    Raises RolesError when the connecting user may not.
    """
    from psycopg2 import errors, sql

    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_database()")
        user, database = cursor.fetchone() or ("", "")
        cursor.execute("SELECT array(SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s))", (list(ROLES),))
        (existing,) = cursor.fetchone() or ([],)
        needed = [f"CREATE ROLE {role} NOLOGIN" for role in ROLES if role not in existing]
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        (superuser,) = cursor.fetchone() or (False,)
        if OWNER not in existing or not (superuser or _may_become_owner(connection)):
            needed.append(f'GRANT {OWNER} TO "{user}"')
        if OWNER not in existing or not _may(cursor, "SELECT has_database_privilege(%s, current_database(), 'CREATE')", OWNER):
            needed.append(f'GRANT CREATE ON DATABASE "{database}" TO {OWNER}')
        for role in (WRITER, ANALYST, TENANT):
            if role not in existing or not _may(cursor, "SELECT has_database_privilege(%s, current_database(), 'CONNECT')", role):
                needed.append(f'GRANT CONNECT ON DATABASE "{database}" TO {role}')
        try:
            for statement in needed:
                # Another database of the server may be set up at the same moment.
                cursor.execute(sql.SQL("DO $$ BEGIN {}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$").format(sql.SQL(statement)))
        except errors.InsufficientPrivilege as error:
            raise RolesError(
                f"The database user {user} may not set up Metamon's roles ({str(error).strip()}). Ask an administrator of the server to run in "
                f"database {database}: {'; '.join(needed)};"
            ) from error


def create_tenant_role(connection: Connection, tenant_id: str, role: str, password: str | None = None) -> None:
    """Make (or reuse) ``role`` as a reader of the rollups of ``tenant_id`` and of nothing else.

    It can log in with ``password``; without one, as the server's own authentication allows. Raises RolesError when
    the role reads for another tenant already, or the connecting user may not create roles.
    """
    from psycopg2 import errors, sql

    from metamon_assets.warehouse import audit

    name = sql.Identifier(role)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT tenant_id FROM metamon.tenant_roles WHERE role_name = %s", (role,))
        row = cursor.fetchone()
        if row is not None and row[0] != tenant_id:
            raise RolesError(f"Role {role} already reads for tenant {row[0]}: choose another name for tenant {tenant_id}.")
        try:
            if not _may(cursor, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", role):
                cursor.execute(sql.SQL("CREATE ROLE {}").format(name))
            cursor.execute(sql.SQL("ALTER ROLE {} LOGIN").format(name))
            if password is not None:
                cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(password)))
            cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(TENANT), name))
            cursor.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(OWNER)))
        except errors.InsufficientPrivilege as error:
            raise RolesError(f"This database user may not create the role {role} ({str(error).strip()}): connect as one with CREATEROLE.") from error
        cursor.execute("INSERT INTO metamon.tenant_roles (role_name, tenant_id) VALUES (%s, %s) ON CONFLICT DO NOTHING", (role, tenant_id))
        audit.record(connection, "metamon", "create_tenant_role", f"role:{role}", None, {"tenant_id": tenant_id})


def _may_become_owner(connection: Connection) -> bool:
    """Whether SET ROLE works: since Postgres 16 being a member is not enough."""
    with connection.cursor() as cursor:
        right = "SET" if connection.server_version >= 160000 else "MEMBER"
        return _may(cursor, "SELECT pg_has_role(current_user, %s, %s)", OWNER, right)


def _may(cursor: Cursor, question: str, *arguments: str) -> bool:
    cursor.execute(question, arguments)
    (answer,) = cursor.fetchone() or (False,)
    return bool(answer)
