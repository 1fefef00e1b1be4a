-- apache and plain: the server has no jobs; coord's maintenance does what they would.
--
-- The functions are there so that the code asks the same on every edition.

CREATE OR REPLACE FUNCTION coord.server_jobs()
RETURNS TABLE (
  job text, relation text, every interval, next_run timestamptz, last_success timestamptz, state text,
  bytes_before bigint, bytes_after bigint, detail jsonb
)
LANGUAGE sql STABLE
AS $$
  SELECT NULL::text, NULL::text, NULL::interval, NULL::timestamptz, NULL::timestamptz, NULL::text, NULL::bigint, NULL::bigint,
    NULL::jsonb
  WHERE false
$$;
COMMENT ON FUNCTION coord.server_jobs() IS 'The server''s own jobs on tables of coord: none in this edition.';

CREATE OR REPLACE FUNCTION coord.hold(held boolean)
RETURNS integer
LANGUAGE sql
AS $$ SELECT 0 $$;
COMMENT ON FUNCTION coord.hold(boolean) IS
  'Holds the server''s jobs that compress and drop, or lets them go on; how many that changed. None in this edition.';
