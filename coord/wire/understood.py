"""What those who fold the log understand: asked before something is stated that an older release would pass over.

``coord.rpc.{tenant}.service.understands`` is answered by processes with deciders: the lowest number among the deciders
and projectors that are heard (`coord.core.assignment.FOLDS`).  A release of before that question does not answer it.

Who states such a thing also says it in the fact, by `GROWN`: that holds where nobody can be asked, or who
answered is not who decides in the end.  An older release makes a dead letter of it (docs/protocol.md §8).
"""

from __future__ import annotations

from typing import Final

import msgspec

GROWN: Final = 2
"""``Coord-Schema`` of a fact with a member without which it would be another fact."""

RERUNS: Final = 2
"""The number from which on `rerun` of ``workflow.started`` is understood,"""
KEEPS_APART: Final = 2
"""`overlap` of ``timer.set``,"""
RECORDS: Final = 2
"""and ``task.recorded``."""


class Understands(msgspec.Struct, frozen=True):
    """The answer; only grows."""

    folds: int = 0
