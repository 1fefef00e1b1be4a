"""The Community edition for real: TimescaleDB under its own licence, in WebAssembly.

Policies, compression, retention and direct-compress COPY exist nowhere else on a machine
without Docker.  Right or wrong is told here; speed is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from coord.errors import MigrationFailed, SettingsError
from coord.ops.bench import made
from coord.store import migrations, queries, rollups
from coord.store.config import AgesConfig, ArchiveConfig, DatabaseConfig
from coord.store.rollup_files import LEVELS
from coord.store.rollups import load
from coord.store.rows import EVENT_COLUMNS
from tests.support import node
from tests.support.catalogue import catalogue, from_schema
from tests.support.cluster import Database
from tests.support.rolling import BEGIN, checkpoints_sql, facts_sql, rows_sql, view_names
from tests.support.store import pool_of

HERE = Path(__file__).parent
ROWS = 2_000
"""Enough for what is right or wrong: WebAssembly takes a second of CPU to insert ten times as many;"""
MANY = 20_000
"""and for what is about sizes, so many."""
COLUMNS = ", ".join(EVENT_COLUMNS)
TIMESCALEDB = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"


def rows_of(age: str, rows: int = ROWS) -> str:
    """A query for `rows` facts that are `age` old, give or take six hours: all in one chunk."""
    return f"""
      SELECT t AS stored_at, 1 AS epoch, i AS seq, 0 AS idx, (i % 16)::smallint AS partition,
        'acme' AS tenant, 'analyst-' || i % 40 AS agent, 'file-' || i / 4 AS key,
        'file' AS kind, 'file-' || i / 4 AS id,
        CASE i % 4 WHEN 0 THEN 'listed' ELSE 'analysed' END AS event, '' AS detail,
        '01992345-' || lpad(to_hex(i), 4, '0') || substr(gen_random_uuid()::text, 14) AS event_id,
        'coord.file.analysed' AS type, 1 AS schema, t AS occurred_at,
        'run-01992345-7abc-7def-8123-0123456789ab' AS correlation_id,
        NULL::text AS causation_id, NULL::text AS traceparent,
        jsonb_build_object('path', 'lib/python3/file-' || i || '.py', 'lines', i % 1000, 'functions',
          jsonb_build_array(jsonb_build_object('name', 'f', 'complexity', i % 50, 'lines', i % 90))) AS data
      FROM (
        SELECT i, time_bucket('6 hours', now() - interval '{age}') + i * interval '10 ms' AS t
        FROM generate_series(1, {rows}) AS i
      ) AS x"""


@contextlib.contextmanager
def community_server() -> Iterator[str]:
    """The URL of a fresh server; it ends with the block."""
    found = node.required()
    folder = found.install(HERE)
    process = subprocess.Popen(
        # Not compiled a second time, for speed: that costs more CPU than these few statements gain by it.
        [found.node, "--liftoff-only", "server.mjs"],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    guard = threading.Timer(1_800, process.kill)  # a machine may be busy; it ends with its stdin anyway
    guard.start()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("ready "), f"it did not start: {line}{process.stdout.read()}"
        yield f"postgresql://postgres:postgres@127.0.0.1:{line.split()[1]}/postgres?sslmode=disable"
    finally:
        guard.cancel()
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


AGES = AgesConfig(hot_days=7, retain_days=30)
"""For all tests here, whichever of them a worker runs first, or alone."""


@pytest.fixture(scope="module")
def config() -> Iterator[DatabaseConfig]:
    with community_server() as url:
        made = DatabaseConfig(url=url, edition="community")
        report = migrations.migrate(made, AGES)
        assert report.edition.name == "community"
        assert report.notes == ()
        yield made


@pytest.fixture
def conn(config: DatabaseConfig) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(
        config.url, autocommit=True, prepare_threshold=None, cursor_factory=psycopg.ClientCursor
    ) as conn:
        conn.execute("SET search_path = coord, public")
        conn.execute("TRUNCATE event, metric_sample")
        yield conn


def insert(conn: psycopg.Connection[Any], age: str, rows: int = ROWS) -> None:
    """So many facts that are `age` old."""
    conn.execute(f"INSERT INTO event ({COLUMNS}) {rows_of(age, rows)}".encode())


def one(conn: psycopg.Connection[Any], sql: str, *values: object) -> Any:
    row = conn.execute(sql.encode(), values or None).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def jobs(conn: psycopg.Connection[Any]) -> dict[tuple[str, str], tuple[int, str]]:
    """(table, job) → (id, age)."""
    rows = conn.execute(
        "SELECT hypertable_name, proc_name, job_id, coalesce(config ->> 'compress_after', config ->> 'drop_after')"
        " FROM timescaledb_information.jobs WHERE hypertable_schema = 'coord'"
        " AND hypertable_name IN ('event', 'metric_sample', 'outcome')"
    )
    return {(table, job): (number, age) for table, job, number, age in rows}


def run_job(conn: psycopg.Connection[Any], job: str) -> None:
    number, _ = jobs(conn)["event", job]
    conn.execute(f"CALL run_job({number})".encode())


def chunks(conn: psycopg.Connection[Any]) -> list[bool]:
    """Of each chunk of event, oldest first, whether it is compressed."""
    rows = conn.execute(
        "SELECT is_compressed FROM timescaledb_information.chunks WHERE hypertable_name = 'event' ORDER BY range_start"
    )
    return [r[0] for r in rows]


def digest(conn: psycopg.Connection[Any]) -> Any:
    return one(conn, "SELECT count(*), md5(string_agg(e::text, '|' ORDER BY stored_at, seq)) FROM v_event AS e")


def test_policies_say_the_ages_of_the_settings(config: DatabaseConfig, conn: psycopg.Connection[Any]) -> None:
    conn.close()  # the server takes one connection at a time

    def migrated(hot: float, retain: float | None) -> dict[tuple[str, str], tuple[int, str]]:
        migrations.migrate(config, AgesConfig(hot_days=hot, retain_days=retain))
        with psycopg.connect(config.url, autocommit=True) as again:
            return jobs(again)

    first = migrated(7, 30)
    assert {key: age for key, (_, age) in first.items()} == {
        (table, job): age
        for table in ("event", "metric_sample", "outcome")
        for job, age in (("policy_compression", "168:00:00"), ("policy_retention", "720:00:00"))
    }
    assert migrated(7, 30) == first, "the same settings leave the jobs and their statistics alone"
    longer = migrated(7, 60)
    assert {key: age for key, (_, age) in longer.items() if key[1] == "policy_retention"} == {
        ("event", "policy_retention"): "1440:00:00",
        ("metric_sample", "policy_retention"): "1440:00:00",
        ("outcome", "policy_retention"): "1440:00:00",
    }
    assert {k: v for k, v in longer.items() if k[1] == "policy_compression"} == {
        k: v for k, v in first.items() if k[1] == "policy_compression"
    }
    assert {job for _, job in migrated(2, None)} == {"policy_compression"}
    migrated(7, 30)


def test_what_is_warm_is_compressed_and_answers_as_before(conn: psycopg.Connection[Any]) -> None:
    insert(conn, "10 days", MANY)
    insert(conn, "1 hour")
    before = digest(conn)
    size = one(conn, "SELECT hypertable_size('coord.event')")
    run_job(conn, "policy_compression")
    compressed = chunks(conn)
    assert compressed[0] is True
    assert compressed[-1] is False, "what is hot stays in the row store"
    assert digest(conn) == before
    stats = conn.execute(
        "SELECT before_compression_total_bytes, after_compression_total_bytes"
        " FROM hypertable_columnstore_stats('coord.event')"
    ).fetchone()
    assert stats is not None
    ratio = stats[0] / stats[1]
    print(f"{stats[0] / MANY:.0f} → {stats[1] / MANY:.0f} bytes a row, {ratio:.1f}×")
    assert ratio > 7
    assert one(conn, "SELECT hypertable_size('coord.event')") < size
    # One key is found through the sparse index, not by unpacking every batch.
    plan = "\n".join(
        r[0] for r in conn.execute("EXPLAIN SELECT * FROM v_event WHERE tenant = 'acme' AND key = 'file-77'").fetchall()
    )
    assert "bloom1_contains" in plan, plan


def test_what_a_fleet_states_compresses(conn: psycopg.Connection[Any]) -> None:
    """Facts with ids as the SDK makes them; ten times from 100,000 facts of a chunk on: docs/adr/0101."""
    begin = datetime.now(UTC) - timedelta(days=10)
    shape = made.Shape(rows=20_000, begin=begin, until=begin + timedelta(seconds=200), entities=False)
    for steps in made.batches(shape, 2_500):
        for step in steps:
            query = step.query
            conn.execute(query.for_psycopg.encode(), query.bind(step.values))
    conn.execute("DROP TABLE made")
    before, rows = digest(conn), one(conn, "SELECT count(*) FROM event")
    run_job(conn, "policy_compression")
    assert all(chunks(conn))
    assert digest(conn) == before
    hot, warm = one(
        conn,
        "SELECT before_compression_total_bytes, after_compression_total_bytes"
        " FROM hypertable_columnstore_stats('coord.event')",
    )
    print(f"{hot / rows:.0f} → {warm / rows:.0f} bytes a fact, {hot / warm:.1f}×")
    assert hot / warm > 8.5
    assert warm / rows < 70


@pytest.mark.parametrize("name", [n for n in queries.all_queries() if n != "latency_committed"])
def test_every_question_works_on_compressed_facts(conn: psycopg.Connection[Any], name: str) -> None:
    conn.execute(f"INSERT INTO event ({COLUMNS}) SELECT * FROM ({rows_of('10 days')}) AS x LIMIT 300".encode())
    query = queries.get(name)
    values = query.bind({"seq": 1} if name == "dead_letter" else {})
    rows = [conn.execute(query.for_psycopg.encode(), values).fetchall()]
    conn.execute("SELECT compress_chunk(c) FROM show_chunks('coord.event') AS c")
    assert all(chunks(conn))
    rows.append(conn.execute(query.for_psycopg.encode(), values).fetchall())
    if name not in {"storage", "disk_full"}:  # they answer what compressing changed
        assert rows[0] == rows[1]


def test_a_history_is_read_from_compressed_chunks_as_from_others(conn: psycopg.Connection[Any]) -> None:
    insert(conn, "10 days")
    insert(conn, "1 hour")
    text = re.sub(r"\$(\d)", r"%(p\1)s", queries.statement("history_facts"))
    given = {"p1": "acme", "p2": "file-77", "p3": "file", "p4": None, "p5": None, "p6": ["analysed"]}

    def history() -> list[Any]:
        return conn.execute(text.encode(), given).fetchall()

    before = history()
    assert [row[2] for row in before] == [309, 309, 310, 310, 311, 311]
    run_job(conn, "policy_compression")
    assert chunks(conn)[0] is True
    assert history() == before


def test_tables_made_anew_are_swapped_and_read_from_compressed_chunks(
    config: DatabaseConfig, conn: psycopg.Connection[Any]
) -> None:
    """The statements of `coord projection rebuild`, without asyncpg."""

    def run(on: psycopg.Connection[Any], name: str, *values: object) -> list[Any]:
        text = re.sub(r"\$(\d)", r"%(p\1)s", queries.statement(name))
        found = on.execute(text.encode(), {f"p{n}": value for n, value in enumerate(values, 1)} or None)
        return found.fetchall() if found.description else []

    insert(conn, "10 days")
    begin = datetime(2000, 1, 1, tzinfo=UTC)

    def history() -> tuple[list[Any], list[Any]]:
        stretches = sorted(run(conn, "rebuild_stretches", ["file"], begin))
        last = [2**62] * 16
        rows = run(conn, "rebuild_rows", ["file"], 1, 100, 160, begin, datetime.now(UTC), [0] * 16, last)
        return stretches, rows

    before = history()
    assert sum(row[4] for row in before[0]) == ROWS
    assert [row[2] for row in before[1]] == list(range(100, 161))
    run_job(conn, "policy_compression")
    assert chunks(conn)[0] is True
    assert history() == before

    conn.execute(
        "INSERT INTO agent (tenant, agent, state, first_seen, last_seen, epoch, seq, idx)"
        " VALUES ('acme', 'rebuilt', 'alive', now(), now(), 1, 1, 0)"
    )
    conn.close()  # the server takes one connection at a time
    shape = catalogue(config.url, "community")
    with psycopg.connect(config.url, prepare_threshold=None, cursor_factory=psycopg.ClientCursor) as other:
        run(other, "rebuild_create")
        assert run(other, "rebuild_changed") == []
        other.execute("INSERT INTO coord_rebuild.agent SELECT * FROM coord.agent")
        assert {(live, rebuilt) for _, live, rebuilt, *_ in run(other, "rebuild_compare")} >= {(0, 0)}
        assert all(row[5:] == (0, 0, 0) and row[3] == row[4] for row in run(other, "rebuild_compare"))
        run(other, "rebuild_lock")
        run(other, "rebuild_swap")
        run(other, "rebuild_drop")
        assert one(other, "SELECT state FROM coord.v_agent_status WHERE agent = 'rebuilt'") == "alive"
        other.execute("DELETE FROM coord.agent WHERE agent = 'rebuilt'")
    assert catalogue(config.url, "community") == shape


def test_what_is_old_is_dropped(conn: psycopg.Connection[Any]) -> None:
    insert(conn, "40 days")
    insert(conn, "10 days")
    assert len(chunks(conn)) == 2
    run_job(conn, "policy_compression")
    run_job(conn, "policy_retention")
    assert len(chunks(conn)) == 1
    assert one(conn, "SELECT count(*), max(stored_at) > now() - interval '11 days' FROM v_event") == (ROWS, True)


def test_maintenance_has_nothing_to_do(conn: psycopg.Connection[Any]) -> None:
    insert(conn, "40 days")
    assert conn.execute("SELECT * FROM coord.maintain(interval '1 day')").fetchall() == [
        ("event", "chunks", 0, False),
        ("metric_sample", "chunks", 0, False),
        ("outcome", "chunks", 0, False),
    ]
    assert one(conn, "SELECT count(*) FROM event") == ROWS


def test_copy_writes_compressed_batches_where_the_session_wants_it(conn: psycopg.Connection[Any]) -> None:
    """As the projector's large batches do; from a file of the server, since COPY over this wire breaks it."""
    assert one(conn, queries.statement("can_compress_copy")) is False
    conn.execute("SET coord.direct_compress = 'on'")
    assert one(conn, queries.statement("can_compress_copy")) is True
    conn.execute("DROP TABLE IF EXISTS public.source")
    conn.execute(f"CREATE TABLE public.source AS {rows_of('1 hour', MANY)}".encode())
    conn.execute("COPY public.source TO '/tmp/facts.csv' (FORMAT csv)")
    conn.execute("BEGIN")
    conn.execute("SET LOCAL timescaledb.enable_direct_compress_copy = on")
    conn.execute(f"COPY coord.event ({COLUMNS}) FROM '/tmp/facts.csv' (FORMAT csv)".encode())
    conn.execute("COMMIT")
    # With continuous aggregates on the table only from 2.24 on: before, the same rows go into the row store.
    version = tuple(int(x) for x in one(conn, TIMESCALEDB).split("-")[0].split(".")[:2])
    assert chunks(conn) == [version >= (2, 24)], "the rows went into the columnstore at once"
    assert one(conn, "SELECT count(*) FROM ONLY coord.event") == 0
    differing = f"(SELECT {COLUMNS} FROM public.source EXCEPT SELECT {COLUMNS} FROM coord.event)"
    assert one(conn, f"SELECT count(*) FROM {differing} AS d") == 0
    assert one(conn, "SELECT count(*), count(DISTINCT projected_at) FROM coord.event") == (MANY, 1)
    # What comes after it, in small batches, joins it in the row store; the policy tidies up.
    conn.execute(f"INSERT INTO coord.event ({COLUMNS}) SELECT * FROM public.source LIMIT 10".encode())
    assert one(conn, "SELECT count(*) FROM coord.v_event") == MANY + 10
    conn.execute("DROP TABLE public.source")


