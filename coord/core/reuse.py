"""Reuse: identical work is done once, and its outcome given to whoever asks for it meanwhile and after.

Identical is: the same capability, and an input of the same value (members of maps in any order).
All identical tasks have one ordering key, made of the digest of both; the first is generation 1.
Whoever wants the work done states the next generation on the condition that it is the first of
its name, so of many who ask at once one submits and the others join.  What is asked for at a later time is decided
then, by whoever says that the timer has fired.

What is joined, of the newest generation: a task that has not ended; one that completed, or was
rejected (no attempt can succeed: another would say the same), no longer ago than the asker
accepts.  A task that failed, was cancelled or expired is not an answer: the next generation begins.

Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from coord.core import tasks
from coord.core.tasks import Task
from coord.wire.records import StoredFact

_KEY = "reuse-"

ANSWERS: Final[frozenset[str]] = frozenset({"completed", "rejected"})
"""Ends after which another execution would say the same."""


def key_of(capability: str, raw: bytes) -> str:
    """The ordering key of all tasks that ask `capability` for the work that the JSON `raw` describes."""
    canonical = msgspec.json.encode(msgspec.json.decode(raw or b"null"), order="deterministic")
    return _KEY + hashlib.blake2b(capability.encode() + b"\0" + canonical, digest_size=20).hexdigest()


def name_of(key: str, generation: int) -> str:
    """The id of one generation."""
    return f"{key}-{generation}"


def generation_of(key: str, name: str) -> int:
    """Of an id of that key; 0: it is none of ours."""
    head, _, number = name.rpartition("-")
    return int(number) if head == key and number.isascii() and number.isdecimal() and len(number) <= 9 else 0


class Newest(msgspec.Struct, frozen=True):
    """The newest generation that the log knows, and its facts."""

    generation: int
    task: Task
    facts: list[StoredFact]


def newest(key: str, facts: Iterable[StoredFact]) -> Newest | None:
    """Of all facts of a key, in log order."""
    by_name: dict[str, list[StoredFact]] = {}
    for fact in facts:
        by_name.setdefault(fact.id, []).append(fact)
    for name in sorted(by_name, key=lambda name: generation_of(key, name), reverse=True):
        task, _ = tasks.fold(by_name[name])
        if task is not None and generation_of(key, name):
            return Newest(generation_of(key, name), task, by_name[name])
    return None


def joinable(task: Task, *, reuse_for_s: float, now: float) -> bool:
    """Whether a task answers who asks at `now` (Unix seconds) and accepts what is `reuse_for_s` old."""
    if not task.ended:
        return True
    if task.status not in ANSWERS or task.ended_at is None:
        return False
    return now - task.ended_at <= reuse_for_s


def answers(task: Task, *, reuse_for_s: float, at: float) -> bool:
    """`joinable` as of a time that has passed: what ended later, however, was running then."""
    if task.ended_at is not None and task.ended_at >= at:
        return True
    return joinable(task, reuse_for_s=reuse_for_s, now=at)


def instead(facts: Iterable[StoredFact], event_id: str, *, reuse_for_s: float, at: float) -> str | None:
    """The id of the generation to be begun where `facts`, those of a task, are in the way of what was to be it.

    None: that is the answer, or the submission of this event id itself.
    """
    there = list(facts)
    task, _ = tasks.fold(there)
    if task is None or any(fact.event_id == event_id for fact in there):
        return None
    if answers(task, reuse_for_s=reuse_for_s, at=at):
        return None
    return name_of(task.key, generation_of(task.key, task.id) + 1)
