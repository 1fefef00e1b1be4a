"""What a process beside coord is told, and what every peer's module offers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol, TypeAlias, get_args

import msgspec

Kind: TypeAlias = Literal["task", "one_step", "three_steps"]
"""A task whose handler does nothing; workflows of so many steps one after another, which do nothing."""
KINDS: tuple[Kind, ...] = get_args(Kind)
FLOWS: tuple[Kind, ...] = ("one_step", "three_steps")
STEPS: dict[Kind, int] = {"task": 1, "one_step": 1, "three_steps": 3}

Role: TypeAlias = Literal["work", "submit"]


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How long each part lasts."""

    idle: int = 150
    """One at a time: at most so many,"""
    idle_s: float = 1.0
    """or as many as fit into this."""
    warm_up_s: float = 0.5
    """A window of them under way, before it counts;"""
    flood_s: float = 1.6
    """and while it counts."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """For one process of one peer in one round."""

    role: Role
    peer: str
    """The module that is one."""
    variant: str = ""
    """Which way of using it, where a module has several."""
    url: str = ""
    """Of the peer's server: broker, database or ingress."""
    port: int = 0
    """One that is free: for what a peer's worker listens on."""
    database_url: str = ""
    window: int = 1
    """How many tasks are under way at once,"""
    window_flows: int = 1
    """and how many workflows."""
    kinds: tuple[Kind, ...] = KINDS
    effort: Effort = Effort()


One: TypeAlias = Callable[[], Awaitable[None]]
"""Submits one and returns once its result is here."""

Submitter: TypeAlias = contextlib.AbstractAsyncContextManager[Mapping[Kind, One]]


class Peer(Protocol):
    """What a module of this package is."""

    @staticmethod
    async def work(job: Job, parent_gone: asyncio.Event) -> None:
        """Host handlers until the parent has enough; says that it is ready."""

    @staticmethod
    def submit(job: Job) -> Submitter:
        """How one of each kind is submitted, while the block lasts."""
