-- Statements of logins of one fleet that have taken longer than they may, and that they are ended: cancelled, and where that was
-- not enough, as of a block that goes on after it, with their session.  $1: seconds that the server's own timeout has for itself.
SELECT
  a.usename::text AS login, a.pid, extract(epoch FROM clock_timestamp() - a.query_start)::double precision AS seconds,
  CASE
    WHEN a.query_start < clock_timestamp() - make_interval(secs => r.statement_s + 4 * $1) THEN pg_terminate_backend(a.pid)
    ELSE pg_cancel_backend(a.pid)
  END AS told
FROM coord.reader AS r
INNER JOIN pg_stat_activity AS a ON a.usename = r.login AND a.datname = current_database()
WHERE a.state = 'active' AND a.query_start < clock_timestamp() - make_interval(secs => r.statement_s + $1)
