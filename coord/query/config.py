"""Settings of the query service; apart from it, since its HTTP server takes long to import."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from coord import errors, limits
from coord.cache.config import CacheConfig
from coord.runtime.http_config import HttpConfig
from coord.wire import subjects


class QueryHttpConfig(HttpConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where questions are answered over HTTP, and to whom; nowhere unless that is said."""

    enabled: bool = False
    port: int = limits.QUERY_HTTP_PORT
    """TCP port; 0 takes any free one and says which."""
    tokens: tuple[str, ...] = ()
    """``tenant:token``: who sends the token as bearer asks about the tenant; a tenant may have several, so that one can
    be changed."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        super().validate()
        if not tenants_of(self.tokens) and self.enabled:
            raise errors.SettingsError("query.http.enabled needs query.http.tokens: nobody could ask")


def tenants_of(tokens: Iterable[str]) -> Mapping[bytes, str]:
    """Digest of a token → its tenant, of ``tenant:token``.  Raises `SettingsError`."""
    found: dict[bytes, str] = {}
    for given in tokens:
        tenant, _, token = given.partition(":")
        try:
            subjects.check_token(tenant, "tenant")
        except errors.InvalidToken as exc:
            raise errors.SettingsError(f"query.http.tokens are tenant:token: {exc.message}") from None
        if len(token) < limits.QUERY_SECRET_CHARS_MIN or not token.isascii() or not token.isprintable():
            raise errors.SettingsError(
                f"query.http.tokens: a token of {tenant} has fewer than {limits.QUERY_SECRET_CHARS_MIN} characters,"
                " or others than ASCII's"
            )
        if found.setdefault(digest(token), tenant) != tenant:
            raise errors.SettingsError("query.http.tokens: two tenants have the same token")
    return found


def digest(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class QueryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the query service."""

    concurrency: int = limits.RPC_CONCURRENCY
    """Requests worked on at a time."""
    waiting: int = limits.RPC_WAITING
    """Requests that wait for their turn; more are refused with `Overloaded`."""
    connections: int = limits.QUERY_CONNECTIONS
    """To the database (and as many to its replica), for questions to the tables."""
    tenants_max: int = limits.QUERY_TENANTS
    """Fleets for which answers are kept at a time."""
    tenant_bytes: int = limits.QUERY_TENANT_BYTES
    """Of answers kept for one fleet."""
    l2: bool = False
    """Share answers with other query services, in the broker's memory."""
    l3: bool = False
    """And on its disk: a service that starts has them."""
    http: QueryHttpConfig = QueryHttpConfig()

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if self.concurrency < 1 or self.waiting < 0:
            raise errors.SettingsError("query: concurrency is at least 1, waiting at least 0")
        if self.connections < 1 or self.tenants_max < 1:
            raise errors.SettingsError("query: connections and tenants_max are at least 1")
        self.cache.validate()
        self.http.validate()

    @property
    def cache(self) -> CacheConfig:
        """Of each fleet's answers; which facts evict them, the catalogue says."""
        return CacheConfig(
            l1_bytes=self.tenant_bytes,
            l2=self.l2,
            l3=self.l3,
            watermark_wait_s=limits.QUERY_WATERMARK_S,
            load_timeout_s=limits.QUERY_LOAD_S,
            loads_max=self.concurrency,  # whose turn it is at the database, the queue before it decides
        )
