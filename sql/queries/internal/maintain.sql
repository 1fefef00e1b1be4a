-- One bounded step of retention; $1 what to keep (interval), $2 rows a step.
SELECT relation, unit, removed, more FROM coord.maintain($1, $2)
