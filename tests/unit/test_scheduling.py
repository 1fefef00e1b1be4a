"""The scheduler without servers: a log in memory, a presence table by hand, time as an argument."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from coord import limits
from coord.core.deciding import Decider, Effect, Folding, Presence, State
from coord.core.desk import Desk
from coord.core.presence import PresenceTable
from coord.core.scheduling import PlacementDecider
from coord.core.task_decider import TaskDecider
from coord.core.tasks import Task, fold
from coord.wire import subjects
from coord.wire.presence import Heartbeat, Quotas, Registration
from coord.wire.records import StoredFact
from coord.wire.work import Placing
from tests.support.facts import Log


class Both(Folding):
    """A partition's task decider and its scheduler, as a session folds them."""

    name = "both"
    kinds = frozenset({"task"})

    def __init__(self, desk: Desk | None = None, p: int = 0) -> None:
        super().__init__()
        self.desk = desk or Desk()
        self.tasks = TaskDecider()
        self.placements = PlacementDecider(p, self.tasks, self.desk)
        self._both: tuple[Decider, Decider] = (self.tasks, self.placements)

    def _all(self, found: Iterable[Iterable[Effect]]) -> list[Effect]:
        return [effect for effects in found for effect in effects]

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        return self._all([d.apply(fact) for d in self._both])

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        return self._all([d.tick(now, presence) for d in self._both])

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        return self._all([d.gone(tenant, agent, instance, now) for d in self._both])

    def reconcile(self, now: float) -> Iterable[Effect]:
        return self._all([d.reconcile(now) for d in self._both])

    def dump(self) -> Any:
        return [d.dump() for d in self._both]

    def load(self, dumped: Any) -> None:
        for decider, one in zip(self._both, dumped, strict=True):
            decider.load(one)


class Fleet:
    """A log, its deciders, and who is there."""

    def __init__(self) -> None:
        self.both = Both()
        self.log = Log(self.both)
        self.presence = PresenceTable(0.0)
        self.passes(0.25)

    def comes(self, agent: str, slots: int = 1, *, load: float = 0.0, **labels: str) -> None:
        quotas = Quotas(memory_mib=100.0)
        about = Registration(instance="i", capabilities={"work": slots}, labels=labels, quotas=quotas)
        body = msgspec.json.encode(Heartbeat(load=load, memory_mib=10.0, about=about))
        self.presence.beat("acme", agent, "i", body, 0.0)

    def goes(self, agent: str) -> None:
        self.presence.beat("acme", agent, "i", msgspec.json.encode(Heartbeat(bye=True)), 0.0)
        self.log.perform(self.log.decider.gone("acme", agent, "i", self.log.now.timestamp()))

    def submit(self, id_: str, priority: str = "normal", **asked: Any) -> None:
        data = {"input": id_, "priority": priority, "placement": {"strategy": "least_connections", **asked}}
        self.log.state("me", "task", id_, "submitted", "work", "placed", data=data)

    def claim(self, id_: str, agent: str) -> None:
        task = self.task(id_)
        assert task is not None
        self.log.state(agent, "task", id_, "claimed", str(task.next_claim), data={"instance": "i"})

    def task(self, id_: str) -> Task | None:
        decider = self.log.decider
        assert isinstance(decider, Both)
        return decider.tasks.get("acme", id_, id_)

    def offered(self, id_: str) -> str | None:
        task = self.task(id_)
        return None if task is None or task.placing is None else task.placing.agent

    def passes(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.25)):
            self.log.now += timedelta(seconds=0.25)
            self.log.perform(self.log.decider.tick(self.log.now.timestamp(), self.presence))

    def decisions(self, id_: str) -> list[dict[str, Any]]:
        return [f.data for f in self.log.facts if f.id == id_ and f.event == "placed"]

    def takeover(self) -> None:
        """Another process goes on from a snapshot."""
        dumped = msgspec.msgpack.decode(msgspec.msgpack.encode(self.log.decider.dump()))
        self.both = self.log.decider = Both()
        self.both.load(dumped)
        self.log.perform(self.both.reconcile(self.log.now.timestamp()))
        self.passes(0.25)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_the_chosen_one_is_told_and_takes_it(fleet: Fleet) -> None:
    fleet.comes("a", load=0.5)
    fleet.comes("b")
    fleet.submit("t1", strategy="resources")
    assert fleet.offered("t1") == "b"
    assert fleet.log.pushes("placed") == [
        {"what": "placed", "key": "t1", "id": "t1", "n": 1, "instance": "i", "claim": 1}
    ]
    fleet.claim("t1", "b")
    fleet.log.state("b", "task", "t1", "completed", data={"run_s": 0.5})
    fleet.passes(1.0)
    assert len(fleet.decisions("t1")) == 1
    assert fleet.both.placements.open_count() == 0
    assert fleet.both.desk.counts["resources", "accepted"] == 1


