"""What the presence and the capability decider state, and what they do not."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.core import board, capability
from coord.core.capability import CapabilityDecider, CapabilityState
from coord.core.deciding import Push, State
from coord.core.presence import PresenceTable
from coord.core.presence_decider import TRANSITIONS, Agent, PresenceDecider
from coord.core.watch import Barred, Fare, Usage, Watch
from coord.projector.registry import Registry
from coord.server.registry import _found
from coord.wire.records import StoredFact
from coord.wire.subjects import partition

NOW = datetime(2026, 1, 1, tzinfo=UTC)
T = NOW.timestamp()


def fact(
    event: str, data: Any = None, *, agent: str = "a1", by: str | None = None, detail: tuple[str, ...] = (),
    seq: int = 1, kind: str = "agent", at: float = 0.0,
) -> StoredFact:  # fmt: skip
    return StoredFact(
        "acme", by or agent, agent, kind, agent, event, detail, partition(agent), seq, 0, NOW + timedelta(seconds=at),
        NOW, f"e{seq}", f"coord.{kind}.{event}", 1, None, None, None, msgspec.json.encode(data), "json",
    )  # fmt: skip


def registered(instance: str = "i1", seq: int = 1, **about: Any) -> StoredFact:
    return fact("registered", {"instance": instance, **about}, seq=seq)


class World(Watch):
    """What the deciders are told."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.used = Usage()
        self.used_by: dict[str, Usage] = {}
        self.fare: dict[tuple[str, str], Fare] = {}
        self.unheard: set[str] = set()
        self.doubting = False
        self.version: object = None
        self.looks = 0

    @property
    def news(self) -> object:
        return self.version and (self.version, self.doubting)

    @property
    def doubts(self) -> bool:
        return self.doubting

    def heard(self, tenant: str, agent: str, instance: str) -> bool:
        return instance not in self.unheard

    def lives(self, tenant: str, agent: str, instance: str) -> bool:
        return self.state(tenant, agent, instance) in ("alive", "suspect")

    def state(self, tenant: str, agent: str, instance: str) -> str:
        self.looks += 1
        return self.states.get(instance, "alive")

    def fares(self):
        return self.fare.items()

    def usage(self, tenant: str, agent: str) -> Usage:
        return self.used

    def usage_of(self, tenant: str, agent: str, instances: Collection[str]) -> Usage:
        used = [self.used_by.get(name, Usage()) for name in instances]
        return Usage(sum(one.inflight for one in used), memory_mib=max((one.memory_mib for one in used), default=0.0))


class Loop:
    """A decider whose statements become facts."""

    def __init__(self, decider: Any) -> None:
        self.decider = decider
        self.world = World()
        self.now = T
        self.seq = 100
        self.pushes: list[Push] = []

    def look(self, after_s: float = 1.0) -> list[str]:
        self.now += after_s
        return self.take(self.decider.tick(self.now, self.world))

    def take(self, effects: Any) -> list[str]:
        said = []
        for effect in list(effects):
            if isinstance(effect, Push):
                self.pushes.append(effect)
                continue
            assert isinstance(effect, State)
            assert effect.once == "own"
            assert effect.from_outside
            self.seq += 1
            stated = fact(
                effect.event, effect.data, agent=effect.id, by=effect.agent, detail=effect.detail, seq=self.seq,
                kind=effect.kind, at=self.now - T,
            )  # fmt: skip
            said.append(".".join((effect.event, *effect.detail)))
            self.take(self.decider.apply(stated))
        return said


@pytest.fixture
def presence() -> Loop:
    return Loop(PresenceDecider())


def test_a_death_is_stated_once_with_who_is_left(presence: Loop) -> None:
    presence.decider.apply(registered("i1", 1))
    presence.decider.apply(registered("i2", 2))
    (effect,) = presence.decider.gone("acme", "a1", "i1", T)
    assert effect.data == {"instance": "i1", "others": 1}
    assert presence.take([effect]) == ["gone.i1.2"]
    assert list(presence.decider.gone("acme", "a1", "i1", T)) == []
    assert presence.take(presence.decider.gone("acme", "a1", "i2", T)) == ["gone.i2.3"]


