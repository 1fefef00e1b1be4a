"""A stream as a tier of the caches: bytes under names, the oldest leave when it is full.

One message a name, of a time of its own (``Nats-TTL``).  Read by direct get, which the stream's one server answers:
without copies, so nobody sees on one server what was replaced on another.  Nothing is asked of the JetStream API but
how full it is; an answer that is dropped is replaced by an empty one that leaves by itself.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from coord import errors, limits
from coord.bus import direct, errors_map
from coord.bus.connection import Connection
from coord.bus.direct import StoredMessage
from coord.core.aging import Window
from coord.wire import headers, subjects

_DROPPED_TTL_S: Final = 1.0


def shared_tiers(conn: Connection, tenant: str, *, l2: bool, l3: bool) -> tuple[StreamTier, ...]:
    """Those of a tenant that are wanted, the nearest first."""
    wanted = ((subjects.CACHE_L2, l2), (subjects.CACHE_L3, l3))
    return tuple(StreamTier(conn, tenant, stream) for stream, want in wanted if want)


class _PutAnswer(msgspec.Struct, frozen=True):
    seq: int = 0
    error: dict[str, object] | None = None


_decode = msgspec.json.Decoder(_PutAnswer).decode


class StreamTier:
    """See the module: a `coord.cache.tier.Tier` of one tenant."""

    def __init__(self, conn: Connection, tenant: str, stream: str) -> None:
        """`stream`: CACHE_L2 or CACHE_L3."""
        self.name, self.life_s = {
            subjects.CACHE_L2: ("l2", limits.CACHE_L2_TTL_S),
            subjects.CACHE_L3: ("l3", limits.CACHE_L3_TTL_S),
        }[stream]
        self.window: Window | None = None
        """How full it was when it was last looked at; of all tenants."""
        self._conn = conn
        self._tenant = tenant
        self._stream = stream

    async def get(self, name: str, /) -> StoredMessage | None:
        """The last that was put under a name.

        Raises `ApiUnavailable`, `DeadlineExceeded`, `NotConnected`, `BusError`.
        """
        subject = subjects.cached(self._stream, self._tenant, name)
        return await direct.last_by_subject(self._conn, self._stream, subject, timeout_s=limits.CACHE_TIER_S)

    async def put(self, name: str, body: bytes, /, *, ttl_s: float, over: int | None = None) -> int | None:
        """Which write it was; None: something else than `over` was there (0: something).

        Raises what `get` raises, and `PublishRefused`.
        """
        said = {headers.MSG_TTL: f"{max(1, math.ceil(min(ttl_s, self.life_s)))}s"}
        if over is not None:
            said[headers.EXPECTED_LAST_SUBJECT_SEQ] = str(over)
        subject = subjects.cached(self._stream, self._tenant, name)
        message = await self._conn.request(subject, body, headers=headers.encode(said), timeout_s=limits.CACHE_TIER_S)
        try:
            answer = _decode(message.data)
            if answer.error is None:
                return answer.seq
            raise errors_map.publish_error(answer.error, subject)
        except errors.WrongLastSequence:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise errors.BusError("something that is not JetStream answered", subject=subject) from exc

    async def drop(self, name: str, /) -> None:
        """Have nothing under a name."""
        await self.put(name, b"", ttl_s=_DROPPED_TTL_S)

    async def look(self) -> int:
        """Find out how full it is: the bytes it holds; raises what `Connection.api` raises."""
        answer = await self._conn.api(f"STREAM.INFO.{self._stream}", timeout_s=limits.CACHE_TIER_S)
        state, config = answer["state"], answer["config"]
        self.window = Window(
            int(state["first_seq"]), int(state["last_seq"]), int(state["bytes"]), int(config["max_bytes"])
        )
        return self.window.bytes

    def is_aging(self, seq: int, /) -> bool:
        """Whether what is read there is to be put again; False while nobody has looked."""
        return self.window is not None and self.window.is_aging(seq)
