"""Which kinds of facts have a table of entities, and what its columns are of a fold.

The folds are the deciders': `coord.core` judges, this only says what goes where.  Times go as Unix
seconds, within what a timestamp takes; texts without what PostgreSQL refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import msgspec

from coord import limits
from coord.core.flags import Flag
from coord.core.handoff import Handoff
from coord.core.locks import Lock
from coord.core.rules import RuleSet
from coord.core.signals import Latch
from coord.core.tasks import Task
from coord.core.timers import Timer
from coord.core.workflow_life import Workflow
from coord.projector.registry import Registry
from coord.store.rows import printable

_AT_MOST_S: Final = 253_402_300_799.0
"""The end of the year 9999: a deadline may be any number."""

_INT_MAX: Final = 2**31 - 1


class Folded(msgspec.Struct, frozen=True):
    """How one kind of entities is folded."""

    name: str
    """Of its table, where it has one."""
    fold: type[Any]
    """Has `apply`; made of tenant, key and id where nothing is known."""
    begins: frozenset[str]
    """Only these events can make an entity known: others of an unknown one leave no trace."""
    heeds: frozenset[str] | None
    """Other events change nothing; None: all do."""
    known: Callable[[Any], bool]
    """Whether any of its facts was believed."""

    def new(self, tenant: str, key: str, id: str) -> Any:  # noqa: A002 - an entity's id
        """One of which nothing is known."""
        fold = self.fold
        if "key" in fold.__struct_fields__:
            return fold(tenant=tenant, key=key, id=id)
        return fold(tenant=tenant, id=id)


class Table(Folded, frozen=True):
    """One kind's table."""

    columns: Callable[[Any], tuple[Any, ...]]
    """After `coord.store.entities.COMMON`, in the order of its statement."""
    slim: Callable[[Any], None]
    """Drop what the log has and no fact to come is judged by."""
    judged_only: frozenset[str] = frozenset()
    """Events that change nothing of the fold: no row is written for them."""


def _at(seconds: float | None) -> float | None:
    if seconds is None or 0.0 < seconds < _AT_MOST_S:
        return seconds
    return min(max(seconds, 0.0), _AT_MOST_S)


def _number(value: int) -> int:
    return value if 0 <= value <= _INT_MAX else min(max(value, 0), _INT_MAX)


def _text(text: str | None) -> str | None:
    if text is None:
        return None
    text = text[: limits.ENTITY_TEXT_CHARS]
    return text if text.isascii() and "\0" not in text else printable(text)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _listed(those: dict[str, Any]) -> str:
    if len(those) > limits.ENTITY_LISTED_MAX:
        those = dict(islice(those.items(), limits.ENTITY_LISTED_MAX))
    return _json(those)


def _cut(fold: Any, *names: str) -> None:
    for name in names:
        text = getattr(fold, name)
        if text is not None and len(text) > limits.ENTITY_TEXT_CHARS:
            setattr(fold, name, text[: limits.ENTITY_TEXT_CHARS])


def _keep(_fold: Any) -> None:
    """All of it is needed."""


def _task(x: Task) -> tuple[Any, ...]:
    # What is not there is not asked about: a call for each costs more than all the rest.
    said, correlation_id = x.submission, x.correlation_id
    begun, claimed, retry, ended = x.started_first_at, x.claimed_at, x.retry_at, x.ended_at
    return (
        _at(x.submitted_at),
        None if begun is None else _at(begun),
        None if claimed is None else _at(claimed),
        None if retry is None else _at(retry),
        None if ended is None else _at(ended),
        None if said.deadline is None else _at(said.deadline),
        x.run_s, x.progress, _number(x.claims), x.failures, x.deaths,
        _number(x.redrives), x.status, x.capability, x.queue, said.priority, x.submitter, x.claimant,
        x.instance,
        None if x.error is None else _text(x.error),
        None if x.message is None else _text(x.message),
        None if correlation_id is None else _text(correlation_id),
        said.retries if said.retries is not None or not x.claims else x.retries,
        said.timeout_s if said.timeout_s is not None or not x.claims else x.timeout_s,
    )  # fmt: skip


def _slim_task(x: Task) -> None:
    said = x.submission
    if said.input is not None or said.placement is not None or said.carried is not None or said.labels:
        x.submission = msgspec.structs.replace(said, input=None, placement=None, carried=None, labels={})
    if x.error is not None or x.message is not None:
        _cut(x, "error", "message")


def _workflow(x: Workflow) -> tuple[Any, ...]:
    return (
        _at(x.started_at), _at(x.ended_at), x.status, _text(x.name), _text(x.version), x.submitter,
        None if x.parent is None else _text(x.parent.id), _text(x.step), _text(x.error), _text(x.message),
        _text(x.correlation_id), _text(x.rerun_of),
    )  # fmt: skip


