-- A login reads one fleet, from now on this one.
INSERT INTO coord.reader (login, tenant) VALUES (%(login)s, %(tenant)s)
ON CONFLICT (login) DO UPDATE SET tenant = excluded.tenant, made_at = now()
