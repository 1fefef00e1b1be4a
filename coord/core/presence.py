"""What an agent's own facts, and the presence decider's, say about its state.

A table, so that the projector, the decider and the documentation cannot disagree.  Events
that are not listed leave the state as it is.
"""

from __future__ import annotations

from typing import Final

STATE_AFTER: Final[dict[str, str]] = {
    "registered": "alive",
    "status": "alive",
    "changed": "alive",
    "draining": "draining",
    "left": "left",
    "suspected": "suspect",
    "gone": "gone",
}
"""Event of kind `agent` → the agent's state afterwards."""

STATES: Final = frozenset(STATE_AFTER.values())
