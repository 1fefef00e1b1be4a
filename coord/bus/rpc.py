"""Requests and answers over NATS: what `coord.rpc.{tenant}.{service}.{method}` carries.

A request and its answer have a body, JSON or MessagePack by ``Content-Type`` (JSON where
there is none), and the answer uses the request's type.  An error is an answer too: the
headers ``Nats-Service-Error`` and ``Nats-Service-Error-Code`` (NATS's own convention, which
its tools show) and `CoordError.as_dict` as the body; `call` raises it again as the class
that has its code.  ``Coord-Deadline-Ms`` says how long the caller will wait; nobody works
for a caller who has left.

The responder (`serve`) works on a bounded number of requests, lets a bounded number wait,
and refuses the rest with `Overloaded` at once.  It answers only to inboxes: a request whose
reply subject is anything else could make the responder publish a fact, or call the broker's
API, with the responder's own rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection, Subscription
from coord.bus.patched import Message
from coord.core.retry import ONCE, CallPolicy
from coord.runtime.retrying import retrying
from coord.telemetry import logs, metrics
from coord.wire import headers as wire_headers

T = TypeVar("T")
Content: TypeAlias = Literal["json", "msgpack"]
Handler: TypeAlias = Callable[["Request"], Awaitable[Any]]
"""Returns what msgspec can encode, or raises a `CoordError` for the caller."""

CONTENT_TYPE: Final = "Content-Type"
DEADLINE: Final = "Coord-Deadline-Ms"
ERROR: Final = "Nats-Service-Error"
ERROR_CODE: Final = "Nats-Service-Error-Code"
QUEUE: Final = "coord"
"""The queue group of all of coord's responders."""

_MEDIA: Final[dict[Content, str]] = {"json": "application/json", "msgpack": "application/msgpack"}
_INBOX: Final = re.compile(r"(_INBOX[A-Za-z0-9_-]*|_R_)\.[^*>\s]+")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_STATUS: Final[dict[str, int]] = {
    "rpc.invalid": 400,
    "query.invalid": 400,
    "query.unauthorized": 401,
    "query.unknown": 404,
    "subscribe.trimmed": 410,
    "subscribe.replaced": 410,
    "subscribe.unreadable": 410,
    "coord.overloaded": 429,
    "cache.behind": 503,
    "store.unavailable": 503,
    "store.circuit_open": 503,
    "rpc.unavailable": 503,
    "cache.load_timeout": 504,
    "coord.deadline": 504,
}

_log = logs.get("rpc")


class Request:
    """One request, as a handler sees it."""

    __slots__ = ("_body", "content", "subject", "until")

    def __init__(self, subject: str, body: bytes, content: Content, until: float) -> None:
        """`until`: when its caller stops waiting, by the loop's clock."""
        self.subject = subject
        self.until = until
        self.content: Content = content
        self._body = body

    def decode(self, to: type[T]) -> T:
        """The body as `to`; an empty body is an empty map.  Raises `InvalidRequest`."""
        try:
            if self.content == "json":
                return msgspec.json.decode(self._body or b"{}", type=to)
            return msgspec.msgpack.decode(self._body or b"\x80", type=to)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise errors.InvalidRequest(str(exc)) from exc


# --- asking --------------------------------------------------------------------------------


async def call(
    conn: Connection,
    subject: str,
    payload: Any,
    to: type[T],
    *,
    timeout_s: float = limits.RPC_TIMEOUT_S,
    content: Content = "msgpack",
    policy: CallPolicy = ONCE,
) -> T:
    """Ask and return the answer as `to`.

    `policy`: how often it is asked again, each time for `timeout_s`; only a question that
    changes nothing may be.  Raises what the responder answered (`InvalidRequest`,
    `Overloaded` …), `ServiceUnavailable` when nobody listens, `DeadlineExceeded`,
    `CircuitOpen` at once while nobody has answered for a while, `NotConnected`, or
    `CoordError` when the answer cannot be read.
    """
    if policy.retries_max != 0:
        return await retrying(lambda: _call(conn, subject, payload, to, timeout_s, content), policy)
    return await _call(conn, subject, payload, to, timeout_s, content)


