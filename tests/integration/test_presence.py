"""Presence on real servers, with agents in processes of their own: killed, hung, drained, quarantined."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

import coord
from coord import errors, limits
from coord.bus.connection import Connection, NatsConfig
from coord.core.presence_decider import PresenceDecider
from coord.ops.devstack.nats import NatsOptions, NatsServer
from coord.server import history, presence
from coord.wire import subjects
from coord.wire.presence import Heartbeat, Quotas
from tests.support.fleet import Fleet, Process, serving
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    server = NatsServer(tmp_path_factory.mktemp("presence"))
    await server.start()
    async with serving(server) as found:
        yield found
    await server.stop()


@pytest.fixture
def fleet(shared: Fleet) -> Fleet:
    """The module's services, with a tenant of this test's own."""
    shared.tenant = f"t{secrets.token_hex(4)}"
    return shared


def connect(fleet: Fleet, agent: str) -> Any:
    return coord.connect(fleet.server.url, tenant=fleet.tenant, agent=agent)


def start(fleet: Fleet) -> Any:
    """A worker in a process of its own."""
    return Process.start(fleet.server.url, "w1", tenant=fleet.tenant)


def known(fleet: Fleet, agent: str) -> Any:
    """An agent as the facts about it say; None while no decider has heard of it."""
    deciders = [d for d in fleet.deciders.deciders() if isinstance(d, PresenceDecider)]
    return next((found for d in deciders if (found := d.get(fleet.tenant, agent))), None)


def status_of(fleet: Fleet, agent: str, instance: str) -> str | None:
    """What the facts say of one of an agent's instances; None while no decider has heard of it."""
    found = known(fleet, agent)
    held = None if found is None else found.instances.get(instance)
    return None if held is None else held.status


async def events(c: Any, agent: str) -> list[tuple[str, str]]:
    """(event, author) of all that was stated about an agent."""
    facts = await history.entity(c.connection, c.tenant, agent, "agent", agent)
    return [(fact.event, fact.agent) for fact in facts]


async def test_a_killed_agent_is_noticed_at_once_and_its_task_moves(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet.board.table, "tick", lambda _: [])  # heartbeats that do not come tell nothing
    first, second = await asyncio.gather(start(fleet), start(fleet))
    try:
        async with connect(fleet, "boss") as c:
            handle = await c.submit("work", 600.0, id="t1")

            async def claimant() -> str | None:
                found: str | None = (await handle.status()).instance
                return found

            claimed = await until(claimant)
            victim, other = (first, second) if claimed == first.instance else (second, first)
            killed = victim.signal(signal.SIGKILL)
            noticed = await until(lambda: fleet.died_at(victim.instance))
            print(f"noticed {(noticed - killed) * 1e3:.0f} ms after SIGKILL")  # 65 to 80 where nothing else runs
            assert await handle.result(timeout_s=150) == "w1"
            assert (await handle.status()).instance == other.instance
            assert (await handle.status()).deaths == 1
            assert fleet.died_at(other.instance) is None
            await until(lambda: status_of(fleet, "w1", victim.instance) == "gone")
            gone = await c.agents(state="gone")
            assert [one.instance for one in gone] == [victim.instance]
    finally:
        await asyncio.gather(first.end(), second.end())


async def test_a_hung_agent_is_noticed_by_its_heartbeats(fleet: Fleet) -> None:
    worker = await start(fleet)
    try:
        async with connect(fleet, "boss") as c:
            handle = await c.submit("work", 60.0, id="t1")
            await until(lambda: any(row.beat.claims for row in fleet.board.table.rows(fleet.tenant, "work")))
            stopped = worker.signal(signal.SIGSTOP)
            noticed = await until(lambda: fleet.died_at(worker.instance), 200)
            print(f"noticed {noticed - stopped:.2f} s after SIGSTOP")
            assert noticed - stopped > limits.HEARTBEAT_S  # not by a lost connection

            async def released() -> Any:
                return (await handle.status()).deaths

            assert await until(released) == 1
            worker.signal(signal.SIGCONT)
            await until(lambda: fleet.board.table.state(fleet.tenant, "w1", worker.instance) == "alive")
            await until(lambda: status_of(fleet, "w1", worker.instance) == "alive")
            await handle.cancel()
    finally:
        await worker.end()


