"""Publishing with acknowledgements, pipelined: many in flight, each settled exactly once.

One wildcard inbox takes all acks; the last token of a reply subject says which message it
answers.  An answer is settled synchronously in the read loop: no queue, no task and no
future per message (a future exists only for a message that somebody awaits).

What happens to a message, and who is told (`Publication`):

=====================================  ====================================================
the broker stored it                   `PubAck`
``duplicate`` on a first send          the stored message is read back: the same → `PubAck`,
                                       another one (or unreadable) → `IdCollision`
``duplicate`` on a resend              `PubAck`: an earlier send was stored, its ack was lost
no responders (503)                    sent again until the deadline, then `NoStream`: a
                                       leader election looks the same
stream full (10077 …)                  sent again for `refused_wait_s`, then `StreamFull`
any other refusal                      its typed error, at once (`coord.bus.errors_map`)
no permission for the subject          `NoPermission`, at once
larger than max_payload with headers   `MessageTooLarge`, never sent: the broker would cut
                                       the connection
no answer, or "its id is in process"   sent again, same bytes, same id; `PublishTimeout` at
(10158, of a replicated stream)        the deadline
connection lost                        kept; everything unacknowledged is sent again, in the
                                       order of first sends, before anything new
connection closed for good             `BusClosed`
=====================================  ====================================================

Order.  First sends leave in the order of `submit`; a reconnect repeats them in that order.
While a connection stays up a message can only fall behind by being refused and tried again
(no leader, stream full) or by losing its ack: then later messages may be stored before it.
On a cluster that happens with every change of leader.  Whoever cannot have that waits for
the ack, as the publisher does for each key there, or demands a sequence (optimistic concurrency).

What it never does: bound what is in flight beyond `inflight_max` (callers have windows),
queue, or batch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Final, Self

import msgspec

from coord import errors, limits
from coord.bus import errors_map
from coord.bus.connection import Connection, Subscription
from coord.bus.duplicates import DuplicateJudge
from coord.bus.patched import Message, as_message
from coord.core import retry
from coord.core.retry import RetryPolicy, Sending
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import headers as wire_headers

_log = logs.get("publish")

_NOT_NOW: Final = frozenset({10007, 10008, 10009, 10039, 10076, 10118})
"""Refusals of a broker that is starting or electing: no responders in other words."""

_IN_PROCESS: Final = 10158
"""The leader of a replicated stream has a message of this id on its way to the copies.  It may yet be
stored, or be lost with its leader: as good as no answer."""

_STALLED_BYTES: Final = 1 * limits.MIB
"""With this much unwritten, a copy of what is already waiting to be written helps nobody."""

_SWEEP_LEAST_S: Final = 0.01
_SWEEP_MOST_S: Final = 0.5


class PubAck(msgspec.Struct, frozen=True, gc=False):
    """The broker has stored a message."""

    stream: str
    seq: int
    duplicate: bool = False
    """It was stored before, under this sequence."""
    domain: str | None = None


_decode_ack = msgspec.json.Decoder(PubAck).decode


class Publication(Sending, eq=False):
    """One message on its way.  Await it for its `PubAck`, as often as you like, or not at all.

    Awaiting raises the typed error it ended with.  Cancelling an await cancels nothing else.
    """

    subject: str = ""
    headers: bytes | None = None
    """The encoded header block; holds ``Nats-Msg-Id`` if the message may be sent twice."""
    body: bytes = b""
    token: int = 0
    sent_at: float = 0.0
    """When it was first sent (monotonic seconds); 0 while it was not."""
    ack: PubAck | None = None
    error: errors.CoordError | None = None
    awaited: bool = False
    """Whether anybody asked for the outcome: if not, an error has to be reported elsewhere."""
    contested: bool = False
    """Its first send met another message of its id on its way: a later ``duplicate`` may be that one."""
    _waiters: list[asyncio.Future[None]] | None = None

    @property
    def done(self) -> bool:
        """Whether it is settled: `ack` or `error` is set."""
        return self.ack is not None or self.error is not None

    def settle(self, ack: PubAck | None, error: errors.CoordError | None) -> None:
        """Set the outcome, let go of the bytes and wake whoever waits.  Programmer error to call twice."""
        assert self.ack is None and self.error is None, "settled twice"  # noqa: PT018 - it is one thing
        self.ack = ack
        self.error = error
        self.body = b""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def __await__(self) -> Generator[Any, None, PubAck]:
        self.awaited = True
        if not self.done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = [waiter]
            else:
                self._waiters.append(waiter)
            try:
                yield from waiter
            except asyncio.CancelledError:
                self._stop_waiting(waiter)
                raise
        if self.error is not None:
            raise self.error
        assert self.ack is not None
        return self.ack

    def _stop_waiting(self, waiter: asyncio.Future[None]) -> None:
        """An await was cancelled: when nobody else waits, nobody has been told."""
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)
            self.awaited = bool(self._waiters)


class AckPipeline:
    """See the module.  Make one with ``await AckPipeline.open(conn)``; `close` it before the connection."""

    def __init__(
        self,
        conn: Connection,
        policy: RetryPolicy | None = None,
        *,
        inflight_max: int = limits.PUBLISH_INFLIGHT_MESSAGES,
        rng: random.Random | None = None,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.policy.validate()
        self.on_settled: Callable[[Publication], None] | None = None
        """Told of every publication, synchronously, right after it was settled."""
        self.on_put_off: Callable[[Publication], bool] | None = None
        """Told of every refusal that may pass; True: whoever answers has withdrawn it and submits it again."""
        self.resends = 0
        """Messages sent again, ever."""
        self._conn = conn
        self._inflight_max = inflight_max
        self._rng = rng or random.Random()
        self._loop = asyncio.get_running_loop()
        self._now = clock.monotonic  # not the loop's time, which uvloop keeps in whole milliseconds
        self._inbox = conn.new_inbox()
        self._prefix = self._inbox + "."
        self._prefix_bytes = len(self._prefix.encode())
        self._subscription: Subscription | None = None
        self._pending: dict[int, Publication] = {}
        self._next_token = 0
        self._up = conn.is_connected
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._denied: set[str] = set()
        self._acks_denied = False
        self._comparing: dict[asyncio.Task[None], Publication] = {}
        self._duplicates = DuplicateJudge(conn, self._rng)
        self._warned_at: dict[str, float] = {}
        self._unregister = [
            conn.on_reconnected(self._reconnected),
            conn.on_disconnected(self._disconnected),
            conn.on_permission_denied(self._permission_denied),
        ]

    @classmethod
    async def open(cls, conn: Connection, policy: RetryPolicy | None = None, **options: Any) -> Self:
        """Subscribe to the acks; `options` are the constructor's."""
        pipeline = cls(conn, policy, **options)
        try:
            pipeline._subscription = await conn.subscribe_bytes(pipeline._prefix + "*", pipeline._on_answer)
        except BaseException:
            await pipeline.close()
            raise
        return pipeline

    @property
    def inflight(self) -> int:
        """Messages submitted and not settled."""
        return len(self._pending) + len(self._comparing)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called or the connection is closed for good."""
        return self._closed or self._conn.is_closed

    # --- sending -------------------------------------------------------------------------

    def send(
        self,
        subject: str,
        body: bytes = b"",
        headers: Mapping[str, str] | bytes | None = None,
        *,
        msg_id: str | None = None,
        deadline_s: float | None = None,
    ) -> Publication:
        """Publish one message; await what is returned for the `PubAck`.

        `msg_id` becomes ``Nats-Msg-Id``: without one (here or in `headers`) a resend may be
        stored twice.  Raises `Overloaded` when `inflight_max` messages are unacknowledged.
        """
        if len(self._pending) >= self._inflight_max:
            raise errors.Overloaded("too many unacknowledged messages", inflight=len(self._pending))
        if not isinstance(headers, bytes):
            fields = dict(headers or {})
            if msg_id is not None:
                fields[wire_headers.MSG_ID] = msg_id
            headers = wire_headers.encode(fields) if fields else None
        now = self._now()
        deadline_at = now + (self.policy.deadline_s if deadline_s is None else deadline_s)
        publication = Publication(deadline_at=deadline_at, subject=subject, headers=headers, body=body)
        self.submit(publication, now)
        return publication

    def submit(self, publication: Publication, now: float) -> None:
        """Send a publication the caller made (and bounds); its outcome is in it.  Never raises."""
        if self._closed or self._conn.is_closed:
            self._settle(publication, None, errors.BusClosed())
            return
        if self._acks_denied:
            self._settle(publication, None, self._acks_denied_error())
            return
        self._next_token = token = self._next_token + 1
        publication.token = token
        self._pending[token] = publication
        if self._up:
            self._write(publication, now)
        if self._timer is None:
            self._look_again_at(min(publication.deadline_at, now + self.policy.attempt_s))

    def pending(self) -> list[Publication]:
        """What was submitted and has no answer, in that order."""
        return list(self._pending.values())

    def unsettled(self) -> list[Publication]:
        """What was submitted and is not settled: `pending`, and what is being compared."""
        return [*self._comparing.values(), *self._pending.values()]

    def withdraw(self, publication: Publication) -> bool:
        """Let go of a publication without settling it; False: it has an answer, or is being compared.

        What is submitted again is a resend where it was sent: ``duplicate`` means it was stored.
        """
        return self._pending.pop(publication.token, None) is not None

    async def last_stored(self, stream: str, subject: str) -> Message | None:
        """The newest message stored under a subject, or the broker's 404; None: it may not be read, or not now.

        Raises `NotConnected`, `BusClosed`.
        """
        return await self._duplicates.last(stream, subject)

    def _write(self, publication: Publication, now: float) -> None:
        """Hand one message to the connection, for the first time or again."""
        again = publication.attempts
        reply = f"{self._prefix}{publication.token}"
        try:
            self._conn.publish(
                publication.subject,
                publication.body,
                # A resend's answers are told apart from the first send's: see `_on_answer`.
                reply=f"{reply}-{again}" if again else reply,
                headers=publication.headers,
            )
        except errors.NotConnected:
            self._up = False  # the listener comes a moment later; what is pending is sent again after it
            return
        except errors.CoordError as exc:  # MessageTooLarge, BusClosed
            self._finish(publication, None, exc)
            return
        if again:
            self.resends += 1
        else:
            publication.sent_at = now
        retry.sent(publication, now, self.policy)

    # --- answers -------------------------------------------------------------------------

    def _on_answer(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        token = subject[self._prefix_bytes :]
        # "12" answers the first send of message 12, "12-1" its first resend.
        number, dash, resend = token.partition(b"-")
        try:
            publication = self._pending.get(int(number))
        except ValueError:
            return  # not an answer to us
        if publication is None or (dash and not resend.isdigit()):
            return  # settled: an answer to another send of the same message
        # A refusal also says "seq":0: look for the error first.
        if headers or b'"error"' in data:
            self._on_refusal(publication, as_message(subject, reply, headers, data))
            return
        try:
            ack = _decode_ack(data)
        except msgspec.MsgspecError:
            self._not_an_ack(publication, as_message(subject, reply, headers, data))
            return
        if ack.duplicate and (not dash or publication.contested):
            self._compare(publication, ack)
            return
        del self._pending[publication.token]
        self._settle(publication, ack, None)

    def _on_refusal(self, publication: Publication, message: Message) -> None:
        if message.status == 503:
            error: errors.PublishRefused = errors.NoStream(subject=publication.subject, server_code=503)
            self._try_later(publication, error, until_deadline=True)
            return
        try:
            answer = msgspec.json.decode(message.data)
            detail = answer.get("error")
            if detail is None:  # a stream whose name is "error"
                self._finish(publication, msgspec.convert(answer, PubAck), None)
                return
            error = errors_map.publish_error(detail, publication.subject)
        except (msgspec.MsgspecError, AttributeError, TypeError, ValueError):
            self._not_an_ack(publication, message)
            return
        if error.details.get("server_code") == _IN_PROCESS:
            # No refusal: who took it for one would state the next fact, and this one could be stored behind it.
            publication.contested |= publication.attempts == 1
        elif error.details.get("server_code") in _NOT_NOW:
            self._try_later(publication, error, until_deadline=True)
        elif isinstance(error, errors.StreamFull):
            self._try_later(publication, error, until_deadline=False)
        else:
            self._finish(publication, None, error)

    def _not_an_ack(self, publication: Publication, message: Message) -> None:
        error = errors.PublishRefused(
            "something that is not JetStream answered", subject=publication.subject, answer=message.data[:64]
        )
        self._finish(publication, None, error)

    def _try_later(self, publication: Publication, error: errors.PublishRefused, *, until_deadline: bool) -> None:
        now = self._now()
        self._warn(error, now)
        if self.on_put_off is not None and self.on_put_off(publication):
            return
        if retry.refused(publication, error, now, self.policy, self._rng, until_deadline=until_deadline):
            self._look_again_at(publication.next_at)
        elif not until_deadline:
            self._finish(publication, None, error)
        # else: the sweep ends it at its deadline, with this error

    def _warn(self, error: errors.PublishRefused, now: float) -> None:
        """One line in ten seconds and code: whoever watches learns why nothing moves."""
        if now - self._warned_at.get(error.code, -60.0) >= 10.0:
            self._warned_at[error.code] = now
            _log.warning("publish.refused", connection=self._conn.name, error=error, retried=True)

    # --- settling ------------------------------------------------------------------------

    def _finish(self, publication: Publication, ack: PubAck | None, error: errors.CoordError | None) -> None:
        if self._pending.pop(publication.token, None) is not None:
            self._settle(publication, ack, error)

    def _settle(self, publication: Publication, ack: PubAck | None, error: errors.CoordError | None) -> None:
        publication.settle(ack, error)
        if self.on_settled is not None:
            self.on_settled(publication)

    def _fail_all(self, make: Callable[[], errors.CoordError]) -> None:
        pending, self._pending = self._pending, {}
        for publication in pending.values():
            self._settle(publication, None, make())

    # --- time ----------------------------------------------------------------------------

    def _look_again_at(self, at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - self._now()), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._now()
        swept = retry.sweep(self._pending.values(), now)
        self._expire(swept.expired)
        next_at = swept.next_at
        if swept.resend:
            if self._up and self._conn.outgoing_bytes < _STALLED_BYTES:
                self._resend(swept.resend, now)
            next_at = now + _SWEEP_MOST_S if next_at is None else min(next_at, now + _SWEEP_MOST_S)
        if next_at is not None and self._pending:
            self._look_again_at(max(next_at, now + _SWEEP_LEAST_S))

    def _resend(self, publications: Iterable[Publication], now: float) -> None:
        for publication in publications:
            if not self._up:
                return
            if not publication.done:
                self._write(publication, now)

    def _expire(self, publications: Iterable[Publication]) -> None:
        for publication in publications:
            self._finish(publication, None, self._given_up(publication))

    def _given_up(self, publication: Publication) -> errors.CoordError:
        """What to say at the deadline: the refusal if every send was refused, else that nobody knows."""
        refusal = publication.failure
        if refusal is not None and publication.refusals >= publication.attempts:
            return refusal
        return errors.PublishTimeout(
            subject=publication.subject, attempts=publication.attempts, connected=self._up,
            last_refusal=refusal.code if refusal is not None else self._conn.refused,
        )  # fmt: skip

    # --- the connection ------------------------------------------------------------------

    def _disconnected(self) -> None:
        self._up = False
        if self._conn.is_closed:
            self._fail_all(errors.BusClosed)

    def _reconnected(self) -> None:
        self._up = True
        self._acks_denied = False
        self._duplicates.reconnected()
        now = self._now()
        self._expire([p for p in self._pending.values() if p.deadline_at <= now])
        self._resend(list(self._pending.values()), now)

    def _permission_denied(self, subject: str) -> None:
        if subject == (self._prefix + "*").lower():
            self._acks_denied = True
            _log.error("publish.acks_denied", connection=self._conn.name, subject=self._prefix + "*")
            self._fail_all(self._acks_denied_error)
            return
        if self._duplicates.denied(subject):
            return
        if not self._denied:
            # Refusals come in bursts, one per message: look through what is pending once per burst.
            self._loop.call_soon(self._fail_denied)
        self._denied.add(subject)

    def _fail_denied(self) -> None:
        denied, self._denied = self._denied, set()
        # The broker's text arrives lower-cased; so are coord's subjects.
        for publication in [p for p in self._pending.values() if p.subject.lower() in denied]:
            error = errors.NoPermission("the broker refuses this subject to this user", subject=publication.subject)
            self._finish(publication, None, error)

    def _acks_denied_error(self) -> errors.CoordError:
        return errors.NoPermission(
            "this user may not subscribe to its own inbox, so it cannot receive acknowledgements; set inbox_prefix",
            subject=self._prefix + "*",
        )

    # --- unexpected duplicates -----------------------------------------------------------

    def _compare(self, publication: Publication, ack: PubAck) -> None:
        """A first send met its own id in the log: read back what is stored there."""
        del self._pending[publication.token]
        task = self._loop.create_task(self._judge(publication, ack), name="publish-compare")
        self._comparing[task] = publication  # owned: `close` ends it; bounded: it is still in its window
        task.add_done_callback(self._compared)

    def _compared(self, task: asyncio.Task[None]) -> None:
        publication = self._comparing.pop(task)
        if publication.done:
            return
        failed = None if task.cancelled() else task.exception()
        error = errors.IdCollision(
            "a fact is stored under this event id and could not be compared", subject=publication.subject
        )
        error.__cause__ = failed
        self._settle(publication, None, errors.BusClosed() if self._closed else error)

    async def _judge(self, publication: Publication, ack: PubAck) -> None:
        error = await self._duplicates.judge(
            publication.subject, publication.headers, publication.body, ack, publication.deadline_at
        )
        self._settle(publication, ack if error is None else None, error)

    # --- the end -------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop: what is not settled fails with `BusClosed`.  Twice is legal; never raises."""
        if self._closed:
            return
        self._closed = True
        for unregister in self._unregister:
            unregister()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fail_all(errors.BusClosed)
        comparing = list(self._comparing)
        for task in comparing:
            task.cancel()
        await asyncio.gather(*comparing, return_exceptions=True)
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
