"""Every subject coord uses: built here, parsed here, spelled nowhere else.

An agent publishes a fact to ``coord.ev.{tenant}.{agent}.{key}.{kind}.{id}.{event}[.detail]``.
The server's subject transform stores it as
``coord.log.{p}.{tenant}.{key}.{kind}.{id}.{agent}.{event}[.detail]`` where p is the
partition of the key, and republishes it under ``coord.live.`` with the same tail.
Telemetry goes from ``coord.tel.{tenant}.{agent}.{series}`` to
``coord.tlog.{p}.{tenant}.{agent}.{series}``, partitioned by the agent.

The agent stands right after the tenant where it publishes, so that one server permission
says who may speak as whom; it stands behind the entity where the fact is stored, so that
one filter selects an entity's history whoever wrote it.

This module never normalises: a name that is not a token is refused, naming it.
"""

# ruff: noqa: A002 - `id` is what the fourth token of an entity is called, everywhere

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec

from coord import limits
from coord.errors import InvalidSubject, InvalidToken
from coord.wire import partitions

EVENTS: Final = "EVENTS"
TELEMETRY: Final = "TELEMETRY"
DLQ: Final = "DLQ"
CURSORS: Final = "CURSORS"
TIMERS: Final = "TIMERS"
SNAPSHOTS: Final = "SNAPSHOTS"
PAYLOADS: Final = "OBJ_PAYLOADS"
"""The stream of the object store's bucket PAYLOADS."""

CACHE_L2: Final = "CACHE_L2"
CACHE_L3: Final = "CACHE_L3"

STREAMS: Final = (EVENTS, TELEMETRY, DLQ, CURSORS, TIMERS, SNAPSHOTS, PAYLOADS, CACHE_L2, CACHE_L3)

EVENTS_PUBLISH: Final = "coord.ev.*.*.*.*.*.>"
TELEMETRY_PUBLISH: Final = "coord.tel.*.*.>"
LOG_ALL: Final = "coord.log.>"
TLOG_ALL: Final = "coord.tlog.>"
LIVE_ALL: Final = "coord.live.>"
DLQ_ALL: Final = "coord.dlq.>"
CURSOR_ALL: Final = "coord.cursor.*.*.*"

SAMPLE_TYPE: Final = "coord.sample"
"""The `ce-type` of telemetry."""

UNKNOWN: Final = "_"
"""Stands in dead letters for a tenant or agent that the subject did not give."""

LOG_PREFIX: Final = "coord.log."
"""How the subjects of stored facts begin."""

TLOG_PREFIX: Final = "coord.tlog."
"""How the subjects of stored telemetry begin."""

_EV: Final = "coord.ev."
_LOG: Final = LOG_PREFIX
_LIVE: Final = "coord.live."
_TEL: Final = "coord.tel."
_TLOG: Final = TLOG_PREFIX

TOKEN_PATTERN: Final = rf"[a-z0-9_-]{{1,{limits.TOKEN_BYTES_MAX}}}"
"""A token as a regular expression without groups."""

_TOKEN = re.compile(TOKEN_PATTERN)
_TOKENS = re.compile(rf"{TOKEN_PATTERN}(?:\.{TOKEN_PATTERN})*")
_ALLOWED: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


# --- tokens and partitions ---------------------------------------------------------------


def check_token(value: str, what: str) -> str:
    """Return `value` if it is a subject token, else raise `InvalidToken` naming `what` and why.

    A token is 1 to 64 of a-z, 0-9, '-' and '_'.
    """
    try:
        if _TOKEN.fullmatch(value):
            return value
    except TypeError as exc:
        raise InvalidToken(f"{what} is a text, not {type(value).__name__}", token=str(value)[:64], what=what) from exc
    if not value:
        reason = "is empty"
    elif len(value.encode("utf-8", "surrogatepass")) > limits.TOKEN_BYTES_MAX:
        reason = f"is longer than {limits.TOKEN_BYTES_MAX} bytes"
    else:
        bad = next(c for c in value if c not in _ALLOWED)
        reason = f"contains {bad!r}"
    raise InvalidToken(f"{what} {reason}", token=value[: 2 * limits.TOKEN_BYTES_MAX], what=what)


def is_decider(agent: str) -> bool:
    """Whether this agent name is a decider's: those begin with '_' and are refused to others."""
    return agent.startswith("_")


fnv1a_32: Final = partitions.fnv1a_32
partition: Final = partitions.partition


# --- facts and samples -------------------------------------------------------------------


