"""`coord query`: every format says the same, of any size, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from coord import errors, limits
from coord.ops.cli import answers as writers
from coord.ops.cli import bars
from coord.store import answers, copy, queries
from tests.support import forking
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.store import T0, event, pool_of

pa = pytest.importorskip("pyarrow")

ROWS = 2_500  # more than two batches


@pytest.fixture
async def url(migrated_database: Database) -> str:
    async with pool_of(migrated_database.url) as pool, pool.transaction() as conn:
        await copy.events(
            conn,
            [
                event(
                    i, at=T0 + timedelta(seconds=i), data=json.dumps({"n": i, "text": 'a "b",\nc'}) if i % 3 else None
                )
                for i in range(ROWS)
            ],
        )
    return migrated_database.url


async def test_all_formats_say_the_same(url: str, tmp_path: Path) -> None:
    from pyarrow import parquet

    async def asked(form: str) -> Path:
        file = tmp_path / form
        found = await cli("query", "facts", "-p", "tenant=acme", "-o", form, "--to", file, "--database", url)
        assert (found.code, found.out) == (0, ""), found.err
        assert found.err.endswith(f"{ROWS:,} rows\n")
        return file

    rows = json.loads((await asked("json")).read_text())
    assert len(rows) == ROWS
    assert [r["seq"] for r in rows] == list(range(ROWS))
    assert [r["data"] and r["data"]["n"] for r in rows[:4]] == [None, 1, 2, None], "JSON inside JSON"
    assert [json.loads(line) for line in (await asked("jsonl")).read_text().splitlines()] == rows
    with (await asked("csv")).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(r["seq"]) for r in lines] == list(range(ROWS))
    assert json.loads(lines[1]["data"]) == rows[1]["data"]
    table = parquet.read_table(await asked("parquet"))
    with pa.ipc.open_stream((await asked("arrow")).read_bytes()) as stream:
        assert stream.schema.metadata[b"coord.question"] == b"facts"
        assert stream.read_all().equals(table)
    assert table.schema.field("stored_at").type == pa.timestamp("us", tz="UTC")
    assert (table.schema.field("seq").type, table.schema.field("epoch").type) == (pa.int64(), pa.int32())
    assert table["seq"].to_pylist() == list(range(ROWS))
    assert table["stored_at"][5].as_py() == T0 + timedelta(seconds=5)
    assert [json.loads(d) if d else None for d in table["data"].to_pylist()] == [r["data"] for r in rows]
    shown = (await cli("query", "facts", "-p", "limit=1200", "--database", url)).out.splitlines()
    assert len([line for line in shown if "task" in line]) == 1200


async def test_an_empty_answer_has_its_columns_all_the_same(url: str, tmp_path: Path) -> None:
    from pyarrow import parquet

    nobody = ("query", "facts_by_event", "-p", "tenant=nobody", "--database", url)
    assert (await cli(*nobody, "-o", "json")).json == []
    assert (await cli(*nobody, "-o", "csv")).out == "kind,event,facts,agents,first_at,last_at\n"
    assert (await cli(*nobody)).err.endswith("No rows.\n")
    await cli(*nobody, "-o", "parquet", "--to", tmp_path / "none")
    assert parquet.read_table(tmp_path / "none").schema.names[:3] == ["kind", "event", "facts"]
    assert (await cli("db", *nobody, "-o", "jsonl")).out == "", "also as `coord db query`"


async def test_a_pipe_takes_arrow_and_what_is_no_file_is_refused(url: str, tmp_path: Path) -> None:
    process = await forking.python(
        "-c", "from coord.ops.cli import main; main()", "query", "facts", "-o", "arrow", "--database", url,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err
    with pa.ipc.open_stream(out) as stream:
        assert stream.read_all().num_rows == ROWS
    refused = await cli("query", "facts", "-o", "parquet", "--database", url)
    assert (refused.code, "--to FILE" in refused.err) == (2, True)
    away = await cli("query", "facts", "-o", "csv", "--to", tmp_path / "no" / "such", "--database", url)
    assert (away.code, "cannot write" in away.err) == (2, True)


async def test_an_answer_that_breaks_off_leaves_no_file(url: str, tmp_path: Path) -> None:
    found = await cli("query", "facts", "-p", "since=sometime", "-o", "csv", "--to", tmp_path / "x", "--database", url)
    assert (found.code, "[query.invalid]" in found.err) == (2, True)
    assert list(tmp_path.iterdir()) == []
    assert (await cli("query", "nonsense")).code == 2
    assert (await cli("query", "facts", "-p", "nonsense=1", "--database", url)).code == 2


async def test_times_may_be_so_long_ago(url: str) -> None:
    async with pool_of(url) as pool, pool.transaction() as conn:
        await copy.events(conn, [event(9999, at=datetime.now(UTC) - timedelta(minutes=30))])
    for since, expected in (("1h", 1), ("1m", 0), ("-infinity", ROWS + 1), ("yesterday", 1)):
        counted = await cli("query", "rows_vs_facts", "-p", f"since={since}", "-o", "json", "--database", url)
        assert counted.json[0]["rows"] == expected, since


async def test_a_question_explains_itself(url: str) -> None:
    said = await cli("query", "handoff_clusters", "--about")
    assert "work as one team" in said.out
    assert "-p at_least=…" in said.out
    as_json = (await cli("query", "handoff_clusters", "--about", "-o", "json")).json
    assert as_json["parameters"]["at_least"].startswith("handoffs, in either direction")
    listed = (await cli("query", "-o", "json")).json
    assert len(listed) >= 55
    assert {"agents", "backlog", "task_percentiles"} <= {q["name"] for q in listed if q["dashboard"]}


async def test_the_bar_counts_rows(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def bar(_ctx: object, what: str) -> Iterator[Callable[[int, int], None]]:
        assert what == "facts"
        yield lambda done, total: seen.append((done, total))

    monkeypatch.setattr(bars, "bar", bar)
    await cli("query", "facts", "-o", "csv", "--to", tmp_path / "x", "--database", url)
    assert seen[0][0] == 100, "the first batch is small"
    assert seen[-1][0] == ROWS
    assert all(done <= total for done, total in seen)


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow"])
async def test_memory_does_not_grow_with_the_answer(
    url: str, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """26 MB of text through two: by the peak of Python's memory, and of Arrow's."""
    monkeypatch.setattr(limits, "EXPORT_BATCH_BYTES", 2**19)
    monkeypatch.setattr(limits, "EXPORT_GROUP_BYTES", 2**21)
    sql = (
        "-- Much.\n-- :rows  how many = 5000\n-- Large ones.\nSELECT i AS n, repeat(md5(i::text), 160) AS words"
        " FROM generate_series(1, :'rows'::integer) AS s (i)"
    )
    much = queries.parse("much", sql)
    arrow_before = pa.total_allocated_bytes()
    file = tmp_path / "much"
    async with pool_of(url) as pool, answers.answer(pool, much, {}) as answer:
        with file.open("wb") as stream, io.TextIOWrapper(stream) as text:
            writer: writers.Writer
            if form == "csv":
                writer = writers.CsvWriter(text, answer.columns)
            else:
                kind = writers.ParquetWriter if form == "parquet" else writers.ArrowWriter
                writer = kind(stream, answer.columns, {})
            tracemalloc.start()
            try:
                batches = arrow_most = 0
                async for rows in answer.batches():
                    writer.write(rows)  # type: ignore[arg-type]
                    batches += 1
                    arrow_most = max(arrow_most, pa.total_allocated_bytes() - arrow_before)
                writer.close()
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    assert batches > 40
    assert peak < 8 * limits.EXPORT_BATCH_BYTES, f"{peak / 1e6:.0f} MB"
    assert arrow_most < 4 * limits.EXPORT_GROUP_BYTES, f"{arrow_most / 1e6:.0f} MB"


async def test_batches_shrink_where_rows_are_large_and_grow_again(url: str) -> None:
    sql = (
        "-- Large in the middle.\n-- :rows  how many = 3000\n-- Some are.\n"
        "SELECT CASE WHEN i BETWEEN 1400 AND 1600 THEN repeat('x', 500000) ELSE 'y' END AS words"
        " FROM generate_series(1, :'rows'::integer) AS s (i)"
    )
    async with pool_of(url) as pool, answers.answer(pool, queries.parse("uneven", sql), {}) as answer:
        sizes = [len(rows) async for rows in answer.batches()]
    assert sum(sizes) == 3000
    assert sizes[0] == 100
    assert min(sizes[1:-1]) < 50
    assert max(sizes) <= limits.EXPORT_ROWS


async def test_without_pyarrow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.ExtraMissing, match="pyarrow"):
        writers.ArrowWriter(io.BytesIO(), [], {})


async def test_values_of_every_kind(url: str) -> None:
    sql = (
        "-- Kinds.\n-- :x  a word = w\n-- All of them.\n"
        "SELECT :'x'::text AS word, 1::smallint AS small, 1.5::numeric AS num, 3::numeric AS whole, true AS yes,"
        " DATE '2026-01-02' AS day, INTERVAL '90 s' AS span, '\\x00ff'::bytea AS raw, ARRAY['a', 'b'] AS words,"
        " ARRAY[1, 2]::bigint[] AS numbers, '{\"a\": [1]}'::jsonb AS doc, NULL::timestamptz AS never,"
        " gen_random_uuid() IS NOT NULL AS made, '127.0.0.1'::inet AS host"
    )
    question = queries.parse("kinds", sql)
    data, text = io.BytesIO(), io.StringIO()
    async with pool_of(url) as pool, answers.answer(pool, question, {}) as answer:
        binary = writers.ArrowWriter(data, answer.columns, {})
        lines = writers.JsonLinesWriter(text, answer.columns)
        async for rows in answer.batches():
            binary.write(rows)  # type: ignore[arg-type]
            lines.write(rows)  # type: ignore[arg-type]
        binary.close()
        lines.close()
    (row,) = pa.ipc.open_stream(data.getvalue()).read_all().to_pylist()
    assert row == {
        "word": "w", "small": 1, "num": 1.5, "whole": 3.0, "yes": True, "day": datetime(2026, 1, 2).date(),
        "span": timedelta(seconds=90), "raw": b"\x00\xff", "words": ["a", "b"], "numbers": [1, 2], "doc": '{"a": [1]}',
        "never": None, "made": True, "host": "127.0.0.1",
    }  # fmt: skip
    said = json.loads(text.getvalue())
    assert (said["num"], said["whole"], said["doc"], said["words"]) == (1.5, 3, {"a": [1]}, ["a", "b"])


async def test_a_database_that_goes_away_in_between_is_said(url: str) -> None:
    async with pool_of(url) as pool:
        with pytest.raises(errors.DatabaseUnavailable):
            async with answers.answer(pool, queries.get("facts"), {}) as answer:
                async for _ in answer.batches():
                    admin = await asyncpg.connect(url)
                    await admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                    await admin.close()
