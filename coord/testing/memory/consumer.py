"""One pull consumer: what is to be delivered, what is pending, who waits, and who is pinned.

A message is in one of four places::

    todo ── delivered ──▶ pending ── acked, terminated ──▶ (gone)
                          │  ▲
          nak, ack_wait   ▼  │ delivered again
                          again
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections import deque
from typing import Any, Final, Protocol

from coord.runtime import clock
from coord.testing.memory import protocol
from coord.testing.memory.stream import NS, Message, Refused, Stream, now_ns, rfc3339
from coord.wire.headers import PIN_ID

_ACK: Final = re.compile(rb"\s*(\+ACK|-NAK|\+WPI|\+TERM|\+NXT)?\s*(.*)", re.DOTALL)


class Outlet(Protocol):
    """How JetStream reaches clients."""

    def say(self, to: str, headers: bytes | None, body: bytes, *, subject: str = "", reply: str = "") -> bool:
        """A message to whoever listens to `to`, shown as of `subject` where that is another; whether anybody did."""

    def wanted(self, subject: str) -> bool:
        """Whether anybody listens."""


class Pull:
    """One request for messages."""

    __slots__ = ("bytes_left", "group", "left", "pin", "reply", "short", "timer", "with_bytes")

    def __init__(self, reply: str, asked: dict[str, Any]) -> None:
        self.reply = reply
        self.left = max(1, int(asked.get("batch") or 1))
        self.bytes_left = int(asked.get("max_bytes") or 0)
        self.with_bytes = self.bytes_left > 0
        self.group = str(asked.get("group") or "")
        self.pin = str(asked.get("id") or "")
        self.short = False
        """It wants more than there was, and does not wait."""
        self.timer: asyncio.TimerHandle | None = None


class _Pending:
    __slots__ = ("consumer_seq", "due", "timer")

    def __init__(self, consumer_seq: int) -> None:
        self.consumer_seq = consumer_seq
        self.due: float | None = None
        """Of one that was put off: when it comes again (Unix seconds)."""
        self.timer: asyncio.TimerHandle | None = None


class Consumer:
    """See the module."""

    def __init__(self, stream: Stream, config: dict[str, Any], outlet: Outlet) -> None:
        self.stream = stream
        self.config = _with_defaults(config)
        self.created = rfc3339(now_ns())
        self._outlet = outlet
        self._acks = self.config["ack_policy"]
        self._ack_wait_s = self.config["ack_wait"] / NS
        self._todo: dict[int, None] = {}
        """In order; from here on what is stored is put behind it."""
        self._again: deque[int] = deque()
        self._pending: dict[int, _Pending] = {}
        self._waiting: deque[Pull] = deque()
        self._delivered = (0, 0)
        """(consumer sequence, stream sequence) of the last delivery."""
        self._floor = (0, 0)
        """What is acknowledged without a gap."""
        self._counts: dict[int, int] = {}
        """How often what is pending or comes again was delivered."""
        self._last_active = 0
        self._pin = ""
        self._pin_at = 0
        self._pin_timer: asyncio.TimerHandle | None = None
        self._begin(self._first_seq())

    # --- what it delivers --------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config["name"])

    @property
    def filters(self) -> list[str]:
        """At least one."""
        several = self.config.get("filter_subjects")
        return list(several) if several else [self.config.get("filter_subject") or ">"]

    def _first_seq(self) -> int:
        policy, stream = self.config["deliver_policy"], self.stream
        if policy == "all":
            return 1
        if policy == "new":
            return stream.last_seq + 1
        if policy == "by_start_sequence":
            return int(self.config["opt_start_seq"])
        if policy == "last":
            return max((stream.index.last(f) for f in self.filters), default=0) or stream.last_seq + 1
        raise Refused(400, 10094, f"deliver policy {policy!r} is not there in memory")

    def _begin(self, seq: int) -> None:
        self._todo = dict.fromkeys(sorted({n for f in self.filters for n in self.stream.index.all_from(f, seq)}))
        self._delivered = (0, max(0, seq - 1))
        self._floor = (0, max(0, seq - 1))

    def stored(self, message: Message) -> None:
        """A message that one of its filters lets through."""
        if message.seq > self._delivered[1]:
            self._todo[message.seq] = None
        self.serve()

    def removed(self, message: Message) -> None:
        """It has left the stream."""
        self._todo.pop(message.seq, None)
        if message.seq in self._counts:
            self._settle(message.seq)

    def reset(self, seq: int | None) -> int:
        """Begin again at a sequence, by default behind the floor; returns where."""
        if self.config["deliver_policy"] == "new":
            raise Refused(400, 10204, "consumer reset: deliver policy new")
        at = seq or self._floor[1] + 1
        for pending in self._pending.values():
            _cancel(pending.timer)
        self._pending.clear()
        self._counts.clear()
        self._again.clear()
        self._begin(at)
        self.serve()
        return at

    # --- pulls -------------------------------------------------------------------------------

    def pull(self, reply: str, body: bytes) -> None:
        """A request; what it is answered with goes to its reply."""
        try:
            asked = {"batch": int(body)} if body.strip().isdigit() else json.loads(body) if body.strip() else {}
            pull = Pull(reply, asked)
        except (ValueError, TypeError):
            self._say(reply, 400, "Bad Request")
            return
        if not self._admit(pull):
            return
        ready = len(self._todo) + len(self._again)
        if self._acks != "none" and len(self._pending) >= self._ack_pending_max:
            ready = len(self._again)
        expires_s = int(asked.get("expires") or 0) / NS
        if asked.get("no_wait") and not expires_s:
            if not ready:
                self._say(reply, 404, "No Messages")
                return
            pull.short = pull.left > ready
            pull.left = min(pull.left, ready)
        if len(self._waiting) >= self.config["max_waiting"]:
            self._waiting = deque(one for one in self._waiting if self._outlet.wanted(one.reply))
            if len(self._waiting) >= self.config["max_waiting"]:
                self._say(reply, 409, "Exceeded MaxWaiting")
                return
        if expires_s:
            pull.timer = asyncio.get_running_loop().call_later(expires_s, self._expired, pull)
        self._waiting.append(pull)
        self.serve()

    def _admit(self, pull: Pull) -> bool:
        groups = self.config.get("priority_groups") or []
        if groups and pull.group not in groups:
            what = "Invalid Priority Group" if pull.group else "Priority Group missing"
            self._say(pull.reply, 400, f"Bad Request - {what}")
            return False
        if groups and pull.pin:
            if pull.pin != self._pin:
                self._say(pull.reply, 423, "Nats-Pin-Id mismatch")
                return False
            self._hold_pin()
        return True

    def _expired(self, pull: Pull) -> None:
        if pull in self._waiting:
            self._waiting.remove(pull)
            self._end(pull, 408, "Request Timeout")

    def serve(self) -> None:
        """Deliver what there is to whoever waits."""
        while (self._todo or self._again) and self._waiting:
            fresh = not self._again
            if fresh and self._acks != "none" and len(self._pending) >= self._ack_pending_max:
                return
            pull = self._next_pull()
            if pull is None:
                return
            seq = next(iter(self._todo)) if fresh else self._again[0]
            message = self.stream.messages[seq]
            if pull.with_bytes and message.size > pull.bytes_left:
                self._drop(pull)
                self._end(pull, 409, "Message Size Exceeds MaxBytes")
                continue
            if fresh:
                del self._todo[seq]
            else:
                self._again.popleft()
            self._send(pull, message)

    def _next_pull(self) -> Pull | None:
        """Whose turn it is; who has gone is forgotten, who is not pinned is passed over."""
        for pull in list(self._waiting):
            if not self._outlet.wanted(pull.reply):
                self._drop(pull)
            elif pull.pin and pull.pin != self._pin:
                self._drop(pull)
                self._end(pull, 423, "Nats-Wrong-Pin-Id")
            elif pull.pin or not self._pin:
                return pull
        return None

    def _drop(self, pull: Pull) -> None:
        self._waiting.remove(pull)
        _cancel(pull.timer)

    def _send(self, pull: Pull, message: Message) -> None:
        seq = message.seq
        consumer_seq = self._delivered[0] + 1
        self._delivered = (consumer_seq, max(seq, self._delivered[1]))
        self._last_active = now_ns()
        count = self._counts[seq] = self._counts.get(seq, 0) + 1
        if self._acks == "none":
            del self._counts[seq]
        else:
            pending = self._pending.get(seq)
            if pending is None:
                pending = self._pending[seq] = _Pending(consumer_seq)
            self._wait_for_ack(seq, pending, self._ack_wait_s)
        headers = message.headers
        if self.config.get("priority_groups"):
            if not self._pin:
                self._pin = secrets.token_hex(11)
                pull.pin = self._pin
            self._hold_pin()
            headers = protocol.with_lines(headers, f"{PIN_ID}: {self._pin}\r\n".encode())
        place = f"$JS.ACK.{self.stream.name}.{self.name}.{count}.{seq}.{consumer_seq}"
        reply = f"{place}.{message.stored_ns}.{len(self._todo) + len(self._again)}"
        pull.left -= 1
        pull.bytes_left -= message.size
        # One that takes part in a round goes behind the others, as the server has it.
        self._waiting.remove(pull)
        if pull.left:
            self._waiting.append(pull)
        else:
            _cancel(pull.timer)
        self._outlet.say(pull.reply, headers, message.body, subject=message.subject, reply=reply)
        if not pull.left and pull.short:
            self._say(pull.reply, 404, "No Messages")
        elif not pull.left and pull.with_bytes:
            self._end(pull, 409, "Batch Completed")

    # --- acknowledgements --------------------------------------------------------------------

    def acked(self, place: list[str], body: bytes) -> None:
        """What came to ``$JS.ACK.{stream}.{consumer}.`` + place; nonsense is ignored."""
        found = _ACK.fullmatch(body)
        if found is None or (found[1] is None and found[2]):
            return
        with contextlib.suppress(ValueError, IndexError):
            seq, consumer_seq = int(place[1]), int(place[2])
            match found[1]:
                case None | b"+ACK" | b"+TERM":
                    self._ack(seq)
                case b"-NAK":
                    self._nak(seq, consumer_seq, found[2])
                case b"+WPI":
                    if seq in self._pending:
                        self._wait_for_ack(seq, self._pending[seq], self._ack_wait_s)

    def _ack(self, seq: int) -> None:
        if self._acks == "all":
            for one in [n for n in self._counts if n <= seq]:
                self._settle(one)
        elif seq in self._counts:
            self._settle(seq)
        self.serve()

    def _settle(self, seq: int) -> None:
        del self._counts[seq]
        if seq in self._again:
            self._again.remove(seq)
        pending = self._pending.pop(seq, None)
        if pending is not None:
            _cancel(pending.timer)
        if not self._pending:
            self._floor = self._delivered
            return
        oldest = min(self._pending)
        floor = min(p.consumer_seq for p in self._pending.values()) - 1
        self._floor = (max(self._floor[0], floor), max(self._floor[1], oldest - 1))

    def _nak(self, seq: int, consumer_seq: int, how: bytes) -> None:
        pending = self._pending.get(seq)
        if pending is None or not self._floor[0] < consumer_seq <= self._delivered[0]:
            return
        delay_s = 0.0
        if how:
            with contextlib.suppress(ValueError, AttributeError):
                delay_s = int(json.loads(how).get("delay") or 0) / NS
        if delay_s > 0:
            self._wait_for_ack(seq, pending, delay_s)
            pending.due = clock.unix() + delay_s
        else:
            self._comes_again(seq, pending)

    def _wait_for_ack(self, seq: int, pending: _Pending, wait_s: float) -> None:
        _cancel(pending.timer)
        pending.due = None
        pending.timer = asyncio.get_running_loop().call_later(wait_s, self._comes_again, seq, pending)

    def _comes_again(self, seq: int, pending: _Pending) -> None:
        _cancel(pending.timer)
        pending.timer = pending.due = None
        if self._pending.get(seq) is not pending or seq in self._again:
            return
        most = self.config["max_deliver"]
        if 0 < most <= self._counts[seq]:
            return  # it stays where it is, for ever: as on the server
        self._again.append(seq)
        self.serve()

    # --- pins --------------------------------------------------------------------------------

    def _hold_pin(self) -> None:
        self._pin_at = now_ns()
        _cancel(self._pin_timer)
        lapses_s = int(self.config.get("priority_timeout") or 120 * NS) / NS
        self._pin_timer = asyncio.get_running_loop().call_later(lapses_s, self.unpin)

    def unpin(self) -> None:
        """Nobody is pinned; the next message pins."""
        _cancel(self._pin_timer)
        self._pin = ""
        self.serve()

    # --- the rest ----------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """As CONSUMER.INFO has it."""
        answer: dict[str, Any] = {
            "stream_name": self.stream.name, "name": self.name, "created": self.created, "config": self.config,
            "delivered": {"consumer_seq": self._delivered[0], "stream_seq": self._delivered[1]},
            "ack_floor": {"consumer_seq": self._floor[0], "stream_seq": self._floor[1]},
            "num_ack_pending": len(self._pending), "num_redelivered": sum(n > 1 for n in self._counts.values()),
            "num_waiting": sum(self._outlet.wanted(pull.reply) for pull in self._waiting),
            "num_pending": len(self._todo), "ts": rfc3339(now_ns()),
        }  # fmt: skip
        if self._last_active:
            answer["delivered"]["last_active"] = rfc3339(self._last_active)
        if self.config.get("priority_groups"):
            pinned = {"pinned_client_id": self._pin, "pinned_ts": rfc3339(self._pin_at)} if self._pin else {}
            answer["priority_groups"] = [{"group": group, **pinned} for group in self.config["priority_groups"]]
        return answer

    def next_due(self) -> float | None:
        """When the next delivery that was put off comes again (Unix seconds); None: there is none."""
        return min((p.due for p in self._pending.values() if p.due is not None), default=None)

    def resume(self) -> None:
        """Look at the wall clock again, after a leap."""
        now = clock.unix()
        for seq, pending in list(self._pending.items()):
            if pending.due is not None:
                due = pending.due
                self._wait_for_ack(seq, pending, max(0.0, due - now))
                pending.due = due

    def stopped(self) -> None:
        """The server stands still: requests are forgotten, and what was not acknowledged comes again later."""
        for pull in list(self._waiting):
            self._drop(pull)
        self._pin = ""
        _cancel(self._pin_timer)

    def deleted(self) -> None:
        """It is no more; who waits is told."""
        for pull in list(self._waiting):
            self._drop(pull)
            self._say(pull.reply, 409, "Consumer Deleted")
        for pending in self._pending.values():
            _cancel(pending.timer)
        _cancel(self._pin_timer)

    @property
    def _ack_pending_max(self) -> float:
        most = int(self.config["max_ack_pending"])
        return most if most > 0 else float("inf")

    def _end(self, pull: Pull, code: int, description: str) -> None:
        left = {"Nats_Pending_Messages": pull.left, "Nats_Pending_Bytes": max(0, pull.bytes_left)}
        self._outlet.say(pull.reply, protocol.status(code, description, **left), b"")

    def _say(self, reply: str, code: int, description: str) -> None:
        self._outlet.say(reply, protocol.status(code, description), b"")


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "deliver_policy": "all", "ack_policy": "none", "replay_policy": "instant", "num_replicas": 0,
        "durable_name": config["name"], **config,
    }  # fmt: skip
    acks = made["ack_policy"] != "none"
    for name, usual in (("ack_wait", 30 * NS), ("max_deliver", -1), ("max_waiting", 512)):
        made[name] = int(made.get(name) or usual)
    made["max_ack_pending"] = int(made.get("max_ack_pending") or (1000 if acks else 0))
    return made


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