class FactSubject(msgspec.Struct, frozen=True, gc=False):
    """Where a fact is published and stored.  The constructor does not check: see `checked`."""

    tenant: str
    agent: str
    key: str
    kind: str
    id: str
    event: str
    detail: tuple[str, ...] = ()

    def checked(self) -> FactSubject:
        """Itself, or `InvalidToken`/`InvalidSubject` naming what is wrong."""
        subject = self.publish
        if (
            len(self.detail) <= limits.DETAIL_TOKENS_MAX
            and subject.count(".") == 7 + len(self.detail)
            and _TOKENS.fullmatch(subject)
        ):
            return self
        for what in ("tenant", "agent", "kind", "id", "key", "event"):  # a key that nobody gave is the id
            check_token(getattr(self, what), what)
        if len(self.detail) > limits.DETAIL_TOKENS_MAX:
            raise InvalidSubject(
                f"more than {limits.DETAIL_TOKENS_MAX} detail tokens", detail=".".join(self.detail)[:256]
            )
        for token in self.detail:
            check_token(token, "detail")
        return self

    @property
    def partition(self) -> int:
        """The partition of the key."""
        return partition(self.key)

    @property
    def publish(self) -> str:
        """The subject an agent publishes to."""
        return ".".join(("coord.ev", self.tenant, self.agent, self.key, self.kind, self.id, self.event, *self.detail))

    @property
    def stored(self) -> str:
        """The subject the log stores it under."""
        return _LOG + self._tail()

    @property
    def live(self) -> str:
        """The subject subscribers see it on."""
        return _LIVE + self._tail()

    def _tail(self) -> str:
        head = (str(partition(self.key)), self.tenant, self.key, self.kind, self.id, self.agent, self.event)
        return ".".join((*head, *self.detail))


class SampleSubject(msgspec.Struct, frozen=True, gc=False):
    """Where telemetry of one series is published and stored."""

    tenant: str
    agent: str
    series: str

    def checked(self) -> SampleSubject:
        """Itself, or `InvalidToken`/`InvalidSubject` naming what is wrong."""
        check_token(self.tenant, "tenant")
        check_token(self.agent, "agent")
        tokens = self.series.split(".")
        if len(tokens) > limits.SERIES_TOKENS_MAX:
            raise InvalidSubject(f"a series has at most {limits.SERIES_TOKENS_MAX} tokens", series=self.series[:256])
        for token in tokens:
            check_token(token, "series")
        return self

    @property
    def partition(self) -> int:
        """The partition of the agent."""
        return partition(self.agent)

    @property
    def publish(self) -> str:
        """The subject an agent publishes to."""
        return f"{_TEL}{self.tenant}.{self.agent}.{self.series}"

    @property
    def stored(self) -> str:
        """The subject TELEMETRY stores it under."""
        return f"{_TLOG}{partition(self.agent)}.{self.tenant}.{self.agent}.{self.series}"


AnySubject: TypeAlias = FactSubject | SampleSubject


def parse_published(subject: str) -> AnySubject:
    """Parse a ``coord.ev.`` or ``coord.tel.`` subject; `InvalidSubject` or `InvalidToken` otherwise."""
    if subject.startswith(_EV):
        tokens = _tokens(subject)
        if not 8 <= len(tokens) <= 8 + limits.DETAIL_TOKENS_MAX:
            raise _wrong_length(subject, "coord.ev.{tenant}.{agent}.{key}.{kind}.{id}.{event}[.{detail}]")
        tenant, agent, key, kind, id_, event = tokens[2:8]
        return FactSubject(tenant, agent, key, kind, id_, event, tuple(tokens[8:]))
    if subject.startswith(_TEL):
        tokens = _tokens(subject)
        if not 5 <= len(tokens) <= 4 + limits.SERIES_TOKENS_MAX:
            raise _wrong_length(subject, "coord.tel.{tenant}.{agent}.{series}")
        return SampleSubject(tokens[2], tokens[3], ".".join(tokens[4:]))
    raise InvalidSubject("not a subject that agents publish to", subject=subject[:256])


