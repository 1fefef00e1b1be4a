"""Who is there: the table of instances, and what time, beats and lost connections do to it."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.client.beating import together_s
from coord.core import presence
from coord.core.presence import TRANSITIONS, Change, PresenceTable, state_after

WHO = ("acme", "a1", "i1")
START = 100.0
SETTLED = START + limits.PRESENCE_SETTLE_S + 0.01


def beat(every_s: float = 1.0, **fields: object) -> bytes:
    return msgspec.json.encode({"every_s": every_s, **fields})


def settled(*instances: str) -> PresenceTable:
    """A table that has been there for long, with instances of a1 that beat just now."""
    table = PresenceTable(START)
    at = START
    while at < SETTLED:
        for instance in instances:
            table.beat("acme", "a1", instance, beat(), at)
        table.tick(at)
        at += limits.PRESENCE_TICK_S
    for instance in instances:
        table.beat("acme", "a1", instance, beat(), SETTLED)
    table.tick(SETTLED)
    return table


def states(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(c.instance, c.state, c.reason) for c in changes]


def pass_time(table: PresenceTable, begin: float, end: float) -> list[Change]:
    found, at = [], begin
    while at <= end:
        found += table.tick(at)
        at += limits.PRESENCE_TICK_S
    return found


def test_one_that_beats_is_alive_and_nobody_else_is_known() -> None:
    table = settled("i1")
    assert table.state(*WHO) == "alive"
    assert table.lives(*WHO)
    assert table.state("acme", "a1", "i2") == "unknown"
    assert not table.lives("acme", "a1", "i2")


def test_a_hung_one_is_suspect_and_then_gone_within_three_seconds() -> None:
    table = settled("i1")
    found = pass_time(table, SETTLED, SETTLED + 3.0)
    assert states(found) == [("i1", "suspect", "overdue"), ("i1", "gone", "silent")]
    assert table.state(*WHO) == "gone"


def test_an_idle_one_has_the_time_that_it_says() -> None:
    table = settled()
    table.beat(*WHO, beat(5.0), SETTLED)
    assert pass_time(table, SETTLED, SETTLED + 5 * limits.SUSPECT_AFTER - 0.3) == []
    assert [c.state for c in pass_time(table, SETTLED + 7.3, SETTLED + 13)] == ["suspect", "gone"]


def test_one_that_holds_claims_and_says_no_more_is_due_every_second() -> None:
    table = settled()
    table.beat(*WHO, b'{"claims":1}', SETTLED)
    assert [c.state for c in pass_time(table, SETTLED, SETTLED + 3)] == ["suspect", "gone"]
    table.beat(*WHO, b"{}", SETTLED + 3)
    assert pass_time(table, SETTLED + 3, SETTLED + 6) == []


def test_a_killed_one_is_gone_when_the_grace_is_over() -> None:
    table = settled("i1")
    change = table.disconnected(*WHO, "s/1", SETTLED)
    assert change is not None
    assert change.state == "suspect"
    due = table.due_at()
    assert due == SETTLED + limits.DISCONNECT_GRACE_S
    assert table.lost(due - 0.001) == []
    assert states(table.lost(due)) == [("i1", "gone", "disconnected")]
    assert limits.DISCONNECT_GRACE_S < 0.1


def test_a_goodbye_that_is_heard_after_the_end_of_its_connection_is_a_goodbye() -> None:
    """On a machine that stood still: nobody is gone before all was heard that was said before."""
    table = settled("i1")
    table.disconnected(*WHO, "s/1", SETTLED)
    assert table.lost(SETTLED + 1, heard_to=SETTLED - 0.001) == []
    assert states([change for change in [table.beat(*WHO, b'{"bye":true}', SETTLED + 1)] if change]) == [
        ("i1", "gone", "bye")
    ]
    assert table.lost(SETTLED + 2, heard_to=SETTLED + 2) == []


def test_an_ended_connection_alone_is_no_suspicion_that_is_stated() -> None:
    """It is gone within the grace, or back, or its heartbeats are missed: hundreds that die are one fact each."""
    table = settled("i1", *(f"j{n}" for n in range(20)))
    table.disconnected(*WHO, "s/1", SETTLED)
    row = table.get(*WHO)
    assert row is not None
    assert row.state == "suspect", "but it is given nothing"
    assert table.state(*WHO) == "alive"
    table._forgive()  # as where too many connections ended for all of them to be deaths
    version = table.version
    pass_time(table, SETTLED, SETTLED + limits.SUSPECT_AFTER - 0.2)
    assert (table.state(*WHO), table.version) == ("alive", version)
    pass_time(table, SETTLED + limits.SUSPECT_AFTER - 0.2, SETTLED + limits.SUSPECT_AFTER + 0.3)
    assert table.state(*WHO) == "suspect"
    assert table.version != version, "deciders look again"
    table.beat(*WHO, beat(connection=2), SETTLED + limits.SUSPECT_AFTER + 0.4)
    assert table.state(*WHO) == "alive"


def test_one_that_reconnects_and_beats_keeps_everything() -> None:
    table = settled()
    table.beat(*WHO, beat(connection=1), SETTLED)
    table.disconnected(*WHO, "s/1", SETTLED)
    change = table.beat(*WHO, beat(connection=2), SETTLED + 0.02)
    assert change is not None
    assert (change.state, change.reason) == ("alive", "returned")
    assert table.due_at() is None
    assert table.lost(SETTLED + 1) == []


def test_a_beat_that_was_under_way_does_not_save_the_dead() -> None:
    table = settled()
    table.beat(*WHO, beat(connection=1), SETTLED)
    table.disconnected(*WHO, "s/1", SETTLED)
    assert table.beat(*WHO, beat(connection=1, load=0.5), SETTLED + 0.001) is None
    assert states(table.lost(SETTLED + 0.1)) == [("i1", "gone", "disconnected")]


def test_an_answer_saves_one_whose_new_connection_was_heard_of_before_the_end_of_the_old_one() -> None:
    table = settled()
    table.beat(*WHO, beat(connection=2), SETTLED)  # the new one already
    table.disconnected(*WHO, "s/1", SETTLED + 0.01)
    assert table.beat(*WHO, beat(connection=2, here=True), SETTLED + 0.02) is not None
    assert table.lost(SETTLED + 1) == []


def test_a_connection_that_began_before_the_old_one_ended_is_enough() -> None:
    table = settled("i1")
    table.connected(*WHO, "s/2", SETTLED)
    assert table.disconnected(*WHO, "s/1", SETTLED) is None
    assert table.disconnected(*WHO, "s/2", SETTLED) is not None


def test_a_connection_that_the_server_ended_is_no_death() -> None:
    table = settled("i1")
    assert table.disconnected(*WHO, "s/1", SETTLED, died=False) is None
    assert table.due_at() is None


def test_a_mass_disconnect_releases_nothing() -> None:
    names = [f"i{n}" for n in range(40)]
    table = settled(*names)
    for name in names:
        table.disconnected("acme", "a1", name, f"s/{name}", SETTLED)
    assert table.lost(SETTLED + limits.DISCONNECT_GRACE_S) == []
    for name in names[1:]:
        table.beat("acme", "a1", name, beat(connection=2), SETTLED + 0.5)
    gone = [c.instance for c in pass_time(table, SETTLED, SETTLED + 2.9) if c.state == "gone"]
    assert gone == ["i0"]  # its heartbeats decided


def killed(table: PresenceTable, count: int) -> None:
    for n in range(count):
        table.disconnected("acme", "a1", f"i{n}", f"s/{n}", SETTLED)
    assert table.lost(SETTLED + limits.DISCONNECT_GRACE_S) == []


def test_a_part_of_the_fleet_of_which_nobody_comes_back_has_died() -> None:
    """A process that hosts a third of all was killed: what it held is not to wait for heartbeats."""
    table = settled(*(f"i{n}" for n in range(60)))
    killed(table, 20)
    assert table.lost(SETTLED + limits.DISCONNECT_MASS_GRACE_S - 0.01) == []
    gone = [c.instance for c in table.lost(SETTLED + limits.DISCONNECT_MASS_GRACE_S + 0.01) if c.state == "gone"]
    assert sorted(gone) == sorted(f"i{n}" for n in range(20))


def test_a_part_of_the_fleet_of_which_somebody_comes_back_may_follow() -> None:
    table = settled(*(f"i{n}" for n in range(60)))
    killed(table, 21)
    table.beat("acme", "a1", "i0", beat(connection=2), SETTLED + 0.1)
    assert table.lost(SETTLED + limits.DISCONNECT_MASS_GRACE_S + 0.01) == []
    assert table.due_at() is None


def test_few_of_many_are_deaths_even_if_they_are_more_than_a_handful() -> None:
    names = [f"i{n}" for n in range(200)]
    table = settled(*names)
    for name in names[:20]:
        table.disconnected("acme", "a1", name, f"s/{name}", SETTLED)
    assert len(table.lost(SETTLED + limits.DISCONNECT_GRACE_S)) == 20


def test_our_own_blindness_is_nobodys_death() -> None:
    table = settled("i1")
    table.disconnected(*WHO, "s/1", SETTLED)
    table.blind()
    assert table.lost(SETTLED + 1) == []
    assert pass_time(table, SETTLED, SETTLED + 60) == []
    table.sees(SETTLED + 60)
    assert pass_time(table, SETTLED + 60, SETTLED + 60 + limits.PRESENCE_SETTLE_S - 0.3) == []
    assert table.lives("acme", "a1", "never-heard")
    assert "gone" in [c.state for c in pass_time(table, SETTLED + 65, SETTLED + 66)]


def test_connections_that_end_with_ours_are_forgiven_though_we_missed_who_came_back() -> None:
    table = settled("i1")
    table.blind()
    assert table.disconnected(*WHO, "s/1", SETTLED) is None  # read after our own end
    table.sees(SETTLED + 0.1)
    assert table.due_at() is None
    assert table.lost(SETTLED + 1) == []


def test_who_beats_rarely_has_its_time_again_after_we_were_deaf() -> None:
    table = settled()
    table.beat(*WHO, beat(50.0), SETTLED)
    pass_time(table, SETTLED, SETTLED + 60)
    table.blind()
    table.sees(SETTLED + 140)  # what it said meanwhile was not heard
    assert pass_time(table, SETTLED + 140, SETTLED + 214) == []
    assert states(pass_time(table, SETTLED + 214.9, SETTLED + 266)) == [
        ("i1", "suspect", "overdue"), ("i1", "gone", "silent"),
    ]  # fmt: skip


def test_all_who_stand_by_beat_a_bounded_number_of_times_together() -> None:
    assert presence.rest_s(0) == presence.rest_s(100) == limits.HEARTBEAT_IDLE_S
    assert 1_000 / presence.rest_s(1_000) == limits.RESTING_BEATS_PER_S
    assert presence.rest_s(10**6) == limits.HEARTBEAT_EVERY_MAX_S


@given(
    st.floats(0.1, 60.0), st.floats(0, 2e9), st.floats(-0.004, -0.001) | st.floats(0, 0.1),
    st.none() | st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_beats_come_together_and_never_later_than_said(
    due_s: float, now: float, late_s: float, share: float | None
) -> None:
    wait_s = together_s(due_s, now, share)
    # 5 ms late for timers that are a little early, which is nothing beside the half of `due_s` after which it matters.
    assert (0.0 if share is not None else 0.7 * due_s) < wait_s < due_s + 0.0051
    moment = (now + wait_s) / min(0.25, due_s / 4)
    assert abs(moment - round(moment)) < 1e-3
    for every_s in (limits.HEARTBEAT_S, limits.HEARTBEAT_IDLE_S):  # a timer that is a little off stays with the others
        own = now + together_s(every_s, now, share)
        assert abs(late_s + together_s(every_s, own + late_s, share) - every_s) < 1e-3


def test_those_who_beat_together_are_not_all_in_one_moment() -> None:
    """However close together they began: 5,000 that beat every five seconds are 250 in a quarter of one."""
    for every_s, moments in ((limits.HEARTBEAT_S, 4), (limits.HEARTBEAT_IDLE_S, 20)):
        found = Counter(round(1e9 + together_s(every_s, 1e9, n / 5_000), 3) for n in range(5_000))
        assert set(found.values()) == {5_000 // moments}


def test_after_the_start_nobody_is_gone_before_they_had_the_time_to_beat() -> None:
    table = PresenceTable(START)
    assert table.lives(*WHO)
    assert table.state(*WHO) == "alive"
    pass_time(table, START, START + limits.PRESENCE_SETTLE_S + 0.3)
    assert not table.lives(*WHO)


def test_a_process_that_stood_still_reads_before_it_judges() -> None:
    table = settled("i1")
    assert table.tick(SETTLED + 30) == []
    table.beat(*WHO, beat(), SETTLED + 30.01)
    assert pass_time(table, SETTLED + 30.2, SETTLED + 31) == []


def test_a_goodbye_is_at_once() -> None:
    table = settled("i1")
    change = table.beat(*WHO, beat(bye=True), SETTLED)
    assert change is not None
    assert (change.state, change.reason) == ("gone", "bye")
    assert table.beat("acme", "a1", "stranger", beat(bye=True), SETTLED) is not None


def test_one_that_was_gone_and_beats_is_back() -> None:
    table = settled("i1")
    pass_time(table, SETTLED, SETTLED + 3)
    change = table.beat(*WHO, beat(), SETTLED + 4)
    assert change is not None
    assert change.state == "alive"


def test_what_is_no_heartbeat_proves_nothing() -> None:
    table = settled()
    for body in (b"[]", b"{", b"\xff", b'{"every_s":-1}', b'{"claims":-1}', b" " * (limits.HEARTBEAT_BYTES_MAX + 1)):
        assert table.beat(*WHO, body, SETTLED) is None
    assert table.state(*WHO) == "unknown"
    assert table.ignored == 6
    table.beat(*WHO, b"", SETTLED)  # an empty one is one, as `{}` is
    assert table.state(*WHO) == "alive"


def test_one_name_with_a_new_instance_every_time_is_bounded_and_harms_nobody() -> None:
    table = settled("i1")
    for n in range(10_000):
        table.beat("acme", "flood", f"x{n}", beat(), SETTLED)
    assert len(list(table.instances("acme", "flood"))) == limits.PRESENCE_PER_AGENT_MAX
    assert table.ignored == 10_000 - limits.PRESENCE_PER_AGENT_MAX
    assert table.lives("acme", "flood", "x9999")  # doubt: it is not watched
    assert table.beat("acme", "a2", "i1", beat(), SETTLED) is None
    assert table.state("acme", "a2", "i1") == "alive"


def test_a_full_table_forgets_the_gone_and_then_doubts() -> None:
    table = PresenceTable(START, instances_max=3)
    for n in range(3):
        table.beat("acme", f"a{n}", "i", beat(), SETTLED)
    table.tick(SETTLED)
    table.beat("acme", "a0", "i", beat(bye=True), SETTLED)
    table.beat("acme", "a3", "i", beat(), SETTLED + 2)
    assert [row.agent for row in table.rows("acme")] == ["a1", "a2", "a3"]
    table.beat("acme", "a4", "i", beat(), SETTLED + 4)
    assert table.ignored == 1
    assert table.lives("acme", "a4", "i")


def test_capabilities_are_found_and_forgotten_with_what_an_instance_says() -> None:
    table = settled()
    table.beat(*WHO, beat(about={"capabilities": {"ocr": 2, "sum": 1}}), SETTLED)
    assert [row.instance for row in table.rows("acme", "ocr")] == ["i1"]
    table.beat(*WHO, beat(about={"capabilities": {"sum": 1}}), SETTLED)
    assert list(table.rows("acme", "ocr")) == []
    assert {place for place, _ in table.capabilities()} == {("acme", "sum")}


def test_who_is_gone_is_forgotten_in_the_end() -> None:
    table = settled("i1")
    pass_time(table, SETTLED, SETTLED + 3)
    assert len(table) == 1
    pass_time(table, SETTLED + 3, SETTLED + 4 + limits.PRESENCE_KEPT_S)
    assert len(table) == 0


EVENTS = st.one_of(
    st.tuples(st.just("beat"), st.booleans()),
    st.tuples(st.just("connected"), st.integers(1, 3)),
    st.tuples(st.just("disconnected"), st.integers(1, 3)),
    st.tuples(st.just("pass"), st.floats(0.01, 4)),
    st.tuples(st.just("blind"), st.none()),
    st.tuples(st.just("bye"), st.none()),
)


@given(st.lists(st.tuples(st.integers(0, 4), EVENTS), max_size=60))
def test_whatever_happens_every_change_is_in_the_table_and_gone_is_told_once(events) -> None:
    table, now, before = PresenceTable(START), START, {}
    for n, (what, value) in events:
        who = ("acme", "a1", f"i{n}")
        changes: list[Change | None] = []
        if what == "beat":
            if table.get(*who) is None:
                before[f"i{n}"] = "alive"  # a new one is alive without a change
            changes = [table.beat(*who, beat(connection=int(now) if value else None), now)]
        elif what == "connected":
            changes = [table.connected(*who, f"s/{value}", now)]
        elif what == "disconnected":
            changes = [table.disconnected(*who, f"s/{value}", now)]
        elif what == "bye":
            changes = [table.beat(*who, beat(bye=True), now)]
        elif what == "blind":
            table.blind()
            table.sees(now)
        else:
            end = now + value
            while now < end:
                now += limits.PRESENCE_TICK_S
                changes += table.lost(now)
                changes += table.tick(now)
        for change in filter(None, changes):
            was = before.get(change.instance, "alive" if change.reason != "bye" else "-")
            assert change.state != was or change.reason == "bye"
            assert change.state in TRANSITIONS.values()
            before[change.instance] = change.state
        assert table.pending == sum(1 for row in table.rows() if row.closed_at is not None)


def test_every_transition_is_walked() -> None:
    """Each (state, what happens) of the table, from a table brought into that state."""
    for (state, what), after in TRANSITIONS.items():
        table = settled() if state == "-" else settled("i1")
        row = table.get(*WHO)
        if row is not None:
            row.state = state  # type: ignore[assignment]
            assert table._enter(row, what, "silent", SETTLED) is None or row.state == after
            assert row.state == after, (state, what)
        else:
            table.beat(*WHO, beat(), SETTLED)
            assert table.state(*WHO) == after


@pytest.mark.parametrize(
    ("event", "data", "state"),
    [
        ("gone", '{"instance":"i1","others":0}', "gone"),
        ("gone", '{"instance":"i1","others":2}', None),
        ("gone", "[1]", "gone"),
        ("left", None, "left"),
        ("registered", '{"instance":"i1"}', "alive"),
        ("quarantined", '{"quota":"inflight"}', "quarantined"),
        ("unheard-of", None, None),
    ],
)
def test_the_end_of_one_instance_is_not_the_agents(event, data, state) -> None:
    assert state_after(event, data) == state
    assert {"alive", "suspect", "gone", "left", "draining", "quarantined"} <= presence.STATES


def test_what_we_hear_late_is_nobodys_silence() -> None:
    """The broker, or we, have much to do: what was said is on its way."""
    table = settled("i1")
    lag_s, at, found = 2.0, SETTLED, list[tuple[float, str]]()
    while at < SETTLED + 6.0:
        found += [(at - SETTLED, change.state) for change in table.tick(at, lag_s)]
        at += limits.PRESENCE_TICK_S
    assert [state for _, state in found] == ["suspect", "gone"]
    assert found[0][0] >= limits.SUSPECT_AFTER + lag_s
    assert limits.GONE_AFTER + lag_s <= found[1][0] < 3.0 + lag_s


def test_while_a_fleet_comes_back_nobody_is_gone_who_is_still_on_the_way() -> None:
    """A broker that was started again takes thousands of connections one after another."""
    fleet = [f"i{n}" for n in range(40)]
    table = settled(*fleet, "dead")
    table.blind()
    back = SETTLED + 5.0
    table.sees(back)
    found, at, last = [], back, back + 0.5 * len(fleet)
    while at < back + limits.PRESENCE_RETURN_S:
        for n, instance in enumerate(fleet):
            if at >= back + 0.5 * n:
                table.beat("acme", "a1", instance, beat(connection=2, load=at), at)
        found += [(change.instance, change.state, at) for change in table.tick(at)]
        at += limits.PRESENCE_TICK_S
    assert [(instance, state) for instance, state, _ in found] == [("dead", "gone")]
    assert found[0][2] <= last + 3.0

    table.blind()
    table.sees(at)
    begun = at
    while at < begun + limits.PRESENCE_RETURN_S + 1.0:  # one comes every second, for ever: who is gone is gone
        table.beat("acme", "a1", f"i{int(at - begun) % 40}", beat(connection=int(at), load=at), at)
        changes = table.tick(at)
        at += limits.PRESENCE_TICK_S
        if any(change.state == "gone" for change in changes):
            break
    assert at <= begun + limits.PRESENCE_RETURN_S + 2 * limits.PRESENCE_TICK_S


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("every_s", [1.0, 30.0])
def test_whoever_comes_back_gives_the_others_time(every_s: float, told: bool) -> None:
    """Who does nothing beats rarely, and the server tells of a connection before who made it beats."""
    fleet = [f"i{n}" for n in range(20)]
    table = settled(*fleet, "busy")
    for instance in fleet:
        table.beat("acme", "a1", instance, beat(every_s), SETTLED)
    table.blind()
    back = SETTLED + 1.0
    table.sees(back)
    came, at, found = set[str](), back, list[Change]()
    while at < back + 0.5 * len(fleet):
        for n, instance in enumerate(fleet):
            if at >= back + 0.5 * n:
                if told and instance not in came:
                    table.connected("acme", "a1", instance, "c2", at)
                came.add(instance)
                table.beat("acme", "a1", instance, beat(every_s, connection=2, load=at), at)
        found += table.tick(at)
        at += limits.PRESENCE_TICK_S
    assert [c.state for c in found if c.instance == "busy"] in ([], ["suspect"])
    assert len(came) == len(fleet)
