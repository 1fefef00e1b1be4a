"""Bodies as a reader expects them, with values of anybody's choice: what is decoded, and then believed or not."""

from __future__ import annotations

import random
from typing import Any, Final

from msgspec import inspect

from coord.core import tasks, timers
from coord.wire import flagging, flow, handing, latch, locking, presence, timing, work

SHAPES: Final[dict[tuple[str, str], Any]] = {
    ("agent", "registered"): presence.Registration,
    ("task", "submitted"): work.Submission,
    ("task", "claimed"): work.Claim,
    ("task", "progress"): work.Progress,
    ("task", "recorded"): work.Recorded,
    ("task", "completed"): work.Completed,
    ("task", "failed"): work.Failed,
    ("task", "rejected"): work.Rejected,
    ("task", "returned"): work.Returned,
    ("task", "released"): work.Released,
    ("task", "placed"): work.Placed,
    ("task", "cancelled"): work.Ended,
    ("workflow", "started"): flow.Started,
    ("workflow", "completed"): flow.Completed,
    ("workflow", "failed"): flow.Failed,
    ("workflow", "compensating"): flow.Compensating,
    ("workflow", "decided"): flow.Decided,
    ("workflow", "joined"): flow.Joined,
    ("rules", "set"): flow.RuleTable,
    ("rules", "asked"): flow.Asked,
    ("handoff", "offered"): handing.Offered,
    ("handoff", "accepted"): handing.Accepted,
    ("handoff", "declined"): handing.Declined,
    ("handoff", "escalated"): handing.Step,
    ("handoff", "expired"): handing.Ended,
    ("signal", "raised"): latch.Raised,
    ("signal", "awaited"): latch.Awaited,
    ("signal", "resumed"): latch.Resumed,
    ("signal", "deadlocked"): latch.Deadlocked,
    ("lock", "requested"): locking.Requested,
    ("lock", "revoked"): locking.Revoked,
    ("timer", "set"): timing.TimerSet,
    ("timer", "cancelled"): timing.Cancelled,
    ("timer", "fired"): timing.Fired,
    ("timer", "skipped"): timing.Skipped,
    ("flag", "set"): flagging.FlagSet,
    ("flag", "removed"): flagging.Removed,
}
"""What has no members of its own is not here."""

TOKENS: Final = ("acme", "evil", "e1", "e2", "me", "b", "i1", "tok1", "work", "normal", "e1-1", "e1-2")
NUMBERS: Final = (0, 1, 1, 2, 3, 7, 50, 2**53 - 1)
_DEPTH_MAX: Final = 5


def shaped(rng: random.Random, shape: Any, share: float = 0.6) -> Any:
    """An instance as a reader would be given it; `share` of what may be left out is said."""
    return _made(rng, inspect.type_info(shape), share, 0)


def _made(rng: random.Random, of: Any, share: float, depth: int) -> Any:
    if isinstance(of, inspect.UnionType):
        return _made(rng, rng.choice(of.types), share, depth)
    if isinstance(of, inspect.StructType):
        told = [f for f in of.fields if f.required or (depth < _DEPTH_MAX and rng.random() < share)]
        return {f.encode_name: _any(rng, share, depth) if f.name == "run" else
                _made(rng, f.type, share, depth + 1) for f in told}  # fmt: skip
    if isinstance(of, inspect.LiteralType):
        return rng.choice(of.values)
    if isinstance(of, inspect.BoolType):
        return rng.random() < 0.5
    if isinstance(of, inspect.IntType):
        return rng.choice(NUMBERS)
    if isinstance(of, inspect.FloatType):
        return rng.choice((0.0, 0.5, 1.0, 2.0, 60.0, 1_767_268_800.0, 1e300))
    if isinstance(of, inspect.NoneType):
        return None
    if isinstance(of, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType):
        return [_made(rng, of.item_type, share, depth + 1) for _ in range(rng.randrange(3))]
    if isinstance(of, inspect.TupleType):
        return [_made(rng, item, share, depth + 1) for item in of.item_types]
    if isinstance(of, inspect.DictType):
        return {rng.choice(TOKENS): _made(rng, of.value_type, share, depth + 1) for _ in range(rng.randrange(3))}
    if isinstance(of, inspect.StrType):
        return rng.choice(TOKENS)
    return _any(rng, share, depth)


def _any(rng: random.Random, share: float, depth: int) -> Any:
    """Where nothing is demanded: what a decider puts there, too."""
    own = rng.choice((timers.Running, tasks.Task, None, dict[str, int]))
    return None if own is None or depth >= _DEPTH_MAX else _made(rng, inspect.type_info(own), share, depth + 1)
