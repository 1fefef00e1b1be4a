"""Whatever is said about anything, every decider goes on, and can be saved and become itself again."""

from __future__ import annotations

import random

import msgspec

from coord.core.presence import PresenceTable
from coord.projector import entities
from coord.server import deciders
from coord.wire.authors import TABLE
from tests.support.hostile import said

ABOUT = [(kind, event) for kind, event in TABLE if kind in deciders.KINDS]
NOW = 1_767_268_800.0
"""About when `tests.support.store.event` has its facts stored."""


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
