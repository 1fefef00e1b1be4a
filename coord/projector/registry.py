"""What an agent's instances say that they can do: the presence decider's fold, as the table `agent_registry` has it."""

from __future__ import annotations

import msgspec

from coord.core.presence_decider import Agent, Instance
from coord.core.tasks import Refusal
from coord.wire.envelope import StoredFact
from coord.wire.presence import Registration


class Registry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An agent as its registrations leave it.  Mutable: `apply` changes it."""

    tenant: str
    key: str
    id: str
    registered_at: float | None = None
    """Broker's clock, Unix seconds: its newest registration; None: it never registered."""
    newest: Registration = Registration()
    agent: Agent = msgspec.field(default_factory=lambda: Agent(tenant="", agent=""))

    @property
    def there(self) -> dict[str, Instance]:
        """Those that are there, who registered last at the end."""
        return {name: one for name, one in self.agent.instances.items() if one.status in ("alive", "suspect")}

    @property
    def capabilities(self) -> dict[str, int]:
        """Capability → how many tasks at a time, of all that are there."""
        total: dict[str, int] = {}
        for one in self.there.values():
            for name, capacity in one.about.capabilities.items():
                total[name] = total.get(name, 0) + capacity
        return total

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of this agent; refused is one instance too many: what else changes nothing is no fault."""
        if not self.agent.tenant:
            self.agent = Agent(tenant=self.tenant, agent=self.id)
        if not self.agent.apply(fact):
            return self.agent.refused(fact)
        if fact.event == "registered":
            self.registered_at = fact.stored_at.timestamp()
            self.newest = next(reversed(self.agent.instances.values())).about
        return None