def test_migrating_over_compressed_chunks_changes_nothing(
    config: DatabaseConfig, conn: psycopg.Connection[Any]
) -> None:
    insert(conn, "10 days")
    run_job(conn, "policy_compression")
    before = digest(conn)
    conn.close()
    catalogued = catalogue(config.url, "community")
    assert migrations.migrate(config, AGES).applied == ()
    assert catalogue(config.url, "community") == catalogued
    with psycopg.connect(config.url) as again:
        again.execute("SET search_path = coord, public")
        assert digest(again) == before


def refresh(conn: psycopg.Connection[Any], until: datetime | None = None) -> None:
    """What the policies would do, over all time up to `until`."""
    for rollup in load():
        for level in LEVELS:
            name = rollup.table(level)
            conn.execute("CALL refresh_continuous_aggregate(%s, NULL, %s)", (f"coord.{name}", until))


def answers(conn: psycopg.Connection[Any]) -> dict[str, list[str]]:
    return {view: [r[0] for r in conn.execute(rows_sql(view).encode()).fetchall()] for view in view_names()}


def test_rollups_answer_row_by_row_as_on_the_other_editions(
    conn: psycopg.Connection[Any], bare_database: Database
) -> None:
    """The same facts on `plain`, half rolled: every view has the same rows, before and after any refresh."""
    conn.execute("TRUNCATE outcome")
    for sql in facts_sql(600):
        conn.execute(sql.encode())
    live = answers(conn)
    assert all(live.values())
    with psycopg.connect(bare_database.url, autocommit=True) as plain:
        migrations.migrate(DatabaseConfig(url=bare_database.url, edition="plain"))
        for sql in facts_sql(600):
            plain.execute(sql.encode())
        plain.execute(checkpoints_sql(BEGIN + timedelta(hours=3.7)).encode())
        asyncio.run(roll(bare_database.url))
        assert one(plain, "SELECT count(*) FROM coord.fact_rate_1h") > 0
        assert answers(plain) == live
    refresh(conn, BEGIN + timedelta(hours=4))
    assert one(conn, "SELECT count(*) FROM coord.fact_rate_1h") > 0
    assert answers(conn) == live
    refresh(conn)
    assert answers(conn) == live
    # What comes late is counted with the next refresh.
    conn.execute(f"INSERT INTO event ({COLUMNS}) SELECT {COLUMNS} FROM event WHERE seq % 50 = 0".encode())
    refresh(conn)
    assert one(conn, "SELECT sum(facts) FROM v_fact_rate_1d") == 612
    for name in ("event", "metric_sample", "outcome"):
        conn.execute(f"TRUNCATE {name}".encode())
    refresh(conn)


