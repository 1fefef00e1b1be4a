"""One submission, ready to be stated, and whether what is there under its id is the same work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from coord import errors
from coord.core.tasks import Task
from coord.wire import arguments, work

if TYPE_CHECKING:
    from coord.wire.records import StoredFact


PAYLOAD: Final = frozenset({"input", "ref"})
_OPTIONS: Final = frozenset({
    "priority", "retries", "timeout_s", "backoff_s", "backoff_max_s", "deadline", "placement", "labels", "preemptible",
    "progress",
})  # fmt: skip


class Ask(msgspec.Struct, frozen=True, gc=False):
    """One submission, ready to be stated."""

    capability: str
    key: str
    id: str
    said: work.Submission
    raw: bytes
    """The input's JSON."""
    returns: Any
    urges: bool = True
    """Whether its priority was said: who says none takes the one that the same work has."""

    @property
    def queue(self) -> str:
        """Of the capability's queues."""
        return work.PLACED if self.said.placement is not None else self.said.priority


class Delayed(msgspec.Struct, frozen=True, gc=False):
    """What a handle knows of a task that a timer submits: the work, and which timer."""

    ask: Ask
    timer_key: str
    timer_id: str
    reuse_for_s: float | None = None
    """It shares its work: which task it is, is decided when the timer fires."""


def same(ask: Ask, capability: str, there: work.Submission) -> bool:
    """Whether a submission asks for the work of another one."""
    if ask.said.reuse_key is not None and ask.said.reuse_key == there.reuse_key:
        return True  # made of the capability and the input's value; who asks first says how urgent it is
    if ask.capability != capability or (ask.urges and ask.said.priority != there.priority):
        return False
    if there.ref is not None or ask.said.ref is not None:
        return there.ref is not None and ask.said.ref is not None and there.ref.digest == ask.said.ref.digest
    return bool(msgspec.json.decode(ask.raw) == there.input)


def check_same(ask: Ask, task: Task, facts: list[StoredFact]) -> None:
    """Raise `TaskExists`, naming the first, where a task is other work; `facts`: the task's."""
    if not same(ask, task.capability, task.submission):
        raise errors.TaskExists(
            task=task.id, key=task.key, first_event_id=task.event_id, first_seq=_first_seq(facts),
            submitter=task.submitter, capability=task.capability, status=task.status,
        )  # fmt: skip


def _first_seq(facts: list[StoredFact]) -> int:
    """Of the submission that is believed: what nobody believes may be before it."""
    believed = (fact for fact in facts if Task(tenant=fact.tenant, key=fact.key, id=fact.id).apply(fact) is None)
    return next(believed, facts[0]).seq


def task_of(said: dict[str, Any], instance: str) -> work.Submission:
    """A submission of these members; raises `InvalidPayload` naming the one that no reader would believe."""
    options = {name: value for name, value in said.items() if name not in PAYLOAD}
    if unknown := options.keys() - _OPTIONS:
        raise errors.InvalidPayload(f"not an option of a task: {', '.join(sorted(unknown))}")
    submission: work.Submission = arguments.as_kind(options, work.Submission, "a task")
    payload = {name: said[name] for name in PAYLOAD & said.keys()}
    return work.check(msgspec.structs.replace(submission, instance=instance, together=True, **payload))
