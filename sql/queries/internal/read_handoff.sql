-- What coord.handoff has of these entities.
-- $1 tenants, $2 keys, $3 ids.
SELECT t.tenant, t.key, t.id, t.epoch, t.seq, t.idx, t.fold
FROM unnest($1::text[], $2::text[], $3::text[]) AS asked (tenant, key, id)
JOIN coord.handoff AS t USING (tenant, key, id)