async def roll(url: str) -> None:
    async with pool_of(url) as pool:
        await rollups.advance_all(pool, pause_s=0)


def test_aggregates_that_are_new_count_what_there_was(config: DatabaseConfig, conn: psycopg.Connection[Any]) -> None:
    """Facts older than a refresh policy looks back: counted once, when the aggregate is made."""
    insert(conn, "20 days")
    conn.execute("DROP MATERIALIZED VIEW coord.fact_rate_1m CASCADE")
    conn.execute("DELETE FROM coord.rollup WHERE name LIKE 'fact_rate%'")
    conn.close()
    migrations.migrate(config, AGES)
    with psycopg.connect(config.url, autocommit=True) as again:
        stored = "SELECT sum(facts) FROM coord.fact_rate_1m WHERE bucket < now() - interval '19 days'"
        again.execute("ALTER MATERIALIZED VIEW coord.fact_rate_1m SET (timescaledb.materialized_only = true)")
        assert one(again, stored) == ROWS
        again.execute("ALTER MATERIALIZED VIEW coord.fact_rate_1m SET (timescaledb.materialized_only = false)")
        assert one(again, "SELECT sum(facts) FROM coord.v_fact_rate_1d") == ROWS


def test_what_compresses_and_drops_can_be_held(conn: psycopg.Connection[Any]) -> None:
    held = "SELECT count(*) FROM coord.server_jobs() WHERE state = 'held'"
    assert one(conn, "SELECT coord.hold(true)") == 6
    assert one(conn, "SELECT coord.hold(true)") == 0
    assert one(conn, held) == 6
    assert one(conn, "SELECT count(*) FROM coord.server_jobs() WHERE job = 'rollup' AND state = 'held'") == 0
    assert one(conn, "SELECT coord.hold(false)") == 6
    assert one(conn, held) == 0


