-- Who may read and write what (SEC-1). The roles themselves belong to the server and exist before this runs.
--
--   metamon_owner    owns everything here
--   metamon_writer   the pipeline: reads and writes rows; partitions only through the functions below
--   metamon_analyst  reads everything but payloads and raw rejected rows
--   metamon_tenant   group of the tenants' own readers: rollups that carry their tenant, nothing else
--
-- Nobody is granted schema partitions: a day read directly would go around the row-level security of its parent.

CREATE TABLE metamon.tenant_roles (
    role_name name PRIMARY KEY,
    tenant_id text NOT NULL CHECK (tenant_id NOT IN ('', '(all)', '(none)', '(other)')),
    created_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
COMMENT ON TABLE metamon.tenant_roles IS 'Which tenant a database role reads for. Row-level security looks up current_user here; no session variable takes part.';
COMMENT ON COLUMN metamon.tenant_roles.role_name IS 'Database role, a member of metamon_tenant.';
COMMENT ON COLUMN metamon.tenant_roles.tenant_id IS 'The one tenant whose rollups it sees.';
COMMENT ON COLUMN metamon.tenant_roles.created_at IS 'When it was given (UTC).';

GRANT USAGE ON SCHEMA metamon TO metamon_writer, metamon_analyst, metamon_tenant;
GRANT USAGE ON SCHEMA analytics TO metamon_writer, metamon_analyst, metamon_tenant;
GRANT USAGE ON SCHEMA quarantine TO metamon_writer, metamon_analyst;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA metamon, quarantine TO metamon_writer;
REVOKE INSERT, UPDATE, DELETE ON metamon.schema_migrations, metamon.tenant_roles FROM metamon_writer;
REVOKE UPDATE, DELETE ON metamon.audit_log FROM metamon_writer;

GRANT SELECT ON ALL TABLES IN SCHEMA metamon TO metamon_analyst;
REVOKE ALL ON metamon.payloads FROM metamon_analyst;
GRANT SELECT (reject_id, ledger_id, source, project, kind, reason, detail, location, run_id, fingerprint,
              first_rejected_at, last_rejected_at, times_rejected, replayed_at)
    ON quarantine.rejected_rows TO metamon_analyst;  -- all but raw

GRANT SELECT ON metamon.five_minute_metrics, metamon.fifteen_minute_metrics, metamon.daily_metrics, metamon.unit_daily,
    metamon.tenant_roles TO metamon_tenant;

-- Tables and views of later migrations. A new table with payloads in it revokes the analyst's SELECT where it is made;
-- the test that enumerates every relation makes its author decide.
ALTER DEFAULT PRIVILEGES IN SCHEMA metamon GRANT SELECT ON TABLES TO metamon_analyst;
ALTER DEFAULT PRIVILEGES IN SCHEMA metamon GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO metamon_writer;
ALTER DEFAULT PRIVILEGES IN SCHEMA analytics GRANT SELECT ON TABLES TO metamon_analyst, metamon_writer;
ALTER DEFAULT PRIVILEGES IN SCHEMA quarantine GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO metamon_writer;

-- Row-level security. A role without a policy sees no row, whatever it is granted.
ALTER TABLE metamon.tenant_roles ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody_else ON metamon.tenant_roles TO metamon_writer, metamon_analyst USING (true);
CREATE POLICY own_row ON metamon.tenant_roles FOR SELECT TO metamon_tenant USING (role_name = current_user);

DO $$
DECLARE
    rollup text;
    belongs_to_tenant text;
BEGIN
    FOREACH rollup IN ARRAY ARRAY['five_minute_metrics', 'fifteen_minute_metrics', 'daily_metrics', 'unit_daily'] LOOP
        belongs_to_tenant := CASE rollup WHEN 'unit_daily' THEN 'tenant_id' ELSE 'dimension = ''tenant'' AND dimension_value' END
            || ' = (SELECT r.tenant_id FROM metamon.tenant_roles r WHERE r.role_name = current_user)';
        EXECUTE format('ALTER TABLE metamon.%I ENABLE ROW LEVEL SECURITY', rollup);
        EXECUTE format('CREATE POLICY pipeline ON metamon.%I TO metamon_writer USING (true) WITH CHECK (true)', rollup);
        EXECUTE format('CREATE POLICY analysts ON metamon.%I FOR SELECT TO metamon_analyst USING (true)', rollup);
        EXECUTE format('CREATE POLICY own_tenant ON metamon.%I FOR SELECT TO metamon_tenant USING (%s)', rollup, belongs_to_tenant);
    END LOOP;
END $$;

-- Partitions are made by the owner on the pipeline's behalf. A day that does not exist yet is filled in schema loading,
-- where nobody looks, and attached in the same transaction: begin_partition, COPY, attach_partition.
CREATE SCHEMA loading;
COMMENT ON SCHEMA loading IS 'Days being filled before they are attached, within one transaction; empty to everybody else.';
GRANT USAGE ON SCHEMA loading TO metamon_writer;

REVOKE EXECUTE ON FUNCTION metamon.ensure_partition(text, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION metamon.ensure_partition(text, date) TO metamon_writer;

-- With wait => false also false when somebody else is making the day at this moment.
CREATE FUNCTION metamon.begin_partition(table_name text, day date, wait boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := metamon.partition_name(table_name, day);
    lock_key bigint := hashtextextended('partition:' || partition, 0);
BEGIN
    IF wait THEN
        PERFORM pg_advisory_xact_lock(lock_key);
    ELSIF NOT pg_try_advisory_xact_lock(lock_key) THEN
        RETURN false;
    END IF;
    IF metamon.partition_exists(table_name, day) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE loading.%I (LIKE metamon.%I INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING STORAGE, '
                   'CHECK (day = %L))', partition, table_name, day);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON loading.%I TO metamon_writer', partition);
    RETURN true;
END $$;
COMMENT ON FUNCTION metamon.begin_partition(text, date, boolean) IS 'Creates an unattached table loading.<table>_<day> to be filled, without indexes; false when the day exists already.';
REVOKE EXECUTE ON FUNCTION metamon.begin_partition(text, date, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION metamon.begin_partition(text, date, boolean) TO metamon_writer;

-- The CHECK on day spares ATTACH the scan that would prove the bounds. Readers of the parent go on meanwhile.
CREATE FUNCTION metamon.attach_partition(table_name text, day date) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := metamon.partition_name(table_name, day);
    key text := (SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c
                 WHERE c.conrelid = format('metamon.%I', table_name)::regclass AND c.contype = 'p');
BEGIN
    EXECUTE format('REVOKE ALL ON loading.%I FROM metamon_writer', partition);
    EXECUTE format('ALTER TABLE loading.%I SET SCHEMA partitions', partition);
    IF key IS NOT NULL THEN
        EXECUTE format('ALTER TABLE partitions.%I ADD %s', partition, key);
    END IF;
    EXECUTE format('ALTER TABLE metamon.%I ATTACH PARTITION partitions.%I FOR VALUES FROM (%L) TO (%L)',
                   table_name, partition, day, day + 1);
    EXECUTE format('ANALYZE partitions.%I', partition);
END $$;
COMMENT ON FUNCTION metamon.attach_partition(text, date) IS 'Indexes a day filled since begin_partition as its parent is indexed, and makes it a partition.';
REVOKE EXECUTE ON FUNCTION metamon.attach_partition(text, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION metamon.attach_partition(text, date) TO metamon_writer;

-- A view's column means what the table's column of that name means, and says so in the same words.
CREATE FUNCTION metamon.copy_comments(from_relation regclass, to_relation regclass) RETURNS void
LANGUAGE plpgsql STRICT AS $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT t.attname, col_description(f.attrelid, f.attnum) AS text
        FROM pg_attribute t JOIN pg_attribute f ON f.attname = t.attname AND f.attrelid = from_relation AND f.attnum > 0
        WHERE t.attrelid = to_relation AND t.attnum > 0
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', to_relation, found.attname, found.text);
    END LOOP;
END $$;
COMMENT ON FUNCTION metamon.copy_comments(regclass, regclass) IS 'Gives the columns of a view the comments of the table''s columns of the same names.';
