-- What could not be believed and why, newest first.
-- :stream  only letters of this stream; empty: all
-- :tenant  only this fleet; empty: all
-- :code    only this error's code; empty: all
-- :limit   how many = 50
-- A dead letter is a fact that was refused and parked: its siblings are projected all the same.
SELECT d.dead_at, d.stream, d.epoch, d.seq, d.idx, d.code, d.reason, d.tenant, d.agent, d.subject, d.body_bytes
FROM coord.v_dead_letter AS d
WHERE (:'stream' = '' OR d.stream = :'stream')
  AND (:'tenant' = '' OR d.tenant = :'tenant')
  AND (:'code' = '' OR d.code = :'code')
ORDER BY d.dead_at DESC, d.stream, d.epoch DESC, d.seq DESC, d.idx DESC
LIMIT :'limit'::integer
