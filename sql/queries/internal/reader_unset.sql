-- A login reads no single fleet any more.
DELETE FROM coord.reader WHERE login = %(login)s
