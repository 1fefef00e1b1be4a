-- How far the rebuild is.
SELECT began_at, partial, oldest, token, round, carried, fitted, epoch, seq, facts, refused, active_s,
  from_epochs, from_seqs, from_times, upto_epochs, upto_seqs
FROM coord_rebuild.progress
