"""Errors of the caches."""

from __future__ import annotations

from coord.errors.spine import CoordError, Fault


class CacheError(CoordError):
    """A cache was used in a way it cannot serve."""

    code = "cache.error"
    fault = Fault.CALLER
    remedy = "See docs/howto/caches.md."


class InvalidCacheKey(CacheError):
    """A key or tag is unhashable, too long, or made of values that have no short name of their own."""

    code = "cache.key"
    remedy = "Make keys of str, int, bool, None, UUIDs, dates and enums; leave collections and objects out of them."


class CacheValueTooLarge(CacheError):
    """A value is larger than its tier takes."""

    code = "cache.too_large"
    remedy = "Keep less, or give the tier more bytes: one value may have a quarter of it."


class LoadTimeout(CacheError):
    """A loader did not return in time; it was cancelled."""

    code = "cache.load_timeout"
    retryable = True
    remedy = "Give it more time (`timeout_s`), or find out what it waits for."


class WrongType(CacheError):
    """A loader returned something else than it says."""

    code = "cache.wrong_type"
    remedy = "Mend the loader, or what `returns` says; nothing was kept."


class TablesBehind(CacheError):
    """The tables do not have yet what was asked for, or less than what is known to be committed."""

    code = "cache.behind"
    retryable = True
    fault = Fault.DATABASE
    remedy = "Ask again; look at the projector's lag (`coord status`) and at the replica's."


class CacheEntryDamaged(CacheError):
    """What a shared tier holds is not what was stored there."""

    code = "cache.damaged"
    fault = Fault.BROKER
    remedy = "It is dropped and loaded again; if it is counted often, look at the broker's disk."


class LoadFailedElsewhere(CacheError):
    """Another process loaded this, and its loader raised; `details` have the code of what it raised."""

    code = "cache.load_failed_elsewhere"
    retryable = True
    remedy = "Look at the other error's code; who asks again loads again."


class CacheClosed(CacheError):
    """The cache is closed."""

    code = "cache.closed"
