"""The life of a service: start, ready, drain, stop; what supervision starts again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.runtime.clock import ManualClock
from coord.runtime.service import Service, ServiceGroup, State
from coord.telemetry.metrics import Metrics
from tests.support.waiting import until


class Probe(Service):
    """Records what happens to it; each hook can be told to fail or to wait."""

    def __init__(self, name: str = "probe", *, log: list[str] | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("registry", Metrics(CollectorRegistry()))
        super().__init__(name, **kwargs)
        self.log = log if log is not None else []
        self.setup_error: BaseException | None = None
        self.setup_gate: asyncio.Event | None = None
        self.drain_gate: asyncio.Event | None = None
        self.run_errors: list[BaseException] = []
        self.running = asyncio.Event()
        self.good = True

    async def setup(self) -> None:
        self.log.append(f"{self.name}.setup")
        if self.setup_gate is not None:
            await self.setup_gate.wait()
        if self.setup_error is not None:
            raise self.setup_error

    async def run(self) -> None:
        self.log.append(f"{self.name}.run")
        if self.run_errors:
            raise self.run_errors.pop(0)
        self.running.set()
        await asyncio.Event().wait()

    async def on_drain(self) -> None:
        self.log.append(f"{self.name}.drain")
        if self.drain_gate is not None:
            await self.drain_gate.wait()

    async def teardown(self) -> None:
        self.log.append(f"{self.name}.teardown")

    def is_ready(self) -> bool:
        return self.good


async def test_start_drain_stop_in_order() -> None:
    service = Probe()
    seen = [(service.state.value, service.ready)]
    await service.start()
    seen.append((service.state.value, service.ready))
    await service.running.wait()
    await service.drain()
    seen.append((service.state.value, service.ready))
    await service.stop()
    seen.append((service.state.value, service.ready))
    assert seen == [("new", False), ("running", True), ("draining", False), ("stopped", False)]
    assert service.log == ["probe.setup", "probe.run", "probe.drain", "probe.teardown"]
    await service.wait()


async def test_stopping_twice_and_at_the_same_time_tears_down_once() -> None:
    service = Probe()
    await service.start()
    await asyncio.gather(service.stop(), service.stop(), service.stop())
    await service.stop()
    assert service.log.count("probe.teardown") == 1


async def test_stop_before_start_wins() -> None:
    service = Probe()
    await service.stop()
    await service.start()
    assert service.state is State.STOPPED
    assert service.log == []


async def test_stop_while_starting_cancels_the_setup_and_releases() -> None:
    service = Probe()
    service.setup_gate = asyncio.Event()
    starting = asyncio.create_task(service.start())
    await until(lambda: service.log)
    await service.stop()
    await starting
    assert service.state is State.STOPPED
    assert service.log == ["probe.setup", "probe.teardown"]


async def test_cancelling_start_releases_and_stays_cancelled() -> None:
    service = Probe()
    service.setup_gate = asyncio.Event()
    starting = asyncio.create_task(service.start())
    await until(lambda: service.log)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert service.log == ["probe.setup", "probe.teardown"]
    await service.stop()


async def test_a_setup_that_fails_is_raised_released_and_remembered() -> None:
    service = Probe()
    service.setup_error = errors.DatabaseUnavailable("no database")
    with pytest.raises(errors.DatabaseUnavailable):
        await service.start()
    assert service.state is State.FAILED
    assert service.log == ["probe.setup", "probe.teardown"]
    assert service.health()["failure"]["code"] == "store.unavailable"
    with pytest.raises(errors.DatabaseUnavailable):
        await service.wait()
    await service.stop()


async def test_a_service_starts_once() -> None:
    service = Probe()
    async with service:
        with pytest.raises(RuntimeError, match="started before"):
            await service.start()


async def test_a_crashed_loop_is_counted_and_started_again_after_a_growing_backoff() -> None:
    clock = ManualClock()
    service = Probe(clock=clock)
    service.run_errors = [ValueError("first"), errors.NotConnected("second")]
    await service.start()

    await clock.until_asleep()
    assert service.health()["loops"]["run"] == {
        "state": "backing_off",
        "restarts": 0,
        "error": {"code": "coord.defect", "message": "ValueError: first"},
    }
    assert limits.SUPERVISE_FIRST_S / 2 <= clock.advance_to_next() <= limits.SUPERVISE_FIRST_S + 1e-9
    await clock.until_asleep()
    assert limits.SUPERVISE_FIRST_S - 1e-9 <= clock.advance_to_next() <= 2 * limits.SUPERVISE_FIRST_S + 1e-9

    await service.running.wait()
    assert service.ready
    loop = service.health()["loops"]["run"]
    assert (loop["state"], loop["restarts"]) == ("running", 2)
    counted = service.metrics.registry.get_sample_value(
        "coord_loop_restarts_total", {"service": "probe", "loop": "run"}
    )
    assert counted == 2
    await service.stop()


async def test_a_loop_that_ran_well_starts_its_backoff_anew() -> None:
    clock = ManualClock()
    crash = asyncio.Event()
    runs = 0

    class Flaky(Probe):
        async def run(self) -> None:
            nonlocal runs
            runs += 1
            if runs <= 6:
                raise ValueError("early")
            await crash.wait()
            crash.clear()
            raise ValueError("late")

    service = Flaky(clock=clock)
    await service.start()
    for _ in range(5):
        await clock.until_asleep()
        clock.advance_to_next()
    await clock.until_asleep()
    assert clock.advance_to_next() > limits.SUPERVISE_FIRST_S * 10
    await until(lambda: runs == 7)
    clock.advance(limits.SUPERVISE_RESET_S + 1)
    crash.set()
    await clock.until_asleep()
    assert clock.advance_to_next() <= limits.SUPERVISE_FIRST_S + 1e-9
    await service.stop()


async def test_a_fatal_error_ends_the_service_and_its_other_loops() -> None:
    class Fatal(Probe):
        fatal = (errors.ProjectionStopped,)

        async def setup(self) -> None:
            await super().setup()
            self.spawn("other", self._other)

        async def _other(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.log.append("other ended")

    service = Fatal()
    service.run_errors = [errors.StreamReplaced("another stream")]
    await service.start()
    with pytest.raises(errors.StreamReplaced):
        await service.wait()
    assert service.state is State.FAILED
    assert not service.ready
    assert "other ended" in service.log
    await service.stop()
    assert service.log[-1] == "probe.teardown"
    assert service.state is State.FAILED


async def test_a_loop_spawned_later_is_supervised_and_ends_with_the_service() -> None:
    service = Probe()
    await service.start()
    ended = asyncio.Event()
    began = asyncio.Event()

    async def late() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    service.spawn("late", late)
    await began.wait()
    assert service.health()["loops"]["late"]["state"] == "running"
    await service.stop()
    assert ended.is_set()


async def test_a_loop_without_restart_fails_alone() -> None:
    service = Probe()
    await service.start()

    async def once() -> None:
        raise ValueError("no")

    loop = service.spawn("once", once, restart=False)
    await until(lambda: loop.state == "failed")
    assert service.ready
    assert loop.restarts == 0
    await service.stop()


async def test_wait_ready_waits_for_the_service_and_tells_its_failure() -> None:
    service = Probe()
    service.good = False
    await service.start()
    with pytest.raises(TimeoutError):
        await service.wait_ready(0.01)
    waiting = asyncio.create_task(service.wait_ready())
    service.good = True
    service.changed()
    await waiting
    await service.stop()

    failing = Probe()
    failing.fatal = (ValueError,)
    failing.good = False
    failing.run_errors = [ValueError("broken")]
    await failing.start()
    with pytest.raises(ValueError, match="broken"):
        await failing.wait_ready(100)
    await failing.stop()


async def test_a_loop_that_ignores_its_cancellation_cannot_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOP_S", 0.05)
    release = asyncio.Event()

    class Deaf(Probe):
        async def run(self) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

    service = Deaf()
    await service.start()
    await asyncio.wait_for(service.stop(), 100)
    assert service.log[-1] == "probe.teardown"
    release.set()
    assert service._owner is not None
    await asyncio.wait({service._owner})


async def test_readiness_is_a_gauge() -> None:
    registry = Metrics(CollectorRegistry())
    service = Probe(registry=registry)

    def up() -> float | None:
        return registry.registry.get_sample_value("coord_service_up", {"service": "probe"})

    assert up() == 0
    await service.start()
    assert up() == 1
    service.good = False
    assert up() == 0
    await service.stop()
    assert up() == 0


# --- groups --------------------------------------------------------------------------------


def group_of(*members: Service) -> ServiceGroup:
    return ServiceGroup("all", members, registry=Metrics(CollectorRegistry()))


async def test_a_group_is_ready_when_all_are_and_stops_backwards() -> None:
    log: list[str] = []
    a, b = Probe("a", log=log), Probe("b", log=log)
    b.good = False
    group = group_of(a, b)
    await group.start()
    before = group.ready
    b.good = True
    assert (before, group.ready) == (False, True)
    assert [member["name"] for member in group.health()["services"]] == ["a", "b"]
    await group.drain()
    await group.stop()
    assert log[-2:] == ["b.teardown", "a.teardown"]
    assert {"a.drain", "b.drain"} <= set(log)


async def test_one_slow_member_does_not_keep_the_others_from_starting() -> None:
    slow, quick = Probe("slow"), Probe("quick")
    slow.setup_gate = asyncio.Event()
    group = group_of(slow, quick)
    starting = asyncio.create_task(group.start())
    await quick.running.wait()
    before = group.ready
    slow.setup_gate.set()
    await starting
    assert (before, group.ready) == (False, True)
    await group.stop()


async def test_a_member_that_cannot_start_stops_the_others_and_is_named() -> None:
    bad, good = Probe("bad"), Probe("good")
    bad.setup_error = errors.EnvironmentProblem("port taken")
    group = group_of(good, bad)
    with pytest.raises(errors.EnvironmentProblem):
        await group.start()
    assert good.log[-1] == "good.teardown"
    await group.stop()


async def test_a_member_that_fails_later_fails_the_group() -> None:
    bad, good = Probe("bad"), Probe("good")
    bad.fatal = (errors.CoordError,)
    bad.run_errors = [errors.StreamReplaced()]
    group = group_of(good, bad)
    await group.start()
    with pytest.raises(errors.StreamReplaced):
        await group.wait()
    assert group.state is State.FAILED
    await group.stop()
    assert good.state is State.STOPPED


async def test_a_member_that_fails_to_drain_does_not_keep_the_others_from_it() -> None:
    class Bad(Probe):
        async def on_drain(self) -> None:
            raise ValueError("cannot")

    good = Probe("good")
    group = group_of(Bad("bad"), good)
    await group.start()
    await group.drain()
    assert "good.drain" in good.log
    await group.stop()


# --- cancellations that get lost -----------------------------------------------------------


async def swallow(times: int) -> None:
    """Like Python 3.11's wait_for at the wrong moment: a cancellation or more is lost."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            times -= 1
            if times < 0:
                raise


