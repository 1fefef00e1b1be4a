"""Everything that an agent can send and should not: each is refused by the broker or parked with its reason.

What is acknowledged between is in the tables exactly once, the partition moves on, and the
projector's memory stays bounded.  Nothing here goes through coord's encoder: bytes on a socket.
"""

# ruff: noqa: E501 - hostile input is data, a case a line

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest
import zstandard

from coord import limits
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.bus.pull import as_published
from coord.projector.rows import stored_time
from coord.projector.tables import GATHERED
from coord.wire import subjects
from coord.wire.envelope import Fact, Poison, Sample, StoredFact, decode_message, encode_fact, encode_frame
from tests.conftest import soak_rounds
from tests.support.mutants import publish_mutants
from tests.support.rawnats import RawNats
from tests.support.waiting import until
from tests.support.workload import Watcher, Workload, connect, verify

MIB = limits.MIB


def block(*lines: bytes | str) -> bytes:
    """A header block of these lines, as they are."""
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return b"\r\n".join([b"NATS/1.0", *encoded, b"", b""])


def cloud_event(**fields: str) -> bytes:
    """A proper block with some fields changed."""
    given = {"ce-specversion": "1.0", "ce-type": "t"} | {k.replace("_", "-"): v for k, v in fields.items()}
    return block(*[f"{name}: {value}" for name, value in given.items()])


FRAME = "application/vnd.coord.frame+msgpack"


def frame(entries: Any, base_us: Any = 1_770_000_000_000_000, version: Any = 1) -> bytes:
    return msgspec.msgpack.encode([version, base_us, entries])


@functools.cache
def bomb(*, declared: bool) -> bytes:
    """A gigabyte of zeros in some kilobytes."""
    if declared:
        chunk = bytes(16 * MIB)
        compressor = zstandard.ZstdCompressor(level=3).compressobj(size=64 * len(chunk))
        return b"".join(compressor.compress(chunk) for _ in range(64)) + compressor.flush()
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    return b"".join(compressor.compress(bytes(16 * MIB)) for _ in range(64)) + compressor.flush()


class Case(NamedTuple):
    """One bad message; `code`: of its dead letter, None: the broker must refuse it."""

    name: str
    subject: str | bytes
    body: bytes
    headers: bytes | None
    code: str | None
    poison: int = 1
    """How many dead letters it makes."""
    good: int = 0
    """How many rows it makes beside them."""


def note(name: str, body: bytes = b"{}", headers: bytes | None = None, code: str | None = "", **more: int) -> Case:
    return Case(name, "coord.ev.{t}.mallory.k.note.n.said", body, headers, code, **more)


def stated(name: str, tail: str | bytes, code: str | None, headers: bytes | None = None, body: bytes = b"{}") -> Case:
    prefix: Any = b"coord.ev.{t}." if isinstance(tail, bytes) else "coord.ev.{t}."
    return Case(name, prefix + tail, body, headers, code)


def framed(
    name: str, body: bytes, code: str, *, zstd: bool = False, tail: str = "mallory.k.job.j.progress", **more: int
) -> Case:
    content = FRAME + ("+zstd" if zstd else "")
    return Case(name, f"coord.ev.{{t}}.{tail}", body, cloud_event(ce_datacontenttype=content), code, **more)


def sample(name: str, body: bytes, code: str | None, headers: bytes | None = None, **more: int) -> Case:
    return Case(name, "coord.tel.{t}.mallory.cpu", body, headers, code, **more)


