"""The deciders: what every partition's loop folds, in this order.

One list, so that whoever asks what coord decides by itself reads it here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from coord.core.capability import CapabilityDecider
from coord.core.deciding import Decider
from coord.core.desk import Desk
from coord.core.flags import FlagDecider
from coord.core.handoff import HandoffDecider
from coord.core.locks import LockDecider
from coord.core.presence_decider import PresenceDecider
from coord.core.scheduling import PlacementDecider
from coord.core.signals import SignalDecider
from coord.core.task_decider import TaskDecider
from coord.core.timers import TimerDecider
from coord.core.workflow import WorkflowDecider

Factory: TypeAlias = Callable[[int], list[Decider]]
"""The deciders of a partition, new ones at every call."""


def deciders(p: int, desk: Desk | None = None) -> list[Decider]:
    """New deciders of partition `p`.  `desk`: what the schedulers of the process share; None: nothing."""
    tasks = TaskDecider()
    return [
        tasks,
        PlacementDecider(p, tasks, Desk() if desk is None else desk),
        PresenceDecider(),
        CapabilityDecider(p),
        SignalDecider(),
        TimerDecider(),
        LockDecider(),
        FlagDecider(),
        HandoffDecider(),
        WorkflowDecider(),
    ]


KINDS: Final = frozenset(kind for decider in deciders(0) for kind in decider.kinds)
"""What is folded: streams/consumers/decider.toml filters on at least these."""
