"""The statements that follow from a rollup's file, for each edition.

::

                    community                                     apache, plain
    fact_rate_1m    continuous aggregate over event               table, moved on by coord.store.rollups
    fact_rate_1h    continuous aggregate over fact_rate_1m        table, from fact_rate_1m
    fact_rate_1d    continuous aggregate over fact_rate_1h        table, from fact_rate_1h
    v_fact_rate_…   the aggregate, which adds what is             the table, and what is not in it yet
                    not in it yet                                 counted as it is asked for

So the views' answers are the same everywhere, at any time, however far the rollups have come.

Elsewhere than in community a bucket that is not over is in both, the table and what is counted: it has what was stored
before *progress*, the level below the rest.  So a day costs a view what one row a group of it does, not its hours
and minutes again.
Pure: text from text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from coord.store.rollup_files import LEVELS, WIDTHS, Column, Level, Rollup

_SCHEMA: Final = "coord"

_ORIGIN: Final = "TIMESTAMPTZ '2000-01-03 00:00:00+00'"
"""A Monday, as TimescaleDB's buckets have it."""

_MARK: Final = "coalesce((SELECT m.%s FROM coord.rollup AS m WHERE m.name = '%s'), '-infinity')"
"""A sub-select and no function: asked once a question, with the rights of the view's owner."""

_HASHED: Final = "xid '0'"
"""A constant of a type that can be hashed and not sorted: rows that are grouped by it, too, are not sorted for it."""

_NOW: Final = "least(now(), (SELECT max(c.stored_at) FROM coord.checkpoint AS c))"

BUCKET_DOC: Final = "Begin of the time it counts, by the broker''s clock, UTC."


def qualified(name: str) -> str:
    """A table or view with its schema."""
    return f"{_SCHEMA}.{name}"


def tables(rollup: Rollup) -> str:
    """Apache and plain: what is counted, and its index.  May be repeated."""
    done: list[str] = []
    for level in LEVELS:
        name = qualified(rollup.table(level))
        groups = ", ".join(c.name for c in rollup.groups)
        done.append(
            f"CREATE TABLE IF NOT EXISTS {name} AS\n{_first(rollup, _binned('1m', 's.stored_at'))}\nWITH NO DATA;\n"
            f"CREATE UNIQUE INDEX IF NOT EXISTS {rollup.table(level)}_key ON {name} (bucket, {groups});\n"
            f"COMMENT ON TABLE {name} IS '{_quoted(rollup.title)} By {WIDTHS[level]}. Analysts read"
            f" v_{rollup.table(level)}.';"
        )
        done += [f"COMMENT ON COLUMN {name}.{c} IS '{doc}';" for c, doc in _docs(rollup)]
    return "\n".join(done)


def continuous_aggregates(rollup: Rollup) -> str:
    """community: the server counts.  May be repeated; what a lesser edition counted before makes room."""
    done = []
    for level in LEVELS:
        name = qualified(rollup.table(level))
        if level == "1m":
            query = _first(rollup, f"time_bucket(INTERVAL '{WIDTHS[level]}', s.stored_at)")
        else:
            query = _further(
                rollup,
                f"time_bucket(INTERVAL '{WIDTHS[level]}', s.bucket)",
                qualified(rollup.table(level_below(level))),
            )
        done.append(
            f"DO $$ BEGIN IF EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('{name}') AND relkind = 'r') THEN\n"  # noqa: S608 - names of our files
            f"  DROP TABLE {name} CASCADE;\n  DELETE FROM coord.rollup WHERE name = '{rollup.table(level)}';\n"
            "END IF; END $$;\n"
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {name}\n"
            f"WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS\n{query}\nWITH NO DATA;"
        )
    return "\n".join(done)


