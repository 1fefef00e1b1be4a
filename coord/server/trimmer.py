"""Keeps the log from filling up: lets its oldest part leave early when nobody needs it any more.

`coord.core.trim` decides; this asks the broker and the holders, and performs::

    look: fill of the stream ──below──▶ sleep
              │ above
          holders: what do you need ──▶ aim ──▶ stored times of two messages ──▶ cut
              │
          STREAM.UPDATE max_age lowered ──▶ wait until the oldest have left ──▶ STREAM.UPDATE as configured

Every replica runs one.  They share nothing but the stream, and do not need to: each decides
from what the stream and the holders say now, a cut that is made twice is the same cut, and who
finds the age lowered by another leaves it alone until its time is over.

The broker has no compare-and-swap for a stream's configuration.  An update here changes
`max_age` and the trimmer's own metadata in what was read one round trip before, nothing else;
an operator's change that falls into this round trip is undone by it.  `coord stream apply`
looks again after it has applied, and `coord stream plan` shows what differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.core import trim
from coord.core.trim import Blocked, Cut, Need, TrimConfig, Window
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.server.holders import DeciderSnapshots, Holder, ProjectorCheckpoints
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects, times

_log = logs.get("trimmer")

_LEFT_LOOK_S = 0.05
"""How often it is looked whether the oldest have left: the broker begins 0.25 s after the update."""


class Trimmer(Service):
    """Looks at the fill of EVENTS, and trims it.  It starts without its broker and its database."""

    def __init__(
        self,
        nats: NatsConfig,
        database: DatabaseConfig,
        config: TrimConfig | None = None,
        *,
        holders: Sequence[Holder] = (),
        registry: Metrics | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`database`: where the checkpoints are.  `holders`: who needs the log beside projector and deciders."""
        super().__init__("trimmer", registry=registry, clock=clock)
        self.config = config or TrimConfig()
        self.config.validate()
        self.fill = 0.0
        """At the last look."""
        self.blocked: Blocked | None = None
        """Why the log could not be trimmed at the last look."""
        self.trims = 0
        self.left = 0
        """Messages that left early since the start; an upper bound."""
        self._stream = subjects.EVENTS
        self._nats = nats
        # Not the pool that operators watch: counted in a registry nobody shows.
        self._pool = Pool(database, metrics=Metrics(CollectorRegistry()))
        self._holders: tuple[Holder, ...] = (
            ProjectorCheckpoints(self._pool),
            DeciderSnapshots(lambda: self._conn),
            *holders,
        )
        self._conn: Connection | None = None
        self._failing: dict[str, str] = {}
        """Whom we ask → the code of its last failure, until it answers: an outage is said once."""
        self._lowered = False
        self._busy = asyncio.Lock()
        self._rng = random.Random()

    # --- life --------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Nothing has to be there yet."""
        await self._pool.open(wait=False)

    async def run(self) -> None:
        """Look, trim, sleep.  What is away is asked again a moment later."""
        if self._conn is None:
            self._conn = await Connection.open(self._nats, name="coord-trimmer", role="trimmer", wait=True)
        while not self.draining.is_set():
            async with self._busy:
                try:
                    await self.look(self._conn)
                except errors.CoordError as exc:
                    self._fail("broker", exc)
            # Jittered, so that replicas do not look at the same moment.
            await self.clock.sleep(self.config.every_s * (0.5 + self._rng.random()))

    async def on_drain(self) -> None:
        """Let a cut that is under way end."""
        async with self._busy:
            pass

    async def teardown(self) -> None:
        """Close the connections."""
        if self._conn is not None:
            await self._conn.close()
        await self._pool.close()

    @property
    def is_cutting(self) -> bool:
        """Whether this one has the age lowered now."""
        return self._lowered

    def details(self) -> dict[str, Any]:
        """How full the log is, what left, and why nothing can."""
        why = {} if self.blocked is None else {"blocked": self.blocked.why, "holder": self.blocked.holder}
        return {"fill": round(self.fill, 4), "trims": self.trims, "messages_left": self.left, **why}

    # --- one look ----------------------------------------------------------------------------

    async def look(self, conn: Connection) -> Cut | Blocked | None:
        """Look once; trim if the log should be.  Returns what was decided, None when there was nothing to."""
        info = await conn.api(f"STREAM.INFO.{self._stream}")
        self._failing.pop("broker", None)
        window = window_of(info)
        self._show(info, window)
        until_us = trim.lowered_until(info["config"])
        if until_us is not None:
            # Another is at it, or was when it died.
            left = trim.is_left_behind(until_us, now_us=window.now_us, lowered_s=self.config.lowered_s)
            if self._lowered or left:
                await self._set_back(conn)
            return None
        if window.fill < self.config.begin:
            self._say(None)
            return None
        decided = await self._decide(conn, info, window)
        if isinstance(decided, Cut):
            await self._trim(conn, decided, info["created"])
        self._say(decided)
        return decided

    async def _decide(self, conn: Connection, info: dict[str, Any], window: Window) -> Cut | Blocked | None:
        try:
            needs = await self._needs(times.parse_time(info["created"]))
            self._failing.pop("holders", None)
        except errors.CoordError as exc:
            self._fail("holders", exc)
            needs = None
        found = trim.aim(window, needs, self.config)
        if not isinstance(found, trim.Aim):
            return found
        keep_from_us = await self._stored_us(conn, found.keep_from)
        barrier_us = await self._stored_us(conn, found.barrier)
        if keep_from_us is None or barrier_us is None:
            return Blocked("aging")
        self._show_held(window, found.holder, barrier_us)
        return trim.cut(window, found, keep_from_us=keep_from_us, barrier_us=barrier_us, config=self.config)

    async def _needs(self, created: datetime) -> list[Need]:
        needs: list[Need] = []
        for holder in self._holders:
            needs += await holder.needs(self._stream, created)
        return needs

    async def _stored_us(self, conn: Connection, seq: int) -> int | None:
        """When the message there, or the first behind it, was stored."""
        try:
            found = await conn.api(f"STREAM.MSG.GET.{self._stream}", {"seq": seq, "next_by_subj": ">"})
        except errors.ApiNotFound:
            return None
        return times.to_unix_us(times.parse_time(found["message"]["time"]))

    # --- trimming ----------------------------------------------------------------------------

    async def _trim(self, conn: Connection, cut: Cut, created: str) -> None:
        before = await conn.api(f"STREAM.INFO.{self._stream}")
        if before["created"] != created:
            return  # another stream: what was decided is about the one before
        now_us = window_of(before).now_us
        until_us = now_us + int(self.config.lowered_s * 1e6)
        wanted = trim.lowered(before["config"], cut, now_us=now_us, until_us=until_us)
        self._lowered = True
        try:
            await conn.api(f"STREAM.UPDATE.{self._stream}", wanted)
            after = await self._until_left(conn, cut, until_us)
        finally:
            # Also when it is not known whether the update was made, and when we are told to stop.
            with contextlib.suppress(errors.CoordError):  # the next look tries again
                await self._set_back(conn)
        left = after["state"]["first_seq"] - before["state"]["first_seq"]
        self.trims += 1
        self.left += left
        self.metrics.log_trimmed_messages.inc(left)
        _log.info(
            "trimmer.trimmed",
            messages=left,
            fill=round(window_of(after).fill, 3),
            max_age_s=(now_us - cut.cut_us) / 1e6,
        )

    async def _until_left(self, conn: Connection, cut: Cut, until_us: int) -> dict[str, Any]:
        while True:
            info = await conn.api(f"STREAM.INFO.{self._stream}")
            self._show(info, window_of(info))
            window = window_of(info)
            if not window.messages or window.first_us > cut.cut_us or window.now_us >= until_us:
                return info
            await asyncio.sleep(_LEFT_LOOK_S)

    async def _set_back(self, conn: Connection) -> None:
        info = await conn.api(f"STREAM.INFO.{self._stream}")
        if trim.lowered_until(info["config"]) is not None:
            info = await conn.api(f"STREAM.UPDATE.{self._stream}", trim.restored(info["config"]))
        self._lowered = False
        self._show(info, window_of(info))

    # --- saying so ---------------------------------------------------------------------------

    def _say(self, decided: Cut | Blocked | None) -> None:
        blocked = decided if isinstance(decided, Blocked) else None
        if decided is not None:
            self.metrics.log_trims.labels(outcome=blocked.why if blocked else "trimmed").inc()
        if blocked != self.blocked and blocked is not None:
            _log.warning("trimmer.blocked", why=blocked.why, holder=blocked.holder, fill=round(self.fill, 3))
        self.blocked = blocked

    def _fail(self, whom: str, exc: errors.CoordError) -> None:
        if self._failing.get(whom) != exc.code:
            self._failing[whom] = exc.code
            _log.warning("trimmer.failed", asked=whom, error=exc)

    def _show(self, info: dict[str, Any], window: Window) -> None:
        self.fill = window.fill
        self.metrics.log_fill.set(window.fill)
        self.metrics.log_max_age_seconds.set(int(info["config"].get("max_age") or 0) / 1e9)

    def _show_held(self, window: Window, holder: str, barrier_us: int) -> None:
        # One value for a holder's kind: projector-3 is one of sixteen.
        kind = holder.rpartition("-")[0] or holder
        self.metrics.log_held_seconds.labels(holder=kind).set(max(0.0, (window.now_us - barrier_us) / 1e6))


def window_of(info: dict[str, Any]) -> Window:
    """What an answer to STREAM.INFO says of the log."""
    config, state = info["config"], info["state"]
    empty = not state["messages"]
    return Window(
        messages=state["messages"],
        bytes=state["bytes"],
        max_messages=config.get("max_msgs", -1),
        max_bytes=config.get("max_bytes", -1),
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        first_us=0 if empty else times.to_unix_us(times.parse_time(state["first_ts"])),
        now_us=times.to_unix_us(times.parse_time(info["ts"])),
        max_age_us=trim.intended(config) // 1_000,
        duplicate_window_us=int(config.get("duplicate_window") or 0) // 1_000,
    )
