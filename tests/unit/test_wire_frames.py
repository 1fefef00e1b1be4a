"""Frames: bytes by hand, bounds before allocation, entries that fail alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import zstandard

from coord import limits
from coord.errors import FrameNotAllowed, InvalidFrame, InvalidPayload, PayloadTooDeep, PayloadTooLarge, WireError
from coord.wire import frames
from coord.wire.envelope import Fact, Poison, Sample, StoredFact, StoredSample, decode_message, encode_frame
from coord.wire.subjects import FactSubject, SampleSubject, parse_published

AT = datetime(2026, 11, 21, 10, 0, 0, 250_000, tzinfo=UTC)
NOW = datetime(2026, 11, 21, 10, 0, 1, tzinfo=UTC)
CPU = SampleSubject("acme", "a1", "cpu").stored
FRAME = b"NATS/1.0\r\nce-datacontenttype: application/vnd.coord.frame+msgpack\r\n\r\n"
ZSTD = b"NATS/1.0\r\nce-datacontenttype: application/vnd.coord.frame+msgpack+zstd\r\n\r\n"


def test_a_frame_byte_by_byte():
    """Written out by hand from docs/protocol.md: [1, 1000000, [[0, 0.5], [-1, 2]]]."""
    body = bytes.fromhex("93 01 ce000f4240 92 92 00 cb3fe0000000000000 92 ff 02")
    assert frames.unpack(body) == (1_000_000, [[0, 0.5], [-1, 2]])
    assert frames.pack(1_000_000, [(0, 0.5), (-1, 2)]) == body
    rows: list[Any] = decode_message(CPU, FRAME, body, 9, NOW)
    assert [(r.value, r.occurred_at.timestamp(), r.index) for r in rows] == [(0.5, 1.0, 0), (2.0, 0.999999, 1)]


@pytest.mark.parametrize("count", [1, 15, 16, 100, 255, 256, limits.FRAME_ENTRIES_MAX])
@pytest.mark.parametrize("base_us", [0, 1_000_000, 1_795_255_200_250_000, -5])
def test_doubles_of_one_time_are_packed_alike_by_a_short_cut(count, base_us):
    values = [(-1) ** i * i / 7 for i in range(count - 1)] + [1.7976931348623157e308]
    assert frames.pack_doubles(base_us, values) == frames.pack(base_us, [(0, value) for value in values])


def test_the_short_cut_has_the_same_bound():
    with pytest.raises(PayloadTooLarge):
        frames.pack_doubles(0, [1.0] * (limits.FRAME_ENTRIES_MAX + 1))


@pytest.mark.parametrize("compress", [False, True])
def test_samples(compress):
    samples = [
        Sample(series="cpu", value=i / 4, data={"core": i} if i % 2 else None, occurred_at=AT + timedelta(seconds=i))
        for i in range(5)
    ]
    message = encode_frame(samples, tenant="acme", agent="a1", event_id="f-1", occurred_at=NOW, compress=compress)
    assert message.subject == "coord.tel.acme.a1.cpu"
    assert message.msg_id == message.headers["Nats-Msg-Id"] == "acme.a1.f-1"
    rows: list[Any] = decode_message(CPU, message.header_block(), message.body, 9, NOW)
    assert [(r.value, r.data, r.occurred_at, r.index) for r in rows] == [
        (s.value, s.data, s.occurred_at, i) for i, s in enumerate(samples)
    ]
    assert all(isinstance(r, StoredSample) and r.stored_at == NOW and r.seq == 9 for r in rows)


def test_status_facts():
    facts = [
        Fact(kind="agent", id="a1", event="status", data={"load": i / 10}, correlation_id="c 1", occurred_at=at)
        for i, at in enumerate([AT, None, AT - timedelta(hours=1)])
    ]
    message = encode_frame(facts, tenant="acme", agent="a1", event_id="f-1", occurred_at=NOW)
    rows: list[Any] = decode_message(
        parse_published(message.subject).stored, message.header_block(), message.body, 9, NOW
    )
    assert all(isinstance(r, StoredFact) for r in rows)
    assert [r.data for r in rows] == [f.data for f in facts]
    assert [r.occurred_at for r in rows] == [AT, NOW, AT - timedelta(hours=1)]
    assert [r.event_id for r in rows] == ["f-1/0", "f-1/1", "f-1/2"]
    assert [r.index for r in rows] == [0, 1, 2]
    assert {r.correlation_id for r in rows} == {"c 1"}
    assert rows[0].json_text == '{"load":0.0}'


def test_entries_fail_alone():
    entries = [
        [0, {"value": 1.0, "x": float("nan")}],
        [0, {"value": None}],
        [0, {"value": True}],
        [0, {1: 2, "value": 1}],
        [0, {"value": 1, "t": msgspec.msgpack.Ext(5, b"")}],
        [0, 10**19],
        [0.5, 1],
        [True, 1],
        [2**63, 1],
        ["0", 1],
        [0, 1, 2],
        {"value": 1},
        7,
        None,
        [0, []],
    ]
    rows: list[Any] = decode_message(CPU, FRAME, msgspec.msgpack.encode([1, 0, entries]), 9, NOW)
    assert [r.index for r in rows] == list(range(len(entries)))
    good = [r.index for r in rows if isinstance(r, StoredSample)]
    assert good == [5]
    for r in rows:
        if isinstance(r, Poison):
            assert type(r.error) in (InvalidFrame, InvalidPayload)
            assert (r.subject, r.tenant, r.agent) == (CPU, "acme", "a1")
            assert r.body == msgspec.msgpack.encode(entries[r.index])


def test_a_deep_entry_fails_alone():
    deep: object = 1
    for _ in range(limits.NESTING_MAX + 1):
        deep = [deep]
    subject = FactSubject("acme", "a1", "a1", "agent", "a1", "status").stored
    rows: list[Any] = decode_message(subject, FRAME, msgspec.msgpack.encode([1, 0, [[0, deep], [1, 2]]]), 9, NOW)
    assert isinstance(rows[0], Poison)
    assert isinstance(rows[0].error, PayloadTooDeep)
    assert isinstance(rows[1], StoredFact)
    assert rows[1].data == 2


@pytest.mark.parametrize(
    "frame",
    [
        None,
        [],
        [1, 0],
        [1, 0, [], 1],
        [0, 0, []],
        [2, 0, []],
        [True, 0, []],
        ["1", 0, []],
        [1, None, []],
        [1, 1.0, []],
        [1, 0, {}],
        [1, 0, None],
    ],
    ids=repr,
)
def test_what_is_no_frame(frame):
    (row,) = decode_message(CPU, FRAME, msgspec.msgpack.encode(frame), 9, NOW)
    assert isinstance(row, Poison)
    assert isinstance(row.error, InvalidFrame)


def test_bounds():
    entries = [[0, 1.0]] * limits.FRAME_ENTRIES_MAX
    assert len(decode_message(CPU, FRAME, msgspec.msgpack.encode([1, 0, entries]), 9, NOW)) == 1000
    (row,) = decode_message(CPU, FRAME, msgspec.msgpack.encode([1, 0, [*entries, [0, 1.0]]]), 9, NOW)
    assert isinstance(row, Poison)
    assert isinstance(row.error, PayloadTooLarge)
    (row,) = decode_message(CPU, FRAME, bytes(limits.FRAME_BYTES_MAX + 1), 9, NOW)
    assert isinstance(row, Poison)
    assert isinstance(row.error, PayloadTooLarge)
    with pytest.raises(PayloadTooLarge):
        frames.pack(0, [(0, 1.0)] * (limits.FRAME_ENTRIES_MAX + 1))
    with pytest.raises(PayloadTooLarge):
        frames.pack(0, [(0, "x" * 9_000)] * limits.FRAME_ENTRIES_MAX)


def test_one_entry_is_bounded_like_a_message():
    body = msgspec.msgpack.encode([1, 0, [[0, "x" * limits.EVENT_BYTES_MAX], [0, "y"]]])
    rows: list[Any] = decode_message(
        FactSubject("acme", "a1", "a1", "agent", "a1", "status").stored, FRAME, body, 9, NOW
    )
    assert isinstance(rows[0], Poison)
    assert isinstance(rows[0].error, PayloadTooLarge)
    body = msgspec.msgpack.encode([1, 0, [[0, {"value": 1, "x": "x" * limits.EVENT_BYTES_MAX}]]])
    (row,) = decode_message(CPU, FRAME, body, 9, NOW)
    assert isinstance(row, Poison)


def bomb(size: int, *, declare: bool) -> bytes:
    data = bytes(size)
    if declare:
        return zstandard.ZstdCompressor().compress(data)
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(data) + compressor.flush()


def lying(size: int) -> bytes:
    """A zstd frame of one byte whose header declares `size`."""
    honest = zstandard.ZstdCompressor().compress(b"\x01" * 300)
    assert zstandard.frame_content_size(honest) == 300
    # Frame_Content_Size field of 8 bytes: descriptor 0xe0 (single segment), no dictionary.
    return honest[:4] + b"\xe0" + size.to_bytes(8, "little") + honest[7:]


BAD_ZSTD: dict[str, Callable[[], bytes]] = {
    "one byte too many": lambda: bomb(limits.FRAME_BYTES_MAX + 1, declare=True),
    "one too many that is not declared": lambda: bomb(limits.FRAME_BYTES_MAX + 1, declare=False),
    "a bomb": lambda: bomb(1 << 28, declare=True),
    "a bomb that does not say so": lambda: bomb(1 << 28, declare=False),
    "a TiB, it says": lambda: lying(1 << 40),
    "as much as can be said": lambda: lying((1 << 64) - 3),
    "as much as there may be, it says": lambda: lying(limits.FRAME_BYTES_MAX),
    "nothing": lambda: b"",
    "a beginning": lambda: b"\x28\xb5\x2f\xfd",
    "cut off": lambda: zstandard.compress(frames.pack(0, []))[:-1],
    "two of them": lambda: zstandard.compress(frames.pack(0, [])) * 2,
    "a skippable frame": lambda: b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd",
}
"""Made when they are wanted, not when tests are collected: a bomb takes 0.1 s of CPU."""


@pytest.mark.parametrize("what", BAD_ZSTD)
def test_zstd_bombs_and_lies_are_bounded(what):
    body = BAD_ZSTD[what]()
    tracemalloc.start()
    try:
        (row,) = decode_message(CPU, ZSTD, body, 9, NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(row, Poison)
    assert type(row.error) in (InvalidFrame, PayloadTooLarge, InvalidPayload)
    assert peak < 2 * limits.FRAME_BYTES_MAX


def test_zstd_without_a_declared_size_is_read():
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    body = compressor.compress(frames.pack(0, [(0, 1.0)])) + compressor.flush()
    assert frames.unpack(body, compressed=True) == (0, [[0, 1.0]])


def test_what_does_not_fit_together():
    common = {"tenant": "acme", "agent": "a1", "event_id": "f", "occurred_at": NOW}
    status = Fact(kind="agent", id="a1", event="status", data=1)
    bad: list[tuple[list[object], type[WireError]]] = [
        ([], InvalidFrame),
        ([Fact(kind="note", id="n", event="taken")], FrameNotAllowed),
        ([status, Fact(kind="agent", id="a1", event="status", correlation_id="x")], InvalidFrame),
        ([status, Fact(kind="agent", id="a1", event="status", event_id="own")], InvalidFrame),
        ([status, Fact(kind="build", id="a1", event="progress")], InvalidFrame),
        ([Sample(series="cpu", value=1), Sample(series="mem", value=1)], InvalidFrame),
        ([Sample(series="cpu", value=1), status], InvalidFrame),
        ([status, Sample(series="cpu", value=1)], InvalidFrame),
        ([Sample(series="cpu", value=float("nan"))], InvalidPayload),
        ([Sample(series="cpu", value=10**400)], InvalidPayload),
        ([Sample(series="cpu", value=True)], InvalidPayload),
        ([Sample(series="cpu", value=1, data={"value": 2})], InvalidPayload),
        ([Sample(series="cpu", value=1, data={"x": float("inf")})], InvalidPayload),
        ([Sample(series="cpu", value=1)] * 1001, PayloadTooLarge),
    ]
    for entries, error in bad:
        with pytest.raises(error):
            encode_frame(entries, **common)  # type: ignore[arg-type]
    big = Fact(kind="agent", id="a1", event="status", data="x" * 600_000)
    with pytest.raises(PayloadTooLarge):
        encode_frame([big, big], **common)  # type: ignore[arg-type]


@pytest.mark.parametrize(("window_log", "read"), [(23, True), (24, False), (27, False)])
def test_the_zstd_window_is_bounded(window_log, read):
    """A window is memory that the reader sets aside, whatever the frame holds."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = compressor.compress(frames.pack(0, [(0, 1.0)])) + compressor.flush()
    assert zstandard.get_frame_parameters(body).window_size == 1 << window_log
    if read:
        assert frames.unpack(body, compressed=True) == (0, [[0, 1.0]])
    else:
        with pytest.raises(InvalidFrame):
            frames.unpack(body, compressed=True)