def views(rollup: Rollup, *, community: bool) -> str:
    """What analysts read: the same columns and rows on every edition."""
    done = []
    order = ", ".join(c.name for c in rollup.columns[1:])
    for level in LEVELS:
        view = qualified(f"v_{rollup.table(level)}")
        stored = f"SELECT r.tenant, r.bucket, {_list('r', rollup.columns[1:])}\nFROM coord.{rollup.table(level)} AS r"
        if community:
            query = stored
        else:
            shown = _mark(rollup, level, "shown")
            query = (
                f"{stored}\nWHERE r.bucket < {shown}\nUNION ALL\n"
                f"SELECT c.tenant, c.bucket, {_list('c', rollup.columns[1:])}\n"
                f"FROM (\n{_open(rollup, level)}\n) AS c"
            )
        done.append(
            f"CREATE OR REPLACE VIEW {view} (tenant, bucket, {order}) AS\n{query};\n"
            f"COMMENT ON VIEW {view} IS '{_quoted(rollup.title)} By {WIDTHS[level]}; bound bucket.';"
        )
        done += [f"COMMENT ON COLUMN {view}.{c} IS '{doc}';" for c, doc in _docs(rollup)]
    return "\n".join(done)


def step(rollup: Rollup, level: Level) -> str:
    """Apache and plain: add what the source has of a time ($1 to $2, exclusive); how many of its rows that was.

    Bounded by time, not by buckets: a part of a bucket adds to what there is of it.
    """
    if level == "1m":
        query = _first(rollup, _binned(level, "s.stored_at"), bound="s.stored_at")
    else:
        below = qualified(rollup.table(level_below(level)))
        query = _further(rollup, _binned(level, "s.bucket"), below, bound="s.bucket")
    names = ", ".join(("bucket", *(c.name for c in rollup.columns)))
    keys = ", ".join(("bucket", *(c.name for c in rollup.groups)))
    return (
        f"WITH counted AS (\n{query}\n), put AS (\n  INSERT INTO coord.{rollup.table(level)} AS old ({names})\n"  # noqa: S608 - names of our files
        f"  SELECT {names} FROM counted\n  ON CONFLICT ({keys}) DO UPDATE SET "
        f"{', '.join(f'{c.name} = {_put_together(c)}' for c in rollup.measures)}\n)\n"
        "SELECT coalesce(sum(source_rows), 0)::bigint FROM counted"
    )


def expire(rollup: Rollup, level: Level) -> str:
    """Remove what began more than $1 (interval) ago and what the level above has counted; $2 rows at most.

    Ago by both clocks, the database's and the broker's, as for the archive (archive_now.sql).
    """
    table, above = qualified(rollup.table(level)), _mark(rollup, LEVELS[LEVELS.index(level) + 1], "shown")
    return (
        f"DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table}"  # noqa: S608 - names of our files
        f" WHERE bucket < least({_NOW} - $1::interval, {above}) LIMIT $2))"
    )


def take_back(rollup: Rollup, level: Level) -> str:
    """Remove the buckets from $1 on."""
    return f"DELETE FROM coord.{rollup.table(level)} WHERE bucket >= $1"  # noqa: S608 - names of our files


def oldest(rollup: Rollup, level: Level) -> str:
    """The first bucket of the level below; of the first level, when the source's rows begin."""
    if level == "1m":
        return f"SELECT coord.oldest('{rollup.source}')"
    return f"SELECT min(bucket) FROM coord.{rollup.table(level_below(level))}"  # noqa: S608 - names of our files


def has_rows(rollup: Rollup) -> str:
    """Whether its source has rows stored from $1 on and before $2."""
    table = qualified(rollup.source)
    return f"SELECT EXISTS (SELECT FROM {table} WHERE stored_at >= $1 AND stored_at < $2)"  # noqa: S608 - our files


def count(rollup: Rollup, level: Level) -> str:
    """How many rows a step from $1 to $2 would read; $3 at most."""
    table, column = (rollup.source, "stored_at") if level == "1m" else (rollup.table(level_below(level)), "bucket")
    return (
        f"SELECT count(*) FROM (SELECT FROM coord.{table}"  # noqa: S608 - names of our files
        f" WHERE {column} >= $1 AND {column} < $2 LIMIT $3) AS x"
    )


