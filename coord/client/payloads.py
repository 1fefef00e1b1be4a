"""Payloads that are too large for the log: objects of the bucket PAYLOADS, by reference.

The object is stored before the fact that names it, and is named by its digest: the same payload
twice is one object.  It lives as long as the bucket keeps it (streams/OBJ_PAYLOADS.toml), which is
longer than the log's window.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from nats import errors as nats_errors
from nats.js import errors as js_errors

from coord import errors, limits
from coord.bus.connection import Connection
from coord.wire.work import Reference

BUCKET = "PAYLOADS"


class Payloads:
    """Of one connection."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self._conn = conn
        self._tenant = tenant

    async def put(self, body: bytes, content: Literal["json", "msgpack"] = "json") -> Reference:
        """Store a payload; raises `PayloadTooLarge`, and `BusError` (retryable) where it cannot be."""
        if len(body) > limits.TASK_OUTPUT_BYTES_MAX:
            raise errors.PayloadTooLarge(bytes=len(body), bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        digest = hashlib.sha256(body).hexdigest()
        name = f"{self._tenant}/{digest}"
        store = await self._store()
        try:
            await store.put(name, body)
        except (nats_errors.Error, OSError, TimeoutError) as exc:
            raise errors.ApiUnavailable("a payload could not be stored", error=str(exc)[:256]) from exc
        return Reference(name=name, size=len(body), digest=digest, content=content)

    async def get(self, ref: Reference) -> bytes:
        """A payload; raises `ApiNotFound` where it is not there any more, and `InvalidPayload` for another one."""
        if ref.size > limits.TASK_OUTPUT_BYTES_MAX or not ref.name.startswith(f"{self._tenant}/"):
            raise errors.InvalidPayload("not a payload of this tenant", name=ref.name[:128], size=ref.size)
        store = await self._store()
        try:
            result = await store.get(ref.name)
        except (js_errors.ObjectNotFoundError, js_errors.NotFoundError) as exc:
            raise errors.ApiNotFound("this payload is not kept any more", name=ref.name) from exc
        except (nats_errors.Error, OSError, TimeoutError) as exc:
            raise errors.ApiUnavailable("a payload could not be read", error=str(exc)[:256]) from exc
        body: bytes = result.data or b""
        if hashlib.sha256(body).hexdigest() != ref.digest:
            raise errors.InvalidPayload("the payload is not the one that was stored", name=ref.name)
        return body

    async def _store(self) -> Any:
        try:
            return await self._conn.client.jetstream().object_store(BUCKET)
        except (js_errors.BucketNotFoundError, js_errors.NotFoundError) as exc:
            raise errors.ApiNotFound("there is no bucket PAYLOADS; run `coord stream apply`") from exc
        except (nats_errors.Error, OSError, TimeoutError) as exc:
            raise errors.ApiUnavailable("the bucket PAYLOADS does not answer", error=str(exc)[:256]) from exc
