-- The log has the facts of these steps.
UPDATE coord.maintenance_step SET stated = true WHERE id = ANY ($1::bigint[])
