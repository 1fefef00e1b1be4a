"""Streams and consumers: read from streams/*.toml, compared with the server, applied.

The files are the only definition.  They use JetStream's own field names; a string such as
``"24h"`` in a duration field becomes nanoseconds; ``[profiles.NAME]`` overrides fields for
one profile; ``for_each_partition`` makes one consumer per partition out of one file, with
``{p}`` replaced.  ``plan`` compares, ``apply`` performs; applying twice changes nothing.

What it never does: delete a stream or a consumer that the files do not name, or take an age
that the trimmer has lowered for a moment (`coord.core.trim`) for the configured one.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.core import trim
from coord.wire import subjects

Profile = Literal["production", "development", "cluster"]

_DURATIONS = frozenset(
    {"max_age", "duplicate_window", "ack_wait", "priority_timeout", "inactive_threshold", "max_expires"}
)
_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)")

# Fields that the server refuses to change: the stream would have to be made anew.
_STREAM_FIXED = frozenset({"storage", "retention", "name"})
_CONSUMER_FIXED = frozenset(
    {"deliver_policy", "ack_policy", "mem_storage", "priority_policy", "priority_groups", "name"}
)
# What the consumer of one partition has, and one for all has not.
_OF_ONE_PARTITION = frozenset(
    {"durable_name", "filter_subject", "filter_subjects", "ack_wait", "max_ack_pending"}
    | {"priority_groups", "priority_policy", "priority_timeout"}
)
# Limits whose lowering deletes messages at once.
_TRIMMING = frozenset({"max_age", "max_msgs", "max_bytes", "max_msgs_per_subject"})

_SETTLE_S = 0.02
_SETTLE_TRIES = 3
"""After an update it is looked so often whether it stayed: a trimmer's round trip takes a millisecond."""

_TAKEN_IN_S = 0.5
"""What a stream stored before it was changed is taken in by others meanwhile: on one machine within a millisecond."""

_CREATE_S = 1.5
"""How long a missing consumer may take to be made before its reader begins again: elections lose requests."""


class Spec(msgspec.Struct, frozen=True):
    """One stream (`consumer` is None) or consumer, as the server gets it (durations in ns)."""

    stream: str
    consumer: str | None
    config: dict[str, Any]

    @property
    def label(self) -> str:
        """``EVENTS`` or ``EVENTS/projector-3``."""
        return self.stream if self.consumer is None else f"{self.stream}/{self.consumer}"


class Change(msgspec.Struct, frozen=True):
    """One difference between the files and the server."""

    label: str
    action: Literal["create", "update", "recreate"]
    fields: dict[str, tuple[Any, Any]]
    """Field → (on the server, in the file); empty for `create`."""
    destructive: bool
    reason: str = ""


class Topology(msgspec.Struct, frozen=True):
    """Everything that streams/ defines, for one profile.

    Streams come before consumers, and those that others take from before these: what is stored under another subject
    from now on is taken in once the other stream asks for that.
    """

    specs: tuple[Spec, ...]

    def get(self, label: str) -> Spec:
        """The spec with this label; `TopologyError` when there is none."""
        for spec in self.specs:
            if spec.label == label:
                return spec
        raise errors.TopologyError(f"streams/ does not define {label!r}", known=[s.label for s in self.specs])

    def with_fields(self, label: str, **fields: Any) -> Topology:
        """The same with other values of some fields of one spec."""
        self.get(label)
        return Topology(
            tuple(msgspec.structs.replace(s, config=s.config | fields) if s.label == label else s for s in self.specs)
        )

    @property
    def streams(self) -> tuple[Spec, ...]:
        """The streams alone."""
        return tuple(s for s in self.specs if s.consumer is None)


# --- files (pure but for reading them) -----------------------------------------------------


def load(directory: Path, profile: str = "production") -> Topology:
    """Read streams/*.toml and streams/consumers/*.toml.

    Raises `TopologyError` naming the file for anything that is not what it should be.
    """
    streams = [_stream_spec(_read(path), path, profile) for path in sorted(directory.glob("*.toml"))]
    if not streams:
        raise errors.TopologyError(f"no stream files in {directory}")
    consumers: list[Spec] = []
    names = {s.stream for s in streams}
    for path in sorted((directory / "consumers").glob("*.toml")):
        for spec in _consumer_specs(_read(path), path, profile):
            if spec.stream not in names:
                raise errors.TopologyError(f"{path.name}: unknown stream {spec.stream!r}")
            consumers.append(spec)
    streams.sort(key=lambda spec: bool(spec.config.get("sources")))
    return Topology(tuple(streams + consumers))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise errors.TopologyError(f"{path.name}: {exc}") from exc


def _with_profile(data: dict[str, Any], path: Path, profile: str) -> dict[str, Any]:
    profiles = data.pop("profiles", {})
    data.update(profiles.get(profile, {}))
    return {key: _nanoseconds(key, value, path) if key in _DURATIONS else value for key, value in data.items()}


