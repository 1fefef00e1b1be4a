"""The presence decider: states what became of agents, so that the log, tables and other deciders know.

What an agent says of itself (registered, draining, left) it states itself; of what others see, this states
``suspected.{instance}.{n}`` (heartbeats are overdue), ``gone.{instance}.{n}``,
``returned.{instance}.{n}`` (it beats again), and of the whole agent ``quarantined.{n}`` (it uses
more than its quotas allow) and ``released.{n}``.  Only registered instances are stated: a
connection that never registered costs the log nothing.

Agents of one partition, those whose name belongs to it.  Heartbeats are no facts: 5,000 agents
that beat are 5,000 registrations here and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core.deciding import NONE, Effect, Folding, Presence, Push, State
from coord.core.presence import Ident
from coord.core.tasks import Refusal
from coord.core.watch import Usage, Watch
from coord.wire import presence as wire
from coord.wire.envelope import StoredFact
from coord.wire.presence import Quotas, Registration

AGENT: Final = "_presence"

Status: TypeAlias = Literal["alive", "suspect", "gone", "left"]

TRANSITIONS: Final[dict[tuple[str, str], Status]] = {
    # Of one registered instance: (status or "-", event) → status.
    ("-", "registered"): "alive",
    ("alive", "registered"): "alive",
    ("suspect", "registered"): "alive",
    ("gone", "registered"): "alive",
    ("left", "registered"): "alive",
    ("alive", "suspected"): "suspect",
    ("alive", "gone"): "gone",
    ("suspect", "gone"): "gone",
    ("suspect", "returned"): "alive",
    ("gone", "returned"): "alive",
    ("alive", "returned"): "alive",  # another one of its name left
    ("alive", "left"): "left",
    ("suspect", "left"): "left",
    ("gone", "left"): "left",
}

TOO_MANY: Final = Refusal("agent.too_many", "too many instances of this name are there: give them names of their own")

_LOOK_EVERY_S: Final = 1.0
"""How often all registered instances are compared with what is heard; deaths are told at once."""

_ASKS: Final = 3
"""So often is asked of whom nothing was heard yet before it is stated that it is gone: who stands by beats rarely, and
a question, or its answer, may be lost."""
_ANSWER_S: Final = 1.0
"""It has so long for each answer."""

_AGAIN_S: Final = 30.0
"""A death that was stated and is no fact after so long is stated again.  Thousands that die together are seconds of
facts that wait to be folded; and where the log may not have what was stated, the session ends."""

_FORGET_EVERY_S: Final = 30.0

_STATED_AT_ONCE: Final = 256
"""Statements of one look, the others come with the next: thousands that register and never beat are as many deaths."""


class Instance(msgspec.Struct, omit_defaults=True):
    """One registered run of an agent."""

    about: Registration
    status: Status = "alive"
    n: int = 0
    """The number of what the decider stated of it last."""
    seq: int = 0
    """Of its last registration."""
    since: float = 0.0
    """The broker's clock, of its last fact."""
    draining: bool = False
    """It said that it takes no more."""

    @property
    def is_there(self) -> bool:
        """Whether it is, as far as is stated."""
        return self.status in ("alive", "suspect")

    @property
    def bounds(self) -> bool:
        """Whether its registration bounds what it may use."""
        return self.about.quotas is not None and self.about.quotas.bound

    @property
    def next_n(self) -> int:
        """The number of the decider's next statement of it.

        From its registration on: what was stated of an instance of the name that left, or was forgotten, has a lower
        one, as nothing is stated but after what is stored.
        """
        return max(self.n, self.seq) + 1


