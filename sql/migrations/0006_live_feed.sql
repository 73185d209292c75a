-- The live feed: which five-minute buckets wait for their metrics, how far each source has been read, and the one
-- budget of calls that every process which asks a source shares.

CREATE TABLE metamon.touched_buckets (
    touch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket_start timestamptz NOT NULL,
    clock text NOT NULL CHECK (clock IN ('start', 'end')),
    touched_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE metamon.touched_buckets IS 'Five-minute buckets whose traces changed and whose metrics wait to be computed again. Written in the transaction that changes the rows, deleted after the metrics are written, so a crash in between only repeats work.';
COMMENT ON COLUMN metamon.touched_buckets.touch_id IS 'Order in which the buckets were touched.';
COMMENT ON COLUMN metamon.touched_buckets.bucket_start IS 'Start of the five-minute bucket (UTC).';
COMMENT ON COLUMN metamon.touched_buckets.clock IS 'start: buckets by the start of the trace''s root; end: buckets by its end.';
COMMENT ON COLUMN metamon.touched_buckets.touched_at IS 'When the rows were written: with the time of the refresh it gives the lag.';

CREATE TABLE metamon.feed_state (
    source text NOT NULL,
    project text NOT NULL,
    covered_from timestamptz,
    covered_until timestamptz,
    last_attempt_at timestamptz,
    last_success_at timestamptz,
    consecutive_failures integer NOT NULL DEFAULT 0 CHECK (consecutive_failures >= 0),
    last_error text,
    not_before timestamptz,
    feedback_until timestamptz,
    old_pending_asked_at timestamptz,
    looked_back_at timestamptz,
    last_rows_read bigint NOT NULL DEFAULT 0,
    last_rows_written bigint NOT NULL DEFAULT 0,
    last_seconds double precision,
    last_window_seconds double precision,
    PRIMARY KEY (source, project),
    CHECK (covered_until >= covered_from)
);
COMMENT ON TABLE metamon.feed_state IS 'How far the live feed has read each source, and how it fares with it.';
COMMENT ON COLUMN metamon.feed_state.source IS 'Source that is polled.';
COMMENT ON COLUMN metamon.feed_state.project IS 'Project within the source.';
COMMENT ON COLUMN metamon.feed_state.covered_from IS 'Start of the first live window that was read.';
COMMENT ON COLUMN metamon.feed_state.covered_until IS 'Time of the last poll that succeeded: traces started before it have been asked for, but for those of feed_backlog.';
COMMENT ON COLUMN metamon.feed_state.last_attempt_at IS 'When the source was last asked.';
COMMENT ON COLUMN metamon.feed_state.last_success_at IS 'When it last answered in full.';
COMMENT ON COLUMN metamon.feed_state.consecutive_failures IS 'Polls that failed since the last success.';
COMMENT ON COLUMN metamon.feed_state.last_error IS 'Why the last poll failed, redacted; NULL after a success.';
COMMENT ON COLUMN metamon.feed_state.not_before IS 'The source is left alone until then: the feed backs off, or the source asked for it.';
COMMENT ON COLUMN metamon.feed_state.feedback_until IS 'Feedback given before it has been read.';
COMMENT ON COLUMN metamon.feed_state.old_pending_asked_at IS 'When pending runs older than a day were last asked for.';
COMMENT ON COLUMN metamon.feed_state.looked_back_at IS 'When the source''s own count of the last hours was last compared with what is here.';
COMMENT ON COLUMN metamon.feed_state.last_rows_read IS 'Rows that the source gave in the last poll.';
COMMENT ON COLUMN metamon.feed_state.last_rows_written IS 'Rows among them that were new or newer.';
COMMENT ON COLUMN metamon.feed_state.last_seconds IS 'Seconds that the last live read took.';
COMMENT ON COLUMN metamon.feed_state.last_window_seconds IS 'Length of the window of that read, in seconds: shorter than the configured overlap where reading all of it takes too long.';

CREATE TABLE metamon.feed_backlog (
    source text NOT NULL,
    project text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    reason text NOT NULL CHECK (reason IN ('outage', 'count_differs')),
    added_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    PRIMARY KEY (source, project, window_start),
    CHECK (window_end > window_start)
);
COMMENT ON TABLE metamon.feed_backlog IS 'Windows that the live feed still has to read, the newest first, with the calls and the time that live data leave over. A window goes when it has been read.';
COMMENT ON COLUMN metamon.feed_backlog.source IS 'Source to read.';
COMMENT ON COLUMN metamon.feed_backlog.project IS 'Project within the source.';
COMMENT ON COLUMN metamon.feed_backlog.window_start IS 'Start of the window (inclusive, by the root''s start).';
COMMENT ON COLUMN metamon.feed_backlog.window_end IS 'End of the window (exclusive).';
COMMENT ON COLUMN metamon.feed_backlog.reason IS 'outage: the source or the feed was away; count_differs: the source counts other traces there than are here.';
COMMENT ON COLUMN metamon.feed_backlog.added_at IS 'When it was found missing.';
COMMENT ON COLUMN metamon.feed_backlog.attempts IS 'Times that reading it failed.';
COMMENT ON COLUMN metamon.feed_backlog.last_error IS 'Why it failed last, redacted.';

-- Looked for before every read; the feed makes a table of many rows of what used to be one of few.
CREATE INDEX ingestion_ledger_running ON metamon.ingestion_ledger (ledger_id) WHERE status = 'running';

-- Unlogged: it forgets everything with a crash of the server, by when its ten seconds are over.
CREATE UNLOGGED TABLE metamon.rate_budgets (
    key_hash text PRIMARY KEY,
    live_calls timestamptz[] NOT NULL DEFAULT '{}',
    other_calls timestamptz[] NOT NULL DEFAULT '{}',
    last_live_at timestamptz,
    paused_until timestamptz
);
COMMENT ON TABLE metamon.rate_budgets IS 'Calls of the last seconds by API key, so that the live feed, daily runs and commands together keep the source''s limit.';
COMMENT ON COLUMN metamon.rate_budgets.key_hash IS 'Hash of the address and the key; the key itself is not stored.';
COMMENT ON COLUMN metamon.rate_budgets.live_calls IS 'When the live feed called.';
COMMENT ON COLUMN metamon.rate_budgets.other_calls IS 'When anybody else called: daily runs, catching up, backfills, commands.';
COMMENT ON COLUMN metamon.rate_budgets.last_live_at IS 'The live feed''s last call: while it calls, a share of the budget is kept for it.';
COMMENT ON COLUMN metamon.rate_budgets.paused_until IS 'Nobody calls before then: the source asked for it.';
REVOKE ALL ON metamon.rate_budgets FROM metamon_analyst;

-- One clock, the server's, for all processes. A waiting caller holds no lock: it sleeps for the answer and asks again.
CREATE FUNCTION metamon.book_call(of_key text, live boolean, most integer, most_others integer, span interval)
RETURNS double precision LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    budget metamon.rate_budgets;
    moment timestamptz;
    calls timestamptz[];
    free_at timestamptz;
BEGIN
    INSERT INTO metamon.rate_budgets (key_hash) VALUES (of_key) ON CONFLICT DO NOTHING;
    SELECT * INTO budget FROM metamon.rate_budgets WHERE key_hash = of_key FOR UPDATE;
    moment := clock_timestamp();
    budget.live_calls := ARRAY(SELECT c FROM unnest(budget.live_calls) c WHERE c > moment - span ORDER BY c);
    budget.other_calls := ARRAY(SELECT c FROM unnest(budget.other_calls) c WHERE c > moment - span ORDER BY c);
    calls := ARRAY(SELECT c FROM unnest(budget.live_calls || budget.other_calls) c ORDER BY c);
    free_at := greatest(
        budget.paused_until,
        calls[cardinality(calls) - most + 1] + span,
        CASE WHEN NOT live AND budget.last_live_at > moment - interval '2 minutes' THEN budget.other_calls[cardinality(budget.other_calls) - most_others + 1] + span END);
    IF free_at > moment THEN
        RETURN extract(epoch FROM free_at - moment);
    END IF;
    IF live THEN
        budget.live_calls := budget.live_calls || moment;
        budget.last_live_at := moment;
    ELSE
        budget.other_calls := budget.other_calls || moment;
    END IF;
    UPDATE metamon.rate_budgets SET live_calls = budget.live_calls, other_calls = budget.other_calls, last_live_at = budget.last_live_at
    WHERE key_hash = of_key;
    RETURN 0;
END $$;
COMMENT ON FUNCTION metamon.book_call(text, boolean, integer, integer, interval) IS 'Books a call of a key if at most "most" calls, and (while the feed calls) "most_others" that are not live, then lie within "span"; 0, or the seconds until one may fit.';

ALTER TABLE metamon.ingestion_ledger ADD COLUMN live boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN metamon.ingestion_ledger.live IS 'Whether the rows came with the live feed or were sent here; those that were sent share one entry for each minute.';
