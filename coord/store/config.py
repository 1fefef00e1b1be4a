"""Settings of the database edge."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from coord import limits
from coord.core.breaker import BreakerPolicy
from coord.errors import SettingsError

EditionName = Literal["community", "apache", "plain"]

_USERINFO = re.compile(r"://[^/?#@]*@")
_PASSWORD = re.compile(r"(://[^/?#@:]*:|[?&](?:ssl)?password=)[^/?#@&]*(?=[@&]|$)")


class DatabaseConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the database and how many connections to hold.  Times in seconds."""

    url: str = "postgresql://127.0.0.1:5432/coord"
    """postgresql://[user[:password]@]host[:port]/database[?sslmode=…]"""
    replica_url: str = ""
    """A streaming replica of it, one server: reads that need not be exact go there.  Empty: there is none."""
    replica_staleness_max_s: float = limits.REPLICA_STALENESS_MAX_S
    """Reads go to the replica only while what it shows is proven to be no older."""
    slow_query_ms: float = limits.SLOW_QUERY_MS
    """A statement that takes longer is logged with its name and plan; 0: none is."""
    edition: Literal["auto", "community", "apache", "plain"] = "auto"
    """What the database must be.  "auto" takes what it finds; production says "community", so
    that a server without the licence is an error and not a slower system.  "plain" does not
    create the extension even where it is available."""
    pool_min: int = limits.POOL_MIN
    """Connections kept open while nobody asks."""
    pool_max: int = limits.POOL_MAX
    """Connections at most; whoever comes then waits."""
    idle_s: float = limits.POOL_IDLE_S
    """A connection beyond pool_min that nobody used for so long is closed."""
    health_after_s: float = limits.POOL_HEALTH_AFTER_S
    """A connection idle this long is asked whether it lives before it is handed out."""
    health_timeout_s: float = limits.POOL_HEALTH_TIMEOUT_S
    """How long it may take to answer that."""
    connect_timeout_s: float = limits.DB_CONNECT_TIMEOUT_S
    """One attempt to connect, login included."""
    acquire_timeout_s: float = limits.POOL_ACQUIRE_S
    """How long a caller waits for a connection before it gets `Overloaded`."""
    circuit_failures_max: int = limits.CIRCUIT_FAILURES_MAX
    """Attempts in a row without a connection after which callers are refused at once (`DatabaseCircuitOpen`)
    and one at a time tries."""
    circuit_open_max_s: float = limits.CIRCUIT_OPEN_MAX_S
    """How long nobody tries, at most: a database that was away is noticed to be back within that."""
    statement_timeout_s: float = limits.DB_STATEMENT_TIMEOUT_S
    """One statement: the server cancels it then, and the client hangs up a little later."""
    idle_in_transaction_s: float = limits.DB_IDLE_IN_TRANSACTION_S
    """The server ends a transaction whose client says nothing for so long: a projector cut off
    by the network must not keep the lock on its checkpoint from its successor."""
    application_name: str = "coord"
    """Shown in pg_stat_activity."""

    @property
    def safe_url(self) -> str:
        """The URL without its password, for logs and messages."""
        return _PASSWORD.sub(r"\1***", self.url)

    @property
    def breaker(self) -> BreakerPolicy:
        """When a pool's circuit opens, and for how long."""
        first_s = min(limits.CIRCUIT_OPEN_FIRST_S, self.circuit_open_max_s)
        return BreakerPolicy(
            failures_max=self.circuit_failures_max, open_first_s=first_s, open_max_s=self.circuit_open_max_s
        )

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        _check_url(self.url)
        if self.replica_url:
            _check_url(self.replica_url, "database.replica_url")
        if self.replica_staleness_max_s < limits.REPLICA_STALENESS_LEAST_S:
            raise SettingsError(
                f"database.replica_staleness_max_s ({self.replica_staleness_max_s}) must be at least"
                f" {limits.REPLICA_STALENESS_LEAST_S:g}: commits are visible for so long before they are durable"
            )
        if self.slow_query_ms < 0:
            raise SettingsError("database.slow_query_ms must not be negative")
        if not 0 <= self.pool_min <= self.pool_max or self.pool_max < 1:
            raise SettingsError(
                f"database.pool_min ({self.pool_min}) and pool_max ({self.pool_max}) must satisfy 0 <= min <= max >= 1"
            )
        for name in (
            "idle_s",
            "health_after_s",
            "health_timeout_s",
            "connect_timeout_s",
            "acquire_timeout_s",
            "statement_timeout_s",
            "idle_in_transaction_s",
        ):
            if getattr(self, name) <= 0:
                raise SettingsError(f"database.{name} must be positive")
        if self.circuit_failures_max < 1 or self.circuit_open_max_s <= 0:
            raise SettingsError("database.circuit_failures_max is at least 1, circuit_open_max_s positive")
        if self.health_after_s >= self.idle_s:
            raise SettingsError(
                f"database.health_after_s ({self.health_after_s}) must be below idle_s ({self.idle_s}):"
                " otherwise a connection is closed before it is ever asked"
            )
        if self.idle_in_transaction_s > self.statement_timeout_s:
            raise SettingsError("database.idle_in_transaction_s must not exceed statement_timeout_s")
        if len(self.application_name.encode()) > 63:
            raise SettingsError("database.application_name: PostgreSQL keeps 63 bytes")


class AgesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long rows stay, and in which form.  In days."""

    hot_days: float = limits.HOT_DAYS
    """Rows stay in the row store so long; community compresses them then."""
    retain_days: float | None = limits.RETAIN_DAYS
    """Rows are dropped from the database then; None: never."""
    minutes_days: float = limits.MINUTES_DAYS
    """Rollups by minute are kept so long."""
    hours_days: float = limits.HOURS_DAYS
    """Rollups by hour are kept so long; those by day for good."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if self.hot_days <= 0:
            raise SettingsError("ages.hot_days must be positive")
        if not self.hot_days <= self.minutes_days <= self.hours_days:
            raise SettingsError(
                f"ages.minutes_days ({self.minutes_days}) must be from hot_days ({self.hot_days}) to hours_days"
                f" ({self.hours_days}): minutes make hours, and the last hot days may be counted again"
            )
        if self.retain_days is not None and self.retain_days <= self.hot_days:
            raise SettingsError(
                f"ages.retain_days ({self.retain_days}) must exceed hot_days ({self.hot_days}):"
                " otherwise rows are dropped before they are compressed"
            )


class ArchiveConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where facts and samples go as Parquet, and when.  Ages in days, by the broker's clock."""

    url: str = ""
    """A folder (/var/lib/coord/archive, file:///…) or a bucket (s3://bucket/prefix?region=…; another S3-compatible
    store: &endpoint_override=host:port&scheme=https).  Empty: there is no archive, retention drops rows unarchived."""
    after_days: float = limits.HOT_DAYS
    """A chunk is written when all its rows are older."""
    drop_days: float | None = limits.ARCHIVE_DROP_DAYS
    """A chunk that is verified leaves the database then; None: never.  Takes the place of ages.retain_days."""
    keep_days: float | None = limits.ARCHIVE_KEEP_DAYS
    """The files of dropped chunks are removed then, every night or by `coord db archive purge`; None: never."""

    @property
    def safe_url(self) -> str:
        """The URL without key and secret, for logs, messages and the database."""
        return _USERINFO.sub("://", self.url)

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if "://" in self.url and self.url.split("://", 1)[0] not in {"file", "s3"}:
            raise SettingsError("archive.url must be a folder, file:///… or s3://…")
        if self.url and "://" not in self.url and not self.url.startswith("/"):
            raise SettingsError(f"archive.url: {self.url!r} is a relative folder: say where it begins")
        if self.after_days <= 0:
            raise SettingsError("archive.after_days must be positive")
        if self.drop_days is not None and self.drop_days < self.after_days:
            raise SettingsError(
                f"archive.drop_days ({self.drop_days:g}) must not be below after_days ({self.after_days:g}):"
                " nothing is dropped that was not written"
            )
        if self.keep_days is not None and (self.drop_days is None or self.keep_days <= self.drop_days):
            raise SettingsError("archive.keep_days must exceed drop_days: only dropped chunks are purged")


def _check_url(url: str, name: str = "database.url") -> None:
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise SettingsError(f"{name} is not a URL: {exc}") from None
    if parts.scheme not in {"postgresql", "postgres"}:
        raise SettingsError(f"{name} must begin with postgresql://, not {parts.scheme or 'nothing'!r}")
    if not parts.path.strip("/"):
        raise SettingsError(f"{name} names no database: postgresql://host:port/database")
