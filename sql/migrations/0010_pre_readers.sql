-- Which login reads which fleet: what the views of schema coord_tenant go by (docs/adr/0099).

CREATE TABLE coord.reader (
  made_at timestamptz NOT NULL DEFAULT now(),
  login   name        NOT NULL PRIMARY KEY,
  tenant  text COLLATE "C" NOT NULL
);
COMMENT ON TABLE coord.reader IS 'Logins that read one fleet only. Written by `coord db role`; who is not here reads nothing of schema coord_tenant.';
COMMENT ON COLUMN coord.reader.made_at IS 'Database''s clock: when it was allowed to.';
COMMENT ON COLUMN coord.reader.login IS 'The role that it logs in as.';
COMMENT ON COLUMN coord.reader.tenant IS 'Whose fleet it reads.';
