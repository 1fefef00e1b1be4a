-- Every policy: the server's own jobs, and of coord's maintenance the newest step of each job and table.
-- What was said of a job as a whole (held, refused) holds until it did something again.
SELECT 'server' AS runs_it, j.job, j.relation, j.every, j.next_run, j.last_success, j.state, j.bytes_before, j.bytes_after,
  j.detail::text AS detail
FROM coord.server_jobs() AS j
UNION ALL
SELECT 'coord', newest.job, newest.relation, NULL, NULL,
  (SELECT max(s.ended_at) FROM coord.maintenance_step AS s
   WHERE s.job = newest.job AND s.relation = newest.relation AND s.result IN ('done', 'more')),
  newest.result, newest.bytes_before, newest.bytes_after,
  coalesce(newest.reason, newest.rows || ' ' || newest.unit || ' in ' || newest.batches || ' batches')
FROM (
  SELECT DISTINCT ON (s.job, s.relation) s.* FROM coord.maintenance_step AS s ORDER BY s.job, s.relation, s.id DESC
) AS newest
WHERE newest.job <> 'night'
  AND (newest.relation <> '' OR NOT EXISTS (
    SELECT FROM coord.maintenance_step AS later WHERE later.job = newest.job AND later.id > newest.id
  ))
ORDER BY 2, 3, 1
