"""JetStream: streams and consumers, the requests of its API, and what happens to a published message.

What is refused is refused with the server's codes.  A request that is not known is answered with an
error of this module's own, so that a test fails by name and not by a deadline.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from coord.testing.memory import protocol
from coord.testing.memory.consumer import Consumer, Outlet
from coord.testing.memory.interest import Interest, transform
from coord.testing.memory.stream import NS, Message, Refused, Stream, each_subject, now_ns, rfc3339
from coord.wire.filters import matches

API: Final = "$JS.API."
_ACK: Final = "$JS.ACK."

_NO_STREAM: Final = (404, 10059, "stream not found")
_NO_CONSUMER: Final = (404, 10014, "consumer not found")
_NO_MESSAGE: Final = (404, 10037, "no message found")
_UNKNOWN: Final = (501, 0, "coord.testing's server knows no such request")

_BATCH_BYTES: Final = 1 << 20
"""What a batched get answers at most where nothing is said, as the server has it."""
_LASTS_MAX: Final = 1_024
"""Subjects whose last messages it gives at once."""

_NAMES_PAGE: Final = 1024

_STREAM_FIELDS: Final = frozenset({
    "name", "description", "subjects", "retention", "max_consumers", "max_msgs", "max_bytes", "max_age",
    "max_msgs_per_subject", "max_msg_size", "discard", "discard_new_per_subject", "storage", "num_replicas", "no_ack",
    "template_owner", "duplicate_window", "placement", "mirror", "sources", "compression", "first_seq",
    "subject_transform", "republish", "sealed", "deny_delete", "deny_purge", "allow_rollup_hdrs", "allow_direct",
    "mirror_direct", "consumer_limits", "metadata", "allow_msg_ttl", "subject_delete_marker_ttl", "allow_atomic",
    "allow_msg_counter", "allow_msg_schedules", "allow_batched", "persist_mode",
})  # fmt: skip
_CONSUMER_FIELDS: Final = frozenset({
    "name", "durable_name", "description", "deliver_policy", "opt_start_seq", "opt_start_time", "ack_policy",
    "ack_wait", "max_deliver", "backoff", "filter_subject", "filter_subjects", "replay_policy", "rate_limit_bps",
    "sample_freq", "max_waiting", "max_ack_pending", "headers_only", "max_batch", "max_expires", "max_bytes",
    "inactive_threshold", "num_replicas", "mem_storage", "metadata", "pause_until", "priority_groups",
    "priority_policy", "priority_timeout", "deliver_subject", "deliver_group", "flow_control", "idle_heartbeat",
})  # fmt: skip


class JetStream:
    """See the module."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[tuple[str, str], Consumer] = {}
        """By stream and name."""
        self._interest: dict[str, Interest[Consumer]] = {}
        """Of each stream: who takes which of its messages."""
        self._requests: dict[str, Callable[[list[str], dict[str, Any]], dict[str, Any]]] = {
            "INFO": self._account,
            "STREAM.CREATE": self._create_stream, "STREAM.UPDATE": self._update_stream,
            "STREAM.INFO": self._stream_info, "STREAM.NAMES": self._stream_names, "STREAM.DELETE": self._delete_stream,
            "STREAM.PURGE": self._purge, "STREAM.MSG.GET": self._get, "STREAM.MSG.DELETE": self._delete_message,
            "CONSUMER.CREATE": self._create_consumer, "CONSUMER.INFO": self._consumer_info,
            "CONSUMER.NAMES": self._consumer_names, "CONSUMER.DELETE": self._delete_consumer,
            "CONSUMER.RESET": self._reset, "CONSUMER.UNPIN": self._unpin,
        }  # fmt: skip

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """As after a restart: consumers in memory are gone, the others wait for acknowledgements."""
        for stream in self.streams.values():
            stream.resume()

    def stop(self) -> None:
        """The server stands still."""
        for stream in self.streams.values():
            stream.close()
        for place, consumer in list(self.consumers.items()):
            consumer.stopped()
            if consumer.config.get("mem_storage"):
                self._forget(*place)

    def next_due(self) -> float | None:
        """When something happens by the wall clock alone (Unix seconds): a schedule, a delivery that was put off."""
        dues = [stream.next_due() for stream in self.streams.values()]
        dues += [consumer.next_due() for consumer in self.consumers.values()]
        return min((due for due in dues if due is not None), default=None)

    def leapt(self) -> None:
        """The wall clock was moved."""
        for stream in self.streams.values():
            stream.resume()
        for consumer in self.consumers.values():
            consumer.resume()

    # --- messages ----------------------------------------------------------------------------

    def published(self, subject: str, reply: str, headers: bytes | None, body: bytes) -> bool:
        """Whether it was for JetStream."""
        if subject.startswith("$JS."):
            if subject.startswith(_ACK):
                return self._acked(subject[len(_ACK) :].split("."), reply, body)
            return subject.startswith(API) and self._asked(subject[len(API) :], reply, body)
        stream = next((s for s in self.streams.values() if s.catches(subject)), None)
        if stream is None:
            return False
        answer: dict[str, Any] = {"stream": stream.name}
        try:
            answer["seq"], duplicate = stream.append(subject, headers, body)
            if duplicate:
                answer["duplicate"] = True
        except (Refused, ValueError) as exc:
            refused = exc if isinstance(exc, Refused) else Refused(400, 10003, "bad request")
            answer = {"error": refused.error, **answer, "seq": 0}
        if reply:
            self._outlet.say(reply, None, msgspec.json.encode(answer))
        return True

    def _stored(self, stream: Stream, message: Message) -> None:
        rule = stream.config.get("republish")
        if rule and (live := transform(rule["src"], rule["dest"], message.subject)) is not None:
            self._outlet.say(live, _told(stream, message, Nats_Last_Sequence=message.last_seq), message.body)
        for consumer in self._interest[stream.name].match(message.subject):
            consumer.stored(message)
        for other in self.streams.values():
            for source in other.config.get("sources") or ():
                if source["name"] == stream.name:
                    _take_in(other, source, message)

    def _removed(self, stream: Stream, message: Message) -> None:
        for consumer in self._interest[stream.name].match(message.subject):
            consumer.removed(message)

    def _acked(self, place: list[str], reply: str, body: bytes) -> bool:
        consumer = self.consumers.get((place[0], place[1])) if len(place) > 1 else None
        if consumer is None:
            return False
        consumer.acked(place[2:], body)
        if reply:
            self._outlet.say(reply, None, b"")
        return True

    # --- requests ----------------------------------------------------------------------------

    def _asked(self, request: str, reply: str, body: bytes) -> bool:
        tokens = request.split(".")
        if tokens[:3] == ["CONSUMER", "MSG", "NEXT"]:
            consumer = self.consumers.get((tokens[3], tokens[4])) if len(tokens) == 5 else None
            if consumer is not None:
                consumer.pull(reply, body)
            return consumer is not None
        if tokens[:2] == ["DIRECT", "GET"]:
            stream = self.streams.get(tokens[2]) if len(tokens) > 2 else None
            if stream is None or not stream.config.get("allow_direct"):
                return False
            self._direct(stream, ".".join(tokens[3:]), reply, body)
            return True
        name = next((n for n in (".".join(tokens[:k]) for k in (3, 2, 1)) if n in self._requests), "")
        answer: dict[str, Any] = {"type": f"io.nats.jetstream.api.v1.{name.lower().replace('.', '_')}_response"}
        try:
            if not name:
                raise Refused(*_UNKNOWN)
            asked = msgspec.json.decode(body, type=dict[str, Any]) if body.strip() else {}
            answer |= self._requests[name](tokens[name.count(".") + 1 :], asked)
        except Refused as exc:
            answer["error"] = exc.error
        except (msgspec.MsgspecError, KeyError, ValueError, TypeError) as exc:
            answer["error"] = Refused(400, 10025, f"invalid JSON: {exc}").error
        if reply:
            self._outlet.say(reply, None, msgspec.json.encode(answer, enc_hook=str))
        return True

    def _account(self, _: list[str], __: dict[str, Any]) -> dict[str, Any]:
        return {"memory": 0, "storage": 0, "streams": len(self.streams), "consumers": len(self.consumers), "api": {}}

    # --- streams -----------------------------------------------------------------------------

    def _stream(self, tokens: list[str]) -> Stream:
        stream = self.streams.get(tokens[0]) if tokens else None
        if stream is None:
            raise Refused(*_NO_STREAM)
        return stream

    def _create_stream(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        name = tokens[0]
        known = self.streams.get(name)
        config = _stream_config(asked)
        if known is not None:
            if {k: v for k, v in known.config.items() if k != "metadata"} != config:
                raise Refused(400, 10058, "stream name already in use with a different configuration")
            return self._described(known, {}) | {"did_create": False}
        self._check_overlap(name, config)
        stream = self.streams[name] = Stream(config)
        self._interest[name] = Interest()
        stream.stored.append(lambda message: self._stored(stream, message))
        stream.removed.append(lambda message: self._removed(stream, message))
        return self._described(stream, {}) | {"did_create": True}

    def _check_overlap(self, name: str, config: dict[str, Any]) -> None:
        mine = config.get("subjects") or []
        for other in self.streams.values():
            if other.name != name and any(_overlap(a, b) for a in mine for b in other.config.get("subjects") or []):
                raise Refused(400, 10065, "subjects overlap with an existing stream")

    def _update_stream(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(tokens)
        config = _stream_config(asked)
        self._check_overlap(stream.name, config)
        stream.config = config
        stream.expire()
        return self._described(stream, {})

    def _stream_info(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        return self._described(self._stream(tokens), asked)

    def _described(self, stream: Stream, asked: dict[str, Any]) -> dict[str, Any]:
        consumers = sum(place[0] == stream.name for place in self.consumers)
        state = stream.state() | {"consumer_count": consumers}
        if pattern := asked.get("subjects_filter"):
            state["subjects"] = dict(each_subject(stream, pattern))
        return {"config": stream.config, "created": stream.created, "state": state, "ts": rfc3339(now_ns())}

    def _stream_names(self, _: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        return _page(sorted(self.streams), "streams", asked)

    def _delete_stream(self, tokens: list[str], _: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(tokens)
        for place in [place for place in self.consumers if place[0] == stream.name]:
            self._forget(*place).deleted()
        stream.close()
        del self.streams[stream.name]
        return {"success": True}

    def _purge(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        purged = self._stream(tokens).purge(
            asked.get("filter"), below=asked.get("seq"), keep=int(asked.get("keep") or 0)
        )
        return {"success": True, "purged": purged}

    def _get(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(tokens)
        if last := asked.get("last_by_subj"):
            seq = stream.index.last(last)
        elif pattern := asked.get("next_by_subj"):
            seq = stream.index.next(pattern, int(asked.get("seq") or 1))
        else:
            seq = int(asked["seq"])
        message = stream.messages.get(seq)
        if message is None:
            raise Refused(*_NO_MESSAGE)
        found: dict[str, Any] = {"subject": message.subject, "seq": message.seq, "time": message.stored_at}
        if message.body:
            found["data"] = b64encode(message.body).decode()
        if message.headers:
            found["hdrs"] = b64encode(message.headers).decode()
        return {"message": found}

    def _delete_message(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(tokens)
        if int(asked["seq"]) not in stream.messages:
            raise Refused(*_NO_MESSAGE)
        stream.remove(int(asked["seq"]))
        return {"success": True}

    # --- direct gets -------------------------------------------------------------------------

    def _direct(self, stream: Stream, subject: str, reply: str, body: bytes) -> None:
        try:
            asked = msgspec.json.decode(body, type=dict[str, Any]) if body.strip() else {}
        except msgspec.MsgspecError:
            self._outlet.say(reply, protocol.status(408, "Bad Request"), b"")
            return
        if subject:
            asked["last_by_subj"] = subject
        if "batch" in asked or "multi_last" in asked:
            self._direct_batch(stream, asked, reply)
            return
        if last := asked.get("last_by_subj"):
            seq = stream.index.last(last)
        elif pattern := asked.get("next_by_subj"):
            seq = stream.index.next(pattern, int(asked.get("seq") or 1))
        else:
            seq = int(asked.get("seq") or 0)
        message = stream.messages.get(seq)
        if message is None:
            self._outlet.say(reply, protocol.status(404, "Message Not Found"), b"")
        else:
            self._outlet.say(reply, _told(stream, message), message.body)

    def _direct_batch(self, stream: Stream, asked: dict[str, Any], reply: str) -> None:
        start = int(asked.get("seq") or 1)
        if "start_time" in asked:
            moment = datetime.fromisoformat(asked["start_time"]).astimezone(UTC)
            start = stream.at_or_after(int(moment.timestamp() * 1e6) * 1000)
        if "multi_last" in asked:
            found = sorted({seqs[-1] for pattern in asked["multi_last"] for _, seqs in stream.index.find(pattern)})
            if len(found) > _LASTS_MAX:
                self._outlet.say(reply, protocol.status(413, "Too Many Results"), b"")
                return
        else:
            found = stream.index.all_from(asked.get("next_by_subj") or ">", start)
        if not found:
            self._outlet.say(reply, protocol.status(404, "Message Not Found"), b"")
            return
        room = int(asked.get("max_bytes") or _BATCH_BYTES)
        last = sent = 0
        for number, seq in enumerate(found[: int(asked.get("batch") or len(found))], 1):
            message = stream.messages[seq]
            room -= message.size
            if room < 0 and sent:
                break
            more = {"Nats_Num_Pending": len(found) - number, "Nats_Last_Sequence": last}
            self._outlet.say(reply, _told(stream, message, **more), message.body)
            last, sent = seq, number
        end = {"Nats_Num_Pending": len(found) - sent, "Nats_Last_Sequence": last}
        self._outlet.say(reply, protocol.status(204, "EOB", **end), b"")

    # --- consumers ---------------------------------------------------------------------------

    def _consumer(self, tokens: list[str]) -> Consumer:
        self._stream(tokens)
        consumer = self.consumers.get((tokens[0], tokens[1])) if len(tokens) > 1 else None
        if consumer is None:
            raise Refused(*_NO_CONSUMER)
        return consumer

    def _create_consumer(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(tokens)
        config = {**asked["config"], "name": tokens[1]}
        _only(config, _CONSUMER_FIELDS)
        action = asked.get("action") or ""
        if config.get("deliver_subject"):
            raise Refused(*_UNKNOWN)
        place = (stream.name, tokens[1])
        known = self.consumers.get(place)
        made = Consumer(stream, config, self._outlet)
        if known is not None:
            same = made.config == known.config
            if action == "create" and not same:
                raise Refused(400, 10148, "consumer already exists")
            if same:
                return known.info()
            self._update_consumer(known, made)
            return known.info()
        if action == "update":
            raise Refused(400, 10149, "consumer does not exist")
        self.consumers[place] = made
        for pattern in made.filters:
            self._interest[stream.name].add(pattern, made)
        return made.info()

    def _update_consumer(self, known: Consumer, wanted: Consumer) -> None:
        fixed = ("deliver_policy", "opt_start_seq", "ack_policy", "priority_policy", "priority_groups")
        for field in fixed:
            if known.config.get(field) != wanted.config.get(field):
                raise Refused(400, 10012, f"{field.replace('_', ' ')} can not be updated")
        interest = self._interest[known.stream.name]
        for pattern in known.filters:
            interest.discard(pattern, known)
        known.config = wanted.config
        for pattern in known.filters:
            interest.add(pattern, known)

    def _consumer_info(self, tokens: list[str], _: dict[str, Any]) -> dict[str, Any]:
        return self._consumer(tokens).info()

    def _consumer_names(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(tokens)
        return _page(sorted(name for of, name in self.consumers if of == stream.name), "consumers", asked)

    def _delete_consumer(self, tokens: list[str], _: dict[str, Any]) -> dict[str, Any]:
        self._consumer(tokens)
        self._forget(tokens[0], tokens[1]).deleted()
        return {"success": True}

    def _forget(self, stream: str, name: str) -> Consumer:
        consumer = self.consumers.pop((stream, name))
        for pattern in consumer.filters:
            self._interest[stream].discard(pattern, consumer)
        return consumer

    def _reset(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        consumer = self._consumer(tokens)
        at = consumer.reset(asked.get("seq"))
        return consumer.info() | {"reset_seq": at}

    def _unpin(self, tokens: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        consumer = self._consumer(tokens)
        if asked.get("group") not in (consumer.config.get("priority_groups") or []):
            raise Refused(400, 10160, "Provided priority group does not exist for this consumer")
        consumer.unpin()
        return {}


def _told(stream: Stream, message: Message, **more: int) -> bytes:
    """A message's headers with the server's behind them."""
    lines = {
        "Nats-Stream": stream.name, "Nats-Subject": message.subject, "Nats-Sequence": message.seq,
        "Nats-Time-Stamp": message.stored_at, **{name.replace("_", "-"): value for name, value in more.items()},
    }  # fmt: skip
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return protocol.with_lines(message.headers, protocol.octets(text))


def _take_in(stream: Stream, source: dict[str, Any], message: Message) -> None:
    rules = source.get("subject_transforms")
    if not rules and matches(source.get("filter_subject") or ">", message.subject):
        stream.take_in(source["name"], message.subject, message)
    for rule in rules or ():
        dest = transform(rule["src"], rule["dest"], message.subject)
        if dest is not None:
            stream.take_in(source["name"], dest, message)
            return


def _stream_config(asked: dict[str, Any]) -> dict[str, Any]:
    _only(asked, _STREAM_FIELDS)
    defaults = {
        "retention": "limits", "discard": "old", "storage": "file", "num_replicas": 1, "max_msgs": -1, "max_bytes": -1,
        "max_age": 0, "max_msg_size": -1, "max_msgs_per_subject": -1, "max_consumers": -1,
        "duplicate_window": 120 * NS,
    }  # fmt: skip
    return defaults | asked


def _only(given: dict[str, Any], known: frozenset[str]) -> None:
    """The server is strict about what it does not know."""
    for name in given.keys() - known:
        raise Refused(400, 10025, f'invalid JSON: json: unknown field "{name}"')


def _page(names: list[str], what: str, asked: dict[str, Any]) -> dict[str, Any]:
    offset = int(asked.get("offset") or 0)
    return {"total": len(names), "offset": offset, "limit": _NAMES_PAGE, what: names[offset : offset + _NAMES_PAGE]}


def _overlap(one: str, other: str) -> bool:
    """Whether a subject could match both patterns."""
    mine, theirs = one.split("."), other.split(".")
    for a, b in zip(mine, theirs, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(mine) == len(theirs)
