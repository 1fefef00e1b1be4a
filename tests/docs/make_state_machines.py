"""Write docs/state-machines.md from the tables in coord/core: ``python -m tests.docs.make_state_machines``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coord.core import breaker, capability, handoff, presence, presence_decider, seats, tasks, timers, workflow_life

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state-machines.md"

MACHINES: tuple[tuple[str, str, Mapping[Any, str | tuple[str, ...]]], ...] = (
    ("Task", "coord/core/tasks.py", tasks.TRANSITIONS),
    ("Workflow", "coord/core/workflow_life.py", workflow_life.TRANSITIONS),
    ("Handoff", "coord/core/handoff.py", handoff.TRANSITIONS),
    ("Timer", "coord/core/timers.py", timers.TRANSITIONS),
    ("An instance, as a process hears it", "coord/core/presence.py", presence.TRANSITIONS),
    ("An instance, as the log says", "coord/core/presence_decider.py", presence_decider.TRANSITIONS),
    ("An idle worker at the queues of a capability", "coord/core/seats.py", seats.TRANSITIONS),
    ("The circuit of a capability", "coord/core/capability.py", capability.TRANSITIONS),
    ("The circuit in front of what is outside", "coord/core/breaker.py", breaker.TRANSITIONS),
)

HEAD = """\
# State machines

Generated from the tables of the code by `python -m tests.docs.make_state_machines`; a test compares. What is not
drawn is refused, and changes nothing. An arrow is the event that leads there; where an event may lead to several
states, what it says and what was before decide. `[*]`: nothing is known yet.
"""


def render() -> str:
    """The page."""
    return "\n".join([HEAD, *(_section(*machine) for machine in MACHINES)])


def _section(title: str, source: str, table: Mapping[Any, str | tuple[str, ...]]) -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    for (status, event), to in table.items():
        for after in (to,) if isinstance(to, str) else to:
            arrows.setdefault((status, after), []).append(event)
    lines = [f"    {_name(a)} --> {_name(b)}: {', '.join(events)}" for (a, b), events in arrows.items()]
    link = f"[{source}](../{source})"
    return "\n".join([f"## {title}", "", f"{link}", "", "```mermaid", "stateDiagram-v2", *lines, "```", ""])


def _name(status: str) -> str:
    return "[*]" if status == "-" else status


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
