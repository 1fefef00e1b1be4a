"""The edge to PostgreSQL and TimescaleDB: pool, migrations, editions, COPY, checkpoints, named SQL.

asyncpg carries rows and questions, psycopg the migrations.  Nothing above this package
imports a driver, and no error of a driver leaves it: see `sqlstate.classify`.
"""
