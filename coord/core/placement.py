"""Who gets a task whose submitter asked for a placement: strategies, each a pure function of the candidates.

::

    candidates ── eligible: labels, memory, room, not tried yet ──▶ strategy ──▶ scores ──▶ the best

A strategy scores every eligible candidate, higher is better, and knows nothing else.  The order
of the scores is the order in which targets are offered the task: `choose` with those that did not
take it in `tried` gives the next one.

| strategy | promises |
|---|---|
| `round_robin` | of as many tasks as the sum of the weights, each gets its weight, spread out, while all are eligible |
| `least_connections` | the smallest share of its slots taken |
| `response_time` | a share of the tasks proportional to 1 / mean response time |
| `resources` | the best of load, resource fit, affinity and history, weighted |
| `label` | the first of the named values of one label (a region) of which somebody has room |
| `agent` | one agent, the least loaded of its instances |

What is random elsewhere is a hash of the task's name here: the same task and candidates give the
same decision, in whichever process and however often, and over many tasks the shares are those
that the table promises.  Time, presence and the log are the scheduler's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord.errors import InvalidPayload
from coord.wire import arguments

Strategy: TypeAlias = Literal["round_robin", "least_connections", "response_time", "resources", "label", "agent"]

Ident: TypeAlias = tuple[str, str]
"""(agent, instance)."""

CANDIDATES_SAID: Final = 16
"""How many candidates, the best first, a decision carries: the fact stays below two kilobytes."""

RESPONSE_UNKNOWN_S: Final = 0.1
"""Taken for the response time where nobody has one: then all are alike."""

RESPONSE_LEAST_S: Final = 0.001
"""Below this response times are the network's, not the agent's."""

EWMA_WEIGHT: Final = 0.2
"""Of the newest outcome: the last ten make up nine tenths of the mean."""


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the parts of the `resources` score count; only their proportions matter."""

    load: float = 0.30
    fit: float = 0.25
    affinity: float = 0.25
    history: float = 0.20


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an agent is chosen for a task.

    `strategy`: ``resources`` (default; `weights` of load, fit, affinity and history, `prefer`: labels that speak for
    an agent), ``round_robin``, ``least_connections``, ``response_time``, ``label`` (the first of `values` of the label
    `label` where somebody has room) or ``agent`` (the one named `agent`).  `strict`: nobody else may take it where
    nobody has one of `values`, or the agent is not there.  `require`: labels, and `memory_mib` memory, that an agent
    must have.  `accept_ms` (500; 10 to 60,000): how long whoever is offered it has to claim it.  After `offers_max`
    offers (3), or `wait_s` (10) without anybody who may have it, it is left to whoever is free first, unless something
    is demanded (`strict`, `require`, `memory_mib`): then it waits.
    """

    strategy: Strategy = "resources"
    agent: str | None = None
    """Of `agent`: its name."""
    label: str = "region"
    """Of `label`: which one,"""
    values: tuple[str, ...] = ()
    """and its values, the nearest first."""
    strict: bool = False
    """Whether nobody else may take it when no one fits the label's values, or the agent is not there."""
    memory_mib: float = 0.0
    """What the task needs."""
    prefer: dict[str, str] = {}
    """Labels that speak for an agent: the affinity of `resources`."""
    weights: Weights = Weights()
    require: dict[str, str] = {}
    """Labels that an agent must have."""
    accept_ms: int = 500
    """How long whoever is offered the task has to claim it; then the next one is."""
    offers_max: int = 3
    """After so many offers that nobody accepted it is left to whoever is free first."""
    wait_s: float = 10.0
    """And after it has waited so long for somebody who is eligible."""

    @property
    def binding(self) -> bool:
        """Whether it demands something of an agent that a pull does not look at: then it is never left to one."""
        return self.strict or bool(self.require) or self.memory_mib > 0

    def validate(self) -> Placement:
        """Itself, or `InvalidPayload` naming what does not fit together."""
        if self.strategy == "agent" and not self.agent:
            raise InvalidPayload("a placement on one agent names it", strategy=self.strategy)
        if self.strategy == "label" and not (self.label and self.values):
            raise InvalidPayload("a placement by label names the label and at least one value", label=self.label)
        if not (math.isfinite(self.memory_mib) and self.memory_mib >= 0):
            raise InvalidPayload("memory_mib must be finite and not negative", memory_mib=self.memory_mib)
        parts = [getattr(self.weights, name) for name in Weights.__struct_fields__]
        if not all(math.isfinite(part) and part >= 0 for part in parts) or not 0 < sum(parts) < math.inf:
            raise InvalidPayload("weights must be finite, not negative and not all zero", weights=parts)
        if not 10 <= self.accept_ms <= 60_000:
            raise InvalidPayload("accept_ms must be 10 to 60000", accept_ms=self.accept_ms)
        if not 1 <= self.offers_max <= 100:
            raise InvalidPayload("offers_max must be 1 to 100", offers_max=self.offers_max)
        if not 0 <= self.wait_s <= 86_400:
            raise InvalidPayload("wait_s must be 0 to 86400", wait_s=self.wait_s)
        return self


