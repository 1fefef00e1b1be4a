"""A pull that is never answered is noticed after `SILENCE_S`, whatever patience the caller has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coord import errors
from coord.bus import pull
from coord.bus.pull import PinnedReader


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
            await reader.receive(1, 60)
