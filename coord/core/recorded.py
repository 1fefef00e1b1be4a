"""What the steps of a handler gave, as the facts of its task have it: for whoever executes the task again.

A handler has parts of its work recorded (``TaskContext.run``): each is a fact, stored before the handler sees what it
gave.  After a death, a failure or a redrive the task begins anew, and what was recorded is given instead of done.

Believed is a record whose author held the claim at that moment (`coord.core.tasks`); of one name the first.  What was
recorded before a redrive holds, too, if that submitted the same input to the same capability.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coord.core.tasks import Task
from coord.wire import codec, work
from coord.wire.records import StoredFact


class Record(work.Recorded, frozen=True, kw_only=True, omit_defaults=True):
    """A record as a handler's worker reads it: what the step gave stays bytes until its type is known."""

    output: msgspec.Raw = msgspec.Raw(b"null")


_decode: Final = msgspec.json.Decoder(Record).decode


def recorded(facts: list[StoredFact]) -> tuple[Task | None, dict[str, Record]]:
    """A task's facts in the order of the log: the task, and name of a step → what holds of it."""
    task: Task | None = None
    records: dict[str, Record] = {}
    for fact in facts:
        if task is None:
            task = Task(tenant=fact.tenant, key=fact.key, id=fact.id)
        redrives, capability, before = task.redrives, task.capability, task.submission
        if task.apply(fact) is not None:
            continue
        if fact.event == "recorded":
            record = _read(fact)
            records.setdefault(record.step, record)
        elif task.redrives != redrives and not (capability == task.capability and _same(before, task.submission)):
            records.clear()
    return (task if task is not None and task.submitted_seq else None), records


def _same(one: work.Submission, other: work.Submission) -> bool:
    if (one.input, one.ref) == (other.input, other.ref):
        return True
    # What was submitted as MessagePack is submitted again as JSON: bytes and times are text then.
    return one.ref == other.ref and codec.to_builtins(one.input) == codec.to_builtins(other.input)


def _read(fact: StoredFact) -> Record:
    if fact.content == "json":
        return _decode(fact.body)  # it was believed: the fold has read it
    said: work.Recorded = fact.decode(work.Recorded)
    return Record(
        claim=said.claim, step=said.step, output=msgspec.Raw(codec.encode(said.output)), ref=said.ref, run_s=said.run_s
    )