def _nanoseconds(key: str, value: Any, path: Path) -> int:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise errors.TopologyError(f"{path.name}: {key} = {value!r} is not a duration such as '90s' or '24h'")
    return int(match[1]) * _UNITS_NS[match[2]]


def _stream_spec(data: dict[str, Any], path: Path, profile: str) -> Spec:
    config = _with_profile(data, path, profile)
    if config.get("name") != path.stem:
        raise errors.TopologyError(f"{path.name}: name must be {path.stem!r}")
    return Spec(path.stem, None, config)


def _consumer_specs(data: dict[str, Any], path: Path, profile: str) -> list[Spec]:
    config = _with_profile(data, path, profile)
    stream = config.pop("stream", None)
    if not isinstance(stream, str):
        raise errors.TopologyError(f"{path.name}: `stream` is missing")
    partitions = range(limits.PARTITIONS) if config.pop("for_each_partition", False) else [None]
    return [_consumer_spec(stream, config, p) for p in partitions]


def _consumer_spec(stream: str, config: dict[str, Any], p: int | None) -> Spec:
    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(item) for item in value]
        return value.replace("{p}", str(p)) if p is not None and isinstance(value, str) else value

    filled = {key: fill(value) for key, value in config.items()}
    filled["durable_name"] = filled["name"]
    return Spec(stream, filled["name"], filled)


def base(spec: Spec) -> str:
    """What the consumers of all partitions are called: ``projector`` of ``projector-3``."""
    return (spec.consumer or "").rpartition("-")[0]


def filters_anywhere(spec: Spec) -> list[str]:
    """What the consumer of one partition, `spec`, filters by, for any partition; empty: by the partition alone."""
    own = subjects.partition_filter(spec.stream, int((spec.consumer or "").rpartition("-")[2]))
    filters = spec.config.get("filter_subjects") or [spec.config.get("filter_subject", own)]
    anywhere = subjects.any_partition(spec.stream)
    return [] if filters == [own] else [anywhere + f.removeprefix(own.removesuffix(">")) for f in filters]


def for_all_partitions(spec: Spec, *, behind: int) -> Spec:
    """A consumer like that of one partition, `spec`, for all of them, which delivers what follows `behind`.

    It is its maker's alone: under a name of its own, in the broker's memory, with one copy whatever the
    stream has, and forgotten when nobody asks it any more.  See `coord.bus.shared`.
    """
    name = f"{base(spec)}-all-{secrets.token_hex(6)}"
    config = {key: value for key, value in spec.config.items() if key not in _OF_ONE_PARTITION}
    if filters := filters_anywhere(spec):
        config["filter_subjects"] = filters
    config |= {
        "name": name,
        "description": f"coord: all partitions of {base(spec)}, for one process",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": behind + 1,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": int(limits.GATHER_KEPT_S * 1e9),
    }
    return Spec(spec.stream, name, config)


# --- comparing (pure) ----------------------------------------------------------------------


def compare(spec: Spec, current: dict[str, Any] | None) -> Change | None:
    """What has to change so that the server has `spec`; None when it already does.

    `current` is the ``config`` of the server's INFO answer, None when the object is missing.
    Only fields that the file names are compared: the server adds its defaults.
    """
    if current is None:
        return Change(spec.label, "create", {}, destructive=False)
    fields = {
        key: (current.get(key), wanted) for key, wanted in spec.config.items() if not _same(current.get(key), wanted)
    }
    if not fields:
        return None
    fixed = fields.keys() & (_STREAM_FIXED if spec.consumer is None else _CONSUMER_FIXED)
    if fixed:
        reason = f"{', '.join(sorted(fixed))} cannot be changed"
        return Change(spec.label, "recreate", fields, destructive=not _keeps_nothing(spec), reason=reason)
    trimming = [k for k in fields.keys() & _TRIMMING if spec.consumer is None and _lowers(*fields[k])]
    lost_subjects = sorted(set(current.get("subjects") or ()) - set(spec.config.get("subjects") or ()))
    reasons = [f"lowers {k}: messages beyond it are deleted" for k in sorted(trimming)]
    if spec.consumer is None and lost_subjects:
        reasons.append(f"stops storing {', '.join(lost_subjects)}")
    return Change(spec.label, "update", fields, destructive=bool(reasons), reason="; ".join(reasons))


def _keeps_nothing(spec: Spec) -> bool:
    """Whether a consumer can be made anew and nobody notices: its reader says each time where to begin."""
    return spec.consumer is not None and spec.config.get("ack_policy") == "none"