async def _call(conn: Connection, subject: str, payload: Any, to: type[T], timeout_s: float, content: Content) -> T:
    block = wire_headers.encode({CONTENT_TYPE: _MEDIA[content], DEADLINE: str(int(timeout_s * 1000))})
    with conn.circuit(_circuit_of(subject)).guard():
        message = await conn.request(subject, _encode(payload, content), headers=block, timeout_s=timeout_s)
    try:
        fields = wire_headers.parse(message.raw_headers).fields if message.raw_headers else {}
        answered = _content_of(fields)
        if ERROR not in fields:
            return _decode(message.data, answered, to)
        record = _decode(message.data, answered, dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, errors.WireError) as exc:
        raise errors.CoordError("the answer cannot be read", subject=subject, error=str(exc)[:256]) from exc
    raise rebuild(record)


def _circuit_of(subject: str) -> str:
    tokens = subject.split(".", 4)
    return f"rpc_{tokens[3]}" if len(tokens) == 5 else "rpc"  # coord.rpc.{tenant}.{service}.{method}


def rebuild(record: dict[str, Any]) -> errors.CoordError:
    """The error that `CoordError.as_dict` described, as the class that has its code."""
    code = str(record.get("code", ""))
    kind = _by_code().get(code)
    details = record.get("details")
    details = details if isinstance(details, dict) else {}
    message = str(record.get("message", "the responder failed"))
    if kind is None:
        return errors.RemoteError(message, remote_code=code, **details)
    error = kind.__new__(kind)
    errors.CoordError.__init__(error, message, **details)
    if isinstance(error, errors.Overloaded | errors.CircuitOpen):
        wait_s = details.get("retry_after_s")
        error.retry_after_s = float(wait_s) if isinstance(wait_s, int | float) else 1.0
    return error


@cache
def _by_code() -> dict[str, type[errors.CoordError]]:
    found: dict[str, type[errors.CoordError]] = {}
    kinds = [errors.CoordError]
    for kind in kinds:  # grows while we walk
        found.setdefault(kind.code, kind)
        kinds.extend(kind.__subclasses__())
    return found


# --- answering -----------------------------------------------------------------------------


def describe(error: errors.CoordError) -> dict[str, Any]:
    """The body of an answer that is an error."""
    return error.as_dict() | {"details": {k: _plain(v) for k, v in error.details.items()}}


def status(error: errors.CoordError) -> int:
    """HTTP's number for it."""
    return _STATUS.get(error.code, 500)


