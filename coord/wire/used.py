"""Asking whether ids were used before: ``coord.rpc.{tenant}.ids.used`` (docs/protocol.md §16.1).

Structs here only grow, with defaults: readers of other releases and languages decode them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

UsedKind: TypeAlias = Literal["task", "workflow", "handoff"]


class UsedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which entities are asked about; the tenant is the request subject's."""

    kind: UsedKind = "task"
    ids: list[tuple[str, str]] = []
    """(key, id) of each, at most `limits.USED_IDS_MAX`; none: only `whole` is asked."""


class Used(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entity that ended, and whose beginning the log may not hold any more."""

    key: str
    id: str
    status: str
    submitter: str
    first_event_id: str
    """Of the fact that began it."""
    begun_at: datetime
    """Broker's clock."""
    name: str = ""
    """A task's capability; a workflow's definition, as name@version; to whom a handoff was offered."""


class UsedAnswer(msgspec.Struct, frozen=True):
    """What is known of them.  Not named are open ones and those that began within the window: the log has those."""

    whole: bool = False
    """The log still holds every task, workflow and handoff that the tables know: it alone tells which ids are used."""
    used: list[Used] = []