def test_policies_are_shown_with_their_sizes(conn: psycopg.Connection[Any]) -> None:
    insert(conn, "10 days", MANY)
    run_job(conn, "policy_compression")
    found = conn.execute(queries.statement("policies").encode()).fetchall()
    by_job = {(row[1], row[2]): row for row in found}
    compress = by_job["compress", "event"]
    assert compress[7] > 7 * compress[8] > 0, "bytes before and after"
    assert by_job["rollup", "fact_rate_1h"][3] == timedelta(minutes=30)


def test_a_retention_that_rollups_cannot_live_with_is_refused_with_its_line(config: DatabaseConfig) -> None:
    with pytest.raises(MigrationFailed, match=r"policies/community.sql, line 1\d: ages.retain_days must exceed 4"):
        migrations.migrate(config, AgesConfig(hot_days=1, retain_days=3))
    with pytest.raises(SettingsError, match=r"archive.drop_days \(3\) must exceed 4"):
        migrations.migrate(config, AgesConfig(hot_days=1), ArchiveConfig(url="/somewhere", after_days=2, drop_days=3))
    migrations.migrate(config, AGES)


def test_with_an_archive_the_server_drops_nothing(config: DatabaseConfig, conn: psycopg.Connection[Any]) -> None:
    conn.close()

    def retained(archive: ArchiveConfig) -> set[str]:
        migrations.migrate(config, AGES, archive)
        with psycopg.connect(config.url, autocommit=True) as again:
            return {table for table, job in jobs(again) if job == "policy_retention"}

    assert retained(ArchiveConfig(url="/somewhere")) == {"outcome"}
    assert retained(ArchiveConfig()) == {"event", "metric_sample", "outcome"}


