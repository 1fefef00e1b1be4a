-- Whether a rebuild has begun in this database, and has not been swapped or given up.
SELECT to_regclass('coord_rebuild.progress') IS NOT NULL AS known
