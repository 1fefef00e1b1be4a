-- Up to when every partition of the stream $1 ($2 partitions) is in the tables, by the broker's clock; null: unknown.
-- $3 seconds less while facts come, as the broker's clock may be corrected. Where none came for an hour and nothing
-- waits, the minute of the newest is over too. An hour by both clocks, the database's and the broker's as checkpoints of
-- all streams have seen it: by one that is ahead, facts that come now would be so old.
SELECT CASE
  WHEN count(stored_at) < $2::integer THEN NULL
  WHEN min(stored_at) < least(now(), (SELECT max(c.stored_at) FROM coord.checkpoint AS c)) - INTERVAL '1 hour'
    AND max(pending) = 0 AND min(updated_at) > now() - INTERVAL '1 minute'
    THEN date_trunc('minute', min(stored_at)) + INTERVAL '1 minute'
  ELSE min(stored_at) - make_interval(secs => $3::double precision)
END
FROM coord.checkpoint WHERE stream = $1
