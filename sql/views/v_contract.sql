-- Which version of these views a database has (sql/contract/): what a report was written for is compared with it.

CREATE OR REPLACE VIEW coord.v_contract AS
SELECT 1 AS major, 4 AS minor;

COMMENT ON VIEW coord.v_contract IS 'The version of the views of this schema: one row.';
COMMENT ON COLUMN coord.v_contract.major IS 'Rises when a view or column is renamed, retyped, or goes away.';
COMMENT ON COLUMN coord.v_contract.minor IS 'Rises when a view or column is added; 0 with each new major.';
