-- What about a role is too much for an analyst's login, in words; null: nothing.  No row: there is no such role.
SELECT
  CASE
    WHEN r.rolsuper THEN 'is a superuser'
    WHEN r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication THEN 'may make roles or databases, or replicate'
    WHEN r.oid = d.datdba OR pg_has_role(r.oid, d.datdba, 'MEMBER') THEN 'owns the database, or is a member of who does'
    WHEN r.oid = n.nspowner OR pg_has_role(r.oid, n.nspowner, 'MEMBER') THEN 'owns the schema coord, or is a member of who does'
  END AS too_much
FROM pg_roles AS r
INNER JOIN pg_database AS d ON d.datname = current_database()
LEFT JOIN pg_namespace AS n ON n.nspname = 'coord'
WHERE r.rolname = %(login)s
