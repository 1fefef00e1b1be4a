"""A recording of more agents than may be open: who closes one never takes another's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coord import limits
from coord.ops.replay.speakers import Speakers


class Publisher:
    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.closed = False

    async def close(self, *, report: bool) -> None:
        assert not report
        self.closed = True
        await asyncio.sleep(0)  # others come and go meanwhile


class FakeSpeakers(Speakers):
    def __init__(self) -> None:
        super().__init__(None, "t")  # type: ignore[arg-type]
        self.made: list[Publisher] = []

    async def connect(self, agent: str) -> Any:
        await asyncio.sleep(0)
        self.made.append(Publisher(agent))
        return self.made[-1]

    @property
    def still_open(self) -> int:
        return sum(not publisher.closed for publisher in self.made)


async def test_speakers_beyond_the_bound_are_closed_and_none_while_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLAY_SPEAKERS", 3)
    speakers = FakeSpeakers()

    async def speak(number: int) -> None:
        for turn in range(20):
            async with speakers.speaker(f"a{(number * 7 + turn) % 10}") as coord:
                for _ in range((number + turn) % 4):
                    assert not coord.closed  # type: ignore[attr-defined]
                    await asyncio.sleep(0)

    async with asyncio.timeout(100):
        await asyncio.gather(*(speak(number) for number in range(12)))
    assert speakers.still_open == 3
    await speakers.close()
    assert speakers.still_open == 0


async def test_who_comes_back_while_others_are_closed_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLAY_SPEAKERS", 3)
    speakers = FakeSpeakers()
    for name in ("a0", "a1", "a2"):
        async with speakers.speaker(name):
            pass
    late = [speakers.speaker(name) for name in ("a3", "a4", "a5")]
    for speaker in late:
        await speaker.__aenter__()
    # Three are silent and three too many: the first to end closes them, and the next one meanwhile too.
    ending = [asyncio.create_task(speaker.__aexit__()) for speaker in late[:2]]
    await asyncio.sleep(0)
    async with speakers.speaker("a2") as coord:
        await asyncio.gather(*ending)
        assert not coord.closed  # type: ignore[attr-defined]