@pytest.mark.parametrize("by_look", [False, True])
def test_many_that_die_together_count_those_that_remain(presence: Loop, by_look: bool) -> None:
    """A process with several connections of one agent: all deaths are stated before the first of them is a fact."""
    names = ["i1", "i2", "i3"]
    for n, name in enumerate(names):
        presence.decider.apply(registered(name, n))
    if by_look:
        presence.world.states = dict.fromkeys(names, "gone")
        stated = list(presence.decider.tick(T + 1, presence.world))
    else:
        stated = [one for name in names for one in presence.decider.gone("acme", "a1", name, T)]
    assert [one.data["others"] for one in stated] == [2, 1, 0]
    agent = presence.decider.get("acme", "a1")
    for one in reversed(stated):  # stored in another order
        assert agent.state == "alive"
        presence.take([one])
    assert agent.state == "gone"
    presence.decider.apply(registered("i4", 9))
    (last,) = presence.decider.gone("acme", "a1", "i4", T)
    assert last.data["others"] == 0
    presence.decider.apply(registered("i4", 10))  # it did not die after all
    (last,) = presence.decider.gone("acme", "a1", "i4", T)
    assert last.data["others"] == 0


def test_a_death_is_stated_once_however_late_it_is_a_fact(presence: Loop) -> None:
    """Thousands that die together: what was stated of them comes back looks later."""
    for n, name in enumerate(("i1", "i2"), 1):
        presence.decider.apply(registered(name, n))
    presence.world.version, presence.world.states = 1, dict.fromkeys(("i1", "i2"), "gone")
    stated = [*presence.decider.gone("acme", "a1", "i1", T), *presence.decider.tick(T + 1, presence.world)]
    assert [one.detail[0] for one in stated] == ["i1", "i2"]
    for after_s in (2, 3):
        assert list(presence.decider.gone("acme", "a1", "i1", T + after_s)) == []
        assert list(presence.decider.tick(T + after_s, presence.world)) == []
    # That of i1 never comes, though nothing else is news any more.
    presence.take(stated[1:])
    (again,) = presence.decider.tick(T + 60, presence.world)
    assert (again.detail, again.data) == (stated[0].detail, {"instance": "i1", "others": 0})
    # What another decider states and crosses it on its way makes it one that is not believed: the next number is.
    presence.decider.apply(fact("suspected", {"instance": "i1"}, by="_presence", detail=again.detail, seq=9))
    (again,) = presence.decider.tick(T + 61, presence.world)
    assert again.detail == ("i1", "3")


def test_who_dies_while_its_suspicion_is_on_its_way_is_stated_to_be_gone_once(presence: Loop) -> None:
    """Both would have the same number, and the second not be believed."""
    presence.decider.apply(registered())
    presence.world.states["i1"] = "suspect"
    suspected = list(presence.decider.tick(T + 1, presence.world))
    assert list(presence.decider.tick(T + 2, presence.world)) == []
    presence.world.states["i1"], presence.now = "gone", T + 2
    assert list(presence.decider.gone("acme", "a1", "i1", T + 2)) == []
    assert presence.take(suspected) == ["suspected.i1.2"]
    assert presence.look() == ["gone.i1.3"]
    assert presence.decider.get("acme", "a1").state == "gone"


