-- A login reads one fleet, from now on this one, with statements of so many seconds at most.
INSERT INTO coord.reader (login, tenant, statement_s) VALUES (%(login)s, %(tenant)s, %(statement_s)s)
ON CONFLICT (login) DO UPDATE SET tenant = excluded.tenant, statement_s = excluded.statement_s, made_at = now()