@pytest.mark.parametrize("ends", [("returned", "1"), ("failed",)])
def test_a_decision_that_a_claim_overtook_is_followed_by_the_next_one(fleet: Fleet, ends: tuple[str, ...]) -> None:
    fleet.submit("t1", accept_ms=60_000)  # nobody is there
    fleet.log.state("b", "task", "t1", "claimed", "1", data={"instance": "i"})
    fleet.log.state("_scheduler", "task", "t1", "placed", "2", data={"strategy": "resources", "agent": "b"})
    task = fleet.task("t1")
    assert task is not None
    assert (task.status, fleet.offered("t1")) == ("claimed", None)
    fleet.comes("a")
    fleet.log.state("b", "task", "t1", *ends, data={"instance": "i"})
    fleet.passes(2.0)
    assert fleet.offered("t1") == "a", "under a number of its own: what the log has under the second stays what it is"
    assert len(fleet.decisions("t1")) == 3


def test_a_decision_that_the_end_overtook_is_counted_for_whoever_redrives_it(fleet: Fleet) -> None:
    fleet.submit("t1")
    fleet.log.state("me", "task", "t1", "cancelled")
    fleet.log.state("_scheduler", "task", "t1", "placed", "2", data={"strategy": "resources", "agent": "b"})
    data = {"redrive": 1, "placement": {"strategy": "least_connections"}}
    fleet.log.state("me", "task", "t1", "submitted", "work", "placed", data=data)
    task, refused = fold(fleet.log.facts)
    assert task is not None
    assert (task.placing, refused) == (Placing(n=2), [])


def test_offers_that_are_not_answered_count_as_slots(fleet: Fleet) -> None:
    fleet.comes("a", 2)
    fleet.comes("b", 2)
    for n in range(4):
        fleet.submit(f"t{n}")
    assert sorted(fleet.offered(f"t{n}") or "" for n in range(4)) == ["a", "a", "b", "b"]
    fleet.submit("t4")
    assert fleet.offered("t4") is None
    assert fleet.decisions("t4") == [], "that everybody is busy is nothing to be said"


def test_a_slot_that_is_freed_goes_to_the_most_urgent_that_waits(fleet: Fleet) -> None:
    fleet.comes("a")
    fleet.submit("t0")
    fleet.claim("t0", "a")
    fleet.submit("n1")
    fleet.submit("n2")
    fleet.submit("c1", "critical")
    fleet.log.state("a", "task", "t0", "completed", data={})
    for id_, others in (("c1", ("n1", "n2")), ("n1", ("n2",)), ("n2", ())):
        assert fleet.offered(id_) == "a"
        assert [fleet.offered(other) for other in others] == [None] * len(others)
        fleet.claim(id_, "a")
        fleet.log.state("a", "task", id_, "completed", data={})


def test_who_gives_it_back_is_silent_or_dies_is_followed_by_the_next(fleet: Fleet) -> None:
    for name in "abcd":
        fleet.comes(name, weight={"a": "9", "b": "5", "c": "2"}.get(name, "1"))
    fleet.submit("t1", strategy="round_robin", accept_ms=500, offers_max=9)
    assert fleet.offered("t1") == "a"
    fleet.log.state("a", "task", "t1", "returned", "1", data={"instance": "i", "reason": "surplus"})
    second = fleet.offered("t1")
    assert second == "b"
    fleet.passes(0.25)
    assert fleet.offered("t1") == "b", "it has the time that the placement gives"
    fleet.passes(0.5)
    third = fleet.offered("t1")
    assert third == "c"
    fleet.goes("c")
    assert fleet.offered("t1") == "d"
    fleet.claim("t1", "d")
    assert [d["agent"] for d in fleet.decisions("t1")] == ["a", "b", "c", "d"]
    counts = fleet.both.desk.counts
    assert {what: n for (_, what), n in counts.items()} == {
        "offered": 4, "returned": 1, "silent": 1, "gone": 1, "accepted": 1,
    }  # fmt: skip


def test_what_nobody_accepts_is_left_to_a_pull(fleet: Fleet) -> None:
    for name in "abcd":
        fleet.comes(name)
    fleet.submit("t1", "critical", offers_max=2)
    fleet.passes(1.5)
    said = fleet.decisions("t1")
    assert [d.get("agent") is not None for d in said] == [True, True, False]
    assert said[-1]["pull"]
    task = fleet.task("t1")
    assert task is not None
    assert (task.queue, task.restated, task.submission.input) == ("critical", 1, None)
    last = fleet.log.facts[-1]
    assert (last.agent, last.event, last.detail) == ("_scheduler", "submitted", ("work", "critical"))
    assert last.data["input"] == "t1"
    fleet.passes(3.0)
    assert fleet.log.facts[-1] is last
    fleet.claim("t1", "d")
    task = fleet.task("t1")
    assert task is not None
    assert task.claimant == "d"


