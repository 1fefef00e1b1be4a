"""``@cached("agent:{id}", tags=["agent:{id}"])``: a function whose answers are kept.

A hit costs a look-up by a tuple of the arguments, when they are all text and in order; anything else is bound to the
function's parameters first, which takes some microseconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from functools import update_wrapper
from typing import Any, Final, Generic, Protocol, TypeAlias, TypedDict, TypeVar, Unpack

import msgspec

from coord import errors, limits
from coord.cache.entries import Entry, Shape
from coord.cache.keys import Arguments, Key, Template, arguments_of
from coord.cache.loading import Cache, Loaded, Policy, Warmed
from coord.cache.memory import MISSING
from coord.cache.moving import Step, Way
from coord.core.eviction import Watermark
from coord.wire import subjects

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

EVERY_KIND: Final = "*"
"""Of facts that are heard: all of the tenant."""

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
    shared: Any
    """The type of the answers, as msgspec decodes it (``list[Row]``; True: whatever MessagePack has), if other
    processes may have them by the tiers below L1; default: they stay in this process."""
    version: int
    """Raise it when such answers come to mean something else without being of another type; default 1."""
    shared_ttl_s: float
    """How long those tiers keep them, since they were loaded; default: `ttl_s` where it is said here, else what has
    tags as long as they keep anything (an hour, a day), and the rest as L1 does."""
    moved_by: Step
    """What a fact makes of an answer, ``step(answer, fact) -> answer``: then what is committed moves answers on and
    evicts only those for which not every fact is certain (`coord.core.moving`).  A new value from these two alone, the
    one that loading would bring; None, or whatever it raises, evicts.  The loader returns a `Loaded` with its marks."""
    hears: Collection[str]
    """Kinds of facts that move answers on; default: those that the tags name (``conversation:{id}``,
    ``kind:conversation``, what the configuration maps to them).  ``("*",)``: all.  A fact of another kind evicts."""
    ignore: Collection[str]
    """Parameters that do not change the answer; default: self, cls."""


class CachedFunction(Protocol[R_co]):
    """What the decorator makes: a coroutine function, called as the function is, with ``min_watermark=`` besides."""

    async def __call__(self, *args: Any, min_watermark: Watermark | None = None, **kwargs: Any) -> R_co:
        """The function's answer, from the cache or from calling it; raises what `Cache.read` raises."""

    def __get__(self, instance: object, _owner: type | None = None) -> Callable[..., Coroutine[Any, Any, R_co]]:
        """As a method: called with its instance first."""

    def key(self, *args: Any, **kwargs: Any) -> Key:
        """What the answer to such a call is kept under."""

    def peek(self, *args: Any, default: Any = None, **kwargs: Any) -> R_co | Any:
        """The fresh answer to such a call if it is here, without awaiting and without loading; else `default`."""

    def evict(self, *args: Any, **kwargs: Any) -> bool:
        """Drop the answer to such a call, and keep none that is under way; whether there was one."""


