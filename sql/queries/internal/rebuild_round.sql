-- The round is done: the next one begins where it ended. $1 token, $2 epochs, $3 seqs, $4 times to go to.
UPDATE coord_rebuild.progress
SET round = round + 1, epoch = 0, seq = 0, from_epochs = upto_epochs, from_seqs = upto_seqs, from_times = upto_times,
  upto_epochs = $2, upto_seqs = $3, upto_times = $4
WHERE token = $1
RETURNING round
