-- The table that remembers which migrations were applied: there before the first of them.
-- The same statements stand in schema.sql; tests/schema compares.

CREATE SCHEMA IF NOT EXISTS coord;

CREATE TABLE IF NOT EXISTS coord.migration (
  number      integer     NOT NULL PRIMARY KEY,
  name        text        NOT NULL,
  phase       text        NOT NULL CHECK (phase IN ('pre', 'post')),
  sha256      text        NOT NULL,
  applied_at  timestamptz NOT NULL DEFAULT now(),
  applied_by  text        NOT NULL DEFAULT current_user,
  duration_ms integer     NOT NULL
);
COMMENT ON TABLE coord.migration IS
  'Migrations that were applied to this database; `coord db status` compares them with the files.';
COMMENT ON COLUMN coord.migration.sha256 IS 'Of the file as it was applied: an edited file is refused.';