class Agent(msgspec.Struct, omit_defaults=True):
    """An agent as its facts leave it."""

    tenant: str
    agent: str
    instances: dict[str, Instance] = {}
    draining: bool = False
    quarantined: bool = False
    quarantines: int = 0
    quota: str = ""
    """The one it broke, while it is quarantined."""
    ended: str = ""
    """What became of the instance that ended last: left or gone."""
    since: float = 0.0
    """The broker's clock, of the last quarantine or release."""
    misread: bool = False
    """Its newest fact says that it left, and others of its name are there: whoever does not fold is to be told."""
    full: bool = False
    """None of `limits.PRESENCE_PER_AGENT_MAX` instances had ended when there was to be room for one more."""

    @property
    def present(self) -> int:
        """Instances that are there."""
        return sum(1 for one in self.instances.values() if one.is_there)

    @property
    def state(self) -> str:
        """What the whole agent is: that of its instances which are there; where none is, how the last one ended."""
        there = [one for one in self.instances.values() if one.is_there]
        if not there:
            return self.ended or ("gone" if self.instances else "left")
        if self.quarantined:
            return "quarantined"
        if self.draining or any(one.draining for one in there):
            return "draining"
        return "alive" if any(one.status == "alive" for one in there) else "suspect"

    @property
    def quotas(self) -> Quotas | None:
        """What its instances that are there may use together: each may use its own (memory: of one instance).

        None where nothing is bounded, or nobody is there; one that has no bound leaves the whole agent without it, and
        the others are judged by themselves (`_broken_by_some`).
        """
        said = [one.about.quotas or Quotas() for one in self.instances.values() if one.is_there]
        if not said:
            return None
        quotas = Quotas(
            _together(sum, [one.inflight for one in said]),
            _together(sum, [one.facts_per_s for one in said]),
            _together(max, [one.memory_mib for one in said]),
        )
        return quotas if quotas.bound else None

    def apply(self, fact: StoredFact) -> bool:
        """Fold one fact of kind agent; whether it changed anything."""
        event = fact.event
        if event == "registered":
            changed = self._registered(fact)
            self.misread = self.misread and not changed
            return changed
        if event == "draining":
            # Without a name, or of one that is not known: of all.
            one = self.instances.get(_instance_of(fact)[0])
            if one is None:
                self.draining = True
            else:
                one.draining = True
        elif event == "quarantined":
            if self.quarantined or fact.detail != (str(self.quarantines + 1),):
                return False
            self.quarantined, self.quarantines, self.since = True, self.quarantines + 1, fact.stored_at.timestamp()
            self.quota = _quota_of(fact)
        elif event == "released":
            if not self.quarantined or fact.detail != (str(self.quarantines),):
                return False
            self.quarantined, self.quota, self.since = False, "", fact.stored_at.timestamp()
        elif event in ("left", "suspected", "gone", "returned"):
            return self._ended(fact)
        else:
            return False
        return True

    def _registered(self, fact: StoredFact) -> bool:
        about = wire.decode_registration(fact.json_text.encode())
        if about is None:
            return False
        one = self.instances.get(about.instance)
        if (one is None or not one.is_there) and not self._has_room():
            return False
        self.instances.pop(about.instance, None)
        if one is None:
            one = Instance(about)
        self.instances[about.instance] = one  # the last: those at the front registered longest ago
        one.about, one.status, one.seq, one.draining = about, "alive", fact.seq, False
        one.since = fact.stored_at.timestamp()
        self.draining = False
        return True

    def _has_room(self) -> bool:
        """Whether one more may be there; those that ended are forgotten for it."""
        if len(self.instances) < limits.PRESENCE_PER_AGENT_MAX:
            return True
        if self.full:
            return False  # a search for each would make a flood costly
        ended = [name for name, one in self.instances.items() if one.status == "gone"]
        for name in ended:
            del self.instances[name]
        self.full = not ended
        return bool(ended)

    def refused(self, fact: StoredFact) -> Refusal | None:
        """Why a fact that changed nothing is to be known as refused; None: it need not be."""
        if fact.event != "registered" or not self.full or wire.decode_registration(fact.json_text.encode()) is None:
            return None
        return TOO_MANY

    def _ended(self, fact: StoredFact) -> bool:
        name, n = _instance_of(fact)
        one = self.instances.get(name)
        if one is None:
            return False
        if fact.event != "left":
            if n not in (one.next_n, one.n + 1):  # the second: as it was counted before ADR 0140
                return False
            one.n = n
        one.status = TRANSITIONS.get((one.status, fact.event), one.status)
        one.since = fact.stored_at.timestamp()
        if one.status in ("left", "gone"):
            self.ended, self.full = one.status, False
        if one.status == "left":
            del self.instances[name]
        if fact.event in ("left", "returned"):
            self.misread = fact.event == "left" and self.present > 0
        return True


