"""When a saved fold of a rebuilt table is the live one's, though its bytes are not."""

from __future__ import annotations

import msgspec
import pytest

from coord.core.locks import Lock, Request
from coord.projector.rebuild import _say_the_same


def saved(begun_seq: int, agent: str = "a1") -> bytes:
    request = Request(token="tok", agent=agent, instance="i1", epoch=913, since=1.0, seq=913)
    lock = Lock(tenant="acme", key="l1", id="l1", requests={"tok": request}, begun_seq=begun_seq)
    return msgspec.msgpack.encode(lock)


@pytest.mark.parametrize(
    ("live", "rebuilt", "same"),
    [
        (saved(309), saved(913), True),  # retention dropped what it began with
        (saved(913), saved(309), False),  # nothing that the live one does not know
        (saved(0), saved(913), False),
        (saved(309), saved(913, "a2"), False),
    ],
)
def test_a_lock_may_be_older_than_what_is_left_of_the_history(live: bytes, rebuilt: bytes, same: bool) -> None:
    assert _say_the_same("lock", live, rebuilt) == same
