-- How far the rollup $1 has come; locked, so that whoever else moves it waits and then sees where it is.
SELECT progress, shown FROM coord.rollup WHERE name = $1 FOR UPDATE