class _Left(msgspec.Struct):
    instance: str = ""


class _Broken(msgspec.Struct):
    quota: str = ""


class _Dump(msgspec.Struct):
    agents: list[Agent] = []


class _Asked(msgspec.Struct):
    """Of one instance that is registered and was not heard of."""

    at: float
    """When it was asked last."""
    times: int
    """Without doubt; 0: asked in doubt, where silence means nothing."""

    def waits(self, now: float) -> bool:
        """Whether it may still answer."""
        return self.times < _ASKS or now - self.at < _ANSWER_S


class _Ending(msgspec.Struct):
    """That the end of an instance is to be a fact soon."""

    until: float
    """It is waited for so long, Unix seconds; then it is stated (again)."""
    by_itself: bool = False
    """It said goodbye, and states `left`; else a decider stated `gone`."""


class PresenceDecider(Folding):
    """Of one partition; a `coord.core.deciding.Decider`."""

    name = "presence"
    kinds = frozenset({"agent"})

    def __init__(self) -> None:
        super().__init__()
        self._agents: dict[tuple[str, str], Agent] = {}
        self._looked_at = 0.0
        self._forgot_at = 0.0
        self._reminded_at = 0.0
        self._over: dict[tuple[str, str], int] = {}
        """Looks in a row at which an agent used more than it may."""
        self._watched: dict[tuple[str, str], Agent] = {}
        """Those whose usage is looked at: they have quotas, or are quarantined."""
        self._asked: dict[Ident, _Asked] = {}
        self._dying: dict[tuple[str, str], dict[str, _Ending]] = {}
        """Instances whose end was stated and is no fact yet: many end together, each counts those that remain, and
        none is stated twice."""
        self._doubted: dict[Ident, float] = {}
        """Likewise, of whom something else was stated, and until when that is waited for: what is stated meanwhile
        would have its number, and not be believed."""
        self._compared: object = None
        """The news as of which all that is registered was found to be as it is stated; None: it is to be compared."""

    def get(self, tenant: str, agent: str) -> Agent | None:
        """An agent of this partition; not to be changed."""
        return self._agents.get((tenant, agent))

    def quarantined(self) -> Iterator[Agent]:
        """Those that are quarantined, not to be changed."""
        return (agent for agent in self._watched.values() if agent.quarantined)

    # --- facts -----------------------------------------------------------------------------

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact about an agent."""
        if fact.key != fact.id or fact.event in ("status", "changed"):
            return NONE
        at = (fact.tenant, fact.id)
        agent = self._agents.get(at)
        if agent is None:
            if fact.event != "registered" or len(self._agents) >= limits.PRESENCE_INSTANCES_MAX:
                return NONE
            agent = Agent(fact.tenant, fact.id)
        self._said(at, fact)
        if not agent.apply(fact):
            refusal = agent.refused(fact)
            if refusal is None:
                return NONE
            self.refused[refusal.code] += 1
            told = {"what": "refused", "instance": _instance_of(fact)[0], "reason": refusal.code}
            return (Push(fact.tenant, fact.id, None, wire.TOPIC, told),)
        self._compared = None
        if agent.instances:
            self._agents[at] = agent
        elif not agent.quarantined:
            self._agents.pop(at, None)
        self._watch_usage(at, agent)
        if fact.event == "registered" and agent.quarantined:
            return (_told(agent),)  # a new instance does not know: being started again is no way out
        if fact.event in ("quarantined", "released"):
            return (_told(agent),)
        return NONE

    def _said(self, at: tuple[str, str], fact: StoredFact) -> None:
        """Whatever it says of an instance, what was stated of that one before is in the log, or out of date."""
        dying = self._dying.get(at)
        if (dying is None and not self._doubted) or fact.event == "draining":
            return
        name = _instance_of(fact)[0]
        self._doubted.pop((*at, name), None)
        if dying is None:
            return
        ending = dying.get(name)
        if ending is not None and not (ending.by_itself and fact.event in ("suspected", "returned")):
            del dying[name]
            if not dying:
                del self._dying[at]

    # --- what is seen ----------------------------------------------------------------------

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """An instance died."""
        found = self._agents.get((tenant, agent))
        one = None if found is None else found.instances.get(instance)
        if found is None or one is None or not one.is_there:
            return NONE
        if self._is_stated(found, instance, now):
            self._compared = None  # a look states it, if it is still due
            return NONE
        return (self._of_one(found, instance, one, "gone", self._remain(found), now),)

    def leaves(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """One says goodbye: its fact `left`, which it stated before, may come later than what it says at once."""
        found = self._agents.get((tenant, agent))
        one = None if found is None else found.instances.get(instance)
        if one is not None and one.is_there:
            endings = self._dying.setdefault((tenant, agent), {})
            endings.setdefault(instance, _Ending(now + limits.LEFT_WAIT_S, by_itself=True))
            self._compared = None
        return NONE

    def _is_stated(self, agent: Agent, name: str, now: float) -> bool:
        """Whether its end, or something before it, is on its way to the log, or from there."""
        ending = self._dying.get((agent.tenant, agent.agent), {}).get(name)
        return (ending is not None and now < ending.until) or now < self._doubted.get(
            (agent.tenant, agent.agent, name), 0.0
        )

    def _remain(self, agent: Agent) -> int:
        """Instances that are there, those without whose death was stated."""
        return agent.present - len(self._dying.get((agent.tenant, agent.agent), ()))

    def _of_one(self, agent: Agent, name: str, one: Instance, event: str, remain: int, now: float) -> State:
        """State it; `remain`: as `_remain` says."""
        at = (agent.tenant, agent.agent)
        counted = one.is_there and name not in self._dying.get(at, ())
        if event == "gone":
            self._dying.setdefault(at, {})[name] = _Ending(now + _AGAIN_S)
        else:
            self._doubted[(*at, name)] = now + _AGAIN_S
        return _of_one(agent, name, one, event, remain - counted)

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Compare what is registered with who is heard."""
        if now - self._looked_at < _LOOK_EVERY_S:
            return NONE
        self._looked_at = now
        watch = presence if isinstance(presence, Watch) else None
        news = None if watch is None else watch.news
        effects: list[Effect] = []
        if news is None or news != self._compared:
            effects += self._compare(presence, watch, now)
            # What is stated comes back as a fact, or is due again; who is asked answers, or does not.
            asking = any(one.times and one.waits(now) for one in self._asked.values())
            self._compared = None if effects or asking or self._dying or self._doubted else news
        if watch is not None:
            for at, agent in list(self._watched.items()):
                effects += self._quota(at, agent, watch, now)
            if now - self._reminded_at >= limits.QUARANTINE_AGAIN_S and not watch.doubts:
                self._reminded_at = now
                effects += self._remind(watch, now)
        if now - self._forgot_at >= _FORGET_EVERY_S:
            self._forgot_at = now
            self._forget(now)
        return effects

    def _compare(self, presence: Presence, watch: Watch | None, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for agent in self._agents.values():
            remain: int | None = None
            if agent.misread and (there := self._stays(agent, presence, watch, now)):
                # Once for all that left since the last look; where all leave together, never.
                effects.append(self._of_one(agent, there, agent.instances[there], "returned", self._remain(agent), now))
            for name, one in agent.instances.items():
                if len(effects) >= _STATED_AT_ONCE:
                    return effects
                # Without an instance (a plain client's) nobody can tell whether it is there.
                if not name:
                    continue
                heard = watch is None or watch.heard(agent.tenant, agent.agent, name)
                if watch is None or heard or not one.is_there:
                    self._asked.pop((agent.tenant, agent.agent, name), None)
                else:
                    if self._asks(agent, name, now, doubts=watch.doubts):
                        asked = {"what": "about", "instance": name}
                        effects.append(Push(agent.tenant, agent.agent, None, wire.TOPIC, asked))
                    if self._asked[agent.tenant, agent.agent, name].waits(now):
                        continue
                event = _due(one.status, _seen(presence, watch, agent, name))
                if event and self._is_stated(agent, name, now):
                    continue
                if event and (heard or event != "returned"):  # it lives by doubt, which is no news
                    # Counted once a look: thousands may be due.
                    remain = self._remain(agent) if remain is None else remain
                    self._asked.pop((agent.tenant, agent.agent, name), None)
                    stated = self._of_one(agent, name, one, event, remain, now)
                    remain = stated.data["others"] + (event != "gone")
                    effects.append(stated)
        return effects

    def _stays(self, agent: Agent, presence: Presence, watch: Watch | None, now: float) -> str:
        """An instance that is there, and of which nothing is on its way; empty: none is."""
        for name, one in agent.instances.items():
            stays = name and one.status == "alive" and not self._is_stated(agent, name, now)
            if stays and _seen(presence, watch, agent, name) == "alive":
                return name
        return ""

    def _asks(self, agent: Agent, name: str, now: float, *, doubts: bool) -> bool:
        """Whether it is asked now whether it is there: once in doubt, and some times when that is over."""
        ident = (agent.tenant, agent.agent, name)
        asked = self._asked.get(ident)
        if doubts:
            # What was asked before may have been missed: it counts from the start when the doubt is over.
            self._asked[ident] = _Asked(now if asked is None else asked.at, 0)
            return asked is None
        if asked is None or not asked.times:
            self._asked[ident] = _Asked(now, 1)
            return True
        if asked.times < _ASKS and now - asked.at >= _ANSWER_S:
            asked.at, asked.times = now, asked.times + 1
            return True
        return False

    def _watch_usage(self, at: tuple[str, str], agent: Agent) -> None:
        # Once it is watched it stays so: its instances may differ, and a look sees all of them.  Who registered is
        # the newest one; to look at thousands at each fact would be quadratic.
        newest = next(reversed(agent.instances.values()), None)
        bounds = newest is not None and newest.bounds
        if at in self._agents and (agent.quarantined or bounds or at in self._watched):
            self._watched[at] = agent
        else:
            self._watched.pop(at, None)
            self._over.pop(at, None)

    def _forget(self, now: float) -> None:
        """Those gone for long: who comes back so late registers again."""
        for at, agent in list(self._agents.items()):
            for name, one in list(agent.instances.items()):
                if one.status == "gone" and now - one.since > limits.PRESENCE_KEPT_S:
                    del agent.instances[name]
            if not agent.instances and not agent.quarantined:
                del self._agents[at]
            self._watch_usage(at, agent)
        for idents in (self._asked, self._doubted):
            for ident in list(idents):
                there = self._agents.get(ident[:2])
                if there is None or ident[2] not in there.instances:
                    del idents[ident]

    def _quota(self, at: tuple[str, str], agent: Agent, watch: Watch, now: float) -> Iterable[Effect]:
        broken = _broken(agent.quotas, watch.usage(*at)) or _broken_by_some(agent, watch)
        if broken is None:
            self._over.pop(at, None)
            if agent.quarantined and now - agent.since >= limits.QUARANTINE_S:
                yield _of_agent(agent, "released", agent.quarantines, {})
            return
        if agent.quarantined:
            return
        # One look may fall between a claim and its end: an offender is one that goes on.
        looks = self._over[at] = self._over.get(at, 0) + 1
        if looks >= limits.QUOTA_LOOKS:
            del self._over[at]
            yield _of_agent(agent, "quarantined", agent.quarantines + 1, {"quota": broken})

    def _remind(self, watch: Watch, now: float) -> Iterable[Effect]:
        """Tell who is at odds with the log: it was cut off when it was told, and would rest, or take work, for ever."""
        resting = (self._agents.get(at) for at in watch.resting())
        released = [agent for agent in resting if agent is not None and not agent.quarantined]
        for agent in [*released, *self.quarantined()]:
            settled = now - agent.since >= limits.QUARANTINE_AGAIN_S
            if settled and watch.at_odds(agent.tenant, agent.agent, quarantined=agent.quarantined):
                yield _told(agent)

    # --- snapshots -------------------------------------------------------------------------

    def dump(self) -> Any:
        """The registered agents."""
        return msgspec.to_builtins(_Dump(list(self._agents.values())))

    def load(self, dumped: Any) -> None:
        """The same again."""
        self._agents = {(a.tenant, a.agent): a for a in msgspec.convert(dumped, _Dump).agents}
        self._compared = None
        self._asked.clear()
        self._dying.clear()
        self._doubted.clear()
        self._watched.clear()
        for at, agent in self._agents.items():
            # Any of them: the others may end, or this one return.
            if agent.quarantined or any(one.bounds for one in agent.instances.values()):
                self._watched[at] = agent

    def open_count(self) -> int:
        """Registered agents."""
        return len(self._agents)


def _seen(presence: Presence, watch: Watch | None, agent: Agent, instance: str) -> str:
    if watch is not None:
        return watch.state(agent.tenant, agent.agent, instance)
    return "alive" if presence.lives(agent.tenant, agent.agent, instance) else "gone"


def _due(stated: Status, seen: str) -> str | None:
    """The event that is to be stated of an instance that was stated to be one thing and seen to be another."""
    if seen == "alive":
        return "returned" if stated in ("suspect", "gone") else None
    if seen == "suspect":
        return "suspected" if stated == "alive" else None
    return "gone" if stated in ("alive", "suspect") else None


def _broken(quotas: Quotas | None, usage: Usage) -> str | None:
    if quotas is None:
        return None
    for name in ("inflight", "facts_per_s", "memory_mib"):
        bound = getattr(quotas, name)
        # What is stored within a second is not what was stated within one.
        slack = limits.QUOTA_RATE_SLACK if name == "facts_per_s" else 1.0
        if bound is not None and getattr(usage, name) > slack * bound:
            return name
    return None


def _broken_by_some(agent: Agent, watch: Watch) -> str | None:
    """The quota that instances which have it broke beside others which have none."""
    there = {name: one.about.quotas or Quotas() for name, one in agent.instances.items() if one.is_there}
    for quota, how in _APART:
        bounds = {name: bound for name, said in there.items() if (bound := getattr(said, quota)) is not None}
        if 0 < len(bounds) < len(there):
            usage = watch.usage_of(agent.tenant, agent.agent, bounds.keys())
            if getattr(usage, quota) > how(bounds.values()):
                return quota
    return None


_APART: Final[tuple[tuple[str, Callable[[Iterable[Any]], Any]], ...]] = (("inflight", sum), ("memory_mib", max))
"""What is known of each instance: subjects name the agent, so nobody can tell whose a fact was."""


def _together(how: Callable[[list[Any]], Any], bounds: list[Any]) -> Any:
    """None where one of them has no bound."""
    return None if None in bounds else how(bounds)


def _of_one(agent: Agent, instance: str, one: Instance, event: str, others: int) -> State:
    n = one.next_n
    return State(
        tenant=agent.tenant, agent=AGENT, key=agent.agent, kind="agent", id=agent.agent, event=event,
        detail=(instance, str(n)) if instance else (str(n),),
        data={"instance": instance, "others": others},
        once="own", step=f"{event}.{instance}", attempt=n, from_outside=True,
    )  # fmt: skip


def _told(agent: Agent) -> Push:
    """What an agent is told of its quarantine."""
    why = {"reason": agent.quota} if agent.quota else {}
    told = {"what": "quarantined" if agent.quarantined else "released", **why}
    return Push(agent.tenant, agent.agent, None, wire.TOPIC, told)


def _of_agent(agent: Agent, event: str, n: int, data: dict[str, Any]) -> State:
    return State(
        tenant=agent.tenant, agent=AGENT, key=agent.agent, kind="agent", id=agent.agent, event=event,
        detail=(str(n),), data=data, once="own", step=event, attempt=n, from_outside=True,
    )  # fmt: skip


def _instance_of(fact: StoredFact) -> tuple[str, int]:
    """Which instance a fact is about, and which of the decider's statements it is."""
    if fact.event in ("registered", "left", "draining"):
        try:
            return msgspec.json.decode(fact.json_text, type=_Left).instance, 0
        except msgspec.MsgspecError:
            return "", 0
    *names, n = fact.detail or ("",)
    return names[0] if names else "", int(n) if n.isascii() and n.isdecimal() and len(n) <= 18 else 0


def _quota_of(fact: StoredFact) -> str:
    """Which quota was broken, as a fact says."""
    try:
        return msgspec.json.decode(fact.json_text, type=_Broken).quota[:64]
    except msgspec.MsgspecError:
        return ""
