"""What is said about locks: the data of the facts of kind `lock`, in docs/protocol.md §16.6.

A **lock** is the entity (tenant, key, ``lock``, name); the key is its name unless it belongs to a
piece of work.  Nobody grants it: who holds it is a fold of who asked, in log order
(`coord.core.locks`).  Elections and semaphores are locks.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.errors import InvalidPayload
from coord.wire.numbers import Count

TOPIC: Final = "lock"
"""Of pushes: ``{"what": "granted", "key", "id", "token", "epoch", "instance"}``, ``{"what": "revoked", …, "reason"}``
and ``{"what": "refused", …, "code", "reason"}``."""

Why: TypeAlias = Literal["gone", "expired"]


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a request that the decider states again."""

    agent: str
    epoch: Count
    since: float
    granted_at: float | None = None
    renewed_at: float | None = None


class Requested(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``lock.requested.{token}``: the author wants it, or has it and renews a lease that ends."""

    instance: str | None = None
    """The request, and what it is granted, end with this instance.  None (a plain client): with `ttl_s`."""
    permits: int = 1
    """How many hold it at a time: 1 is a lock.  All requests say the same."""
    ttl_s: float | None = None
    """Held for so long unless renewed; default: for as long as the instance lives, `limits.LOCK_TTL_S` without one."""
    restated: Count = 0
    held: Held | None = None
    """With `restated`; believed of a decider."""


class Released(msgspec.Struct, frozen=True, omit_defaults=True):
    """``lock.released.{token}``: the author gives it back, or waits no more."""


class Revoked(msgspec.Struct, frozen=True, omit_defaults=True):
    """``lock.revoked.{token}``: the decider takes it from somebody who is gone, or whose lease ended."""

    reason: Why = "gone"
    epoch: Count = 0


def check(said: Requested) -> Requested:
    """Itself, or `InvalidPayload` naming what is out of range."""
    if not 1 <= said.permits <= limits.LOCK_PERMITS_MAX:
        raise InvalidPayload(f"permits are 1 to {limits.LOCK_PERMITS_MAX}", permits=said.permits)
    if said.ttl_s is not None and not limits.LOCK_TTL_MIN_S <= said.ttl_s <= limits.LOCK_TTL_MAX_S:
        raise InvalidPayload(f"ttl_s is {limits.LOCK_TTL_MIN_S:g} to {limits.LOCK_TTL_MAX_S:g}", ttl_s=said.ttl_s)
    return said
