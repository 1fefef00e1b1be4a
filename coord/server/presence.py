"""Hears who is there: heartbeats and the server's news of lost connections, put into a `PresenceTable`.

Every process with deciders runs one board, and hears everybody; nobody owns it, nothing of it is
stored.  Three things come in::

    coord.hb.{tenant}.{agent}.{instance}     core NATS, a few thousand a second: one look-up each
    $SYS.ACCOUNT.*.CONNECT / DISCONNECT      where there are credentials for the system account:
                                             the connection's name says whose it was
    our own beat, through the broker         whether we hear anything at all

and one goes out: whoever listens (`listen`) is told who is gone.  What follows from that, deciders
say (`coord.core.presence_decider` states it, the task decider releases claims, …).

Without a system account deaths are noticed by missing heartbeats alone, within 3 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection, NatsConfig, Unregister
from coord.bus.connection import Subscription as BusSubscription
from coord.core.presence import Change, PresenceTable, Row
from coord.runtime import clock
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.server.config import PresenceConfig
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import presence as wire
from coord.wire import subjects

_log = logs.get("presence")

Listener = Callable[[str, str, str, float, bool], None]
"""Called with (tenant, agent, instance, Unix seconds, whether it said goodbye) of one that is gone; synchronous, must
not block."""

_CONNECTED: Final = "$SYS.ACCOUNT.*.CONNECT"
_DISCONNECTED: Final = "$SYS.ACCOUNT.*.DISCONNECT"
_NAME: Final = "coord:"

_DEATHS: Final = frozenset({"Client Closed", "Read Error", "Write Error"})
"""How a connection ends whose process is no more: the kernel closes it, with a reset where data were
unread.  Every other reason is the server's own (shut down, stale, too slow, expired)."""

_PLACE: Final = re.compile(r"[A-Z0-9]{1,64}/[0-9]{1,19}")
_END_S: Final = 0.1
"""How long the end of a silent instance's connection may take before deciders are told that it is gone; of all
that fall silent together, as those of one process do: who has had no turn by then is told of at once."""
_LATE_S: Final = 0.01
"""How often it is looked at those whose grace is over and of whom something may still be on its way."""
_ENDED_AT_ONCE: Final = 2
"""Connections that are being ended at a time."""
_END_AGAIN_S: Final = 30.0
"""A server that does not end connections for us is not asked again for so long."""

_ECHOES: Final = 16
"""Of what we say to ourselves, remembered until it comes back: with four missing we are deaf."""

_ASK_BEAT: Final = b'{"what":"beat"}'
_ASK_ABOUT: Final = b'{"what":"about"}'


class _Client(msgspec.Struct, frozen=True):
    id: int = 0
    name: str = ""


class _Server(msgspec.Struct, frozen=True):
    id: str = ""


class _News(msgspec.Struct, frozen=True):
    """What of the server's advisory is read."""

    client: _Client = _Client()
    server: _Server = _Server()
    reason: str = ""


class _Found(msgspec.Struct, frozen=True):
    connections: list[_Client] = []


class _Connections(msgspec.Struct, frozen=True):
    """What of the server's answer about one connection is read."""

    data: _Found = _Found()


