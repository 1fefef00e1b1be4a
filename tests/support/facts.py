"""Stored facts made by hand, and a decider driven without a server: its statements come back as facts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from coord.core.deciding import Decider, Effect, State
from coord.wire import subjects
from coord.wire.records import StoredFact

START = datetime(2026, 11, 21, 10, tzinfo=UTC)


class Log:
    """One partition's log in memory, and a decider that folds it."""

    def __init__(self, decider: Decider, *, tenant: str = "acme") -> None:
        self.decider = decider
        self.tenant = tenant
        self.facts: list[StoredFact] = []
        self.effects: list[Effect] = []
        """All but statements, in order."""
        self.now = START
        self._stated: set[tuple[Any, ...]] = set()

    def state(
        self, agent: str, kind: str, id_: str, event: str, *detail: str, key: str | None = None, data: Any = None
    ) -> StoredFact:
        """Store a fact and whatever follows from it."""
        fact = self.fact(agent, kind, id_, event, *detail, key=key, data=data)
        self.store(fact)
        return fact

    def fact(
        self, agent: str, kind: str, id_: str, event: str, *detail: str, key: str | None = None, data: Any = None
    ) -> StoredFact:
        """The next fact of the log, not stored."""
        self.now += timedelta(milliseconds=1)
        key = id_ if key is None else key
        seq = len(self.facts) + 1
        return StoredFact(
            self.tenant, agent, key, kind, id_, event, detail, subjects.partition(key), seq, 0, self.now, self.now,
            f"e{seq}", f"coord.{kind}.{event}", 1, None, None, None,
            b"" if data is None else msgspec.json.encode(data), "json",
        )  # fmt: skip

    def store(self, fact: StoredFact) -> None:
        """Fold it."""
        self.facts.append(fact)
        self._stated.add((fact.key, fact.kind, fact.id, fact.event, fact.detail, fact.agent))
        if fact.kind in self.decider.kinds:
            self.perform(self.decider.apply(fact))

    def perform(self, effects: Iterable[Effect]) -> None:
        """Statements become facts, once; the rest is kept."""
        for effect in list(effects):
            if not isinstance(effect, State):
                self.effects.append(effect)
                continue
            place = (effect.key, effect.kind, effect.id) + (
                () if effect.once == "entity" else (effect.event, effect.detail, effect.agent)
            )
            if effect.once is not None and place in self._stated:
                continue
            self._stated.add(place)
            data = effect.data
            if effect.merge_seq is not None:
                data = {**(self.facts[effect.merge_seq - 1].data or {}), **msgspec.to_builtins(data)}
            self.state(effect.agent, effect.kind, effect.id, effect.event, *effect.detail, key=effect.key, data=data)

    def pass_s(self, seconds: float, presence: Any = None) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)
        self.perform(self.decider.tick(self.now.timestamp(), presence or Everybody()))

    def pushes(self, what: str | None = None) -> list[Any]:
        """Bodies of what was told."""
        from coord.core.deciding import Push

        return [e.body for e in self.effects if isinstance(e, Push) and what in (None, e.body["what"])]

    def reload(self) -> None:
        """Snapshot and restore, as another process would."""
        dumped = msgspec.msgpack.decode(msgspec.msgpack.encode(self.decider.dump()))
        self.decider = type(self.decider)()
        self.decider.load(dumped)

    def events(self, kind: str | None = None) -> list[str]:
        """``id.event`` of each fact in order."""
        return [f"{f.id}.{f.event}" for f in self.facts if kind in (None, f.kind)]


class Everybody:
    """All live."""

    def lives(self, tenant: str, agent: str, instance: str) -> bool:
        return True


class Nobody:
    """None does."""

    def lives(self, tenant: str, agent: str, instance: str) -> bool:
        return False
