"""What a recording holds, found out before anything of it is published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from coord import limits
from coord.errors import WireError
from coord.ops.replay.formats import Format
from coord.ops.replay.recording import Item, LeftOut, Problem, Statement
from coord.ops.replay.source import Source
from coord.wire.encode import encode_fact

_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)


class Survey(msgspec.Struct):
    """Counts over a whole recording."""

    statements: int = 0
    left_out: int = 0
    bad: int = 0
    problems: list[Problem] = []
    """The first `limits.REPLAY_PROBLEMS_SHOWN` of them."""
    agents: int = 0
    keys: int = 0
    events: dict[str, int] = {}
    """``kind.event`` → how many."""
    first_at: datetime | None = None
    last_at: datetime | None = None


def checked(form: Format, source: Source, run: str, tenant: str) -> Iterator[Item]:
    """The format's items; a statement that no log would take is a `Problem` here."""
    for item in form.read(source, run):
        if isinstance(item, Statement):
            try:
                encode_fact(item.fact, tenant=tenant, agent=item.agent, event_id="0", occurred_at=item.at or _MOMENT)
            except WireError as exc:
                yield Problem(item.line, str(exc))
                continue
        yield item


def survey(items: Iterator[Item]) -> Survey:
    """Count them."""
    found = Survey()
    agents: set[str] = set()
    keys: set[str] = set()
    events: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Problem):
            found.bad += 1
            if len(found.problems) < limits.REPLAY_PROBLEMS_SHOWN:
                found.problems.append(item)
        elif isinstance(item, LeftOut):
            found.left_out += 1
        else:
            found.statements += 1
            events[f"{item.fact.kind}.{item.fact.event}"] += 1
            _note(agents, item.agent)
            _note(keys, item.fact.id if item.fact.key is None else item.fact.key)
            if item.at is not None:
                found.first_at = item.at if found.first_at is None else min(found.first_at, item.at)
                found.last_at = item.at if found.last_at is None else max(found.last_at, item.at)
    found.agents, found.keys = len(agents), len(keys)
    found.events = dict(sorted(events.items()))
    return found


def _note(names: set[str], name: str) -> None:
    """Count different names, up to the bound: a recording may have a key a line."""
    if len(names) < 10 * limits.REPLAY_NAMES_MAX:
        names.add(name)
