-- Facts stored from $2 on come late to those of these rollups ($1 names) that have counted beyond: from $3 on, the beginning
-- of a bucket, what they have is not whole any more. Locked in one order, so that two writers cannot deadlock.
WITH counted AS MATERIALIZED (
  SELECT r.name
  FROM coord.rollup AS r
  WHERE r.name = ANY ($1::text[]) AND r.progress > $2::timestamptz AND r.shown > $3::timestamptz
  ORDER BY r.name
  FOR UPDATE
)
UPDATE coord.rollup AS r SET shown = least(r.shown, $3::timestamptz) FROM counted AS c WHERE r.name = c.name
