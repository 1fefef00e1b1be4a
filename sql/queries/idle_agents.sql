-- Who is there and has nothing to do, and whether somebody waits for what it can do.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :limit   at most so many = 200
-- queued are open tasks of its capabilities that nobody holds: more than 0 of an idle agent means that it is not taking
-- work (it drains, is full by its own count, or its tasks are placed elsewhere). silent is since it last stated anything.
WITH open AS (
  SELECT
    t.tenant, t.capability, count(*) FILTER (WHERE t.status = 'queued') AS queued,
    array_agg(DISTINCT t.claimant) FILTER (WHERE t.status = 'claimed') AS busy
  FROM coord.v_task AS t
  WHERE t.ended_at IS NULL AND (:'tenant' = '' OR t.tenant = :'tenant')
  GROUP BY t.tenant, t.capability
),

busy AS (
  SELECT DISTINCT o.tenant, b.agent FROM open AS o CROSS JOIN LATERAL unnest(o.busy) AS b (agent)
)

SELECT
  a.tenant, a.agent, a.state, a.instances_there,
  round(extract(epoch FROM now() - a.last_seen), 1)::double precision AS silent_seconds,
  w.capabilities, coalesce(w.queued, 0)::bigint AS queued
FROM coord.v_agent AS a
LEFT JOIN LATERAL (
  SELECT string_agg(c.name, ', ' ORDER BY c.name) AS capabilities, sum(o.queued) AS queued
  FROM jsonb_object_keys(CASE jsonb_typeof(a.capabilities) WHEN 'object' THEN a.capabilities ELSE '{}' END) AS c (name)
  LEFT JOIN open AS o ON o.tenant = a.tenant AND o.capability = c.name
) AS w ON true
WHERE (:'tenant' = '' OR a.tenant = :'tenant') AND a.instances_there > 0
  AND NOT EXISTS (SELECT FROM busy AS b WHERE b.tenant = a.tenant AND b.agent = a.agent)
ORDER BY queued DESC, a.last_seen, a.tenant, a.agent
LIMIT :'limit'::bigint
