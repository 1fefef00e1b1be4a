"""The agents of a simulation: they submit, work, lock, wait for signals, and are killed and stopped at any step.

What a worker does with a delivery is `coord.core.claiming`, and what it reads it folds with `coord.core.tasks`,
as the SDK does; what lies between is `coord.client.execution` without its sockets.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from coord.core import claiming, flow_definition, flow_rerun, handoff, locks, signals, tasks
from coord.core.deciding import Push
from coord.core.flow_local import Line, Moment, begins
from coord.core.recorded import Record, recorded
from coord.errors import InvalidWorkflow, WorkflowNotOver
from coord.testing.broker import TENANT, Ack, Delivery, Refused
from coord.testing.deciders import settle_for_worker
from coord.testing.loop import Process, Thread, sleep
from coord.testing.placing import DEMANDS, about
from coord.testing.referee import PERMITS
from coord.wire import flow, subjects, work
from coord.wire.envelope import Fact, StoredFact

if TYPE_CHECKING:
    from coord.testing.simulation import World

CLAIM_ONCE: Final = "event"
"""The condition of a claim: nobody has stated one of this number."""

_GONE_S: Final = 2.75
"""So long after it fell silent an instance is said to be gone."""


class Agent(Process):
    """One agent; each start is an instance of its own, with a connection whose end the server tells of."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name, world.loop, world.faults)
        self.world = world
        self.broker = world.broker
        self.rng = world.rng
        self._events = 0
        self.told: dict[tuple[str, str, str], Any] = {}
        """(topic, key and id, of which wait, request or claim) → what it was told."""
        self.begin()

    @property
    def instance(self) -> str:
        """Of the present connection."""
        return f"{self.name}{self.incarnation}"

    @property
    def holder(self) -> tuple[str, str, str]:
        """What its claims belong to."""
        return TENANT, self.name, self.instance

    def begin(self) -> None:
        """Start, or start again, knowing nothing."""
        self.alive, self.told = True, {}
        self.start()

    def start(self) -> None:
        """Spawn what it does."""
        raise NotImplementedError

    def crash(self) -> None:
        """Its connection ends: that is heard at once or, at worst, its silence is."""
        holder = self.holder
        super().crash()
        self.world.died(holder, self.rng.choice([0.1, 0.1, _GONE_S]))

    def crashed(self) -> None:
        """Something starts it again."""
        self.loop.at(0.5 + self.rng.random() * 3.0, self.begin)

    def hung(self) -> None:
        """Its heartbeats stop."""
        holder, for_s = self.holder, self.hung_until - self.loop.now
        if for_s > _GONE_S:
            self.loop.at(_GONE_S, lambda: self._silent(holder, is_back=False))
            self.loop.at(for_s, lambda: self._silent(holder, is_back=True))

    def _silent(self, holder: tuple[str, str, str], *, is_back: bool) -> None:
        if self.alive and self.holder == holder:
            if is_back:
                self.world.back(self)
            else:
                self.world.died(holder, 0.0)

    def state(self, fact: Fact, once: Any = None, *, tries: int = 3) -> Thread:
        """State it under an id of its own; `Ack`, `Refused` or None."""
        self._events += 1
        event_id = f"{self.instance}-{self._events}"
        return (yield from self.broker.publish(self.name, fact, event_id, once, tries))

    def state_until_stored(self, fact: Fact) -> Thread:
        """State it for as long as it takes."""
        self._events += 1
        event_id = f"{self.instance}-{self._events}"
        while (yield from self.broker.publish(self.name, fact, event_id, None)) is None:
            yield sleep(0.1)

    def is_told(self, told: tuple[str, str, str]) -> Thread:
        """Where nothing goes wrong, whoever sees in the log what was to be told it is told it, too, soon."""
        for _ in range(10 * self.faults.calm):
            if told in self.told:
                return
            yield sleep(0.5)
        if self.faults.calm:
            self.world.wrong(f"{self.instance} had to look, and was not told of {told}")

    def heard(self, push: Push) -> None:
        """A push has arrived."""
        body = push.body
        which = str(body.get("wait") or body.get("token") or body.get("claim") or "")
        if push.topic == "task" and body["what"] == "ended":
            which = ""
        self.told[push.topic, f"{body.get('key', '')} {body['id']}", which] = body


