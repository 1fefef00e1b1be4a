"""A pull that is never answered is noticed after `SILENCE_S`, whatever patience the caller has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coord import errors, limits
from coord.bus import pull
from coord.bus.pull import PinnedReader
from tests.support.reading import receive


class Silent:
    """A connection whose server says nothing."""

    is_connected = True

    def on_disconnected(self, _: Any) -> Any:
        return lambda: None


async def test_silence_is_noticed_before_the_caller_loses_patience(monkeypatch) -> None:
    monkeypatch.setattr(pull, "SILENCE_S", 0.05)
    conn: Any = Silent()
    reader = PinnedReader(conn, "EVENTS", "projector-3")
    monkeypatch.setattr(reader, "_refill", lambda: None)
    reader._heard_at = asyncio.get_running_loop().time()
    async with asyncio.timeout(50):
        with pytest.raises(errors.DeliveryGap, match="silent"):
            await receive(reader, 1, 60)


def arrive(reader: PinnedReader, seq: int) -> None:
    reader._accept(seq, 0, b"coord.ev.t.a.k.note.n.said", b"", b"", b"{}")


async def test_what_is_not_taken_yet_makes_nobody_look_for_silence_again_and_again() -> None:
    conn: Any = Silent()
    reader = PinnedReader(conn, "EVENTS", "projector-3")
    arrive(reader, 1)
    reader._heard_at = asyncio.get_running_loop().time() - 100  # nobody takes it
    reader.check_silence()
    assert reader.patience_s > pull.SILENCE_S


async def test_a_reader_tells_of_the_first_that_arrives_and_once_of_many() -> None:
    conn: Any = Silent()
    reader = PinnedReader(conn, "EVENTS", "projector-3")
    told: list[int] = []
    seq = 0
    reader.on_wake = lambda: told.append(seq)
    for seq in range(1, 100):
        arrive(reader, seq)
    assert told == [1, limits.GATHER_CROWD]
