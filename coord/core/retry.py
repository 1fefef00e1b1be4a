"""When a message is sent again, and when it is given up: the deadline sweep.

Every message in flight has a time at which it is looked at again (`next_at`) and one after
which nobody tries any more (`deadline_at`).  It is always sent again *as it is*, with the
same id, so that the broker recognises it.

::

             sent()              ack, or a refusal that waiting cannot help
    queued ─────────▶ in flight ────────────────────────────────────────────▶ settled
                       ▲   │ no ack until next_at, a refusal that may pass,       ▲
                       └───┘ or a reconnect: sent again                           │
                           └── deadline_at passed: the last refusal, or a timeout ┘

The time to the next attempt doubles, so that a broker that is slow rather than gone is not
buried under copies; refusals that may pass (no leader, stream full) back off with jitter, so
that ten thousand agents do not come back in the same millisecond.

Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from coord import limits
from coord.errors import CircuitOpen, CoordError, Overloaded, SettingsError

if TYPE_CHECKING:
    import random


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long and how often a message is tried.  Seconds."""

    attempt_s: float = limits.PUBLISH_ATTEMPT_S
    """How long the first send waits for its ack; doubled with every further one."""
    attempt_max_s: float = 4 * limits.PUBLISH_ATTEMPT_S
    """The longest wait for an ack."""
    deadline_s: float = limits.PUBLISH_DEADLINE_S
    """From being accepted to being given up, time in queues and disconnected included."""
    refused_wait_s: float = limits.OVERLOAD_WAIT_S
    """How long a message refused because the stream is full is tried again; 0: not at all."""
    backoff_s: float = 0.1
    """Before the first repeat after a refusal; doubled each time, up to `attempt_s`."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if not 0 < self.attempt_s <= self.attempt_max_s:
            raise SettingsError("publish: 0 < attempt_s <= attempt_max_s is demanded")
        if not self.attempt_s < self.deadline_s:
            raise SettingsError("publish: attempt_s must be below deadline_s")
        if self.deadline_s + self.attempt_max_s >= limits.DUPLICATE_WINDOW_S:
            raise SettingsError(
                "publish: deadline_s + attempt_max_s must stay below the duplicate window, or resends are stored twice",
                duplicate_window_s=limits.DUPLICATE_WINDOW_S,
            )
        if not (0 <= self.refused_wait_s <= self.deadline_s and 0 < self.backoff_s <= self.attempt_s):
            raise SettingsError(
                "publish: 0 <= refused_wait_s <= deadline_s and 0 < backoff_s <= attempt_s are demanded"
            )


class CallPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a question is asked again that may be asked twice.  Seconds.

    What changes something is asked once, unless what it changes is guarded against repeats.
    """

    retries_max: int | None = limits.CALL_RETRIES_MAX
    """Repeats, not counting the first; 0: none; None: as many as `deadline_s` allows."""
    deadline_s: float | None = None
    """No repeat begins so long after the first was asked; None: `retries_max` alone bounds them."""
    first_s: float = limits.CALL_RETRY_FIRST_S
    """Before the first repeat; doubled each time, half of it random,"""
    most_s: float = limits.CALL_RETRY_MAX_S
    """up to this."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if self.retries_max is None and self.deadline_s is None:
            raise SettingsError("retries: retries_max or deadline_s bounds them")
        if (self.retries_max or 0) < 0 or not 0 < self.first_s <= self.most_s:
            raise SettingsError("retries: retries_max >= 0 and 0 < first_s <= most_s are demanded")
        if self.deadline_s is not None and self.deadline_s < 0:
            raise SettingsError("retries: deadline_s >= 0 is demanded")

    def wait_s(self, attempt: int, error: CoordError, rng: random.Random, took_s: float = 0.0) -> float | None:
        """Seconds before asking again after attempt number `attempt` (1, 2, …) ended with `error`; None: give up.

        `took_s`: since the first was asked.  An error that says when to come back is believed,
        unless that is longer than `most_s`, or with a deadline than what is left.
        """
        if not error.retryable or (self.retries_max is not None and attempt > self.retries_max):
            return None
        wait_s = backoff_s(attempt, rng, first_s=self.first_s, most_s=self.most_s)
        if isinstance(error, CircuitOpen | Overloaded):
            if self.deadline_s is None and error.retry_after_s > self.most_s:
                return None
            wait_s = max(wait_s, error.retry_after_s)
        if self.deadline_s is not None and took_s + wait_s >= self.deadline_s:
            return None
        return wait_s


ONCE = CallPolicy(retries_max=0)
"""For what must not be asked twice, and for callers with a loop of their own."""


class Sending(msgspec.Struct, eq=False):
    """What the sweep knows of one message; sent messages extend it."""

    deadline_at: float
    next_at: float = 0.0
    attempts: int = 0
    refusals: int = 0
    refused_at: float = 0.0
    """When it was first refused by something that may pass; 0 while it was not."""
    failure: CoordError | None = None
    """The last refusal that may pass: what the caller is told when time is up."""


SendingT = TypeVar("SendingT", bound=Sending)


class Sweep(msgspec.Struct, Generic[SendingT]):
    """What to do now: send `resend` again in order, give up `expired`, look again at `next_at`."""

    resend: list[SendingT]
    expired: list[SendingT]
    next_at: float | None
    """None when nothing is in flight."""


def sent(item: Sending, now: float, policy: RetryPolicy) -> None:
    """Account one send of `item`."""
    item.attempts += 1
    wait_s = policy.attempt_s
    if item.attempts > 1:
        wait_s = min(policy.attempt_max_s, wait_s * 2 ** (item.attempts - 1))
    item.next_at = now + wait_s


def sweep(items: Iterable[SendingT], now: float) -> Sweep[SendingT]:
    """Look at everything in flight, in the order of first sends; changes nothing."""
    resend: list[SendingT] = []
    expired: list[SendingT] = []
    next_at: float | None = None
    for item in items:
        if item.deadline_at <= now:
            expired.append(item)
            continue
        if item.next_at <= now:
            resend.append(item)
            continue
        at = min(item.next_at, item.deadline_at)
        if next_at is None or at < next_at:
            next_at = at
    return Sweep(resend, expired, next_at)


def refused(
    item: Sending, error: CoordError, now: float, policy: RetryPolicy, rng: random.Random, *, until_deadline: bool
) -> bool:
    """A refusal that may pass: True when `item` is to be sent again at its `next_at`, False to give up.

    `until_deadline`: such as an absent stream, which looks like a leader election; otherwise
    it is tried for `refused_wait_s` since the first refusal, such as a full stream.
    """
    item.failure = error
    if not item.refusals:
        item.refused_at = now
    item.refusals += 1
    give_up_at = item.deadline_at
    if not until_deadline:
        give_up_at = min(give_up_at, item.refused_at + policy.refused_wait_s)
    item.next_at = now + backoff_s(item.refusals, rng, first_s=policy.backoff_s, most_s=policy.attempt_s)
    return item.next_at < give_up_at


def backoff_s(attempt: int, rng: random.Random, *, first_s: float, most_s: float) -> float:
    """Seconds before attempt number `attempt` (1, 2, …): doubling up to `most_s`, the upper half random."""
    return backoff_of(attempt, rng.random(), first_s=first_s, most_s=most_s)


def backoff_of(attempt: int, jitter: float, *, first_s: float, most_s: float) -> float:
    """`backoff_s` with its randomness given: `jitter` from 0 to 1."""
    whole = min(most_s, first_s * 2.0 ** min(attempt - 1, 60))
    return whole * (0.5 + 0.5 * jitter)
