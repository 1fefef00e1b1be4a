"""Messages that are nearly right: proper ones, damaged at random in subject, headers or body."""

# ruff: noqa: E501 - hostile input is data, a case a line

from __future__ import annotations

import random
import struct
from datetime import UTC, datetime
from typing import Any

from coord.wire.envelope import Fact, Sample, encode_fact, encode_frame
from tests.support.rawnats import RawNats


def specimens(rng: random.Random, tenant: str) -> list[tuple[bytes, bytes | None, bytes]]:
    """Proper messages to mutate: (subject, headers, body)."""
    where: dict[str, Any] = {"tenant": tenant, "agent": "mallory", "occurred_at": datetime(2026, 5, 1, tzinfo=UTC)}
    data = {"text": 'é\\u0000 "x"', "n": [1, -2.5, None, True], "deep": {"a": {"b": {"c": []}}}}
    progress = [Fact(kind="job", id="j", event="progress", data=data) for _ in range(4)]
    status = [Fact(kind="agent", id="mallory", event="status", data={"load": 0.5}) for _ in range(3)]
    samples = [Sample(series="llm.tokens", value=i, data={"model": "m"}) for i in range(5)]
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    encoded = [
        encode_fact(Fact(kind="note", id="n", event="said", data=data, correlation_id="ü", traceparent=trace), event_id="{id}", **where),
        encode_fact(Fact(kind="task", id="t", key="w", event="submitted", detail=("a", "b"), data=data), event_id="{id}", content="msgpack", **where),
        encode_frame(progress, event_id="{id}", **where),
        encode_frame(status, event_id="{id}", compress=True, **where),
        encode_frame(samples, event_id="{id}", **where),
        encode_frame(samples, event_id="{id}", compress=True, **where),
    ]  # fmt: skip
    found: list[tuple[bytes, bytes | None, bytes]] = []
    for e in encoded:
        headers = e.header_block().replace(b"%7Bid%7D", b"{id}").replace(b"Nats-Msg-Id", b"X-Msg-Id")
        found.append((e.subject.encode(), headers, e.body))
        found.append((e.subject.encode(), None, e.body))
    found.append((f"coord.tel.{tenant}.mallory.cpu".encode(), None, b"0.5"))
    rng.shuffle(found)
    return found


def mutate_bytes(rng: random.Random, data: bytes, alphabet: bytes) -> bytes:
    """A few random edits."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] = rng.choice(alphabet)
            case 1:
                out.insert(at, rng.choice(alphabet))
            case 2:
                del out[at : at + rng.randrange(1, 9)]
            case 3:
                out[at:at] = out[at : at + rng.randrange(1, 30)]
            case 4:
                del out[at:]
            case _:
                out[at:at] = struct.pack(">Q", rng.getrandbits(64)) if alphabet is ANY else b"-"
    return bytes(out)


ANY = bytes(range(256))
# Without DEL: nats-server's tree of subjects means "no further byte" by it (`noPivot`, server/stree/util.go), so that
# a filter may not find a stored subject with one; see docs/howto/dead-letters.md.
IN_SUBJECTS = bytes(b for b in range(256) if b not in b" \t\r\n\0\x7f")
LINES = (
    b"ce-specversion: 0.3", b"ce-id: \xc3\x28", b"ce-id:", b": x", b"\x00\x01", b"Coord-Schema: -1", b"ce-time: 9999-99-99T99:99:99Z",
    b"ce-datacontenttype: text/html", b"ce-source: /x/y", b"Nats-Pin-Id: forged", b"Nats-Stream: X", b"Status: 409", b"ce-type: " + b"t" * 5000,
)  # fmt: skip


def mutant(rng: random.Random, specimen: tuple[bytes, bytes | None, bytes]) -> tuple[bytes, bytes | None, bytes]:
    """A specimen with its subject, headers or body damaged, or all of them."""
    subject, headers, body = specimen
    what = rng.choice(["subject", "headers", "body", "body", "all", "none"])
    if what in ("subject", "all"):
        head, tail = subject[: len(b"coord.ev.")], subject[len(b"coord.ev.") :]
        subject = head + (mutate_bytes(rng, tail, IN_SUBJECTS) or b"x")
    if what in ("headers", "all") and headers is not None:
        if rng.random() < 0.5:
            lines = headers.split(b"\r\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(LINES))
            headers = b"\r\n".join(lines)
        else:
            # Not a single byte: see test_one_byte_of_headers.
            headers = mutate_bytes(rng, headers, ANY).ljust(2)
    if what in ("body", "all"):
        body = mutate_bytes(rng, body, ANY)
    return subject, headers, body


async def publish_mutants(raw: RawNats, rng: random.Random, count: int) -> None:
    """So many of the tenant `mutants`, each with an id of its own; returns once the server has read them."""
    base = specimens(rng, "mutants")
    for i in range(count):
        subject, headers, body = mutant(rng, rng.choice(base))
        if headers is not None:
            headers = headers.replace(b"{id}", b"f%d" % i)
        await raw.publish(subject, body, headers)
        if i % 100 == 99:
            await raw.settle()
    await raw.settle()