@functools.cache
def cases() -> list[Case]:
    """All of them.  Made by whoever sends them, not by whoever collects tests: a bomb takes half a second of CPU."""
    return [
        # Too large, for the broker and for coord.
        note("over the stream's limit", b'"%b"' % (b"x" * MIB), code=None),
        note("over coord's limit", b'"%b"' % (b"x" * limits.EVENT_BYTES_MAX), code="wire.too_large"),
        note("headers over the limit", b"{}", block("X: " + "y" * (limits.HEADERS_BYTES_MAX + 1)), "wire.envelope"),
        note("a long id", b"{}", cloud_event(ce_id="i" * 129), "wire.envelope"),
        sample("a telemetry frame over the limit", bytes(8 * MIB + 1), None),
        # Truncated.
        note("truncated JSON", b'{"a": [1, 2', None, "wire.payload"),
        note("truncated MessagePack", b"\x93\x01\x02", cloud_event(ce_datacontenttype="application/msgpack"), "wire.payload"),
        note("MessagePack that promises four billion", b"\xdd\xff\xff\xff\xff", cloud_event(ce_datacontenttype="application/msgpack"), "wire.payload"),
        framed("a truncated frame", frame([[0, 1]] * 9)[:-3], "wire.payload"),
        framed("a truncated zstd frame", zstandard.compress(frame([[0, {"x": "y" * 500}]] * 9))[:-9], "wire.frame", zstd=True),
        note("a truncated header block", b"{}", b"NATS/1.0\r\nce-id: x", "wire.envelope"),
        # Wrong author.
        stated("another agent's status", "mallory.alice.agent.alice.status", "wire.author"),
        stated("a decider's fact", "mallory.alice.agent.alice.gone", "wire.author"),
        stated("a timer that did not fire", "mallory.k.timer.t1.fired", "wire.author"),
        stated("an agent that calls itself a decider", "_timer.k.note.n.said", "wire.author"),
        stated("a reserved kind's unknown event", "mallory.k.task.t1.exploded", "wire.author"),
        stated("an agent's fact under another key", "mallory.k.agent.mallory.status", "wire.key"),
        note("a source that contradicts the subject", b"{}", cloud_event(ce_source="/{t}/alice"), "wire.envelope"),
        # Unknown versions.
        note("CloudEvents 2.0", b"{}", cloud_event(ce_specversion="2.0"), "wire.specversion"),
        stated("a schema from the future", "mallory.mallory.agent.mallory.status", "wire.schema_unknown", cloud_event(Coord_Schema="2")),
        note("a schema that is no number", b"{}", cloud_event(Coord_Schema="two"), "wire.envelope"),
        framed("a frame of version 2", frame([[0, 1]], version=2), "wire.frame"),
        note("structured mode", b"{}", block("Content-Type: application/cloudevents+json"), "wire.payload"),
        # Invalid UTF-8, and characters that no table takes.
        stated("invalid UTF-8 in the subject", b"mallory.k\xff\xfe.note.n.said", "wire.token"),
        stated("an overlong token", f"mallory.{'k' * 65}.note.n.said", "wire.token"),
        stated("an upper-case token", "mallory.K.note.n.said", "wire.token"),
        stated("too many tokens", "mallory.k.note.n.said.a.b.c.d.e", "wire.subject"),
        note("invalid UTF-8 in a header", b"{}", block(b"ce-id: \xff\xfe"), "wire.envelope"),
        note("invalid UTF-8 in the body", b'"\xff\xfe"', None, "wire.payload"),
        note("U+0000 in the body", b'{"a": "\\u0000"}', None, "wire.payload"),
        note("half a surrogate pair", b'{"a": "\\ud800"}', None, "wire.payload"),
        note("NaN", b'{"a": NaN}', None, "wire.payload"),
        note("an infinite exponent", b'{"a": 1e99999}', None, "wire.payload"),
        note("a body that is not JSON", b"hello", None, "wire.payload"),
        note("a header line without a colon", b"{}", block("hello"), "wire.envelope"),
        note("a header twice", b"{}", block("ce-id: a", "ce-id: b"), "wire.envelope"),
        note("a time that is none", b"{}", cloud_event(ce_time="yesterday"), "wire.envelope"),
        # Stored outside of every partition, because the server transforms no subject with a wildcard in it.
        stated("a wildcard for a key", "mallory.*.note.n.said", "wire.subject"),
        stated("a wildcard for an event", "mallory.k.note.n.>", "wire.subject"),
        stated("a wildcard for an agent", "*.k.note.n.said", "wire.subject"),
        Case("a wildcard for a series", "coord.tel.{t}.mallory.*", b"1", None, "wire.subject"),
        # Words of the server in an author's mouth.
        # (This server takes the words out before it stores the message; the reader would not believe them either.)
        note("a forged status", b"{}", b"NATS/1.0 423 Nats-Wrong-Pin-Id\r\n\r\n", "", poison=0, good=1),
        note("a forged end of the consumer", b"{}", b"NATS/1.0 409 Consumer Deleted\r\n\r\n", "", poison=0, good=1),
        note("a forged lack of responders", b"{}", b"NATS/1.0 503\r\n\r\n", "", poison=0, good=1),
        sample("a forged expiry", b"1", "", b"NATS/1.0 408 Request Timeout\r\n\r\n", poison=0, good=1),
        sample("a forged pin", b"1", "", block("Nats-Pin-Id: mine"), poison=0, good=1),
        note("headers that are none", b"{}", b"hello", "wire.envelope"),
        note("two bytes of headers", b"{}", b"\r\n", "", poison=0, good=1),
        # Deep, and bombs.
        note("65 deep", b"[" * 65 + b"]" * 65, None, "wire.too_deep"),
        note("100,000 deep", b"[" * 100_000 + b"]" * 100_000, None, "wire.too_deep"),
        note("deep MessagePack", b"\x91" * 100_000 + b"\xc0", cloud_event(ce_datacontenttype="application/msgpack"), "wire.too_deep"),
        framed("a bomb that says its size", bomb(declared=True), "wire.too_large", zstd=True),
        framed("a bomb that does not", bomb(declared=False), "wire.frame", zstd=True),
        framed("too many entries", frame([[0, 1]] * 1001), "wire.too_large"),
        framed("an entry that nests deeply", frame([[0, 1], [0, json.loads("[" * 80 + "]" * 80)], [0, 2]]), "wire.too_deep", good=2),
        framed("entries of all sorts", frame([[0, {"ok": 1}], [0], "x", [0, float("nan")], [2**62, 1], [0, "ok"]]), "", poison=4, good=2),
        framed("a frame of facts that must be single", frame([[0, {}]]), "wire.frame_not_allowed", tail="mallory.k.note.n.said"),
        # Telemetry.
        sample("a sample that is no number", b'"high"', "wire.payload"),
        sample("an empty sample", b"", "wire.payload"),
        sample("a number no double holds", b"1" + b"0" * 400, "wire.payload"),
        sample("a frame with bad values", frame([[0, 1], [0, "x"], [0, {"value": True}], [0, {"value": 2, "unit": "ms"}]]), "", cloud_event(ce_datacontenttype=FRAME), poison=2, good=2),
    ]  # fmt: skip


