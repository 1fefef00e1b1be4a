"""One stream: messages, what may be stored, and what leaves again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from coord.runtime import clock
from coord.testing.memory import protocol, schedules
from coord.testing.memory.interest import Stored, transform
from coord.wire import headers as names
from coord.wire.filters import matches

NS: Final = 1_000_000_000

_ID: Final = names.MSG_ID.encode()
_STREAM: Final = b"Nats-Expected-Stream"
_LAST: Final = b"Nats-Expected-Last-Sequence"
_LAST_ID: Final = b"Nats-Expected-Last-Msg-Id"
_SUBJECT_SEQ: Final = names.EXPECTED_LAST_SUBJECT_SEQ.encode()
_SUBJECT: Final = names.EXPECTED_LAST_SUBJECT.encode()
_ROLLUP: Final = b"Nats-Rollup"
_TTL: Final = b"Nats-TTL"
_SCHEDULE: Final = names.SCHEDULE.encode()
_TARGET: Final = names.SCHEDULE_TARGET.encode()
_SCHEDULE_TTL: Final = names.SCHEDULE_TTL.encode()
_ZONE: Final = names.SCHEDULE_ZONE.encode()

_OVERHEAD_BYTES: Final = 30
"""What the server counts of a message beside subject, headers and body."""


class Refused(Exception):
    """An answer with an error, in the server's words and codes (server/errors.json)."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.error = {"code": code, "err_code": err_code, "description": description}


class Message(msgspec.Struct, gc=False):
    """As it is stored."""

    seq: int
    subject: str
    headers: bytes | None
    body: bytes
    stored_ns: int
    last_seq: int = 0
    """The one before it on its subject."""
    expires_ns: int | None = None
    """Of a message with a time to live."""

    @property
    def size(self) -> int:
        """In bytes, as the server counts."""
        return len(self.subject) + len(self.headers or b"") + len(self.body) + _OVERHEAD_BYTES

    @property
    def stored_at(self) -> str:
        """RFC 3339, as the server writes it."""
        return rfc3339(self.stored_ns)


