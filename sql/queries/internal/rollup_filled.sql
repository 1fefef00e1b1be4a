-- A continuous aggregate has counted what there was when it was made.
INSERT INTO coord.rollup (name, progress, shown) VALUES (%s, now(), now()) ON CONFLICT (name) DO NOTHING