async def stored(conn: Connection, stream: str) -> list[Message]:
    """Everything in a stream as a consumer delivers it, hostile bytes and all."""
    name = "everything"
    config = {"name": name, "ack_policy": "none", "deliver_policy": "all", "mem_storage": True}
    await conn.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})
    want = (await conn.api(f"STREAM.INFO.{stream}"))["state"]["messages"]
    got: list[Message] = []
    inbox = await conn.subscribe(conn.new_inbox(), lambda m: got.append(m) if m.reply else None)
    while len(got) < want:
        before = len(got)
        request = msgspec.json.encode({"batch": 500, "no_wait": True})
        conn.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", request, reply=inbox.subject)
        await until(lambda b=before: len(got) >= min(want, b + 500))  # type: ignore[misc]
    await inbox.unsubscribe()
    await conn.api(f"CONSUMER.DELETE.{stream}.{name}")
    return got


class Fate(NamedTuple):
    """Where the entries of a stream's messages must be: (seq, idx)."""

    rows: set[tuple[int, int]]
    letters: dict[tuple[int, int], str]
    up_to: int
    """The last sequence that was looked at."""


def judged(messages: list[Message]) -> Fate:
    """By the pure decoder, which has tests of its own, and the folds."""
    rows: set[tuple[int, int]] = set()
    letters: dict[tuple[int, int], str] = {}
    seq = 0
    for message in messages:
        tokens = message.reply.split(".")
        base = 2 if len(tokens) == 9 else 4
        seq, stored_ns = int(tokens[base + 3]), int(tokens[base + 5])
        # What the server makes of a block when it delivers it to a pinned consumer; see `as_published`.
        headers = message.raw_headers and as_published(message.raw_headers[:-2] + b"Nats-Pin-Id: x\r\n\r\n")
        for item in decode_message(message.subject, headers, message.data, seq, stored_time(stored_ns)):
            if isinstance(item, Poison):
                letters[item.seq, item.index] = item.error.code
            elif isinstance(item, StoredFact) and (code := wrong_by_itself(item)) is not None:
                letters[item.seq, item.index] = code
            else:
                rows.add((item.seq, item.index))
    return Fate(rows, letters, seq)