def parse_stored(subject: str) -> AnySubject:
    """Parse a ``coord.log.`` or ``coord.tlog.`` subject and verify its partition."""
    if subject.startswith(_LOG):
        return _parse_log(subject)
    if subject.startswith(_TLOG):
        tokens = _tokens(subject)
        if not 6 <= len(tokens) <= 5 + limits.SERIES_TOKENS_MAX:
            raise _wrong_length(subject, "coord.tlog.{p}.{tenant}.{agent}.{series}")
        if tokens[2] != PARTITION_TOKENS[partition(tokens[4])]:
            raise InvalidSubject("the partition is not the agent's", subject=subject[:256])
        return SampleSubject(tokens[3], tokens[4], ".".join(tokens[5:]))
    raise InvalidSubject("not a subject that a stream stores", subject=subject[:256])


def parse_live(subject: str) -> FactSubject:
    """Parse a ``coord.live.`` subject and verify its partition."""
    if not subject.startswith(_LIVE):
        raise InvalidSubject("not a live subject", subject=subject[:256])
    return _parse_log(subject)


def live_to_stored(subject: str) -> str:
    """The stored subject of a fact seen on a ``coord.live.`` subject."""
    if not subject.startswith(_LIVE):
        raise InvalidSubject("not a live subject", subject=subject[:256])
    return _LOG + subject[len(_LIVE) :]


def stored_to_live(subject: str) -> str:
    """The live subject (or filter) of a stored one."""
    if not subject.startswith(_LOG):
        raise InvalidSubject("not a subject of the log", subject=subject[:256])
    return _LIVE + subject[len(_LOG) :]


def owner(subject: str) -> tuple[str | None, str | None]:
    """(tenant, agent) of a stored or published subject as far as they are tokens; never raises.

    For dead letters, whose subject may be anything.
    """
    parts = subject.split(".")
    if subject.startswith((_LOG, _LIVE)):
        found = (parts[3:4], parts[7:8])
    elif subject.startswith(_TLOG):
        found = (parts[3:4], parts[4:5])
    elif subject.startswith((_EV, _TEL)):
        found = (parts[2:3], parts[3:4])
    else:
        return None, None
    tenant, agent = (p[0] if p and _TOKEN.fullmatch(p[0]) else None for p in found)
    return tenant, agent


PARTITION_TOKENS: Final = tuple(str(p) for p in range(limits.PARTITIONS))
"""Partitions as they stand in subjects."""


def _parse_log(subject: str) -> FactSubject:
    tokens = _tokens(subject)
    if not 9 <= len(tokens) <= 9 + limits.DETAIL_TOKENS_MAX:
        raise _wrong_length(subject, "{p}.{tenant}.{key}.{kind}.{id}.{agent}.{event}[.{detail}]")
    _, _, p, tenant, key, kind, id_, agent, event, *detail = tokens
    if p != PARTITION_TOKENS[partition(key)]:
        raise InvalidSubject("the partition is not the key's", subject=subject[:256])
    return FactSubject(tenant, agent, key, kind, id_, event, tuple(detail))


def _tokens(subject: str) -> list[str]:
    """Split into valid tokens: one match over the whole; the slow path only names the culprit."""
    tokens = subject.split(".")
    if not _TOKENS.fullmatch(subject):
        for token in tokens:
            check_token(token, "token")
    return tokens


def _wrong_length(subject: str, shape: str) -> InvalidSubject:
    return InvalidSubject(f"the subject is not of the form {shape}", subject=subject[:256])


# --- filters -----------------------------------------------------------------------------


def entity_filter(tenant: str, key: str, kind: str, id: str) -> str:
    """The canonical filter of one entity's history; optimistic concurrency uses this exact string."""
    _check(tenant=tenant, key=key, kind=kind, id=id)
    return f"{_LOG}{partition(key)}.{tenant}.{key}.{kind}.{id}.>"


def event_filter(tenant: str, key: str, kind: str, id: str, event: str, detail: tuple[str, ...] = ()) -> str:
    """The canonical filter of one event of one entity, by whomever; for optimistic concurrency too."""
    _check(tenant=tenant, key=key, kind=kind, id=id, event=event)
    for token in detail:
        check_token(token, "detail")
    return ".".join((f"{_LOG}{partition(key)}.{tenant}.{key}.{kind}.{id}.*.{event}", *detail))


def entity_of(stored: str) -> str:
    """The stored subject of a fact up to its entity: ``….>`` behind it is `entity_filter`.

    `stored` was checked; this only cuts it.
    """
    return ".".join(stored.split(".", 7)[:7])


def entity_prefix(tenant: str, key: str, kind: str, id: str) -> str:
    """`entity_of` the facts of an entity.  The tokens are not looked at: whoever encodes such a fact does that."""
    return f"{_LOG}{partition(key)}.{tenant}.{key}.{kind}.{id}"


