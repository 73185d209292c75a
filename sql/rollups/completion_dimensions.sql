-- The dimensions of a row r of completion_sums or completion_flights, and its value in each.
CROSS JOIN LATERAL (VALUES
    ('overall', CASE WHEN r.tool IS NULL THEN '(all)' END),
    ('tenant', CASE WHEN r.tool IS NULL THEN coalesce(r.tenant, '(none)') END),
    ('agent', CASE WHEN r.tool IS NULL THEN coalesce(r.agent, '(none)') END),
    ('agent_version', CASE WHEN r.tool IS NULL THEN coalesce(r.agent_version, '(none)') END),
    ('mode', CASE WHEN r.tool IS NULL THEN coalesce(r.mode, '(none)') END),
    ('model', CASE WHEN r.tool IS NULL THEN coalesce(r.model, '(none)') END),
    ('environment', CASE WHEN r.tool IS NULL THEN coalesce(r.environment, '(none)') END),
    ('tool', r.tool)) AS d (dimension, label)
