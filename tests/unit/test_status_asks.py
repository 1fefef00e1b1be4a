"""The projector asks an agent once a second at most, however often it finds its status stale."""

from __future__ import annotations

from coord import errors, limits
from coord.projector.asks import StatusAsks


class Conn:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.down = False

    def publish(self, subject: str) -> None:
        if self.down:
            raise errors.NotConnected
        self.sent.append(subject)


def test_once_a_second_for_each() -> None:
    conn, now = Conn(), 0.0
    asks = StatusAsks(conn, lambda: now)  # type: ignore[arg-type]
    for step in range(10):
        now = step * 0.25
        asks([("acme", "a1"), ("acme", "b2")] if step % 2 else [("acme", "a1")])
    assert conn.sent.count("coord.ask.acme.a1.status") == 3  # at 0, 1 and 2 s
    assert conn.sent.count("coord.ask.acme.b2.status") == 3  # at 0.25, 1.25 and 2.25 s
    assert asks.sent == 6
    now += limits.STATUS_ASK_FIRST_S
    asks([])
    assert not asks._asked  # forgotten as soon as it does not matter
    conn.down = True
    asks([("acme", "a1")])
    assert asks.sent == 6
    conn.down = False
    asks([("acme", "a1")])
    assert asks.sent == 7