def log_filter(
    tenant: str,
    *,
    key: str | None = None,
    kind: str | None = None,
    id: str | None = None,
    agent: str | None = None,
    event: str | None = None,
) -> str:
    """One filter over stored subjects; what is None is a wildcard.

    With `event`, it selects that event *without* detail tokens: NATS has no wildcard for
    "none or more".  `log_filters` returns the two filters that select both.
    """
    return _LOG + _filter_tail(tenant, key, kind, id, agent, event)


def log_filters(
    tenant: str,
    *,
    key: str | None = None,
    kind: str | None = None,
    id: str | None = None,
    agent: str | None = None,
    event: str | None = None,
) -> tuple[str, ...]:
    """The one or two disjoint filters that select all such facts, detail tokens or not."""
    first = log_filter(tenant, key=key, kind=kind, id=id, agent=agent, event=event)
    return (first,) if event is None else (first, first + ".>")


def is_of_one_key(filter_subject: str) -> bool:
    """Whether a filter over the log names partition, tenant and key."""
    tokens = filter_subject.split(".")
    return len(tokens) > 5 and filter_subject.startswith(_LOG) and not {"*", ">"}.intersection(tokens[2:5])


def samples_filter(tenant: str) -> str:
    """One filter over the stored telemetry of a tenant."""
    _check(tenant=tenant)
    return f"{_TLOG}*.{tenant}.>"


def live_filter(
    tenant: str,
    *,
    key: str | None = None,
    kind: str | None = None,
    id: str | None = None,
    agent: str | None = None,
    event: str | None = None,
) -> str:
    """`log_filter`, for what is republished."""
    return _LIVE + _filter_tail(tenant, key, kind, id, agent, event)


def live_filters(
    tenant: str,
    *,
    key: str | None = None,
    kind: str | None = None,
    id: str | None = None,
    agent: str | None = None,
    event: str | None = None,
) -> tuple[str, ...]:
    """`log_filters`, for what is republished."""
    first = live_filter(tenant, key=key, kind=kind, id=id, agent=agent, event=event)
    return (first,) if event is None else (first, first + ".>")


def partition_filter(stream: str, p: int) -> str:
    """What the projector's consumer of one partition of EVENTS or TELEMETRY filters on."""
    if not 0 <= p < limits.PARTITIONS:
        raise InvalidSubject(f"partitions are 0 to {limits.PARTITIONS - 1}", partition=p)
    if stream == EVENTS:
        return f"{_LOG}{p}.>"
    if stream == TELEMETRY:
        return f"{_TLOG}{p}.>"
    raise InvalidSubject("only EVENTS and TELEMETRY are partitioned", stream=stream)


def any_partition(stream: str) -> str:
    """What filters on the stored subjects of every partition begin with; `partition_filter` has a number in it."""
    return partition_filter(stream, 0).removesuffix("0.>") + "*."


def stray_filter(stream: str) -> str:
    """What a partitioned stream holds outside its partitions: subjects that the server did not transform."""
    if stream == EVENTS:
        return f"{_EV}>"
    if stream == TELEMETRY:
        return f"{_TEL}>"
    raise InvalidSubject("only EVENTS and TELEMETRY are partitioned", stream=stream)


def _filter_tail(
    tenant: str, key: str | None, kind: str | None, id_: str | None, agent: str | None, event: str | None
) -> str:
    given = {"tenant": tenant, "key": key, "kind": kind, "id": id_, "agent": agent, "event": event}
    _check(**{what: value for what, value in given.items() if value is not None})
    p = "*" if key is None else str(partition(key))
    return ".".join((p, tenant, key or "*", kind or "*", id_ or "*", agent or "*", event or ">"))


def _check(**tokens: str) -> None:
    for what, value in tokens.items():
        check_token(value, what)


# --- everything else ---------------------------------------------------------------------


def rpc(tenant: str, service: str, method: str) -> str:
    """Where a service answers requests of a tenant's agents."""
    return _build("coord.rpc", tenant=tenant, service=service, method=method)


def rpc_all(service: str, method: str) -> str:
    """Where a service listens for requests of every tenant's agents."""
    _check(service=service, method=method)
    return f"coord.rpc.*.{service}.{method}"


OPERATORS: Final = UNKNOWN
"""Instead of a tenant: what an operator asks, who may know of all."""

QUESTIONS_ALL: Final = "coord.rpc.*.query.*"
"""Every tenant's questions to the tables, whatever they are called."""


