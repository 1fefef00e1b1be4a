"""One run of everything: a seed makes a fleet and its faults, plays them, and judges what is left.

First a time of faults, then one without, in which all that was accepted has to come to its end.
What a run did wrong is a list of sentences; the same seed gives the same run, and the same list.
"""

from __future__ import annotations

import hashlib
from random import Random

import msgspec

from coord.core import tasks
from coord.core.deciding import Owed, Push, State
from coord.core.task_decider import TaskDecider
from coord.projector.tables import QUIET
from coord.server.deciders import deciders
from coord.testing.broker import PARTITIONS, TENANT, Broker
from coord.testing.crew import Flagger, Guest, Offerer, Setter
from coord.testing.deciders import DeciderProcess, fold_one, folded, packed, restored
from coord.testing.fares import Fares
from coord.testing.fleet import (
    Agent,
    Client,
    Locker,
    Member,
    Raiser,
    Rerunner,
    Rogue,
    Starter,
    Waiter,
    Worker,
    definition,
)
from coord.testing.leases import Herder, Leaser, Patient, Sharer
from coord.testing.loop import Faults, Loop
from coord.testing.placing import HOME, Sight
from coord.testing.planning import Planner
from coord.testing.recurring import Recurrer
from coord.testing.referee import LEASES, OPEN, Referee

_CHAOS_S = 20.0
_REST_S = 300.0
_LOOK_S = 4.0
_WRONGS_MAX = 20
_PLANNED = (0, 3, 5)
"""Of sixteen seeds."""
_PATIENT = (4, 12)
"""Of sixteen, too."""
_RECURRING = (7,)
"""As well."""
_RERUN_SHARE = 0.15
"""Worlds in which workflows are run again."""


class Run(msgspec.Struct, frozen=True):
    """What came of a seed."""

    seed: int
    wrongs: list[str]
    """Broken rules; empty: none."""
    facts: int
    steps: int
    """Calls of the loop."""
    simulated_s: float
    digest: str
    """Of the log: two runs of one seed have the same."""


