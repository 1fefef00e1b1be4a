-- Whether this login has the views of one fleet, and not those of all.
SELECT EXISTS (
  SELECT FROM pg_class AS c
  WHERE c.oid = to_regclass('coord_tenant.v_event') AND has_table_privilege(c.oid, 'SELECT')
    AND NOT coalesce(has_table_privilege(to_regclass('coord.v_event'), 'SELECT'), false)
)
