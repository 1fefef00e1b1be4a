"""Named SQL: the questions people ask, and the statements the code runs.

A *question* is a file of sql/queries/.  Its first comment line says in a sentence what it
answers; a line for each parameter says what that means and what it is when not given; other
lines explain how to read the answer.  `-- coord: dashboard` marks what a dashboard asks again and
again: it has to be answered in `limits.DASHBOARD_MS`, the others in `limits.QUESTION_MS`, but for
those with `-- coord: export`, which may be of any size::

    -- Files each agent listed and analysed, busiest first.
    -- :tenant  only this fleet; empty: all
    -- :since   facts stored from then on = -infinity
    -- A file that two agents analysed counts for both.

The SQL names a parameter as psql does, `:'since'`, and casts it: every parameter is text.
So the same file runs here, through psycopg and in psql (`psql -v tenant= -v since=… -f FILE`).

A *statement* is a file of sql/queries/internal/, with asyncpg's `$1`; only this package runs
it, and it may change without notice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import asyncpg
import msgspec

from coord import errors
from coord.runtime.assets import sql_dir
from coord.store.pool import Connection
from coord.store.slow import called
from coord.store.sqlstate import translated

_HEADER = re.compile(r"--\s?(.*)")
_FLAGS = re.compile(r"coord:\s*(?P<flags>.*)")
_KNOWN_FLAGS: Final = frozenset({"dashboard", "export"})
_PARAMETER = re.compile(r":(?P<name>[a-z_]+)\s+(?P<doc>.*?)(?:\s*= (?P<default>.*))?$")
_TOKEN = re.compile(
    r"""
      (?P<skip> '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* )
    | :'(?P<parameter>[a-z_]+)'
    | (?P<schema>\bcoord\.)(?=v_)
    """,
    re.VERBOSE,
)


_RELATION = re.compile(
    r"""
      (?P<skip> '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* )
    | \bcoord\.(?P<name>[a-z0-9_]+)\b(?!\s*\()
    """,
    re.VERBOSE,
)
"""What a question reads; a name before a bracket is a function's."""


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a question; its value is text, as a person would type it."""

    doc: str
    default: str = ""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One named question."""

    name: str
    title: str
    """What it answers, in a sentence."""
    parameters: Mapping[str, Parameter]
    sql: str
    """The file as it is."""
    explanation: str = ""
    """How to read the answer."""
    dashboard: bool = False
    """Whether dashboards ask it again and again; see the module."""
    export: bool = False
    """Whether its answer may be of any size."""

    def bind(self, values: Mapping[str, object]) -> dict[str, str]:
        """The value of every parameter, in the order of the file: given or default.

        Raises `QueryError` for a name the question does not have.
        """
        unknown = values.keys() - self.parameters.keys()
        if unknown:
            raise errors.QueryError(
                f"{self.name} has no parameter {min(unknown)!r}", parameters=", ".join(self.parameters)
            )
        return {name: str(values.get(name, p.default)) for name, p in self.parameters.items()}

    def of_one_fleet(self) -> Query:
        """The same question to the views that logins of one fleet have (sql/roles/coord_tenant.sql)."""
        sql = _TOKEN.sub(lambda m: "coord_tenant." if m["schema"] else m[0], self.sql)
        return msgspec.structs.replace(self, sql=sql)

    @property
    def relations(self) -> frozenset[str]:
        """The views, or tables, of schema coord that it reads."""
        return frozenset(m["name"] for m in _RELATION.finditer(self.sql) if m["name"])

    def of_its_tenant(self) -> Query:
        """The same question, which can see no row of another fleet than `:tenant`, whatever else its SQL says.

        Each view is replaced by its rows of that fleet, so it is not left to the conditions of each question; the
        planner makes one of the two.  Raises `QueryError` for a question without that parameter, and for one that reads
        anything but views.
        """
        if "tenant" not in self.parameters or not all(name.startswith("v_") for name in self.relations):
            raise errors.QueryError(f"{self.name} is not about one fleet")
        rows = "(SELECT * FROM coord.{} WHERE tenant = :'tenant')"
        sql = _RELATION.sub(lambda m: rows.format(m["name"]) if m["name"] else m[0], self.sql)
        return msgspec.structs.replace(self, sql=sql)

    @property
    def for_asyncpg(self) -> str:
        """With `$1`, `$2`, … in the order of `parameters`."""
        number = {name: i for i, name in enumerate(self.parameters, 1)}
        return called(_substitute(self.sql, lambda name: f"${number[name]}::text"), self.name)

    @property
    def for_psycopg(self) -> str:
        """With `%(name)s`."""
        return _substitute(self.sql.replace("%", "%%"), lambda name: f"%({name})s::text")


@cache
def all_queries() -> Mapping[str, Query]:
    """Every question by name, sorted."""
    return MappingProxyType(
        {path.stem: parse(path.stem, path.read_text("utf-8")) for path in sorted(_folder().glob("*.sql"))}
    )


def get(name: str) -> Query:
    """The question of that name.  Raises `UnknownQuestion`; `like` are those that are spelt alike."""
    query = all_queries().get(name)
    if query is None:
        like = difflib.get_close_matches(name, all_queries(), n=5)
        raise errors.UnknownQuestion(f"there is no question {name!r}", like=", ".join(like))
    return query


async def run(conn: Connection, name: str, /, **parameters: object) -> list[asyncpg.Record]:
    """Ask a question; the rows of the answer.

    Raises `QueryError` for an unknown question or parameter, or for a value PostgreSQL cannot
    read as what the question takes it for.
    """
    query = get(name)
    values = query.bind(parameters)
    try:
        with translated(f"query {name}"):
            query = await for_login(conn, query)
            return await conn.fetch(query.for_asyncpg, *values.values())
    except errors.DatabaseRefused as exc:
        raise errors.QueryError(f"{name}: {exc.message}") from exc


async def for_login(conn: Connection, query: Query) -> Query:
    """The question to the views that this connection's login may read."""
    return query.of_one_fleet() if await conn.fetchval(statement("reads_one_fleet")) else query


@cache
def statement(name: str, schema: str = "coord") -> str:
    """The text of an internal statement, its comments left out; `schema`: of its tables, in place of ``coord``."""
    path = _folder() / "internal" / f"{name}.sql"
    lines = path.read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("--")).strip()
    return called(text if schema == "coord" else re.sub(r"\bcoord\.", f"{schema}.", text), name)


def parse(name: str, text: str) -> Query:
    """A question from the text of its file.  Raises `QueryError` when the file is not as it should be."""
    header: list[str] = []
    for line in text.splitlines():
        match = _HEADER.match(line)
        if match is None:
            break
        header.append(match[1].rstrip())
    if not header or not header[0].endswith((".", "?")):
        raise errors.QueryError(f"{name}.sql must open with a comment: one sentence on what it answers")
    parameters: dict[str, Parameter] = {}
    words: list[str] = []
    flags: set[str] = set()
    for line in header[1:]:
        if (found := _PARAMETER.match(line)) is not None:
            parameters[found["name"]] = Parameter(found["doc"], found["default"] or "")
        elif (found := _FLAGS.match(line)) is not None:
            flags.update(found["flags"].split())
        elif line:
            words.append(line)
    if flags - _KNOWN_FLAGS:
        raise errors.QueryError(f"{name}.sql: unknown flag {min(flags - _KNOWN_FLAGS)!r}")
    used = {m["parameter"] for m in _TOKEN.finditer(text) if m["parameter"]}
    if used != parameters.keys():
        raise errors.QueryError(
            f"{name}.sql: parameters of the header and of the SQL differ", differ=sorted(used ^ parameters.keys())
        )
    return Query(
        name=name,
        title=header[0],
        parameters=MappingProxyType(parameters),
        sql=text,
        explanation=" ".join(words),
        dashboard="dashboard" in flags,
        export="export" in flags,
    )


def _substitute(sql: str, placeholder: Any) -> str:
    return _TOKEN.sub(lambda m: placeholder(m["parameter"]) if m["parameter"] else m[0], sql)


def _folder() -> Path:
    return sql_dir() / "queries"
