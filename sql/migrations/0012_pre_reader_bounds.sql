-- How long a statement of a login of one fleet may take, where the login cannot change it (docs/adr/0099).

ALTER TABLE coord.reader ADD COLUMN statement_s double precision;
COMMENT ON COLUMN coord.reader.statement_s IS 'Seconds a statement of it may take, whatever it has set for itself; null: nobody looks.';