@pytest.mark.parametrize("crossed", [False, True])
def test_who_says_goodbye_is_not_stated_to_be_gone_while_its_own_word_is_on_its_way(
    presence: Loop, crossed: bool
) -> None:
    for n, name in enumerate(("i1", "i2"), 1):
        presence.decider.apply(registered(name, n))
        presence.world.states[name] = "gone"
        assert presence.take(presence.decider.leaves("acme", "a1", name, T)) == []
    if crossed:  # stated when the end of its connection was heard before
        for n, name in enumerate(("i1", "i2"), 1):
            presence.decider.apply(fact("suspected", {"instance": name}, detail=(name, str(n + 1)), seq=n + 2))
    presence.world.version = 1
    assert presence.look() == []
    assert presence.take(presence.decider.gone("acme", "a1", "i1", presence.now)) == []  # its connection ended, too
    presence.decider.apply(fact("left", {"instance": "i1"}, seq=9))
    assert presence.look() == []
    # The word of i2 never comes, though nothing else is news any more.
    assert [said.split(".")[:2] for said in presence.look(limits.LEFT_WAIT_S)] == [["gone", "i2"]]
    assert presence.look() == []


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ("registered.i1 registered.i2 gone.i1", "alive"),
        ("registered.i1 registered.i2 suspected.i1", "alive"),
        ("registered.i1 suspected.i1", "suspect"),
        ("registered.i1 registered.i2 left.i1 gone.i2", "gone"),
        ("registered.i1 registered.i2 gone.i1 left.i2", "left"),
        ("registered.i1 registered.i2 draining.i1", "draining"),
        ("registered.i1 registered.i2 draining.i1 left.i1", "alive"),
        ("registered.i1 draining.", "draining"),
        ("registered.i1 draining.i1 registered.i1", "alive"),
        ("registered.i1 quarantined", "quarantined"),
        ("registered.i1 quarantined released", "alive"),
        ("registered.i1 quarantined gone.i1", "gone"),
        ("registered.i1 quarantined gone.i1 released", "gone"),
        ("registered.i1 quarantined left.i1 released", "left"),
        ("registered.i1 quarantined gone.i1 registered.i2", "quarantined"),
    ],
)
def test_an_agent_is_what_its_instances_are(facts: str, state: str) -> None:
    agent = Agent("acme", "a1")
    for n, said in enumerate(facts.split()):
        event, _, name = said.partition(".")
        detail = (name, "1") if event in ("gone", "suspected") else () if name else ("1",)
        assert agent.apply(fact(event, {"instance": name, "others": 7}, detail=detail, seq=n + 1))
    assert agent.state == state


def test_suspicion_return_and_death_are_numbered(presence: Loop) -> None:
    presence.decider.apply(registered())
    said = []
    for state in ("alive", "suspect", "suspect", "alive", "gone", "gone", "alive", "unknown"):
        presence.world.states["i1"] = state
        said += presence.look()
    assert said == ["suspected.i1.2", "returned.i1.3", "gone.i1.4", "returned.i1.5", "gone.i1.6"]


def test_whoever_was_not_heard_of_is_asked_three_times_before_it_is_stated_to_be_gone(presence: Loop) -> None:
    """As after a start: those who stand by beat more rarely than a young process waits."""
    for n in (1, 2):
        presence.decider.apply(registered(f"i{n}", n))
    presence.world.states = {"i1": "unknown", "i2": "unknown"}
    presence.world.unheard = {"i1", "i2"}
    presence.world.version = 1
    assert presence.look() == []
    assert [push.body for push in presence.pushes] == [{"what": "about", "instance": f"i{n}"} for n in (1, 2)]
    presence.world.states["i1"] = "alive"
    presence.world.unheard = {"i2"}
    assert presence.look() == presence.look() == []
    assert presence.look() == ["gone.i2.3"]
    assert [push.body["instance"] for push in presence.pushes] == ["i1", "i2", "i2", "i2"]
    presence.decider.apply(registered("i2", 3))
    assert presence.look() == []  # asked again, not answered for a while
    assert len(presence.pushes) == 5


@given(
    st.lists(st.sampled_from(["lost", "doubt", "answered"]), max_size=12).map(lambda steps: [*steps, "answered"]),
    st.sampled_from(["alive", "suspect"]),
)
def test_a_healthy_one_is_not_stated_to_be_gone_while_one_of_three_questions_arrives(
    steps: list[str], status: Any
) -> None:
    """Each look its question is lost, or this process doubts its own ears, or it answers before the next look."""
    presence = Loop(PresenceDecider())
    presence.decider.apply(registered())
    presence.decider.get("acme", "a1").instances["i1"].status = status
    presence.world.version, presence.world.unheard = 1, {"i1"}
    lost = 0  # in a row, without doubt
    for step in steps:
        presence.world.doubting = step == "doubt"
        presence.world.states["i1"] = "alive" if step == "doubt" else "unknown"
        asked, said = len(presence.pushes), presence.look()
        if lost == 3 and step != "doubt":
            assert said == ["gone.i1.2"]
            return
        assert said == []
        if step == "doubt":
            lost = 0
            continue
        assert len(presence.pushes) == asked + 1
        lost += 1
        if step == "answered":
            presence.world.unheard, presence.world.states["i1"] = set(), "alive"
            assert presence.look() == (["returned.i1.2"] if status == "suspect" else [])
            return


