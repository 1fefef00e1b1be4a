"""Cached functions: keys that cannot be confused, one load for all, deadlines, stale values where asked for."""

from __future__ import annotations

import asyncio
import enum
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.cache.config import CacheConfig
from coord.cache.functions import Functions
from coord.cache.loading import Cache, Loaded
from coord.core.eviction import Evictions, TagRules, Watermark, depends_on
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice


class Colour(enum.Enum):
    RED = 1


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def cache(clock: Clock) -> AsyncIterator[Cache]:
    made = Cache(CacheConfig(jitter=0.0), metrics=Metrics(CollectorRegistry()), monotonic=clock)
    yield made
    await made.close()


@pytest.fixture
def cached(cache: Cache) -> Callable[..., Any]:
    return Functions(cache).cached


def listen(cache: Cache) -> None:
    """As if the projector's notices arrived."""
    cache.connected()
    for stream in (subjects.EVENTS, subjects.TELEMETRY):
        for p in range(limits.PARTITIONS):
            cache.hear_beat(said(0, p=p, stream=stream, tags=[]))


def said(
    to: int, *, p: int = 0, stream: str = subjects.EVENTS, tags: list[str] | None, from_: int | None = None
) -> bytes:
    begins = max(0, to - 1) if from_ is None else from_
    return notices.encode(Notice(stream=stream, epoch=1, partition=p, session="s", from_=begins, to=to, tags=tags))


# --- keys --------------------------------------------------------------------------------

ARGUMENT = st.one_of(
    st.text(max_size=8), st.integers(-(2**255), 2**255), st.booleans(), st.none(), st.floats(), st.uuids(), st.dates(),
    st.datetimes(), st.just(Colour.RED),
)  # fmt: skip


