-- How far the rebuild is.
SELECT began_at, partial, oldest, token, round, carried, epoch, seq, facts, refused, active_s, from_epochs, from_seqs, upto_epochs,
  upto_seqs, from_times
FROM coord_rebuild.progress
