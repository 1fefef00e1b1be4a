"""Each placement strategy gives the distribution that it promises, and the same one each time."""

from __future__ import annotations

import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import errors
from coord.core import placement
from coord.core.placement import Candidate, Decision, History, Placement, Turns, Weights, choose

TASKS = 4_000


def one(agent: str, **said: object) -> Candidate:
    return Candidate(agent=agent, instance="i1", capacity=said.pop("capacity", 10), **said)  # type: ignore[arg-type]


def run(asked: Placement, candidates: list[Candidate], tasks: int = TASKS) -> list[str | None]:
    """Who gets each of so many tasks, all of them idle again at the next."""
    turns = Turns()
    chosen = []
    for n in range(tasks):
        decision, turns = choose(asked, candidates, seed=f"t/{n}", turns=turns)
        chosen.append(decision.agent)
    return chosen


def test_round_robin_gives_each_its_weight_in_every_round_spread_out() -> None:
    weights = {"a": 5, "b": 1, "c": 1}
    chosen = run(Placement(strategy="round_robin"), [one(name, weight=float(w)) for name, w in weights.items()], 70)
    assert chosen[:7] == ["a", "a", "b", "a", "c", "a", "a"]
    for at in range(0, 70, 7):
        assert Counter(chosen[at : at + 7]) == weights


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4))
def test_round_robin_is_exact_over_whole_rounds(weights: list[int], rounds: int) -> None:
    agents = [one(f"a{n}", weight=float(w)) for n, w in enumerate(weights)]
    counts = Counter(run(Placement(strategy="round_robin"), agents, sum(weights) * rounds))
    assert counts == {f"a{n}": w * rounds for n, w in enumerate(weights)}


def test_least_connections_fills_evenly_by_share_of_the_slots() -> None:
    capacity, running = {"a": 40, "b": 20, "c": 10}, Counter[str]()
    for n in range(70):
        agents = [one(name, capacity=c, running=running[name]) for name, c in capacity.items()]
        decision, _ = choose(Placement(strategy="least_connections"), agents, seed=f"t/{n}")
        assert decision.agent is not None
        running[decision.agent] += 1
        shares = [running[name] / c for name, c in capacity.items()]
        assert max(shares) - min(shares) <= 1 / min(capacity.values()) + 1e-9
    assert running == capacity
    agents = [one(name, capacity=c, running=running[name]) for name, c in capacity.items()]
    decision, _ = choose(Placement(strategy="least_connections"), agents, seed="full")
    assert (decision.agent, decision.passed_over) == (None, {"full": 3})


def test_response_time_gives_shares_proportional_to_speed() -> None:
    took_s = {"a": 0.1, "b": 0.2, "c": 0.4}
    agents = [one(name, history=History(s)) for name, s in took_s.items()]
    counts = Counter(run(Placement(strategy="response_time"), agents))
    speed = sum(1 / s for s in took_s.values())
    for name, s in took_s.items():
        share = 1 / s / speed
        deviation = math.sqrt(share * (1 - share) / TASKS)
        assert abs(counts[name] / TASKS - share) < 4 * deviation


def test_whoever_leaves_changes_only_what_it_would_have_got() -> None:
    agents = [one(name, history=History(0.1)) for name in "abcd"]
    asked = Placement(strategy="response_time")
    # The mean of the response times is the same with and without it, so that the weights are.
    for before, after in zip(run(asked, agents), run(asked, agents[:3]), strict=True):
        assert before in (after, "d")


def test_resources_is_the_weighted_mean_of_its_parts() -> None:
    asked = Placement(prefer={"gpu": "yes"}, memory_mib=100.0)
    agent = one("a", load=0.5, running=2, memory_mib=400.0, labels={"gpu": "yes"}, history=History(1.0, 0.2))
    decision, _ = choose(asked, [agent], seed="x")
    score = decision.candidates[0]
    assert score.parts == pytest.approx({"load": 0.5, "fit": 0.75, "affinity": 1.0, "history": 0.4 + 0.25})
    assert score.score == pytest.approx(0.30 * 0.5 + 0.25 * 0.75 + 0.25 * 1.0 + 0.20 * 0.65)


@pytest.mark.parametrize(
    ("part", "better"),
    [
        ("load", {"load": 0.1}),
        ("fit", {"running": 1}),
        ("affinity", {"labels": {"gpu": "yes"}}),
        ("history", {"history": History(0.2, 0.0)}),
    ],
)
def test_each_weight_decides_alone_where_it_is_the_only_one(part: str, better: dict[str, object]) -> None:
    worse = {"load": 0.9, "running": 8, "labels": {}, "history": History(1.0, 0.5)}
    weights = Weights(**(dict.fromkeys(Weights.__struct_fields__, 0.0) | {part: 1.0}))
    asked = Placement(prefer={"gpu": "yes"}, weights=weights)
    assert set(run(asked, [one("worse", **worse), one("better", **worse | better)], 50)) == {"better"}


