-- Up to where views read these rollups, of those that have begun: what is later they count from the source's rows.
SELECT shown FROM coord.rollup WHERE name = ANY ($1::text[])
