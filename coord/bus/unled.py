"""Reads a partition while its consumer has no leader: by batched direct gets, without any consumer.

On a cluster each consumer is a raft group of its own.  When links are cut or servers are killed some of the
groups elect late, seconds after the stream itself has a leader again (docs/adr/0070), and till then nobody
serves their pulls.  But every replica of the stream serves direct gets, of what is committed, in order: a replica
that lags says less, never anything else.  So what a consumer would have delivered is read from
whichever replica answers; that no more came proves nothing, as ever.

Nobody is pinned to such a session.  Two of the same partition do the same work twice, and the guard of
what they write lets one of them through; so only who is assigned the partition begins one, and
it ends (`is_over`) as soon as the consumer has a leader, whose pin says whose turn it is.

Before a message is handed out, the stream is asked whether it is still the one that the session began with.

Bounds: at most `messages_max` messages wait, and of two batches the bytes; one request at a time; an
end of the stream is looked at every `IDLE_S`, and whether the consumer has a leader every `LED_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Final

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.direct import DirectReader, StoredMessage
from coord.bus.pull import Delivery
from coord.wire.times import to_unix_us

IDLE_S: Final = 0.2
"""Between two looks at a stream that has no more of the partition.  A process may read all 32 partitions like this, so
160 requests a second, for the seconds that an election takes."""

LED_S: Final = 0.5
"""Between two looks whether the consumer has a leader, and how long one answer is waited for."""

_ANSWER_S: Final = 1.0
"""How long one batch may take; one whose end was lost is asked for again."""


class UnledReader:
    """`coord.bus.reading.Reader` without a consumer; not safe for use by two coroutines at a time."""

    def __init__(
        self,
        conn: Connection,
        stream: str,
        consumer: str,
        filter_subject: str,
        *,
        messages_max: int = limits.PULL_MESSAGES,
        bytes_max: int = limits.PULL_BYTES,
    ) -> None:
        """Instead of `consumer`, whose filter is `filter_subject`."""
        self._conn = conn
        self._stream = stream
        self._consumer = consumer
        self._filter = filter_subject
        self._batch = max(1, messages_max // 2)
        self._batch_bytes = max(1024, bytes_max // 2)
        self._direct = DirectReader(conn)
        self._tasks: list[asyncio.Task[None]] = []
        self._buffer: deque[Delivery] = deque()
        self._room = asyncio.Event()
        self._broken: errors.CoordError | None = None
        self.is_over = False
        """The consumer has a leader (or is no more): end the session and begin another one with it."""
        self.duplicates = 0
        """Always: a get is asked for what follows."""
        self.on_wake: Callable[[], None] | None = None
        """See `Reader`; also called when it is over."""

    # --- coord.bus.reading.Reader --------------------------------------------------------

    async def start(self, seq: int, *, created: datetime | None = None) -> None:
        """Begin to read at stream sequence `seq` of the stream that was `created` then; None: of what it is now.

        Raises `DeliveryGap` when it is another by now, and what `Connection.api` raises.
        """
        await self.stop()
        found = await self._created()
        if created is not None and datetime.fromisoformat(found) != created:
            raise errors.DeliveryGap("the stream was created anew", stream=self._stream)
        self.is_over = False
        self._tasks = [
            asyncio.create_task(self._read(seq, found), name=f"unled {self._consumer}"),
            asyncio.create_task(self._look_for_leader(), name=f"leader of {self._consumer}"),
        ]

    @property
    def patience_s(self) -> float:
        """See `Reader`; it says by itself what is wrong."""
        return LED_S

    def check_silence(self) -> None:
        """See `Reader`."""
        if not self._buffer:
            self._raise_if_broken()

    def take(self, messages_max: int) -> list[Delivery]:
        """See `Reader`."""
        taken = [self._buffer.popleft() for _ in range(min(messages_max, len(self._buffer)))]
        if not taken:
            self._raise_if_broken()
        self._room.set()
        return taken

    def put_back(self, deliveries: list[Delivery]) -> None:
        """See `Reader`."""
        self._buffer.extendleft(reversed(deliveries))

    @property
    def is_empty(self) -> bool:
        """See `Reader`."""
        return not self._buffer

    def ack(self, delivery: Delivery) -> None:
        """Nobody waits for it."""

    def passed(self, seq: int) -> None:
        """It asks from the last one it has, whatever passed."""

    async def stop(self) -> None:
        """See `Reader`."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._buffer.clear()
        self._broken = None

    async def close(self) -> None:
        """See `Reader`."""
        await self.stop()
        await self._direct.close()

    # --- reading -------------------------------------------------------------------------

    async def _read(self, seq: int, created: str) -> None:
        try:
            while True:
                messages = await self._fetch(seq)
                if not messages:
                    await asyncio.sleep(IDLE_S)
                    continue
                # The first thing behind the messages: they are of the stream that this answer is about.
                if await self._created() != created:
                    raise errors.DeliveryGap("the stream was created anew", stream=self._stream)
                self._buffer.extend(map(_delivery, messages))
                seq = messages[-1].seq + 1
                self._notify()
                while len(self._buffer) > self._batch:
                    self._room.clear()
                    await self._room.wait()
        except errors.CoordError as exc:
            self._broken = exc
            self._notify()

    async def _fetch(self, seq: int) -> list[StoredMessage]:
        """What follows, as far as the replica that answers has it; nothing when none does."""
        with contextlib.suppress(errors.ApiUnavailable, errors.DeadlineExceeded, errors.DeliveryGap):
            batch = await self._direct.batch(
                self._stream,
                self._filter,
                from_seq=seq,
                messages_max=self._batch,
                bytes_max=self._batch_bytes,
                timeout_s=_ANSWER_S,
            )
            return batch.messages
        return []

    async def _created(self) -> str:
        return str((await self._conn.api(f"STREAM.INFO.{self._stream}"))["created"])

    async def _look_for_leader(self) -> None:
        """Say that the session is over once the consumer is answered for, also when it is no more."""
        while True:
            await asyncio.sleep(LED_S)
            try:
                await self._conn.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}", timeout_s=LED_S)
            except (errors.ApiUnavailable, errors.DeadlineExceeded, errors.CircuitOpen):
                continue
            except errors.CoordError:
                pass  # whatever it is, a session with the consumer says it better
            self.is_over = True
            self._notify()
            return

    def _notify(self) -> None:
        if self.on_wake is not None:
            self.on_wake()

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken
        if not self._conn.is_connected:
            raise errors.NotConnected


def _delivery(message: StoredMessage) -> Delivery:
    return Delivery(message.seq, to_unix_us(message.stored_at) * 1000, message.subject, message.headers, message.body)
