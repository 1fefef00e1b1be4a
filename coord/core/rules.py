"""Decision tables: ordered rules over one input, and how sure each is.

::

    rules in order:   holds, sure enough (≥ threshold)?  ──▶ that one, at once
                      holds, less sure                   ──▶ remembered, if surer than before
    at the end:       the surest that held               ──▶ that one
                      none held                          ──▶ no decision: an error

Pure: the same table and input give the same decision, everywhere and again.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from coord.core import expressions
from coord.core.expressions import Path
from coord.core.flow_definition import check_table
from coord.wire import where
from coord.wire.flow import Decided, RuleTable
from coord.wire.where import Judge, Place

NO_TABLE: Final = "rules.unknown"
NO_INPUT: Final = "rules.input_missing"
NO_RULE: Final = "rules.none_holds"


class Table:
    """A decision table, ready to decide."""

    __slots__ = ("_judges", "said")

    def __init__(self, said: RuleTable) -> None:
        """Raises `InvalidWorkflow` for what is no table."""
        self.said = check_table(said)
        self._judges: list[tuple[Judge, list[Place]] | None] = []
        for rule in said.rules:
            if rule.when is None:
                self._judges.append(None)
                continue
            condition = expressions.condition(rule.when)
            order = where.places(condition)
            self._judges.append((where.compiled(condition, order), order))

    def decide(self, given: Any, name: str | None = None) -> Decided:
        """What it decides about an input."""
        said = self.said
        missing = [member for member in said.inputs if where.follow(given, (member,)) is where.MISSING]
        if missing:
            return self._none(name, NO_INPUT, f"the input lacks {', '.join(missing)}")
        data = {"input": given}
        best: int | None = None
        for number, (rule, judge) in enumerate(zip(said.rules, self._judges, strict=True)):
            if judge is not None and not judge[0]([where.follow(data, place.path) for place in judge[1]]):
                continue
            if best is None or rule.confidence > said.rules[best].confidence:
                best = number
            if rule.confidence >= said.threshold:
                best = number
                break
        if best is None:
            return self._none(name, NO_RULE, "none of the rules holds")

        def read(path: Path) -> Any:
            return where.follow(data, path)

        output = msgspec.Raw(msgspec.json.encode(expressions.filled(said.rules[best].output, read)))
        return Decided(
            output=output, table=name, version=said.version, rule=best, confidence=said.rules[best].confidence
        )

    def _none(self, name: str | None, code: str, message: str) -> Decided:
        return Decided(table=name, version=self.said.version, error=code, message=message)
