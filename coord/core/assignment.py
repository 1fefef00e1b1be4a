"""Which replica should own which partition.

Only for efficiency: the pin of the consumer says who receives and the checkpoint's guard
says whose commit counts, so two replicas that disagree for a moment do no harm.

The rule is as even as can be: members sorted by name, slot i goes to member i modulo their
number.  A change of members moves more slots than rendezvous hashing would, but a move
costs one reset (about a millisecond), while uneven shares would cost for as long as they last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

FOLDS: Final = 2
"""Which folds this release works with.  Raised, before a release, when what they save or state must not be mixed with
what those of the release before do (docs/adr/0141), or when clients are to ask for something new before they state it
(`coord.wire.understood`).  1: agents are what their instances are; 2: steps of handlers, reruns, timers that keep
apart."""

_HERE: Final = b"here"
GONE: Final = b"gone"


def here(folds: int) -> bytes:
    """What a replica says while it works: ``here``, and behind a space its `FOLDS`, unless that is 0."""
    return _HERE + b" %d" % folds if folds else _HERE


def folds_of(word: bytes) -> int:
    """The `FOLDS` of whoever says that it is here; 0 of a release that does not say."""
    number = word.partition(b" ")[2]
    return int(number) if number.isdigit() and len(number) < 10 else 0


def older(folds_by_member: Mapping[str, int], folds: int) -> frozenset[str]:
    """The members whose folds are older than `folds`: while there are any, whoever is newer waits."""
    return frozenset(member for member, theirs in folds_by_member.items() if theirs < folds)


def owner(slot: int, members: Iterable[str]) -> str | None:
    """The member that should own `slot` (an integer ≥ 0); None without members."""
    ordered = sorted(set(members))
    return ordered[slot % len(ordered)] if ordered else None


def slots_of(member: str, members: Iterable[str], slots: int) -> frozenset[int]:
    """The slots below `slots` that `member` should own among `members`."""
    ordered = sorted(set(members))
    if member not in ordered:
        return frozenset()
    return frozenset(range(ordered.index(member), slots, len(ordered)))


def alive(last_beat_s: Mapping[str, float], now_s: float, gone_after_s: float) -> frozenset[str]:
    """The members whose last beat is not older than `gone_after_s` (all in seconds, one clock)."""
    return frozenset(m for m, at in last_beat_s.items() if now_s - at <= gone_after_s)