NO_LETTER = {
    "handoff.told": "it took place elsewhere, and asks for nothing",
    "handoff.unknown": "a step, by its decider: the offer may be older than the projection",
}
"""What the fold of nothing refuses a beginning with, and nobody has to look at."""


def wrong_by_itself(fact: StoredFact) -> str | None:
    """What the fold of its entity says of a beginning that nothing came before; it has tests of its own."""
    table = GATHERED.get(fact.kind)
    if table is None or fact.event not in table.begins:
        return None
    refusal = table.new(fact.tenant, fact.key, fact.id).apply(fact)
    return None if refusal is None or refusal.code in NO_LETTER else refusal.code


async def fate_in(db: asyncpg.Connection, stream: str, up_to: int) -> Fate:
    """By the tables; an identity that stands twice fails here."""
    table = "event" if stream == subjects.EVENTS else "metric_sample"
    found = await db.fetch(f"SELECT seq, idx FROM coord.{table} WHERE seq <= $1", up_to)
    rows = {(r["seq"], r["idx"]) for r in found}
    assert len(rows) == len(found)
    letters = await db.fetch(
        "SELECT seq, idx, code FROM coord.dead_letter WHERE stream = $1 AND seq <= $2", stream, up_to
    )
    return Fate(rows, {(r["seq"], r["idx"]): r["code"] for r in letters}, up_to)


async def all_parked(db: asyncpg.Connection, conn: Connection, timeout_s: float = 200) -> dict[str, Fate]:
    """Wait until every stored message has become what the decoder says, and nothing else."""
    expected = {s: judged(await stored(conn, s)) for s in (subjects.EVENTS, subjects.TELEMETRY)}

    differences: list[str] = []

    async def settled() -> bool:
        differences.clear()
        for stream, fate in expected.items():
            found = await fate_in(db, stream, fate.up_to)
            surplus = found.rows - fate.rows
            assert not surplus, f"{stream}: rows of {sorted(surplus)[:5]} are not to be"
            differences.extend(f"{stream} {place} is no row" for place in sorted(fate.rows - found.rows))
            for place in fate.letters.keys() | found.letters.keys():
                codes = fate.letters.get(place), found.letters.get(place)
                if codes[0] != codes[1]:
                    differences.append(f"{stream} {place} is parked as {codes[1]}, not {codes[0]}")
        return not differences

    try:
        await until(settled, timeout_s, every_s=0.2)
    except AssertionError as exc:
        raise AssertionError(f"{len(differences)} differences: {differences[:10]}") from exc
    return expected