async def test_a_setup_that_loses_a_cancellation_is_cancelled_again() -> None:
    class Lossy(Probe):
        async def setup(self) -> None:
            self.log.append("setup")
            await swallow(1)

    service = Lossy()
    starting = asyncio.create_task(service.start())
    await until(lambda: service.log)
    await asyncio.wait_for(service.stop(), 100)
    await starting
    assert service.state is State.STOPPED


async def test_a_loop_that_loses_a_cancellation_is_cancelled_again() -> None:
    class Lossy(Probe):
        async def run(self) -> None:
            self.running.set()
            await swallow(1)

    service = Lossy()
    await service.start()
    await service.running.wait()
    await asyncio.wait_for(service.stop(), 100)
    assert service._owner is not None
    assert service._owner.done()  # one that is given up for deaf goes on


async def test_a_member_that_cannot_be_stopped_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOP_S", 0.05)

    class Stuck(Probe):
        async def teardown(self) -> None:
            await super().teardown()
            await asyncio.Event().wait()

    log: list[str] = []
    first, stuck = Probe("first", log=log), Stuck("stuck", log=log)
    group = group_of(first, stuck)
    await group.start()
    await group.stop()
    assert log[-2:] == ["stuck.teardown", "first.teardown"]
    assert (first.state, stuck.state, group.state) == (State.STOPPED,) * 3


async def test_a_start_that_is_cancelled_again_while_it_releases_can_still_be_stopped() -> None:
    released = asyncio.Event()

    class Slow(Probe):
        async def teardown(self) -> None:
            await released.wait()

    service = Slow()
    service.setup_gate = asyncio.Event()
    starting = asyncio.create_task(service.start())
    for _ in range(2):
        await asyncio.sleep(0.01)
        starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    async with asyncio.timeout(2):
        await service.stop()
    assert service.state is State.STOPPED
