-- With the rows of a batch: the rebuild is at $2 epoch, $3 seq, has read $4 facts more and refused $5, in $6 seconds.
-- No row: somebody else goes on with it; $1 token.
UPDATE coord_rebuild.progress
SET epoch = $2, seq = $3, facts = facts + $4, refused = refused + $5, active_s = active_s + $6
WHERE token = $1 AND (epoch, seq) <= ($2, $3)
RETURNING facts
