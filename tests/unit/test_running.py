"""`coord.run`: its loop, its collector, what comes back."""

from __future__ import annotations

import asyncio
import gc

import pytest

import coord


async def _looked() -> tuple[str, int, int]:
    return type(asyncio.get_running_loop()).__module__, gc.get_threshold()[0], gc.get_freeze_count()


@pytest.fixture(autouse=True)
def pythons_own_collector(thawed: None) -> object:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_a_program_runs_on_uvloop_with_a_collector_that_looks_seldom_and_both_are_as_before_afterwards() -> None:
    loop, young, frozen = coord.run(_looked())
    assert loop.partition(".")[0] == "uvloop"
    assert young > 10_000
    assert frozen > 0
    assert gc.get_threshold() == (700, 10, 10)
    assert asyncio.run(_looked())[:2] == ("asyncio.unix_events", 700)


def test_what_a_program_raises_is_raised_and_the_collector_is_as_before() -> None:
    async def fail() -> None:
        raise coord.Overloaded("on purpose")

    with pytest.raises(coord.Overloaded, match="on purpose"):
        coord.run(fail())
    assert gc.get_threshold() == (700, 10, 10)


def test_what_was_frozen_before_stays_frozen() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        assert coord.run(_looked())[2] >= before - 50, "objects that died are gone"
        assert gc.get_freeze_count() >= before - 50
    finally:
        gc.unfreeze()


async def test_inside_of_a_loop_it_is_refused_and_nothing_is_left_behind() -> None:
    before = gc.get_threshold()
    with pytest.raises(RuntimeError, match="await it there"):
        coord.run(_looked())
    assert gc.get_threshold() == before


@pytest.mark.parametrize("young", [0, 50_000])
def test_whoever_has_the_collector_look_never_or_more_seldom_is_let_be(young: int) -> None:
    gc.set_threshold(young, 10, 10)
    assert coord.run(_looked())[1] == young
    assert gc.get_threshold()[0] == young