def _open(rollup: Rollup, level: Level) -> str:
    """The buckets that are not over: what each level has that the one above has not, and what was stored since.

    Grouped once, over all of it; facts are put together before.  Of a bound that it does not know the planner thinks
    that it leaves a third of the table, of two that they leave little: so there is an upper one, and it goes by the
    index (BRIN).  It would then sort what is not so little after all: so facts are grouped by what has no order, too.
    """
    parts = []
    begin = _mark(rollup, level, "shown")
    for below in reversed(LEVELS[: LEVELS.index(level) + 1]):
        binned = "r.bucket" if below == level else _binned(level, "r.bucket")
        parts.append(
            f"  SELECT {binned} AS bucket, {_list('r', rollup.columns)}\n"  # noqa: S608 - names of our files
            f"  FROM {qualified(rollup.table(below))} AS r\n  WHERE r.bucket >= {begin} AND r.bucket < 'infinity'"
        )
        begin = _mark(rollup, below, "progress")
    since = f"s.stored_at >= {begin} AND s.stored_at < 'infinity'"
    parts.append(_first(rollup, _binned(level, "s.stored_at"), since=since, hashed=True))
    return _further(rollup, "s.bucket", "(\n" + "\n  UNION ALL\n".join(parts) + "\n  )")


def _mark(rollup: Rollup, level: Level, which: str) -> str:
    return _MARK % (which, rollup.table(level))


def _first(rollup: Rollup, bucket: str, *, since: str = "", bound: str = "", hashed: bool = False) -> str:
    items = [f"{c.expression} AS {c.name}" for c in rollup.columns]
    more = [_HASHED] if hashed else []
    return _select(rollup, bucket, items, qualified(rollup.source), rollup.where, since, bound, more)


def _further(rollup: Rollup, bucket: str, below: str, *, since: str = "", bound: str = "") -> str:
    items = [
        f"s.{c.name}" if c.merge is None else f"{c.merge}(s.{c.name})::{c.type} AS {c.name}" for c in rollup.columns
    ]
    return _select(rollup, bucket, items, below, "", since, bound)


def _select(
    rollup: Rollup, bucket: str, items: Sequence[str], source: str, where: str, since: str, bound: str,
    more: Sequence[str] = (),
) -> str:  # fmt: skip
    counted = ["count(*) AS source_rows"] if bound else []
    wheres = [w for w in (where, since, f"{bound} >= $1 AND {bound} < $2" if bound else "") if w]
    groups = ["1", *(str(i + 2) for i, c in enumerate(rollup.columns) if c.merge is None), *more]
    lines = [
        f"  SELECT {', '.join([f'{bucket} AS bucket', *items, *counted])}",
        f"  FROM {source} AS s",
        *([f"  WHERE {' AND '.join(wheres)}"] if wheres else []),
        f"  GROUP BY {', '.join(groups)}",
    ]
    return "\n".join(lines)


def _binned(level: Level, time: str) -> str:
    return f"date_bin(INTERVAL '{WIDTHS[level]}', {time}, {_ORIGIN})"


def level_below(level: Level) -> Level:
    """The one that it is made from."""
    return LEVELS[LEVELS.index(level) - 1]


def _put_together(column: Column) -> str:
    if column.merge == "sum":
        return f"old.{column.name} + excluded.{column.name}"
    return f"{'least' if column.merge == 'min' else 'greatest'}(old.{column.name}, excluded.{column.name})"


def _list(alias: str, columns: Sequence[Column]) -> str:
    return ", ".join(f"{alias}.{c.name}" for c in columns)


def _docs(rollup: Rollup) -> list[tuple[str, str]]:
    return [("bucket", BUCKET_DOC), *((c.name, _quoted(c.doc)) for c in rollup.columns)]


def _quoted(text: str) -> str:
    return text.replace("'", "''")
