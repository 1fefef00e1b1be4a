"""Three nats-servers on loopback as one JetStream cluster, whose links can be cut one by one.

Every pair of servers has one link, through a proxy of its own: each server dials the one before
it (the first one the last), and an advertised address that nobody listens on keeps what servers
tell each other about third ones from becoming a way around the proxy.  A cut link passes nothing in the chosen
directions and its connections stay open, as with a pulled cable; what waited passes when it is
mended.  Clients reach every server at any time: cut off is a server, not its clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Self

from coord import errors, limits
from coord.bus.connection import Connection, NatsConfig
from coord.ops.devstack import ports
from coord.ops.devstack.nats import NatsOptions, NatsServer
from tests.support.proxy import Proxy
from tests.support.streams import apply_topology

SIZE = 3
_NOWHERE = f"{ports.LOOPBACK}:1"
"""What every server says its address is, for servers that hear of it from others."""
_POLL_S = 0.1
_APPLY_S = 100.0
_ASK_S = 5.0
"""How long a server may take to answer one question about the cluster."""


class NotWhole(AssertionError):
    """The cluster has not become whole in time; the text says what is missing."""


class NatsCluster:
    """``async with NatsCluster(folder) as cluster``; `cluster.url` has all servers' addresses."""

    def __init__(self, folder: Path, *, extra: str = "") -> None:
        self.folder = folder
        self.servers: list[NatsServer] = []
        self.links: dict[tuple[int, int], Proxy] = {}
        """(who dials, whom) → the link of the two."""
        self.stopped: set[int] = set()
        self._extra = extra
        self._proxies = contextlib.AsyncExitStack()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect."""
        return tuple(server.url for server in self.servers)

    @property
    def url(self) -> str:
        """The same as one text, as `nats.urls` is written in a variable."""
        return ",".join(self.urls)

    async def __aenter__(self) -> Self:
        try:
            for attempt in range(limits.DEV_PORT_TRIES):
                try:
                    await self._start()
                    break
                except (errors.EnvironmentProblem, OSError):
                    await self._end()
                    if attempt + 1 == limits.DEV_PORT_TRIES:
                        raise
            await self.until_whole(())
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _start(self) -> None:
        taken: set[int] = set()
        routes = []
        for _ in range(SIZE):
            routes.append(ports.choose(taken=frozenset(taken)))
            taken.add(routes[-1])
        for i in range(SIZE):
            whom = (i - 1) % SIZE
            link = await self._proxies.enter_async_context(Proxy(ports.LOOPBACK, routes[whom]))
            self.links[i, whom] = link
            options = NatsOptions(name=f"n{i}", extra=_cluster(routes[i], link.port) + self._extra)
            self.servers.append(NatsServer(self.folder / f"n{i}", options))
        # JetStream starts once most of them are there.
        await asyncio.gather(*(server.start() for server in self.servers))

    async def _end(self) -> None:
        for i in list(self.stopped):
            self.resume(i)
        await asyncio.gather(*(server.stop() for server in self.servers))
        await self._proxies.aclose()
        self._proxies = contextlib.AsyncExitStack()
        self.servers.clear()
        self.links.clear()

    # --- faults --------------------------------------------------------------------------

    def kill(self, i: int) -> None:
        """SIGKILL."""
        self.stopped.discard(i)
        self.servers[i].kill()

    async def restart(self, i: int) -> None:
        """Start a killed one on its port with its data."""
        await self.servers[i].start()

    def pause(self, i: int) -> None:
        """SIGSTOP: its connections stay, and it does nothing."""
        self._signal(i, signal.SIGSTOP)
        self.stopped.add(i)

    def resume(self, i: int) -> None:
        """SIGCONT: it goes on where it was, a leader in its own eyes."""
        self._signal(i, signal.SIGCONT)
        self.stopped.discard(i)

    def _signal(self, i: int, number: signal.Signals) -> None:
        pid = self.servers[i].pid
        if pid is not None:
            os.kill(pid, number)

    def cut(self, one: int, other: int) -> None:
        """Neither hears the other."""
        self._link(one, other).stall()

    def deafen(self, one: int, to: int) -> None:
        """`one` does not hear `to`, which still hears it."""
        self._link(one, to).stall("down" if (one, to) in self.links else "up")

    def isolate(self, i: int) -> None:
        """No other server hears it, nor it them; its clients stay."""
        for j in range(SIZE):
            if j != i:
                self.cut(i, j)

    def mend(self) -> None:
        """All links pass everything again."""
        for link in self.links.values():
            link.resume()

    def _link(self, one: int, other: int) -> Proxy:
        return self.links.get((one, other)) or self.links[other, one]

    # --- looking -------------------------------------------------------------------------

    async def apply(self, **streams: dict[str, Any]) -> None:
        """streams/ in the profile `cluster`; `EVENTS={…}` overrides fields of a stream."""
        async with await self.connect("topology") as conn:
            async with asyncio.timeout(_APPLY_S):
                while True:
                    # A young cluster may forget a request; what is there already stays as it is.
                    with contextlib.suppress(errors.DeadlineExceeded, errors.ApiUnavailable):
                        await apply_topology(conn, "cluster", **streams)
                        return

    async def connect(self, name: str) -> Connection:
        """A connection to whichever is there."""
        return await Connection.open(NatsConfig(urls=self.urls, ping_interval_s=1.0), name=name, wait=True)

    async def leader(self, conn: Connection, stream: str, timeout_s: float = 100) -> int:
        """Who leads a stream now, waiting for an election under way."""
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(errors.CoordError):
                    name = (await conn.api(f"STREAM.INFO.{stream}"))["cluster"].get("leader")
                    if name:
                        return _number(name)
                await asyncio.sleep(_POLL_S)

    async def until_whole(self, streams: tuple[str, ...] = ("EVENTS", "TELEMETRY"), timeout_s: float = 100) -> None:
        """Return once every server is well, and of every stream every copy is current.

        A server is well when it says so on its monitoring page: it has all its assets, in step.
        """
        missing = "nothing was asked"
        try:
            async with asyncio.timeout(timeout_s):
                while missing:
                    missing = await self._missing(streams)
                    if missing:
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise NotWhole(f"not whole after {timeout_s:g} s: {missing}") from None

    async def _meta_led(self) -> bool:
        groups: list[dict[str, Any]] = [
            (await _page(server.http_port, "/jsz")).get("meta_cluster", {}) for server in self.servers
        ]
        leaders: set[str] = {group.get("leader") or "" for group in groups}
        if len(leaders) != 1 or "" in leaders:
            return False
        # Only the leader knows about the others.
        followers = groups[_number(leaders.pop())].get("replicas", [])
        return sum(bool(r["current"]) for r in followers) == SIZE - 1

    async def _missing(self, streams: tuple[str, ...]) -> str:
        for server in self.servers:
            answer = await _page(server.http_port, "/healthz")
            if answer.get("status") != "ok":
                return f"{server.options.name}: {answer}"
        if not await self._meta_led():
            return "the cluster's own group has no leader with everybody in step"
        for stream in streams:
            replicas = 0
            for server in self.servers:
                page = await _page(server.http_port, "/jsz?streams=1&config=0")
                found = [s for a in page.get("account_details", []) for s in a.get("stream_detail", [])]
                detail: dict[str, Any] = next((s["cluster"] for s in found if s["name"] == stream), {})
                if detail.get("leader") == server.options.name:
                    replicas += sum(bool(r.get("current")) and not r.get("offline") for r in detail["replicas"])
            if replicas != SIZE - 1:
                return f"{stream}: {replicas} copies in step with a leader"
        return ""


def _number(name: str) -> int:
    return int(name.removeprefix("n"))


def _cluster(port: int, dials: int) -> str:
    return f"""\
cluster {{
  name: "coord-test"
  listen: "{ports.LOOPBACK}:{port}"
  advertise: "{_NOWHERE}"
  routes: ["nats-route://{ports.LOOPBACK}:{dials}"]
}}
"""


async def _page(port: int, path: str) -> dict[str, Any]:
    """A monitoring page; empty when it does not answer."""
    try:
        async with asyncio.timeout(_ASK_S):
            reader, writer = await asyncio.open_connection(ports.LOOPBACK, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                _, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError) as exc:
        return {"status": f"no answer: {exc!r}"}
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError:
        return {"status": body[:200].decode(errors="replace")}
    return answer