def test_nobody_eligible_shows_and_then_is_pulled_or_goes_on_waiting(fleet: Fleet) -> None:
    fleet.comes("a", region="us")
    fleet.submit("hard", require={"region": "eu"})
    fleet.submit("soft", strategy="agent", agent="b", wait_s=5.0)
    fleet.submit("big", memory_mib=500.0, wait_s=5.0)
    fleet.claim("soft", "a")
    fleet.log.state("a", "task", "soft", "returned", "1", data={"instance": "i"})
    fleet.submit("strict", strategy="agent", agent="b", strict=True, wait_s=1.0)
    fleet.passes(1.5)
    (said,) = fleet.decisions("hard")
    assert said == {"strategy": "least_connections", "reason": "nobody is eligible", "passed_over": {"labels": 1}}
    assert fleet.both.tasks.fares["acme", "work"].unplaced >= 2
    fleet.passes(10.0)
    for id_ in ("hard", "strict"):
        task = fleet.task(id_)
        assert task is not None
        assert task.queue == "placed"
        assert len(fleet.decisions(id_)) == 1, "said once"
    fleet.comes("b", region="eu")
    fleet.passes(0.5)
    assert {fleet.offered("hard"), fleet.offered("strict")} == {"b", None}, "b has one slot"
    fleet.claim("hard", "b") if fleet.offered("hard") else fleet.claim("strict", "b")


def test_a_binding_placement_begins_again_when_everybody_was_tried(fleet: Fleet) -> None:
    fleet.comes("a", region="eu")
    fleet.submit("t1", require={"region": "eu"})
    fleet.passes(0.75)  # silent
    assert fleet.decisions("t1")[-1]["again"]
    assert fleet.offered("t1") is None
    fleet.passes(1.0)
    assert fleet.offered("t1") == "a"
    fleet.passes(limits.PLACEMENT_AGAIN_MAX_S * 10)
    assert 8 < len(fleet.decisions("t1")) < 50, "ever more seldom"


def test_another_process_goes_on_where_the_log_is(fleet: Fleet) -> None:
    fleet.comes("a")
    fleet.comes("b")
    fleet.submit("t1")
    fleet.submit("t2")
    fleet.submit("t3")
    first = fleet.offered("t1")
    fleet.takeover()
    assert fleet.offered("t1") == first
    assert fleet.offered("t3") is None, "the slots are offered"
    assert len(fleet.decisions("t1")) == 1
    fleet.passes(1.0)
    assert len(fleet.decisions("t1")) >= 2, "who was told by the one before was silent"


def test_a_pull_that_was_decided_and_not_stated_is_stated_by_the_next(fleet: Fleet) -> None:
    fleet.submit("t1")
    told = {"strategy": "least_connections", "pull": True}
    effects = fleet.both.apply(fleet.log.fact("_scheduler", "task", "t1", "placed", "2", data=told))
    assert [e.event for e in effects if isinstance(e, State)] == ["submitted"], "and it dies"
    task = fleet.task("t1")
    assert task is not None
    assert task.queue == "placed"
    fleet.takeover()
    task = fleet.task("t1")
    assert task is not None
    assert task.queue == "normal"


def test_a_retry_is_placed_when_its_backoff_is_over(fleet: Fleet) -> None:
    fleet.comes("a")
    fleet.submit("t1", accept_ms=10_000)
    fleet.claim("t1", "a")
    fleet.log.state("a", "task", "t1", "failed", data={"error": "E"})
    assert fleet.offered("t1") is None
    fleet.passes(0.25)
    assert len(fleet.decisions("t1")) == 1
    fleet.passes(1.25)
    assert len(fleet.decisions("t1")) == 2
    assert fleet.offered("t1") == "a"


def test_two_partitions_share_the_slots_and_one_wakes_the_others_tasks() -> None:
    fleet = Fleet()
    other = Both(fleet.both.desk, 1)
    other.placements.tick(fleet.log.now.timestamp(), fleet.presence)
    fleet.comes("a")
    elsewhere = Log(other)
    elsewhere.now = fleet.log.now
    fleet.submit("t1")
    fleet.claim("t1", "a")
    data = {"placement": {"strategy": "least_connections"}}
    elsewhere.state("me", "task", "t2", "submitted", "work", "placed", data=data)
    waiting = other.tasks.get("acme", "t2", "t2")
    assert waiting is not None
    assert other.placements.waits(("acme", "work"))
    effects = fleet.both.apply(fleet.log.fact("a", "task", "t1", "completed", data={}))
    elsewhere.perform([e for e in effects if getattr(e, "id", None) == "t2"])
    assert waiting.placing is not None
    assert waiting.placing.agent == "a"


