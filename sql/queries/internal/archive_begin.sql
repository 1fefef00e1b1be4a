-- Begin a piece; $1 table, $2 from, $3 until before.
INSERT INTO coord.archive (relation, range_start, range_end) VALUES ($1, $2, $3)
RETURNING piece