class World:
    """Everybody, of one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.loop = Loop()
        self.faults = Faults(rng)
        self.broker = Broker(self.loop, self.faults, rng)
        self.wrongs: list[str] = []
        self.gone: set[tuple[str, str, str]] = set()
        """Instances that are no more, or were silent for too long."""
        self.buried: set[tuple[str, str, str]] = set()
        """Those that ever were."""
        self.greedy: set[str] = set()
        """Agents that were seen to use more than they may."""
        self.fares = Fares(rng)
        self.referee = Referee(self)
        self.broker.on_stored.append(self.referee.take)
        self.snapshot_s = rng.choice([0.1, 0.5, 4.0])
        skewed = rng.random() < 0.5
        self.deciders = [
            DeciderProcess(f"d{i}", self, rng.uniform(-2.0, 2.0) if skewed else 0.0)
            for i in range(rng.choice([1, 2, 3]))
        ]
        greedy = rng.random() < 0.1
        self.workers = [
            Worker(f"w{i}", self, "us" if i else HOME, is_greedy=greedy and not i) for i in range(rng.choice([1, 2, 4]))
        ]
        self.clients = [Client(f"c{i}", self, rng.choice([1, 3, 8])) for i in range(rng.choice([1, 2]))]
        self.lockers = [Locker(f"l{i}", self) for i in range(rng.choice([0, 2, 3]))]
        self.waiters = [Waiter(f"s{i}", self) for i in range(rng.choice([0, 1, 2]))]
        others: list[Agent] = [Raiser("r0", self)] if self.waiters else []
        flows = {f"f{i}": definition(rng) for i in range(rng.choice([0, 1, 2]))}
        for name, said in flows.items():
            plain = {step["name"] for step in said["steps"] if "task" in step}
            self.referee.steps[name] = {s["name"]: [n for n in s["needs"] if n in plain] for s in said["steps"]}
        others.append(Starter("b0", self, flows))
        self.rerunners = [Rerunner("b1", self, flows)] if Random(f"again {seed}").random() < _RERUN_SHARE else []
        others += self.rerunners
        self.setters = [Setter("t0", self, rng.choice([1, 3]))] if rng.random() < 0.5 else []
        self.offerers = [Offerer("o0", self, rng.choice([1, 3]))] if rng.random() < 0.5 else []
        self.flaggers = [Flagger(f"g{i}", self) for i in range(rng.choice([0, 0, 2]))]
        guests = [Guest("v0", self, HOME)] if rng.random() < 0.3 else []
        others += [*self.setters, *self.offerers, *self.flaggers]
        self.members: list[Member] = [*self.workers, *guests]
        if rng.random() < 0.3:
            others.append(Rogue("eve", self))
        # In some runs; the others play as they did before there was such a one.
        self.planners = [Planner("p0", self, seed)] if seed % 16 in _PLANNED else []
        others += self.planners
        self.patients: list[Patient] = []
        if seed % 16 in _PATIENT:
            herd = tuple(f"h{i}" for i in range(Random(f"herd {seed}").choice([2, 3, 4])))
            self.patients += [Herder(name, self, seed, herd) for name in herd]
            self.patients += [Leaser(f"k{i}", self, seed) for i in range(3)]
            self.patients += [Sharer(f"u{i}", self, seed) for i in range(3)]
        if seed % 16 in _RECURRING:
            self.patients += [Recurrer(f"q{i}", self, seed) for i in range(2)]
        others += self.patients
        self.flows = flows
        self.agents: dict[str, Agent] = {
            agent.name: agent for agent in (*self.members, *self.clients, *self.lockers, *self.waiters, *others)
        }
        for _ in range(rng.choice([0, 0, 0, 8])):
            self.loop.at(rng.random() * _CHAOS_S, self._edge_now)
        if self.faults.dies and rng.random() < 0.4:
            self.loop.at(rng.random() * _CHAOS_S, lambda: self.broker.crash(rng.choice([0.2, 2.0])))

    def wrong(self, what: str) -> None:
        """A rule is broken."""
        if len(self.wrongs) < _WRONGS_MAX:
            self.wrongs.append(f"at {self.loop.now:.3f} s: {what}")

    # --- presence and pushes -------------------------------------------------------------------

    def died(self, holder: tuple[str, str, str], delay_s: float) -> None:
        """Every process that decides hears of it, in its own time."""
        self.gone.add(holder)
        self.buried.add(holder)
        for process in self.deciders:
            later_s = delay_s + self.rng.random() * 0.3
            self.loop.at(later_s, lambda p=process: p.call(lambda: self._tell(p, holder)))  # type: ignore[misc]

    def _tell(self, process: DeciderProcess, holder: tuple[str, str, str]) -> None:
        if holder in self.gone:
            process.gone(holder)

    def back(self, agent: Agent) -> None:
        """Somebody who was thought dead beats again."""
        self.gone.discard(agent.holder)
        for process in self.deciders:
            process.call(lambda p=process, holder=agent.holder: p.back(holder))  # type: ignore[misc]
        if isinstance(agent, Member):
            self.comes(agent)

    def comes(self, member: Member) -> None:
        """Every process that decides hears of a member of the fleet, in its own time."""
        for process in self.deciders:
            self._heard(member, process, self.rng.random() * 0.3)

    def says(self, member: Member) -> None:
        """It beats, and they hear whether it takes itself for quarantined."""
        for process in self.deciders:
            self._heard(member, process, 0.1)

    def _heard(self, member: Member, process: DeciderProcess, delay_s: float) -> None:
        holder = member.holder

        def hear() -> None:
            if member.alive and member.holder == holder and holder not in self.gone:
                process.comes(member)

        self.loop.at(delay_s, lambda: process.call(hear))

    def show(self, sight: Sight) -> None:
        """What a process that decides is told of how agents and tasks fare."""
        self.fares.show(sight, TENANT, self.loop.now)
        for worker in self.workers:
            if worker.is_greedy:
                claims = self.referee.claims_of(worker.name)
                sight.claims_of[TENANT, worker.name] = claims
                if claims > 1:
                    self.greedy.add(worker.name)

    def push(self, push: Push) -> None:
        """At most once, to whoever has that name and instance."""
        agent = self.agents.get(push.agent)
        if agent is None:
            return

        def arrive() -> None:
            if agent.alive and push.instance in (None, agent.instance):
                agent.call(lambda: agent.heard(push))

        self.broker.hop(arrive)

    # --- the run -------------------------------------------------------------------------------

    def run(self) -> None:
        """Faults, then rest, then judgement."""
        self.loop.run(_CHAOS_S * (0.3 + 0.7 * self.rng.random()))
        self.faults.active = False
        self.fares.rest(self.loop.now)
        if self._rests() and self.rng.random() < 0.3:
            edge = self._edge()
            if self._rests():
                self.referee.behind(edge)
        if not self.wrongs:
            self._judge()

    def _rests(self) -> bool:
        """Let time pass until everything has come to its end; whether it did."""
        until = self.loop.now + _REST_S
        unrest = ["it never rested"]
        while unrest and self.loop.now < until:
            self.loop.run(self.loop.now + _LOOK_S)
            unrest = self._unrest()
        for what in unrest:
            self.wrong(what)
        return not unrest

    def _edge_now(self) -> None:
        if self.faults.active:
            self._edge()

    def _edge(self) -> int:
        """The log's oldest part is about to leave it: what is below this sequence."""
        seq = self.rng.randint(0, len(self.broker.log))
        for process in self.deciders:
            for session in process.sessions.values():
                if session.owed is None and process.alive:
                    session.outside([e for d in session.deciders for e in d.edge(seq)])
        return seq

    def _unrest(self) -> list[str]:
        """What has not come to its end."""
        found = []
        for (key, name), rules in self.referee.tasks.items():
            if rules.now.status in OPEN and not rules.now.queue.startswith("nobody."):
                found.append(f"task {name} of {key} is {rules.now.status}")
        found += [f"workflow {name} is {s}" for name, s in self.referee.flows.items() if s == "running"]
        found += [f"workflow {name} was not started" for name in self.flows if name not in self.referee.flows]
        reruns = [f"{name}-r2" for name in self.flows if self.rerunners]
        found += [f"workflow {name} was not started" for name in reruns if name not in self.referee.flows]
        found += [
            f"{client.name} does not know of {name}" for client in self.clients for name in sorted(client.unknown)
        ]
        found += [f"{locker.name} waits" for locker in self.lockers if not locker.done]
        found += [f"{waiter.name} waits" for waiter in self.waiters if not waiter.done]
        found += [f"{planner.name} is not done" for planner in self.planners if not planner.done]
        found += [f"{patient.name} is not done" for patient in self.patients if not patient.done]
        found += [f"{token} keeps {name} for ever" for name in LEASES for token in self.referee.locks.get(name, ())]
        found += [f"{flagger.name} is not done" for flagger in self.flaggers if not flagger.done]
        found += [f"{s.name} does not know of {name}" for s in self.setters for name in sorted(s.waits)]
        found += [f"{o.name} does not know of {name}" for o in self.offerers for name in sorted(o.waits)]
        found += [what for rules in self.referee.rules.values() for what in rules.unrest()]
        for queue, seqs in self.broker.unsettled().items():
            if "~nobody~" not in queue:  # there, what has ended is acked by whoever comes one day
                found += [f"{queue} still has {seq}" for seq in seqs if not self._is_open(seq)]
        return found + [f"partition {p} is not followed" for p in range(PARTITIONS) if self._session(p) is None]

    def _is_open(self, seq: int) -> bool:
        fact = self.broker.log[seq - 1].fact
        state = self.referee.tasks[fact.key, fact.id].now
        return state.status in OPEN and state.delivery == seq

    def _session(self, partition: int) -> object:
        """Whoever decides about it, having folded all of it and said all it had to."""
        last = max((s.fact.seq for s in self.broker.log if s.partition == partition), default=0)
        for process in self.deciders:
            session = process.sessions.get(partition)
            if session is None or session.owed is not None or session.failed:
                continue
            if session.position >= last and session.is_answered(session.position + 1):
                return session
        return None

    # --- judgement -----------------------------------------------------------------------------

    def _judge(self) -> None:
        self._judge_tasks()
        self.referee.judge_reruns()
        for rules in self.referee.rules.values():
            rules.judge()
        for partition in range(PARTITIONS):
            self._judge_replay(partition)

    def _judge_tasks(self) -> None:
        """The fold and the referee agree, and so does what was told; what waits is to be seen."""
        held = [d for p in self.deciders for s in p.sessions.values() for d in s.deciders if isinstance(d, TaskDecider)]
        for (key, name), rules in self.referee.tasks.items():
            task, refused = tasks.fold(self.broker.history("task", key, name))
            for fact, refusal in refused:
                if fact.agent.startswith("_") and refusal.code not in QUIET | {"task.unknown"}:
                    self.wrong(f"{fact.event} of {name} by {fact.agent} is a dead letter: {refusal.code}")
            said = ("-", 0, (0, None)) if task is None else (task.status, task.claims, _offer(task))
            if said != (rules.now.status, rules.now.claims, rules.now.offered):
                self.wrong(f"task {name}: the fold says {said}, the rules {rules.now}")
            if rules.now.status in OPEN and not any(d.get(TENANT, key, name) for d in held):
                self.wrong(f"task {name} waits, and no decider shows it")
        for client in self.clients:
            for name, status in client.outcomes.items():
                if status not in [state.status for state in self.referee.tasks[name, name].states]:
                    self.wrong(f"{client.name} believes that {name} is {status}")

    def _judge_replay(self, partition: int) -> None:
        """Whoever folds the log again states nothing, and is where whoever folded it from a snapshot is."""
        log = [stored for stored in self.broker.log if stored.partition == partition]
        fresh, halved, owed = deciders(partition), deciders(partition), Owed()
        cut = self.rng.randint(0, len(log))
        for at, stored in enumerate(log):
            if at == cut:
                halved = restored(packed(halved), partition)
            owed.meet(stored.fact)
            for effect in fold_one(fresh, stored, self.broker.history):
                if isinstance(effect, State):
                    owed.demand(effect)
            fold_one(halved, stored, self.broker.history)
        for state in owed.take():
            # What is stated in another partition is not met in this one: it must be in the log all the same.
            if self.broker.first_of(state) is None:
                self.wrong(f"a replay states {state.event} of {state.kind} {state.id}")
        ours = folded(fresh)
        if ours != folded(halved):
            self.wrong(f"a snapshot at {cut} of {len(log)} changes what is folded of partition {partition}")
        session = self._session(partition)
        if session is not None and ours != folded(session.deciders):  # type: ignore[attr-defined]
            self.wrong(f"partition {partition}: who decides has another state than the log")


def _offer(task: tasks.Task) -> tuple[int, tuple[str, str] | None]:
    """How many decisions there were about whom it is offered, and to whom it is."""
    placing = task.placing
    if placing is None:
        return 0, None
    return placing.n, None if placing.agent is None else (placing.agent, placing.instance or "")


def simulate(seed: int) -> Run:
    """Play one seed."""
    world = World(seed)
    world.run()
    digest = hashlib.blake2b(digest_size=8)
    for stored in world.broker.log:
        digest.update(f"{stored.fact.event_id} {stored.fact.event} {stored.fact.stored_at}\n".encode())
    return Run(seed, world.wrongs, len(world.broker.log), world.loop.steps, world.loop.now, digest.hexdigest())
