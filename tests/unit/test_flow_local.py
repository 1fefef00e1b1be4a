"""When a line of local steps goes on, and what each execution sees of the others."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from coord import limits
from coord.client.yielding import Gate, within
from coord.core.flow_local import Line, Moment, begins
from coord.wire.work import LocalOutcome, LocalStep, Reference

STEP = LocalStep(step="b", task="do")
NOW = Moment(1, 0.0)


@pytest.mark.parametrize(
    ("at", "goes_on"),
    [
        ({}, True),
        ({"claim": 2}, False),
        ({"able": False}, False),
        ({"leaving": True}, False),
        ({"slot": False}, False),
        ({"yields": False}, False),
        ({"after_s": limits.LOCAL_S - 0.01}, True),
        ({"after_s": limits.LOCAL_S}, False),
        ({"after_s": limits.LOCAL_CROWDED_S - 0.01, "crowded": True}, True),
        ({"after_s": limits.LOCAL_CROWDED_S, "crowded": True}, False),
    ],
)
def test_what_stops_a_line(at: dict[str, Any], goes_on: bool) -> None:
    assert begins(Line("a", b"1"), STEP, NOW._replace(**at)) == (b"1" if goes_on else None)


def test_a_line_is_over_after_an_error_a_reference_and_enough_bytes() -> None:
    def after(outcome: LocalOutcome, output: bytes = b"2") -> bytes | None:
        line = Line("a", b"x" * limits.LOCAL_OUTPUT_BYTES_MAX)
        line.ended(outcome, output)
        return begins(line, STEP, NOW)

    done = LocalOutcome(step="x")
    assert after(done) == b"2", "the task's own does not count"
    assert after(LocalOutcome(step="x", error="Boom")) is None
    assert after(LocalOutcome(step="x", ref=Reference(name="n", size=1, digest="d"))) is None
    assert after(done, b"x" * (limits.LOCAL_OUTPUT_BYTES_MAX - 1)) is not None
    assert after(done, b"x" * limits.LOCAL_OUTPUT_BYTES_MAX) is None
    assert after(done, b'{"$ref":{"name":"n","size":1,"digest":"d"}}') is None


async def test_within_another_context_awaits_results_errors_and_cancellation_are_the_same() -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def work(fails: bool = False) -> int:
        variable.set(variable.get() + 1)
        await asyncio.sleep(0)
        seen = await asyncio.ensure_future(asyncio.sleep(0, variable.get()))
        if fails:
            raise KeyError
        return seen

    plain = copy_context()
    assert await within(plain.copy(), work()) == 1
    assert await within(plain.copy(), work()) == 1
    with pytest.raises(KeyError):
        await within(plain, work(fails=True))
    assert (variable.get(), plain[variable]) == (0, 1)

    cleaned = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await within(plain, hangs())
    assert cleaned.is_set()


async def test_a_gate_opens_when_all_have_opened_it() -> None:
    gate = Gate()
    gate.close("one")
    gate.close("other")
    gate.open("one")
    assert gate.closed
    gate.open("other")
    assert not gate.closed