class Member(Agent):
    """One who registers, beats, and answers handoffs."""

    slots: ClassVar[dict[str, int]]
    """By capability."""

    def __init__(self, name: str, world: World, region: str, *, is_greedy: bool = False) -> None:
        """`is_greedy`: it takes more tasks at a time than it may."""
        self.region = region
        self.is_greedy = is_greedy
        self.load = world.rng.random()
        self.is_quarantined = False
        self.answered: set[tuple[str, int]] = set()
        """Handoffs and their steps."""
        super().__init__(name, world)

    def start(self) -> None:
        """Register."""
        self.is_quarantined, self.answered = False, set()
        self.world.comes(self)
        registered = Fact(kind="agent", id=self.name, event="registered", data=msgspec.to_builtins(about(self)))
        self.spawn(self.state_until_stored(registered))

    def heard(self, push: Push) -> None:
        """A handoff is looked at, once."""
        body = push.body
        if push.topic == "presence":
            if body["what"] in ("quarantined", "released"):
                self.is_quarantined = body["what"] == "quarantined"
                self.world.says(self)
        elif push.topic != "handoff" or body["what"] != "offered":
            super().heard(push)
        elif (body["id"], body["n"]) not in self.answered:
            self.answered.add((body["id"], body["n"]))
            self.spawn(self._answer(body))

    def _answer(self, offered: dict[str, Any]) -> Thread:
        """Accept a handoff, or decline it, or say nothing; who has accepted looks who has it."""
        dice, place = self.rng.random(), (offered["key"], offered["id"])
        if dice < 0.15:
            return
        yield sleep(self.rng.choice([0.01, 0.1, 1.0]) * self.rng.random() * 2.0)
        event = "accepted" if dice < 0.6 else "declined"
        said = {"instance": self.instance} if event == "accepted" else {"reason": "busy"}
        detail = (str(offered["n"]),)
        answer = Fact(kind="handoff", key=place[0], id=place[1], event=event, detail=detail, data=said)
        yield from self.state_until_stored(answer)
        if event == "accepted":
            found = handoff.fold((yield from self.broker.read("handoff", *place)))
            if found is not None and found.status == "accepted" and found.addressee == self.name:
                self.world.referee.handoffs.believes_accepted(place, self.name, self.instance)


