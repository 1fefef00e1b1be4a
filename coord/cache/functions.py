"""``@cached("agent:{id}", tags=["agent:{id}"])``: a function whose answers are kept.

A hit costs a look-up by a tuple of the arguments, when they are all text and in order; anything else is bound to the
function's parameters first, which takes some microseconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import update_wrapper
from types import MethodType
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, Unpack

from coord import errors, limits
from coord.cache.keys import Arguments, Key, Template
from coord.cache.loading import Cache, Loaded, Policy
from coord.cache.memory import MISSING
from coord.core.eviction import Watermark

R = TypeVar("R")

Answering: TypeAlias = Callable[..., Awaitable[R | Loaded]]
"""A function whose answers can be kept."""


class CachedOptions(TypedDict, total=False):
    """What `cached` takes besides the key.  Times in seconds."""

    tags: Collection[str]
    """Templates as the key is: whatever evicts one of them evicts the answer.  Of facts these are ``{kind}:{id}``,
    ``kind:{kind}`` and ``key:{key}``, of samples ``series:{agent}.{series}``, and what the configuration maps them
    to.  Without tags an answer leaves by its time alone."""
    ttl_s: float
    """Default: the configuration's, 300."""
    negative_ttl_s: float
    """Of None; default: the configuration's, 5; 0: it is not kept."""
    timeout_s: float
    """What one load may take; default: the configuration's, 10."""
    stale_while_revalidate_s: float
    """Serve an expired answer for so long more, while one caller's worth of loading goes on behind it; default 0."""
    stale_if_error_s: float
    """Serve an expired answer for so long more when loading fails; default 0."""
    returns: type[Any] | tuple[type[Any], ...] | None
    """Anything else than this, or None, is `WrongType`."""
    ignore: Collection[str]
    """Parameters that do not change the answer; default: self, cls."""


class CachedFunction(Generic[R]):
    """What the decorator makes: called as the function is, with ``min_watermark=`` besides."""

    __slots__ = (
        "__dict__", "_arguments", "_cache", "_counts", "_direct", "_function", "_key", "_peek", "_policy", "_ready",
        "_start", "_tags",
    )  # fmt: skip

    def __init__(
        self,
        cache: Cache,
        function: Answering[R],
        arguments: Arguments,
        key: Template,
        tags: tuple[Template, ...],
        policy: Policy,
        ready: Callable[[], Awaitable[None]] | None,
    ) -> None:
        update_wrapper(self, function)
        self._cache = cache
        self._counts = cache.counts
        self._function = function
        self._arguments = arguments
        self._key = key
        self._tags = tags
        self._policy = policy
        self._ready = ready
        self._start = (key.text,)
        self._direct = arguments.all_in_order(key)
        self._peek = cache.l1.peek

    async def __call__(self, *args: Any, min_watermark: Watermark | None = None, **kwargs: Any) -> R:
        """The function's answer, from the cache or from calling it; raises what `Cache.read` raises."""
        if len(args) == self._direct and not kwargs and min_watermark is None:
            for value in args:
                if type(value) is not str:
                    break  # as it is it may be equal to what a key makes of another
            else:
                found = self._peek(self._start + args, MISSING)
                if found is not MISSING:
                    self._counts.left -= 1
                    if not self._counts.left:
                        self._counts.sample(self._start + args)
                    answer: R = found
                    return answer
        values = self._arguments.bind(args, kwargs)
        tags = tuple(dict.fromkeys([tag.fill(values) for tag in self._tags]))
        if self._ready is not None and tags:
            await self._ready()
        return await self._cache.read(  # type: ignore[no-any-return]  # what the function returned
            self._key.key(values), tags, lambda: self._function(*args, **kwargs), self._policy, min_watermark
        )

    def __get__(self, instance: object, _owner: type | None = None) -> Callable[..., Coroutine[Any, Any, R]]:
        """As a method: called with its instance first."""
        return self if instance is None else MethodType(self, instance)

    def key(self, *args: Any, **kwargs: Any) -> Key:
        """What the answer to such a call is kept under."""
        return self._key.key(self._arguments.bind(args, kwargs))

    def peek(self, *args: Any, default: Any = None, **kwargs: Any) -> R | Any:
        """The fresh answer to such a call if it is here, without awaiting and without loading; else `default`."""
        return self._peek(self.key(*args, **kwargs), default)

    def evict(self, *args: Any, **kwargs: Any) -> bool:
        """Drop the answer to such a call, and keep none that is under way; whether there was one."""
        return self._cache.forget(self.key(*args, **kwargs))


class Functions:
    """The functions of one cache: no two share a key."""

    def __init__(self, cache: Cache, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """`ready`: awaited before anything with tags is loaded; it has notices heard."""
        self._cache = cache
        self._ready = ready
        self._known: set[str] = set()

    def cached(self, key: str, **options: Unpack[CachedOptions]) -> Callable[[Answering[R]], CachedFunction[R]]:
        """See `coord.client.connect.Coord.cached`."""
        config = self._cache.config
        tags, ignore = options.get("tags", ()), options.get("ignore", ("self", "cls"))
        policy = Policy(
            ttl_s=options.get("ttl_s", config.ttl_s),
            negative_ttl_s=options.get("negative_ttl_s", config.negative_ttl_s),
            timeout_s=options.get("timeout_s", config.load_timeout_s),
            stale_while_revalidate_s=options.get("stale_while_revalidate_s", 0.0),
            stale_if_error_s=options.get("stale_if_error_s", 0.0),
            returns=options.get("returns"),
        )
        policy.validate()
        if isinstance(tags, str) or len(tags) > limits.CACHE_TAGS_MAX:
            raise errors.InvalidCacheKey("tags are a list, and not too many", tags_max=limits.CACHE_TAGS_MAX)

        def decorate(function: Answering[R]) -> CachedFunction[R]:
            if not inspect.iscoroutinefunction(function):
                raise errors.InvalidCacheKey("only an async function can be cached", function=repr(function))
            arguments = Arguments(function)
            template = Template.parse(key, arguments.signature)
            arguments.check_all_named(template, ignore)
            made = tuple(Template.parse(tag, arguments.signature) for tag in tags)
            self._claim(key)
            return CachedFunction(self._cache, function, arguments, template, made, policy, self._ready)

        return decorate

    def _claim(self, key: str) -> None:
        if key in self._known:
            raise errors.InvalidCacheKey("another function has this key", key=key)
        if len(self._known) >= limits.CACHE_FUNCTIONS_MAX:
            raise errors.InvalidCacheKey("too many functions are cached", functions_max=limits.CACHE_FUNCTIONS_MAX)
        self._known.add(key)