def _same(current: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(_same(current.get(k), v) for k, v in wanted.items())
    if current is None:  # the server leaves out zero values
        return wanted in (0, False, "", [], None)
    return bool(current == wanted)


def _lowers(current: Any, wanted: Any) -> bool:
    def size(value: Any) -> float:  # 0, -1 and None mean "no limit"
        return float(value) if isinstance(value, int) and value > 0 else float("inf")

    return size(wanted) < size(current)


# --- the server ----------------------------------------------------------------------------


async def plan(conn: Connection, topology: Topology) -> list[Change]:
    """Every difference between the files and the server, in the order to apply them."""
    changes = [compare(spec, await _current(conn, spec)) for spec in topology.specs]
    return [c for c in changes if c is not None]


async def apply(conn: Connection, topology: Topology, *, allow_destructive: bool = False) -> list[Change]:
    """Make the server equal to the files; returns what was changed.

    Raises `DestructiveChange` before anything is changed when a change would delete data and
    `allow_destructive` is false.  A stream is never recreated: its data would be lost; say
    so by hand with the broker's own tools.
    """
    changes = await plan(conn, topology)
    refused = [
        c
        for c in changes
        if c.destructive and (not allow_destructive or (c.action == "recreate" and "/" not in c.label))
    ]
    if refused:
        raise errors.DestructiveChange(
            "; ".join(f"{c.label}: {c.reason}" for c in refused), changes=[c.label for c in refused]
        )
    taken_from = {source["name"] for spec in topology.streams for source in spec.config.get("sources") or ()}
    for change in changes:
        await _perform(conn, topology.get(change.label), change)
        if change.action == "update" and change.label in taken_from:
            await asyncio.sleep(_TAKEN_IN_S)
    await _settle(conn, topology, [c for c in changes if c.action == "update"])
    return changes


async def _settle(conn: Connection, topology: Topology, updates: list[Change]) -> None:
    """Make sure that updates stayed, and that no age is left lowered by a trimmer that died.

    The broker has no compare-and-swap for configurations: a trimmer may have read one before
    our update and written it back after.
    """
    for change in updates:
        spec = topology.get(change.label)
        for _ in range(_SETTLE_TRIES):
            await asyncio.sleep(_SETTLE_S)
            again = compare(spec, await _current(conn, spec))
            if again is None:
                break
            await _perform(conn, spec, again)
    for spec in topology.streams:
        config = (await conn.api(f"STREAM.INFO.{spec.stream}"))["config"]
        if trim.lowered_until(config) is not None:
            await conn.api(f"STREAM.UPDATE.{spec.stream}", trim.restored(config))


async def _current(conn: Connection, spec: Spec) -> dict[str, Any] | None:
    request = f"STREAM.INFO.{spec.stream}"
    if spec.consumer is not None:
        request = f"CONSUMER.INFO.{spec.stream}.{spec.consumer}"
    try:
        answer = await conn.api(request)
    except errors.ApiNotFound:
        return None
    config: dict[str, Any] = answer["config"]
    return trim.restored(config) if spec.consumer is None else config


async def _perform(conn: Connection, spec: Spec, change: Change) -> None:
    if spec.consumer is None:
        verb = "CREATE" if change.action == "create" else "UPDATE"
        current = {} if change.action == "create" else await _current(conn, spec) or {}
        # An update replaces the whole configuration: keep what the files do not speak of.
        await conn.api(f"STREAM.{verb}.{spec.stream}", {**current, **spec.config})
        return
    if change.action == "recreate":
        await conn.api(f"CONSUMER.DELETE.{spec.stream}.{spec.consumer}")
    current = {} if change.action != "update" else await _current(conn, spec) or {}
    if not current:
        await create_consumer(conn, spec)
        return
    await conn.api(
        _create_request(spec), {"stream_name": spec.stream, "config": {**current, **spec.config}, "action": "update"}
    )


async def ensure_stream(conn: Connection, spec: Spec) -> bool:
    """Make a stream where the server has none; whether it had to.  One that is there stays as it is, changed or not.

    Raises what `Connection.api` raises.
    """
    if await _current(conn, spec) is not None:
        return False
    await conn.api(f"STREAM.CREATE.{spec.stream}", spec.config)
    return True


async def ensure_consumer(conn: Connection, spec: Spec) -> None:
    """Make a consumer that a pull has not found, if the server says that there is none.

    A pull that nobody answers also means that a consumer has no leader yet; then it is there, and
    to make it would be answered by nobody for as long as a request may take.  Raises what
    `Connection.api` raises.
    """
    try:
        await conn.api(f"CONSUMER.INFO.{spec.stream}.{spec.consumer}")
    except errors.ApiNotFound:
        await create_consumer(conn, spec, timeout_s=_CREATE_S)


async def create_consumer(conn: Connection, spec: Spec, timeout_s: float = limits.API_TIMEOUT_S) -> None:
    """Make the consumer; one that is there already, with just these fields, stays as it is."""
    config = {"stream_name": spec.stream, "config": spec.config, "action": "create"}
    await conn.api(_create_request(spec), config, timeout_s=timeout_s)


def _create_request(spec: Spec) -> str:
    # With several filters the request's subject names none.
    one = spec.config.get("filter_subject")
    return f"CONSUMER.CREATE.{spec.stream}.{spec.consumer}" + (f".{one}" if one else "")
