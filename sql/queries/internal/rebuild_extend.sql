-- A round of which nothing is done yet goes further. $1 token, $2 epochs, $3 seqs, $4 times to go to.
UPDATE coord_rebuild.progress
SET upto_epochs = $2, upto_seqs = $3, upto_times = $4
WHERE token = $1 AND (epoch, seq) = (0, 0)
RETURNING round
