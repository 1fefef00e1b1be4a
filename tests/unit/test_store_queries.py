"""Named questions: their headers, parameters and placeholders."""

from __future__ import annotations

import re

import pytest

from coord.errors import QueryError
from coord.runtime.assets import sql_dir
from coord.store import queries

TEXT = """\
-- What is asked here?
-- Further words, no parameter.
-- :tenant  only this fleet; empty: all
-- :since   from then on = -infinity
SELECT ':''x', "a:'tenant'" -- :'nothing'
FROM coord.v_event
WHERE tenant = :'tenant' AND stored_at >= :'since'::timestamptz AND agent <> :'tenant' AND id LIKE 'a%'
"""


def test_header_and_parameters() -> None:
    query = queries.parse("q", TEXT)
    assert query.title == "What is asked here?"
    assert list(query.parameters) == ["tenant", "since"]
    assert query.parameters["since"] == queries.Parameter("from then on", "-infinity")
    assert query.explanation == "Further words, no parameter."
    assert not query.dashboard
    assert queries.parse("q", TEXT.replace("SELECT", "-- coord: dashboard\nSELECT")).dashboard


def test_placeholders_leave_strings_and_comments_alone() -> None:
    query = queries.parse("q", TEXT)
    assert "WHERE tenant = $1::text AND stored_at >= $2::text::timestamptz AND agent <> $1::text" in query.for_asyncpg
    assert """SELECT ':''x', "a:'tenant'" -- :'nothing'""" in query.for_asyncpg
    assert "tenant = %(tenant)s::text" in query.for_psycopg
    assert "LIKE 'a%%'" in query.for_psycopg


def test_bind_takes_defaults_and_refuses_strangers() -> None:
    query = queries.parse("q", TEXT)
    assert query.bind({"tenant": 7}) == {"tenant": "7", "since": "-infinity"}
    with pytest.raises(QueryError, match="'until'"):
        query.bind({"until": 1})


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "-- no full stop\nSELECT 1",
        "-- Undeclared.\nSELECT :'x'",
        "-- Flagged.\n-- coord: dashbord\nSELECT 1",
        "-- Unused.\n-- :x  is not used\nSELECT 1",
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match=r"q\.sql"):
        queries.parse("q", text)


def test_an_unknown_question_is_refused_naming_the_others() -> None:
    with pytest.raises(QueryError, match="recent_events"):
        queries.get("recnt_events")


@pytest.mark.parametrize("name", list(queries.all_queries()))
def test_every_question_reads_views_and_says_what_it_answers(name: str) -> None:
    query = queries.get(name)
    assert all(p.doc for p in query.parameters.values())
    assert query.explanation, "how is the answer read?"
    tables = set(re.findall(r"\b(?:FROM|JOIN)\s+coord\.(\w+)", query.sql))
    # The exception is an operator's question; analysts have no right to tables.
    owners = {"latency_committed": {"event"}}
    assert tables == owners.get(name, {t for t in tables if t.startswith("v_")})
    assert tables


@pytest.mark.parametrize("path", sorted((sql_dir() / "queries" / "internal").glob("*.sql")), ids=lambda p: p.stem)
def test_every_statement_says_why(path: object) -> None:
    text = path.read_text("utf-8")  # type: ignore[attr-defined]
    assert re.match(r"-- \w.{10,}", text)
    statement = queries.statement(path.stem)  # type: ignore[attr-defined]
    assert statement
    assert "--" not in statement


@pytest.mark.parametrize("table", ["task", "workflow"])
def test_a_small_transaction_writes_what_a_large_one_does(table: str) -> None:
    """`write_at_once` repeats the upserts of its tables, whose rows are of other names there: nothing else differs."""
    upsert, at_once = (" ".join(queries.statement(name).split()) for name in (f"upsert_{table}", "write_at_once"))
    columns = upsert[upsert.index(f"INSERT INTO coord.{table} (") : upsert.index(" FROM new ORDER BY")]
    changes = upsert[upsert.index("ON CONFLICT") :]
    ended = upsert[upsert.index("SELECT to_timestamp(new.ended_at)") : upsert.index(" FROM new LEFT JOIN")]
    assert [part for part in (columns, changes, ended) if part not in at_once] == []
    assert len(queries.statement("write_at_once")) < 15 * 1024, "asyncpg prepares longer texts anew each time"