def data_of(asked: Placement | Mapping[str, Any]) -> dict[str, Any]:
    """What a submission says of it; raises `InvalidPayload`."""
    data: dict[str, Any] = msgspec.to_builtins(parse(asked))
    return data


def parse(said: Placement | Mapping[str, Any]) -> Placement:
    """A submission's `placement`; raises `InvalidPayload`."""
    if isinstance(said, Placement):
        checked: Placement = arguments.as_kind(said, Placement, "placement")
        return checked.validate()
    arguments.is_a(said, Mapping, "placement", "a coord.Placement, or a mapping such as {'strategy': 'round_robin'}")
    try:
        return msgspec.convert(dict(said), Placement).validate()
    except msgspec.ValidationError as exc:
        raise InvalidPayload(f"placement: {arguments.reason(exc, Placement)}") from exc


class History(msgspec.Struct, frozen=True):
    """How an agent's earlier tasks of a capability went: exponentially weighted means."""

    response_s: float | None = None
    """None: it has ended none."""
    failures: float = 0.0
    """Share that failed, 0 to 1."""

    def after(self, run_s: float, *, failed: bool) -> History:
        """With one more outcome."""
        before = self.response_s
        mean = run_s if before is None else before + EWMA_WEIGHT * (run_s - before)
        return History(mean, self.failures + EWMA_WEIGHT * (float(failed) - self.failures))


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of an agent that has the capability, as its heartbeat and its history say."""

    agent: str
    instance: str
    load: float = 0.0
    """0 to 1, of the whole agent."""
    capacity: int = 1
    """Slots of the capability."""
    running: int = 0
    """Slots taken, those included that were offered a task and have not answered."""
    labels: dict[str, str] = {}
    memory_mib: float | None = None
    """Free; None: it said nothing, and is believed to have enough."""
    weight: float = 1.0
    """Relative, of `round_robin`."""
    history: History = History()

    @property
    def ident(self) -> Ident:
        """Its key."""
        return self.agent, self.instance

    @property
    def taken(self) -> float:
        """Share of its slots."""
        return self.running / self.capacity if self.capacity > 0 else 1.0


class Score(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a strategy thinks of one candidate."""

    agent: str
    instance: str
    score: float
    parts: dict[str, float] = {}
    """What it is made of, each 0 to 1, before the weights."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What ``task.placed.{n}`` says: who was chosen, of whom, and why."""

    strategy: Strategy
    agent: str | None = None
    """None: nobody is eligible."""
    instance: str | None = None
    reason: str = ""
    considered: int = 0
    """How many were eligible."""
    passed_over: dict[str, int] = {}
    """Why the others were not: reason → how many."""
    candidates: tuple[Score, ...] = ()
    """The best first, at most `CANDIDATES_SAID`."""
    pull: bool = False
    """It is left to whoever is free first."""
    again: bool = False
    """Everybody was tried; the next decision begins with all of them."""