class Endpoint:
    """One method that is being served.  Made by `serve`."""

    def __init__(
        self,
        conn: Connection,
        handler: Handler,
        *,
        service: str,
        method: str,
        concurrency: int,
        waiting: int,
        registry: metrics.Metrics,
    ) -> None:
        self._conn = conn
        self._handler = handler
        self._slots = asyncio.Semaphore(concurrency)
        self._accepted_max = concurrency + waiting
        self._jobs: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None
        self._labels = {"service": service, "method": method}
        self._metrics = registry
        self._seconds = registry.rpc_duration_seconds.labels(**self._labels)
        self.refused_replies = 0
        """Requests dropped because their reply subject is not an inbox."""

    @property
    def active(self) -> int:
        """Requests accepted and not yet answered."""
        return len(self._jobs)

    async def drain(self) -> None:
        """Take no more requests and answer those accepted."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        while self._jobs:
            await asyncio.wait(self._jobs)

    async def close(self) -> None:
        """Stop at once; callers run into their deadline.  Twice is legal."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _receive(self, message: Message) -> None:
        if not _INBOX.fullmatch(message.reply):
            self.refused_replies += 1
            self._count("reply_refused")
            return
        if len(self._jobs) >= self._accepted_max:
            # Refused without a task: a flood must cost less than the work it asks for.
            self._refuse(message, "json", errors.Overloaded("too many requests at this instance"))
            return
        job = asyncio.get_running_loop().create_task(self._work(message), name=message.subject)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _work(self, message: Message) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        content: Content = "json"
        try:
            fields = wire_headers.parse(message.raw_headers).fields if message.raw_headers else {}
            content = _content_of(fields)
            if len(message.data) > limits.RPC_REQUEST_BYTES_MAX:
                raise errors.InvalidRequest(f"a request has at most {limits.RPC_REQUEST_BYTES_MAX} bytes")
            until = began + deadline_s(fields)
            async with asyncio.timeout_at(until), self._slots:
                answer = await self._handler(Request(message.subject, message.data, content, until))
            body = _encode(answer, content)
            if len(body) + limits.KIB > self._conn.max_payload:
                raise errors.PayloadTooLarge("the answer does not fit into one message", bytes=len(body))
            self._send(message, body, {CONTENT_TYPE: _MEDIA[content]})
            self._count("ok")
        except TimeoutError:
            self._refuse(message, content, errors.DeadlineExceeded("the caller's deadline passed before the answer"))
        except errors.CoordError as exc:
            self._refuse(message, content, exc)
        except Exception as exc:  # noqa: BLE001 - a defect of one method is answered, logged and counted
            _log.error("rpc.handler_failed", subject=message.subject, exc_info=exc)
            self._refuse(message, content, errors.CoordError("the responder failed; its log says why"))
        finally:
            self._seconds.observe(loop.time() - began)

    def _refuse(self, message: Message, content: Content, error: errors.CoordError) -> None:
        self._count(error.code)
        fields = {
            ERROR: _UNPRINTABLE.sub("?", error.message[:256]),
            ERROR_CODE: str(status(error)),
            CONTENT_TYPE: _MEDIA[content],
        }
        self._send(message, _encode(describe(error), content), fields)

    def _send(self, message: Message, body: bytes, fields: dict[str, str]) -> None:
        try:
            self._conn.publish(message.reply, body, headers=wire_headers.encode(fields))
        except errors.BusError as exc:
            # The caller's own connection, or deadline, tells it.
            _log.debug("rpc.answer_lost", subject=message.subject, error=exc)

    def _count(self, outcome: str) -> None:
        self._metrics.rpc_requests.labels(**self._labels, outcome=outcome).inc()


async def serve(
    conn: Connection,
    subject: str,
    handler: Handler,
    *,
    service: str,
    method: str,
    concurrency: int = limits.RPC_CONCURRENCY,
    waiting: int = limits.RPC_WAITING,
    registry: metrics.Metrics | None = None,
) -> Endpoint:
    """Answer requests on `subject` (wildcards allowed), sharing them with all other instances.

    `service` and `method` are metric labels.  Returns once the broker has the subscription; without one, at once.
    """
    endpoint = Endpoint(
        conn,
        handler,
        service=service,
        method=method,
        concurrency=concurrency,
        waiting=waiting,
        registry=registry or metrics.default(),
    )
    endpoint._subscription = await conn.subscribe(subject, endpoint._receive, queue=QUEUE)  # noqa: SLF001
    if conn.is_connected:
        with contextlib.suppress(errors.NotConnected):  # lost in this moment: the next connection has it from the start
            await conn.flush()
    return endpoint


# --- bodies --------------------------------------------------------------------------------


def _content_of(fields: dict[str, str]) -> Content:
    given = fields.get(wire_headers.PLAIN_CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if given in {"", "application/json"}:
        return "json"
    if given == "application/msgpack":
        return "msgpack"
    raise errors.InvalidRequest("Content-Type is application/json or application/msgpack", given=given[:64])


def deadline_s(fields: dict[str, str]) -> float:
    """How long the caller waits, as a request's headers say, seconds.  Raises `InvalidRequest`."""
    given = fields.get(DEADLINE, "")
    if not given:
        return limits.RPC_TIMEOUT_S
    if not (given.isascii() and given.isdigit() and len(given) <= 9):
        raise errors.InvalidRequest(f"{DEADLINE} is a number of milliseconds", given=given[:64])
    return min(int(given) / 1000, limits.RPC_TIMEOUT_S)


def _encode(value: Any, content: Content) -> bytes:
    return msgspec.json.encode(value) if content == "json" else msgspec.msgpack.encode(value)


def _decode(body: bytes, content: Content, to: type[T]) -> T:
    return msgspec.json.decode(body, type=to) if content == "json" else msgspec.msgpack.decode(body, type=to)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)
