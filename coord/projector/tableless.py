"""Kinds that deciders fold and no table has: what a history of them comes to is folded by whoever asks."""

from __future__ import annotations

from typing import Final

import msgspec

from coord.core.capability import CapabilityState
from coord.core.tasks import Refusal
from coord.projector.tables import ALONE, TABLES, Folded
from coord.wire.envelope import StoredFact


class Circuit(msgspec.Struct):
    """The circuit of a capability, an entity of the capability's name."""

    tenant: str
    id: str
    state: CapabilityState = msgspec.field(default_factory=lambda: CapabilityState("", ""))

    @property
    def status(self) -> str:
        """closed, open or probing."""
        return self.state.circuit

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of it."""
        if not self.state.capability:
            self.state = CapabilityState(self.tenant, self.id)
        return self.state.fold(fact)


FOLDED: Final[dict[str, Folded]] = {
    **TABLES,
    **ALONE,
    "timer": msgspec.structs.replace(ALONE["timer"], heeds=None),
    "capability": Folded("capability", Circuit, frozenset({"opened"}), None, lambda x: x.state.n != 0),
}
"""Every kind of entity that has a state, by kind."""
