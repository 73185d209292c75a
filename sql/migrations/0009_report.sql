-- What the report said, day by day.

CREATE TABLE metamon.report_findings (
    day date NOT NULL,
    project text,
    section text NOT NULL,
    rank integer NOT NULL,
    key text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('info', 'notice', 'serious')),
    statement text NOT NULL,
    certainty text NOT NULL,
    value double precision,
    low double precision,
    high double precision,
    unit text,
    sample bigint,
    p_value double precision,
    money_per_month numeric(26, 6),
    runs jsonb NOT NULL DEFAULT '[]',
    query text NOT NULL DEFAULT '',
    computed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (day, section, rank),
    CHECK (low <= high), CHECK (p_value BETWEEN 0 AND 1)
);
COMMENT ON TABLE metamon.report_findings IS 'What the report on the 14 days up to a day found, a row for each finding. A run over several days writes that of its last day. Nothing is a row of its own where nothing was found.';
COMMENT ON COLUMN metamon.report_findings.day IS 'Last UTC day of the 14 that the report is about.';
COMMENT ON COLUMN metamon.report_findings.project IS 'Project that it is limited to; NULL: all.';
COMMENT ON COLUMN metamon.report_findings.section IS 'Section of the report: cost, errors, steps, …';
COMMENT ON COLUMN metamon.report_findings.rank IS 'Place within the section, from 1.';
COMMENT ON COLUMN metamon.report_findings.key IS 'What was found, by a name that stays the same from day to day; <section>.failed when the section could not be built.';
COMMENT ON COLUMN metamon.report_findings.severity IS 'info (worth knowing), notice (worth acting on), serious.';
COMMENT ON COLUMN metamon.report_findings.statement IS 'The finding as a sentence.';
COMMENT ON COLUMN metamon.report_findings.certainty IS 'How sure it is, as a sentence.';
COMMENT ON COLUMN metamon.report_findings.value IS 'The figure behind it, in its unit; NULL where there is none.';
COMMENT ON COLUMN metamon.report_findings.low IS 'Lower bound of the 95 % interval; NULL where the figure was counted, not estimated.';
COMMENT ON COLUMN metamon.report_findings.high IS 'Upper bound of the 95 % interval; NULL where the figure was counted, not estimated.';
COMMENT ON COLUMN metamon.report_findings.unit IS 'share (0 to 1), seconds, dollars, ratio, count.';
COMMENT ON COLUMN metamon.report_findings.sample IS 'Runs, or whatever the certainty names, that the figure rests on.';
COMMENT ON COLUMN metamon.report_findings.p_value IS 'P-value of the comparison, corrected where many were made; NULL where nothing was compared.';
COMMENT ON COLUMN metamon.report_findings.money_per_month IS 'US dollars in 30 days that it is about; NULL when not known.';
COMMENT ON COLUMN metamon.report_findings.runs IS 'Some runs that show it: source, project, run_id, start_time, url.';
COMMENT ON COLUMN metamon.report_findings.query IS 'SELECT that lists all of them, for metamon sql.';
COMMENT ON COLUMN metamon.report_findings.computed_at IS 'When the report was made (UTC).';
