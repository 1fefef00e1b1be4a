-- A rebuild is given up, or over.
DROP SCHEMA IF EXISTS coord_rebuild CASCADE
