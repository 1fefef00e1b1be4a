-- How often tasks of a replay were offered to somebody, and left to a pull.
-- $1 tenant, $2 the first key, $3 the first key behind them, $4 not decided before.
SELECT count(*) FILTER (WHERE p.placed_on IS NOT NULL) AS offers, count(*) FILTER (WHERE p.pull) AS pulls
FROM coord.v_placement AS p
WHERE p.stored_at >= $4 AND p.tenant = $1 AND p.key >= $2 AND p.key < $3
