-- Schemas and the two things every later table leans on: day partitions and the append-only audit log.

CREATE SCHEMA metamon;
COMMENT ON SCHEMA metamon IS 'The tables of the improvement loop. Written by the pipeline only.';
CREATE SCHEMA partitions;
COMMENT ON SCHEMA partitions IS 'Day partitions of the tables in metamon. Never granted: read through the parent table, where row-level security holds.';
CREATE SCHEMA analytics;
COMMENT ON SCHEMA analytics IS 'Stable, documented views for analysts; all of them run with the rights of who asks (security_invoker).';
CREATE SCHEMA quarantine;
COMMENT ON SCHEMA quarantine IS 'Rows that could not be accepted, with the reason, waiting to be replayed.';

-- The name of a table's partition for a day: partitions.traces_20260822.
CREATE FUNCTION metamon.partition_name(table_name text, day date) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN table_name || '_' || to_char(day::timestamp, 'YYYYMMDD');
COMMENT ON FUNCTION metamon.partition_name(text, date) IS 'Name, in schema partitions, of the partition that holds a day of a table.';

-- Whether a table has its partition for a day; from the catalogue, so that it needs no right on schema partitions.
CREATE FUNCTION metamon.partition_exists(table_name text, day date) RETURNS boolean
LANGUAGE sql STABLE STRICT
RETURN EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'partitions' AND c.relname = metamon.partition_name(table_name, day));
COMMENT ON FUNCTION metamon.partition_exists(text, date) IS 'True when the table has a partition for the day.';

-- Creates the partition if it is missing. Safe when two writers ask at once: the second waits for the first.
-- Runs as the owner, so that the pipeline needs no right to alter tables. Not by CREATE TABLE … PARTITION OF, which
-- would lock the parent against everybody, readers included, until the writer's transaction ends.
CREATE FUNCTION metamon.ensure_partition(table_name text, day date) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF metamon.partition_exists(table_name, day) OR NOT metamon.begin_partition(table_name, day, true) THEN
        RETURN false;
    END IF;
    PERFORM metamon.attach_partition(table_name, day);
    RETURN true;
END $$;
COMMENT ON FUNCTION metamon.ensure_partition(text, date) IS 'Creates the day partition of a table in metamon unless it exists; true when it was created.';

CREATE TABLE metamon.audit_log (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    reason text,
    evidence jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE metamon.audit_log IS 'Every action that a person or the automation took, in order. Append-only: updates and deletes are refused by a trigger.';
COMMENT ON COLUMN metamon.audit_log.audit_id IS 'Order in which the entries were written.';
COMMENT ON COLUMN metamon.audit_log.at IS 'When the entry was written (UTC).';
COMMENT ON COLUMN metamon.audit_log.actor IS 'Who acted: a person''s name, or the part of the system.';
COMMENT ON COLUMN metamon.audit_log.action IS 'What was done, as a verb: migrate, replay, reprice, forget, approve, …';
COMMENT ON COLUMN metamon.audit_log.subject IS 'What it was done to, as kind:id.';
COMMENT ON COLUMN metamon.audit_log.reason IS 'Why, in the actor''s words.';
COMMENT ON COLUMN metamon.audit_log.evidence IS 'Figures and identifiers that the decision rested on.';

CREATE FUNCTION metamon.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
COMMENT ON FUNCTION metamon.refuse_change() IS 'Trigger body that makes a table append-only.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON metamon.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION metamon.refuse_change();
-- ALWAYS: also in a session that plays a replica (session_replication_role).
ALTER TABLE metamon.audit_log ENABLE ALWAYS TRIGGER append_only;

CREATE TABLE metamon.schema_migrations (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
COMMENT ON TABLE metamon.schema_migrations IS 'Files of sql/ that this database has, each with its checksum. Written by metamon migrate.';
COMMENT ON COLUMN metamon.schema_migrations.name IS 'File below sql/migrations; views/… for one of sql/views.';
COMMENT ON COLUMN metamon.schema_migrations.checksum IS 'SHA-256 of the file when it was applied.';
COMMENT ON COLUMN metamon.schema_migrations.applied_at IS 'When it was applied (UTC).';