async def test_each_kind_is_refused_or_parked_with_its_reason(
    nats, conn, migrated_database, projector, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STRAYS_EVERY_S", 0.3)
    url = migrated_database.url
    service = await projector(url)
    order = rng.sample(cases(), len(cases()))
    numbers: dict[str, int] = {}
    async with Workload(nats.url, rng, per_s=500) as load, Watcher(url, load.tenant), RawNats(nats.port) as raw:
        tenant = load.tenant + "x"
        for case in order:
            subject = case.subject if isinstance(case.subject, bytes) else case.subject.encode()
            headers = None if case.headers is None else case.headers.replace(b"{t}", tenant.encode())
            number = await raw.publish(subject.replace(b"{t}", tenant.encode()), case.body, headers)
            numbers[case.name] = number
            await raw.settle(number)
            await load.more(3)
        await load.stop()
        await verify(url, load)
    db = await connect(url)
    await all_parked(db, conn)
    letters = await db.fetch("SELECT * FROM coord.dead_letter")
    for case in cases():
        stream = subjects.TELEMETRY if isinstance(case.subject, str) and ".tel." in case.subject else subjects.EVENTS
        ack = raw.answers.get(numbers[case.name], {})
        if case.code is None:
            assert "seq" not in ack or "error" in ack, f"{case.name} was stored: {ack}"
            continue
        assert "error" not in ack, f"{case.name} was refused: {ack}"
        mine = [r for r in letters if (r["stream"], r["seq"]) == (stream, ack["seq"])]
        assert len(mine) == case.poison, f"{case.name}: {[dict(r) for r in mine]}"
        if case.code:
            assert {r["code"] for r in mine} == {case.code}, f"{case.name}: {[r['reason'] for r in mine]}"
        assert all(r["reason"] and r["subject"] for r in mine)
        if case.poison == 1 and not case.good:
            assert mine[0]["body"] == case.body[: limits.DEAD_LETTER_BODY_BYTES_MAX], case.name
            assert mine[0]["body_bytes"] == len(case.body), case.name
        table = "event" if stream == subjects.EVENTS else "metric_sample"
        assert await db.fetchval(f"SELECT count(*) FROM coord.{table} WHERE seq = $1", ack["seq"]) == case.good, (
            case.name
        )
    copies = (await conn.api("STREAM.INFO.DLQ"))["state"]["messages"]
    assert copies == len(letters)
    await service.wait_ready(100)
    await db.close()
    print(f"{len(cases())} kinds, {len(letters)} letters, {Counter(r['code'] for r in letters)}")


async def test_an_answer_of_the_server_is_nobodys_fact(nats, conn, migrated_database, projector) -> None:
    """A publish may name a fact's subject as its reply: the server's answer is then stored as somebody's fact."""
    await projector(migrated_database.url)
    async with RawNats(nats.port) as raw:
        await raw.publish("coord.tel.acme.mallory.cpu", b"1", reply="coord.ev.acme.alice.k.note.n.said")
        await raw.publish("$JS.API.STREAM.INFO.EVENTS", b"", reply="coord.ev.acme.alice.k.note.n.said")
        await raw.settle()
    db = await connect(migrated_database.url)

    async def parked() -> list[asyncpg.Record]:
        letters: list[asyncpg.Record] = await db.fetch("SELECT * FROM coord.dead_letter")
        return letters if len(letters) == 2 else []

    letters = await until(parked)
    assert {r["code"] for r in letters} == {"wire.author"}
    assert not await db.fetchval("SELECT count(*) FROM coord.event")
    await db.close()


@pytest.mark.xfail(reason="nats-server 2.15.1 panics on republishing such a message", strict=True)
async def test_one_byte_of_headers_is_survived(nats, conn) -> None:
    """Whoever may publish to a stream with `republish` can end the server: found by the fuzzer below.

    Nothing in a stream's configuration helps but leaving out `republish`.  What is left is that
    the server is started again and has lost nothing, which is what the kills of the broker show.
    Strict, so that a server which is mended makes this test say so.
    """
    async with RawNats(nats.port) as raw:
        number = await raw.publish("coord.ev.acme.mallory.k.note.n.said", b"{}", b"N")
        await raw.settle(number)
        assert number in raw.answers


@pytest.mark.parametrize("year", [1966, 2086])
async def test_an_agents_clock_is_sixty_years_off(
    nats, conn, migrated_database, projector, rng: random.Random, year: int
) -> None:
    """What it says is kept; where the row lies is decided by the broker's clock."""
    url = migrated_database.url
    await projector(url)
    said = datetime(year, 7, 1, 12, 30, tzinfo=UTC)
    where: dict[str, Any] = {"tenant": "acme", "agent": "rip", "occurred_at": said}
    messages = [
        encode_fact(Fact(kind="note", id="n", event="woke"), event_id="e1", **where),
        encode_frame([Fact(kind="agent", id="rip", event="status", data={"n": i}) for i in range(3)], event_id="e2", **where),
        encode_frame([Sample(series="cpu", value=i) for i in range(3)], event_id="e3", **where),
    ]  # fmt: skip
    began = datetime.now(UTC)
    async with Workload(nats.url, rng) as load:
        for message in messages:
            await conn.request(message.subject, message.body, headers=message.header_block())
            await load.more(50)
        await load.stop()
        await verify(url, load)
    db = await connect(url)
    for table, count in (("event", 4), ("metric_sample", 3)):

        async def all_there(table: str = table, count: int = count) -> list[asyncpg.Record]:
            rows = await db.fetch(f"SELECT occurred_at, stored_at FROM coord.{table} WHERE tenant = 'acme'")
            return rows if len(rows) >= count else []

        rows = await until(all_there)
        assert len(rows) == count
        assert {r["occurred_at"] for r in rows} == {said}
        assert all(abs(r["stored_at"] - began) < timedelta(minutes=5) for r in rows)
    agent = await db.fetchrow("SELECT * FROM coord.agent WHERE tenant = 'acme'")
    assert agent is not None
    assert abs(agent["last_seen"] - began) < timedelta(minutes=5)
    if migrated_database.edition != "plain":
        chunks = await db.fetch("SELECT range_start, range_end FROM timescaledb_information.chunks")
        assert chunks
        assert all(c["range_start"] < began + timedelta(days=2) for c in chunks)
        assert all(c["range_end"] > began - timedelta(days=2) for c in chunks)
    await db.close()


# --- ten thousand random ones ----------------------------------------------------------------


def peak_memory_mib(pid: int) -> float:
    """The most memory that a process ever had."""
    line = next(li for li in Path(f"/proc/{pid}/status").read_text().splitlines() if li.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.timeout(600)
async def test_ten_thousand_fuzzed_messages_and_a_shower_of_bombs(
    nats, conn, migrated_database, process, rng: random.Random, record_property
) -> None:
    url = migrated_database.url
    projector = await process(url)
    await projector.ready()
    db = await connect(url)
    count = soak_rounds(1) * 10_000
    async with Workload(nats.url, rng, per_s=400) as load, Watcher(url, load.tenant), RawNats(nats.port) as raw:
        await publish_mutants(raw, rng, count)
        fates = await all_parked(db, conn)
        before = peak_memory_mib(projector.pid)
        # Every partition gets bombs at the same time: sixteen decoded at once would be gigabytes.
        explosives = [bomb(declared=True), bomb(declared=False), zstandard.compress(bytes(8 * MIB + 1))]
        for i in range(96):
            headers = cloud_event(ce_datacontenttype=FRAME + "+zstd")
            kind = rng.choice(
                [f"coord.ev.{load.tenant}x.mallory.k{i}.job.j.progress", f"coord.tel.{load.tenant}x.m{i}.cpu"]
            )
            await raw.publish(kind, rng.choice(explosives), headers)
        await raw.settle()
        bombed = await all_parked(db, conn)
        after = peak_memory_mib(projector.pid)
        await load.stop()
        rows = await verify(url, load)
    parked = Counter(code for fate in fates.values() for code in fate.letters.values())
    letters = sum(len(fate.letters) for fate in bombed.values())
    copies = (await conn.api("STREAM.INFO.DLQ"))["state"]["messages"]
    print(f"{count} mutants: {dict(parked)}; {len(raw.errors)} connections ended by the broker {set(raw.errors)}")
    print(f"{len(rows)} good rows between; memory {before:.0f} MiB, with bombs {after:.0f} MiB")
    assert copies == letters
    assert len(parked) > 6, "the mutants are too much alike"
    assert parked["wire.invalid"] == 0, "the decoder failed"
    assert after < before + 128, "bombs went off"
    assert after < 400
    assert projector.owned, "the projector ended"
    await db.close()
    record_property("mutants", count)
    record_property("dead_letters", letters)
