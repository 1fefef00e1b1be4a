"""What a user of the broker may do, as the server says, against what the services do."""

from __future__ import annotations

from typing import Any

import msgspec

from coord import errors
from coord.bus.connection import Connection
from coord.bus.topology import Topology, base
from coord.ops import settings
from coord.ops.checks import Check, fail, ok, skip
from coord.ops.settings import Settings
from coord.wire import subjects

_ASK_S = 3.0
_NAMED_MAX = 12
"""Subjects that one line names."""


async def check(conn: Connection, found: Settings) -> Check:
    """One line for `coord doctor`; raises nothing."""
    try:
        message = await conn.request("$SYS.REQ.USER.INFO", timeout_s=_ASK_S)
        granted = msgspec.json.decode(message.data)["data"].get("permissions")
        wanted = settings.topology(found)
    except (errors.CoordError, msgspec.DecodeError, KeyError) as exc:
        return skip("broker", "permissions", f"the server does not tell: {type(exc).__name__}")
    if not granted:
        return ok("broker", "permissions", "unrestricted in this account")
    publish, subscribe = needed(wanted, trims=found.trim.enabled, inbox=f"{conn.config.inbox_prefix}.x")
    missing = [f"publish {s}" for s in sorted(publish) if not may(granted.get("publish"), s)]
    missing += [f"subscribe {s}" for s in sorted(subscribe) if not may(granted.get("subscribe"), s)]
    if missing:
        more = f" and {len(missing) - _NAMED_MAX} more" if len(missing) > _NAMED_MAX else ""
        named = ", ".join(missing[:_NAMED_MAX])
        return fail("broker", "permissions", f"not allowed: {named}{more}", "Grant them to coord's user.")
    return ok("broker", "permissions", "restricted, and enough")


def needed(wanted: Topology, *, trims: bool, inbox: str) -> tuple[set[str], set[str]]:
    """The subjects, one of each sort, that `coord serve` publishes to and subscribes to.

    `trims`: the trimmer runs, which lowers the log's age for a moment.  What `coord stream apply`
    and `coord serve --apply` need to make streams is not among them.
    """
    publish = {
        "$JS.API.INFO",
        f"$JS.API.DIRECT.GET.{subjects.EVENTS}",
        subjects.notice("t", 0),
        subjects.notice(subjects.UNKNOWN, 0),
        subjects.dlq(subjects.EVENTS, "t", "a"),
        subjects.beat("projector", "x"),
        subjects.ask("t", "a", "status"),
        subjects.answer("t", "_query", "x"),
        subjects.wake("t", "c"),
    }
    # One consumer of each sort stands for those of all partitions.
    for spec in {(spec.stream, (spec.consumer or "").rpartition("-")[0]): spec for spec in wanted.specs}.values():
        if spec.consumer is None:
            continue
        name = f"{spec.stream}.{spec.consumer}"
        publish |= {f"$JS.API.STREAM.{verb}.{spec.stream}" for verb in ("INFO", "MSG.GET")}
        publish |= {f"$JS.API.CONSUMER.{verb}.{name}" for verb in ("INFO", "MSG.NEXT", "RESET", "UNPIN")}
        one = spec.config.get("filter_subject")
        publish.add(f"$JS.API.CONSUMER.CREATE.{name}" + (f".{one}" if one else ""))
        # And the one for all partitions, which a process that is alone makes under a name of its own.
        name = f"{spec.stream}.{base(spec)}-all-x"
        publish |= {f"$JS.API.CONSUMER.{verb}.{name}" for verb in ("CREATE", "INFO", "MSG.NEXT")}
    publish |= deciding()
    if trims:
        publish.add(f"$JS.API.STREAM.UPDATE.{subjects.EVENTS}")
    services = (
        ("log", "read"),
        ("task", "open"),
        ("task", "settle"),
        ("queue", "waiting"),
        ("query", "tasks"),
        ("service", "understands"),
    )
    methods = {subjects.rpc("t", service, method) for service, method in services}
    asked = subjects.ask("t", subjects.UNKNOWN, "cache")
    heard = {subjects.notice("t", 0), subjects.notice(subjects.UNKNOWN, 0), asked}
    return publish, {inbox, *methods, *heard, subjects.beat("projector", "x"), subjects.beat("deciders", "x")}


def deciding() -> set[str]:
    """What deciders publish to: facts as themselves, deliveries settled, pushes, queues and snapshots."""
    queue = subjects.queue("t", "c", "normal")
    snapshots = subjects.SNAPSHOTS
    return {
        subjects.FactSubject("t", "_task", "k", "task", "k", "released", ("1",)).publish,
        subjects.delivery_ack(queue, 1),
        subjects.push("t", "a", "task"),
        subjects.beat("deciders", "x"),
        subjects.snapshot(0, "head"),
        subjects.timer("t", "k", "timer", "i"),
        f"$JS.API.STREAM.PURGE.{subjects.TIMERS}",
        f"$JS.API.CONSUMER.CREATE.{subjects.EVENTS}.{queue}.{subjects.queue_filter('t', 'c', 'normal')}",
        f"$JS.API.CONSUMER.NAMES.{subjects.EVENTS}",
        *(f"$JS.API.CONSUMER.{verb}.{subjects.EVENTS}.{queue}" for verb in ("INFO", "DELETE")),
        *(f"$JS.API.STREAM.{verb}.{snapshots}" for verb in ("INFO", "MSG.GET", "PURGE")),
    }


def may(rules: dict[str, Any] | None, subject: str) -> bool:
    """Whether NATS permissions `rules` ({allow: […], deny: […]}) let through one concrete subject."""
    if not rules:
        return True
    allow, deny = rules.get("allow"), rules.get("deny") or []
    return (not allow or any(_covers(a, subject) for a in allow)) and not any(_covers(d, subject) for d in deny)


def _covers(pattern: str, subject: str) -> bool:
    # "subject queue" is how a permission names a queue group.
    wanted, given = pattern.split(" ", maxsplit=1)[0].split("."), subject.split(".")
    for i, part in enumerate(wanted):
        if part == ">":
            return len(given) > i
        if i >= len(given) or part not in {"*", given[i]}:
            return False
    return len(wanted) == len(given)