def _heard_again(fleet: Fleet, one: Any) -> bool:
    """Whether what was heard last came over the connection that stands now."""
    row = fleet.board.table.get(fleet.tenant, one.agent, one.instance)
    return row is not None and row.beat.connection == one.connection.epoch


async def test_the_connection_of_one_that_hangs_is_ended_and_nobody_elses(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pulls go with it, which would be given what its end sets free; where somebody is, one may lie about."""
    monkeypatch.setattr(presence, "_END_S", 60.0)  # asked once: a busy server takes longer than we would wait
    fleet.board._end_from = 0.0  # whatever it did not answer before
    config = NatsConfig(urls=(fleet.server.url,), reconnect_wait_s=0.05)
    async with contextlib.AsyncExitStack() as stack:
        innocent = await stack.enter_async_context(await Connection.open(config, name="innocent"))
        hung, liar = f"h{secrets.token_hex(4)}", f"l{secrets.token_hex(4)}"
        conns = {}
        for instance in (hung, liar):
            name = f"coord:{fleet.tenant}:w9:{instance}"
            conns[instance] = await stack.enter_async_context(await Connection.open(config, name=name))
        epochs = {conn: conn.epoch for conn in (innocent, *conns.values())}
        for instance, place in ((hung, conns[hung].place), (liar, innocent.place)):
            said = Heartbeat(every_s=0.1, place=place)
            conns[instance].publish(subjects.heartbeat(fleet.tenant, "w9", instance), msgspec.json.encode(said))
        await until(lambda: conns[hung].epoch > epochs[conns[hung]] and conns[hung].is_connected)
        await until(lambda: fleet.died_at(hung) is not None and fleet.died_at(liar) is not None)
        assert innocent.epoch == epochs[innocent]
        assert conns[liar].epoch == epochs[conns[liar]]


async def test_a_restarted_broker_and_a_lost_connection_release_nothing(fleet: Fleet, monkeypatch) -> None:
    monkeypatch.setattr(limits, "DISCONNECT_GRACE_S", 5.0)  # on a busy machine a client comes back late
    async with contextlib.AsyncExitStack() as stack:
        c, *others = [await stack.enter_async_context(connect(fleet, f"a{n}")) for n in range(21)]
        for one in (c, *others):
            await one.beating.register(capabilities={"x": 1})
        await until(lambda: len(list(fleet.board.table.rows(fleet.tenant, "x"))) == 21)
        for _ in range(2):
            await fleet.server.restart()
            await until(lambda: all(one.connection.is_connected for one in (c, *others)))
            await until(lambda: not fleet.board.table.is_blind)
            await until(lambda: all(_heard_again(fleet, one) for one in (c, *others)))
        epoch = c.connection.epoch
        c.connection.client._transport.close()  # a moment without network
        await until(lambda: c.connection.epoch > epoch)
        await until(lambda: _heard_again(fleet, c))
        await until(lambda: fleet.board.table.state(fleet.tenant, "a0", c.instance) == "alive")
        await until(lambda: fleet.board.table.pending == 0)
        assert not any(fleet.died_at(one.instance) for one in (c, *others))
        for one in others:
            await one.close()
        await until(lambda: all(fleet.died_at(one.instance) for one in others))  # goodbyes


async def test_without_a_system_account_heartbeats_alone_decide(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "plain", NatsOptions(system=False))
    await server.start()
    async with serving(server, system=False) as fleet:
        worker = await start(fleet)
        await until(lambda: fleet.board.table.state(fleet.tenant, "w1", worker.instance) == "alive")
        row = fleet.board.table.get(fleet.tenant, "w1", worker.instance)
        assert row is not None
        row.due_s = 0.2
        await worker.end()
        await until(lambda: fleet.died_at(worker.instance), 200)
    await server.stop()


async def test_agents_are_found_drained_and_rejoin(fleet: Fleet) -> None:
    async with connect(fleet, "a1") as one, connect(fleet, "a2") as two, connect(fleet, "boss") as c:
        await one.beating.register(capabilities={"ocr": 2}, labels={"region": "eu", "model": "m1"}, version="1.2.3")
        await two.beating.register(capabilities={"ocr": 1, "tts": 1}, labels={"region": "us", "cost": "0.5"})

        async def found(**asked: Any) -> list[str]:
            return [agent.agent for agent in await c.agents(**asked)]

        await until(lambda: _is(found(capability="ocr"), ["a1", "a2"]))
        assert await found(capability="tts") == ["a2"]
        ((model, version, cost),) = [(a.model, a.version, a.cost) for a in await c.agents(agent="a1")]
        assert (model, version, cost) == ("m1", "1.2.3", None)
        assert [a.cost for a in await c.agents(agent="a2")] == [0.5]
        assert await found(capability="ocr", labels={"region": "eu"}) == ["a1"]
        assert await found(capability="nothing") == []
        assert len(await c.agents(limit=1)) == 1
        with pytest.raises(errors.InvalidRequest):
            await c.agents(limit=limits.AGENTS_FOUND_MAX + 1)
        async with coord.connect(fleet.server.url, tenant="other", agent="boss") as stranger:
            assert await stranger.agents() == []

        await c.drain_agent("a1")
        await until(lambda: one.beating.draining)
        await until(lambda: _is(found(state="draining"), ["a1"]))

        async def one_is_left() -> bool:  # boards are said now and then
            board = (await c.capabilities()).get("ocr")
            return board is not None and board.agents == 1

        await until(one_is_left)
        await c.drain_agent("a1", rejoin=True)
        await until(lambda: _is(found(state="alive"), ["a1", "a2"]))
        with pytest.raises(errors.UnknownAgent):
            await c.drain_agent("nobody")
        said = [event for event, _ in await events(c, "a1")]
        assert said == ["registered", "draining", "registered"]


async def _is(asked: Awaitable[object], wanted: object) -> bool:
    return await asked == wanted


async def test_nats_own_discovery_shows_agents(fleet: Fleet) -> None:
    import nats

    async with connect(fleet, "a1") as c:
        await c.beating.register(capabilities={"ocr": 2}, labels={"region": "eu"}, version="1.2.3")
        nc = await nats.connect(fleet.server.url, connect_timeout=30)
        try:
            for subject in ("$SRV.INFO", "$SRV.INFO.a1", f"$SRV.INFO.a1.{c.instance}"):
                answer = (await nc.request(subject, timeout=60)).data
                assert b'"version":"1.2.3"' in answer
                assert b'"region":"eu"' in answer
            await nc.publish("$SRV.PING", b"", reply="coord.ev.acme.mallory.x.note.x.said")
            assert b"io.nats.micro.v1.ping_response" in (await nc.request("$SRV.PING.a1", timeout=60)).data
            assert b"io.nats.micro.v1.stats_response" in (await nc.request("$SRV.STATS.a1", timeout=60)).data
        finally:
            await nc.close()


async def test_work_that_nobody_can_do_is_starved_and_visible(fleet: Fleet) -> None:
    async with connect(fleet, "boss") as c:
        await c.submit("rare", None, id="t1")

        async def starved() -> bool:
            return bool((board := (await c.capabilities()).get("rare")) and board.starved and board.depth == 1)

        await until(starved)


async def test_who_uses_more_than_it_may_is_quarantined(fleet: Fleet, monkeypatch) -> None:
    monkeypatch.setattr(limits, "QUOTA_LOOKS", 1)
    monkeypatch.setattr(limits, "QUARANTINE_AGAIN_S", 0.1)
    async with connect(fleet, "greedy") as greedy, connect(fleet, "boss") as c:
        await greedy.beating.register(capabilities={"x": 1}, quotas=Quotas(facts_per_s=5))
        stop = asyncio.Event()

        async def state() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                await greedy.emit(coord.Fact(kind="note", id=f"n{n}", event="said"))
                await asyncio.sleep(0.02)

        stating = asyncio.create_task(state())
        try:
            await until(lambda: greedy.beating.quarantined)
        finally:
            stop.set()
            await stating
        await until(lambda: (agent := known(fleet, "greedy")) is not None and agent.quarantined)

        await until(lambda: _is(_names(c, state="quarantined"), ["greedy"]))

        greedy.beating.quarantined = False  # as if it had been cut off when it was told
        greedy.beating.beat()
        await until(lambda: greedy.beating.quarantined)


async def test_who_bounds_itself_is_judged_though_another_of_its_name_does_not(fleet: Fleet, monkeypatch) -> None:
    monkeypatch.setattr(limits, "QUOTA_LOOKS", 1)
    async with connect(fleet, "hoarder") as bound, connect(fleet, "hoarder") as free, connect(fleet, "boss") as c:
        await bound.beating.register(capabilities={"x": 1}, quotas=Quotas(inflight=1))
        await free.beating.register(capabilities={"x": 1})
        for handle in await c.submit_many("hoard", [None] * 2):
            said = {"instance": bound.instance}
            await bound.emit(
                coord.Fact(kind="task", id=handle.id, key=handle.key, event="claimed", detail=("1",), data=said)
            )
        await until(lambda: (agent := known(fleet, "hoarder")) is not None and agent.quarantined)
        await until(lambda: bound.beating.quarantined)


async def test_ten_thousand_registrations_of_one_name_do_no_harm(fleet: Fleet) -> None:
    async with connect(fleet, "flood") as flood, connect(fleet, "a1") as c:
        began = time.monotonic()
        await flood.emit_many(
            coord.Fact(kind="agent", id="flood", event="registered", data={"instance": f"x{n}"}) for n in range(10_000)
        )
        await flood.flush()
        print(f"10,000 registrations stored after {time.monotonic() - began:.1f} s")
        await c.beating.register(capabilities={"y": 1})
        await until(lambda: _is(_names(c, "y"), ["a1"]))
        await until(lambda: _instances(fleet, "flood") == limits.PRESENCE_PER_AGENT_MAX, 60)


def _instances(fleet: Fleet, agent: str) -> int:
    found = known(fleet, agent)
    return 0 if found is None else len(found.instances)


async def _names(c: Any, capability: str | None = None, state: str | None = None) -> list[str]:
    return [agent.agent for agent in await c.agents(capability=capability, state=state)]


async def test_what_fails_opens_its_circuit_and_submissions_fail_fast(fleet: Fleet) -> None:
    agent = coord.Agent("a1", capabilities={"bad": 8})

    @agent.task("bad", retries=0)
    async def bad() -> None:
        raise ValueError("always")

    async with connect(fleet, "a1") as worker, connect(fleet, "boss") as c:
        await agent.start(worker)
        await c.submit_many("bad", [None] * (limits.CAPABILITY_OUTCOMES_MIN + 5))

        async def opened() -> bool:
            board = (await c.capabilities()).get("bad")
            if board is not None and board.circuit == "open":
                return True
            with contextlib.suppress(errors.CircuitOpen):  # what failed while deciders had just begun is taken for old
                await c.submit_many("bad", [None] * 5)
            return False

        await until(opened, 60, every_s=0.2)

        async def refused() -> bool:
            try:
                await c.submit("bad", None)
            except errors.CircuitOpen as exc:
                return exc.retry_after_s > 0
            return False

        await until(refused, every_s=0.2)
        async with connect(fleet, "newcomer") as late:
            with pytest.raises(errors.CircuitOpen):  # it asks, before it is told
                await late.submit("bad", None)


async def test_a_plain_client_beats_and_is_seen(fleet: Fleet) -> None:
    async with await Connection.open(
        NatsConfig(urls=(fleet.server.url,)), name=f"coord:{fleet.tenant}:plain:p1"
    ) as plain:
        plain.publish(f"coord.hb.{fleet.tenant}.plain.p1", b'{"about":{"capabilities":{"ocr":1}}}')
        await plain.flush()
        async with connect(fleet, "boss") as c:
            await until(lambda: _is(_names(c, "ocr"), ["plain"]))
    await until(lambda: fleet.died_at("p1"))  # its connection ended, and it does not come back


async def test_two_processes_add_up_what_each_knows(fleet: Fleet) -> None:
    async with connect(fleet, "boss") as c, serving(fleet.server) as other:
        said: list[str] = []
        await c.connection.subscribe(f"coord.board.{fleet.tenant}.rare", lambda m: said.append(m.subject))
        await c.submit_many("rare", [None] * 40)

        async def depth() -> int:
            board = (await c.capabilities()).get("rare")
            return 0 if board is None else board.depth

        await until(lambda: _is(depth(), 40))
        await until(lambda: fleet.boards.sums.speaks != other.boards.sums.speaks)
        await until(lambda: said)