class Turns(msgspec.Struct, frozen=True):
    """What `round_robin` remembers of one capability between two decisions: who is owed how much."""

    owed: dict[Ident, float] = {}


# --- who may take it -----------------------------------------------------------------------


def unfit(asked: Placement, tried: Collection[Ident], one: Candidate) -> str | None:
    """Why this candidate may not have the task; None: it may."""
    if one.ident in tried:
        return "tried"
    if any(one.labels.get(name) != value for name, value in asked.require.items()):
        return "labels"
    if one.running >= one.capacity:
        return "full"
    if one.memory_mib is not None and one.memory_mib < asked.memory_mib:
        return "memory"
    if asked.strict and asked.strategy == "agent" and one.agent != asked.agent:
        return "agent"
    if asked.strict and asked.strategy == "label" and one.labels.get(asked.label) not in asked.values:
        return "label"
    return None


# --- strategies ----------------------------------------------------------------------------


def round_robin(able: list[Candidate], turns: Turns) -> tuple[list[Score], Turns]:
    """Smooth weighted: everybody is owed its weight more, who is owed most is next and pays for all.

    The algorithm of nginx; those who are not eligible now are owed nothing later.
    """
    owed = {one.ident: turns.owed.get(one.ident, 0.0) + max(0.0, one.weight) for one in able}
    # Equals in the order of their names: the fold of the same tasks is the same.
    order = sorted(able, key=lambda one: (-owed[one.ident], one.ident))
    scores = [Score(one.agent, one.instance, owed[one.ident]) for one in order]
    if order:
        owed[order[0].ident] -= sum(max(0.0, one.weight) for one in able)
    return scores, Turns(owed)


def least_connections(able: list[Candidate]) -> list[Score]:
    """The share of its slots that is free."""
    return [Score(one.agent, one.instance, 1.0 - one.taken) for one in able]


def response_time(able: list[Candidate], seed: str) -> list[Score]:
    """A draw weighted by 1 / response time, by the hash of task and candidate.

    Weighted rendezvous: the largest of ``-w / ln u`` is candidate i with probability w_i / sum(w), and one who
    comes or leaves changes only the decisions that it wins or had won.  Who has no history counts as the mean
    of the others, so that it gets one.
    """
    known = [max(RESPONSE_LEAST_S, one.history.response_s) for one in able if one.history.response_s is not None]
    mean_s = sum(known) / len(known) if known else RESPONSE_UNKNOWN_S
    scores = []
    for one in able:
        took_s = one.history.response_s
        weight = 1.0 / max(RESPONSE_LEAST_S, mean_s if took_s is None else took_s)
        scores.append(Score(one.agent, one.instance, -weight / math.log(_draw(seed, one.ident)), {}))
    return scores


def resources(able: list[Candidate], asked: Placement) -> list[Score]:
    """The weighted mean of load, resource fit, affinity and history, each 0 (worst) to 1."""
    weights = asked.weights
    total = weights.load + weights.fit + weights.affinity + weights.history
    slowest_s = max((one.history.response_s or 0.0 for one in able), default=0.0)
    scores = []
    for one in able:
        parts = {
            "load": 1.0 - min(1.0, max(0.0, one.load)),
            "fit": _fit(one, asked),
            "affinity": _affinity(one, asked),
            "history": _history(one, slowest_s),
        }
        score = sum(getattr(weights, name) * part for name, part in parts.items()) / total
        scores.append(Score(one.agent, one.instance, score, parts))
    return scores


