"""A table of instances that skips looks sees what one sees that takes every one of them."""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from coord import limits
from coord.core.board import Sums
from coord.core.presence import Change, PresenceTable
from coord.wire.presence import Heartbeat, Registration

Step: TypeAlias = tuple[str, int, float, int]
"""(what happens, to whom, after so many seconds, which words)."""

_ABOUT = Registration(capabilities={"read": 2})
_WORDS = [
    msgspec.json.encode(said)
    for said in (
        Heartbeat(about=_ABOUT),
        Heartbeat(claims=1, about=_ABOUT),
        Heartbeat(every_s=0.5),
        Heartbeat(draining=True),
        Heartbeat(bye=True),
    )
]
_steps = st.lists(
    st.tuples(
        st.sampled_from(["beat", "beat", "tick", "tick", "end", "begin", "lost"]),
        st.integers(0, 3),
        st.one_of(st.floats(0, 0.3), st.floats(0, 4), st.just(limits.PRESENCE_KEPT_S + 1)),
        st.integers(0, len(_WORDS) - 1),
    ),
    max_size=60,
)


def _do(table: PresenceTable, step: Step, now: float) -> list[Change | None]:
    what, who, _, words = step
    name = f"i{who}"
    if what == "beat":
        return [table.beat("t", "a", name, _WORDS[words], now)]
    if what == "tick":
        # In between, as the service does it, so that nobody seems to have stood still.
        return list(table.tick(now))
    if what == "end":
        return [table.disconnected("t", "a", name, "c", now)]
    if what == "begin":
        return [table.connected("t", "a", name, "c", now)]
    return list(table.lost(now))


@given(_steps)
@example([("beat", 0, 0.1, 0), ("beat", 0, 0.1, 3)])
def test_looks_that_are_skipped_would_have_seen_nothing(steps: list[Step]) -> None:
    table, every = PresenceTable(0.0, settle_s=0.0), PresenceTable(0.0, settle_s=0.0)
    now, version, sums = 0.0, -1, Sums("one")
    for step in steps:
        until = now + step[2]
        while now < until:
            now = min(until, now + limits.PRESENCE_TICK_S if until - now < 60 else until)
            every._next_at = 0.0
            assert table.tick(now) == every.tick(now)
        every._next_at = 0.0
        assert _do(table, step, now) == _do(every, step, now)
        assert [(row.ident, row.state) for row in table.rows()] == [(row.ident, row.state) for row in every.rows()]
        fresh = Sums("other")
        fresh.count(every)
        if table.version != version:
            version = table.version
            sums.count(table)
        assert sums.agents() == fresh.agents()
        assert table.with_quotas() == every.with_quotas()
