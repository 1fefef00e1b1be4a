-- Which privileges on coord's tables the projector's role lacks; no rows: none.
SELECT w.relation, w.privilege
FROM (
  VALUES
    ('coord.event', 'INSERT'), ('coord.metric_sample', 'INSERT'), ('coord.dead_letter', 'INSERT'),
    ('coord.agent', 'SELECT'), ('coord.agent', 'INSERT'), ('coord.agent', 'UPDATE'),
    ('coord.checkpoint', 'SELECT'), ('coord.checkpoint', 'INSERT'), ('coord.checkpoint', 'UPDATE'),
    ('coord.audit_anchor', 'SELECT'), ('coord.audit_anchor', 'INSERT'), ('coord.audit_anchor', 'DELETE')
) AS w (relation, privilege)
WHERE to_regclass(w.relation) IS NULL OR NOT has_table_privilege(to_regclass(w.relation), w.privilege)
