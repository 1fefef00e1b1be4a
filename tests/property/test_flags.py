"""Flags without a server: who is in stays in while the percentage grows, and the log keeps them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coord.core import flags as core
from coord.core.flags import FlagDecider
from coord.wire.flagging import KEY, FlagRule, FlagSet
from tests.support.facts import Log


@given(st.text(max_size=20), st.floats(0, 100), st.floats(0, 100))
def test_who_is_in_stays_in_while_the_percentage_grows(subject: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if core.enabled("f", FlagSet(percentage=low), subject):
        assert core.enabled("f", FlagSet(percentage=high), subject)
    assert core.enabled("f", FlagSet(percentage=100), subject)
    assert not core.enabled("f", FlagSet(percentage=0), subject)
    assert not core.enabled("f", FlagSet(enabled=False), subject)


def test_the_share_is_what_was_said_and_other_flags_choose_others() -> None:
    subjects = [f"user-{n}" for n in range(10_000)]
    chosen = {s for s in subjects if core.enabled("f", FlagSet(percentage=10), s)}
    others = {s for s in subjects if core.enabled("g", FlagSet(percentage=10), s)}
    alike = {s for s in subjects if core.enabled("g", FlagSet(percentage=10, salt="f"), s)}
    assert 900 < len(chosen) < 1_100
    assert len(chosen & others) < 200
    assert alike == chosen


def test_the_bucket_is_the_protocols() -> None:
    # Vectors of docs/protocol.md §16.7.
    assert [round(core.bucket("f", s), 4) for s in ("", "user-1", "é")] == VECTORS


# printf "f\0user-1" | sha256sum | cut -c1-8, as a number, times 100 / 2^32
VECTORS = [53.3112, 16.1228, 51.8165]


def test_the_first_rule_that_fits_decides() -> None:
    said = FlagSet(
        percentage=0,
        rules=(
            FlagRule(agents=("bad",), percentage=0),
            FlagRule(labels={"region": "eu", "tier": "x"}),
            FlagRule(subjects=("vip",), agents=("a",)),
        ),
    )

    def on(subject: str, agent: str, **labels: str) -> bool:
        return core.enabled("f", said, subject, agent=agent, labels=labels)

    assert on("s", "a", region="eu", tier="x")
    assert not on("s", "bad", region="eu", tier="x")
    assert not on("s", "a", region="eu")
    assert on("vip", "a")
    assert not on("vip", "b")


def test_flags_stay_in_the_log_and_a_change_is_not_undone_by_stating_them_again() -> None:
    log = Log(FlagDecider())
    log.state("boss", "flag", "f", "set", key=KEY, data={"percentage": 10})
    log.state("boss", "flag", "g", "set", key=KEY, data={})
    again = list(log.decider.edge(len(log.facts) + 1))
    log.state("boss", "flag", "f", "set", key=KEY, data={"percentage": 20})
    log.state("boss", "flag", "g", "removed", key=KEY)
    log.perform(again)  # stored after the changes that it did not know of
    flag = log.decider.get("acme", "f")  # type: ignore[attr-defined]
    assert (flag.said.percentage, flag.by, flag.changes) == (20, "boss", 2)
    assert log.decider.get("acme", "g") is None  # type: ignore[attr-defined]
    log.state("boss", "flag", "f", "set", data={})  # another key
    assert log.decider.refused == {"flag.key": 1}
    log.reload()
    last = len(log.facts)
    log.perform(log.decider.edge(last + 1))
    left = Log(FlagDecider())
    left.facts = [log.facts[0]] * last
    for fact in log.facts[last:]:
        left.store(fact)
    found = left.decider.get("acme", "f")  # type: ignore[attr-defined]
    assert (found.said.percentage, found.by, found.at) == (20, "boss", flag.at)
