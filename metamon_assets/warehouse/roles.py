"""Who may do what in the database (SEC-1): the four roles, and the tenants' own.

Here belongs what needs rights beyond the schema's owner: making roles and opening the database to them. What each
role may read and write is in ``sql/migrations/0004_access.sql``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.warehouse.connection import Connection, Cursor

OWNER = "metamon_owner"  # owns schemas, tables and functions; migrations run as it
WRITER = "metamon_writer"  # the pipeline
ANALYST = "metamon_analyst"  # reads everything but payloads and raw rejected rows
TENANT = "metamon_tenant"  # group of the tenants' readers; a member sees the rollups of its own tenant
ROLES = (OWNER, WRITER, ANALYST, TENANT)
DATABASE_RIGHTS = ((OWNER, "CREATE"), *((role, "CONNECT") for role in ROLES), (OWNER, "TEMPORARY"), (WRITER, "TEMPORARY"))


class RolesError(MetamonError):
    """The connecting user may not set up roles; the message has the SQL that somebody who may has to run."""


def ensure_roles(connection: Connection) -> None:
    """Create the roles that this server lacks, let the connecting user act as them, open the database to them.

    Idempotent; roles belong to the whole server, so a second Metamon database on it finds them made.
    Raises RolesError when the connecting user may not.
    """
    from psycopg2 import errors

    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(current_user), quote_ident(current_database())")
        user, database = cursor.fetchone() or ("", "")
        cursor.execute("SELECT array(SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s))", (list(ROLES),))
        (existing,) = cursor.fetchone() or ([],)
        needed = [f"CREATE ROLE {role} NOLOGIN" for role in ROLES if role not in existing]
        needed.extend(
            f"GRANT {role} TO {user}"
            for role in (OWNER, WRITER, ANALYST)
            if user != OWNER  # who is the owner need not take on other roles
            if role not in existing or not _may(cursor, "SELECT pg_has_role(current_user, %s, %s)", role, _membership(connection))
        )
        needed.extend(
            f"GRANT {right} ON DATABASE {database} TO {role}"
            for role, right in DATABASE_RIGHTS
            if role not in existing or not _may(cursor, "SELECT has_database_privilege(%s, current_database(), %s)", role, right)
        )
        try:
            for statement in needed:
                # Another database of the server may be set up at the same moment, hence duplicates are fine.
                cursor.execute(f"DO $$ BEGIN {statement}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$")
        except errors.InsufficientPrivilege as error:
            raise RolesError(
                f"The database user {user} may not set up Metamon's roles ({error.diag.message_primary}). "
                f"Ask an administrator of the server to run in database {database}: {'; '.join(needed)};"
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
        try:
            if not _may(cursor, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", role):
                cursor.execute(sql.SQL("CREATE ROLE {}").format(name))
            cursor.execute(sql.SQL("ALTER ROLE {} LOGIN").format(name))
            if password is not None:
                cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(password)))
            cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(TENANT), name))
        except errors.InsufficientPrivilege as error:
            raise RolesError(
                f"Creating the role {role} takes a database user with CREATEROLE ({error.diag.message_primary}): connect as one."
            ) from error
        cursor.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(OWNER)))
        cursor.execute("INSERT INTO metamon.tenant_roles (role_name, tenant_id) VALUES (%s, %s) ON CONFLICT DO NOTHING", (role, tenant_id))
        cursor.execute("SELECT tenant_id FROM metamon.tenant_roles WHERE role_name = %s", (role,))
        (reads_for,) = cursor.fetchone() or (None,)
        if reads_for != tenant_id:
            raise RolesError(f"Role {role} already reads for tenant {reads_for}: choose another name for tenant {tenant_id}.")
        audit.record(connection, "metamon", "create_tenant_role", f"role:{role}", None, {"tenant_id": tenant_id})


def _membership(connection: Connection) -> str:
    """The right that SET ROLE takes: since Postgres 16 being a member is not enough."""
    return "SET" if connection.server_version >= 160000 else "MEMBER"


def _may(cursor: Cursor, question: str, *arguments: str) -> bool:
    cursor.execute(question, arguments)
    (answer,) = cursor.fetchone() or (False,)
    return bool(answer)
