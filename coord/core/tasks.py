"""The life of one task: a fold of its facts, the same for deciders, projector, SDK and tests.

::

                 submitted               claimed.{n}
      (nothing) ──────────▶ queued ───────────────────────▶ claimed
                              ▲ ▲                           │ │ │ │
                              │ └── returned.{n} ───────────┘ │ │ │
                              │     released.{n}, deaths left │ │ │
              claimed.{n}     │                               │ │ │
      waiting ────────────────┼──▶ claimed                    │ │ │
         ▲                    │                               │ │ │
         └────────────────────┼──── failed, retries left ─────┘ │ │
                              │                                 │ │
                   redriven: submitted again          completed │ │ rejected
                              │                       failed    ▼ ▼ released, none left
                           (ended) ◀── completed · rejected · failed · cancelled · expired

Authority.  The first `submitted` counts.  A claim counts when it is the next one and the
task is free; so whoever claims with the concurrency header of docs/protocol.md §16 is believed.
An outcome counts when its author holds the claim.  Everything else is refused with a code
and changes nothing; the projector parks it as a dead letter.

Bounds.  How often and how long it may run says the submission; where it does not, the claim, for the
handler that takes it; where neither does, the defaults hold.

Attempts.  A claim that ends by `failed` costs one of the retries, one that ends by
`released` (its agent died, hung or overran) one of the deaths, `returned` costs nothing.

Pure, and no clock: what depends on time is computed from the broker's time of a fact.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from coord import limits
from coord.core.deciding import State
from coord.core.retry import backoff_of
from coord.errors import InvalidPayload, WireError
from coord.wire import work
from coord.wire.envelope import StoredFact
from coord.wire.records import NOTHINGS
from coord.wire.work import (
    Carried,
    Claim,
    Completed,
    Ended,
    Failed,
    LocalOutcome,
    LocalStep,
    Placed,
    Placing,
    Progress,
    Rejected,
    Released,
    Returned,
    Submission,
)

N = TypeVar("N", int, float)

Status: TypeAlias = Literal["queued", "claimed", "waiting", "completed", "rejected", "failed", "cancelled", "expired"]

ENDED: Final[frozenset[str]] = frozenset({"completed", "rejected", "failed", "cancelled", "expired"})
"""Terminal: nothing follows but a redrive of what did not succeed."""

TRANSITIONS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    # (status or "-", event) → what it may become.  A test walks all of them; the diagram in the docs is made of it.
    ("-", "submitted"): ("queued",),
    ("queued", "claimed"): ("claimed",),
    ("waiting", "claimed"): ("claimed",),
    ("claimed", "progress"): ("claimed",),
    ("claimed", "recorded"): ("claimed",),
    ("claimed", "completed"): ("completed",),
    ("claimed", "rejected"): ("rejected",),
    ("claimed", "failed"): ("waiting", "failed"),
    ("claimed", "returned"): ("queued",),
    ("claimed", "released"): ("queued", "failed"),
    ("queued", "returned"): ("queued",),
    ("waiting", "returned"): ("waiting",),
    ("queued", "placed"): ("queued",),
    ("waiting", "placed"): ("waiting",),
    ("claimed", "placed"): ("claimed",),  # overtaken: it is counted, no more
    **{(ended, "placed"): (ended,) for ended in sorted(ENDED)},
    ("queued", "cancelled"): ("cancelled",),
    ("claimed", "cancelled"): ("cancelled",),
    ("waiting", "cancelled"): ("cancelled",),
    ("queued", "expired"): ("expired",),
    ("claimed", "expired"): ("expired",),
    ("waiting", "expired"): ("expired",),
    ("queued", "submitted"): ("queued",),  # restated by its decider, near the end of the window
    ("claimed", "submitted"): ("claimed",),
    ("waiting", "submitted"): ("waiting",),
    ("rejected", "submitted"): ("queued",),  # redriven
    ("failed", "submitted"): ("queued",),
    ("cancelled", "submitted"): ("queued",),
    ("expired", "submitted"): ("queued",),
}


class Refusal(msgspec.Struct, frozen=True):
    """A fact that is not believed, and why: a stable code and words."""

    code: str
    reason: str


_EXISTS = Refusal("task.exists", "a task of this id was submitted before, and it was another one")
_REPEATED = Refusal("task.repeated", "this was stated before")
_FINISHED = Refusal("task.finished", "the task has ended")
_UNKNOWN = Refusal("task.unknown", "no task of this id was submitted")
_NOT_CLAIMANT = Refusal("task.not_claimant", "the author does not hold the claim")
_CLAIM_TAKEN = Refusal("task.claim_taken", "somebody else holds the claim, or it is not the next one")
_OVERTAKEN = Refusal(
    "task.overtaken", "a death or the time led to it, and what the task's agents stated meanwhile was stored before it"
)
_NOT_SUBMITTER = Refusal("task.not_submitter", "only the submitter or a decider may cancel a task")
_NOT_OFFERED = Refusal("task.not_offered", "it tells of local steps that were not offered with it, or out of order")
_MALFORMED = Refusal("task.malformed", "the body or the subject of this fact is not what its event demands")


_NOT_PLACED: Final = Placing()


class Task(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A task as its facts leave it.  Mutable: `apply` changes it.  Its fields are what snapshots and the table hold."""

    tenant: str
    key: str
    id: str
    status: Status = "queued"
    capability: str = ""
    queue: str = "normal"
    """Of `work.QUEUES`: which of the capability's queues has its delivery."""
    submission: Submission = Submission()
    submitter: str = ""
    submitted_seq: int = 0
    """The submission that its queue delivers: the first, or the newest redrive or restatement."""
    submitted_at: float = 0.0
    """Broker's clock, Unix seconds, of the first submission (or redrive)."""
    payload_hash: str = ""
    event_id: str = ""
    """Of the first submission."""
    correlation_id: str | None = None
    claims: int = 0
    """Claims that were believed: the number of the current or last one."""
    failures: int = 0
    deaths: int = 0
    barred: int = 0
    """Claims that were released because their agent was quarantined: each is delivered later than the one before."""
    claimant: str | None = None
    instance: str | None = None
    claimed_at: float | None = None
    """Broker's clock, of the newest claim that was believed."""
    started_first_at: float | None = None
    retry_at: float | None = None
    """Waiting, or released from a quarantined agent: not delivered before."""
    ended_at: float | None = None
    progress: float | None = None
    error: str | None = None
    """Of the last failure, rejection, cancellation or expiry: what kind,"""
    message: str | None = None
    """and in words."""
    run_s: float | None = None
    """Of the outcome, as its author measured it."""
    redrives: int = 0
    restated: int = 0
    placing: Placing | None = None
    """How far the scheduler has come; None: it has decided nothing."""
    handler_retries: int | None = None
    """What the newest claim says of its handler, where the submission says nothing;"""
    handler_timeout_s: float | None = None
    """None: it says nothing either."""

    @property
    def ended(self) -> bool:
        """Whether nothing follows but a redrive."""
        return self.status in ENDED

    @property
    def free(self) -> bool:
        """Whether the next claim would be believed."""
        return self.status in ("queued", "waiting")

    @property
    def retries(self) -> int:
        """Executions after the first that may fail, as far as is known: a handler to come may say otherwise."""
        return bound(self.submission.retries, self.handler_retries, limits.TASK_RETRIES)

    @property
    def timeout_s(self) -> float:
        """How long one execution may last, as `retries` says how many there may be."""
        return bound(self.submission.timeout_s, self.handler_timeout_s, limits.TASK_TIMEOUT_S)

    @property
    def claim_s(self) -> float:
        """How long a claim may last: the execution, and the local steps that were begun in time."""
        told = self.submission
        if not told.then:
            return self.timeout_s
        return max(self.timeout_s, limits.LOCAL_S + max(local.longest_s for local in told.then))

    @property
    def next_claim(self) -> int:
        """The number that it must have."""
        return self.claims + 1

    # --- folding -------------------------------------------------------------------------

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of this task; None: believed.  A refused one has changed nothing."""
        if self.submitted_seq == 0 and fact.event != "submitted":
            return _UNKNOWN
        fold = _FOLDS.get(fact.event)
        if fold is None:
            return _MALFORMED
        try:
            return fold(self, fact)
        except WireError as exc:
            return Refusal(_MALFORMED.code, exc.message)

    def _submitted(self, fact: StoredFact) -> Refusal | None:
        if len(fact.detail) != 2:
            return _MALFORMED
        capability, queue = work.submission_detail(*fact.detail)
        said = work.check(decode(fact, Submission))
        if self.submitted_seq == 0:
            self._begin(fact, capability, queue, said)
            self.event_id, self.payload_hash = fact.event_id, payload_hash(fact)
            if said.carried is not None and fact.agent.startswith("_"):
                self._carry_on(said, said.carried)
            return None
        ours = said.redrive == self.redrives  # or it was decided before the task was redriven
        if ours and said.restated > self.restated and not self.ended and fact.agent.startswith("_"):
            self.submitted_seq, self.restated = fact.seq, said.restated
            if queue != self.queue:
                self.queue = queue  # the scheduler's offers were not accepted: whoever is free first
                self._reopen()
            return None
        if self.ended and self.status != "completed" and said.redrive == self.redrives + 1:
            self._begin(fact, capability, queue, said)
            return None
        if payload_hash(fact) == self.payload_hash:
            return _REPEATED
        if said.restated and fact.agent.startswith("_"):
            return _OVERTAKEN  # by the end, or by another restatement
        return Refusal(_EXISTS.code, f"{_EXISTS.reason}: {self.event_id}, by {self.submitter}")

    def _begin(self, fact: StoredFact, capability: str, queue: str, said: Submission) -> None:
        self.status = "queued"
        if queue not in (said.priority, work.PLACED):
            said = msgspec.structs.replace(said, priority=queue)  # a plain client need not say it twice
        if said.then:
            offered = said.then if fact.agent.startswith("_") else []
            # What its agent needs to know the log has; held is what outcomes are judged by.
            held = [LocalStep(step=local.step, task=local.task, timeout_s=local.timeout_s) for local in offered]
            said = msgspec.structs.replace(said, then=held)
        self.capability, self.queue, self.submission = capability, queue, said
        self.submitter, self.correlation_id = fact.agent, fact.correlation_id
        first, self.submitted_seq, self.submitted_at = not self.submitted_seq, fact.seq, fact.stored_at.timestamp()
        self.redrives, self.restated = said.redrive, 0
        self.failures = failed_before(fact, said)
        if first:
            return  # nothing was believed before it: the rest is as it was made
        self.deaths = self.barred = 0
        self.handler_retries = self.handler_timeout_s = None
        self._reopen()
        self.claimant = self.instance = self.claimed_at = self.retry_at = self.ended_at = None
        self.progress = self.error = self.message = self.run_s = None

    def _carry_on(self, said: Submission, carried: Carried) -> None:
        """The facts before this one have left the window: a decider says what they had come to."""
        self.restated = said.restated
        for name in Carried.__struct_fields__:
            setattr(self, name, getattr(carried, name))
        if self.status == "claimed" and self.claimed_at is None:
            self.claimed_at = self.submitted_at  # its lease is reckoned from there

    def _claimed(self, fact: StoredFact) -> Refusal | None:
        if self.ended:
            return _FINISHED
        n = work.number(fact.detail)
        if n is None:
            return _MALFORMED
        if not self.free or n != self.next_claim:
            return _CLAIM_TAKEN
        said = decode(fact, Claim)
        self.status, self.claims = "claimed", n
        self.claimant, self.instance = fact.agent, said.instance
        told = self.submission
        self.handler_retries = self.handler_timeout_s = None
        if said.retries is not None and told.retries is None and work.is_retries(said.retries):
            self.handler_retries = said.retries
        if said.timeout_s is not None and told.timeout_s is None and work.is_timeout(said.timeout_s):
            self.handler_timeout_s = said.timeout_s
        self.claimed_at, self.retry_at = fact.stored_at.timestamp(), None
        self.progress = None
        self._reopen()
        if self.started_first_at is None:
            self.started_first_at = self.claimed_at
        return None

    def _held(self, fact: StoredFact, claim: int | None) -> Refusal | None:
        """Whether the author holds the claim that it speaks of."""
        if self.ended:
            return _FINISHED
        if self.status != "claimed" or fact.agent != self.claimant or claim not in (None, self.claims):
            return _NOT_CLAIMANT
        return None

    def _progress(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Progress)
        refusal = self._held(fact, said.claim)
        if refusal is None and said.done is not None:
            self.progress = min(1.0, max(0.0, said.done))
        return refusal

    def _recorded(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, _Step)
        if not 0 < len(said.step) <= limits.STEP_NAME_CHARS_MAX:
            return _MALFORMED
        return self._held(fact, said.claim)

    def _completed(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Completed)
        refusal = self._held(fact, said.claim)
        if refusal is None and said.then:
            work.check_outcomes(said.then)
            if not _are_offered(said.then, self.submission.then):
                return _NOT_OFFERED
        if refusal is None:
            self._end(fact, "completed", None, None, said.run_s)
            self.progress = 1.0
        return refusal

    def _rejected(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Rejected)
        refusal = self._held(fact, said.claim)
        if refusal is None:
            self._end(fact, "rejected", "rejected", said.reason, said.run_s)
        return refusal

    def _failed(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Failed)
        refusal = self._held(fact, said.claim)
        if refusal is not None:
            return refusal
        self.failures += 1
        if said.final or self.failures > self.retries:
            self._end(fact, "failed", said.error, said.message, said.run_s)
            return None
        at = fact.stored_at.timestamp()
        self._free("waiting")
        self.error, self.message, self.run_s = said.error, said.message, said.run_s
        self.retry_at = at + self._backoff_s(fact.event_id)
        return None

    def _returned(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Returned)
        n = work.number(fact.detail)
        if n is None:
            return _MALFORMED
        if self.ended:
            return _FINISHED
        if n == self.next_claim and self.free:
            self._declined(fact.agent, said.instance)
            return None  # a delivery that nobody claimed
        refusal = self._held(fact, n)
        if refusal is None:
            self._free("queued")
        return refusal

    def _released(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Released)
        if self.status != "claimed" or work.number(fact.detail) != self.claims:
            return _OVERTAKEN
        if said.reason in ("drained", "quarantined"):  # no fault of the task's
            self._free("queued")
            if said.reason == "quarantined":
                # Whoever pulls on all the same would be given it again at once, for as long as it is quarantined.
                wait_s = min(limits.QUARANTINE_RETRY_S * 2.0 ** min(self.barred, 30), limits.QUARANTINE_S)
                self.barred, self.retry_at = self.barred + 1, fact.stored_at.timestamp() + wait_s
            return None
        self.deaths += 1
        if self.deaths > limits.TASK_DEATHS_MAX:
            self._end(fact, "failed", said.reason, "its agents died, hung or overran too often", None)
            return None
        self._free("queued")
        self.error, self.message = said.reason, None
        return None

    def _cancelled(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Ended)
        if self.ended:
            return _OVERTAKEN if fact.agent.startswith("_") else _FINISHED
        if not fact.agent.startswith("_") and fact.agent != self.submitter:
            return _NOT_SUBMITTER
        self._end(fact, "cancelled", "cancelled", said.reason, None)
        return None

    def _expired(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Ended)
        if self.ended:
            return _OVERTAKEN
        self._end(fact, "expired", "expired", said.reason, None)
        return None

    def _placed(self, fact: StoredFact) -> Refusal | None:
        said = decode(fact, Placed)
        n, before = work.number(fact.detail), self.placing or _NOT_PLACED
        if n is None:
            return _MALFORMED
        if n <= before.n:
            return _REPEATED
        if not self.free:
            # Overtaken by a claim or the end.  It counts all the same: its number is taken in the log, and under it
            # nothing can be decided any more.
            self.placing = Placing(n=n)
            return None
        tried = () if said.again else before.tried
        if said.agent is not None:
            tried = (*tried, (said.agent, said.instance or ""))
        self.placing = Placing(
            n=n, agent=said.agent, instance=said.instance, at=fact.stored_at.timestamp(), tried=tried,
            unplaced=said.agent is None and not said.pull, pull=said.pull,
        )  # fmt: skip
        return None

    def _declined(self, agent: str, instance: str | None) -> None:
        """Whoever is offered it does not take it."""
        placing = self.placing
        if placing is not None and placing.agent == agent and placing.instance in (None, instance):
            self.placing = msgspec.structs.replace(placing, agent=None, instance=None)

    def _reopen(self) -> None:
        """What was offered is over; decisions go on being counted."""
        if self.placing is not None:
            self.placing = Placing(n=self.placing.n)

    def _free(self, status: Literal["queued", "waiting"]) -> None:
        self.status = status
        self.claimant = self.instance = None
        self.progress = None

    def _end(
        self, fact: StoredFact, status: Status, error: str | None, message: str | None, run_s: float | None
    ) -> None:
        self.status, self.ended_at = status, fact.stored_at.timestamp()
        self.error, self.message, self.run_s = error, message, run_s
        self.retry_at = None

    def _backoff_s(self, seed: str) -> float:
        """Until the next attempt: the jitter is a function of the failure, so that every fold agrees."""
        told = self.submission
        jitter = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=4).digest()) / 2**32
        return backoff_of(self.failures, jitter, first_s=told.backoff_s, most_s=told.backoff_max_s)


_FOLDS: Final = {
    "submitted": Task._submitted,  # noqa: SLF001 - this module's own
    "claimed": Task._claimed,  # noqa: SLF001
    "progress": Task._progress,  # noqa: SLF001
    "recorded": Task._recorded,  # noqa: SLF001
    "completed": Task._completed,  # noqa: SLF001
    "rejected": Task._rejected,  # noqa: SLF001
    "failed": Task._failed,  # noqa: SLF001
    "returned": Task._returned,  # noqa: SLF001
    "released": Task._released,  # noqa: SLF001
    "cancelled": Task._cancelled,  # noqa: SLF001
    "expired": Task._expired,  # noqa: SLF001
    "placed": Task._placed,  # noqa: SLF001
}


def _are_offered(told: list[LocalOutcome], offered: list[LocalStep]) -> bool:
    """Whether they are the first ones of those, and only the last of them has failed."""
    if [outcome.step for outcome in told] != [local.step for local in offered[: len(told)]]:
        return False
    return all(outcome.error is None for outcome in told[:-1])


def failed_before(fact: StoredFact, said: Submission) -> int:
    """Executions of a task that failed before it was submitted: as a local step, says a decider."""
    return said.failures if fact.agent.startswith("_") else 0


def fold(facts: list[StoredFact]) -> tuple[Task | None, list[tuple[StoredFact, Refusal]]]:
    """One task's whole history in log order: what it is now, and what was not believed."""
    task: Task | None = None
    refused: list[tuple[StoredFact, Refusal]] = []
    for fact in facts:
        if task is None:
            task = Task(tenant=fact.tenant, key=fact.key, id=fact.id)
        refusal = task.apply(fact)
        if refusal is not None:
            refused.append((fact, refusal))
    return (task if task is not None and task.submitted_seq else None), refused


