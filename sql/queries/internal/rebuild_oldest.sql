-- From when on the history goes that is read ($1), and whether the rows of what began before were taken ($2).
UPDATE coord_rebuild.progress SET oldest = $1, carried = $2