def by_label(able: list[Candidate], asked: Placement) -> list[Score]:
    """Nearer values before all others; among those of one value the least loaded."""
    rank = {value: len(asked.values) - at for at, value in reversed(list(enumerate(asked.values)))}
    return [
        # Free slots are worth less than one, so that they never outweigh the distance.
        Score(one.agent, one.instance, rank.get(one.labels.get(asked.label, ""), 0) + (1.0 - one.taken) / 2)
        for one in able
    ]


def pinned(able: list[Candidate], asked: Placement) -> list[Score]:
    """The agent's instances before all others; among equals the least loaded."""
    return [Score(one.agent, one.instance, float(one.agent == asked.agent) + (1.0 - one.taken) / 2) for one in able]


_STRATEGIES: Final[dict[Strategy, Callable[[list[Candidate], Placement, str], list[Score]]]] = {
    "least_connections": lambda able, _asked, _seed: least_connections(able),
    "response_time": lambda able, _asked, seed: response_time(able, seed),
    "resources": lambda able, asked, _seed: resources(able, asked),
    "label": lambda able, asked, _seed: by_label(able, asked),
    "agent": lambda able, asked, _seed: pinned(able, asked),
}


def choose(
    asked: Placement,
    candidates: Iterable[Candidate],
    *,
    seed: str,
    tried: Collection[Ident] = (),
    turns: Turns | None = None,
) -> tuple[Decision, Turns]:
    """Who gets the task.

    `seed`: the task's tenant, key and id.  `tried`: who was offered it and did not take it.  `turns`: what the last
    decision of this capability returned, for `round_robin`.
    """
    turns = turns or Turns()
    able: list[Candidate] = []
    passed: dict[str, int] = {}
    for one in candidates:
        why = unfit(asked, tried, one)
        if why is None:
            able.append(one)
        else:
            passed[why] = passed.get(why, 0) + 1
    if asked.strategy == "round_robin":
        scores, turns = round_robin(able, turns)
    else:
        scores = _STRATEGIES[asked.strategy](able, asked, seed)
        # Equals share: which of them is first is a matter of the task's hash.
        scores.sort(key=lambda s: (-s.score, _draw(seed, (s.agent, s.instance))))
    if not scores:
        reason = "nobody is eligible"
        return Decision(strategy=asked.strategy, reason=reason, passed_over=passed), turns
    best = scores[0]
    decision = Decision(
        strategy=asked.strategy,
        agent=best.agent,
        instance=best.instance,
        reason=f"{asked.strategy}: {best.score:.4g}, the best of {len(scores)}",
        considered=len(scores),
        passed_over=passed,
        candidates=tuple(scores[:CANDIDATES_SAID]),
    )
    return decision, turns


# --- parts ---------------------------------------------------------------------------------


def _fit(one: Candidate, asked: Placement) -> float:
    """Free slots, and memory left when the task has its part: the scarcer of them."""
    slots = 1.0 - one.taken
    if one.memory_mib is None or asked.memory_mib == 0:
        return slots
    return min(slots, 1.0 - asked.memory_mib / one.memory_mib)


def _affinity(one: Candidate, asked: Placement) -> float:
    """The share of the preferred labels that it has; 1 where none is preferred."""
    if not asked.prefer:
        return 1.0
    return sum(one.labels.get(name) == value for name, value in asked.prefer.items()) / len(asked.prefer)


def _history(one: Candidate, slowest_s: float) -> float:
    """What succeeds, and fast: half each; who has no history is believed to do both."""
    took_s = one.history.response_s
    fast = 1.0 if took_s is None or slowest_s <= 0 else 1.0 - took_s / slowest_s / 2
    return (1.0 - one.history.failures) * 0.5 + fast * 0.5


def spot(seed: str, count: int) -> int:
    """A place among so many, by the task's name."""
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest()) % count


def _draw(seed: str, ident: Ident) -> float:
    """Uniform in (0, 1), by the name of the task and of the candidate: 52 bits, so that it never rounds to 1."""
    text = "\0".join((seed, *ident)).encode()
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) // 4096 + 0.5) / 2**52
