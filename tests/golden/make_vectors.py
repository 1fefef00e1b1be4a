"""Write the golden vectors of protocol version 1: ``python -m tests.golden.make_vectors``.

Only for adding vectors.  Once a release is out its vectors are never changed: whoever has
to change one has broken the protocol.  The expected error of every invalid message is
stated here by hand; the expected rows come from the decoder and are read before they are
committed.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from coord.core.status import StatusFold
from coord.errors import InvalidPayload
from coord.wire import headers, ids, status, subjects
from coord.wire.envelope import Poison, Stored, StoredFact, decode_message

V1 = Path(__file__).parent / "v1"
STORED_AT = datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC)
SEQ = 42
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CE_ID = "019a7c2e-7b1e-7c3d-9f2a-1b2c3d4e5f60"

FRAME = "application/vnd.coord.frame+msgpack"
ZSTD = FRAME + "+zstd"
MSGPACK = "application/msgpack"

STATUS = ("acme", "me", "me", "agent", "me", "status")
CHANGED = ("acme", "me", "me", "agent", "me", "changed")
TASK = ("acme", "scout-1", "wf-7", "task", "doc-42", "submitted", ("summarize", "critical"))
NOTE = ("acme", "a1", "n1", "note", "n1", "taken")
CPU = ("acme", "a1", "cpu")


def pack(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def block(fields: dict[str, str] | list[tuple[str, str]] | None) -> bytes | None:
    """A header block as any client would write it: nothing checked."""
    if fields is None:
        return None
    pairs = fields.items() if isinstance(fields, dict) else fields
    return ("NATS/1.0\r\n" + "".join(f"{n}: {v}\r\n" for n, v in pairs) + "\r\n").encode()


def stored_of(address: tuple[Any, ...]) -> tuple[str, str]:
    subject = subjects.SampleSubject(*address) if len(address) == 3 else subjects.FactSubject(*address)
    return subject.publish, subject.stored


Case = tuple[str, tuple[Any, ...] | str, "bytes | dict[str, str] | list[tuple[str, str]] | None", bytes]

VALID: list[Case] = [
    ("bare JSON: what is left out comes from the subject and the stream", STATUS, None, b'{"load":0.2}'),
    ("no body is null", NOTE, None, b""),
    ("a scalar is data too", NOTE, None, b" 3.5 "),
    ("detail tokens, key other than id", TASK, None, b'{"doc":"s3://x/y"}'),
    (
        "CloudEvents in binary mode, everything given",
        TASK,
        {
            "ce-specversion": "1.0",
            "ce-id": CE_ID,
            "ce-source": "/acme/scout-1",
            "ce-type": "coord.task.submitted",
            "ce-time": "2026-11-21T09:59:59.5Z",
            "ce-datacontenttype": "application/json",
            "traceparent": TRACE,
            "Coord-Correlation": "conv-1",
            "Coord-Causation": "019a7c2e-0000-7000-8000-000000000001",
            "Coord-Schema": "1",
            "Nats-Msg-Id": f"acme.scout-1.{CE_ID}",
        },
        '{"title":"Grüße","n":[1,2.5,-0.0,1e300,12345678901234567890],"ok":true,"none":null}'.encode(),
    ),
    (
        "what coord's own encoder writes, in its order",
        NOTE,
        {
            "ce-specversion": "1.0",
            "ce-id": CE_ID,
            "ce-source": "/acme/a1",
            "ce-time": "2026-11-21T09:59:59.500000Z",
            "ce-datacontenttype": "application/json",
            "Nats-Msg-Id": f"acme.a1.{CE_ID}",
            "ce-type": "coord.note.taken",
        },
        b'{"text":"hello"}',
    ),
    (
        "percent-encoding, case of names, a foreign type, an offset, unknown headers",
        NOTE,
        [
            ("CE-ID", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("Ce-Type", "com.example.note%20taken"),
            ("ce-time", "2026-11-21T15:29:59.123456789+05:30"),
            ("coord-correlation", '"quoted \\"id\\""'),
            ("ce-dataschema", "https://example.com/note.json"),
            ("X-Anything", "goes"),
            ("X-Anything", "twice"),
        ],
        b"{}",
    ),
    ("a leap second, lower case", NOTE, {"ce-time": "2016-12-31t23:59:60z"}, b"{}"),
    ("a clock 60 years ahead is believed as occurred_at", NOTE, {"ce-time": "2086-11-21T10:00:00Z"}, b"{}"),
    ("a clock before 1970", NOTE, {"ce-time": "1901-02-03T04:05:06-07:00"}, b"{}"),
    ("an invalid traceparent is dropped", NOTE, {"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"}, b"{}"),
    ("a newer traceparent is kept", NOTE, {"traceparent": "cc-" + TRACE[3:] + "-what-comes-later"}, b"{}"),
    ("ce-traceparent stands in for traceparent", NOTE, {"ce-traceparent": TRACE}, b"{}"),
    ("Content-Type stands in for ce-datacontenttype", NOTE, {"Content-Type": "application/json; charset=UTF-8"}, b"{}"),
    ("a +json type is JSON", NOTE, {"ce-datacontenttype": "application/vnd.acme.note+json"}, b'{"a":1}'),
    (
        "MessagePack: binary becomes base64, a timestamp RFC 3339",
        NOTE,
        {"ce-id": CE_ID, "ce-datacontenttype": MSGPACK},
        pack({"bin": b"\x00\xff", "at": STORED_AT, "n": 2**64 - 1, "list": [None, True, -1.5], "text": "ä"}),
    ),
    ("an application's schema may be any", NOTE, {"Coord-Schema": "7"}, b"{}"),
    (
        "a frame of status facts: ids are {ce-id}/{index}",
        STATUS,
        {"ce-id": CE_ID, "ce-datacontenttype": FRAME, "Coord-Correlation": "conv-1"},
        pack([1, 1_795_255_200_000_000, [[0, {"load": 0.1}], [100_000, {"load": 0.2}], [200_000, None]]]),
    ),
    (
        "a status that changes build upon",
        STATUS,
        None,
        b'{"load":0.2,"task":"t1","_rev":{"run":"k3jd8s0q","at":41}}',
    ),
    (
        "a frame of changes",
        CHANGED,
        {"ce-datacontenttype": FRAME},
        pack(
            [
                1,
                1_795_255_200_000_000,
                [
                    [0, {"run": "k3jd8s0q", "at": 42, "set": {"load": 0.4}}],
                    [9, {"run": "k3jd8s0q", "at": 43, "unset": ["task"]}],
                ],
            ]
        ),
    ),
    (
        "progress of any kind may travel in frames",
        ("acme", "w1", "wf-7", "build", "b-1", "progress"),
        {"ce-datacontenttype": FRAME},
        pack([1, 1_795_255_200_000_000, [[-5, 0.25]]]),
    ),
    ("an empty frame says nothing", CPU, {"ce-datacontenttype": FRAME}, pack([1, 0, []])),
    ("a sample: a number", CPU, None, b"0.75"),
    ("a sample: a map with value", ("acme", "a1", "llm.tokens"), None, b'{"value":1200,"model":"m-1","cached":false}'),
    (
        "a frame of samples; a bad entry is a dead letter of its own",
        CPU,
        {"ce-datacontenttype": FRAME},
        pack(
            [
                1,
                1_795_255_200_000_000,
                [
                    [0, 0.5],
                    [1_000_000, 2],
                    [2_000_000, {"value": 0.25, "host": "h1"}],
                    [3_000_000, float("nan")],
                    [4_000_000, "0.5"],
                    [5_000_000],
                    [-1_795_255_200_000_000, 1.5],
                ],
            ]
        ),
    ),
    (
        "a compressed frame",
        CPU,
        {"ce-datacontenttype": ZSTD},
        zstandard.ZstdCompressor(level=3).compress(pack([1, 1_795_255_200_000_000, [[i, float(i)] for i in range(4)]])),
    ),
]

P_N1 = subjects.partition("n1")

INVALID: list[tuple[str, str, tuple[Any, ...] | str, Any, bytes]] = [
    # (code, name, address or stored subject, headers, body)
    ("wire.token", "upper case in a token", f"coord.log.{P_N1}.acme.n1.note.N1.a1.taken", None, b"{}"),
    ("wire.token", "an empty token", f"coord.log.{P_N1}.acme.n1.note..a1.taken", None, b"{}"),
    ("wire.token", "a token of 65 bytes", f"coord.log.{P_N1}.acme.n1.note.{'x' * 65}.a1.taken", None, b"{}"),
    ("wire.token", "not ASCII", f"coord.log.{P_N1}.acme.n1.note.ä.a1.taken", None, b"{}"),
    ("wire.subject", "the partition is not the key's", f"coord.log.{P_N1 ^ 1}.acme.n1.note.n1.a1.taken", None, b"{}"),
    ("wire.subject", "the partition is not canonical", f"coord.log.0{P_N1}.acme.n1.note.n1.a1.taken", None, b"{}"),
    ("wire.subject", "no event", f"coord.log.{P_N1}.acme.n1.note.n1.a1", None, b"{}"),
    ("wire.subject", "five detail tokens", f"coord.log.{P_N1}.acme.n1.note.n1.a1.taken.1.2.3.4.5", None, b"{}"),
    (
        "wire.subject",
        "five series tokens",
        f"coord.tlog.{subjects.partition('a1')}.acme.a1.a.b.c.d.e",
        None,
        b"1",
    ),
    ("wire.subject", "not a stored subject", "coord.ev.acme.a1.n1.note.n1.taken", None, b"{}"),
    ("wire.specversion", "CloudEvents 0.3", NOTE, {"ce-specversion": "0.3"}, b"{}"),
    ("wire.envelope", "ce-source is somebody else", NOTE, {"ce-source": "/acme/a2"}, b"{}"),
    ("wire.envelope", "ce-id is empty", NOTE, {"ce-id": ""}, b"{}"),
    ("wire.envelope", "ce-id of 129 bytes", NOTE, {"ce-id": "x" * 129}, b"{}"),
    ("wire.envelope", "ce-id twice", NOTE, [("ce-id", "1"), ("CE-ID", "2")], b"{}"),
    ("wire.envelope", "ce-time without an offset", NOTE, {"ce-time": "2026-11-21T10:00:00"}, b"{}"),
    ("wire.envelope", "ce-time in the year 10000", NOTE, {"ce-time": "10000-01-01T00:00:00Z"}, b"{}"),
    ("wire.envelope", "ce-time that does not exist", NOTE, {"ce-time": "2026-02-30T10:00:00Z"}, b"{}"),
    ("wire.envelope", "overlong UTF-8 in percent-encoding", NOTE, {"ce-id": "%C0%A0"}, b"{}"),
    ("wire.envelope", "a percent sign without digits", NOTE, {"ce-type": "100%"}, b"{}"),
    ("wire.envelope", "an encoded control character", NOTE, {"ce-type": "a%00b"}, b"{}"),
    ("wire.envelope", "a correlation id of 1025 bytes", NOTE, {"Coord-Correlation": "x" * 1025}, b"{}"),
    ("wire.envelope", "schema is not a number", NOTE, {"Coord-Schema": "1.0"}, b"{}"),
    ("wire.envelope", "schema 0", NOTE, {"Coord-Schema": "0"}, b"{}"),
    ("wire.envelope", "a block without an end", NOTE, b"NATS/1.0\r\nce-id: 1\r\n", b"{}"),
    ("wire.envelope", "a block with another beginning", NOTE, b"HTTP/1.1\r\nce-id: 1\r\n\r\n", b"{}"),
    ("wire.envelope", "a line without a colon", NOTE, b"NATS/1.0\r\nce-id\r\n\r\n", b"{}"),
    ("wire.envelope", "a folded line", NOTE, b"NATS/1.0\r\nce-id: 1\r\n 2\r\n\r\n", b"{}"),
    ("wire.envelope", "headers that are not UTF-8", NOTE, b"NATS/1.0\r\nce-id: \xff\r\n\r\n", b"{}"),
    ("wire.envelope", "a status line", NOTE, b"NATS/1.0 404 No Messages\r\nce-id: 1\r\n\r\n", b"{}"),
    ("wire.payload", "structured-mode CloudEvents", NOTE, {"Content-Type": "application/cloudevents+json"}, b"{}"),
    ("wire.payload", "another content type", NOTE, {"ce-datacontenttype": "text/plain"}, b"hello"),
    ("wire.payload", "another charset", NOTE, {"ce-datacontenttype": "application/json; charset=latin-1"}, b"{}"),
    ("wire.payload", "not JSON", NOTE, None, b"{load:0.2}"),
    ("wire.payload", "truncated JSON", NOTE, None, b'{"load":0.2'),
    ("wire.payload", "two JSON values", NOTE, None, b"{} {}"),
    ("wire.payload", "a byte order mark", NOTE, None, b"\xef\xbb\xbf{}"),
    ("wire.payload", "NaN", NOTE, None, b'{"load":NaN}'),
    ("wire.payload", "JSON that is not UTF-8", NOTE, None, b'{"a":"\xff"}'),
    ("wire.payload", "a raw surrogate", NOTE, None, b'{"a":"\xed\xa0\x80"}'),
    ("wire.payload", "the character U+0000", NOTE, None, b'{"a":"x\\u0000y"}'),
    ("wire.payload", "an unpaired high surrogate", NOTE, None, b'{"a":"\\ud800"}'),
    ("wire.payload", "an unpaired low surrogate", NOTE, None, b'{"a":"\\udc00"}'),
    ("wire.payload", "a number beyond a double", NOTE, None, b'{"a":1e400}'),
    ("wire.payload", "an exponent beyond numeric", NOTE, None, b'{"a":1e-20000}'),
    ("wire.payload", "a zero with a huge exponent", NOTE, None, b'{"a":0e9999999}'),
    ("wire.payload", "1001 digits", NOTE, None, b"0." + b"1" * 1001),
    ("wire.too_deep", "65 levels", NOTE, None, b"[" * 65 + b"]" * 65),
    ("wire.payload", "MessagePack with a key that is no string", NOTE, {"ce-datacontenttype": MSGPACK}, pack({1: 2})),
    ("wire.payload", "MessagePack with NaN", NOTE, {"ce-datacontenttype": MSGPACK}, pack({"a": float("nan")})),
    ("wire.payload", "MessagePack with an extension", NOTE, {"ce-datacontenttype": MSGPACK}, b"\xd4\x05\x00"),
    ("wire.payload", "MessagePack that ends early", NOTE, {"ce-datacontenttype": MSGPACK}, b"\x92\x01"),
    ("wire.payload", "MessagePack with U+0000", NOTE, {"ce-datacontenttype": MSGPACK}, pack({"a": "\x00"})),
    ("wire.too_deep", "MessagePack of 65 levels", NOTE, {"ce-datacontenttype": MSGPACK}, b"\x91" * 65 + b"\xc0"),
    ("wire.author", "the status of another agent", ("acme", "a1", "a2", "agent", "a2", "status"), None, b"{}"),
    ("wire.author", "a decider's fact by an agent", ("acme", "a1", "a2", "agent", "a2", "gone"), None, b"{}"),
    ("wire.author", "an agent's fact by a decider", ("acme", "_x", "t1", "task", "t1", "completed"), None, b"{}"),
    ("wire.author", "an application's fact by a decider", ("acme", "_x", "n1", "note", "n1", "taken"), None, b"{}"),
    ("wire.author", "no such event of a reserved kind", ("acme", "a1", "t1", "task", "t1", "exploded"), None, b"{}"),
    ("wire.author", "a PubAck, stored through a forged reply subject", NOTE, None, b'{"stream":"EVENTS","seq":3}'),
    ("wire.key", "an agent's fact under another key", ("acme", "a1", "k9", "agent", "a1", "status"), None, b"{}"),
    ("wire.schema_unknown", "a newer schema of a reserved kind", STATUS, {"Coord-Schema": "2"}, b"{}"),
    ("wire.frame_not_allowed", "a frame of terminal facts", NOTE, {"ce-datacontenttype": FRAME}, pack([1, 0, []])),
    ("wire.frame", "a frame of another version", CPU, {"ce-datacontenttype": FRAME}, pack([2, 0, []])),
    ("wire.frame", "a frame that is a map", CPU, {"ce-datacontenttype": FRAME}, pack({"v": 1})),
    ("wire.frame", "a base time that is a float", CPU, {"ce-datacontenttype": FRAME}, pack([1, 0.5, []])),
    ("wire.frame", "not zstd", CPU, {"ce-datacontenttype": ZSTD}, pack([1, 0, []])),
    (
        "wire.frame",
        "something behind the zstd frame",
        CPU,
        {"ce-datacontenttype": ZSTD},
        zstandard.compress(pack([1, 0, []])) + b"\x00",
    ),
    (
        "wire.too_large",
        "a frame that decompresses beyond 8 MiB",
        CPU,
        {"ce-datacontenttype": ZSTD},
        zstandard.compress(bytes(9 * 1024 * 1024), level=19),
    ),
    ("wire.too_large", "1001 entries", CPU, {"ce-datacontenttype": FRAME}, pack([1, 0, [[0, 0]] * 1001])),
    ("wire.payload", "a sample that is a string", CPU, None, b'"0.5"'),
    ("wire.payload", "a sample that is a truth value", CPU, None, b"true"),
    ("wire.payload", "a sample without a value", CPU, None, b'{"host":"h1"}'),
    ("wire.payload", "a sample without a body", CPU, None, b""),
]


def time_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def row(item: Stored) -> dict[str, Any]:
    """A decoded row in JSON: what another implementation compares its own with."""
    if isinstance(item, Poison):
        return {"error": {"code": item.error.code, "index": item.index, "body": base64.b64encode(item.body).decode()}}
    fields = {
        name: getattr(item, name)
        for name in item.__struct_fields__
        if name not in ("body", "content", "converted", "json_text")
    }
    fields["stored_at"] = time_text(item.stored_at)
    fields["occurred_at"] = time_text(item.occurred_at)
    if isinstance(item, StoredFact):
        fields["detail"] = list(item.detail)
        return {"fact": {**fields, "data": json.loads(item.json_text)}}
    return {"sample": {**fields, "data": None if item.json_text is None else json.loads(item.json_text)}}


def message(name: str, address: tuple[Any, ...] | str, head: Any, body: bytes) -> dict[str, Any]:
    published, stored = (None, address) if isinstance(address, str) else stored_of(address)
    raw = head if isinstance(head, bytes) else block(head)
    rows = [row(item) for item in decode_message(stored, raw, body, SEQ, STORED_AT)]
    return {
        "name": name,
        "published": published,
        "stored": stored,
        "headers": None if raw is None else base64.b64encode(raw).decode(),
        "headers_text": None if raw is None else raw.decode("latin-1"),
        "body": base64.b64encode(body).decode(),
        "seq": SEQ,
        "stored_at": time_text(STORED_AT),
        "rows": rows,
    }


def messages() -> list[dict[str, Any]]:
    return [message(*case) for case in VALID]


def invalid_messages() -> list[dict[str, Any]]:
    found = []
    for code, name, address, head, body in INVALID:
        vector = message(name, address, head, body)
        codes = [r.get("error", {}).get("code") for r in vector["rows"]]
        assert codes == [code], f"{name}: {codes} instead of {code}"
        vector["code"] = code
        del vector["rows"]
        found.append(vector)
    return found


def subject_vectors() -> dict[str, Any]:
    tokens = ["me", "a1", "k1", "wf-7", "doc-42", "_timer", "analyst_3", CE_ID, "0", "z" * 64, "-", "scout-1", "n1"]
    facts = [STATUS, TASK, NOTE, ("acme", "_timer", CE_ID, "timer", "t-1", "fired")]
    samples = [CPU, ("acme", "a1", "llm.tokens"), ("t", "_timer", "a.b.c.d")]
    return {
        "hash": "FNV-1a, 32 bits, of the token's bytes; partition = hash mod 16",
        "partitions": [
            {"token": t, "fnv1a_32": subjects.fnv1a_32(t.encode()), "partition": subjects.partition(t)} for t in tokens
        ],
        "facts": [
            {
                **dict(zip(("tenant", "agent", "key", "kind", "id", "event"), f[:6], strict=True)),
                "detail": list(f[6]) if len(f) > 6 else [],
                "publish": (s := subjects.FactSubject(*f)).publish,  # type: ignore[arg-type]
                "stored": s.stored,
                "live": s.live,
            }
            for f in facts
        ],
        "samples": [
            {
                **dict(zip(("tenant", "agent", "series"), s, strict=True)),
                "publish": (x := subjects.SampleSubject(*s)).publish,
                "stored": x.stored,
            }
            for s in samples
        ],
        "filters": [
            {"name": "an entity's history", "filter": subjects.entity_filter("acme", "wf-7", "task", "doc-42")},
            {
                "name": "one claim of it",
                "filter": subjects.event_filter("acme", "wf-7", "task", "doc-42", "claimed", ("1",)),
            },
            {"name": "all facts of one kind", "filter": subjects.log_filter("acme", kind="task")},
            {
                "name": "one event with any detail",
                "filter": subjects.log_filters("acme", kind="task", event="completed")[1],
            },
            {"name": "partition 3 of EVENTS", "filter": subjects.partition_filter("EVENTS", 3)},
            {"name": "partition 3 of TELEMETRY", "filter": subjects.partition_filter("TELEMETRY", 3)},
        ],
        "others": {
            "rpc": subjects.rpc("acme", "log", "read"),
            "ask": subjects.ask("acme", "a1", "status"),
            "timer": subjects.timer("acme", "wf-7", "timer", "t-1"),
            "due": subjects.due("acme", "wf-7", "timer", "t-1"),
            "notice": subjects.notice("acme", 3),
            "dlq": subjects.dlq("EVENTS", "acme", "a1"),
            "dlq_unknown": subjects.dlq("TELEMETRY", None, None),
            "cursor": subjects.cursor("acme", "a1", "audit"),
        },
        "invalid_tokens": ["", "A", "a.b", "a b", "a*", ">", "ä", "x" * 65, "a\n", "a/b", "\u0000"],
        "invalid_published": [
            "coord.ev.acme.a1.n1.note.n1",
            "coord.ev.acme.a1.n1.note.n1.taken.1.2.3.4.5",
            "coord.ev.acme.a1.n1.note.n1.Taken",
            "coord.ev.acme.a1.n1.note.n1.taken.",
            "coord.tel.acme.a1",
            "coord.tel.acme.a1.a.b.c.d.e",
            "coord.log.5.acme.n1.note.n1.a1.taken",
            "other.ev.acme.a1.n1.note.n1.taken",
        ],
    }


def id_vectors() -> dict[str, Any]:
    uuid7 = [
        (0x017F22E279B0, 0xCC3 << 68 | 0x18C4DC0C0C07398F),
        (0, 0),
        ((1 << 48) - 1, (1 << 80) - 1),
        (1_795_255_200_123, 0x0123456789ABCDEF0123),
    ]
    derived = [
        ("acme", "wf-7", "review@3", "parse", 1, 0),
        ("acme", "wf-7", "review@3", "parse", 1, 1),
        ("acme", "wf-7", "review@3", "parse", 2, 0),
        ("t", "k", "", "", 0, 0),
        ("acme", "wf", "7", "Schritt ü", 1, 0),
        ("acme", "wf", "7", "a:b/c", 1, 2),
        ("acme", "wf", "a:b", "c", 1, 2),
        ("acme", "wf:a", "b", "c", 1, 2),
        ("acme", "k", "1", "x" * 120, 0, 0),
        ("acme", "k", "1", "x" * 121, 0, 0),
    ]
    counted = [(0, 0), ((1 << 74) - 1, (1 << 48) - 1), (0x0123456789ABCDEF012, 255), (1, 1 << 32)]
    names = ("tenant", "key", "definition_version", "step", "attempt", "ordinal")
    return {
        "uuid7": [{"unix_ms": ms, "random_80bits_hex": f"{rnd:020x}", "id": ids.uuid7(ms, rnd)} for ms, rnd in uuid7],
        "counted": [
            {"session_74bits_hex": f"{drawn:019x}", "count": n, "id": ids.counted_id(drawn, n)} for drawn, n in counted
        ],
        "hashed": [{**dict(zip(names, d, strict=True)), "id": ids.hashed_id(*d)} for d in derived],
        "derived": [{**dict(zip(names, d, strict=True)), "id": ids.derive_id(*d)} for d in derived],
    }


def header_vectors() -> dict[str, Any]:
    texts = ["plain", "Euro € 😀", 'say "hi"', "100%", "a b", "", "tab\tnew\nline", "ä", "~!*'()"]
    return {
        "percent_encoding": [{"text": t, "encoded": headers.quote(t)} for t in texts],
        "decoded_only": [
            {"encoded": "%7e%41", "text": "~A"},
            {"encoded": '"quoted \\"string\\" \\\\"', "text": 'quoted "string" \\'},
            {"encoded": "raw ä", "text": "raw ä"},
        ],
        "invalid": ["%", "%4", "%zz", "%C0%A0", "%ED%A0%80", "%FF", "%00", "%7F", "%C2%85"],
    }


def _whole(run: str, at: int, **state: Any) -> tuple[str, Any]:
    return "status", {**state, "_rev": {"run": run, "at": at}}


def _change(run: str, at: int, **members: Any) -> tuple[str, Any]:
    return "changed", {"run": run, "at": at, **members}


STATUSES: list[tuple[str, list[tuple[str, Any]]]] = [
    (
        "members are set and unset; null is a value",
        [
            _whole("r1", 1, load=0.2, task="t1"),
            _change("r1", 2, set={"load": 0.4, "note": None}),
            _change("r1", 3, unset=["task", "never"]),
        ],
    ),
    ("maps are replaced, not merged", [_whole("r1", 1, pos={"x": 1, "y": 2}), _change("r1", 2, set={"pos": {"x": 3}})]),
    (
        "a missing change: stale until it comes; what came early waits",
        [
            _whole("r1", 1, n=1),
            _change("r1", 3, set={"n": 3}),
            _change("r1", 4, set={"m": 4}),
            _change("r1", 2, set={"n": 2}),
        ],
    ),
    (
        "or until a whole status behind it",
        [_whole("r1", 1, n=1), _change("r1", 3, set={"n": 3}), _whole("r1", 2, n=2), _whole("r1", 4, n=4)],
    ),
    (
        "repeats and what is older change nothing",
        [_whole("r1", 2, n=2), _change("r1", 3, set={"n": 3}), _change("r1", 3, set={"n": 3}), _whole("r1", 2, n=2)],
    ),
    (
        "another run: its whole status is believed, its changes are not",
        [
            _whole("r1", 1, n=1),
            _change("r2", 2, set={"n": 22}),
            _whole("r2", 1, n=21),
            _change("r1", 2, set={"n": 12}),
            _whole("r2", 3, n=23),
        ],
    ),
    ("a plain status: shown, and nothing builds upon it", [("status", [1, 2]), _change("r1", 2, set={"n": 1})]),
    ("a change first", [_change("r1", 2, set={"n": 2}), _whole("r1", 1, n=1)]),
    ("a change that cannot be read", [_whole("r1", 1, n=1), ("changed", {"run": "r1"}), _whole("r1", 3, n=3)]),
    ("_rev that says nothing sensible is data", [("status", {"n": 1, "_rev": 7})]),
]


def status_vectors() -> list[dict[str, Any]]:
    found = []
    for name, facts in STATUSES:
        fold, steps = StatusFold(), []
        for event, data in facts:
            text = json.dumps(data)
            try:
                fold.take(status.read_whole(text) if event == "status" else status.read_change(text))
            except InvalidPayload:
                fold.take(None)
            steps.append({"event": event, "data": data, "state": fold.state, "stale": fold.stale})
        found.append({"name": name, "steps": steps})
    return found


def vectors() -> dict[str, Any]:
    """Every file's content by name."""
    return {
        "subjects.json": subject_vectors(),
        "ids.json": id_vectors(),
        "headers.json": header_vectors(),
        "status.json": status_vectors(),
        "messages.json": messages(),
        "invalid.json": invalid_messages(),
    }


def main() -> None:
    V1.mkdir(exist_ok=True)
    for name, content in vectors().items():
        (V1 / name).write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