def test_who_was_not_heard_of_has_not_returned_only_because_its_death_is_in_doubt(presence: Loop) -> None:
    presence.decider.apply(registered())
    presence.take(presence.decider.gone("acme", "a1", "i1", T))
    presence.world.doubting, presence.world.unheard = True, {"i1"}
    assert presence.look() == []
    assert presence.pushes == []


def test_nobody_is_looked_at_while_nothing_is_new(presence: Loop) -> None:
    presence.decider.apply(registered())
    presence.world.version = 1
    assert presence.look() == []
    looks = presence.world.looks
    assert presence.look() == []
    assert presence.world.looks == looks
    presence.world.version, presence.world.states["i1"] = 2, "gone"
    assert presence.look() == ["gone.i1.2"]
    assert presence.look() == []
    presence.decider.apply(registered("i1", 7))  # a fact is news, too
    assert presence.look() == ["gone.i1.8"]
    presence.decider.load(presence.decider.dump())
    presence.world.version, presence.world.states["i1"] = 3, "alive"
    assert presence.look() == ["returned.i1.9"]


@pytest.mark.parametrize("how", ["forgotten", "left"])
def test_who_was_gone_and_is_known_no_more_dies_again_as_a_fact_of_its_own(presence: Loop, how: str) -> None:
    row = Registry(tenant="acme", key="a1", id="a1")  # of those who are gone it forgets nobody

    def stored(one: StoredFact) -> None:
        presence.take(presence.decider.apply(one))
        row.apply(one)

    said = []
    for seq in (5, 50):
        stored(registered("i1", seq))
        (death,) = presence.decider.gone("acme", "a1", "i1", T)
        stored(fact("gone", death.data, by="_presence", detail=death.detail, seq=seq + 1))
        assert (presence.decider.get("acme", "a1").state, row.agent.state) == ("gone", "gone")
        said.append(".".join(death.detail))
        if how == "left":
            stored(fact("left", {"instance": "i1"}, seq=seq + 2))
        else:
            presence.look(limits.PRESENCE_KEPT_S + 1)
        assert presence.decider.open_count() == 0
    assert said == ["i1.6", "i1.51"]


def test_what_was_numbered_from_one_is_believed() -> None:
    """As deciders did until ADR 0140."""
    agent = Agent("acme", "a1")
    assert agent.apply(registered("i1", 40))
    for n, event in enumerate(("suspected", "returned", "gone"), 1):
        assert agent.apply(fact(event, {"instance": "i1"}, detail=("i1", str(n)), seq=40 + n))
    assert not agent.apply(fact("returned", {"instance": "i1"}, detail=("i1", "40"), seq=44))
    assert agent.state == "gone"
    assert agent.instances["i1"].next_n == 41


def test_who_never_registered_costs_the_log_nothing(presence: Loop) -> None:
    assert list(presence.decider.gone("acme", "a1", "i1", T)) == []
    presence.decider.apply(fact("registered", {"capabilities": {"ocr": 1}}))  # a plain client's, without instance
    presence.world.states[""] = "unknown"
    assert presence.look() == []


def test_who_left_is_forgotten_and_nobody_is_missed(presence: Loop) -> None:
    presence.decider.apply(registered())
    presence.decider.apply(fact("left", {"instance": "i1"}))
    presence.world.states["i1"] = "gone"
    assert presence.look() == []
    assert presence.decider.open_count() == 0


