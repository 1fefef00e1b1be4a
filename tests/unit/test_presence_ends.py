"""What the end of a whole process of agents costs the broker: little, and deciders are told in time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.core.presence import Change
from coord.runtime import clock
from coord.server import presence
from coord.server.presence import PresenceBoard
from coord.telemetry.metrics import Metrics
from tests.support.waiting import until


class System:
    """A connection to the system account."""

    is_connected = True

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self.kicked: list[str] = []
        self.asked = self.now = self.most = 0

    async def request(self, subject: str, body: bytes, timeout_s: float) -> Any:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if not self._answers:
                await asyncio.get_running_loop().create_future()
            await asyncio.sleep(0)
        finally:
            self.now -= 1
        number = body.removeprefix(b'{"cid":').removesuffix(b"}").decode()
        if subject.endswith("KICK"):
            self.kicked.append(number)
        return SimpleNamespace(
            data=b'{"data":{"connections":[{"id":%b,"name":"coord:t:a:i%b"}]}}' % (2 * (number.encode(),))
        )


def silent(system: System, monkeypatch: pytest.MonkeyPatch) -> tuple[PresenceBoard, list[str], list[str]]:
    """A board on which a process of as many agents as are ended at all has just fallen silent."""
    board = PresenceBoard(registry=Metrics(CollectorRegistry()))
    board._system = system  # type: ignore[assignment]
    told: list[str] = []
    logged: list[str] = []
    board.listen(lambda _tenant, _agent, instance, _at, _left: told.append(instance))
    monkeypatch.setattr(presence._log, "warning", lambda event, **_: logged.append(event))
    for n in range(limits.DISCONNECT_MASS):
        board.table.beat("t", "a", f"i{n}", b'{"every_s":1.0,"place":"S/%d"}' % n, clock.monotonic())
        row = board.table.get("t", "a", f"i{n}")
        assert row is not None
        row.state, row.place = "gone", f"S/{n}"
        board._changed(Change("t", "a", f"i{n}", "gone", "silent"))
    return board, told, logged


async def test_the_connections_of_a_process_that_hangs_are_ended_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_END_S", 30.0)
    system = System(answers=True)
    board, told, logged = silent(system, monkeypatch)
    await until(lambda: len(told) == limits.DISCONNECT_MASS)
    assert sorted(system.kicked) == sorted(str(n) for n in range(limits.DISCONNECT_MASS))
    assert system.most == presence._ENDED_AT_ONCE
    assert logged == []
    await board.close()


async def test_a_server_that_does_not_answer_is_asked_for_few_and_all_are_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = System(answers=False)
    board, told, logged = silent(system, monkeypatch)
    await until(lambda: len(told) == limits.DISCONNECT_MASS)
    assert system.asked == presence._ENDED_AT_ONCE
    assert logged == ["presence.not_ended"]
    assert board._end_from > clock.monotonic(), "nor soon again"
    await board.close()


def test_deciders_are_told_who_said_goodbye_and_who_did_not() -> None:
    board = PresenceBoard(registry=Metrics(CollectorRegistry()))
    told: list[tuple[str, bool]] = []
    board.listen(lambda _tenant, _agent, instance, _at, left: told.append((instance, left)))
    board._changed(Change("t", "a", "killed", "gone", "disconnected"))
    for body in (b'{"every_s":1.0}', b'{"bye":true}'):
        board._heard(b"coord.hb.t.a.polite", b"", b"", body)
    assert told == [("killed", False), ("polite", True)]


async def test_who_says_goodbye_is_not_gone_while_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of its connection is told on another connection, and may be read seconds earlier."""
    now = 1_000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    board = PresenceBoard(registry=Metrics(CollectorRegistry()))
    said: list[tuple[str, bytes]] = []
    board._conn = SimpleNamespace(publish=lambda subject, body: said.append((subject, body)))  # type: ignore[assignment]
    told: list[tuple[str, bool]] = []
    board.listen(lambda _tenant, _agent, instance, _at, left: told.append((instance, left)))
    for name in ("polite", "killed"):
        board._heard(b"coord.hb.t.a.%b" % name.encode(), b"", b"", b'{"every_s":1.0}')
        board._disconnected(
            b"", b"", b"", b'{"client":{"name":"coord:t:a:%b"},"reason":"Client Closed"}' % name.encode()
        )
    now += 1.0
    board._look_at_pending()
    assert told == [], "nothing was heard since"
    board._heard(b"coord.hb.t.a.polite", b"", b"", b'{"bye":true}')
    echoes = [body for subject, body in said if subject == board._token]
    board._echoed(b"", b"", b"", echoes[-1])
    board._look_at_pending()
    assert told == [("polite", True), ("killed", False)]
    await board.close()


async def test_deaths_are_heard_though_the_connection_is_lost_while_that_is_asked_for() -> None:
    class Losing:
        is_connected = True

        def on_disconnected(self, _: Any) -> Any:
            return lambda: None

        async def subscribe_bytes(self, *_: Any) -> Any:
            return None

        async def flush(self) -> None:
            raise errors.NotConnected

    board = PresenceBoard(registry=Metrics(CollectorRegistry()))
    with pytest.raises(errors.NotConnected):
        await board.hear_deaths(cast("Any", Losing()))
    assert board.hears_deaths


async def test_of_many_that_end_together_those_who_hold_tasks_are_told_of_first() -> None:
    board = PresenceBoard(registry=Metrics(CollectorRegistry()), settle_s=0.0)
    at, count = clock.monotonic() - 1, 32
    told: list[str] = []
    board.listen(lambda _tenant, _agent, instance, _at, _left: told.append(instance))
    for n in range(count):
        board.table.beat("t", "a", f"i{n}", b"{}", at)
        board.table.disconnected("t", "a", f"i{n}", f"S/{n}", at)
    board.holds = lambda ident: int(ident[2][1:]) % 4 == 1
    board._heard_to = clock.monotonic()
    board.table._present *= 8  # they are few of many
    board._look_at_pending()
    await board.close()
    first = [f"i{n}" for n in range(1, count, 4)]
    assert told == first + [f"i{n}" for n in range(count) if n % 4 != 1]
