"""Payloads that are too large for the log: objects of the bucket PAYLOADS, by reference.

A payload ``{tenant}/{digest}/{token}`` is its bytes in chunks of 128 KiB under
``$O.PAYLOADS.C.{tenant}.{token}.{n}``: the tenant stands in the subject, so permissions keep one
from another's, and each chunk is read by its own subject.  Where the agent may, it also writes the
record that makes it an object for every NATS client (``nats object get PAYLOADS …``); coord
reads none.

It is stored before the fact that names it.  Each payload is an object of its own, though another
has the same content: one that is stored again would be gone for a moment, for whoever reads it
just then.  It lives as long as the bucket keeps it (streams/OBJ_PAYLOADS.toml), which is longer
than the log's window.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.direct import last_by_subject
from coord.bus.publish import AckPipeline, Publication
from coord.runtime import clock
from coord.wire import headers as wire_headers
from coord.wire import subjects
from coord.wire.work import Reference

BUCKET: Final = "PAYLOADS"

_CHUNKS: Final = f"$O.{BUCKET}.C."
_RECORDS: Final = f"$O.{BUCKET}.M."
CHUNK_BYTES: Final = 128 * limits.KIB
"""The usual one of NATS's own clients; part of the protocol."""

_AT_ONCE: Final = 16
"""Chunks under way: 2 MiB."""

_RECORD_S: Final = 5.0

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
        self._record: Publication | None = None
        """The newest."""
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def put(self, body: bytes, content: Literal["json", "msgpack"] = "json") -> Reference:
        """Store a payload; raises `PayloadTooLarge`, and what publishing raises (`NoStream`: no bucket)."""
        if len(body) > limits.TASK_OUTPUT_BYTES_MAX:
            raise errors.PayloadTooLarge(bytes=len(body), bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        if self._pipeline is None:
            self._pipeline = await AckPipeline.open(self._conn)
        pipeline = self._pipeline
        digest = hashlib.sha256(body)
        token = secrets.token_hex(11)
        name = f"{self._tenant}/{digest.hexdigest()}/{token}"
        chunks = _chunks_of(len(body))

        async def store(n: int) -> None:
            async with self._slots:
                piece = body[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]
                await pipeline.send(_chunk(self._tenant, token, n), piece, msg_id=f"{token}/{n}")

        await _all(store, chunks)
        record = _Record(
            name=name, bucket=BUCKET, nuid=f"{self._tenant}.{token}.*", size=len(body), chunks=chunks,
            mtime=clock.utc_now().isoformat().replace("+00:00", "Z"),
            digest="SHA-256=" + urlsafe_b64encode(digest.digest()).decode(), options={"max_chunk_size": CHUNK_BYTES},
        )  # fmt: skip
        if self._record is None or not isinstance(self._record.error, errors.NoPermission):
            # For others' convenience: nobody waits for it, and who may not write it does not try again.
            subject = _RECORDS + urlsafe_b64encode(name.encode()).decode()
            self._record = pipeline.send(subject, msgspec.json.encode(record), _ROLLUP, deadline_s=_RECORD_S)
        return Reference(name=name, size=len(body), digest=digest.hexdigest(), content=content)

    async def get(self, ref: Reference) -> bytes:
        """A payload; raises `ApiNotFound` where it is not there any more, and `InvalidPayload` for another one."""
        tenant, _, token = (*ref.name.split("/"), "", "")[:3]
        if tenant != self._tenant or not 0 < ref.size <= limits.TASK_OUTPUT_BYTES_MAX:
            raise errors.InvalidPayload("not a payload of this tenant", name=ref.name[:256], size=ref.size)
        subjects.check_token(token, "payload")
        pieces = [b""] * _chunks_of(ref.size)

        async def fetch(n: int) -> None:
            async with self._slots:
                found = await last_by_subject(self._conn, subjects.PAYLOADS, _chunk(tenant, token, n))
            if found is None:
                raise errors.ApiNotFound("this payload is not kept any more", name=ref.name)
            pieces[n] = found.body

        await _all(fetch, len(pieces))
        body = b"".join(pieces)
        if hashlib.sha256(body).hexdigest() != ref.digest:
            raise errors.InvalidPayload("the payload is not the one that was stored", name=ref.name)
        return body

    async def whole(self, raw: bytes) -> bytes:
        """JSON that a decider put together, with the payloads in the places of the ``{"$ref": …}`` in it.

        Raises what `get` raises, and `PayloadTooLarge` for more than one payload may have together.
        """
        if b'"$ref":' not in raw:
            return raw
        value = msgspec.json.decode(raw)
        references = {ref.name: ref for ref in _references(value) if ref.name.startswith(f"{self._tenant}/")}
        size = sum(ref.size for ref in references.values())
        if size > limits.TASK_OUTPUT_BYTES_MAX:
            raise errors.PayloadTooLarge(
                "too large payloads together", bytes=size, bytes_max=limits.TASK_OUTPUT_BYTES_MAX
            )
        bodies: dict[str, Any] = {}
        for name, ref in references.items():
            body = await self.get(ref)
            bodies[name] = msgspec.Raw(body) if ref.content == "json" else msgspec.msgpack.decode(body)
        return msgspec.json.encode(_filled(value, bodies)) if bodies else raw

    async def renewed(self, raw: bytes) -> bytes:
        """The same, with each payload that it names stored anew: it is kept for as long as one that is stored now.

        Raises what `get` and `put` raise.
        """
        if b'"$ref":' not in raw:
            return raw
        value = msgspec.json.decode(raw)
        bodies: dict[str, Any] = {}
        for ref in _references(value):
            if ref.name not in bodies and ref.name.startswith(f"{self._tenant}/"):
                bodies[ref.name] = {"$ref": await self.put(await self.get(ref), ref.content)}
        return msgspec.json.encode(_filled(value, bodies)) if bodies else raw

    async def close(self) -> None:
        """Let go of what was opened.  Twice is legal."""
        if self._pipeline is not None:
            await self._pipeline.close()


def _reference(value: Any) -> Reference | None:
    if type(value) is not dict or len(value) != 1 or type(value.get("$ref")) is not dict:
        return None
    try:
        return msgspec.convert(value["$ref"], Reference)
    except msgspec.ValidationError:
        return None  # something of the author's that is called so


def _references(value: Any) -> Iterator[Reference]:
    ref = _reference(value)
    if ref is not None:
        yield ref
    elif isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _references(member)


def _filled(value: Any, bodies: dict[str, Any]) -> Any:
    ref = _reference(value)
    if ref is not None:
        return bodies.get(ref.name, value)
    if isinstance(value, dict):
        return {name: _filled(member, bodies) for name, member in value.items()}
    return [_filled(member, bodies) for member in value] if isinstance(value, list) else value


def _chunk(tenant: str, token: str, n: int) -> str:
    return f"{_CHUNKS}{tenant}.{token}.{n}"


def _chunks_of(size: int) -> int:
    return -(-size // CHUNK_BYTES)


async def _all(do: Callable[[int], Coroutine[Any, Any, None]], count: int) -> None:
    """All of them at once; the first error is raised when those that were begun are over."""
    found = await asyncio.gather(*(do(n) for n in range(count)), return_exceptions=True)
    for error in found:
        if error is not None:
            raise error