class Stream:
    """See the module.  `stored` and `removed` are told synchronously, in order."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.created = rfc3339(now_ns())
        self.messages: dict[int, Message] = {}
        self.index = Stored()
        self.last_seq = 0
        self.bytes = 0
        self.stored: list[Callable[[Message], None]] = []
        self.removed: list[Callable[[Message], None]] = []
        self._first = 1
        self._last_ns = 0
        self._last_id = ""
        self._ids: dict[str, tuple[int, int]] = {}
        """Nats-Msg-Id → (sequence, when)."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._mortal: set[int] = set()
        """Messages with a time to live of their own."""
        self._due: dict[int, tuple[asyncio.TimerHandle, int]] = {}
        """Schedules, and when they are due."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config["name"])

    # --- what is in it ---------------------------------------------------------------------

    @property
    def first_seq(self) -> int:
        """Of the oldest message; one behind the last when there is none; 0 when there never was one."""
        if not self.last_seq:
            return 0
        while self._first <= self.last_seq and self._first not in self.messages:
            self._first += 1
        return self._first

    def state(self) -> dict[str, Any]:
        """As STREAM.INFO has it."""
        first_seq = self.first_seq
        first = self.messages.get(first_seq)
        return {
            "messages": len(self.messages),
            "bytes": self.bytes,
            "first_seq": first_seq,
            "first_ts": rfc3339(first.stored_ns) if first is not None else rfc3339(0),
            "last_seq": self.last_seq,
            "last_ts": rfc3339(self._last_ns),
            "num_subjects": self.index.subjects,
            "num_deleted": max(0, self.last_seq - max(first_seq, 1) + 1 - len(self.messages)),
        }

    def at_or_after(self, moment_ns: int) -> int:
        """The first sequence stored then or later; one behind the last where there is none."""
        return next((m.seq for m in self.messages.values() if m.stored_ns >= moment_ns), self.last_seq + 1)

    def catches(self, subject: str) -> bool:
        """Whether a message published so is its."""
        return any(matches(pattern, subject) for pattern in self.config.get("subjects") or ())

    # --- storing -----------------------------------------------------------------------------

    def append(self, subject: str, headers: bytes | None, body: bytes) -> tuple[int, bool]:
        """(its sequence, whether it was there before); raises `Refused`."""
        subject = self._stored_as(subject)
        self._check_expected(subject, headers)
        if (known := self._duplicate(headers)) is not None:
            return known, True
        size = len(headers or b"") + len(body)
        if 0 < self.config.get("max_msg_size", -1) < size:
            raise Refused(400, 10054, "message size exceeds maximum allowed")
        self._check_room(size + len(subject) + _OVERHEAD_BYTES)
        planned = self._schedule_of(headers)
        rollup = protocol.field(headers, _ROLLUP)
        if rollup is not None and not self.config.get("allow_rollup_hdrs"):
            raise Refused(400, 10111, "rollup not permitted")
        message = self._store(subject, headers, body)
        if planned is not None or rollup == "sub":
            self.purge(subject, below=message.seq)
        elif rollup == "all":
            self.purge(None, below=message.seq)
        if planned is not None:
            self._plan(message, planned, planned.first(clock.unix()))
        self._trim()
        return message.seq, False

    def _stored_as(self, subject: str) -> str:
        rule = self.config.get("subject_transform")
        return (rule and transform(rule["src"], rule["dest"], subject)) or subject

    def take_in(self, source: str, dest: str, message: Message) -> None:
        """A message of a stream that this one takes from: conditions and ids were that one's."""
        kept = protocol.without(message.headers, b"Nats-Expected-")
        line = f"{names.STREAM_SOURCE}: {source} {message.seq} > > {message.subject}\r\n"
        self._store(dest, protocol.with_lines(kept, protocol.octets(line)), message.body)
        self._trim()

    def _store(self, subject: str, headers: bytes | None, body: bytes) -> Message:
        now = now_ns()
        self.last_seq += 1
        message = Message(self.last_seq, subject, headers, body, now, self.index.last(subject))
        if self.config.get("allow_msg_ttl"):
            message.expires_ns = _expiry(headers, now)
        self.messages[message.seq] = message
        self.index.add(subject, message.seq)
        self.bytes += message.size
        self._last_ns = now
        if message.expires_ns is not None:
            self._mortal.add(message.seq)
        event_id = protocol.field(headers, _ID)
        if event_id:
            self._ids[event_id] = (message.seq, now)
            self._last_id = event_id
        for told in self.stored:
            told(message)
        return message

    def _duplicate(self, headers: bytes | None) -> int | None:
        event_id = protocol.field(headers, _ID)
        if not event_id:
            return None
        oldest = now_ns() - int(self.config.get("duplicate_window") or 120 * NS)
        while self._ids:
            first, (_, at) = next(iter(self._ids.items()))
            if at >= oldest:
                break
            del self._ids[first]
        found = self._ids.get(event_id)
        return None if found is None else found[0]

    def _check_expected(self, subject: str, headers: bytes | None) -> None:
        if headers is None or b"Nats-Expected-" not in headers:
            return
        stream = protocol.field(headers, _STREAM)
        if stream is not None and stream != self.name:
            raise Refused(400, 10060, "expected stream does not match")
        last = protocol.field(headers, _LAST)
        if last is not None and int(last) != self.last_seq:
            raise Refused(400, 10071, f"wrong last sequence: {self.last_seq}")
        last_id = protocol.field(headers, _LAST_ID)
        if last_id is not None and last_id != self._last_id:
            raise Refused(400, 10070, f"wrong last msg ID: {self._last_id}")
        expected = protocol.field(headers, _SUBJECT_SEQ)
        if expected is None and protocol.field(headers, _SUBJECT) is not None:
            raise Refused(400, 10193, "missing sequence for expected last sequence per subject")
        if expected is not None:
            found = self.index.last(protocol.field(headers, _SUBJECT) or subject)
            if found != int(expected):
                raise Refused(400, 10071, f"wrong last sequence: {found}")

    def _check_room(self, size: int) -> None:
        if self.config.get("discard") != "new":
            return
        if 0 < self.config.get("max_msgs", -1) <= len(self.messages):
            raise Refused(503, 10077, "maximum messages exceeded")
        if 0 < self.config.get("max_bytes", -1) < self.bytes + size:
            raise Refused(503, 10077, "maximum bytes exceeded")

    # --- leaving -----------------------------------------------------------------------------

    def remove(self, seq: int) -> None:
        """Take one message out; legal when it is not there."""
        message = self.messages.pop(seq, None)
        if message is None:
            return
        self.index.remove(message.subject, seq)
        self.bytes -= message.size
        self._mortal.discard(seq)
        planned = self._due.pop(seq, None)
        if planned is not None:
            planned[0].cancel()
        for told in self.removed:
            told(message)

    def purge(self, pattern: str | None, *, below: int | None = None, keep: int = 0) -> int:
        """Remove what matches (None: everything), below a sequence, but the newest `keep`; how many those were."""
        found = self.index.all_from(pattern or ">", 1)
        if below:
            found = [seq for seq in found if seq < below]
        if keep:
            found = found[:-keep]
        for seq in found:
            self.remove(seq)
        return len(found)

    def _trim(self) -> None:
        config = self.config
        each = config.get("max_msgs_per_subject", -1)
        if each > 0:
            newest = self.messages[self.last_seq].subject if self.last_seq in self.messages else None
            if newest is not None:
                self.purge(newest, keep=each)
        most, most_bytes = config.get("max_msgs", -1), config.get("max_bytes", -1)
        while (0 < most < len(self.messages)) or (0 < most_bytes < self.bytes and self.messages):
            self.remove(self.first_seq)
        self.expire()

    def expire(self) -> None:
        """Remove what is too old, and look again when the next one will be."""
        now = now_ns()
        age = int(self.config.get("max_age") or 0)
        for seq in self._aged(now - age) if age else ():
            self.remove(seq)
        for seq in [s for s in self._mortal if (self.messages[s].expires_ns or 0) <= now]:
            self.remove(seq)
        dues = [self.messages[s].expires_ns or 0 for s in self._mortal]
        if age and (oldest := self.messages.get(self.first_seq)) is not None:
            dues.append(oldest.stored_ns + age)
        if not dues:
            return
        due = min(dues)
        if self._timer is None or due < self._timer_ns:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_ns = due
            self._timer = asyncio.get_running_loop().call_later(max(0.001, (due - now) / NS), self._timed_out)

    def _aged(self, oldest_ns: int) -> list[int]:
        found = []
        for message in self.messages.values():
            if message.stored_ns > oldest_ns:
                break
            found.append(message.seq)
        return found

    def _timed_out(self) -> None:
        self._timer = None
        self.expire()

    def close(self) -> None:
        """Let go of timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timer, _ in self._due.values():
            timer.cancel()

    # --- schedules ---------------------------------------------------------------------------

    def _schedule_of(self, headers: bytes | None) -> schedules.Schedule | None:
        said = protocol.field(headers, _SCHEDULE)
        if said is None:
            return None
        if not self.config.get("allow_msg_schedules"):
            raise Refused(400, 10188, "message schedules is disabled")
        target = protocol.field(headers, _TARGET) or ""
        if not self.catches(target):
            raise Refused(400, 10190, "message schedules target is invalid")
        try:
            return schedules.parse(said, protocol.field(headers, _ZONE))
        except schedules.BadZone as exc:
            raise Refused(400, 10223, "message schedules time zone is invalid") from exc
        except ValueError as exc:
            raise Refused(400, 10189, "message schedules pattern is invalid") from exc

    def _plan(self, message: Message, schedule: schedules.Schedule, due: float | None) -> None:
        if due is None:
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, due - clock.unix()), self._fire, message, schedule, due)
        self._due[message.seq] = (timer, int(due * NS))

    def _fire(self, message: Message, schedule: schedules.Schedule, due: float) -> None:
        self._due.pop(message.seq, None)
        target = protocol.field(message.headers, _TARGET) or ""
        ttl = protocol.field(message.headers, _SCHEDULE_TTL)
        following = schedule.next(due)
        kept = protocol.without(protocol.without(message.headers, b"Nats-Schedule"), b"Nats-Expected-")
        after = "purge" if following is None else rfc3339(int(following * NS))
        lines = f"Nats-Scheduler: {message.subject}\r\nNats-Schedule-Next: {after}\r\n"
        if ttl is not None:
            lines += f"Nats-TTL: {ttl}\r\n"
        if following is None:
            self.remove(message.seq)
        self._store(self._stored_as(target), protocol.with_lines(kept, protocol.octets(lines)), message.body)
        self._trim()
        if following is not None:
            self._plan(message, schedule, following)

    def next_due(self) -> float | None:
        """When the next scheduled message is due (Unix seconds); None: there is none."""
        return min((due_ns / NS for _, due_ns in self._due.values()), default=None)

    def resume(self) -> None:
        """Look at the wall clock again, after a stop or a leap: what is due by now is fired now."""
        for seq, (timer, due_ns) in list(self._due.items()):
            timer.cancel()
            message = self.messages[seq]
            schedule = self._schedule_of(message.headers)
            assert schedule is not None
            self._plan(message, schedule, due_ns / NS)
        self.expire()


def _expiry(headers: bytes | None, now: int) -> int | None:
    said = protocol.field(headers, _TTL)
    if said is None or said == "never":
        return None
    return now + (int(said) * NS if said.isdigit() else int(schedules.go_duration(said) * NS))


def now_ns() -> int:
    """The server's clock, nanoseconds since 1970."""
    return int(clock.unix() * 1e6) * 1000


def rfc3339(ns: int) -> str:
    """A moment as the server writes it."""
    seconds, rest = divmod(ns, NS)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"


def each_subject(stream: Stream, pattern: str) -> Iterator[tuple[str, int]]:
    """(subject, messages), as STREAM.INFO has them."""
    for subject, seqs in stream.index.find(pattern):
        yield subject, len(seqs)
