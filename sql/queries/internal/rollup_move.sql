-- The rollup $1 has come to $2; its buckets before $3 are whole; $4 rows more went into it.
INSERT INTO coord.rollup (name, progress, shown, rows, rolled_at) VALUES ($1, $2, $3, $4, now())
ON CONFLICT (name) DO UPDATE SET
  progress = excluded.progress, shown = excluded.shown, rows = rollup.rows + excluded.rows, rolled_at = now()
