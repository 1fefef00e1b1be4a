"""Everything of schema coord that a statement of ours can have made, as rows of text."""

from __future__ import annotations

from typing import Any

import psycopg

from coord.runtime.assets import sql_dir
from coord.store import editions, migrations
from coord.store.config import DatabaseConfig, EditionName

CATALOGUE = {
    "relations": """
        SELECT c.relname, c.relkind::text, c.reloptions, c.relacl::text, obj_description(c.oid)
        FROM pg_class AS c WHERE c.relnamespace = 'coord'::regnamespace""",
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
          pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation::text, col_description(c.oid, a.attnum)
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'coord'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped""",
    "indexes": """
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class')
        FROM pg_index JOIN pg_class AS c ON c.oid = indrelid WHERE c.relnamespace = 'coord'::regnamespace""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'coord'::regnamespace""",
    "triggers": """
        SELECT tgrelid::regclass::text, pg_get_triggerdef(t.oid)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = tgrelid WHERE c.relnamespace = 'coord'::regnamespace""",
    "views": r"""
        SELECT viewname, regexp_replace(definition, '(_materialized_hypertable_|cagg_watermark\()\d+', '\1N', 'g')
        FROM pg_views WHERE schemaname = 'coord'""",
    "functions": """
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl::text, obj_description(p.oid)
        FROM pg_proc AS p WHERE p.pronamespace = 'coord'::regnamespace AND p.prokind <> 'a'""",
    "schema": """
        SELECT nspname, nspacl::text, obj_description(oid) FROM pg_namespace WHERE nspname = 'coord'""",
    "role": """
        SELECT rolcanlogin, rolsuper, s.setconfig
        FROM pg_roles AS r LEFT JOIN pg_db_role_setting AS s ON s.setrole = r.oid
          AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
        WHERE rolname = 'coord_reader'""",
}
TIMESCALEDB = {
    "dimensions": """
        SELECT hypertable_name, column_name, time_interval
        FROM timescaledb_information.dimensions WHERE hypertable_schema = 'coord'""",
}
COMMUNITY = {
    "columnstore": """
        SELECT hypertable::text, segmentby, orderby FROM timescaledb_information.hypertable_compression_settings
        WHERE hypertable::text LIKE 'coord.%'""",
    "jobs": """
        SELECT hypertable_name, proc_name, config - 'hypertable_id' - 'mat_hypertable_id', schedule_interval
        FROM timescaledb_information.jobs WHERE hypertable_schema = 'coord'""",
}


def catalogue(url: str, edition: EditionName) -> dict[str, list[tuple[Any, ...]]]:
    queries = dict(CATALOGUE)
    if edition != "plain":
        queries |= TIMESCALEDB
    if edition == "community":
        queries |= COMMUNITY
    with psycopg.connect(url) as conn:
        conn.execute("SET search_path = pg_catalog, public")  # so that names of coord are spelled in full
        return {name: sorted(conn.execute(sql.encode()).fetchall(), key=repr) for name, sql in queries.items()}


def from_schema(config: DatabaseConfig) -> None:
    """What schema.sql makes, and after it what is applied on every migrate."""
    with psycopg.connect(config.url, autocommit=True) as conn:
        edition, _ = editions.prepare(conn, config.edition)
        conn.execute((sql_dir() / "schema.sql").read_bytes())
        conn.execute(
            "SELECT set_config('coord.hot', '168 hours', false), set_config('coord.retain', '720 hours', false),"
            " set_config('coord.minutes', '720 hours', false), set_config('coord.hours', '17520 hours', false)"
        )
        for _, text in migrations.repeatable(sql_dir(), edition):
            conn.execute(text.encode())