class _Answers(Generic[R]):
    """Of one function: how its calls are looked up and loaded."""

    __slots__ = (
        "arguments",
        "cache",
        "counts",
        "direct",
        "function",
        "peek_l1",
        "policy",
        "ready",
        "start",
        "tags",
        "template",
    )  # fmt: skip

    def __init__(
        self,
        cache: Cache,
        function: Answering[R],
        arguments: Arguments,
        template: Template,
        tags: tuple[Template, ...],
        policy: Policy,
        ready: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.cache = cache
        self.counts = cache.counts
        self.function = function
        self.arguments = arguments
        self.template = template
        self.tags = tags
        self.policy = policy
        self.ready = ready
        self.start = (template.text,)
        self.direct = arguments.all_in_order(template)
        self.peek_l1 = cache.l1.peek

    async def read(self, args: tuple[Any, ...], kwargs: dict[str, Any], min_watermark: Watermark | None) -> R:
        """The long way: whatever the arguments are."""
        values = self.arguments.bind(args, kwargs)
        tags = tuple(dict.fromkeys([tag.fill(values) for tag in self.tags]))
        if self.ready is not None and tags:
            await self.ready()
        return await self.cache.read(  # type: ignore[no-any-return]  # what the function returned
            self.template.key(values), tags, lambda: self.function(*args, **kwargs), self.policy, min_watermark
        )

    def key(self, *args: Any, **kwargs: Any) -> Key:
        return self.template.key(self.arguments.bind(args, kwargs))

    def peek(self, *args: Any, default: Any = None, **kwargs: Any) -> R | Any:
        if len(args) == self.direct and not kwargs:
            for value in args:
                if type(value) is not str:
                    break
            else:
                found = self.peek_l1(self.start + args, MISSING)
                if found is not MISSING:
                    return found
        return self.cache.peek(self.key(*args, **kwargs), default)

    def evict(self, *args: Any, **kwargs: Any) -> bool:
        return self.cache.forget(self.key(*args, **kwargs))

    async def warm(self, key: Key, way: str) -> Warmed | None:
        """See `Functions.warm`."""
        values = arguments_of(self.template, key)
        if values is None or not self.arguments.are_enough(values):
            return None
        tags = tuple(dict.fromkeys([tag.fill(values) for tag in self.tags]))
        if self.ready is not None and tags:
            await self.ready()
        return await self.cache.warm(self.template.key(values), tags, lambda: self.function(**values), self.policy, way)


def _called(answers: _Answers[R]) -> Callable[..., Coroutine[Any, Any, R]]:
    """The way in.  A coroutine function, not an object that is called: that alone would double what a hit costs."""
    peek, counts, read, start, direct = (
        answers.peek_l1, answers.counts, answers.read, answers.start, answers.direct,
    )  # fmt: skip

    async def call(*args: Any, min_watermark: Watermark | None = None, **kwargs: Any) -> R:
        if len(args) == direct and not kwargs and min_watermark is None:
            for value in args:
                if type(value) is not str:
                    break  # as it is it may be equal to what a key makes of another
            else:
                found = peek(start + args, MISSING)
                if found is not MISSING:
                    counts.left -= 1
                    if not counts.left:
                        counts.sample(start + args)
                    answer: R = found
                    return answer
        return await read(args, kwargs, min_watermark)

    return call


def _called_with_one(answers: _Answers[R]) -> Callable[..., Coroutine[Any, Any, R]]:
    """The same where one text is all there is to the key: without tuples taken apart and put together."""
    peek, counts, read, (text,) = answers.peek_l1, answers.counts, answers.read, answers.start

    async def call(value: Any = MISSING, /, *more: Any, min_watermark: Watermark | None = None, **kwargs: Any) -> R:
        if type(value) is str and min_watermark is None and not more and not kwargs:
            found = peek((text, value), MISSING)
            if found is not MISSING:
                counts.left -= 1
                if not counts.left:
                    counts.sample((text, value))
                answer: R = found
                return answer
        return await read(() if value is MISSING else (value, *more), kwargs, min_watermark)

    return call


def _kinds(tags: Collection[str], rules: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Kinds of facts that touch one of these tags, as far as their texts say."""
    found: set[str] = set()
    for tag in tags:
        kind, _, id_ = tag.partition(":")
        if kind == "kind":
            kind = id_
        if "{" not in kind and kind not in {"key", "series"} and ":" in tag:
            found.add(kind)
        for pattern, made in rules.items():
            if any(one.partition(":")[0] == tag.partition(":")[0] for one in made):
                found.add(pattern.partition(".")[0])
    return found


class Functions:
    """The functions of one cache: no two share a key."""

    def __init__(self, cache: Cache, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """`ready`: awaited before anything with tags is loaded; it has notices heard."""
        self._cache = cache
        self._ready = ready
        self._known: dict[str, _Answers[Any] | None] = {}
        self.hears: set[str] = set()
        """Kinds of facts that move answers on; ``*``: all."""

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
            shared_ttl_s=options.get("shared_ttl_s", options.get("ttl_s")),
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
            shape = None
            if options.get("shared") is not None:
                whose = f"{function.__module__}.{function.__qualname__}"
                shape = Shape(options["shared"], options.get("version", 1), whose)
            way, kinds = self._moved(options, tags)
            shaped = msgspec.structs.replace(policy, shape=shape, way=way)
            self._claim(key)
            if way is not None:
                self.hears |= kinds
                self._cache.moving.begin()
            answers = _Answers(self._cache, function, arguments, template, made, shaped, self._ready)
            self._known[key] = answers
            called: Any = (_called_with_one if answers.direct == 1 else _called)(answers)
            update_wrapper(called, function)
            called.key, called.peek, called.evict = answers.key, answers.peek, answers.evict
            cached: CachedFunction[R] = called
            return cached

        return decorate

    def _moved(self, options: CachedOptions, tags: Collection[str]) -> tuple[Way | None, set[str]]:
        """How facts move a function's answers on, and of which kinds they are."""
        step: Any = options.get("moved_by")
        if step is None:
            return None, set()
        if not callable(step) or inspect.iscoroutinefunction(step):
            raise errors.InvalidCacheKey("moved_by is a function, not an async one", moved_by=repr(step))
        hears = options.get("hears", ())
        kinds = _kinds(tags, self._cache.config.tags) if isinstance(hears, str) or not hears else set(hears)
        if not tags or not kinds or isinstance(hears, str):
            raise errors.InvalidCacheKey("moved_by takes tags, and kinds of facts: hears=", tags=", ".join(tags))
        for kind in kinds - {EVERY_KIND}:
            subjects.check_token(kind, "kind")
        if len(self.hears | kinds) > limits.CACHE_MOVE_KINDS_MAX:
            raise errors.InvalidCacheKey(
                "too many kinds of facts: hears=('*',) is all", kinds_max=limits.CACHE_MOVE_KINDS_MAX
            )
        return Way(step, options.get("returns")), kinds

    async def warm(self, key: Key, way: str) -> Warmed | None:
        """Have the answer under a key before anybody asks; None: nothing was done (`Cache.warm`).

        Also for a key of a function that is not here, or takes what its key does not say.
        """
        answers = self._known.get(str(key[0]))
        return None if answers is None else await answers.warm(key, way)

    async def below(self, key: Key) -> list[tuple[str, int, Entry]]:
        """Where else the answer under a key lies (`Tiers.look`)."""
        answers, tiers = self._known.get(str(key[0])), self._cache.tiers
        if answers is None or tiers is None or answers.policy.shape is None:
            return []
        values = arguments_of(answers.template, key)
        tags = () if values is None else tuple(dict.fromkeys([tag.fill(values) for tag in answers.tags]))
        return await tiers.look(tiers.wanted(key, tags, answers.policy.shape, answers.policy.timeout_s))

    @property
    def need_notices(self) -> bool:
        """Whether any of them is evicted by notices, and so kept only where they arrive."""
        return any(answers is not None and answers.tags for answers in self._known.values())

    def ttl_s(self, key: Key) -> float:
        """How long the answer under a key is kept; 0: it is of no function that is here."""
        answers = self._known.get(str(key[0]))
        return 0.0 if answers is None else answers.policy.ttl_s

    def _claim(self, key: str) -> None:
        if key in self._known:
            raise errors.InvalidCacheKey("another function has this key", key=key)
        if len(self._known) >= limits.CACHE_FUNCTIONS_MAX:
            raise errors.InvalidCacheKey("too many functions are cached", functions_max=limits.CACHE_FUNCTIONS_MAX)
        self._known[key] = None