def test_when_some_of_several_leave_the_agent_is_still_there(presence: Loop) -> None:
    for n in range(1, 6):
        presence.decider.apply(registered(f"i{n}", n))
    for n in (1, 2):
        presence.decider.apply(fact("left", {"instance": f"i{n}"}, seq=5 + n))
    presence.take(presence.decider.leaves("acme", "a1", "i3", presence.now))
    assert (presence.look(), presence.look()) == (["returned.i4.5"], []), "not i3, which is leaving"
    presence.decider.apply(fact("left", {"instance": "i4"}, seq=13))
    presence.decider.apply(registered("i6", 20))
    assert presence.look() == [], "who has come has said so"
    for n in (3, 5, 6):
        presence.decider.apply(fact("left", {"instance": f"i{n}"}, seq=20 + n))
    assert presence.look() == [], "all have left"


def test_what_somebody_else_numbers_wrongly_is_not_believed(presence: Loop) -> None:
    presence.decider.apply(registered())
    presence.decider.apply(fact("gone", {"instance": "i1"}, by="_presence", detail=("i1", "7")))
    assert presence.decider.get("acme", "a1").instances["i1"].status == "alive"


def test_ten_thousand_registrations_of_one_name_are_bounded(presence: Loop) -> None:
    most = limits.PRESENCE_PER_AGENT_MAX
    row = Registry(tenant="acme", key="a1", id="a1")
    refused = []
    for n in range(10_000):
        said = registered(f"x{n}", n + 1)
        presence.take(presence.decider.apply(said))
        refused.append(row.apply(said))
    agent = presence.decider.get("acme", "a1")
    assert len(agent.instances) == most
    assert presence.decider.refused == {"agent.too_many": 10_000 - most}
    assert [push.body["instance"] for push in presence.pushes] == [f"x{n}" for n in range(most, 10_000)]
    assert [one.code for one in refused if one] == ["agent.too_many"] * (10_000 - most)
    assert row.agent.instances.keys() == agent.instances.keys()
    assert len(presence.look()) == 0
    garbage = fact("registered", {"instance": "a.b"}, seq=10_001)
    assert row.apply(garbage) is None
    presence.take(presence.decider.apply(garbage))
    assert presence.decider.refused == {"agent.too_many": 10_000 - most}
    # Who is there registers again; one more has the place of one that ended.
    presence.take(presence.decider.apply(registered("x7", 10_001)))
    assert presence.take(presence.decider.gone("acme", "a1", "x5", T)) == ["gone.x5.7"]
    presence.take(presence.decider.apply(registered("y", 10_002)))
    presence.take(presence.decider.apply(registered("z", 10_003)))
    assert ("x5" in agent.instances, "y" in agent.instances, "z" in agent.instances) == (False, True, False)


def test_bad_registrations_are_passed_over(presence: Loop) -> None:
    for about in (
        {"capabilities": {"UPPER": 1}}, {"capabilities": {"x": 0}}, {"labels": {"x": "y" * 257}}, {"instance": "a.b"},
        {"capabilities": {f"c{n}": 1 for n in range(65)}}, {"capabilities": 7},
    ):  # fmt: skip
        presence.decider.apply(fact("registered", about))
    assert presence.decider.open_count() == 0


@pytest.mark.parametrize(
    ("quotas", "used", "broken"),
    [
        ({"inflight": 2}, Usage(inflight=3), "inflight"),
        ({"facts_per_s": 10}, Usage(facts_per_s=13.0), "facts_per_s"),
        ({"memory_mib": 100}, Usage(memory_mib=101.0), "memory_mib"),
    ],
)
def test_an_offender_is_quarantined_and_released(presence: Loop, quotas, used, broken) -> None:
    presence.decider.apply(registered(quotas=quotas))
    presence.world.used = used
    assert presence.look() == presence.look() == []  # one look may fall between a claim and its end
    assert presence.look() == ["quarantined.1"]
    assert presence.decider.get("acme", "a1").quarantined
    presence.world.used = Usage()
    assert presence.look() == []
    assert presence.look(limits.QUARANTINE_S) == ["released.1"]
    assert [push.body for push in presence.pushes] == [{"what": "quarantined", "reason": broken}, {"what": "released"}]
    presence.world.used = used
    assert [presence.look(), presence.look(), presence.look()] == [[], [], ["quarantined.2"]]


