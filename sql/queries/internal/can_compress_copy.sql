-- May COPY write compressed batches: the session wants it, the licence allows it, the server (2.21 and later) can.
SELECT
  coalesce(current_setting('coord.direct_compress', true), '') = 'on'
  AND coalesce(current_setting('timescaledb.license', true), '') = 'timescale'
  AND current_setting('timescaledb.enable_direct_compress_copy', true) IS NOT NULL
