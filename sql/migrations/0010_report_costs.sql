-- What a finding cost once: an incident that is over has no monthly rate.

ALTER TABLE metamon.report_findings ADD COLUMN cost numeric(26, 6);
COMMENT ON COLUMN metamon.report_findings.cost IS 'US dollars that it cost once, in this period, where it goes on at no rate (an incident, an error pattern that is new or gone); NULL otherwise.';
