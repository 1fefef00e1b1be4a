"""What is said about tasks: the data of the facts of kind `task`, in docs/protocol.md §16.

A task is the entity (tenant, key, ``task``, id).  Its life, who may state what, and what is
believed is the table of `coord.core.tasks`; this module has the bodies.  All of them are JSON
maps that only grow, with defaults: an empty map is a valid claim, and ``{}`` with a submission's
subject is a task without input.

Times in bodies are Unix seconds where they say so, RFC 3339 nowhere: a body is folded by every
reader, and a float costs a tenth of a date.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.errors import InvalidPayload
from coord.wire.numbers import Count, check_integers
from coord.wire.subjects import check_token

Priority: TypeAlias = Literal["critical", "normal", "batch"]

PRIORITIES: Final[tuple[Priority, ...]] = ("critical", "normal", "batch")
"""Most urgent first; what they share of a busy worker is `limits.PRIORITY_SHARES`."""

PLACED: Final = "placed"
"""Stands in the place of the priority where the scheduler, not the next free agent, decides who gets it."""

QUEUES: Final = (*PRIORITIES, PLACED)
"""What may stand there.  Each priority is a queue that is pulled; what is placed is delivered by being offered."""


REJECTED: Final = "rejected"
"""The error of a local step that was rejected."""


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a payload is that is too large for the log: an object of the bucket PAYLOADS."""

    name: str
    size: Count
    """Bytes."""
    digest: str
    """SHA-256, hexadecimal."""
    content: Literal["json", "msgpack"] = "json"


class Placing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the scheduler has come with a task, as ``task.placed.{n}`` and the answers leave it."""

    n: Count = 0
    """Of the newest decision."""
    agent: str | None = None
    """Who is offered the task now; None: nobody is."""
    instance: str | None = None
    at: float = 0.0
    """Broker's clock, Unix seconds, of the newest decision."""
    tried: tuple[tuple[str, str], ...] = ()
    """(agent, instance) of those who were offered it since it was free last."""
    unplaced: bool = False
    """The newest decision was that nobody may have it."""
    pull: bool = False
    """The newest decision was to leave it to whoever is free first."""


class Carried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the facts of a task said before it was stated again: for whoever finds those gone from the log."""

    status: Literal["queued", "claimed", "waiting"] = "queued"
    submitter: str = ""
    submitted_at: float = 0.0
    """Broker's clock, Unix seconds."""
    event_id: str = ""
    payload_hash: str = ""
    claims: Count = 0
    failures: Count = 0
    deaths: Count = 0
    barred: Count = 0
    claimant: str | None = None
    instance: str | None = None
    claimed_at: float | None = None
    started_first_at: float | None = None
    retry_at: float | None = None
    placing: Placing | None = None
    handler_retries: Count | None = None
    handler_timeout_s: float | None = None


class LocalStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step that may be done at once by whoever did the task before: one of a submission's `then`.

    Whether and how is `coord.core.flow_local`; who does not know it leaves it alone.
    """

    step: str
    """Its name: the id of the task that it is otherwise."""
    task: str
    """A capability."""
    input: Any = None
    """A mapping, as a step's; None: what the step before gave."""
    when: str | None = None
    """A condition: where it does not hold nothing more is done."""
    values: dict[str, Any] = {}
    """What input and condition name and no step of the line gives: path (as conditions write it) → value; what
    is not here is missing."""
    timeout_s: float | None = None
    """Of its execution, which is the only one here; None: as its handler says, and at most the default."""
    retries: Count | None = None
    """After that execution, as a task of its own; None: as its handler says."""
    labels: dict[str, str] = {}

    @property
    def longest_s(self) -> float:
        """How long its execution may be."""
        return limits.TASK_TIMEOUT_S if self.timeout_s is None else self.timeout_s