def test_a_placement_that_cannot_be_read_is_the_default_one(fleet: Fleet) -> None:
    fleet.comes("a")
    fleet.log.state("me", "task", "t1", "submitted", "work", "placed", data={"placement": {"by": "whim"}})
    assert fleet.decisions("t1")[0]["strategy"] == "resources"
    fleet.log.state("me", "task", "t2", "submitted", "work", "placed", data={})
    fleet.claim("t1", "a")
    fleet.log.state("a", "task", "t1", "completed", data={})
    assert fleet.offered("t2") == "a"


def test_other_capabilities_cost_nothing(fleet: Fleet) -> None:
    fleet.log.state("me", "task", "t1", "submitted", "other", "normal", data={})
    fleet.log.state("a", "task", "t1", "claimed", "1", data={"instance": "i"})
    fleet.log.state("a", "task", "t1", "completed", data={})
    assert not fleet.both.desk.tracked
    assert fleet.both.placements.open_count() == 0


def test_outcomes_are_history_and_a_snapshot_keeps_it(fleet: Fleet) -> None:
    # Each partition's snapshot has the agents whose names are its own: this one's.
    fast, slow = itertools.islice((n for n in map("a{}".format, itertools.count()) if subjects.partition(n) == 0), 2)
    fleet.comes(fast)
    fleet.comes(slow)
    for n in range(20):
        fleet.submit(f"w{n}", strategy="least_connections")
        agent = fleet.offered(f"w{n}")
        assert agent is not None
        fleet.claim(f"w{n}", agent)
        fleet.log.state(agent, "task", f"w{n}", "completed", data={"run_s": 0.1 if agent == fast else 1.0})
    fleet.takeover()
    chosen = []
    for n in range(40):
        fleet.submit(f"r{n}", strategy="response_time")
        agent = fleet.offered(f"r{n}")
        assert agent is not None
        chosen.append(agent)
        fleet.claim(f"r{n}", agent)
        fleet.log.state("me", "task", f"r{n}", "cancelled", data={})
    assert chosen.count(fast) > 3 * chosen.count(slow)


def test_a_backlog_waits_for_slots_and_loads_the_log_with_nothing(fleet: Fleet) -> None:
    fleet.comes("a", 2)
    for n in range(200):
        fleet.submit(f"t{n}", accept_ms=60_000)
    fleet.passes(20.0)
    assert sum(fact.event == "placed" for fact in fleet.log.facts) == 2
    done = 0
    while done < 200:
        for n in range(200):
            task = fleet.task(f"t{n}")
            if task is not None and fleet.offered(f"t{n}") is not None and task.free:
                fleet.claim(f"t{n}", "a")
                fleet.log.state("a", "task", f"t{n}", "completed", data={})
                done += 1
    assert sum(fact.event == "placed" for fact in fleet.log.facts) == 200
    assert fleet.both.placements.open_count() == 0


def test_a_backlog_that_nobody_can_do_is_pulled_as_a_whole(fleet: Fleet) -> None:
    for n in range(50):
        fleet.submit(f"t{n}", wait_s=3.0)
    fleet.passes(4.0)
    tasks = [fleet.task(f"t{n}") for n in range(50)]
    assert all(task is not None and task.queue == "normal" for task in tasks)


def test_of_very_many_agents_whoever_is_free_is_found_and_all_get_their_share(fleet: Fleet) -> None:
    count = 3 * limits.PLACEMENT_CANDIDATES_MAX
    for n in range(count):
        fleet.comes(f"a{n}")
    for n in range(count):
        fleet.submit(f"t{n}", strategy="round_robin", accept_ms=60_000)
    assert len({fleet.offered(f"t{n}") for n in range(count)} - {None}) == count
    fleet.submit("more")
    assert fleet.offered("more") is None
    fleet.submit("t", strategy="agent", agent="a7", strict=True)
    fleet.comes("a7", 2)
    fleet.passes(0.5)
    assert fleet.offered("t") == "a7" or fleet.offered("more") == "a7"


def test_what_waits_for_slots_gets_the_shares_of_its_priorities(fleet: Fleet) -> None:
    fleet.comes("a")
    fleet.submit("t0")
    fleet.claim("t0", "a")
    for n in range(24):
        for priority in ("batch", "normal", "critical"):
            fleet.submit(f"{priority}-{n}", priority)
    fleet.log.state("a", "task", "t0", "completed", data={})
    served = []
    for _ in range(24):
        (id_,) = [f"{p}-{n}" for p in limits.PRIORITY_SHARES for n in range(24) if fleet.offered(f"{p}-{n}")]
        served.append(id_.partition("-")[0])
        fleet.claim(id_, "a")
        fleet.log.state("a", "task", id_, "completed", data={})
    assert [served.count(p) for p in ("critical", "normal", "batch")] == [16, 6, 2]
