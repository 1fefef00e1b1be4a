"""Payloads that are too large for the log: objects of the bucket PAYLOADS, by reference.

The bucket is an object store as every NATS client knows it (chunks under ``$O.PAYLOADS.C.{nuid}``,
one record under ``$O.PAYLOADS.M.{name}``), so that ``nats object get`` and other languages read
what is put here; it is spoken on the agent's own connection, with acks pipelined.

The object is stored before the fact that names it.  Each payload is an object of its own, though
another has the same content: one that is stored again would be gone for a moment, for whoever
reads it just then.  It lives as long as the bucket keeps it (streams/OBJ_PAYLOADS.toml), which is
longer than the log's window.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.direct import DirectReader, last_by_subject
from coord.bus.publish import AckPipeline
from coord.wire import headers as wire_headers
from coord.wire import subjects
from coord.wire.work import Reference

BUCKET: Final = "PAYLOADS"

_CHUNKS: Final = f"$O.{BUCKET}.C."
_RECORDS: Final = f"$O.{BUCKET}.M."
_CHUNK_BYTES: Final = 128 * limits.KIB
"""The usual one of NATS's own clients."""

_ROLLUP: Final = wire_headers.encode({"Nats-Rollup": "sub"})


class _Record(msgspec.Struct, omit_defaults=True):
    """An object's record, as NATS's clients write it."""

    name: str
    bucket: str = ""
    nuid: str = ""
    size: int = 0
    mtime: str = ""
    chunks: int = 0
    digest: str = ""
    options: dict[str, Any] = {}
    deleted: bool = False


class Payloads:
    """Of one connection; nothing is opened before it is needed.  `close` it before the connection."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self._conn = conn
        self._tenant = tenant
        self._pipeline: AckPipeline | None = None
        self._reader: DirectReader | None = None

    async def put(self, body: bytes, content: Literal["json", "msgpack"] = "json") -> Reference:
        """Store a payload; raises `PayloadTooLarge`, and what publishing raises (`NoStream`: no bucket)."""
        if len(body) > limits.TASK_OUTPUT_BYTES_MAX:
            raise errors.PayloadTooLarge(bytes=len(body), bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        if self._pipeline is None:
            self._pipeline = await AckPipeline.open(self._conn)
        digest = hashlib.sha256(body)
        nuid = secrets.token_hex(11)
        name = f"{self._tenant}/{digest.hexdigest()}/{nuid}"
        view = memoryview(body)
        sent = [
            self._pipeline.send(_CHUNKS + nuid, bytes(view[at : at + _CHUNK_BYTES]), msg_id=f"{nuid}/{at}")
            for at in range(0, len(body), _CHUNK_BYTES)
        ]
        for publication in sent:
            await publication
        record = _Record(
            name=name, bucket=BUCKET, nuid=nuid, size=len(body), chunks=len(sent),
            mtime=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            digest="SHA-256=" + urlsafe_b64encode(digest.digest()).decode(), options={"max_chunk_size": _CHUNK_BYTES},
        )  # fmt: skip
        await self._pipeline.send(_RECORDS + _encoded(name), msgspec.json.encode(record), _ROLLUP)
        return Reference(name=name, size=len(body), digest=digest.hexdigest(), content=content)

    async def get(self, ref: Reference) -> bytes:
        """A payload; raises `ApiNotFound` where it is not there any more, and `InvalidPayload` for another one."""
        if ref.size > limits.TASK_OUTPUT_BYTES_MAX or not ref.name.startswith(f"{self._tenant}/"):
            raise errors.InvalidPayload("not a payload of this tenant", name=ref.name[:128], size=ref.size)
        found = await last_by_subject(self._conn, subjects.PAYLOADS, _RECORDS + _encoded(ref.name))
        if found is None:
            raise errors.ApiNotFound("this payload is not kept any more", name=ref.name)
        try:
            record = msgspec.json.decode(found.body, type=_Record)
        except msgspec.MsgspecError as exc:
            raise errors.InvalidPayload("the record of this payload cannot be read", name=ref.name) from exc
        body = await self._chunks(record, ref)
        if hashlib.sha256(body).hexdigest() != ref.digest:
            raise errors.InvalidPayload("the payload is not the one that was stored", name=ref.name)
        return body

    async def _chunks(self, record: _Record, ref: Reference) -> bytes:
        if self._reader is None:
            self._reader = DirectReader(self._conn)
        pieces: list[bytes] = []
        seq, size = 1, 0
        while size < ref.size and len(pieces) < record.chunks:
            batch = await self._reader.batch(subjects.PAYLOADS, _CHUNKS + record.nuid, from_seq=seq, messages_max=64)
            if not batch.messages:
                raise errors.ApiNotFound("a part of this payload is not kept any more", name=ref.name)
            pieces += [message.body for message in batch.messages]
            size += sum(len(message.body) for message in batch.messages)
            seq = batch.messages[-1].seq + 1
        return b"".join(pieces)

    async def close(self) -> None:
        """Let go of what was opened.  Twice is legal."""
        if self._pipeline is not None:
            await self._pipeline.close()
        if self._reader is not None:
            await self._reader.close()


def _encoded(name: str) -> str:
    return urlsafe_b64encode(name.encode()).decode()