@pytest.mark.parametrize(
    ("quotas", "used"),
    [
        ({"inflight": 2}, Usage(inflight=6)),
        ({"facts_per_s": 10}, Usage(facts_per_s=37.0)),
        ({"memory_mib": 100}, Usage(memory_mib=100.0)),
    ],
)
def test_replicas_may_each_use_what_one_may(presence: Loop, quotas, used) -> None:
    for n in range(3):
        presence.decider.apply(registered(f"i{n}", n, quotas=quotas))
    presence.world.used = used
    for _ in range(5):
        assert presence.look() == []
    presence.world.states["i0"] = "gone"
    assert presence.look() == ["gone.i0.1"]
    over = [presence.look() for _ in range(3)][-1]
    assert over == ([] if "memory_mib" in quotas else ["quarantined.1"])
    presence.decider.apply(registered("i4", 9))  # one that may use anything
    assert presence.decider.get("acme", "a1").quotas is None


def test_who_is_quarantined_is_shown_and_left_alone_whatever_it_says() -> None:
    table, sums = PresenceTable(0.0), board.Sums("b")
    why = Barred("inflight", T)
    table.beat("acme", "w", "i1", b'{"about":{"capabilities":{"ocr":4}}}', 1.0)
    sums.hear("b", board.Part(quarantined=[("acme", "w", why)]), 1.0)
    sums.add_up(table, 1.0)
    table.beat("acme", "w", "i2", b'{"about":{"capabilities":{"ocr":4}}}', 1.0)  # it was started again
    found = [_found(row, 1.0) for row in table.rows("acme")]
    assert {(one.state, one.quota) for one in found} == {("quarantined", "inflight")}
    assert not any(row.takes for row in table.rows("acme"))
    sums.hear("b", board.Part(), 2.0)
    sums.add_up(table, 2.0)
    assert all(row.takes for row in table.rows("acme"))
    assert _found(next(table.rows("acme")), 2.0).state == "alive"


def test_a_short_excess_is_forgiven(presence: Loop) -> None:
    presence.decider.apply(registered(quotas={"inflight": 2}))
    for inflight in (3, 3, 2, 3, 3, 2):
        presence.world.used = Usage(inflight=inflight)
        assert presence.look() == []


def test_a_snapshot_is_the_state(presence: Loop) -> None:
    presence.decider.apply(registered("i1", 1, quotas={"inflight": 2}, labels={"region": "eu"}))
    presence.take(presence.decider.gone("acme", "a1", "i1", T))
    other = PresenceDecider()
    other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(presence.decider.dump())))
    assert other.dump() == presence.decider.dump()
    assert list(other.gone("acme", "a1", "i1", T)) == []


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("bounded", ["i1", "i2"])
def test_quotas_are_kept_after_a_snapshot_as_without_one(presence: Loop, restored: bool, bounded: str) -> None:
    other = {"i1": "i2", "i2": "i1"}[bounded]
    for n in (1, 2):
        name = f"i{n}"
        presence.decider.apply(registered(name, n, **({"quotas": {"inflight": 1}} if name == bounded else {})))
    if restored:
        presence.decider.load(msgspec.msgpack.decode(msgspec.msgpack.encode(presence.decider.dump())))
    presence.world.used = Usage(inflight=2)
    assert presence.look() == presence.look() == presence.look() == []  # the other one may use anything
    presence.take(presence.decider.gone("acme", "a1", other, T))
    presence.world.states[other] = "gone"
    assert presence.look() == presence.look() == []
    assert presence.look() == ["quarantined.1"]


@pytest.mark.parametrize(
    ("quotas", "within", "over"),
    [
        ({"inflight": 2}, Usage(inflight=2), Usage(inflight=3)),
        ({"memory_mib": 100}, Usage(memory_mib=100), Usage(memory_mib=101)),
    ],
)
def test_who_bounds_itself_is_judged_beside_one_that_does_not(presence: Loop, quotas, within, over) -> None:
    for n, said in enumerate(({"quotas": quotas}, {"quotas": quotas}, {}), 1):
        presence.decider.apply(registered(f"i{n}", n, **said))
    world = presence.world
    world.used = Usage(inflight=50, memory_mib=5_000)
    world.used_by = {"i1": within, "i2": within, "i3": world.used}
    for _ in range(4):
        assert presence.look() == []
    world.used_by |= {"i1": over, "i2": over}
    assert [presence.look() for _ in range(3)][-1] == ["quarantined.1"]
    world.used_by |= {"i1": within, "i2": within}
    assert presence.look(limits.QUARANTINE_S) == ["released.1"]


