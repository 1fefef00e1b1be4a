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

from coord import limits
from coord.core import expressions
from coord.core.expressions import Path
from coord.core.flow_definition import check_table
from coord.core.tasks import Refusal, decode
from coord.errors import InvalidWorkflow, PayloadTooLarge, WireError
from coord.wire import where
from coord.wire.envelope import StoredFact
from coord.wire.flow import Decided, RuleTable
from coord.wire.where import Judge, Place

NO_TABLE: Final = "rules.unknown"
NO_INPUT: Final = "rules.input_missing"
NO_RULE: Final = "rules.none_holds"
INVALID: Final = "rules.invalid"
TOO_LARGE: Final = "workflow.too_large"

_KEY: Final = Refusal("rules.key", "a decision table is stated under its own name")
_NOTHING: Final = Refusal(INVALID, "a decision table has rules")
_NOT_AGAIN: Final = Refusal(INVALID, "only a decider states again")


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
        try:
            return self._decide(given, name)
        except PayloadTooLarge as exc:
            return self._none(name, TOO_LARGE, exc.message)

    def _decide(self, given: Any, name: str | None) -> Decided:
        said = self.said
        missing = [member for member in said.inputs if where.follow(given, (member,)) is where.MISSING]
        if missing:
            return self._none(name, NO_INPUT, f"the input lacks {', '.join(missing)}")
        data = {"input": given}
        best: int | None = None
        for number, (rule, judge) in enumerate(zip(said.rules, self._judges, strict=True)):
            if judge is not None and not judge[0]([_follow(data, place) for place in judge[1]]):
                continue
            if best is None or rule.confidence > said.rules[best].confidence:
                best = number
            if rule.confidence >= said.threshold:
                best = number
                break
        if best is None:
            return self._none(name, NO_RULE, "none of the rules holds")

        def read(path: Path) -> Any:
            return expressions.follow(data, path)

        filled = expressions.filled(said.rules[best].output, expressions.counted(read))
        output = msgspec.Raw(msgspec.json.encode(filled))
        if len(bytes(output)) > limits.FLOW_BYTES_MAX:
            raise PayloadTooLarge(f"a decision has at most {limits.FLOW_BYTES_MAX} bytes", bytes=len(bytes(output)))
        return Decided(
            output=output, table=name, version=said.version, rule=best, confidence=said.rules[best].confidence
        )

    def _none(self, name: str | None, code: str, message: str) -> Decided:
        return Decided(table=name, version=self.said.version, error=code, message=message)


def _follow(data: Any, place: Place) -> Any:
    return expressions.follow(data, tuple(map(str, place.path)))


def _core(said: RuleTable) -> RuleTable:
    return msgspec.structs.replace(said, restated=0)


class RuleSet(msgspec.Struct):
    """A decision table as facts have set it.  Mutable: `apply` changes it."""

    tenant: str
    id: str = msgspec.field(name="name")
    seq: int = 0
    """Of the fact by which it was set; 0: none was."""
    said: RuleTable = RuleTable(rules=[])
    origin: int = 0
    """Of what it is the sequence, or of what is stated again what that was; 0: a release kept none, it is `seq`."""

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact about it; None: believed, or of no consequence.  A refused one has changed nothing."""
        if fact.key != fact.id:
            return _KEY
        if fact.event != "set":
            return None
        try:
            said = None if fact.says_nothing else decode(fact, RuleTable)
            if said is None:
                return _NOTHING
            if said.restated:
                if not fact.agent.startswith("_") or self.seq > fact.seq:
                    return _NOT_AGAIN
                if self.seq and self._is_over(fact, said):
                    return None  # somebody has set another one before this was stored: that one holds
            Table(said)
        except (WireError, InvalidWorkflow) as exc:
            return Refusal(INVALID, exc.message)
        self.seq, self.said = fact.seq, said
        self.origin = _origin(fact) if said.restated else fact.seq
        return None

    def _is_over(self, fact: StoredFact, said: RuleTable) -> bool:
        origin = _origin(fact)
        if not origin:  # of a release that did not say what it states again
            return said.restated <= self.said.restated or _core(said) != _core(self.said)
        return origin < (self.origin or self.seq)


def _origin(fact: StoredFact) -> int:
    """The sequence of what is stated again; 0: it is not said."""
    origin = fact.detail[0] if fact.detail else ""
    return int(origin) if origin.isascii() and origin.isdecimal() and len(origin) < 20 else 0