class Submission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``task.submitted.{capability}.{priority}``: what is to be done, and within which bounds.

    What it does not say of the bounds of an execution (None), the handler of whoever claims it does, by its claim;
    where neither does, the default holds: `limits.TASK_RETRIES`, `limits.TASK_TIMEOUT_S`.
    """

    input: Any = None
    ref: Reference | None = None
    """Instead of `input`."""
    retries: int | None = None
    """Executions after the first that failed; an agent's death is counted apart (`limits.TASK_DEATHS_MAX`)."""
    backoff_s: float = limits.TASK_BACKOFF_S
    """Before the first retry; doubled each time, half of it jitter, at most `backoff_max_s`."""
    backoff_max_s: float = limits.TASK_BACKOFF_MAX_S
    timeout_s: float | None = None
    """Of one execution."""
    deadline: float | None = None
    """Unix seconds (the broker's clock decides); what has no outcome by then is expired."""
    priority: Priority = "normal"
    """The subject's; says it again where the subject says `placed`."""
    placement: dict[str, Any] | None = None
    """How the scheduler chooses; None: the next free agent takes it."""
    labels: dict[str, str] = {}
    """Of the task, for whoever looks for it.  Which labels an agent must have is said in `placement` (`require`)."""
    preemptible: bool | None = None
    """Whether its handler may be made to wait while something critical does; None: as the handler says, which may
    forbid it in any case."""
    instance: str | None = None
    """Of the submitter: outcomes and progress are pushed to it.  None: to nobody; the log has them."""
    progress: bool = False
    """Whether progress is pushed too."""
    together: bool = False
    """Whether several ends may be pushed at once: as an array, by the topic `tasks`."""
    reuse_key: str | None = None
    """Digest of what identical tasks have in common, where the outcome may be used again."""
    redrive: Count = 0
    """How often it was submitted again after it had ended without success."""
    restated: Count = 0
    """How often its decider stated it again because it neared the end of the window."""
    carried: Carried | None = None
    """With `restated`; believed of a decider."""
    failures: Count = 0
    """Executions that have failed already, as a local step: they are among the `retries`; believed of a decider."""
    then: list[LocalStep] = []
    """What may be done in this order by whoever completes it, under the same claim; believed of a decider."""


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.claimed.{n}``: the author takes the task; n counts claims from 1."""

    instance: str | None = None
    """Of the claimant.  The claim holds as long as that instance lives; None (a plain client): as long as
    the timeout of the task."""
    retries: int | None = None
    """What the handler says, where the submission says nothing; out of bounds it says nothing;"""
    timeout_s: float | None = None
    """and so of its timeout."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.progress``."""

    claim: int | None = None
    done: float | None = None
    """0 to 1."""
    note: Any = None


class Recorded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``task.recorded``: what one step of the handler gave, for those who execute the task after it.

    The first of a name that is believed holds, under every later claim (`coord.core.recorded`).
    """

    claim: int | None = None
    step: str
    """Its name, unique within the task: 1 to `limits.STEP_NAME_CHARS_MAX` characters."""
    output: Any = None
    ref: Reference | None = None
    """Instead of `output`."""
    run_s: float | None = None
    """How long it ran."""


class LocalOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the execution of a local step ended: completed, or with an error, and then it is the last."""

    step: str
    output: Any = None
    ref: Reference | None = None
    error: str | None = None
    """What kind: an exception's name, or a code; None: it was completed."""
    message: str = ""
    final: bool = False
    """With an error: whether another execution is pointless."""
    after_s: float | None = None
    """It began so long after the task did;"""
    run_s: float | None = None
    """and ran for so long."""

    @property
    def rejected(self) -> bool:
        """Whether its handler said that no execution can succeed."""
        return self.final and self.error == REJECTED


