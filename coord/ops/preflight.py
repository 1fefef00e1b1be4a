"""`coord doctor --preflight`: what only production needs.

Durability against power loss, replicas, authentication, encryption, least privilege, room
for the streams to grow into.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from coord import errors, limits
from coord.ops import settings
from coord.ops.checks import Check, Subject, fail, ok, warn
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated

_FETCH_S: Final = 3.0


async def production(it: Subject) -> list[Check]:
    """The checks of the settings, of the broker's durability and of the database's."""
    checks = [*_production_settings(it), *await _durability(it)]
    if not isinstance(it.pool, errors.CoordError):
        checks += await _production_database(it.pool)
    return checks


def _production_settings(it: Subject) -> list[Check]:
    found, checks = it.settings, []
    if found.streams.profile == "development":
        checks.append(
            fail("production", "streams.profile", "development: the log is a window of an hour",
                  "Set streams.profile to production, or to cluster for three replicas.")
        )  # fmt: skip
    elif found.streams.profile == "production":
        checks.append(
            warn("production", "replicas", "every stream has one copy: a lost disk is a lost window",
                  "Run three servers and set streams.profile to cluster.")
        )  # fmt: skip
    if found.database.edition == "auto":
        checks.append(
            warn("production", "database.edition", "auto: another licence would be taken silently",
                  'Set database.edition to "community".')
        )  # fmt: skip
    nats = found.nats
    if not (nats.user or nats.token or nats.creds_file or nats.tls_cert_file or _has_user(nats.urls)):
        checks.append(
            fail("production", "authentication", "the broker lets anybody in",
                  "Give coord and each agent a user of its own; see docs/howto.")
        )  # fmt: skip
    remote = [url for url in nats.urls if not _is_local(url)]
    if remote and not (nats.tls_ca_file or all(urlsplit(u).scheme == "tls" for u in remote)):
        checks.append(
            fail("production", "TLS to the broker", "facts and passwords travel in the clear",
                  "Use tls:// URLs, and nats.tls_ca_file for a CA of your own.")
        )  # fmt: skip
    if found.http.enabled and found.http.host in {"0.0.0.0", "::"}:
        checks.append(
            warn("production", "http.host", "metrics and health are open to every network",
                  "Let only Prometheus and the orchestrator reach http.port.")
        )  # fmt: skip
    return checks or [ok("production", "settings", "replicated, authenticated, encrypted, edition stated")]


def _has_user(urls: tuple[str, ...]) -> bool:
    return all("@" in url for url in urls)


def _is_local(url: str) -> bool:
    host = urlsplit(url if "://" in url else f"nats://{url}").hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"


async def _durability(it: Subject) -> list[Check]:
    """sync_interval and room, which only the monitoring pages tell."""
    if it.monitor is None:
        return [
            warn("production", "sync_interval",
                  "cannot be seen without the monitoring port: by default an ack is two minutes ahead of fsync",
                  "Set `jetstream { sync_interval: always }`, then check with --monitor http://HOST:8222.")
        ]  # fmt: skip
    try:
        varz = await asyncio.to_thread(_fetch, f"{it.monitor.rstrip('/')}/varz")
        config = varz["jetstream"]["config"]
    except (OSError, ValueError, KeyError) as exc:
        return [
            fail(
                "production",
                "monitor",
                f"{it.monitor}: {type(exc).__name__}: {exc}",
                "Give --monitor http://HOST:8222.",
            )
        ]
    checks = []
    if config.get("sync_always"):
        checks.append(ok("production", "sync_interval", "always: an acked fact survives power loss"))
    else:
        seconds = config.get("sync_interval", 0) / 1e9
        checks.append(
            fail("production", "sync_interval", f"{seconds:g} s of acked facts may be lost with the power",
                  "Set `jetstream { sync_interval: always }` and restart nats-server.")
        )  # fmt: skip
    if not config.get("strict", True):
        checks.append(
            fail("production", "strict", "JetStream takes unknown fields: an agent's reply subject could purge the log",
                  "Remove `strict: false` from nats-server's configuration.")
        )  # fmt: skip
    wanted = sum(max(0, spec.config.get("max_bytes", 0)) for spec in settings.topology(it.settings).streams)
    room = config.get("max_storage", 0)
    if wanted > room:
        checks.append(
            fail("production", "room", f"streams may grow to {wanted:,} bytes, the server stores {room:,}",
                  "Raise max_file_store, or lower streams.log_disk_mib, or max_bytes in streams/.")
        )  # fmt: skip
    else:
        checks.append(ok("production", "room", f"{wanted:,} of {room:,} bytes a server"))
    return checks


def _fetch(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise ValueError("not an http URL")
    context = ssl.create_default_context() if parts.scheme == "https" else None
    with urllib.request.urlopen(url, timeout=_FETCH_S, context=context) as answer:  # noqa: S310 - checked above
        document: dict[str, Any] = msgspec.json.decode(answer.read(limits.MIB))
        return document


async def _production_database(pool: Pool) -> list[Check]:
    async with pool.acquire() as conn:
        with translated("doctor"):
            row = (await conn.fetch(statement("doctor_database")))[0]
    checks = [
        fail("production", name, "off: a crash of the machine may destroy the database", f"Set {name} = on.")
        for name in ("fsync", "full_page_writes")
        if not row[name]
    ]
    if row["superuser"]:
        checks.append(
            warn(
                "production",
                "role",
                f"{row['role']} is a superuser",
                "Give coord a role of its own that owns its schema.",
            )
        )
    if not row["is_local"] and not row["encrypted"]:
        checks.append(
            fail(
                "production",
                "TLS to the database",
                "rows travel in the clear",
                "Add ?sslmode=verify-full to database.url.",
            )
        )
    return checks or [ok("production", "database", "durable, encrypted or local, least privilege")]
