-- The schema coord_rebuild, and in it an empty twin of each entity table as it is in this database: columns, storage,
-- keys, indexes and comments, whoever added them. The statements that write entities append to outcome besides: so it
-- has a twin, which is thrown away.
DO $$
DECLARE
  relation text;
  live     regclass;
  made     record;
BEGIN
  CREATE SCHEMA coord_rebuild;
  COMMENT ON SCHEMA coord_rebuild IS 'Tables that `coord projection rebuild` is making; nobody reads them.';
  FOREACH relation IN ARRAY ARRAY[
    'task', 'workflow', 'handoff', 'signal', 'lock', 'flag', 'agent_registry', 'agent', 'outcome'
  ] LOOP
    live := to_regclass(format('coord.%I', relation));
    CONTINUE WHEN live IS NULL;
    EXECUTE format('CREATE TABLE coord_rebuild.%I (LIKE %s INCLUDING ALL EXCLUDING INDEXES)', relation, live);
    CONTINUE WHEN relation = 'outcome';
    SELECT array_to_string(c.reloptions, ', ') AS options, obj_description(c.oid, 'pg_class') AS comment INTO made
    FROM pg_class AS c WHERE c.oid = live;
    IF made.options IS NOT NULL THEN
      EXECUTE format('ALTER TABLE coord_rebuild.%I SET (%s)', relation, made.options);
    END IF;
    EXECUTE format('COMMENT ON TABLE coord_rebuild.%I IS %L', relation, made.comment);
    FOR made IN
      SELECT c.conname AS name, pg_get_constraintdef(c.oid) AS definition
      FROM pg_constraint AS c WHERE c.conrelid = live AND c.contype IN ('p', 'u')
    LOOP
      EXECUTE format('ALTER TABLE coord_rebuild.%I ADD CONSTRAINT %I %s', relation, made.name, made.definition);
    END LOOP;
    FOR made IN
      SELECT regexp_replace(pg_get_indexdef(i.indexrelid), ' ON (ONLY )?\S+ USING ',
        format(' ON coord_rebuild.%I USING ', relation)) AS definition
      FROM pg_index AS i
      WHERE i.indrelid = live AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)
    LOOP
      EXECUTE made.definition;
    END LOOP;
  END LOOP;
  CREATE TABLE coord_rebuild.progress (
    began_at   timestamptz NOT NULL DEFAULT now(),
    partial    boolean     NOT NULL,
    oldest     timestamptz,
    token      text        NOT NULL,
    round      integer     NOT NULL DEFAULT 0,
    carried    boolean     NOT NULL DEFAULT false,
    fitted     boolean     NOT NULL DEFAULT false,
    epoch      integer     NOT NULL DEFAULT 0,
    seq        bigint      NOT NULL DEFAULT 0,
    facts      bigint      NOT NULL DEFAULT 0,
    refused    bigint      NOT NULL DEFAULT 0,
    active_s   float8      NOT NULL DEFAULT 0,
    from_epochs  integer[]     NOT NULL,
    from_seqs    bigint[]      NOT NULL,
    upto_epochs  integer[]     NOT NULL,
    upto_seqs    bigint[]      NOT NULL,
    from_times   timestamptz[] NOT NULL DEFAULT '{}',
    upto_times   timestamptz[] NOT NULL
  );
  CREATE TABLE coord_rebuild.touched (
    kind   text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    key    text COLLATE "C" NOT NULL,
    id     text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, tenant, key, id)
  );
END
$$
