"""What is owed while catching up, and where the window ends soon."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from coord import limits
from coord.bus import topology
from coord.core import edge
from coord.core.deciding import Owed, State
from coord.core.trim import Window
from coord.runtime import assets
from coord.server.deciders import KINDS, deciders
from coord.wire import subjects
from coord.wire.envelope import StoredFact

T0 = datetime(2026, 11, 21, 10, tzinfo=UTC)
HOUR_US = 3_600_000_000


def state(event: str = "released", *detail: str, once: Any = "event") -> State:
    return State(
        tenant="acme", agent="_task", key="t1", kind="task", id="t1", event=event, detail=detail, once=once, step="s"
    )


def met(event: str, *detail: str) -> StoredFact:
    return StoredFact(
        "acme", "_task", "t1", "task", "t1", event, detail, 0, 7, 0, T0, T0, "e1", "t", 1, None, None, None, b"", "json"
    )


def test_what_is_met_in_the_log_is_not_owed_any_more() -> None:
    owed = Owed()
    owed.demand(state("released", "1"))
    owed.demand(state("released", "2"))
    owed.demand(state("released", "1"))  # another way to the same
    assert len(owed) == 2
    owed.meet(met("released", "1"))
    owed.meet(met("claimed", "2"))
    assert [s.detail for s in owed.take()] == [("2",)]
    assert owed.take() == []


def test_the_first_fact_of_an_entity_is_met_by_any_fact_of_it() -> None:
    owed = Owed()
    owed.demand(state("submitted", "work", "normal", once="entity"))
    owed.meet(met("claimed", "1"))
    assert len(owed) == 0


def window(**changes: Any) -> Window:
    base = Window(
        messages=1_000, bytes=0, max_messages=10_000, max_bytes=-1, first_seq=101, last_seq=1_100, first_us=0,
        now_us=24 * HOUR_US, max_age_us=24 * HOUR_US, duplicate_window_us=120_000_000,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def test_what_is_old_for_the_window_is_near_its_edge() -> None:
    assert edge.horizon_us(window(), 7 * HOUR_US) is None
    assert edge.horizon_us(window(), 5 * HOUR_US) == int((1 - limits.EDGE_AGE) * 24 * HOUR_US)
    assert edge.horizon_us(window(max_age_us=0), 0) is None


def test_what_the_trimmer_wants_to_let_go_is_near_the_edge() -> None:
    assert edge.by_fill(window()) == 0
    assert edge.by_fill(window(max_messages=1_900)) == 101 + 250


def test_the_consumers_show_deciders_what_they_fold() -> None:
    filters = topology.load(assets.streams_dir()).get("EVENTS/decider-3").config["filter_subjects"]
    kinds = {text.split(".")[5] for text in filters}
    assert kinds >= KINDS
    assert all(text.startswith(f"{subjects.LOG_PREFIX}3.") for text in filters)


def test_names_of_deciders_are_tokens_and_their_own() -> None:
    names = [decider.name for decider in deciders(0)]
    assert len(set(names)) == len(names)
    for name in names:
        subjects.check_token(name, "decider")