class Completed(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.completed``."""

    claim: int | None = None
    """The claim it is the outcome of; None: the author's."""
    output: Any = None
    ref: Reference | None = None
    run_s: float | None = None
    """How long the handler ran."""
    then: list[LocalOutcome] = []
    """Of the first so many of the local steps that the submission offered, in its order."""


class Failed(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.failed``: an execution ended with an error that another one may not have."""

    claim: int | None = None
    error: str = ""
    """What kind: an exception's name, or a code."""
    message: str = ""
    run_s: float | None = None
    final: bool = False
    """Whether retrying is pointless though retries are left."""


class Rejected(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.rejected``: no execution can succeed."""

    claim: int | None = None
    reason: str = ""
    run_s: float | None = None


class Returned(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.returned.{n}``: the author does not run claim n, or, where n is the next one, an unclaimed delivery."""

    instance: str | None = None
    reason: str = ""


class Released(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.released.{n}``: claim n holds no longer, says the task decider."""

    reason: Literal["gone", "timeout", "quarantined", "drained"] = "gone"
    instance: str | None = None


class Placed(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.placed.{n}``, as far as it moves the task; the whole of it is `coord.core.placement.Decision`."""

    agent: str | None = None
    """Who is offered the task; None: nobody."""
    instance: str | None = None
    pull: bool = False
    """Whoever is free first may take it: it is submitted again, into the queue of its priority."""
    again: bool = False
    """Everybody was tried: the next decision begins with all of them."""


class Ended(msgspec.Struct, frozen=True, omit_defaults=True):
    """``task.cancelled`` and ``task.expired``."""

    reason: str = ""


_DAY_S: Final = 86_400.0


def check(said: Submission) -> Submission:
    """Itself, or `InvalidPayload` naming the bound that is out of range."""
    backoff_s, backoff_max_s = said.backoff_s, said.backoff_max_s
    timeout_s = limits.TASK_TIMEOUT_S if said.timeout_s is None else said.timeout_s
    if not (0 < backoff_s <= backoff_max_s <= _DAY_S and is_timeout(timeout_s)):
        raise _out_of_range(
            ("backoff_s", backoff_s, backoff_max_s),
            ("backoff_max_s", backoff_max_s, _DAY_S),
            ("timeout_s", timeout_s, limits.TASK_TIMEOUT_MAX_S),
        )
    if said.retries is not None and not is_retries(said.retries):
        raise InvalidPayload(f"retries must be 0 to {limits.TASK_RETRIES_MAX}", retries=said.retries)
    if said.placement is not None:
        check_integers(said.placement)
    if said.then:
        _check_offer(said.then)
    return said


def is_retries(retries: int) -> bool:
    """Whether a task may have so many."""
    return 0 <= retries <= limits.TASK_RETRIES_MAX


def is_timeout(timeout_s: float) -> bool:
    """Whether an execution may be given so long."""
    return 0 < timeout_s <= limits.TASK_TIMEOUT_MAX_S


def _out_of_range(*bounds: tuple[str, float, float]) -> InvalidPayload:
    """Naming the first of (name, value, most) that is."""
    name, value, most = next(bound for bound in bounds if not 0 < bound[1] <= bound[2])
    return InvalidPayload(f"{name} must be above 0 and at most {most:g}", **{name: value})


def _check_offer(then: list[LocalStep]) -> None:
    if len(then) > limits.LOCAL_STEPS_MAX:
        raise InvalidPayload(f"at most {limits.LOCAL_STEPS_MAX} local steps are offered", then=len(then))
    for local in then:
        check_token(local.step, "a step's name")
        check_token(local.task, "a capability")
        if not is_timeout(local.longest_s):
            raise InvalidPayload(
                f"timeout_s must be above 0 and at most {limits.TASK_TIMEOUT_MAX_S:g}", timeout_s=local.timeout_s
            )


def check_outcomes(then: list[LocalOutcome]) -> None:
    """Raise `InvalidPayload` for a local step of which it cannot be said how it ended."""
    for outcome in then:
        if outcome.error == "":
            raise InvalidPayload("an error has a name", step=outcome.step)
        if outcome.error is not None and (outcome.output is not None or outcome.ref is not None):
            raise InvalidPayload("a step has an output or an error, not both", step=outcome.step)


def submission_detail(capability: str, queue: str) -> tuple[str, str]:
    """The detail tokens of a submission; `InvalidToken`, or `InvalidPayload` for a queue that there is none of."""
    _check_detail(capability, queue)
    return capability, queue


@lru_cache(maxsize=1024)
def _check_detail(capability: str, queue: str) -> None:
    check_token(capability, "capability")
    if queue not in QUEUES:
        raise InvalidPayload("a task's priority is critical, normal or batch", priority=queue)


def number(detail: tuple[str, ...]) -> int | None:
    """The n of ``claimed.{n}`` and the like: decimal, from 1, without leading zeros; None: it is none."""
    small = _SMALL.get(detail)  # nearly every one: a tenth of the time
    if small is not None:
        return small
    if len(detail) != 1 or not detail[0].isascii() or not detail[0].isdecimal() or detail[0].startswith("0"):
        return None
    return int(detail[0]) if len(detail[0]) <= 9 else None


_SMALL: Final[dict[tuple[str, ...], int]] = {(str(n),): n for n in range(1, 10)}
