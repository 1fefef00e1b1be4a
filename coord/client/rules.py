"""Decision tables that facts set, so that they can be changed while workflows run.

::

    await c.rules.set("triage", [{"when": "input.amount < 100", "output": "pay"}, {"output": "ask"}])
    table = await c.rules.get("triage")

A step with ``decide = "triage"`` asks the table that is set when it begins, and its decision says which version that
was.  What is no table is refused before it is stated, naming the rule and its field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from coord.client.entities import facts
from coord.core import flow_definition
from coord.core.rules import RuleSet
from coord.errors import InvalidWorkflow
from coord.wire.flow import RuleTable
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.connect import Coord


class Rules:
    """Of one connection: ``c.rules``."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord

    async def set(
        self, name: str, table: RuleTable | Mapping[str, Any] | list[Any], /, *, version: str | None = None
    ) -> RuleSet:
        """Set a decision table, or replace it; returns it.

        `table`: ``rules`` in order (each ``output``, ``when``, ``confidence``), ``inputs``, ``threshold`` (1), as in a
        definition; a list: its rules.  `version`: of it; default: what it says, or "1".

        Raises `InvalidWorkflow` (`rule`, from 0, and `field` say where), and what stating a fact raises.
        """
        said = flow_definition.table_of(table)
        if said.restated:
            raise InvalidWorkflow("only a decider states a table again", field="restated")
        if version is not None:
            said = msgspec.structs.replace(said, version=version)
        stored = await self._coord.stating.state(Fact(kind="rules", id=name, key=name, event="set", data=said))
        return RuleSet(self._coord.tenant, name, stored.seq, said, stored.seq)

    async def get(self, name: str, /) -> RuleSet | None:
        """A table as the log has it now; None: it knows of none."""
        found = await facts(self._coord.connection, self._coord.tenant, key=name, kind="rules", id=name, event="set")
        return next(iter(folded(found)), None)

    async def ls(self) -> list[RuleSet]:
        """All tables of the tenant, by name."""
        return folded(await facts(self._coord.connection, self._coord.tenant, kind="rules", event="set"))


def folded(found: Iterable[StoredFact]) -> list[RuleSet]:
    """The tables that facts in log order leave, by name."""
    tables: dict[str, RuleSet] = {}
    for fact in found:
        tables.setdefault(fact.id, RuleSet(fact.tenant, fact.id)).apply(fact)
    return [table for _, table in sorted(tables.items()) if table.seq]