def ask(tenant: str, agent: str, what: str) -> str:
    """Where an agent is asked to state something (`status`: all of it); it answers by stating it."""
    return _build("coord.ask", tenant=tenant, agent=agent, what=what)


def answer(tenant: str, agent: str | None, asker: str) -> str:
    """Where an agent answers what all are asked (`ask` of `UNKNOWN`) by that asker; None: the filter for anybody's."""
    _check(tenant=tenant, agent=agent or UNKNOWN, asker=asker)
    return f"coord.answer.{tenant}.{agent or '*'}.{asker}"


def timer(tenant: str, key: str, kind: str, id: str) -> str:
    """Where the timer decider schedules the timer of an entity."""
    return _build("coord.timer", tenant=tenant, key=key, kind=kind, id=id)


def due(tenant: str, key: str, kind: str, id: str) -> str:
    """Where the server publishes a timer that is due."""
    return _build("coord.due", tenant=tenant, key=key, kind=kind, id=id)


def notice(tenant: str, p: int) -> str:
    """Where the projector tells a tenant's caches what it committed in partition `p`."""
    if not 0 <= p < limits.PARTITIONS:
        raise InvalidSubject(f"partitions are 0 to {limits.PARTITIONS - 1}", partition=p)
    return _build("coord.notice", tenant=tenant, p=str(p))


def notices(tenant: str) -> str:
    """All notices of a tenant; of `UNKNOWN`: those for everybody."""
    return _build("coord.notice", tenant=tenant) + ".*"


def cached(stream: str, tenant: str, name: str) -> str:
    """Where CACHE_L2 or CACHE_L3 keeps what has this name."""
    tier = {CACHE_L2: "l2", CACHE_L3: "l3"}.get(stream)
    if tier is None:
        raise InvalidSubject("not a stream of a cache", stream=stream)
    return _build(f"coord.kept.{tier}", tenant=tenant, name=name)


def dlq(stream: str, tenant: str | None, agent: str | None) -> str:
    """Where a dead letter of a stream goes; None where its subject did not say whose it is."""
    return _build("coord.dlq", stream=stream.lower(), tenant=tenant or UNKNOWN, agent=agent or UNKNOWN)


def cursor(tenant: str, agent: str, name: str) -> str:
    """Where a durable subscription keeps its position."""
    return _build("coord.cursor", tenant=tenant, agent=agent, name=name)


def heartbeat(tenant: str, agent: str, instance: str) -> str:
    """Where an instance of an agent says that it is there; not stored."""
    return _build("coord.hb", tenant=tenant, agent=agent, instance=instance)


HEARTBEATS_ALL: Final = "coord.hb.*.*.*"


def push(tenant: str, agent: str, topic: str) -> str:
    """Where deciders tell an agent what concerns it; at most once, not stored."""
    return _build("coord.push", tenant=tenant, agent=agent, topic=topic)


PUSH_PREFIX: Final = "coord.push."
"""How the subjects of pushes begin: tenant, agent and topic follow."""


def pushes(tenant: str, agent: str) -> str:
    """The filter for all that an agent is told."""
    _check(tenant=tenant, agent=agent)
    return f"coord.push.{tenant}.{agent}.*"


def board(tenant: str, capability: str) -> str:
    """Where the depth of a capability's queues and the state of its circuit are said; not stored."""
    return _build("coord.board", tenant=tenant, capability=capability)


BOARDS_ALL: Final = "coord.board.*.*"


def wake(tenant: str, capability: str) -> str:
    """Where workers that stand by are woken, one by each message; not stored."""
    return _build("coord.wake", tenant=tenant, capability=capability)


WAKE_GROUP: Final = "standby"
"""The queue group of those who listen there."""

PROBES: Final = "_probe-"
"""What stands for a capability in the subject at which a worker finds out whether it can be woken begins so."""


def parse_board(subject: str) -> tuple[str, str]:
    """(tenant, capability)."""
    tenant, capability = _fields(subject, "coord.board.", 2)
    return tenant, capability


def snapshot(p: int, piece: str) -> str:
    """Where the deciders of partition `p` keep a piece of their snapshot; `head` names the rest."""
    return _build("coord.snapshot", p=PARTITION_TOKENS[p], piece=piece)


def snapshot_filter(p: int) -> str:
    """All pieces of a partition's snapshots."""
    return f"coord.snapshot.{PARTITION_TOKENS[p]}.*"


SNAPSHOTS_ALL: Final = "coord.snapshot.*.*"


