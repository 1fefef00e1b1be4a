"""The queues of capabilities: consumers of the log, made when they are first needed, removed when nobody uses them.

A capability has one consumer for each of `work.PRIORITIES`.  They are made one at a time (the
server looks through the log for each), by whoever asks first:

* ``coord.rpc.{tenant}.task.open`` {capability}: what SDKs call before their first submission
  or pull of a capability.  When it is answered, nothing that is submitted afterwards is missed.
* the task decider's `Open`: a submission by a client that asked nobody.  Its queue begins there.

Each begins at a stream sequence that is said when it is made, so it can be told whether it
delivers a submission.  One that was made too late, or was deleted, is made again from the
oldest work that it missed; what it delivers again meets claims and is left.

``coord.rpc.{tenant}.task.settle`` {key, id, queue, seq} acks a delivery whose task has ended or
was submitted anew: for workers who were given it again because a broker forgot an ack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.core import tasks
from coord.core.deciding import Open
from coord.runtime import clock
from coord.server import history
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects, work
from coord.wire.times import parse_time

_log = logs.get("queues")

_NAMES_PAGE: Final = 1_024
_KNOWN_S: Final = 10.0
"""For so long a queue that was there is believed to be there, unless somebody is told otherwise."""

_EARLIER: Final = 20_000
"""So much further back a queue begins than the work that it is made for: a second or less of a busy log."""


class OpenRequest(msgspec.Struct, frozen=True):
    """Of ``task.open``."""

    capability: str


class OpenAnswer(msgspec.Struct, frozen=True):
    """Of ``task.open``."""

    queues: dict[str, str]
    """Queue (`critical`, `normal`, `batch`) → name of its consumer of EVENTS."""


class SettleRequest(msgspec.Struct, frozen=True):
    """Of ``task.settle``."""

    queue: str
    """The consumer that delivered it."""
    seq: int
    """The stream sequence of the submission."""
    key: str
    id: str


class SettleAnswer(msgspec.Struct, frozen=True):
    """Of ``task.settle``."""

    settled: bool
    """False: the task is open, and this is its delivery."""


class Queues:
    """Of one process, on a connection that stays the caller's."""

    def __init__(self, conn: Connection, metrics: Metrics) -> None:
        self._conn = conn
        self._metrics = metrics
        self._known: dict[tuple[str, str], float] = {}
        """Capabilities whose queues were there, and when last (the loop's clock)."""
        self._count = 0
        """Queue consumers of the stream, at the last look."""
        self._making = asyncio.Lock()
        self._wanted: dict[tuple[str, str, str], int] = {}
        """What deciders asked for, by tenant, capability and queue: from which submission on."""
        self._woken = asyncio.Event()
        self._endpoints: list[rpc.Endpoint] = []

    async def start(self) -> None:
        """Answer requests."""
        await self._look()
        for method, handler in (("open", self._on_open), ("settle", self._on_settle)):
            endpoint = await rpc.serve(
                self._conn, subjects.rpc_all("task", method), handler, service="task", method=method,
                registry=self._metrics,
            )  # fmt: skip
            self._endpoints.append(endpoint)

    async def stop(self) -> None:
        """Answer what was accepted, and no more.  Twice is legal."""
        endpoints, self._endpoints = self._endpoints, []
        for endpoint in endpoints:
            await endpoint.drain()

    # --- for deciders ------------------------------------------------------------------------

    def demand(self, wanted: Open) -> None:
        """There is work of this capability: `run` sees to its queues."""
        place = (wanted.tenant, wanted.capability, wanted.queue)
        self._wanted[place] = min(self._wanted.get(place, wanted.seq), wanted.seq)
        self._woken.set()

    async def run(self) -> None:
        """Make what deciders demand, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            wanted, self._wanted = self._wanted, {}
            for (tenant, capability, queue), seq in wanted.items():
                try:
                    await self.ensure(tenant, capability, begin={queue: seq})
                except errors.CoordError as exc:
                    # The decider asks again while the work waits.
                    _log.warning("queues.failed", tenant=tenant, capability=capability, error=exc)

    # --- making ------------------------------------------------------------------------------

    async def ensure(self, tenant: str, capability: str, *, begin: Mapping[str, int] | None = None) -> dict[str, str]:
        """Have all queues of a capability: some from a certain submission on, the others from now on at the latest.

        Raises `TooManyCapabilities`, and what the API raises.
        """
        names: dict[str, str] = {name: subjects.queue(tenant, capability, name) for name in work.PRIORITIES}
        place = (tenant, capability)
        now = asyncio.get_running_loop().time()
        if not begin and now - self._known.get(place, -_KNOWN_S) < _KNOWN_S:
            return names
        async with self._making:
            for name in work.PRIORITIES:
                await self._ensure(tenant, capability, name, (begin or {}).get(name))
        self._known[place] = asyncio.get_running_loop().time()
        return names

    async def _ensure(self, tenant: str, capability: str, name: str, from_seq: int | None) -> None:
        consumer = subjects.queue(tenant, capability, name)
        for _ in range(3):
            begins = await self._begins(consumer)
            if begins is not None and (from_seq is None or begins <= from_seq):
                return
            if begins is not None:
                _log.warning("queues.too_late", consumer=consumer, begins=begins, work_from=from_seq)
                await self._delete(consumer)
            elif self._count >= limits.CAPABILITIES_MAX * len(work.PRIORITIES):
                await self._look()
                if self._count >= limits.CAPABILITIES_MAX * len(work.PRIORITIES):
                    raise errors.TooManyCapabilities(capability=capability, capabilities_max=limits.CAPABILITIES_MAX)
            # Deciders of other partitions are about to name other first submissions.
            start = None if from_seq is None else max(1, from_seq - _EARLIER)
            if start is None:
                info = await self._conn.api(f"STREAM.INFO.{subjects.EVENTS}")
                start = int(info["state"]["last_seq"]) + 1
            try:
                await self._make(consumer, subjects.queue_filter(tenant, capability, name), start)
            except errors.BusError as exc:
                if exc.details.get("server_code") not in _EXISTS:
                    raise
                continue  # another process was first, with another beginning: look at it
            self._count += 1
            self._metrics.decider_queues.set(self._count)
            _log.info("queues.made", consumer=consumer, begins=start)
            return
        raise errors.ApiUnavailable("a queue is made and removed by others at the same time", consumer=consumer)

    async def _begins(self, consumer: str) -> int | None:
        """The sequence from which a queue delivers; None: there is no such consumer."""
        try:
            info = await self._conn.api(f"CONSUMER.INFO.{subjects.EVENTS}.{consumer}")
        except errors.ApiNotFound:
            return None
        return int(info["config"].get("opt_start_seq") or 1)

    async def _make(self, consumer: str, filter_subject: str, start: int) -> None:
        config = {
            "name": consumer,
            "durable_name": consumer,
            "description": "coord: a queue",
            "filter_subject": filter_subject,
            # `all` would hold publishers up: the server looks through the whole log for a filter that begins with
            # a wildcard (325 ms at 800,000 subjects; 1 ms from the end).
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, start),
            "ack_policy": "explicit",
            "ack_wait": int(limits.QUEUE_ACK_WAIT_S * 1e9),
            "max_deliver": -1,
            "max_ack_pending": limits.QUEUE_ACK_PENDING_MAX,
            "max_waiting": limits.QUEUE_WAITING_MAX,
        }
        request = {"stream_name": subjects.EVENTS, "config": config, "action": "create"}
        await self._conn.api(f"CONSUMER.CREATE.{subjects.EVENTS}.{consumer}.{filter_subject}", request)

    async def _delete(self, consumer: str) -> None:
        try:
            await self._conn.api(f"CONSUMER.DELETE.{subjects.EVENTS}.{consumer}")
        except errors.ApiNotFound:
            return
        self._count = max(0, self._count - 1)
        self._metrics.decider_queues.set(self._count)

    # --- removing ----------------------------------------------------------------------------

    async def _look(self) -> list[str]:
        """The queues that there are."""
        names: list[str] = []
        offset = 0
        while True:
            answer = await self._conn.api(f"CONSUMER.NAMES.{subjects.EVENTS}", {"offset": offset})
            page = answer.get("consumers") or ()
            names += [name for name in page if subjects.parse_queue(name) is not None]
            offset += len(page)
            if not page or offset >= int(answer.get("total") or 0):
                break
        self._count = len(names)
        self._metrics.decider_queues.set(self._count)
        return names

    async def sweep(self, unused_s: float = limits.QUEUE_UNUSED_S) -> list[str]:
        """Remove the queues of capabilities that had neither work nor takers for so long; returns their names.

        A submission that comes at this very moment finds no queue: its decider asks for one.
        """
        by_place: dict[tuple[str, str], list[str]] = {}
        for name in await self._look():
            parsed = subjects.parse_queue(name)
            assert parsed is not None
            by_place.setdefault(parsed[:2], []).append(name)
        removed: list[str] = []
        for place, names in by_place.items():
            try:
                infos = [await self._conn.api(f"CONSUMER.INFO.{subjects.EVENTS}.{name}") for name in names]
            except errors.ApiNotFound:
                continue  # another process is at it
            if all(_unused(info, clock.unix(), unused_s) for info in infos):
                self._known.pop(place, None)
                for name in names:
                    await self._delete(name)
                removed += names
                _log.info("queues.removed", tenant=place[0], capability=place[1])
        return removed

    # --- answering ---------------------------------------------------------------------------

    async def _on_open(self, request: rpc.Request) -> OpenAnswer:
        tenant, _, _ = subjects.parse_rpc(request.subject)
        capability = request.decode(OpenRequest).capability
        try:
            subjects.check_token(capability, "capability")
        except errors.InvalidToken as exc:
            raise errors.InvalidRequest(exc.message) from exc
        return OpenAnswer(await self.ensure(tenant, capability))

    async def _on_settle(self, request: rpc.Request) -> SettleAnswer:
        tenant, _, _ = subjects.parse_rpc(request.subject)
        asked = request.decode(SettleRequest)
        place = subjects.parse_queue(asked.queue)
        if place is None or place[0] != tenant:
            raise errors.InvalidRequest("not a queue of this tenant", queue=asked.queue[:256])
        try:
            facts = await history.entity(self._conn, tenant, asked.key, "task", asked.id)
        except errors.InvalidToken as exc:
            raise errors.InvalidRequest(exc.message) from exc
        task, _ = tasks.fold(facts)
        if task is not None and not task.ended and task.submitted_seq == asked.seq:
            return SettleAnswer(settled=False)
        submitted = any(
            fact.seq == asked.seq and fact.event == "submitted" and fact.detail == place[1:] for fact in facts
        )
        if not submitted:
            return SettleAnswer(settled=False)  # not a delivery of this task
        self._conn.publish(subjects.delivery_ack(asked.queue, asked.seq), b"+ACK")
        return SettleAnswer(settled=True)


_EXISTS: Final = frozenset({10012, 10013, 10105, 10148})
"""The server's codes for a consumer that is there with another configuration."""


def _unused(info: dict[str, Any], now: float, unused_s: float) -> bool:
    if info["num_pending"] or info["num_ack_pending"] or info.get("num_waiting"):
        return False
    delivered = info.get("delivered") or {}
    last = delivered.get("last_active") or info["created"]
    return now - max(_unix(last), _unix(info["created"])) >= unused_s


def _unix(text: str) -> float:
    return parse_time(text).timestamp()
