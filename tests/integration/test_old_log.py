"""A log that an earlier release wrote: today's folds make of it the rows that it made, and decide nothing anew.

tests/golden/README.md says what is in it.  Whoever changes a fold so that this fails changes what has happened.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from coord import limits
from coord.core.deciding import Decider, Owed, State
from coord.projector import entities
from coord.projector.rows import _event_row
from coord.server.deciders import deciders
from coord.store.rows import EventRow
from coord.testing.deciders import restored
from coord.wire.envelope import Poison, StoredFact, decode_message, parse_time
from tests.support.cluster import Database
from tests.support.store import pool_of

LOGS = Path(__file__).parents[1] / "golden" / "logs"

OTHERWISE = {"signal": {"waits"}}  # since then it says of each wait where it began
"""Columns that a later release fills otherwise."""


def lines(log: Path, name: str) -> Iterator[Any]:
    for line in (log / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def read(log: Path) -> tuple[list[StoredFact], list[Poison]]:
    """The log, as readers get it."""
    facts: list[StoredFact] = []
    poison: list[Poison] = []
    for m in lines(log, "events"):
        body = base64.b64decode(m["base64"]) if "base64" in m else m["body"].encode()
        head = m["headers"].encode() or None
        for item in decode_message(m["subject"], head, body, m["seq"], parse_time(m["stored_at"])):
            (facts if isinstance(item, StoredFact) else poison).append(item)  # type: ignore[arg-type]
    return facts, poison


@pytest.fixture(params=sorted(path.name for path in LOGS.iterdir()))
def log(request: pytest.FixtureRequest) -> Path:
    return LOGS / str(request.param)


async def test_the_tables_are_as_the_release_left_them(migrated_database: Database, log: Path) -> None:
    facts, poison = read(log)
    refused = {p.seq: p.error.code for p in poison}
    rows: list[EventRow] = [_event_row(fact, 1, fact.partition) for fact in facts]
    expected: dict[str, list[dict[str, Any]]] = {}
    for line in lines(log, "rows"):
        expected.setdefault(line["table"], []).append(line["row"])
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        while True:
            async with conn.transaction():
                (found,) = await entities.project(conn, [rows])
            if not found:
                break
            refused |= {seq: error.code for (seq, _), error in found.items()}
            rows = [row for row in rows if (row[2], row[3]) not in found]
        assert refused == {row["seq"]: row["code"] for row in expected.pop("dead_letter")}
        for table, wanted in expected.items():
            query = f"SELECT to_jsonb(x) FROM coord.{table} AS x ORDER BY tenant, key, id"
            got = [json.loads(r[0]) if isinstance(r[0], str) else r[0] for r in await conn.fetch(query)]
            left = OTHERWISE.get(table, set())
            assert [{c: row[c] for c in old if c not in left} for row, old in zip(got, wanted, strict=True)] == [
                {c: value for c, value in old.items() if c not in left} for old in wanted
            ], table


def fold(found: list[Decider], log: list[StoredFact], mine: list[StoredFact]) -> list[State]:
    """Have the deciders fold `mine`; what they would state and the log does not have."""
    owed = Owed()
    for fact in mine:
        for decider in found:
            if fact.kind in decider.kinds:
                for effect in decider.apply(fact):
                    if isinstance(effect, State):
                        owed.demand(effect)
    for fact in log:  # what is stated under another key stands in another partition
        owed.meet(fact)
    return owed.take()


def test_deciders_go_on_from_its_snapshots_and_owe_nothing_to_what_was_before(log: Path) -> None:
    facts, _ = read(log)
    opened, now = 0, facts[-1].stored_at.timestamp()
    for kept in lines(log, "snapshots"):
        p = kept["partition"]
        mine = [fact for fact in facts if fact.partition == p]
        states = zstandard.ZstdDecompressor().decompress(
            b"".join(map(base64.b64decode, kept["pieces"])), max_output_size=limits.SNAPSHOT_BYTES_MAX
        )
        old, fresh = restored(states, p), deciders(p)
        since = fold(old, facts, [fact for fact in mine if fact.seq > kept["seq"]])
        assert fold(fresh, facts, mine) == since
        assert {d.name: d.open_count() for d in old} == {d.name: d.open_count() for d in fresh}
        # What its state leads to is what the facts lead to: timers, pushes, deadlines.
        assert [e for d in old for e in d.reconcile(now)] == [e for d in fresh for e in d.reconcile(now)]
        opened += sum(d.open_count() for d in old)
    assert opened > 10