class PresenceBoard:
    """See the module; the connections are the caller's.  `table` answers what is asked, until `open` by doubt."""

    def __init__(self, *, registry: Metrics, settle_s: float = limits.PRESENCE_SETTLE_S) -> None:
        self.table = PresenceTable(clock.monotonic(), settle_s=settle_s)
        self._conn: Connection | None = None
        self._system: Connection | None = None
        self._listeners: list[Listener] = []
        self._known: dict[bytes, Row] = {}
        """By the subject of its heartbeats: most are found by this alone."""
        self._decoder = msgspec.json.Decoder(_News)
        self._token = subjects.beat("presence", secrets.token_hex(8))
        self._echo_at = 0.0
        self._said_at: deque[float] = deque(maxlen=_ECHOES)
        """When what we say to ourselves was said that has not come back,"""
        self._echo_s = 0.0
        """and how long what came back last took."""
        self._heard_to = float("-inf")
        """What the broker had by then was heard: what we said to ourselves then has come back."""
        self._timer: asyncio.TimerHandle | None = None
        self._subscriptions: list[BusSubscription] = []
        self._unregister: list[Unregister] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._end_from = 0.0
        self._ends = asyncio.Semaphore(_ENDED_AT_ONCE)
        self.holds: Callable[[tuple[str, str, str]], bool] = lambda _: False
        """Whether an instance holds tasks, as deciders know: of many that end together they are told of it first.
        Its heartbeats may not say it yet."""
        self._m_beats = registry.presence_heartbeats
        self._m_changes = registry.presence_changes
        self._m_ignored = registry.presence_ignored
        self._m_events = registry.presence_disconnects
        self.beats = 0
        """Heartbeats heard."""
        self._counted = 0
        self.events = 0
        """Lost connections that the server told of."""

    # --- for deciders ----------------------------------------------------------------------

    def listen(self, listener: Listener) -> Unregister:
        """Call `listener` for every death and goodbye."""
        self._listeners.append(listener)

        def unregister() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unregister

    # --- life ------------------------------------------------------------------------------

    async def open(self, conn: Connection) -> None:
        """Begin to hear heartbeats."""
        self._conn = conn
        self._unregister += [conn.on_disconnected(self.table.blind), conn.on_connected(self._sees)]
        self._subscriptions += [
            await conn.subscribe_bytes(subjects.HEARTBEATS_ALL, self._heard),
            await conn.subscribe_bytes(self._token, self._echoed),
        ]
        self._sees()

    @property
    def hears_deaths(self) -> bool:
        """Whether the server tells of lost connections."""
        return self._system is not None and self._system.is_connected

    async def hear_deaths(self, system: Connection) -> None:
        """Begin to hear the server's news, on a connection to its system account."""
        self._unregister.append(system.on_disconnected(self.table.deaf))
        self._subscriptions += [
            await system.subscribe_bytes(_CONNECTED, self._connected),
            await system.subscribe_bytes(_DISCONNECTED, self._disconnected),
        ]
        self._system = system  # whatever becomes of the next line: what is subscribed outlives a lost connection
        await system.flush()

    async def close(self) -> None:
        """Hear nothing more.  Twice is legal."""
        for unregister in self._unregister:
            unregister()
        self._unregister.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._ending):
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()

    async def watch(self) -> None:
        """Let time pass until cancelled."""
        echo_due = 0.0
        while True:
            now = clock.monotonic()
            if now >= echo_due:
                echo_due = now + limits.PRESENCE_ECHO_S
                self._said_at.append(now)
                self._say(self._token, repr(now).encode())
            # A broker that hangs keeps connections open: then we hear nobody, ourselves included.
            if now - self._echo_at > 3 * limits.PRESENCE_ECHO_S and not self.table.is_blind:
                _log.warning("presence.deaf", silent_s=round(now - self._echo_at, 3))
                self.table.blind()
            for change in self.table.tick(now, self.lag_s(now)):
                self._changed(change)
            self._tidy()
            await asyncio.sleep(clock.in_step(limits.PRESENCE_TICK_S))

    def lag_s(self, now: float) -> float:
        """How old what is heard is: what waits at the broker, or in our socket, was said before it is read here."""
        return max(self._echo_s, now - self._said_at[0] if self._said_at else 0.0)

    # --- what comes in ---------------------------------------------------------------------

    def _heard(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:  # noqa: ARG002
        self.beats += 1
        row = self._known.get(subject)
        if row is not None and row.body == body and row.state == "alive":
            row.heard = clock.monotonic()  # the same as before: nothing to decode
            return
        self._news(subject, body)

    def _news(self, subject: bytes, body: bytes) -> None:
        try:
            ident = subjects.parse_heartbeat(subject.decode("ascii"))
        except (errors.WireError, UnicodeDecodeError):
            self.table.ignored += 1
            return
        change = self.table.beat(*ident, body, clock.monotonic())
        row = self.table.get(*ident)
        if row is not None and self._known.get(subject) is not row:
            self._known[subject] = row
            if row.about is None and row.state != "gone":
                self._say(subjects.push(ident[0], ident[1], wire.TOPIC), _ASK_ABOUT)
        if change is not None:
            self._changed(change)

    def _connected(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:  # noqa: ARG002
        news = self._named(body)
        if news is not None and (change := self.table.connected(*news[0], news[1], clock.monotonic())):
            self._changed(change)

    def _disconnected(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:  # noqa: ARG002
        news = self._named(body)
        if news is None:
            return
        self.events += 1
        ident, connection, reason = news
        died = reason in _DEATHS
        self._m_events.labels(reason="died" if died else "other").inc()
        now = clock.monotonic()
        known = self.table.get(*ident) is not None
        change = self.table.disconnected(*ident, connection, now, died=died)
        if change is not None:
            self._changed(change)
            if self.table.pending <= limits.DISCONNECT_MASS:
                self._ask(ident)
            self._arm()
        elif not known and died and not self.table.lives(*ident):
            self._tell(*ident)  # somebody who never beat, as far as we know: it may hold something all the same

    def _named(self, body: bytes) -> tuple[tuple[str, str, str], str, str] | None:
        """Whose connection it was, which, and why it ended; None: not an agent's."""
        try:
            news = self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if not news.client.name.startswith(_NAME):
            return None
        parts = news.client.name.split(":")
        if len(parts) != 4:
            return None
        return (parts[1], parts[2], parts[3]), f"{news.server.id}/{news.client.id}", news.reason

    def _echoed(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:  # noqa: ARG002
        self._echo_at = clock.monotonic()
        with contextlib.suppress(ValueError):
            said_at = float(body)
            self._echo_s = max(0.0, self._echo_at - said_at)
            self._heard_to = max(self._heard_to, said_at)
            while self._said_at and self._said_at[0] <= said_at:
                self._said_at.popleft()
        if self.table.is_blind:
            self.table.sees(self._echo_at)

    def _sees(self) -> None:
        self._said_at.clear()  # what was under way is lost
        self._echo_s = 0.0
        self._echo_at = clock.monotonic()
        self.table.sees(self._echo_at)

    # --- what goes out ---------------------------------------------------------------------

    def _arm(self) -> None:
        due_at = self.table.due_at()
        if due_at is None or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        left_s = due_at - clock.monotonic()
        wait_s = min(left_s + 0.001 if left_s >= 0 else _LATE_S, limits.DISCONNECT_GRACE_S / 3)
        self._timer = loop.call_later(wait_s, self._look_at_pending)

    def _look_at_pending(self) -> None:
        """Whose grace is over is gone; the others are asked again, three times in all: a question may be lost.

        What is said to ourselves here comes back behind all that they said.
        """
        self._timer = None
        now = clock.monotonic()
        ended = self.table.lost(now, self._heard_to)
        for change in sorted(ended, key=lambda one: not self.holds((one.tenant, one.agent, one.instance))):
            self._changed(change)
        if self.table.pending:
            self._say(self._token, repr(now).encode())
        if self.table.pending <= limits.DISCONNECT_MASS:
            for row in self.table.suspended():
                self._ask(row.ident)
        self._arm()

    def _ask(self, ident: tuple[str, str, str]) -> None:
        self._say(subjects.push(ident[0], ident[1], wire.TOPIC), _ASK_BEAT)

    def _changed(self, change: Change) -> None:
        self._m_changes.labels(state=change.state, reason=change.reason).inc()
        if change.state == "gone":
            _log.info("presence.gone", tenant=change.tenant, agent=change.agent, instance=change.instance,
                      reason=change.reason)  # fmt: skip
            if not self._end_first(change):
                self._tell(change.tenant, change.agent, change.instance, left=change.reason == "bye")

    # --- whoever hangs ---------------------------------------------------------------------

    def _end_first(self, change: Change) -> bool:
        """Whether the instance's connection is ended before deciders are told, who are told then.

        Who hangs has pulls waiting at the broker, and would be given the very tasks that its end sets free. When it
        wakes up it connects again, as after any lost connection.
        """
        row = self.table.get(change.tenant, change.agent, change.instance)
        if (
            change.reason != "silent" or row is None or not self.hears_deaths or not _PLACE.fullmatch(row.place or "")
            or clock.monotonic() < self._end_from or len(self._ending) >= limits.DISCONNECT_MASS
        ):  # fmt: skip
            return False
        task = asyncio.get_running_loop().create_task(self._end_and_tell(row), name="presence-end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return True

    async def _end_and_tell(self, row: Row) -> None:
        asked = False
        try:
            async with asyncio.timeout(_END_S), self._ends:
                # It has not beaten meanwhile, and nobody has waited in vain.
                if row.state == "gone" and clock.monotonic() >= self._end_from:
                    asked = True
                    await self._end(row)
        except errors.ServiceUnavailable:
            pass  # the server that it named is no more, nor are its connections
        except (errors.CoordError, TimeoutError, msgspec.MsgspecError) as exc:
            if asked and clock.monotonic() >= self._end_from:  # the first of them speaks for all
                self._end_from = clock.monotonic() + _END_AGAIN_S
                _log.warning("presence.not_ended", agent=row.agent, instance=row.instance, silent=len(self._ending),
                             again_in_s=_END_AGAIN_S, error=repr(exc))  # fmt: skip
        if row.state == "gone":
            self._tell(*row.ident)

    async def _end(self, row: Row) -> None:
        """End it if it is whose it should be: the place is what the agent says, the name is the server's word."""
        assert self._system is not None
        assert row.place is not None
        server, _, number = row.place.partition("/")
        asked = b'{"cid":%d}' % int(number)
        answer = await self._system.request(f"$SYS.REQ.SERVER.{server}.CONNZ", asked, timeout_s=_END_S)
        found = msgspec.json.decode(answer.data, type=_Connections).data.connections
        if [one.name for one in found] == [_NAME + ":".join(row.ident)]:
            await self._system.request(f"$SYS.REQ.SERVER.{server}.KICK", asked, timeout_s=_END_S)

    def _tell(self, tenant: str, agent: str, instance: str, *, left: bool = False) -> None:
        now = clock.unix()
        for listener in list(self._listeners):
            try:
                listener(tenant, agent, instance, now, left)
            except Exception as exc:  # noqa: BLE001 - one listener must not keep the others from being told
                _log.error("presence.listener_failed", exc_info=exc)

    def _say(self, subject: str, body: bytes) -> None:
        if self._conn is None:
            return
        try:
            self._conn.publish(subject, body)
        except errors.BusError:
            return  # disconnected: nobody is gone meanwhile

    def _tidy(self) -> None:
        self._m_beats.inc(self.beats - self._counted)
        self._counted = self.beats
        self._m_ignored.set(self.table.ignored)
        if len(self._known) > 2 * len(self.table) + 1_024:
            self._known = {s: row for s, row in self._known.items() if self.table.get(*row.ident) is row}


class PresenceService(Service):
    """A board with connections of its own.  It starts without its broker, and waits for it."""

    def __init__(
        self,
        nats: NatsConfig,
        config: PresenceConfig | None = None,
        *,
        clock: Clock | None = None,
        registry: Metrics | None = None,
    ) -> None:
        super().__init__("presence", clock=clock, registry=registry)
        self.config = config or PresenceConfig()
        self.config.validate()
        self.board = PresenceBoard(registry=self.metrics, settle_s=self.config.settle_s)
        self._nats = nats
        self._conn: Connection | None = None
        self._system: Connection | None = None
        self._open = False

    async def setup(self) -> None:
        """Nothing has to be there yet."""
        if self.config.hears_deaths:
            self.spawn("events", self._events)
        else:
            _log.warning("presence.no_system_account", remedy="set presence.system_user: deaths are noticed after 3 s")

    async def run(self) -> None:
        """Hear, and let time pass."""
        if self._conn is None:
            self._conn = await self._connect(self._nats, "coord-presence")
        if not self._open:
            await self.board.open(self._conn)
            self._open = True
            self.changed()
        await self.board.watch()

    async def _events(self) -> None:
        if self._system is None:
            self._system = await self._connect(self.config.connection(self._nats), "coord-presence-system")
            await self.board.hear_deaths(self._system)
        await asyncio.get_running_loop().create_future()

    async def _connect(self, nats: NatsConfig, name: str) -> Connection:
        return await Connection.open(nats, name=name, role="presence", wait=True, registry=self.metrics)

    async def teardown(self) -> None:
        """Hear nothing more."""
        await self.board.close()
        for conn in (self._conn, self._system):
            if conn is not None:
                await conn.close()

    def is_ready(self) -> bool:
        """Whether heartbeats are heard; without the server's news deaths are noticed late, not never."""
        return self._open

    def details(self) -> dict[str, Any]:
        """How many are heard, and whether the server tells of deaths."""
        return {
            "instances": len(self.board.table),
            "heartbeats": self.board.beats,
            "events": self.board.hears_deaths,
        }
