"""``/metrics``, ``/healthz`` and ``/readyz``, served by the event loop that they report on.

* ``/healthz``: is the process worth keeping?  200 while it can answer and no service has
  failed for good.  A database that is away is no reason to restart: that is not asked here.
* ``/readyz``: does it do its work?  200 only while every service does; 503 from the first
  moment of draining.  The body names each service, its loops and its last error.
* ``/metrics``: Prometheus text, or OpenMetrics when asked for.

Read only, without secrets, and on loopback unless told otherwise: whoever opens it to a
network puts what that network needs in front of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST, choose_encoder
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coord import limits
from coord.errors import EnvironmentProblem
from coord.runtime.http_config import HttpConfig
from coord.runtime.service import Service
from coord.telemetry import logs, metrics

if TYPE_CHECKING:
    from starlette.requests import Request

_log = logs.get("http")

Health = Callable[[], dict[str, Any]]
Page = Callable[[], Awaitable[bytes]]
"""Metrics in Prometheus's text format, of more than this process."""


class HttpService(Service):
    """Serves the three endpoints, or others; `url` says where once started."""

    def __init__(
        self,
        config: HttpConfig,
        health: Health | None,
        *,
        registry: metrics.Metrics | None = None,
        routes: Sequence[BaseRoute] = (),
        page: Page | None = None,
        name: str = "http",
    ) -> None:
        """`health` answers like `Service.health`; `routes` are served beside the three; without `health`, they alone.

        `page`: what /metrics shows instead of `registry`.
        """
        super().__init__(name, registry=registry)
        self.config = config
        self.url = ""
        self._app = Starlette(routes=routes) if health is None else app(health, self.metrics, routes, page)
        self._server: _Server | None = None
        self._socket: socket.socket | None = None

    async def setup(self) -> None:
        """Take the port: a taken one is an `EnvironmentProblem` that names it."""
        self._socket = _listen(self.config.host, self.config.port)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        _log.info("http.listening", url=self.url)

    async def run(self) -> None:
        """Serve until cancelled: the probes have to answer while everything else drains."""
        assert self._socket is not None
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=limits.HTTP_CONNECTIONS_MAX,
            timeout_keep_alive=int(limits.HTTP_KEEP_ALIVE_S),
            timeout_graceful_shutdown=1,
            ws="none",
        )
        self._server = server = _Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[self._socket.dup()]))
        try:
            await asyncio.shield(serving)
        finally:
            # uvicorn ends by flag; its own handling of a cancellation logs a traceback.
            server.should_exit = True
            await asyncio.wait({serving}, timeout=limits.STOP_S / 2)

    async def teardown(self) -> None:
        """Give the port back."""
        if self._socket is not None:
            self._socket.close()

    def is_ready(self) -> bool:
        """Whether the first request would be answered."""
        return self._server is not None and self._server.started

    def details(self) -> dict[str, Any]:
        """Where it listens."""
        return {"url": self.url}


def app(
    health: Health, registry: metrics.Metrics, routes: Sequence[BaseRoute] = (), page: Page | None = None
) -> Starlette:
    """The ASGI application."""

    async def healthz(_request: Request) -> Response:
        record = health()
        return _json(record, 503 if record["state"] == "failed" else 200)

    async def readyz(_request: Request) -> Response:
        record = health()
        return _json(record, 200 if record["ready"] else 503)

    async def show_metrics(request: Request) -> Response:
        if page is not None:
            return Response(await page(), media_type=None, headers={"content-type": CONTENT_TYPE_LATEST})
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        # 20 ms for a few hundred series: not on the loop that moves facts.
        body = await run_in_threadpool(encode, registry.registry)
        return Response(body, media_type=None, headers={"content-type": content_type})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", show_metrics),
            *routes,
        ]
    )


def _json(record: dict[str, Any], status: int) -> Response:
    body = msgspec.json.encode(record, enc_hook=str)
    return Response(body, status, headers={"content-type": "application/json", "cache-control": "no-store"})


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise EnvironmentProblem(f"http.host {host!r} is no address of this machine: {exc}") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(128)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise EnvironmentProblem(
                f"port {port} of {host} is taken: set http.port (COORD_HTTP_PORT) to another, or to 0 for any"
            ) from exc
        raise EnvironmentProblem(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    return sock


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process's signals are `runtime.signals`'s."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
