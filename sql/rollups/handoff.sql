-- Handoffs by who offered and who accepted: the edges of the graph of who passes work on to whom.
SELECT
  s.tenant, -- Whose fleet.
  s.from_agent, -- Who offered.
  s.agent, -- Who accepted, or was asked last; empty: nobody.
  s.status, -- accepted, withdrawn or expired.
  count(*)::bigint AS handoffs, -- sum: How many ended.
  coalesce(sum(s.wait_s::numeric), 0)::numeric AS seconds, -- sum: Seconds from their offers to their ends, together.
  sum(s.attempts::bigint)::bigint AS asked, -- sum: How many were asked.
  sum(s.failures::bigint)::bigint AS escalations -- sum: How often they went to a coordinator.
FROM coord.outcome AS s
WHERE s.kind = 'handoff'
