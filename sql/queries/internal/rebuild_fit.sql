-- The rebuilt rows have the bytes of live ones that say the same.
UPDATE coord_rebuild.progress SET fitted = true
