-- The rebuilt tables take the places of the live ones, which are gone then: owner, grants and views go with the places.
-- In the transaction of rebuild_lock. What hangs on a table and is no view is refused: DROP says what it is. Without a
-- search_path the texts of views name every schema.
DO $$
DECLARE
  relations CONSTANT text[] := ARRAY['task', 'workflow', 'handoff', 'signal', 'lock', 'flag', 'agent_registry', 'agent'];
  relation text;
  found    record;
  views    text[] := '{}';
  live     oid;
BEGIN
  PERFORM set_config('search_path', '', true);
  FOREACH relation IN ARRAY relations LOOP
    live := format('coord.%I', relation)::regclass;
    FOR found IN
      SELECT format('trigger %I', tgname) AS what FROM pg_catalog.pg_trigger WHERE tgrelid = live AND NOT tgisinternal
      UNION ALL SELECT format('policy %I', polname) FROM pg_catalog.pg_policy WHERE polrelid = live
      UNION ALL SELECT format('statistics %I', stxname) FROM pg_catalog.pg_statistic_ext WHERE stxrelid = live
      UNION ALL
      SELECT format('publication %I', p.pubname)
      FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid WHERE r.prrelid = live
    LOOP
      RAISE EXCEPTION '% hangs on coord.%: a rebuild would lose it', found.what, relation USING ERRCODE = '2BP01';
    END LOOP;
    FOR found IN
      SELECT DISTINCT format('%I.%I', n.nspname, v.relname) AS name, array_to_string(v.reloptions, ', ') AS options,
        rtrim(pg_get_viewdef(v.oid), '; ') AS definition
      FROM pg_catalog.pg_depend AS d
      JOIN pg_catalog.pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_catalog.pg_rewrite'::regclass
      JOIN pg_catalog.pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'v'
      JOIN pg_catalog.pg_namespace AS n ON n.oid = v.relnamespace
      WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = live
    LOOP
      views := views || format('CREATE OR REPLACE VIEW %s%s AS %s', found.name,
        ' WITH (' || found.options || ')', found.definition);
    END LOOP;
    SELECT pg_get_userbyid(c.relowner) AS owner, c.relacl AS acl INTO found FROM pg_catalog.pg_class AS c WHERE c.oid = live;
    IF found.owner <> current_user THEN
      EXECUTE format('ALTER TABLE coord_rebuild.%I OWNER TO %I', relation, found.owner);
    END IF;
    FOR found IN
      SELECT g.privilege_type || CASE WHEN g.attname IS NULL THEN '' ELSE format(' (%I)', g.attname) END AS what,
        CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END AS who,
        CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' END AS more
      FROM (
        SELECT a.*, NULL::name AS attname FROM pg_catalog.pg_class AS c, aclexplode(c.relacl) AS a WHERE c.oid = live
        UNION ALL
        SELECT a.*, t.attname FROM pg_catalog.pg_attribute AS t, aclexplode(t.attacl) AS a WHERE t.attrelid = live
      ) AS g
      WHERE g.grantee <> (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = live)
    LOOP
      EXECUTE format('GRANT %s ON coord_rebuild.%I TO %s%s', found.what, relation, found.who, found.more);
    END LOOP;
  END LOOP;
  CREATE SCHEMA coord_replaced;
  FOREACH relation IN ARRAY relations LOOP
    EXECUTE format('ALTER TABLE coord.%I SET SCHEMA coord_replaced', relation);
    EXECUTE format('ALTER TABLE coord_rebuild.%I SET SCHEMA coord', relation);
  END LOOP;
  FOREACH relation IN ARRAY views LOOP
    EXECUTE relation;
  END LOOP;
  FOREACH relation IN ARRAY relations LOOP
    EXECUTE format('DROP TABLE coord_replaced.%I', relation);
  END LOOP;
  DROP SCHEMA coord_replaced;
END
$$