class Worker(Member):
    """Runs tasks of some capabilities: two at a time that it pulls, and as many again that it is offered."""

    slots: ClassVar = {"work": 2, "undo": 2}
    running: dict[tuple[str, str], int]
    """(key, id) → the claim; 0: none yet."""

    def start(self) -> None:
        """Two slots."""
        super().start()
        self.running = {}
        for _ in range(2):
            self.spawn(self._slot())

    def heard(self, push: Push) -> None:
        """An offer is looked at."""
        if push.topic != "task" or push.body["what"] != "placed":
            super().heard(push)
        elif not self.is_quarantined and not (self.faults.active and self.rng.random() < 0.1):
            self.spawn(self._offered(push.body["key"], push.body["id"]))

    def _offered(self, key: str, name: str) -> Thread:
        if self.faults.active and self.rng.random() < 0.1:
            yield sleep(self.rng.random() * 2.0)  # and is too late, more often than not
        facts = yield from self.broker.read("task", key, name)
        task, _ = tasks.fold(facts)
        if task is None or not task.free or (key, name) in self.running:
            return
        (submitted,) = [fact for fact in facts if fact.seq == task.submitted_seq]
        delivery = Delivery(subjects.queue(TENANT, task.capability, task.queue), submitted, first=False)
        if len(self.running) >= 2 * self.slots[task.capability] or self.rng.random() < 0.1:
            said = work.Returned(self.instance, "surplus")
            yield from self.state(self._about(delivery, "returned", said, task.next_claim))
        else:
            yield from self._take(delivery, claiming.Claim(task.next_claim))

    def _slot(self) -> Thread:
        rng = self.rng
        while True:
            if self.is_quarantined:
                yield sleep(1.0)
                continue
            capability = rng.choice(("work", "work", "work", "undo"))
            queue = subjects.queue(TENANT, capability, rng.choice(("critical", "normal", "normal", "batch")))
            delivery = yield self.broker.pull(queue, 2.0 if self.running else rng.choice([1.0, 4.0]))
            if delivery is None:
                yield self.broker.request(partial(self.broker.open, queue))
            elif self.rng.random() < 0.02:
                yield from self.state(self._about(delivery, "returned", work.Returned(self.instance, "surplus"), 1))
            else:
                said = delivery.fact.decode(work.Submission)
                unseen = delivery.first and not said.redrive and not said.restated
                yield from self._take(delivery, claiming.Claim(1) if unseen else None)

    def _take(self, delivery: Delivery, move: claiming.Move | None) -> Thread:
        """Claim what was delivered or offered, and run it; `move`: what is known to be done, None: look first."""
        place = (delivery.fact.key, delivery.fact.id)
        if place in self.running:
            return
        self.running[place] = 0
        claim = yield from self._claim(delivery, move)
        if claim:
            self.running[place] = claim
            self.world.referee.begins(*place, claim, self.instance)
            yield from self._run(delivery, claim)
        self.running.pop(place, None)

    def _claim(self, delivery: Delivery, move: claiming.Move | None) -> Thread:
        """The claim that is held; 0: none."""
        fact, looks, looked = delivery.fact, move is None, False
        while True:
            if looks:
                looked = True
                task, _ = tasks.fold((yield from self.broker.read("task", fact.key, fact.id)))
                move = claiming.decide(task, agent=self.name, instance=self.instance, seq=fact.seq)
            looks = True
            assert move is not None, "it was looked"
            if isinstance(move, claiming.Hold):
                return move.n
            if isinstance(move, claiming.Leave):
                if move.settle:
                    ask = (self.world, delivery.queue, fact.seq, fact.key, fact.id)
                    yield self.broker.request(partial(settle_for_worker, *ask))
                return 0
            # A handler's own word: it counts where the submission says nothing, and is no handler's where it cannot be.
            handler = (None, 2, 0, -1)[zlib.crc32(f"{self.name} {fact.id}".encode()) % 4]
            claimed = self._about(delivery, "claimed", work.Claim(self.instance, handler), move.n)
            # Unseen: nothing but its submission may be there, or somebody has cancelled it.
            once = CLAIM_ONCE if looked or CLAIM_ONCE is None else fact.seq
            if isinstance((yield from self.state(claimed, once)), Ack):
                return move.n
            yield sleep(0.05)

    def _about(self, delivery: Delivery, event: str, said: Any, n: int | None = None) -> Fact:
        fact = delivery.fact
        detail = () if n is None else (str(n),)
        return Fact(kind="task", id=fact.id, key=fact.key, event=event, detail=detail, data=said)

    def _run(self, delivery: Delivery, claim: int) -> Thread:
        rng, fact, began_at = self.rng, delivery.fact, self.loop.now
        yield sleep(rng.choice([0.01, 0.2, 1.0, 9.0 if rng.random() < 0.1 else 2.0]))
        if ("task", f"{fact.key} {fact.id}", str(claim)) in self.told:
            return  # cancelled, or lost: it would not be believed
        yield from self._steps(delivery, claim)
        if ("task", f"{fact.key} {fact.id}", str(claim)) in self.told:
            return
        dice = rng.random() if self.faults.active else 0.0
        if dice < 0.80:
            then = yield from self._go_on(fact, claim, began_at)
            if ("task", f"{fact.key} {fact.id}", str(claim)) in self.told:
                return
            said = work.Completed(claim=claim, output={"from": fact.id}, then=then)
            outcome = self._about(delivery, "completed", said)
        elif dice < 0.92:
            outcome = self._about(delivery, "failed", work.Failed(claim=claim, error="oops", final=dice > 0.91))
        elif dice < 0.95:
            outcome = self._about(delivery, "rejected", work.Rejected(claim=claim, reason="no"))
        else:
            outcome = self._about(delivery, "returned", work.Returned(self.instance, "drained"), claim)
        yield from self.state_until_stored(outcome)

    def _steps(self, delivery: Delivery, claim: int) -> Thread:
        """Every third handler has two steps recorded: what was is not done again."""
        fact, referee = delivery.fact, self.world.referee
        luck = zlib.crc32(f"{fact.key} {fact.id}".encode())  # no draw of its own, as above
        if luck % 3:
            return
        records: dict[str, Record] = {}
        while claim > 1:
            task, records = recorded((yield from self.broker.read("task", fact.key, fact.id)))
            if task is not None and task.claims >= claim:
                break
            yield sleep(0.05)
        for step in ("one", "two"):
            if step in records:
                referee.given(fact.key, fact.id, step, msgspec.json.decode(records[step].output))
                continue
            referee.does(fact.key, fact.id, step, claim)
            yield sleep((0.01, 0.3, 2.0)[(luck // 3 + claim) % 3])
            said = work.Recorded(claim=claim, step=step, output={"by": self.instance, "under": claim})
            yield from self.state_until_stored(self._about(delivery, "recorded", said))
            if ("task", f"{fact.key} {fact.id}", str(claim)) in self.told:
                return

    def _go_on(self, fact: StoredFact, claim: int, began_at: float) -> Thread:
        """Do the local steps that are offered; every second worker knows nothing of them."""
        then: list[work.LocalOutcome] = []
        if self.name[1:] in ("1", "3") or not fact.agent.startswith("_"):
            return then
        line = Line(fact.id, b"{}")
        for local in fact.decode(work.Submission).then:
            leaving = ("task", f"{fact.key} {fact.id}", str(claim)) in self.told
            if begins(line, local, Moment(claim, self.loop.now - began_at, leaving=leaving)) is None:
                break
            # No draw of its own: what else a seed plays stays as it was.
            luck = zlib.crc32(f"{fact.key} {local.step} {claim}".encode())
            yield sleep((0.01, 0.3, 2.0)[luck % 3])
            if luck % 5 == 4:
                break
            if luck % 4 == 0 and self.faults.active:
                outcome = work.LocalOutcome(step=local.step, error="oops", final=luck % 8 == 0)
            else:
                outcome = work.LocalOutcome(step=local.step, output={"from": local.step})
            then.append(outcome)
            line.ended(outcome, b"{}")
        return then


_LIES: Final = {
    "task": ("completed", "failed", "rejected", "cancelled", "progress", "recorded"),
    "handoff": ("accepted", "declined", "withdrawn"),
    "timer": ("set", "cancelled"),
}


class Rogue(Agent):
    """States outcomes, answers and cancellations of what is not its own, as any client of the broker can."""

    def start(self) -> None:
        """Now and then."""
        self.spawn(self._lie())

    def _lie(self) -> Thread:
        while self.faults.active:
            yield sleep(self.rng.random() * 3.0)
            referee = self.world.referee
            known = [("task", *place) for place in referee.tasks]
            known += [("handoff", *place) for place in referee.handoffs.handoffs]
            known += [("timer", *place) for place in referee.timers.timers]
            if not known:
                continue
            kind, key, name = self.rng.choice(known)
            event = self.rng.choice(_LIES[kind])
            detail = (str(self.rng.choice([1, 2])),) if event in ("accepted", "declined") else ()
            data = {"set": {"at": 1.0}, "recorded": {"step": "one", "output": "a lie"}}.get(event, {})
            yield from self.state(Fact(kind=kind, id=name, key=key, event=event, detail=detail, data=data))


class Client(Agent):
    """Submits tasks, waits for what becomes of them, cancels and redrives some."""

    def __init__(self, name: str, world: World, count: int) -> None:
        self._names = [f"{name}t{i}" for i in range(count)]
        self.outcomes: dict[str, str] = {}
        """What it came to know."""
        self.unknown = set(self._names)
        super().__init__(name, world)

    def start(self) -> None:
        """A thread for each of its tasks that it does not know the end of."""
        for name in self._names:
            if name in self.unknown:
                self.spawn(self._task(name))

    def _task(self, name: str) -> Thread:
        rng = self.rng
        yield sleep(rng.random() * 8.0)
        capability = "nobody" if name.endswith("t7") else "work"
        priority: work.Priority = rng.choice(("critical", "normal", "normal", "batch"))
        placement = rng.choice(DEMANDS) if rng.random() < 0.3 else None
        said = work.Submission(
            input={"name": name}, retries=rng.choice([0, 1, None]), backoff_s=0.5, timeout_s=5.0,
            instance=self.instance, deadline=self.broker.unix + 15.0 if rng.random() < 0.1 else None, priority=priority,
            placement=placement,
        )  # fmt: skip
        queue = priority if placement is None else work.PLACED
        submitted = Fact(kind="task", id=name, event="submitted", detail=(capability, queue), data=said)
        plain = rng.random() < 0.1
        while (yield from self.state(submitted, None if plain else "entity")) is None:
            yield sleep(0.1)
        if capability == "nobody":
            # Submitted before by an instance that died, it is the first that counts.
            task, _ = tasks.fold((yield from self.broker.read("task", name, name)))
            if task is not None and task.submission.deadline is None:
                self.unknown.discard(name)
                return
        if rng.random() < 0.1:
            yield sleep(rng.random() * 2.0)
            cancelled = Fact(kind="task", id=name, event="cancelled", data=work.Ended("changed my mind"))
            yield from self.state(cancelled)
        yield from self._result(name, submitted, said)

    def _result(self, name: str, submitted: Fact, said: work.Submission) -> Thread:
        redrives = 0
        while True:
            status = yield from self._told(name)
            self.outcomes[name] = status
            over = status not in ("failed", "expired") or redrives or submitted.detail[0] == "nobody"
            if over or self.rng.random() < 0.6 or not self.faults.active:
                self.unknown.discard(name)
                return
            task, _ = tasks.fold((yield from self.broker.read("task", name, name)))
            assert task is not None, "it has ended"
            redrives = task.redrives + 1
            again = {**_builtins(said), "redrive": redrives, "deadline": None, "instance": self.instance}
            self.told.pop(("task", f"{name} {name}", ""), None)
            yield from self.state_until_stored(
                Fact(kind="task", id=name, event="submitted", detail=submitted.detail, data=again)
            )

    def _told(self, name: str) -> Thread:
        """Its status, as it was pushed or, after a while, as the log has it."""
        wait_s = 2.0
        while True:
            for _ in range(4):
                body = self.told.get(("task", f"{name} {name}", ""))
                if body is not None:
                    return body["status"]
                yield sleep(wait_s / 4)
            task, _ = tasks.fold((yield from self.broker.read("task", name, name)))
            if task is not None and task.ended:
                yield from self.is_told(("task", f"{name} {name}", ""))
                return task.status
            wait_s = min(2 * wait_s, 8.0)


class Locker(Agent):
    """Takes locks, holds them for a while, and gives them back."""

    def start(self) -> None:
        """A few times."""
        self.done = False
        self.spawn(self._lock())

    def _lock(self) -> Thread:
        rng = self.rng
        for count in range(2):
            name = rng.choice(sorted(PERMITS))
            token = f"{self.instance}-{count}"
            said = {"instance": self.instance, "permits": PERMITS[name]}
            requested = Fact(kind="lock", id=name, key=name, event="requested", detail=(token,), data=said)
            yield from self.state_until_stored(requested)
            if (yield from self._granted(name, token)):
                yield sleep(rng.random() * 2.0)
            released = Fact(kind="lock", id=name, key=name, event="released", detail=(token,), data={})
            yield from self.state_until_stored(released)
            self.world.referee.released(name, token)
        self.done = True

    def _granted(self, name: str, token: str) -> Thread:
        while True:
            for _ in range(4):
                body = self.told.get(("lock", f"{name} {name}", token))
                if body is not None:
                    return body["what"] == "granted"
                yield sleep(0.5)
            lock = locks.fold((yield from self.broker.read("lock", name, name)))
            if lock is None or token not in lock.requests:
                return False
            if lock.requests[token] in lock.holders:
                yield from self.is_told(("lock", f"{name} {name}", token))
                self.world.referee.believes_held(name, token, lock.requests[token].epoch)
                return True


class Waiter(Agent):
    """Waits for a signal until it is raised."""

    def start(self) -> None:
        """One wait."""
        self.done = False
        self.spawn(self._wait())

    def _wait(self) -> Thread:
        yield sleep(self.rng.random() * 8.0)
        wait = f"{self.instance}w"
        data = {"instance": self.instance}
        yield from self.state_until_stored(
            Fact(kind="signal", id="go", key="signals", event="awaited", detail=(wait,), data=data)
        )
        while ("signal", "signals go", wait) not in self.told:
            yield sleep(self.rng.choice([0.5, 4.0]))
            latch = signals.fold((yield from self.broker.read("signal", "signals", "go")))
            if latch is not None and latch.raised:
                yield from self.is_told(("signal", "signals go", wait))
                break
        self.done = True


class Raiser(Agent):
    """Raises the signal, sooner or later."""

    def start(self) -> None:
        """Once, as often as it is started."""
        self.spawn(self._raise())

    def _raise(self) -> Thread:
        yield sleep(self.rng.random() * 12.0)
        raised = Fact(kind="signal", id="go", key="signals", event="raised", data={"data": 1})
        yield from self.state_until_stored(raised)


class Starter(Agent):
    """Starts workflows."""

    def __init__(self, name: str, world: World, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        super().__init__(name, world)

    def start(self) -> None:
        """All that it does not know to be started."""
        for name, definition in self._definitions.items():
            self.spawn(self._start(name, definition))

    def _start(self, name: str, definition: dict[str, Any]) -> Thread:
        yield sleep(self.rng.random() * 4.0)
        data = {"definition": definition, "input": {"a": 1}, "instance": self.instance}
        started = Fact(kind="workflow", id=name, key=name, event="started", data=data)
        answer: Ack | Refused | None = None
        while answer is None:
            answer = yield from self.state(started, "entity")


class Rerunner(Agent):
    """Goes on from where workflows got to, in others: once each, while they run or after their end."""

    def __init__(self, name: str, world: World, originals: dict[str, Any]) -> None:
        self._originals = originals
        self.started: set[str] = set()
        super().__init__(name, world)

    def start(self) -> None:
        """All that it does not know to be started."""
        for name in self._originals:
            self.spawn(self._again(name))

    def _again(self, of: str) -> Thread:
        name = f"{of}-r2"
        yield sleep(self.rng.random() * 12.0)
        while name not in self.started:
            rerun = yield self.broker.request(lambda: self._prepared(of))
            if rerun is None:
                yield sleep(1.0)
                continue
            data = {"definition": self._originals[of], "input": {"a": 1}, "rerun": rerun}
            answer = yield from self.state(
                Fact(kind="workflow", id=name, key=name, event="started", data=data), "entity"
            )
            if answer is not None:
                self.started.add(name)

    def _prepared(self, of: str) -> flow.Rerun | None:
        """What it would take over now; None: it is not known, or not over."""
        found = flow_rerun.reached([stored.fact for stored in self.broker.log if stored.fact.key == of])
        if found is None:
            return None
        plan = flow_definition.plan(flow_definition.decode(found.definition))
        since = self.rng.sample(sorted(plan.by_name), self.rng.randint(0, 1))
        try:
            return flow.Rerun(of=of, since=since, steps=flow_rerun.take_over(found, plan, since))
        except WorkflowNotOver:
            return None


def definition(rng: Any, *, nested: bool = True) -> dict[str, Any]:
    """A small workflow."""
    steps: list[dict[str, Any]] = []
    for number in range(rng.randint(2, 5)):
        before = [step["name"] for step in steps]
        step: dict[str, Any] = {"name": f"s{number}", "needs": rng.sample(before, min(len(before), rng.randint(0, 2)))}
        if nested and number == 1 and rng.random() < 0.4:
            step["workflow"] = definition(rng, nested=False)
        else:
            step |= {"task": "work", "retries": rng.choice([None, 2]), "backoff_s": 0.5, "timeout_s": 5.0}
            if rng.random() < 0.3:
                step["undo"] = {"task": "undo", "retries": 3}
        steps.append(step)
    for step in steps[1:]:
        step["local"] = True
        try:
            flow_definition.plan(flow_definition.convert({"name": "w", "steps": steps}))
        except InvalidWorkflow:
            del step["local"]
    return {"name": "w", "steps": steps}


def _builtins(said: work.Submission) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(said)
    return found
