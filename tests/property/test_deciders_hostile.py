"""Whatever is said about anything, every decider goes on, and can be saved and become itself again."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from coord.core.deciding import Effect
from coord.core.presence import PresenceTable
from coord.projector import entities
from coord.server import deciders
from coord.wire.authors import TABLE, is_allowed
from coord.wire.subjects import is_decider
from tests.support.hostile import AGENTS, DETAILS, said
from tests.support.shaped import SHAPES, shaped
from tests.support.store import event

ABOUT = [(kind, event) for kind, event in TABLE if kind in deciders.KINDS]
NOW = 1_767_268_800.0
"""About when `tests.support.store.event` has its facts stored."""
FIRST = (
    ("lock", "requested", "tok", "{}"), ("timer", "set", "", '{"at": 1}'), ("flag", "set", "", "{}"),
    ("handoff", "offered", "", '{"agent": "b"}'), ("signal", "awaited", "tok", '{"names": ["first"]}'),
)  # fmt: skip
"""Of all tenants: from here on a decider has read the log."""


def test_no_fact_of_anybody_ends_a_decider(rng: random.Random) -> None:
    for p in range(4):
        all_of_them = deciders.deciders(p)
        presence = PresenceTable(NOW)
        for seq in range(1, 400):
            fact = entities.fact_of(said(rng, seq, ABOUT, ("e1", "e2", "a", "b")))
            for decider in all_of_them:
                if fact.kind not in decider.kinds:
                    continue
                if decider.forgot(fact):
                    decider.recall([])
                for effect in decider.apply(fact):
                    assert msgspec.json.encode(msgspec.to_builtins(effect, enc_hook=str))
            if seq % 40 == 0:
                for decider in all_of_them:
                    now = NOW + seq
                    assert list(decider.tick(now, presence)) is not None
                    assert list(decider.gone("acme", "b", "i1", now)) is not None
                    dumped = msgspec.msgpack.encode(decider.dump())
                    decider.load(msgspec.msgpack.decode(dumped))
                    assert msgspec.msgpack.encode(decider.dump()) == dumped


@pytest.mark.parametrize("turn", range(6))
def test_what_one_tenant_says_is_nothing_to_another(rng: random.Random, turn: int) -> None:
    """Whatever it names: bodies are as readers expect them, and say what they like of others' work."""
    both, alone = deciders.deciders(turn), deciders.deciders(turn)
    presence = PresenceTable(NOW)
    for seq, (kind, name, detail, data) in enumerate(FIRST, 1):
        key = "flags" if kind == "flag" else "first"
        row = event(seq, kind=kind, event=name, id="first", key=key, agent="me", detail=detail, data=data)
        assert _bytes(_folded(both, entities.fact_of(row))) == _bytes(_folded(alone, entities.fact_of(row)))
    for seq in range(10, 400):
        tenant = rng.choice(("acme", "evil"))
        fact = entities.fact_of(_shaped(rng, seq, tenant))
        effects = _folded(both, fact)
        assert all(_tenant(effect) == tenant for effect in effects), (fact, effects)
        if tenant == "acme":
            assert _bytes(effects) == _bytes(_folded(alone, fact)), fact
        if seq % 50 == 0:
            for who in (both, alone):
                for decider in who:
                    decider.load(msgspec.msgpack.decode(msgspec.msgpack.encode(decider.dump())))
            now = NOW + seq
            told = [
                [e for decider in who for e in (*decider.tick(now, presence), *decider.edge(seq - 20))]
                for who in (both, alone)
            ]
            assert _bytes([e for e in told[0] if _tenant(e) == "acme"]) == _bytes(told[1])


def _shaped(rng: random.Random, seq: int, tenant: str) -> Any:
    while True:
        kind, name = rng.choice([about for about in ABOUT if about in SHAPES])
        agent = rng.choice(AGENTS) if tenant == "acme" else rng.choice(("me", "b"))
        if kind == "agent" or is_allowed(kind, name, 1, decider=is_decider(agent)):
            break
    id_ = agent if kind == "agent" else rng.choice(("e1", "e2", "e1-1", "e1-2"))
    key = "flags" if kind == "flag" else rng.choice((id_, "e1"))
    body = shaped(rng, SHAPES[kind, name], rng.choice((0.2, 0.6, 0.9)))
    if (kind, name) == ("timer", "set") and rng.random() < 0.5:
        body = {
            "every_s": 2.0,
            "overlap": "queue",
            "then": {"submit": {"capability": "work"}},
            "held": body.get("held"),
        }
    data = msgspec.json.encode(body).decode()
    detail = rng.choice(DETAILS)
    return event(seq, tenant=tenant, kind=kind, id=id_, key=key, event=name, agent=agent, data=data, detail=detail)


def _folded(who: list[Any], fact: Any) -> list[Effect]:
    effects: list[Effect] = []
    for decider in who:
        if fact.kind in decider.kinds:
            if decider.forgot(fact):
                decider.recall([])
            effects += decider.apply(fact)
    return effects


def _tenant(effect: Any) -> str:
    """Whose it is; a queue's name says it."""
    found: str = effect.tenant if hasattr(effect, "tenant") else effect.queue.split("~")[1]
    return found


def _bytes(effects: list[Any]) -> list[bytes]:
    plain = (msgspec.to_builtins(effect, enc_hook=lambda raw: bytes(raw).hex()) for effect in effects)
    return sorted(map(msgspec.json.encode, plain))