def test_a_compressed_chunk_is_dropped_when_it_is_what_was_archived(conn: psycopg.Connection[Any]) -> None:
    insert(conn, "10 days")
    run_job(conn, "policy_compression")
    assert chunks(conn) == [True]
    span = one(conn, "SELECT range_start, range_end FROM coord.archive_spans('event')")
    archived = "INSERT INTO coord.archive (relation, range_start, range_end, state, row_count, seq_sum)"
    conn.execute(f"{archived} SELECT 'event', %s, %s, 'verified', count(*), sum(seq) FROM event".encode(), span)
    drop = "SELECT dropped, archived_rows, found_rows FROM coord.archive_drop('event', %s, %s)"

    # A fact that came late into the compressed chunk.
    conn.execute(f"INSERT INTO event ({COLUMNS}) SELECT {COLUMNS} FROM event LIMIT 1".encode())
    assert one(conn, drop, *span) == (False, ROWS, ROWS + 1)
    assert chunks(conn) == [True]

    conn.execute("UPDATE coord.archive SET (row_count, seq_sum) = (SELECT count(*), sum(seq) FROM event)")
    assert one(conn, drop, *span) == (True, ROWS + 1, ROWS + 1)
    assert chunks(conn) == []
    assert one(conn, "SELECT state FROM coord.archive") == "dropped"
    conn.execute("TRUNCATE coord.archive")