def _slim_workflow(x: Workflow) -> None:
    _cut(x, "error", "message", "step")


def _handoff(x: Handoff) -> tuple[Any, ...]:
    return (
        _at(x.offered_at), _at(x.since), None if x.ended else _at(x.answer_by), _at(x.ended_at), x.n, x.escalations,
        x.status, x.offerer, x.addressee, _text(x.instance), _text(x.said.capability), _text(x.reason),
    )  # fmt: skip


def _slim_handoff(x: Handoff) -> None:
    said = x.said
    if said.work is not None or said.context is not None:
        x.said = msgspec.structs.replace(said, work=None, context=None)
    _cut(x, "reason")


def _signal(x: Latch) -> tuple[Any, ...]:
    return _at(x.raised_at), len(x.waits), x.raised_by, _listed(x.waits)


def _slim_signal(x: Latch) -> None:
    x.data = None


def _lock(x: Lock) -> tuple[Any, ...]:
    return x.permits, len(x.holders), len(x.waiting), _listed(x.requests)


def _flag(x: Flag) -> tuple[Any, ...]:
    said = x.said
    return (
        _at(x.at), None if said is None else said.percentage, x.changes, None if said is None else said.enabled,
        x.by, None if said is None else _json(said.rules),
    )  # fmt: skip


def _slim_registry(x: Registry) -> None:
    there = x.there
    ended = [name for name in x.agent.instances if name not in there]
    for name in ended[: -limits.REGISTRY_ENDED_KEPT]:
        del x.agent.instances[name]


def _registry(x: Registry) -> tuple[Any, ...]:
    about = x.newest
    return (
        _at(x.registered_at), len(x.there), about.coordinator, _text(about.model), _text(about.version),
        _json(x.capabilities), _json(about.labels), _listed(x.agent.instances), x.agent.state,
        _text(x.agent.quota or None),
    )  # fmt: skip


TABLES: Final[dict[str, Table]] = {
    "task": Table(
        "task", Task, frozenset({"submitted"}), None, lambda x: x.submitted_seq != 0, _task, _slim_task,
        frozenset({"recorded"}),
    ),
    "workflow": Table(
        "workflow", Workflow, frozenset({"started"}), None, lambda x: x.started_seq != 0, _workflow, _slim_workflow
    ),
    "handoff": Table("handoff", Handoff, frozenset({"offered"}), None, lambda x: x.seq != 0, _handoff, _slim_handoff),
    "signal": Table(
        "signal", Latch, frozenset({"raised", "awaited"}), None, lambda x: x.raised or bool(x.waits), _signal,
        _slim_signal,
    ),
    "lock": Table("lock", Lock, frozenset({"requested"}), None, lambda x: bool(x.requests), _lock, _keep),
    "flag": Table("flag", Flag, frozenset({"set"}), None, lambda x: x.seq != 0, _flag, _keep),
    "agent": Table(
        "agent_registry", Registry, frozenset({"registered"}),
        frozenset({"registered", "draining", "left", "suspected", "gone", "returned", "quarantined", "released"}),
        lambda x: x.registered_at is not None, _registry, _slim_registry,
    ),
}  # fmt: skip
"""By kind.  In this order they are locked."""

ALONE: Final[dict[str, Folded]] = {
    "timer": Folded("timer", Timer, frozenset({"set"}), frozenset({"set"}), lambda x: x.set_seq != 0),
    "rules": Folded("rules", RuleSet, frozenset({"set"}), frozenset({"set"}), lambda x: x.seq != 0),
}
"""Kinds without a table, by kind, of which a beginning is judged by itself."""

GATHERED: Final[dict[str, Folded]] = {**TABLES, **ALONE}
"""Every kind whose facts are looked at on their way into the tables."""

BY_ITSELF: Final = frozenset({
    "task.malformed", "workflow.malformed", "workflow.key", "handoff.malformed", "signal.malformed", "lock.malformed",
    "flag.malformed", "flag.key", "timer.malformed", "rules.invalid", "rules.key",
})  # fmt: skip
"""Refusals that say what is wrong with a fact, whatever was said before it: a beginning that is refused so is a dead
letter, of an entity that nobody knows too."""

SAME_LIFE: Final = frozenset({"task.repeated", "workflow.repeated", "handoff.repeated"})
"""Refusals of a beginning that has what the first one had: it is no other entity under the same id."""

QUIET: Final = SAME_LIFE | {
    "task.overtaken",
    "handoff.overtaken",
    "signal.no_wait",
    "lock.not_held",
    "lock.overtaken",
    "handoff.told",
}
"""Refusals that are no fault: the same said twice, the end of what had ended, a release of a claim whose outcome was
on its way, what only tells of the past.  Not dead letters."""

assert limits.TASK_RETRIES_MAX < _INT_MAX