def test_what_instances_hold_is_added_up_where_some_have_no_bound() -> None:
    table, sums = PresenceTable(0.0), board.Sums("b")
    about = {"i1": {"quotas": {"inflight": 2}}, "i2": {}, "i3": {"quotas": {"facts_per_s": 5}}}
    for name, said in about.items():
        table.beat("acme", "w", name, msgspec.json.encode({"about": said, "memory_mib": 7.0}), 1.0)
    table.beat("acme", "alone", "j1", b'{"about":{"quotas":{"inflight":2}}}', 1.0)
    assert table.bounded_apart() == {("acme", "w", "i1")}
    part = board.part([], [{("acme", "w"): 9}], [], frozenset(table.with_quotas()), held=[("acme", "w", "i1", 2)])
    for name in ("a", "b"):
        sums.hear(name, msgspec.json.decode(msgspec.json.encode(part), type=board.Part), 1.0)
    sums.add_up(table, 1.0)
    assert table.usage("acme", "w") == Usage(18, 0.0, 7.0)
    assert table.usage_of("acme", "w", {"i1", "nobody"}) == Usage(4, 0.0, 7.0)


def test_every_transition_of_an_instance_is_walked() -> None:
    for (status, event), after in TRANSITIONS.items():
        agent = Agent("acme", "a1")
        if status != "-":
            agent.apply(registered())
            agent.instances["i1"].status = status  # type: ignore[assignment]
        one = {"registered": registered(seq=5), "left": fact("left", {"instance": "i1"})}.get(
            event, fact(event, {"instance": "i1"}, detail=("i1", "1"))
        )
        agent.apply(one)
        assert (agent.instances["i1"].status if after != "left" else "left") == after
        assert after != "left" or "i1" not in agent.instances


# --- circuits ------------------------------------------------------------------------------


@pytest.fixture
def circuit() -> Loop:
    return Loop(CapabilityDecider(partition("ocr")))


def outcomes(loop: Loop, completed: int, failed: int) -> None:
    was = loop.world.fare.get(("acme", "ocr"), Fare())
    loop.world.fare = {("acme", "ocr"): Fare(completed=was.completed + completed, failed=was.failed + failed)}


def test_a_circuit_opens_probes_and_closes(circuit: Loop) -> None:
    outcomes(circuit, 0, 0)
    assert circuit.look() == []
    outcomes(circuit, 9, 10)
    assert circuit.look() == []  # not enough to say
    outcomes(circuit, 0, 1)
    assert circuit.look() == ["opened.1"]
    assert circuit.look() == []
    assert circuit.look(limits.CAPABILITY_OPEN_S) == ["probing.1"]
    outcomes(circuit, 2, 0)
    assert circuit.look() == []
    outcomes(circuit, 1, 0)
    assert circuit.look() == ["closed.1"]
    assert circuit.look() == []


def test_what_failed_before_it_was_looked_at_counts_unless_the_decider_has_just_begun(circuit: Loop) -> None:
    outcomes(circuit, 0, 100)
    assert circuit.look() == []  # who knows when
    circuit.look(10)
    circuit.world.fare = {}
    circuit.decider._windows.clear()
    outcomes(circuit, 0, 100)
    assert circuit.look() == ["opened.1"]


def test_a_probe_that_fails_opens_it_for_twice_as_long(circuit: Loop) -> None:
    outcomes(circuit, 0, 0)
    circuit.look()
    outcomes(circuit, 0, 30)
    assert circuit.look() == ["opened.1"]
    assert circuit.look(limits.CAPABILITY_OPEN_S) == ["probing.1"]
    outcomes(circuit, 0, 1)
    assert circuit.look() == ["opened.2"]
    assert circuit.look(limits.CAPABILITY_OPEN_S) == []
    assert circuit.look(limits.CAPABILITY_OPEN_S) == ["probing.2"]


