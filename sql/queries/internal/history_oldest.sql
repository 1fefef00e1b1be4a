-- When the oldest facts in the table can be from, at the earliest; null: it has none.
SELECT coord.oldest('event')