def bound(submission: N | None, handler: N | None, default: N) -> N:
    """What holds of an execution: the submission's word, else the handler's, else the default."""
    if submission is not None:
        return submission
    return default if handler is None else handler


def may_be_second(state: State) -> bool:
    """Whether it may be stated although its entity has a fact: see `is_open`.

    A workflow's submission is another matter: its decider says it again by itself where it is not met in the log.
    """
    return state.kind == "task" and state.once == "entity" and state.from_outside


def is_open(facts: list[StoredFact], event_id: str) -> bool:
    """Whether a submission of that id, which was to be a task's first fact, is still to be stated.

    So it is where the facts that are there come to no task (anybody can state one under an id that is not taken
    yet, and nobody believes it), and the submission is not among them.
    """
    return fold(facts)[0] is None and all(fact.event_id != event_id for fact in facts)


def restatement(task: Task) -> Submission:
    """What its decider says when the submission of an open task is about to leave the window.

    Without the input and the local steps, which the decider does not keep: whoever states it takes those from the log.
    """
    carried = Carried(**{name: getattr(task, name) for name in Carried.__struct_fields__})
    return msgspec.structs.replace(task.submission, input=None, then=[], restated=task.restated + 1, carried=carried)


def payload_hash(fact: StoredFact) -> str:
    """What makes two submissions of one id the same: capability, queue and body."""
    text = ".".join(fact.detail).encode() + b"\0" + fact.body
    return _digest(text, digest_size=12).hexdigest()


_digest: Final = hashlib.blake2b


class _Step(msgspec.Struct, frozen=True):
    """A record but for what the step gave, which is its handler's business."""

    claim: int | None = None
    step: str = ""
    ref: work.Reference | None = None
    run_s: float | None = None


_DECODERS: Final = {
    to: msgspec.json.Decoder(to).decode
    for to in (Submission, Claim, Progress, _Step, Completed, Rejected, Failed, Returned, Released, Placed, Ended)
}


def decode(fact: StoredFact, to: type[Any]) -> Any:
    """The body as that type; nothing and null are its defaults.  Raises `InvalidPayload`."""
    body = fact.body
    if not body or body in NOTHINGS:  # `StoredFact.says_nothing`, without the call
        return to()
    if fact.content == "json":
        # `StoredFact.decode` for types that nobody upcasts, at a third of its cost.
        decoder = _DECODERS.get(to)
        if decoder is not None:
            try:
                return decoder(body)
            except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
                raise InvalidPayload(f"not a {to.__name__}: {exc}") from exc
    return fact.decode(to)
