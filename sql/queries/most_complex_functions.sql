-- The functions with the highest cyclomatic complexity that the analysts found.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- :limit   how many = 10
-- For fleets that read source code, as `coord demo` does.
SELECT
  f.name AS function,
  f.complexity,
  f.lines,
  e.data ->> 'path' AS path,
  e.agent AS analysed_by
FROM coord.v_event AS e
CROSS JOIN LATERAL jsonb_to_recordset(e.data -> 'functions') AS f (name text, complexity integer, lines integer)
WHERE e.kind = 'file' AND e.event = 'analysed'
  AND (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
ORDER BY f.complexity DESC, f.lines DESC, path, f.name
LIMIT :'limit'::integer