@given(st.tuples(ARGUMENT, ARGUMENT), st.tuples(ARGUMENT, ARGUMENT))
def test_different_arguments_have_different_keys(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    async def f(x: object, y: object) -> None: ...

    function = Functions(Cache(metrics=Metrics(CollectorRegistry()))).cached("f:{x}:{y}")(f)
    same = all(type(a) is type(b) and (a == b or str(a) == str(b)) for a, b in zip(one, other, strict=True))
    assert (function.key(*one) == function.key(*other)) == same


async def test_a_template_is_what_the_function_takes(cached) -> None:
    async def f(id: str, days: int = 7) -> None: ...  # noqa: A002

    async def many(*ids: str) -> None: ...

    for key in (
        "f:{id}",
        "f:{id}:{dayz}",
        "f:{id:>3}:{days}",
        "f:{id!r}:{days}",
        "f:{id.x}:{days}",
        "f:{",
        "f:{}:{id}:{days}",
    ):
        with pytest.raises(errors.InvalidCacheKey):
            cached(key)(f)
    with pytest.raises(errors.InvalidCacheKey):
        cached("g")(many)
    with pytest.raises(errors.InvalidCacheKey):
        cached("g", tags="note:x")(f)
    with pytest.raises(errors.InvalidCacheKey):
        cached("g:{id}:{days}")(lambda id, days: None)  # noqa: A006
    with pytest.raises(errors.SettingsError):
        cached("f:{id}:{days}", ttl_s=0)(f)
    good = cached("f:{id}", ignore=["days"])(f)
    assert good.key("a") == good.key(id="a", days=9)
    with pytest.raises(errors.InvalidCacheKey):
        cached("f:{id}", ignore=["days"])(f)  # taken


@pytest.mark.parametrize("bad", [["a"], {"a": 1}, object(), "x" * 2_000, 1 << 300, "\ud800", b"x"])
async def test_arguments_that_are_no_keys_are_refused(cached, bad: object) -> None:
    @cached("f:{x}", tags=["t:{x}"])
    async def f(x: object) -> int:
        raise AssertionError(x)

    with pytest.raises(errors.InvalidCacheKey):
        await f(bad)


@pytest.mark.parametrize("text", ["x" * 400, "\N{GRINNING FACE}" * 100])
async def test_parts_that_are_too_long_together_are_refused_before_anything_is_loaded(cached, text: str) -> None:
    @cached("f:{x}:{y}:{z}")
    async def f(x: str, y: str, z: str) -> str:
        return x + y + z

    assert await f(text, text, "z") == f.peek(text, text, "z") == text + text + "z"
    with pytest.raises(errors.InvalidCacheKey):
        await f(text, text, text)


async def test_calls_are_one_however_they_are_written(cached) -> None:
    calls = []

    @cached("f:{x}:{n}")
    async def f(x: str, n: int = 1) -> str:
        calls.append((x, n))
        return f"{x}{n}"

    assert [await f("a"), await f("a", 1), await f(x="a"), await f(n=1, x="a")] == ["a1"] * 4
    assert await f("a", True) == "aTrue"
    assert calls == [("a", 1), ("a", True)]
    assert f.peek("a") == "a1"
    assert f.evict("a")
    assert f.peek("a") is None
    assert f.__name__ == "f"


async def test_a_function_of_one_text_is_called_in_every_way_there_is(cached) -> None:
    calls = []

    @cached("one:{value}")
    async def one(value: str = "d") -> str:
        calls.append(value)
        return value

    assert inspect.iscoroutinefunction(one)
    for _ in range(2):
        assert [await one("a"), await one(value="a"), await one(), await one("d")] == ["a", "a", "d", "d"]
        assert (one.peek("a"), one.peek(value="a"), one.peek()) == ("a", "a", "d")
    assert calls == ["a", "d"]
    for args, kwargs in ((("a", "b"), {}), (("a",), {"value": "a"}), (("a",), {"other": 1})):
        with pytest.raises(TypeError):
            await one(*args, **kwargs)
    with pytest.raises(errors.InvalidCacheKey):
        one.peek("x" * 2_000)


async def test_what_is_equal_to_a_part_of_a_key_is_not_that(cached) -> None:
    class Shade(enum.StrEnum):
        RED = "red"

    @cached("f:{x}")
    async def f(x: object) -> str:
        return type(x).__name__

    assert [await f(5), await f("red")] == ["int", "str"]
    with pytest.raises(errors.InvalidCacheKey):
        await f(("int", "5"))
    assert await f(Shade.RED) == "Shade"
    assert await f("red") == "str"


async def test_methods_and_other_keys(cached) -> None:
    class Reader:
        @cached("r:{day}:{who}")
        async def read(self, day: date, who: uuid.UUID) -> str:
            return f"{day}{who}"

    who = uuid.UUID(int=1)
    assert await Reader().read(date(2026, 1, 1), who) == f"2026-01-01{who}"
    assert Reader.read.peek(Reader(), date(2026, 1, 1), who) == f"2026-01-01{who}"


# --- one load for all --------------------------------------------------------------------


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def gathered(function: Callable[..., Awaitable[Any]], times: int = 50) -> list[Any]:
    return await asyncio.gather(*[function("a") for _ in range(times)], return_exceptions=True)


async def test_a_value_an_exception_and_none_are_each_loaded_once_for_all(cached, cache: Cache) -> None:
    loads = 0

    def loader(outcome: Any) -> Callable[[str], Awaitable[Any]]:
        async def load(id: str) -> Any:  # noqa: A002
            nonlocal loads
            loads += 1
            await asyncio.sleep(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return load

    broken = ConnectionError("away")
    for name, outcome in (("value", 1), ("none", None), ("error", broken)):
        before = loads
        assert await gathered(cached(f"{name}:{{id}}")(loader(outcome))) == [outcome] * 50
        assert loads == before + 1, name
    assert cache.stats().joined == 3 * 49


async def test_none_has_a_time_of_its_own_and_errors_have_none(cached, cache: Cache, clock: Clock) -> None:
    answers: list[Any] = [None, 2, ValueError("x"), 3]

    @cached("f:{id}", ttl_s=100, negative_ttl_s=10)
    async def f(id: str) -> Any:  # noqa: A002
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert [await f("a"), await f("a")] == [None, None]
    assert f.peek("a", default="nothing") is None
    clock.now += 11
    cache.l1.sweep()
    assert [await f("a"), await f("a")] == [2, 2]
    clock.now += 101
    cache.l1.sweep()
    with pytest.raises(ValueError, match="x"):
        await f("a")
    assert await f("a") == 3


async def test_who_leaves_takes_nobody_along(cached) -> None:
    goes_on = asyncio.Event()

    @cached("f:{id}")
    async def f(id: str) -> int:  # noqa: A002
        await goes_on.wait()
        return 1

    first, second = asyncio.create_task(f("a")), asyncio.create_task(f("a"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    assert await second == 1
    assert first.cancelled()


async def test_a_loader_that_hangs_or_will_not_be_cancelled_has_a_deadline(cached) -> None:
    goes_on = asyncio.Event()

    @cached("f:{id}", timeout_s=0.05)
    async def f(id: str) -> int:  # noqa: A002
        while not goes_on.is_set():
            try:
                await goes_on.wait()
            except asyncio.CancelledError:
                if id == "soft":
                    raise
        return 1

    for id_ in ("soft", "hard"):
        with pytest.raises(errors.LoadTimeout):
            await f(id_)
    goes_on.set()
    assert await f("hard") == 1


async def test_the_wrong_type_is_told_and_not_kept(cached) -> None:
    answers: list[Any] = ["text", 1]

    @cached("f:{id}", returns=int)
    async def f(id: str) -> Any:  # noqa: A002
        return answers.pop(0)

    with pytest.raises(errors.WrongType):
        await f("a")
    assert await f("a") == 1


async def test_a_value_that_is_too_large_is_handed_over_and_not_kept(cached, cache: Cache) -> None:
    @cached("f:{id}")
    async def f(id: str) -> bytes:  # noqa: A002
        return b"x" * cache.l1.bytes_max

    assert len(await f("a")) == cache.l1.bytes_max
    assert cache.l1.bytes == 0
    assert cache.stats().dropped["too_large"] == 1


async def test_too_many_loads_make_wait_and_then_refuse(monkeypatch) -> None:
    monkeypatch.setattr(limits, "CACHE_LOADS_WAIT_S", 0.05)
    cache = Cache(CacheConfig(loads_max=2), metrics=Metrics(CollectorRegistry()))
    goes_on = asyncio.Event()

    @Functions(cache).cached("f:{id}")
    async def f(id: str) -> str:  # noqa: A002
        await goes_on.wait()
        return id

    two = [asyncio.create_task(f(id_)) for id_ in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(errors.Overloaded):
        await f("c")
    goes_on.set()
    assert await asyncio.gather(*two) == ["a", "b"]
    assert await f("c") == "c"
    await cache.close()


async def test_closing_ends_what_is_under_way(cache: Cache, cached) -> None:
    @cached("f:{id}")
    async def f(id: str) -> None:  # noqa: A002
        await asyncio.Event().wait()

    waiting = asyncio.create_task(f("a"))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(errors.CacheClosed):
        await waiting
    with pytest.raises(errors.CacheClosed):
        await f("a")


# --- stale, where it is asked for --------------------------------------------------------


async def test_stale_while_it_is_loaded_anew(cached, cache: Cache, clock: Clock) -> None:
    answers = iter(range(1, 10))

    @cached("f:{id}", ttl_s=10, stale_while_revalidate_s=5)
    async def f(id: str) -> int:  # noqa: A002
        await asyncio.sleep(0)
        return next(answers)

    assert await f("a") == 1
    clock.now += 12
    cache.l1.sweep()
    assert await gathered(f, 10) == [1] * 10
    await turns()
    assert await f("a") == 2, "loaded once behind their backs"
    clock.now += 16
    cache.l1.sweep()
    assert await f("a") == 3, "too old: waited for"


async def test_stale_if_loading_fails(cached, cache: Cache, clock: Clock) -> None:
    works = True

    @cached("f:{id}", tags=["t:{id}"], ttl_s=10, stale_if_error_s=50)
    async def f(id: str) -> int:  # noqa: A002
        if not works:
            raise ConnectionError
        return 1

    listen(cache)
    assert await f("a") == 1
    works = False
    clock.now += 20
    cache.l1.sweep()
    assert await f("a") == 1
    cache.hear(said(1, tags=["t:a"]))
    with pytest.raises(ConnectionError):
        await f("a")  # evicted: stale is one thing, wrong another
    works = True
    assert await f("a") == 1
    works = False
    clock.now += 70
    cache.l1.sweep()
    with pytest.raises(ConnectionError):
        await f("a")


# --- eviction ----------------------------------------------------------------------------


async def test_a_load_that_an_eviction_overtakes_is_handed_over_and_not_shared_any_more(cached, cache: Cache) -> None:
    ends: list[asyncio.Future[int]] = []

    @cached("f:{id}", tags=["note:{id}"])
    async def f(id: str) -> int:  # noqa: A002
        ends.append(asyncio.get_running_loop().create_future())
        return await ends[-1]

    listen(cache)
    early = asyncio.create_task(f("a"))
    await turns()
    cache.hear(said(1, tags=["note:a"]))
    late = asyncio.create_task(f("a"))
    await turns()
    assert len(ends) == 2
    ends[1].set_result(2)
    assert await late == 2
    ends[0].set_result(1)
    assert await early == 1
    assert f.peek("a") == 2


async def test_a_partitions_gap_drops_what_may_depend_on_it_and_no_more(cached, cache: Cache) -> None:
    key = next(k for k in map(str, range(100)) if subjects.partition(k) == 3)

    @cached("k:{key}", tags=["key:{key}"])
    async def of_key(key: str) -> str:
        return key

    @cached("n:{id}", tags=["note:{id}"])
    async def of_note(id: str) -> str:  # noqa: A002
        return id

    @cached("s:{agent}", tags=["series:{agent}.cpu"])
    async def of_series(agent: str) -> str:
        return agent

    async def all_of_them() -> None:
        await of_key(key)
        await of_note("a")
        await of_series("a")

    listen(cache)
    await all_of_them()
    cache.hear(said(7, p=4, tags=["x:y"]))
    cache.hear(said(9, p=4, tags=["x:y"], from_=8))  # 7 to 8 was lost
    assert (of_key.peek(key), of_note.peek("a"), of_series.peek("a")) == (key, None, "a")
    await all_of_them()
    cache.hear(said(7, p=3, tags=None))
    assert (of_key.peek(key), of_note.peek("a"), of_series.peek("a")) == (None, None, "a")
    await all_of_them()
    cache.hear(said(1, p=subjects.partition("a"), stream=subjects.TELEMETRY, tags=None))
    assert (of_key.peek(key), of_note.peek("a"), of_series.peek("a")) == (key, "a", None)
    assert depends_on("key:" + key, (subjects.EVENTS, 3))


async def test_the_configurations_map_evicts_too(clock: Clock) -> None:
    cache = Cache(
        CacheConfig(tags={"task.*": ("board",), "agent.*": ("page:{id}",), "*.x1": ("{kind}-x",)}),
        metrics=Metrics(CollectorRegistry()), monotonic=clock,
    )  # fmt: skip
    functions = Functions(cache)

    @functions.cached("board", tags=["board"])
    async def board() -> int:
        return 1

    @functions.cached("page:{id}", tags=["page:{id}"])
    async def page(id: str) -> str:  # noqa: A002
        return id

    listen(cache)
    await board()
    await page("a1")
    await page("a2")
    cache.hear(said(1, tags=["agent:a1", "key:a1", "kind:agent"]))
    assert (board.peek(), page.peek("a1"), page.peek("a2")) == (1, None, "a2")
    cache.hear(said(2, tags=["task:t", "kind:task"]))
    assert board.peek() is None
    assert "deploy-x" in TagRules({"*.x1": ("{kind}-x",)}).touched(["deploy:x1"])
    for pattern in ("task", "task.*.x", "Task.*", ">"):
        with pytest.raises(errors.SettingsError):
            CacheConfig(tags={pattern: ("x",)}).validate()


async def test_a_replica_that_lags_is_read_again_or_told_of(cached, cache: Cache) -> None:
    source = (subjects.EVENTS, 0)
    seen = iter([(1, 4), (1, 6)])

    @cached("f:{id}", tags=["note:{id}"])
    async def f(id: str) -> Loaded:  # noqa: A002
        mark = next(seen)
        return Loaded(mark[1], {source: mark})

    listen(cache)
    cache.hear(said(5, tags=["note:a"]))
    assert await f("a") == 6
    assert f.peek("a") == 6
    assert cache.stats().refused["behind"] == 1


async def test_a_replica_that_lags_is_read_again_for_tags_that_only_the_load_tells(cached, cache: Cache) -> None:
    source = (subjects.EVENTS, 0)
    seen = iter([(1, 4), (1, 6)])
    newest = 5

    @cached("f:{id}")
    async def f(id: str) -> Loaded:  # noqa: A002
        mark = next(seen)
        return Loaded(mark[1], {source: mark}, ("note:b",))

    @cached("g:{id}")
    async def g(id: str) -> Loaded:  # noqa: A002
        nonlocal newest
        newest += 1
        cache.hear(said(newest, tags=["note:c"]))  # evicted during each load
        return Loaded(newest, {source: (1, newest - 1)}, ("note:c",))

    listen(cache)
    cache.hear(said(5, tags=["note:b"]))
    assert await f("a") == 6
    assert f.peek("a") == 6
    assert cache.stats().refused["behind"] == 1
    assert await g("a") == 7, "has what was committed before its second load began"
    assert g.peek("a") is None


async def test_a_watermark_waits_for_its_notice_and_not_for_ever(monkeypatch) -> None:
    cache = Cache(CacheConfig(watermark_wait_s=0.05, jitter=0.0), metrics=Metrics(CollectorRegistry()))
    p = subjects.partition("k")
    tables = 0

    @Functions(cache).cached("f:{id}", tags=["note:{id}"])
    async def f(id: str) -> int:  # noqa: A002
        return tables

    listen(cache)
    assert await f("a") == 0
    with pytest.raises(errors.TablesBehind):
        await f("a", min_watermark=Watermark("k", 1))
    monkeypatch.setattr(cache, "config", CacheConfig())
    waiting = asyncio.create_task(f("a", min_watermark=Watermark("k", 1)))
    await asyncio.sleep(0)
    tables = 1
    cache.hear(said(1, p=p, tags=["note:a"]))
    assert await waiting == 1
    assert await f("a", min_watermark=Watermark("k", 1)) == 1
    await cache.close()


async def test_notices_that_are_none_are_counted(cache: Cache) -> None:
    for body in (b"", b"{}", b"\xff", b"[" * 5_000, said(1, tags=[]).replace(b'"partition":0', b'"partition":99')):
        cache.hear(body)
        cache.hear_beat(body)
    cache.counts.publish(cache.l1)
    found = cache.counts._metrics.registry.get_sample_value(
        "coord_cache_notices_total", {"tier": "l1", "outcome": "unreadable"}
    )
    assert found == 10


def test_a_tag_that_two_partitions_touch_requires_nothing_of_others() -> None:
    evictions = Evictions()
    evictions.connected()
    places = {(subjects.EVENTS, p): (1, 10 + p) for p in (1, 2)}
    for p in (1, 2):
        evictions.beat(notices.decode(said(9 + p, p=p, tags=[])))
    for p in (1, 2):
        evictions.notice(notices.decode(said(10 + p, p=p, tags=["kind:note", f"note:{p}"])))
    before = evictions.required(["note:3"])
    assert evictions.required(["kind:note"]) == places
    assert evictions.required(["note:1"]) == before | {(subjects.EVENTS, 1): (1, 11)}
    evictions.notice(notices.decode(said(12, p=1, tags=["kind:note", "note:1"], from_=11)))
    assert evictions.required(["note:3"]) == before, "nothing was forgotten"
    assert evictions.is_evicted(["kind:note"], places)
    assert not evictions.is_evicted(["note:2"], places)
