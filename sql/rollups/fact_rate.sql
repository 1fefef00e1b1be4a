-- Facts by author, kind, event and type: how much the fleet says, and who.
SELECT
  s.tenant, -- Whose fleet.
  s.agent, -- Author of the facts; names that begin with _ are coord's own.
  s.kind, -- Kind of entity the facts are about.
  s.event, -- What happened.
  s.type, -- CloudEvents type; coord.{kind}.{event} unless the author named another.
  count(*)::bigint AS facts -- sum: How many facts.
FROM coord.event AS s
