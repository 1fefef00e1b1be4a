"""Who judges a run: the rules of docs/protocol.md §16, written once more and plainly, and what must hold of a log.

It knows nothing of the folds that are under test: what it believes of a task, a lock and a signal it
works out of the raw facts.  A rule that is broken is noted at the moment it is; the others
are looked at when everything has come to rest.
"""

from __future__ import annotations

import bisect
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from coord import limits
from coord.core import locks
from coord.core.deciding import Push, Settle, State
from coord.core.placement import Placement
from coord.testing.broker import TENANT, Stored
from coord.testing.rules import AT_ONCE, FlagRules, Rules, TableRules, TimerRules, said_of, stored_s
from coord.testing.rules_agents import AgentRules, CircuitRules, HandoffRules
from coord.wire.envelope import StoredFact
from coord.wire.flow import Rerun, Started
from coord.wire.work import Completed

if TYPE_CHECKING:
    from coord.testing.simulation import World

OPEN = ("queued", "claimed", "waiting")

PERMITS = {"door": 1, "gate": 2}
"""Of the locks that there are: how many hold one at a time."""

LEASES = {"lease": 1, "pool": 2}
"""Of those that are held by leases."""

_UNHEARD_S = 8.0
"""A decision about a lease may be stored so long after it was taken: before a renewal that it did not see;"""
_CALM_S = 0.5
"""but not so long where nothing goes wrong."""


class TaskState(NamedTuple):
    """What a task is from a sequence on."""

    status: str
    delivery: int
    """The submission that its queue delivers."""
    claims: int
    agent: str
    instance: str | None
    queue: str
    offered: tuple[int, tuple[str, str] | None] = (0, None)
    """Decisions about whom it is offered, and the agent and instance that it is offered now."""
    since: float = 0.0
    """Of the newest decision, Unix seconds."""
    is_left: bool = False
    """It was decided that whoever is free first may take it: it may be moved, claimed meanwhile or not."""