def test_old_failures_do_not_count_and_neither_does_a_partition_that_changed_hands(circuit: Loop) -> None:
    outcomes(circuit, 0, 0)
    circuit.look()
    outcomes(circuit, 0, 19)
    circuit.look()
    outcomes(circuit, 0, 1)
    assert circuit.look(limits.CAPABILITY_WINDOW_S + 1) == []
    circuit.world.fare = {("acme", "ocr"): Fare()}
    assert circuit.look() == []
    assert circuit.decider.open_count() == 0


def test_only_the_partition_of_the_name_decides() -> None:
    loop = Loop(CapabilityDecider((partition("ocr") + 1) % limits.PARTITIONS))
    for failed in (0, 100):
        outcomes(loop, 0, failed)
        assert loop.look() == []


def test_every_transition_of_a_circuit_is_walked() -> None:
    for (before, event), after in capability.TRANSITIONS.items():
        state = CapabilityState("acme", "ocr", circuit=msgspec.convert(before, capability.Circuit), n=1)
        assert state.apply(event, 2 if event == "opened" else 1, T)
        assert state.circuit == after
    assert not CapabilityState("acme", "ocr").apply("probing", 0, T)
    assert not CapabilityState("acme", "ocr").apply("opened", 7, T)


# --- the board -----------------------------------------------------------------------------


def test_parts_are_added_up_and_the_first_by_name_speaks() -> None:
    table, sums = PresenceTable(0.0), board.Sums("b")
    table.beat("acme", "w", "i1", b'{"about":{"capabilities":{"ocr":4}}}', 1.0)
    one = board.part(
        [{("acme", "ocr"): Fare(queued=2, claimed=1)}], [{("acme", "w"): 1}], [], frozenset({("acme", "w")})
    )
    two = board.part([{("acme", "ocr"): Fare(queued=3)}, {("acme", "tts"): Fare(queued=1)}], [], [], frozenset())

    def speaks() -> bool:  # a type checker takes a property for something that stays as it was
        return sums.speaks

    sums.hear("b", one, 1.0)
    assert speaks()
    sums.hear("a", two, 1.0)
    assert not speaks()
    sums.add_up(table, 1.0)
    sums.count(table)
    found = sums.boards(table, 9.0)
    assert (found["acme", "ocr"].depth, found["acme", "ocr"].running) == (5, 1)
    assert (found["acme", "ocr"].agents, found["acme", "ocr"].capacity, found["acme", "ocr"].starved) == (1, 4, False)
    assert found["acme", "tts"].starved
    assert table.usage("acme", "w").inflight == 1
    sums.hear("b", one, 9.0)
    sums.add_up(table, 9.0)  # "a" is silent: its part went with it
    assert speaks()
    assert ("acme", "tts") not in sums.boards(table, 9.0)


def test_news_is_all_once_a_second_and_what_changed_a_lot_between() -> None:
    table, sums = PresenceTable(0.0), board.Sums("b")

    def news(fares: dict[tuple[str, str], Fare], *, due: bool) -> dict[str, int]:
        sums.hear("b", board.part([fares], [], [], frozenset()), 1.0)
        sums.add_up(table, 1.0)
        said = sums.news(sums.boards(table, 5.0), all_of_them=due)
        return {place[1]: one.depth for place, one in said.items()}

    assert news({("acme", "ocr"): Fare(queued=2)}, due=False) == {"ocr": 2}
    assert news({("acme", "ocr"): Fare(queued=3)}, due=False) == {}
    assert news({("acme", "ocr"): Fare(queued=3)}, due=True) == {"ocr": 3}
    assert news({("acme", "ocr"): Fare(queued=limits.CAPABILITY_DEPTH)}, due=False) == {"ocr": limits.CAPABILITY_DEPTH}
    assert news({}, due=False) == {"ocr": 0}
    assert news({}, due=True) == {}
