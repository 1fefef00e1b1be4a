-- The rollup $1 begins at $2, unless somebody has begun it.
INSERT INTO coord.rollup (name, progress, shown) VALUES ($1, $2, $2) ON CONFLICT (name) DO NOTHING