def test_compressed_rows_of_a_range_that_is_no_chunk_leave(conn: psycopg.Connection[Any]) -> None:
    insert(conn, "10 days")
    run_job(conn, "policy_compression")
    start, end = one(conn, "SELECT range_start, range_end FROM coord.archive_spans('event')")
    span = (start - timedelta(hours=1), end)
    archived = "INSERT INTO coord.archive (relation, range_start, range_end, state, row_count, seq_sum)"
    conn.execute(f"{archived} SELECT 'event', %s, %s, 'verified', count(*), sum(seq) FROM event".encode(), span)
    drop = "SELECT dropped, archived_rows, found_rows FROM coord.archive_drop('event', %s, %s)"
    assert one(conn, drop, *span) == (True, ROWS, ROWS)
    assert one(conn, "SELECT count(*) FROM event") == 0
    conn.execute("TRUNCATE coord.archive")


def test_migrated_equals_schema(config: DatabaseConfig) -> None:
    migrations.migrate(config, AgesConfig(hot_days=7, retain_days=30))
    migrated = catalogue(config.url, "community")
    with community_server() as url:
        declared_config = DatabaseConfig(url=url, edition="community")
        from_schema(declared_config)
        declared = catalogue(url, "community")
    for what, rows in declared.items():
        assert migrated[what] == rows, what
    # Three tables are compressed and dropped; seven rollups of three widths are refreshed, and days never dropped.
    assert len(declared["jobs"]) == 2 * 3 + 7 * (3 + 2)