def test_equals_share_evenly() -> None:
    counts = Counter(run(Placement(), [one(name) for name in "abcd"]))
    assert all(abs(counts[name] / TASKS - 0.25) < 4 * math.sqrt(0.25 * 0.75 / TASKS) for name in "abcd")


def test_label_prefers_the_nearest_value_with_room() -> None:
    near = one("near", labels={"region": "eu-west"}, running=9)
    next_ = one("next", labels={"region": "eu-north"})
    far = one("far", labels={"region": "us"})
    asked = Placement(strategy="label", values=("eu-west", "eu-north"))
    assert choose(asked, [far, next_, near], seed="x")[0].agent == "near"
    full = msgspec.structs.replace(near, running=10)
    assert choose(asked, [far, next_, full], seed="x")[0].agent == "next"
    assert choose(asked, [far], seed="x")[0].agent == "far"
    strict = msgspec.structs.replace(asked, strict=True)
    assert choose(strict, [far], seed="x")[0] == Decision(
        strategy="label", reason="nobody is eligible", passed_over={"label": 1}
    )


def test_pinned_takes_the_least_loaded_instance_of_the_agent() -> None:
    mine = [Candidate(agent="a", instance=f"i{n}", capacity=4, running=3 - n) for n in range(3)]
    asked = Placement(strategy="agent", agent="a")
    decision, _ = choose(asked, [*mine, one("b")], seed="x")
    assert (decision.agent, decision.instance) == ("a", "i2")
    tried = {m.ident for m in mine}
    assert choose(asked, [*mine, one("b")], seed="x", tried=tried)[0].agent == "b"
    strict = msgspec.structs.replace(asked, strict=True)
    assert choose(strict, [*mine, one("b")], seed="x", tried=tried)[0].agent is None


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        agent=st.sampled_from("abcdef"),
        instance=st.sampled_from(["i", "j", "k"]),
        load=st.floats(0, 1),
        capacity=st.integers(0, 4),
        running=st.integers(0, 5),
        labels=st.dictionaries(st.sampled_from(["region", "gpu"]), st.sampled_from(["x", "y"])),
        memory_mib=st.none() | st.floats(0, 1_000),
        weight=st.floats(0, 10),
        history=st.builds(History, st.none() | st.floats(0, 100), st.floats(0, 1)),
    ),
    max_size=12,
    unique_by=lambda c: c.ident,
)
ASKED = st.builds(
    Placement,
    strategy=st.sampled_from(["round_robin", "least_connections", "response_time", "resources", "label", "agent"]),
    agent=st.just("a"),
    values=st.just(("x",)),
    strict=st.booleans(),
    memory_mib=st.floats(0, 500),
    prefer=st.just({"gpu": "y"}),
)


@given(ASKED, CANDIDATES, st.text(max_size=5), st.randoms(use_true_random=False))
def test_decisions_are_sound_and_do_not_depend_on_the_order(asked, able, seed, random) -> None:
    if random.random() < 0.3:
        asked = msgspec.structs.replace(asked, require={"gpu": "y"})
    offered: list[tuple[str, str]] = []
    while True:  # each target in turn refuses: everybody who may have it is asked once
        decision, _ = choose(asked, able, seed=seed, tried=offered)
        assert decision.considered + sum(decision.passed_over.values()) == len(able)
        again, _ = choose(asked, random.sample(able, len(able)), seed=seed, tried=offered)
        assert again == decision
        msgspec.json.encode(decision)
        if decision.agent is None:
            break
        assert decision.instance is not None
        chosen = next(c for c in able if c.ident == (decision.agent, decision.instance))
        assert placement.unfit(asked, offered, chosen) is None
        offered.append(chosen.ident)
        assert all(math.isfinite(score.score) for score in decision.candidates)
    assert len(offered) == sum(placement.unfit(asked, (), c) is None for c in able)


def test_history_forgets() -> None:
    history = History()
    assert history.after(2.0, failed=False) == History(2.0, 0.0)
    for _ in range(50):
        history = history.after(1.0, failed=True)
    for _ in range(10):
        history = history.after(0.0, failed=False)
    assert history.response_s == pytest.approx(0.8**10)
    assert history.failures == pytest.approx(0.8**10, rel=1e-3)


@pytest.mark.parametrize(
    "said",
    [
        {"strategy": "dice"},
        {"strategy": "agent"},
        {"strategy": "label"},
        {"memory_mib": -1},
        {"weights": {"load": 0, "fit": 0, "affinity": 0, "history": 0}},
        {"weights": {"load": -1}},
        {"typo": 1},
    ],
)
def test_what_is_no_placement_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidPayload):
        placement.parse(said)


def test_a_placement_survives_its_submission() -> None:
    asked = Placement(strategy="label", values=("eu", "us"), weights=Weights(load=1.0))
    data = placement.data_of(asked)
    assert placement.parse(msgspec.json.decode(msgspec.json.encode(data))) == asked
    assert placement.data_of(data) == data