@lru_cache(maxsize=8192)
def queue(tenant: str, capability: str, name: str) -> str:
    """The consumer of EVENTS that is one queue of a capability: ``task~{tenant}~{capability}~{queue}``.

    '~' is in no token, so no two capabilities share one; the server allows it in a consumer's name.
    """
    _check(tenant=tenant, capability=capability, queue=name)
    return f"task~{tenant}~{capability}~{name}"


def queue_filter(tenant: str, capability: str, name: str) -> str:
    """What that consumer filters on: the submissions to it, whatever their key."""
    _check(tenant=tenant, capability=capability, queue=name)
    return f"{_LOG}*.{tenant}.*.task.*.*.submitted.{capability}.{name}"


def parse_queue(consumer: str) -> tuple[str, str, str] | None:
    """(tenant, capability, queue) of a consumer's name; None: it is no queue."""
    prefix, *parts = consumer.split("~")
    if prefix != "task" or len(parts) != 3:
        return None
    return parts[0], parts[1], parts[2]


def delivery_ack(consumer: str, seq: int, consumer_seq: int = 0) -> str:
    """Where a queue's delivery of stream sequence `seq` is settled by whoever did not receive it.

    To ack it and to extend it the server reads consumer and stream sequence only.  A nak is
    ignored unless `consumer_seq` is within what the consumer has delivered and not all of which
    is acked: its ``delivered.consumer_seq``, read at any time after the delivery, always is.
    tests/contract/test_derived_ack.py holds the server to that.
    """
    return f"$JS.ACK.{EVENTS}.{consumer}.1.{seq}.{consumer_seq}.1.0"


def parse_heartbeat(subject: str) -> tuple[str, str, str]:
    """(tenant, agent, instance)."""
    tenant, agent, instance = _fields(subject, "coord.hb.", 3)
    return tenant, agent, instance


def beat(service: str, instance: str) -> str:
    """Where the replicas of one of coord's own services tell each other that they are there."""
    return _build("coord.beat", service=service, instance=instance)


def beats(service: str) -> str:
    """The filter for every replica's `beat`."""
    return f"coord.beat.{check_token(service, 'service')}.*"


def parse_rpc(subject: str) -> tuple[str, str, str]:
    """(tenant, service, method)."""
    tenant, service, method = _fields(subject, "coord.rpc.", 3)
    return tenant, service, method


def parse_answer(subject: str) -> tuple[str, str, str]:
    """(tenant, agent, asker)."""
    tenant, agent, asker = _fields(subject, "coord.answer.", 3)
    return tenant, agent, asker


def parse_timer(subject: str) -> tuple[str, str, str, str]:
    """(tenant, key, kind, id)."""
    tenant, key, kind, id_ = _fields(subject, "coord.timer.", 4)
    return tenant, key, kind, id_


def parse_due(subject: str) -> tuple[str, str, str, str]:
    """(tenant, key, kind, id)."""
    tenant, key, kind, id_ = _fields(subject, "coord.due.", 4)
    return tenant, key, kind, id_


def parse_notice(subject: str) -> tuple[str, int]:
    """(tenant, partition)."""
    tenant, p = _fields(subject, "coord.notice.", 2)
    if p not in PARTITION_TOKENS:
        raise InvalidSubject("not a partition", subject=subject[:256])
    return tenant, int(p)


def parse_dlq(subject: str) -> tuple[str, str | None, str | None]:
    """(stream as the server names it, tenant, agent); None where unknown."""
    stream, tenant, agent = _fields(subject, "coord.dlq.", 3)
    return stream.upper(), None if tenant == UNKNOWN else tenant, None if agent == UNKNOWN else agent


def parse_cursor(subject: str) -> tuple[str, str, str]:
    """(tenant, agent, name)."""
    tenant, agent, name = _fields(subject, "coord.cursor.", 3)
    return tenant, agent, name


def default_type(kind: str, event: str) -> str:
    """The `ce-type` of a fact whose sender gave none."""
    return f"coord.{kind}.{event}"


def _build(prefix: str, **tokens: str) -> str:
    _check(**tokens)
    return ".".join((prefix, *tokens.values()))


def _fields(subject: str, prefix: str, count: int) -> list[str]:
    if not subject.startswith(prefix):
        raise InvalidSubject(f"not a {prefix} subject", subject=subject[:256])
    tokens = _tokens(subject)[2:]
    if len(tokens) != count:
        raise _wrong_length(subject, f"{prefix} and {count} tokens")
    return tokens
