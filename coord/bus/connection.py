"""One connection to the broker that stays: reconnects for ever and comes back when closed.

nats-py gives up in two ways that a service must survive.  It stops reconnecting after 60
attempts by default (here: never), and any ``-ERR`` other than a stale connection or a
permission closes the client for good, an expired credential among them.  So a
`Connection` owns its subscriptions and, when the client under it is closed by anybody but
`close()`, builds a new client and subscribes again.

What it never does: queue messages while disconnected.  `publish` raises `NotConnected`;
whoever needs delivery (the publisher) holds the message and sends it again.

Listeners (`on_connected`, `on_disconnected`, `on_permission_denied`) are called
synchronously and must not block.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import secrets
import ssl
from collections.abc import Callable
from typing import Any, Self

import msgspec
from nats import errors as nats_errors

from coord import errors, limits
from coord.bus import errors_map
from coord.bus.creds import CredsFile, PasswordFile
from coord.bus.patched import Callback, Message, PatchedClient, Receiver, as_messages
from coord.bus.tls import TlsFiles
from coord.core.breaker import BreakerPolicy
from coord.core.retry import ONCE, CallPolicy, backoff_of
from coord.runtime import clock
from coord.runtime.circuit import Circuit
from coord.runtime.retrying import retrying
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.telemetry.metrics import default as default_metrics

_log = logs.get("bus")
_PERMISSION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

_USERINFO = re.compile(r"(://|^)[^/@]*@")
_LOGIN = re.compile("authorization|authentication", re.IGNORECASE)
"""In what a server says to whom it does not let in."""

_DENIED_LOG_EVERY_S = 1.0
_UNREACHED_LOG_EVERY_S = 60.0
_UNREACHED_KEPT = 16

_REPEATABLE = frozenset({"INFO", "MSG", "CREATE", "RESET"})
"""API requests that do no more when they come twice; a consumer that is reset twice ends a session at worst."""

Unregister = Callable[[], None]


class NatsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the broker.  Times in seconds."""

    urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """Servers of one cluster; tried in random order."""
    user: str | None = None
    password: str | None = None
    password_file: str | None = None
    """A file with the password, read again at each connection; instead of `password`."""
    token: str | None = None
    creds_file: str | None = None
    """A .creds file (JWT and NKEY)."""
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    inbox_prefix: str = "_INBOX"
    """Private prefix of this user's inboxes, as its permissions demand (`_INBOX_a1`)."""
    connect_timeout_s: float = limits.CONNECT_TIMEOUT_S
    reconnect_wait_s: float = limits.RECONNECT_WAIT_S
    ping_interval_s: float = 10.0
    """A connection that answers no ping twice in a row is replaced."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if not self.urls:
            raise errors.SettingsError("nats.urls is empty")
        if bool(self.user) != bool(self.password or self.password_file):
            raise errors.SettingsError("nats.user and nats.password (or nats.password_file) go together")
        if self.password and self.password_file:
            raise errors.SettingsError("nats: give password or password_file")
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise errors.SettingsError("nats.tls_cert_file and nats.tls_key_file go together")
        if sum(map(bool, (self.user, self.token, self.creds_file))) > 1:
            raise errors.SettingsError("nats: give one of user, token and creds_file")
        if min(self.connect_timeout_s, self.reconnect_wait_s, self.ping_interval_s) <= 0:
            raise errors.SettingsError("nats: times must be positive")


class Subscription:
    """A subscription that outlives the client it was made on."""

    __slots__ = ("_client", "_conn", "_queue", "_receiver", "_sid", "subject")

    def __init__(self, conn: Connection, subject: str, receiver: Receiver, queue: str) -> None:
        self.subject = subject
        self._conn = conn
        self._receiver = receiver
        self._queue = queue
        self._client: PatchedClient | None = None
        """On which it was made last,"""
        self._sid: int | None = None
        """and under which number there."""

    async def _attach(self, client: PatchedClient) -> None:
        self._client = client
        self._sid = await client.subscribe_direct(self.subject, self._receiver, self._queue)

    async def unsubscribe(self) -> None:
        """Stop receiving.  Twice is legal; never raises because the connection is down."""
        self._conn._subscriptions.discard(self)  # noqa: SLF001 - one class in two halves
        sid, self._sid = self._sid, None
        if sid is not None and self._client is not None:  # another client's is another subscription's number
            with contextlib.suppress(nats_errors.Error, OSError):
                await self._client.unsubscribe_direct(sid)


class Passing:
    """A subscription to one inbox for a moment: it ends with the connection that it was made on."""

    __slots__ = ("_client", "_sid")

    def __init__(self, client: PatchedClient, sid: int) -> None:
        self._client = client
        self._sid = sid

    def retire(self) -> None:
        """Stop receiving, but take what the broker has sent by then, whenever it comes.  Never raises."""
        self._client.retire_direct(self._sid)


class Connection:
    """See the module.  Make one with `await Connection.open(config, name=…)`."""

    def __init__(self, config: NatsConfig, name: str, *, role: str = "client", registry: Metrics | None = None) -> None:
        self.config = config
        self.name = name
        self._registry = metrics = registry or default_metrics()
        self._circuits: dict[str, Circuit] = {}
        """By class of what is asked: a handful."""
        self._m_connected = metrics.bus_connected.labels(connection=role)
        self._m_reconnects = metrics.bus_reconnects.labels(connection=role)
        self._m_denied = metrics.bus_permission_denied.labels(connection=role)
        self._m_callback_errors = metrics.bus_callback_errors.labels(connection=role)
        self._counted = False
        self._denied_log_at = 0.0
        self._tls = TlsFiles(config.tls_ca_file, config.tls_cert_file, config.tls_key_file)
        self._creds = CredsFile(config.creds_file) if config.creds_file else None
        self._password = PasswordFile(config.password_file) if config.password_file else None
        self._refusal: Exception | None = None
        """What a server that could be reached said, since we were connected."""
        self._unreached_log_at: dict[str, float] = {}
        """Why attempts to connect have failed, and when to say so again."""
        self._waits = True
        """Whether nobody is told that there is no connection; else it is the error's to say why."""
        self.client = self._new_client()
        self._joined: PatchedClient | None = None
        """The client that has had a connection: it keeps what is subscribed on it from then on."""
        self.epoch = 0
        """How often a connection was established; changes with every reconnect."""
        self.callback_errors = 0
        self._subscriptions: set[Subscription] = set()
        self._closing = False
        self._reopening: asyncio.Task[None] | None = None
        self._connected_listeners: list[Callable[[], None]] = []
        self._disconnected_listeners: list[Callable[[], None]] = []
        self._denied_listeners: list[Callable[[str], None]] = []
        self._replies: dict[str, asyncio.Future[Message]] = {}
        self._reply_prefix = f"{config.inbox_prefix}.{secrets.token_hex(11)}."
        self._reply_tokens = itertools.count()
        self._reply_subscription: Subscription | None = None
        self._is_deaf = False
        """Whether the broker does not let this connection listen at its inbox."""
        self._up = asyncio.Event()

    # --- life ----------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        config: NatsConfig,
        *,
        name: str,
        role: str = "client",
        wait: bool = False,
        registry: Metrics | None = None,
    ) -> Self:
        """Connect.  `wait=False` raises `NotConnected` after connect_timeout_s; True tries for ever.

        `name` is what the broker shows of this connection; `role` (projector, query, client …)
        is its label in the metrics.
        """
        config.validate()
        conn = cls(config, name, role=role, registry=registry)
        conn._tls.context()  # what is wrong with it is said at once, whatever the server wants
        conn._waits = wait
        try:
            if wait:
                await conn._connect()
            else:
                async with asyncio.timeout(config.connect_timeout_s):
                    await conn._connect()
        except TimeoutError as exc:
            await conn.close()
            raise conn._not_connected() from exc
        except BaseException:
            await conn.close()
            raise
        return conn

    def _new_client(self) -> PatchedClient:
        client = PatchedClient(self._callback_failed)
        client.tls = self._tls.context
        client.creds = self._creds
        client.must_encrypt = self._tls.is_wanted or any(url.startswith("tls://") for url in self.config.urls)
        return client

    def _not_connected(self) -> errors.NotConnected:
        """Why there is no connection, as far as a server said it."""
        servers = ", ".join(_USERINFO.sub(r"\1***@", url) for url in self.config.urls)
        match self._refusal:
            case None:
                within = f"within {self.config.connect_timeout_s:g} s"
                return errors.NotConnected(
                    f"no NATS server at {servers} {within}", last_error=str(self.client.last_error or "")
                )
            case nats_errors.SecureConnWantedError():
                return errors.BrokerNotTrusted(
                    f"the NATS server at {servers} offers no encryption, and tls:// or a nats.tls_… file asks for it"
                )
            case ssl.SSLError() as why:
                return errors.BrokerNotTrusted(f"no encrypted connection to the NATS server at {servers}: {why}")
            case why:
                return errors.BrokerLoginRefused(f"the NATS server at {servers} does not let this login in: {why}")

    def _lost(self) -> errors.BusError:
        """Why nothing can be sent now; where a server does not let us in again, that."""
        if self._closing:
            return errors.BusClosed()
        return errors.NotConnected() if self._refusal is None else self._not_connected()

    @property
    def refused(self) -> str | None:
        """The code of what a server that can be reached has against us; None: nothing, or none can be reached."""
        return None if self._refusal is None or self.is_connected else self._not_connected().code

    async def _connect(self) -> None:
        config = self.config
        await self.client.connect(
            servers=list(config.urls),
            name=self.name,
            user=config.user,
            password=config.password if self._password is None else self._password,
            token=config.token,
            user_credentials=config.creds_file,
            inbox_prefix=config.inbox_prefix,
            connect_timeout=config.connect_timeout_s,  # floats work
            reconnect_time_wait=config.reconnect_wait_s,
            ping_interval=config.ping_interval_s,
            max_outstanding_pings=2,
            max_reconnect_attempts=-1,
            pending_size=0,  # bounded by our own windows; nats-py's bound would raise in the middle of a batch
            error_cb=self._error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._client_closed,
            skip_subject_validation=True,
        )
        self._joined = self.client
        for subscription in list(self._subscriptions):
            await self._attach(subscription)
        self._established()

    async def _attach(self, subscription: Subscription) -> None:
        """Subscribe now; where a new client is still connecting, that is done when it has."""
        if self._joined is self.client and not self.client.is_closed:
            await subscription._attach(self.client)  # noqa: SLF001 - one class in two halves

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent now."""
        return self.client.is_connected and not self._closing

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    @property
    def max_payload(self) -> int:
        """Largest message (headers and body together, bytes) that the broker accepts."""
        return int(self.client.max_payload)

    @property
    def is_clustered(self) -> bool:
        """Whether the server we are, or were last, connected to is part of a cluster: streams may be replicated."""
        return bool(self.client._server_info.get("cluster"))  # noqa: SLF001 - nats-py keeps it and says only parts

    @property
    def place(self) -> str:
        """``{server id}/{client id}`` of the connection we have, or had last."""
        said = self.client._server_info  # noqa: SLF001 - as above
        return f"{said.get('server_id', '')}/{said.get('client_id', 0)}"

    @property
    def certificate(self) -> bytes | None:
        """What the server we are connected to has shown, as DER; None: it does not encrypt."""
        writer = getattr(self.client._transport, "_io_writer", None)  # noqa: SLF001 - as above
        tls = None if writer is None else writer.get_extra_info("ssl_object")
        return None if tls is None else tls.getpeercert(binary_form=True)

    @property
    def outgoing_bytes(self) -> int:
        """Bytes handed over and not yet taken by the socket: grows while the peer does not read."""
        return int(self.client.pending_data_size)

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Return once connected; `NotConnected` after `timeout_s`, `BusClosed` when closed."""
        if self._closing:
            raise errors.BusClosed
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError as exc:
            raise self._lost() from exc
        if self._closing:
            raise errors.BusClosed

    async def drain(self, within_s: float = limits.CONNECTION_DRAIN_S) -> None:
        """Have the broker read what is buffered, within that time, then close.

        Never raises because the broker is away.
        """
        within_s = min(within_s, limits.CONNECTION_DRAIN_S)
        if self.is_connected and within_s > 0:
            with contextlib.suppress(nats_errors.Error, OSError, TimeoutError):
                await self.client.flush(timeout=within_s)  # type: ignore[arg-type]
        await self.close()

    async def close(self) -> None:
        """Close for good, within `limits.CONNECTION_CLOSE_S` whatever the broker does.  Twice is legal."""
        if self._closing:
            return
        self._closing = True
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)
        self._fail_replies(errors.BusClosed())
        late = asyncio.get_running_loop().call_later(limits.CONNECTION_CLOSE_S, self.client.abort)
        try:
            with contextlib.suppress(nats_errors.Error, OSError, TimeoutError, AttributeError):
                # AttributeError: nats-py closing a client that never connected
                await self.client.close()
        finally:  # also when it is cancelled: nobody closes it again
            late.cancel()
            self._up.set()  # whoever waits learns that it is closed
            self._count_connected(now=False)
            self._notify(self._disconnected_listeners)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    # --- listeners -----------------------------------------------------------------------

    def on_connected(self, listener: Callable[[], None]) -> Unregister:
        """Call `listener` after every reconnect (not after the first connect)."""
        return _register(self._connected_listeners, listener)

    on_reconnected = on_connected

    def on_disconnected(self, listener: Callable[[], None]) -> Unregister:
        """Call `listener` when the connection is lost or closed."""
        return _register(self._disconnected_listeners, listener)

    def on_permission_denied(self, listener: Callable[[str], None]) -> Unregister:
        """Call `listener(subject)` when the broker refuses a subject; it arrives lower-cased."""
        return _register(self._denied_listeners, listener)

    def _notify(self, listeners: list[Callable[[], None]]) -> None:
        for listener in list(listeners):
            try:
                listener()
            except Exception as exc:  # noqa: BLE001 - one listener must not silence the others
                self._callback_failed(exc)

    def _established(self) -> None:
        self.epoch += 1
        self._waits, self._refusal, self._is_deaf = True, None, False
        self._unreached_log_at.clear()
        self._up.set()
        self._count_connected(now=True)
        if self.epoch > 1:
            self._m_reconnects.inc()
            _log.info("bus.reconnected", connection=self.name, epoch=self.epoch)
            self._notify(self._connected_listeners)

    def _count_connected(self, *, now: bool) -> None:
        if now != self._counted:
            self._counted = now
            self._m_connected.inc(1 if now else -1)

    async def _reconnected(self) -> None:
        self._established()

    async def _disconnected(self) -> None:
        if self._closing:
            return
        self._up.clear()
        self.client.discard_outgoing()  # its owners send it again, in order
        _log.warning("bus.disconnected", connection=self.name, error=str(self.client.last_error or ""))
        self._fail_replies(errors.NotConnected())
        self._notify(self._disconnected_listeners)

    async def _error(self, exc: Exception) -> None:
        match = _PERMISSION.search(str(exc))
        if match is None:
            if self.client.is_connected:
                _log.debug("bus.client_error", connection=self.name, error=f"{type(exc).__name__}: {exc}")
            else:
                self._unreached(exc)
            return
        self._m_denied.inc()
        now = clock.monotonic()
        # Each refusal is counted and told to listeners; a misconfigured agent must not flood the log.
        if now >= self._denied_log_at:
            self._denied_log_at = now + _DENIED_LOG_EVERY_S
            _log.warning("bus.permission_denied", connection=self.name, what=match[1], subject=match[2])
        if match[1] == "subscription" and match[2] == f"{self._reply_prefix}*".lower():
            self._is_deaf = True
            self._fail_replies(self._inbox_denied())
        for listener in list(self._denied_listeners):
            try:
                listener(match[2])
            except Exception as defect:  # noqa: BLE001 - raised from here it would end nats-py's read loop
                self._callback_failed(defect)

    def _unreached(self, exc: Exception) -> None:
        """An attempt to connect has failed: what is new is said at once, the same now and then."""
        if isinstance(exc, ssl.SSLError | nats_errors.SecureConnWantedError) or _LOGIN.search(str(exc)):
            self._refusal = exc
        if not self._waits:
            return
        now, why = clock.monotonic(), f"{type(exc).__name__}: {exc}"
        if now < self._unreached_log_at.get(why, now):
            return
        if len(self._unreached_log_at) >= _UNREACHED_KEPT:
            self._unreached_log_at.clear()
        self._unreached_log_at[why] = now + _UNREACHED_LOG_EVERY_S
        _log.warning("bus.not_reached", connection=self.name, code=self._not_connected().code, error=why)

    def _inbox_denied(self) -> errors.NoPermission:
        prefix = self.config.inbox_prefix
        return errors.NoPermission(
            f"this login may not listen at its inboxes, {prefix}.>, so no answer can reach it; which it may is for the"
            " broker to say (deploy/nats/nats.conf: _INBOX_a1), `nats.inbox_prefix` names it",
            subject=f"{prefix}.>",
        )

    async def _client_closed(self) -> None:
        """nats-py gave up: come back with a new client."""
        if self._closing or self._reopening is not None:
            return
        self._up.clear()
        _log.warning("bus.client_closed", connection=self.name, error=str(self.client.last_error or ""))
        self._reopening = asyncio.create_task(self._reopen(), name=f"{self.name}-reopen")

    async def _reopen(self) -> None:
        first_s, tries = self.config.reconnect_wait_s, 0
        try:
            while not self._closing:
                tries += 1
                most_s = first_s * limits.RECONNECT_WAITS_MAX
                await asyncio.sleep(backoff_of(tries, random.random(), first_s=first_s, most_s=most_s))
                self.client = self._new_client()
                try:
                    await self._connect()
                except Exception as exc:  # noqa: BLE001 - whatever it is: nobody else would ever try again
                    _log.warning("bus.reopen_failed", connection=self.name, error=f"{type(exc).__name__}: {exc}")
                    continue
                return
        finally:
            self._reopening = None

    def _callback_failed(self, exc: BaseException) -> None:
        self.callback_errors += 1
        self._m_callback_errors.inc()
        _log.error("bus.callback_failed", connection=self.name, exc_info=exc)

    # --- messages ------------------------------------------------------------------------

    def publish(self, subject: str, body: bytes = b"", *, reply: str = "", headers: bytes | None = None) -> None:
        """Hand one message to the connection; it is written by the flusher, in order.

        `headers` is an encoded block (`coord.wire.headers.encode`).  Nothing is waited for:
        the caller bounds what is in flight.  Raises `NotConnected`, `BusClosed`, or
        `MessageTooLarge` (the broker would cut the connection).
        """
        if not self.client.is_connected:
            raise self._lost()
        size = len(body) + (len(headers) if headers else 0)
        if size > self.client._max_payload:  # noqa: SLF001 - the property costs on this path
            raise errors.MessageTooLarge(
                f"{size} bytes with headers; the broker takes {self.max_payload}", subject=subject
            )
        self.client.write_publish(subject, reply, headers, body)

    def before_write(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, right before what is published in this turn of the loop is written.

        It may publish more; it is called on a lost connection, too.
        """
        self.client.before_write(callback)

    async def flush(self, timeout_s: float = limits.API_TIMEOUT_S) -> None:
        """Return once the broker has processed everything published before."""
        try:
            await self.client.flush(timeout=timeout_s)  # type: ignore[arg-type]
        except (nats_errors.Error, OSError) as exc:
            raise errors.NotConnected(str(exc)) from exc

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> Subscription:
        """Receive messages; `callback(message)` runs synchronously in the read loop and must not block."""
        return await self.subscribe_bytes(subject, as_messages(callback), queue=queue)

    async def subscribe_bytes(self, subject: str, receiver: Receiver, *, queue: str = "") -> Subscription:
        """`subscribe`, for whoever takes messages apart: `receiver(subject, reply, header block, payload)`."""
        if self._closing:
            raise errors.BusClosed
        subscription = Subscription(self, subject, receiver, queue)
        self._subscriptions.add(subscription)
        await self._attach(subscription)
        return subscription

    def listen(self, inbox: str, receiver: Receiver) -> Passing:
        """Receive at one inbox until it is retired or the connection lost: cheaper than a lasting subscription.

        `inbox` has no wildcard: the broker compares each of those with every subject that it has in mind, whenever
        one comes or goes.  Raises as `publish` does.
        """
        if not self.client.is_connected:
            raise self._lost()
        return Passing(self.client, self.client.listen_direct(inbox, receiver))

    def new_inbox(self) -> str:
        """A fresh subject under this user's inbox prefix."""
        return f"{self.config.inbox_prefix}.{secrets.token_hex(11)}"

    async def request(
        self,
        subject: str,
        body: bytes = b"",
        *,
        headers: bytes | None = None,
        timeout_s: float = limits.RPC_TIMEOUT_S,
        again_s: float | None = None,
    ) -> Message:
        """One question, one answer.

        `again_s`: send it again whenever there was no answer for so long; for what changes nothing.
        Raises `ServiceUnavailable` when nobody listens, `NoPermission` when no answer may come, `DeadlineExceeded`,
        `NotConnected`.
        """
        token, future = await self._expect()
        try:
            async with asyncio.timeout(timeout_s):
                self.publish(subject, body, reply=self._reply_prefix + token, headers=headers)
                while again_s is not None and not (await asyncio.wait({future}, timeout=again_s))[0]:
                    self.publish(subject, body, reply=self._reply_prefix + token, headers=headers)
                message = await future
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"no answer within {timeout_s:g} s", subject=subject) from exc
        finally:
            self._replies.pop(token, None)
        if message.status == 503:  # no responders
            raise errors.ServiceUnavailable(subject=subject)
        return message

    async def is_heard(self, subject: str, body: bytes = b"") -> bool:
        """Publish a message that nobody is to answer; False: the broker says that nobody listens.

        True says little: a listener may do nothing with it.  Raises what `publish` and `flush` raise.
        """
        token, answer = await self._expect()
        try:
            self.publish(subject, body, reply=self._reply_prefix + token)
            await self.flush()  # "nobody" is said before this returns
            return not (answer.done() and answer.result().status == 503)
        finally:
            self._replies.pop(token, None)

    async def _expect(self) -> tuple[str, asyncio.Future[Message]]:
        """A reply's last token, and what becomes its message; whoever asks takes it out of `_replies` again."""
        if self._is_deaf:
            raise self._inbox_denied()
        if self._reply_subscription is None:
            self._reply_subscription = Subscription(self, self._reply_prefix + "*", as_messages(self._on_reply), "")
            self._subscriptions.add(self._reply_subscription)
            await self._attach(self._reply_subscription)
        token = str(next(self._reply_tokens))
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._replies[token] = future
        return token, future

    def _on_reply(self, message: Message) -> None:
        future = self._replies.get(message.subject[len(self._reply_prefix) :])
        if future is not None and not future.done():
            future.set_result(message)

    def _fail_replies(self, error: errors.CoordError) -> None:
        # An answer to a question asked on a lost connection never comes: say so now.
        for future in self._replies.values():
            if not future.done():
                future.set_exception(error)
        self._replies.clear()

    def circuit(self, name: str) -> Circuit:
        """The circuit of this connection for one class of what is asked through it, such as ``rpc_log``."""
        found = self._circuits.get(name)
        if found is None:
            found = self._circuits[name] = Circuit(
                name,
                BreakerPolicy(open_max_s=limits.CIRCUIT_API_OPEN_MAX_S),
                counts=(errors.ServiceUnavailable, errors.DeadlineExceeded),
                metrics=self._registry,
            )
        return found

    async def api(
        self,
        request: str,
        payload: Any = None,
        *,
        timeout_s: float = limits.API_TIMEOUT_S,
        policy: CallPolicy = ONCE,
    ) -> dict[str, Any]:
        """One JetStream API request, such as ``api("STREAM.INFO.EVENTS")``.

        Returns the decoded answer.  `policy`: how often it is repeated; only a request that
        changes nothing may be.  Raises `ApiNotFound`, `ApiUnavailable` (retryable),
        `CircuitOpen` at once while the API does not answer, or `BusError`: with the server's
        code, or because the answer is none of JetStream's.
        """
        if policy.retries_max == 0:
            return await self._api(request, payload, timeout_s)
        return await retrying(lambda: self._api(request, payload, timeout_s), policy)

    async def _api(self, request: str, payload: Any, timeout_s: float) -> dict[str, Any]:
        body = msgspec.json.encode(payload) if payload is not None else b""
        try:
            with self.circuit("broker_api").guard():
                # While a stream or consumer changes its leader nobody may answer.
                again_s = limits.API_AGAIN_S if _REPEATABLE.intersection(request.split(".")[:2]) else None
                message = await self.request("$JS.API." + request, body, timeout_s=timeout_s, again_s=again_s)
        except errors.ServiceUnavailable as exc:
            raise errors.ApiUnavailable(request=request) from exc
        try:
            answer = msgspec.json.decode(message.data, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise errors.BusError("something that is not JetStream answered", request=request) from exc
        error = answer.get("error")
        if error:
            raise errors_map.api_error(error, request)
        return answer


def _register(listeners: list[Any], listener: Any) -> Unregister:
    listeners.append(listener)

    def unregister() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return unregister
