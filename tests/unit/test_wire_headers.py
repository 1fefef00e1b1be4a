"""Header blocks: what is read, what is refused, and that the usual block is no special case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from coord import limits
from coord.errors import InvalidEnvelope, WireError
from coord.wire import attributes, headers
from coord.wire.envelope import format_time, parse_time, valid_traceparent
from coord.wire.times import from_unix_us, to_unix_us

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_block_round_trips():
    fields = {"ce-id": "1", "Nats-Msg-Id": "acme.a1.1", "X-Mine": "two words"}
    raw = headers.encode(fields)
    assert raw == b"NATS/1.0\r\nce-id: 1\r\nNats-Msg-Id: acme.a1.1\r\nX-Mine: two words\r\n\r\n"
    assert headers.parse(raw).fields == fields
    assert headers.parse(headers.encode({})).fields == {}


@pytest.mark.parametrize(
    ("raw", "status", "description"),
    [
        (b"NATS/1.0 503\r\n\r\n", 503, ""),
        (b"NATS/1.0 404 No Messages\r\n\r\n", 404, "No Messages"),
        (b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\n\r\n", 408, "Request Timeout"),
        (b"NATS/1.0\r\n\r\n", None, ""),
    ],
)
def test_status_lines(raw, status, description):
    block = headers.parse(raw)
    assert (block.status, block.description) == (status, description)


def test_names_of_the_envelope_in_any_case_others_as_they_are():
    block = headers.parse(b"NATS/1.0\r\nCE-Id:1\r\nTraceparent:\tx\t\r\ncoord-schema:  2 \r\nx-Mine:a\r\n\r\n")
    assert block.fields == {"ce-id": "1", "traceparent": "x", "Coord-Schema": "2", "x-Mine": "a"}


def test_the_server_has_the_last_word_about_its_own_headers():
    raw = b"NATS/1.0\r\nNats-Sequence: 999\r\nce-id: 1\r\nNats-Sequence: 7\r\n\r\n"
    assert headers.parse(raw).fields["Nats-Sequence"] == "7"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"NATS/1.0",
        b"NATS/1.0\r\n",
        b"NATS/2.0\r\n\r\n",
        b"NATS/1.0 abc\r\n\r\n",
        b"NATS/1.0 \xd9\xa1\xd9\xa2\xd9\xa3\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\r\n",
        b"NATS/1.0\r\nce-id: 1\n\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\rce-type: x\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\x00\r\n\r\n",
        b"NATS/1.0\r\nx: \x7f\r\n\r\n",
        b"NATS/1.0\r\nx: \xc2\x85\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\nce-id\r\n\r\n",
        b"NATS/1.0\r\n: empty name\r\n\r\n",
        b"NATS/1.0\r\na b: space in name\r\n\r\n",
        b"NATS/1.0\r\n folded: 1\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\r\nce-id: 1\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\r\nCe-Id: 2\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\r\n\r\nce-type: x\r\n\r\n",
        b"NATS/1.0\r\nce-id: \xff\r\n\r\n",
        b"NATS/1.0\r\nx: " + b"y" * (limits.HEADERS_BYTES_MAX + 4096) + b"\r\n\r\n",
    ],
)
def test_malformed_blocks_are_refused(raw):
    with pytest.raises(InvalidEnvelope):
        headers.parse(raw)


@pytest.mark.parametrize(
    "fields",
    [
        {"a b": "1"},
        {"": "1"},
        {"a:b": "1"},
        {"a\r\nb": "1"},
        {"ce-id": "1\r\nce-type: forged"},
        {"ce-id": "\x00"},
        {"ce-id": "\ud800"},
        {"x": "y" * limits.HEADERS_BYTES_MAX},
    ],
)
def test_what_would_break_a_block_is_not_encoded(fields):
    with pytest.raises(InvalidEnvelope):
        headers.encode(fields)


def test_raw_utf8_is_read_and_never_written():
    raw = headers.encode({"ce-type": "schön"})
    assert attributes.read(raw, "acme", "a1").type == "schön"
    assert headers.quote("schön") == "sch%C3%B6n"


@pytest.mark.parametrize(
    ("name", "fits"),
    [("ce-id", 128), ("ce-type", 1024), ("Coord-Correlation", 1024), ("Coord-Causation", 1024)],
)
def test_lengths_are_those_of_the_decoded_value_in_bytes(name, fits):
    for text in ("x", "ä"):
        longest = text * (fits // len(text.encode()))
        for value in (longest, longest + text):
            for written in (headers.quote(value), value):
                raw = headers.encode({name: written})
                if value is longest:
                    assert longest in msgspec.structs.astuple(attributes.read(raw, "acme", "a1"))
                else:
                    with pytest.raises(InvalidEnvelope):
                        attributes.read(raw, "acme", "a1")


def usual(**changes: str) -> dict[str, str]:
    fields = {
        "ce-specversion": "1.0",
        "ce-id": "id-1",
        "ce-source": "/acme/a1",
        "ce-time": "2026-11-21T10:00:00.123456Z",
        "ce-datacontenttype": "application/json",
        "Nats-Msg-Id": "acme.a1.id-1",
        "ce-type": "coord.note.taken",
        "Coord-Correlation": "c",
        "Coord-Causation": "d",
        "traceparent": TRACE,
        "Coord-Schema": "3",
    }
    return {**fields, **{name.replace("_", "-"): value for name, value in changes.items()}}


def test_the_usual_block_is_recognised():
    assert attributes._USUAL.fullmatch(headers.encode(usual()).decode())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ce_source": "/acme/a2"},
        {"ce_specversion": "1.1"},
        {"ce_id": "%41"},
        {"ce_id": '"quoted"'},
        {"ce_id": "x" * 129},
        {"ce_time": "2026-13-21T10:00:00.123456Z"},
        {"ce_time": "2026-11-21T10:00:60Z"},
        {"ce_datacontenttype": "text/plain"},
        {"ce_datacontenttype": "application/cloudevents+json"},
        {"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"},
        {"traceparent": "ff" + TRACE[2:]},
        {"Coord_Schema": "0"},
        {"Coord_Schema": "1000001"},
        {"Coord_Correlation": "x" * 1025},
    ],
    ids=str,
)
def test_the_fast_way_judges_as_the_careful_one(changes):
    fields = usual(**changes)
    outcomes: list[object] = []
    for raw in (headers.encode(fields), headers.encode(dict(reversed(fields.items())))):
        try:
            outcomes.append(attributes.read(raw, "acme", "a1"))
        except WireError as exc:
            outcomes.append((type(exc), exc.message))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (TRACE, True),
        (TRACE[:-2] + "00", True),
        ("cc" + TRACE[2:] + "-more", True),
        ("cc" + TRACE[2:] + "-", True),
        (TRACE + "-more", False),
        ("ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        (TRACE[:-1], False),
        (TRACE + "0", False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
        ("cc" + TRACE[2:] + "-" + "x" * 2000, False),
        ("cc" + TRACE[2:] + "-a b", False),
        ("", False),
    ],
)
def test_traceparent_as_w3c_says(text, valid):
    assert valid_traceparent(text) == (text if valid else None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-21T10:00:00Z", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("2026-11-21t10:00:00z", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("2026-11-21 10:00:00Z", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("2026-11-21T10:00:00.1Z", datetime(2026, 11, 21, 10, 0, 0, 100_000, tzinfo=UTC)),
        ("2026-11-21T10:00:00.1234567899Z", datetime(2026, 11, 21, 10, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-11-21T15:30:00+05:30", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("2026-11-21T10:00:00-00:00", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2016-12-31T23:59:60.5+00:00", datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("0001-01-02T00:00:00Z", datetime(1, 1, 2, tzinfo=UTC)),
        ("9999-12-30T23:59:59.999999Z", datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2086-11-21T10:00:00Z", datetime(2086, 11, 21, 10, tzinfo=UTC)),
    ],
)
def test_times(text, moment):
    parsed = parse_time(text)
    assert parsed == moment
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-21",
        "2026-11-21T10:00Z",
        "2026-11-21T10:00:00",
        "2026-11-21T10:00:00.Z",
        "2026-11-21T10:00:00+0530",
        "2026-11-21T10:00:00+25:00",
        "2026-11-21T24:00:00Z",
        "2026-11-21T10:61:00Z",
        "2026-02-29T10:00:00Z",
        "20261121T100000Z",
        "2026-W47-6T10:00:00Z",
        "10000-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T23:59:59.999999Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "1763719200",
        "٢٠٢٦-11-21T10:00:00Z",
        "2026-11-21T10:00:00." + "1" * 40 + "Z",
    ],
)
def test_what_is_no_time(text):
    with pytest.raises(InvalidEnvelope):
        parse_time(text)


def test_a_time_needs_a_zone():
    for convert in (format_time, to_unix_us):
        with pytest.raises(InvalidEnvelope):
            convert(datetime(2026, 1, 1))
        for outside in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
            with pytest.raises(InvalidEnvelope):
                convert(outside)
    with pytest.raises(InvalidEnvelope):
        format_time(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert format_time(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "unix_us", [0, 1, -1, 2**32 * 10**6 - 1, 2**32 * 10**6, 253_402_214_399_999_999, -62_135_510_400_000_000]
)
def test_microseconds_are_exact(unix_us):
    assert to_unix_us(from_unix_us(unix_us)) == unix_us


@pytest.mark.parametrize("unix_us", [253_402_214_400_000_000, -62_135_510_400_000_001, 2**66, -(2**66)])
def test_microseconds_outside_the_calendar(unix_us):
    with pytest.raises(OverflowError):
        from_unix_us(unix_us)
