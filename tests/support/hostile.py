"""Facts that anybody might state about anything: right kinds and events, any body, any author, any number."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec

from coord.store.rows import EventRow
from tests.support.store import event

MEMBERS = re.findall(
    r"\w+",
    """
    agent attempt at backoff_s candidates capabilities capability carried claim context coordinator cycle data deadline
    definition done enabled epoch error every_s final held input instance labels message mode model name names note
    output percentage permits placement priority progress provides quotas rank raised_at raised_by reason redrive ref
    restated retries rules run_s said salt since step submitter subjects timeout_ms timeout_s ttl_s version work
    """,
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, -(2**63), 10**25, 0.5, -1.5, 1e300, 1e-300, "", "a", "tok1",
    "\u00e9\u2028\U0001f600", "x" * 9000, [], ["s"], ["s", "s2"], [1], {}, {"a": "b"}, {"a": 1}, [{}],
    {"name": "n", "version": "1", "steps": []}, {"status": "claimed", "claims": -5, "ended_at": 1e300},
    "all", "any", "i1", {"work": 2}, {"work": -2}, {"agent": "b"}, [{"percentage": 50, "agents": ["b"]}],
)  # fmt: skip
DETAILS = (
    "",
    "1",
    "2",
    "tok1",
    "tok2",
    "work.normal",
    "work.batch",
    "i1.1",
    "i1.2",
    "tok1.7",
    "x.y.z",
    "99999999999999",
)
AGENTS = ("me", "b", "_task", "_signal", "_lock", "_handoff", "_presence", "_workflow", "_flag")


def said(rng: random.Random, seq: int, about: list[tuple[str, str]], ids: tuple[str, ...] = ("e1", "e2")) -> EventRow:
    """One of `about`, (kind, event)."""
    kind, name = rng.choice(about)
    data: Any = {rng.choice(MEMBERS): rng.choice(VALUES) for _ in range(rng.randrange(6))}
    if rng.random() < 0.05:
        data = rng.choice(VALUES)
    id_ = rng.choice(ids)
    return event(
        seq, kind=kind, id=id_, key="flags" if kind == "flag" else id_, event=name, detail=rng.choice(DETAILS),
        agent=rng.choice(AGENTS), data=msgspec.json.encode(data).decode(), epoch=1 + seq // 1000,
    )  # fmt: skip