class _TaskRules:
    """One task by the protocol's words."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.states: list[TaskState] = []
        self.now = TaskState("-", 0, 0, "", None, "")
        self.submitter = ""
        self.retries = 0
        self.retries_said: int | None = None
        """By the submission."""
        self.accept_s = 0.0
        """How long whoever is offered it has to claim it."""
        self.failures = self.deaths = self.redrives = self.restated = 0
        self.input: Any = None
        self.recorded: dict[str, tuple[int, Any]] = {}
        """Step → the claim under which it was recorded first, and what it gave."""

    def at(self, seq: int) -> TaskState:
        found = bisect.bisect_right(self.seqs, seq)
        return self.states[found - 1] if found else TaskState("-", 0, 0, "", None, "")

    def until(self, seq: int) -> list[TaskState]:
        return self.states[: bisect.bisect_right(self.seqs, seq)]

    def take(self, stored: Stored) -> None:
        fact, now = stored.fact, self.now
        said = fact.data if isinstance(fact.data, dict) else {}
        after = self._after(fact.event, fact.agent, fact.detail, said, fact.seq)
        if after is not None and fact.event == "placed":
            after = after._replace(since=fact.stored_at.timestamp())
        if after is not None and after != now:
            self.now = after
            self.seqs.append(fact.seq)
            self.states.append(after)

    def _after(self, event: str, agent: str, detail: Any, said: dict[str, Any], seq: int) -> TaskState | None:
        now = self.now
        if event == "submitted":
            return self._submitted(agent, detail, said, seq)
        number = int(detail[0]) if detail else None
        if event == "placed":
            return None if number is None else self._placed(number, said)
        if now.status not in OPEN:
            return None
        holds = now.status == "claimed" and agent == now.agent and said.get("claim") in (None, now.claims)
        free = now._replace(status="queued", agent="", instance=None)
        if event == "claimed" and now.status != "claimed" and number == now.claims + 1:
            instance = said.get("instance")
            if self.retries_said is None:
                told = said.get("retries", -1)
                self.retries = told if 0 <= told <= limits.TASK_RETRIES_MAX else limits.TASK_RETRIES
            return _unoffered(now)._replace(status="claimed", claims=number, agent=agent, instance=instance)
        if event == "returned" and now.status != "claimed" and number == now.claims + 1:
            declined = now.offered[1] == (agent, said.get("instance"))
            return now._replace(offered=(now.offered[0], None)) if declined else None
        if event == "recorded" and holds:
            self.recorded.setdefault(said["step"], (now.claims, said.get("output")))
            return None
        if event in ("completed", "rejected") and holds:
            return now._replace(status=event)
        if event == "failed" and holds:
            self.failures += 1
            over = said.get("final") or self.failures > self.retries
            return free._replace(status="failed" if over else "waiting")
        if event == "returned" and now.status == "claimed" and agent == now.agent and number == now.claims:
            return free
        if event == "released" and now.status == "claimed" and number == now.claims:
            self.deaths += 1
            return free._replace(status="failed") if self.deaths > limits.TASK_DEATHS_MAX else free
        if event == "cancelled" and (agent == self.submitter or agent.startswith("_")):
            return now._replace(status="cancelled")
        return now._replace(status="expired") if event == "expired" else None

    def _placed(self, number: int, said: dict[str, Any]) -> TaskState | None:
        now = self.now
        if number <= now.offered[0] or now.status == "-":
            return None
        if now.status not in ("queued", "waiting"):
            return now._replace(offered=(number, None))  # overtaken: it is counted, no more
        to = (said["agent"], said.get("instance", "")) if "agent" in said else None
        return now._replace(offered=(number, to), is_left=now.is_left or said.get("pull", False))

    def _submitted(self, agent: str, detail: Any, said: dict[str, Any], seq: int) -> TaskState | None:
        now = self.now
        if now.status in OPEN:
            ours = said.get("redrive", 0) == self.redrives
            if ours and agent.startswith("_") and said.get("restated", 0) > self.restated:
                self.restated = said["restated"]
                queue = ".".join(detail)
                if queue == now.queue:
                    return now._replace(delivery=seq)
                return _unoffered(now)._replace(delivery=seq, queue=queue, is_left=False)
            return None
        if now.status != "-" and (now.status == "completed" or said.get("redrive", 0) != self.redrives + 1):
            return None
        told = (said.get("carried") or {}).get("submitter") if agent.startswith("_") else None
        self.submitter, self.retries_said = told or agent, said.get("retries")
        self.retries = limits.TASK_RETRIES if self.retries_said is None else self.retries_said
        self.accept_s = (said.get("placement") or {}).get("accept_ms", Placement().accept_ms) / 1000
        self.deaths = self.restated = 0
        self.failures = said.get("failures", 0) if agent.startswith("_") else 0
        if said.get("input") != self.input:
            self.input, self.recorded = said.get("input"), {}
        self.redrives = said.get("redrive", 0)
        return TaskState("queued", seq, now.claims, "", None, ".".join(detail), (now.offered[0], None))


def _unoffered(state: TaskState) -> TaskState:
    """Nobody is offered it any more; decisions go on being counted."""
    return state._replace(offered=(state.offered[0], None), since=0.0)


class Referee:
    """See the module."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: dict[tuple[str, str], _TaskRules] = {}
        self.locks: dict[str, dict[str, tuple[int, str]]] = {}
        """Lock → token → (epoch, agent), in the order of the log."""
        self.held: dict[tuple[str, str, int], int] = {}
        """(lock, token, epoch) → the sequence from which it holds it."""
        self.asked: Counter[tuple[str, str]] = Counter()
        """(lock, token) → requests, one after the other: whose renewal came too late asks anew."""
        self.leased: dict[int, tuple[float, list[float]]] = {}
        """Epoch → the lease, in seconds, and when it was granted and renewed."""
        self.raised: dict[tuple[str, str], int] = {}
        """(key, signal) → the sequence that raised it."""
        self.begun: dict[tuple[str, str, int], str] = {}
        """(key, task, claim) → the instance whose handler ran."""
        self.steps: dict[str, dict[str, list[str]]] = {}
        """Workflow → step → what it needs."""
        self.inherited: dict[str, tuple[str, set[str]]] = {}
        """Workflow → the one that it goes on from, and the steps that it takes over."""
        self.local: set[tuple[str, str]] = set()
        """(workflow, step) that was completed with the task before it."""
        self.flows: dict[str, str] = {}
        self.claimed_once: Counter[tuple[str, str, int]] = Counter()
        self.timers = TimerRules(world)
        self.handoffs = HandoffRules(world)
        self.tables = TableRules(world)
        self.rules: dict[str, Rules] = {
            rules.kind: rules
            for rules in (
                self.timers,
                FlagRules(world),
                self.handoffs,
                AgentRules(world),
                CircuitRules(world),
                self.tables,
            )
        }

    # --- facts, as they are stored -----------------------------------------------------------

    def take(self, stored: Stored) -> None:
        """The log has one more."""
        fact = stored.fact
        if fact.kind == "task":
            rules = self.tasks.setdefault((fact.key, fact.id), _TaskRules())
            before = rules.now
            rules.take(stored)
            self._placed(fact, before, rules)
            if fact.event == "submitted" and fact.agent == "_workflow":
                self._step(fact.key, fact.id, fact.seq)
                if (fact.key, fact.id) in self.local:
                    self.world.wrong(f"{fact.id} of {fact.key} at {fact.seq} was done with the task before it")
            elif fact.event == "completed" and rules.now != before and rules.now.status == "completed":
                self._went_on(fact)
            elif fact.event == "submitted" and fact.key.startswith("reuse-"):
                self._shared(fact)
            elif fact.event == "submitted" and fact.agent == "_timer":
                self.timers.submits(fact.key, fact.id)
            if before.status in OPEN and rules.now.status not in OPEN:
                self.timers.ended((fact.key, fact.id))
        elif fact.kind in self.rules:
            self.rules[fact.kind].take(fact)
        elif fact.kind == "lock":
            self._lock(stored)
        elif fact.kind == "signal" and fact.event == "raised":
            self.raised.setdefault((fact.key, fact.id), fact.seq)
        elif fact.kind == "workflow":
            if fact.event in ("completed", "failed", "cancelled") and self.flows.get(fact.id) in ("running", None):
                self.flows[fact.id] = fact.event
            elif fact.event == "started":
                self.flows.setdefault(fact.id, "running")
                rerun = fact.decode(Started).rerun
                if rerun is not None and fact.id not in self.inherited:
                    self._rerun(fact.id, rerun)
            elif fact.event == "decided":
                self.tables.decides(fact)

    def _placed(self, fact: StoredFact, before: TaskState, rules: _TaskRules) -> None:
        """One decision after the other, nobody else offered it while somebody may accept, and nothing moved unasked."""
        now, name = rules.now, f"{fact.id} at {fact.seq}"
        if fact.event == "submitted" and before.status in OPEN and before.queue != now.queue and not before.is_left:
            self.world.wrong(f"{name} is moved to {now.queue}, and nobody had decided that")
        if fact.event != "placed" or now == before:
            return
        if now.offered[0] != before.offered[0] + 1:
            self.world.wrong(f"{name}: decision {now.offered[0]} after {before.offered[0]}")
        to = before.offered[1]
        if to is not None and (TENANT, *to) not in self.world.buried:
            early_s = before.since + rules.accept_s - fact.stored_at.timestamp()
            if early_s > max(0.0, *(process.skew_s for process in self.world.deciders)):
                self.world.wrong(f"{name} is decided about {early_s:.3f} s before {to}, who may accept it, is late")

    def _rerun(self, name: str, rerun: Rerun) -> None:
        """It begins with what had been done."""
        taken = set(rerun.steps)
        self.inherited[name] = (rerun.of, taken)
        needs = self.steps.get(rerun.of, {})
        self.steps[name] = {step: [n for n in needed if n not in taken] for step, needed in needs.items()}
        for step in taken & set(needs):
            rules = self.tasks.get((rerun.of, step))
            done = (rerun.of, step) in self.local or (rules is not None and rules.now.status == "completed")
            if not done and f"{rerun.of}-{step}" not in self.flows and rerun.steps[step].status == "completed":
                self.world.wrong(f"{name} takes over {step} of {rerun.of}, which was not done")

    def judge_reruns(self) -> None:
        """Nothing was taken over that was undone, before or after."""
        for name, (of, taken) in self.inherited.items():
            undone = [step for step in taken if (of, f"undo_{step}") in self.tasks]
            if undone:
                self.world.wrong(f"{name} has taken over {undone} of {of}, which were undone")

    def _step(self, key: str, name: str, seq: int) -> None:
        """No step on an unmet dependency, and none that was taken over."""
        if name.removeprefix("undo_") in self.inherited.get(key, ("", ()))[1]:
            self.world.wrong(f"step {name} of {key} at {seq} was taken over")
        head = name.rpartition("-")[0]
        if head and not name.startswith("undo_"):
            others = (rules for (of, task), rules in self.tasks.items() if of == key and task.startswith(f"{head}-"))
            if sum(rules.now.status in OPEN for rules in others) > AT_ONCE:
                self.world.wrong(f"{name} of {key} at {seq} is begun beside too many others")
        for needed in self.steps.get(key, {}).get(name, ()):
            rules = self.tasks.get((key, needed))
            ended = rules is not None and rules.now.status == "completed"
            if not ended and (key, needed) not in self.local:
                self.world.wrong(f"step {name} of {key} at {seq}, and {needed} is not completed")

    def _went_on(self, fact: StoredFact) -> None:
        """Local steps: each once, in any way, and none on an unmet dependency."""
        for outcome in fact.decode(Completed).then:
            place = (fact.key, outcome.step)
            if place in self.local or place in self.tasks:
                self.world.wrong(f"local step {outcome.step} of {fact.key} at {fact.seq} for the second time")
            self._step(*place, fact.seq)
            if outcome.error is None:
                self.local.add(place)

    def _lock(self, stored: Stored) -> None:
        fact = stored.fact
        requests = self.locks.setdefault(fact.id, {})
        token = fact.detail[0]
        said, now = said_of(fact), stored_s(fact)
        epoch, agent = requests.get(token, (0, ""))
        if fact.event == "requested" and not epoch and not fact.agent.startswith("_"):
            requests[token] = fact.seq, fact.agent
            self.asked[fact.id, token] += 1
            if "ttl_s" in said:
                self.leased[fact.seq] = said["ttl_s"], []
        elif fact.event == "requested" and fact.agent == agent and epoch in self.leased:
            self.leased[epoch][1].append(now)
        elif fact.event != "requested" and fact.agent in (agent, "_lock") and epoch == said.get("epoch", epoch) != 0:
            del requests[token]
            self._expired(fact, epoch, now)
        for held, (epoch, _) in list(requests.items())[: (PERMITS | LEASES)[fact.id]]:
            if self.held.setdefault((fact.id, held, epoch), fact.seq) == fact.seq and epoch in self.leased:
                self.leased[epoch][1].append(now)

    def _expired(self, fact: StoredFact, epoch: int, now: float) -> None:
        """No lease is taken away before its end, but for clocks that are wrong."""
        if said_of(fact).get("reason") != "expired":
            return
        ttl_s, since = self.leased.get(epoch, (float("inf"), []))
        if not since:
            self.world.wrong(f"{fact.detail[0]} loses {fact.id} at {fact.seq}, and never had it")
            return
        unheard_s = _CALM_S if self.world.faults.calm else _UNHEARD_S
        known = max((at for at in since if at < now - unheard_s), default=since[0])
        skew_s = max(0.0, *(process.skew_s for process in self.world.deciders))
        if now < known + ttl_s - skew_s - 0.001:
            self.world.wrong(f"{fact.detail[0]} loses {fact.id} at {fact.seq}, {known + ttl_s - now:.3f} s early")

    def is_open(self, task: tuple[str, str]) -> bool:
        """Whether it was submitted, and has not ended."""
        return task in self.tasks and self.tasks[task].now.status in OPEN

    def claims_of(self, agent: str) -> int:
        """Tasks that an agent has claimed."""
        return sum(rules.now.status == "claimed" and rules.now.agent == agent for rules in self.tasks.values())

    # --- what is done ------------------------------------------------------------------------

    def settles(self, settle: Settle, position: int) -> None:
        """A decider that has folded up to `position` answers the broker."""
        fact = self.world.broker.log[settle.seq - 1].fact
        rules = self.tasks.get((fact.key, fact.id))
        if rules is None:
            return
        state = rules.at(position)
        if settle.how == "nak" and state.status == "claimed" and state.delivery == settle.seq:
            self.world.wrong(f"nak of the live claim {state.claims} of {fact.id}")
        if settle.how == "ack" and state.status in OPEN and state.delivery == settle.seq:
            self.world.wrong(f"ack of {fact.id}, which is {state.status}")

    def tells(self, push: Push, position: int) -> None:
        """A decider tells an agent something."""
        body = push.body
        if push.topic in self.rules:
            self.rules[push.topic].tells(push)
        elif push.topic == "task" and body["what"] == "placed":
            decided, to = body["n"], (push.agent, push.instance)
            if (decided, to) not in [s.offered for s in self.tasks[body["key"], body["id"]].until(position)]:
                self.world.wrong(f"{to} is told of offer {decided} of {body['id']}, which the log does not have")
        elif push.topic == "task" and body["what"] == "ended":
            status = self.tasks[body["key"], body["id"]].at(position).status
            ends = [s.status for s in self.tasks[body["key"], body["id"]].states]
            if body["status"] != status and body["status"] not in ends:
                self.world.wrong(f"{body['id']} is said to be {body['status']}, and is {status}")
        elif push.topic == "lock" and body["what"] == "granted":
            since = self.held.get((body["id"], body["token"], body["epoch"]))
            if since is None or since > position:
                self.world.wrong(f"lock {body['id']} granted to {body['token']}, who does not hold it")
        elif push.topic == "signal" and body["what"] == "raised" and (body["key"], body["id"]) not in self.raised:
            self.world.wrong(f"signal {body['id']} is told and was not raised")

    def behind(self, seq: int) -> None:
        """The log begins with this sequence, for whoever begins now: they have what is so, and nothing that is over."""
        for rules in self.rules.values():
            rules.behind(seq)
        for name, requests in self.locks.items():
            found = locks.fold(fact for fact in self.world.broker.history("lock", name, name) if fact.seq >= seq)
            says = [] if found is None else [(r.token, r.epoch, r.agent) for r in found.requests.values()]
            # Who sees of several requests under one token a part cannot tell which of them is stated again, too late.
            says = [request for request in says if self.asked[name, request[0]] == 1]
            if says != [(token, *one) for token, one in requests.items() if self.asked[name, token] == 1]:
                self.world.wrong(f"lock {name}: who begins at {seq} believes that {says} want it, and {requests} do")

    def believes_held(self, lock: str, token: str, epoch: int) -> None:
        """Somebody has read the log and believes that the lock is its own."""
        if (lock, token, epoch) not in self.held:
            self.world.wrong(f"{token} believes that it holds {lock}, and does not")

    def joins(self, key: str, name: str, asked: Any, reuse_for_s: float) -> None:
        """Somebody takes another's task for an answer."""
        rules = self.tasks[key, name]
        if rules.input != asked:
            self.world.wrong(f"{name}, which is asked to do {rules.input}, answers for {asked}")
        status, since_s = rules.now.status, self.world.loop.now - _UNHEARD_S
        ended_s = stored_s(self.world.broker.log[rules.seqs[-1] - 1].fact)  # what ended since was open when it was read
        serves_s = reuse_for_s if status in ("completed", "rejected") else 0.0
        if status not in OPEN and ended_s + serves_s < since_s:
            self.world.wrong(f"{name}, {rules.now.status}, answers who accepts what is {reuse_for_s} s old")

    def _shared(self, fact: StoredFact) -> None:
        """Of identical work one begins when the one before is over."""
        head, _, number = fact.id.rpartition("-")
        before = self.tasks.get((fact.key, f"{head}-{int(number) - 1}"))
        if before is not None and before.now.status in OPEN:
            self.world.wrong(f"{fact.id} is begun at {fact.seq}, and the same work is {before.now.status}")
        if before is None and number != "1":
            self.world.wrong(f"{fact.id} is begun at {fact.seq}, and none before it")

    def released(self, lock: str, token: str) -> None:
        """Somebody was told that the log has its release."""
        if token in self.locks.get(lock, {}):
            self.world.wrong(f"{token} has given {lock} back, and holds it")

    def begins(self, key: str, task: str, claim: int, instance: str) -> None:
        """A handler begins."""
        place = (key, task, claim)
        before = self.begun.setdefault(place, instance)
        self.claimed_once[place] += 1
        if before != instance:
            self.world.wrong(f"claim {claim} of {task} runs at {before} and at {instance}")
        elif self.claimed_once[place] > 1:
            self.world.wrong(f"claim {claim} of {task} runs twice at {instance}")

    def does(self, key: str, task: str, step: str, claim: int) -> None:
        """A handler does one of its steps."""
        under, _ = self.tasks[key, task].recorded.get(step, (claim, None))
        if under < claim:
            self.world.wrong(f"{step} of {task} is done under claim {claim}, and was recorded under {under}")

    def given(self, key: str, task: str, step: str, value: Any) -> None:
        """A handler is given what one of its steps gave before."""
        _, gave = self.tasks[key, task].recorded.get(step, (0, None))
        if value != gave:
            self.world.wrong(f"{step} of {task} gave {gave}, and now {value}")

    def stated(self, state: State, seq: int) -> None:
        """The log has a decision, under its id: it must be that decision."""
        fact = self.world.broker.log[seq - 1].fact
        if (fact.kind, fact.id, fact.event, fact.detail) != (state.kind, state.id, state.event, state.detail):
            self.world.wrong(f"the id of {state.event} {state.id} is that of {fact.event} {fact.id}")
