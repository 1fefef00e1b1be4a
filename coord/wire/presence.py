"""What is said about who is there: registrations, heartbeats, quotas; docs/protocol.md §16.2.

A **registration** is the fact ``agent.registered``: what an instance of an agent can do and
may use.  A **heartbeat** is a core NATS message on ``coord.hb.{tenant}.{agent}.{instance}``,
never stored.  All of these are JSON maps that only grow, with defaults: ``{}`` is a
heartbeat, and a registration of somebody who can do nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coord import errors, limits
from coord.wire.numbers import Count
from coord.wire.subjects import check_token


class Quotas(msgspec.Struct, frozen=True, omit_defaults=True):
    """What each instance of an agent may use; None: no bound.  All are watched together: N may use N times as much."""

    inflight: Count | None = None
    """Claims held at a time."""
    facts_per_s: float | None = None
    memory_mib: float | None = None
    """Of one instance, as its heartbeats say."""

    @property
    def bound(self) -> bool:
        """Whether there is any: the SDK's registrations have quotas in any case, and most bound nothing."""
        return self.inflight is not None or self.facts_per_s is not None or self.memory_mib is not None


class Registration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an instance says of itself: ``agent.registered``, and `Heartbeat.about`."""

    instance: str = ""
    capabilities: dict[str, Count] = {}
    """Capability → how many tasks of it at a time."""
    labels: dict[str, str] = {}
    """Whatever placement and people select by: ``region``, ``zone``, …"""
    model: str | None = None
    version: str | None = None
    cost: float | None = None
    """Relative, of one task: what placement weighs."""
    memory_mib: float | None = None
    """What it expects to need at most."""
    coordinator: str | None = None
    """The agent above it: where a handoff that nobody takes escalates to."""
    quotas: Quotas | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That an instance is there, and how it fares."""

    every_s: float | None = None
    """How soon the next one comes at the latest; None: in 1 s where it holds claims, in 5 s where it does not."""
    load: float = 0.0
    """0 to 1, of what it can take."""
    claims: int = 0
    """Tasks it holds."""
    running: dict[str, int] = {}
    """The same by capability."""
    memory_mib: float | None = None
    draining: bool = False
    """It takes no more."""
    quarantined: bool = False
    """It was told that it uses more than it may, and takes no more until it is released."""
    connection: int | None = None
    """Counts its connections to the broker: a heartbeat on a later one proves that it came back."""
    place: str | None = None
    """``{server id}/{client id}`` of that connection, as the broker's INFO says: what of one that hangs is ended
    there.  Said with `about`."""
    here: bool = False
    """An answer to the question whether it is still there."""
    bye: bool = False
    """The last one: it is gone from now on."""
    about: Registration | None = None
    """Said with the first ones, now and then, and when asked for."""

    @property
    def due_s(self) -> float:
        """`every_s`, within what an instance may say."""
        if self.every_s is None:
            return limits.HEARTBEAT_S if self.claims else limits.HEARTBEAT_IDLE_S
        return min(max(self.every_s, limits.HEARTBEAT_EVERY_MIN_S), limits.HEARTBEAT_EVERY_MAX_S)


TOPIC: Final = "presence"
"""Of pushes: ``{"what": "beat"}`` asks for a heartbeat at once, ``{"what": "about"}`` for one with `about`,
``{"what": "drain"}`` to take no more, ``{"what": "quarantined", "reason": …}`` and ``{"what": "released"}`` tell;
``{"what": "refused", "instance": …, "reason": …}``: that registration is not believed."""

_HEARTBEATS: Final = msgspec.json.Decoder(Heartbeat)
_REGISTRATIONS: Final = msgspec.json.Decoder(Registration)


def decode_heartbeat(body: bytes) -> Heartbeat | None:
    """The heartbeat; None for what is none (it proves nothing)."""
    if len(body) > limits.HEARTBEAT_BYTES_MAX:
        return None
    try:
        beat = _HEARTBEATS.decode(body or b"{}")
        if beat.about is not None:
            check(beat.about)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, errors.CoordError):
        return None
    return beat if beat.claims >= 0 and (beat.every_s is None or beat.every_s > 0) else None


def decode_registration(body: bytes) -> Registration | None:
    """What a fact's JSON says; None where it is not what a registration must be."""
    try:
        return check(_REGISTRATIONS.decode(body or b"{}"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, errors.CoordError):
        return None


def check(said: Registration) -> Registration:
    """Itself, or `InvalidPayload`/`InvalidToken` naming the bound that is out of range."""
    if len(said.capabilities) > limits.REGISTRATION_CAPABILITIES_MAX:
        raise errors.InvalidPayload(
            f"an agent has at most {limits.REGISTRATION_CAPABILITIES_MAX} capabilities", given=len(said.capabilities)
        )
    if len(said.labels) > limits.REGISTRATION_LABELS_MAX:
        raise errors.InvalidPayload(
            f"an agent has at most {limits.REGISTRATION_LABELS_MAX} labels", given=len(said.labels)
        )
    for name, capacity in said.capabilities.items():
        check_token(name, "capability")
        if capacity < 1:
            raise errors.InvalidPayload("a capacity is at least 1", capability=name, capacity=capacity)
    for name, value in said.labels.items():
        if not name or max(len(name.encode()), len(value.encode())) > limits.LABEL_BYTES_MAX:
            raise errors.InvalidPayload(
                f"a label and its value have at most {limits.LABEL_BYTES_MAX} bytes", label=name[:64]
            )
    if said.instance:
        check_token(said.instance, "instance")
    if said.coordinator is not None:
        check_token(said.coordinator, "coordinator")
    return said
