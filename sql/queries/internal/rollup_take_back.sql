-- The rollup $1 has counted nothing that was stored from $2 on.
UPDATE coord.rollup SET progress = least(progress, $2), shown = least(shown, $2) WHERE name = $1
