"""The questions about fleets, asked of a small one whose every second is known: the right answers, on each edition."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from coord.projector import entities
from coord.store import copy, queries
from coord.store.pool import Pool
from coord.store.rows import EventRow
from tests.support.cluster import Database
from tests.support.store import event, pool_of, sample

NOW = datetime.now(UTC)
BASE = NOW - timedelta(minutes=50)
STEPS = [{"name": "a", "task": "parse"}]
STEPS += [{"name": n, "needs": [needs], "task": "parse"} for n, needs in (("b", "a"), ("c", "a"))]  # type: ignore[dict-item]
STEPS += [{"name": "d", "needs": ["b", "c"], "task": "sum"}]  # type: ignore[dict-item]

NEWS = {"definition": {"name": "news", "version": "2", "steps": STEPS}}


class Log(list[EventRow]):
    """Facts in the order in which they are said."""

    def say(
        self, second: float, by: str, kind: str, id_: str, name: str, data: Any = None, *, key: str = "", **more: Any
    ) -> None:
        """A fact, `second` after BASE; the event's detail stands behind a dot."""
        name, _, detail = name.partition(".")
        at = BASE + timedelta(seconds=second)
        body = msgspec.json.encode(data if data is not None else {}).decode()
        self.append(
            event(
                len(self) + 1, at=at, agent=by, kind=kind, id=id_, key=key or id_, event=name, detail=detail, data=body,
                type=f"coord.{kind}.{name}", **more,
            )
        )  # fmt: skip

    def task(self, key: str, id_: str, worker: str, submitted: float, claimed: float, ended: float) -> None:
        """A step of a workflow, done in one go."""
        self.say(submitted, "_workflow", "task", id_, "submitted.parse.normal", key=key)
        self.say(claimed, worker, "task", id_, "claimed.1", key=key)
        self.say(ended, worker, "task", id_, "completed", {"run_s": ended - claimed}, key=key)


def history() -> Log:
    log = Log()
    for name, version in (("w1", "1.0"), ("w2", "1.1"), ("w3", "1.1")):
        about = {
            "instance": f"i-{name}",
            "capabilities": {"parse": 1},
            "labels": {"zone": name[-1]},
            "version": version,
        }
        log.say(0, name, "agent", name, "registered", about)
    red, blue = {"labels": {"team": "red"}}, {"labels": {"team": "blue"}}
    by = BASE.timestamp()

    log.say(1, "boss", "task", "t1", "submitted.parse.normal", {**red, "deadline": by + 100}, event_id="c1")
    log.say(3, "w1", "task", "t1", "claimed.1", event_id="c2", causation_id="c1")
    log.say(6, "w1", "task", "t1", "completed", {"run_s": 3}, event_id="c3", causation_id="c2")

    log.say(10, "boss", "task", "t2", "submitted.parse.normal", red)
    log.say(20, "w2", "task", "t2", "claimed.1")
    log.say(21, "w2", "task", "t2", "failed", {"error": "Timeout", "run_s": 1})
    log.say(30, "w1", "task", "t2", "claimed.2")
    log.say(34, "w1", "task", "t2", "completed", {"run_s": 4})

    log.say(40, "boss", "task", "t3", "submitted.parse.normal", {**blue, "deadline": by + 45})
    log.say(42, "w2", "task", "t3", "claimed.1")
    log.say(46, "_task", "task", "t3", "released.1", {"reason": "gone", "instance": "i-w2"})
    log.say(47, "w2", "task", "t3", "claimed.2")
    log.say(49, "w2", "task", "t3", "failed", {"error": "Broken", "run_s": 2, "final": True})

    log.say(50, "boss", "task", "t4", "submitted.sum.critical", {"deadline": NOW.timestamp() + 300})
    log.say(51, "boss", "task", "t5", "submitted.parse.normal")
    log.say(52, "w1", "task", "t5", "claimed.1", {"instance": "i-w1"})

    log.say(60, "boss", "task", "p1", "submitted.parse.placed", {"placement": {"strategy": "resources"}})
    candidates = [{"agent": "w1", "instance": "i-w1", "score": 0.9, "parts": {}}]
    placed = {"agent": "w1", "instance": "i-w1", "strategy": "resources", "candidates": candidates, "considered": 2}
    log.say(61, "_scheduler", "task", "p1", "placed.1", placed)
    log.say(62, "w1", "task", "p1", "claimed.1", {"instance": "i-w1"})
    log.say(64, "w1", "task", "p1", "completed", {"run_s": 2})

    log.say(100, "boss", "workflow", "flow", "started", NEWS)
    log.task("flow", "a", "w1", 100, 101, 103)
    log.task("flow", "b", "w2", 103, 105, 120)
    log.task("flow", "c", "w3", 103, 104, 106)
    log.task("flow", "d", "w1", 120, 121, 122)
    log.say(122, "_workflow", "workflow", "flow", "completed", {"output": 1})

    log.say(200, "boss", "workflow", "bad", "started", NEWS)
    log.say(200, "_workflow", "task", "a", "submitted.parse.normal", key="bad")
    log.say(201, "w2", "task", "a", "claimed.1", key="bad")
    log.say(205, "w2", "task", "a", "failed", {"error": "Lost", "final": True}, key="bad")
    log.say(206, "_workflow", "workflow", "bad", "failed", {"error": "task.failed", "step": "a"})

    hand = [("desk", "clerk"), ("clerk", "judge"), ("desk", "clerk"), ("far", "away"), ("far", "away")]
    for n, (giver, taker) in enumerate(hand):
        key = "case" if n < 2 else f"case-{n}"
        log.say(300 + 10 * n, giver, "handoff", f"h{n}", "offered", {"agent": taker, "reason": "next"}, key=key)
        if taker != "judge":
            log.say(302 + 10 * n, taker, "handoff", f"h{n}", "accepted.1", {"instance": "x"}, key=key)
    about_run = {"mistake_agent": "BOB", "mistake_step": "3", "messages": 5, "mistake_reason": "no"}
    log.say(399, "ann", "run", "talk", "recorded", about_run, key="talk")
    for n, who in enumerate(("ann", "bob", "ann", "bob", "eve")):
        log.say(400 + n, who, "message", str(n), "sent", {"speaker": who.upper()}, key="talk")
    for n in range(4):
        log.say(410 + n, "ann", "handoff", f"m{n}", "offered", {"to": "x", "message": n}, key="talk")
    log.say(500, "a1", "lock", "db", "requested.tok1", {"instance": "i1"})
    log.say(501, "a2", "lock", "db", "requested.tok2", {"instance": "i2"})
    return log


LOG = history()


@pytest.fixture
async def pool(either_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(either_database.url) as pool:
        async with pool.transaction() as conn:
            (refused,) = await entities.project(conn, [LOG])
            assert not refused
            await copy.events(conn, LOG)
            await copy.samples(
                conn,
                [
                    sample(
                        i,
                        at=BASE + timedelta(seconds=i),
                        agent=f"w{i % 3 + 1}",
                        series="llm.tokens",
                        value=100.0,
                        data=said,
                    )
                    for i, said in enumerate(('{"model": "large"}', '{"labels": {"model": "small"}}', "{}", None))
                ],
            )
        yield pool


async def ask(pool: Pool, name: str, **parameters: object) -> list[dict[str, Any]]:
    async with pool.acquire() as conn:
        return [dict(r) for r in await queries.run(conn, name, **parameters)]


def pick(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(r[n] for n in names) for r in rows]


async def throughput_and_where_it_comes_from(pool: Pool) -> None:
    hours = await ask(pool, "throughput_hourly")
    assert sum(r["facts"] for r in hours) == len(LOG)
    counted = [sum(r[n] for r in hours) for n in ("submitted", "completed", "failed", "moved", "handoffs")]
    assert counted == [11, 7, 3, 1, 9]
    spots = await ask(pool, "hot_spots", limit=2)
    assert pick(spots, "what", "place", "name", "facts")[:2] == [("agent", 1, "w1", 12), ("agent", 2, "w2", 10)]
    assert ("capability", 1, "parse", 10) in pick(spots, "what", "place", "name", "facts")
    assert next(r["share"] for r in spots if (r["what"], r["place"]) == ("capability", 1)) == round(10 / 11, 4)
    assert {r["what"] for r in spots} == {"key", "agent", "event", "capability", "partition"}
    days = await ask(pool, "tenant_usage")  # two, where the test runs just after midnight
    assert [sum(r[n] for r in days) for n in ("facts", "tasks", "run_seconds")] == [len(LOG), 9, 31]
    grown = await ask(pool, "growth")
    assert (grown[-1]["facts_so_far"], grown[-1]["week_factor"]) == (len(LOG), None)


async def how_long_tasks_wait_and_run(pool: Pool) -> None:
    exact = {r["capability"]: r for r in await ask(pool, "task_waits")}
    assert pick([exact["parse"]], "tasks", "open", "wait_p50", "wait_p95") == [(10, 1, 1.5, 6.4)]
    (parse,) = await ask(pool, "task_percentiles")
    assert (parse["capability"], parse["waited"], parse["ran"]) == ("parse", 9, 8)
    for name, seconds in (("wait_p50", 2), ("wait_p95", 10), ("run_p50", 2), ("run_p99", 15)):
        assert parse[name] == pytest.approx(seconds, rel=0.045), name
    load = await ask(pool, "agent_load")
    assert pick(load, "agent", "tasks", "completed", "run_seconds", "attempts", "failures") == [
        ("w2", 3, 1, 17, 4, 3), ("w1", 5, 5, 12, 6, 1), ("w3", 1, 1, 2, 1, 0),
    ]  # fmt: skip
    ends: Counter[tuple[str, str]] = Counter()
    for row in await ask(pool, "outcomes_daily"):
        ends[row["kind"], row["status"]] += row["ends"]
        assert 0 < row["share"] <= 1
    assert (ends["task", "completed"], ends["workflow", "failed"], ends["handoff", "accepted"]) == (7, 1, 4)


async def who_works_and_who_does_not(pool: Pool) -> None:
    idle = await ask(pool, "idle_agents")
    assert {r["agent"] for r in idle} == {"w2", "w3"}, "w1 has t5"
    assert {(r["capabilities"], r["queued"], r["state"]) for r in idle} == {("parse", 0, None)}
    work = {r["agent"]: r for r in await ask(pool, "agent_work")}
    assert pick([work["w2"]], "tasks", "completed", "dead", "failures", "deaths", "run_seconds") == [
        (3, 1, 2, 2, 1, 17)
    ]
    assert work["w1"]["busy"] == pytest.approx(1, abs=0.1), "one task at a time, nearly always"
    (bad,) = await ask(pool, "failing_agents")
    assert pick([bad], "agent", "claims", "bad", "share", "factor", "agents") == [("w2", 5, 3, 0.6, 2.4, 3)]
    assert await ask(pool, "failing_agents", at_least=6) == []
    versions = {r["version"]: r for r in await ask(pool, "versions")}
    assert pick([versions["1.1"]], "agents", "there", "tasks", "completed", "bad_per_task") == [(2, 2, 4, 0.5, 0.75)]


async def why_things_are_tried_again_and_what_it_costs(pool: Pool) -> None:
    causes = await ask(pool, "retry_causes")
    assert pick(causes, "event", "cause", "times", "completed", "dead", "seconds_lost") == [
        ("failed", "Broken", 1, 0, 1, 2), ("failed", "Lost", 1, 0, 1, 0), ("failed", "Timeout", 1, 1, 0, 1),
        ("released", "gone", 1, 0, 1, 0),
    ]  # fmt: skip
    overhead = await ask(pool, "coordination_overhead")
    assert sum(r["facts"] for r in overhead) == len(LOG)
    assert sum(r["facts"] - r["coordination"] for r in overhead) == 6, "five messages and the recording"
    assert sum(r["decided"] for r in overhead) == 9
    spent = {r["label"]: (r["cost"], r["percent"]) for r in await ask(pool, "cost_by_label")}
    assert spent == {"(none)": (200, 50), "large": (100, 25), "small": (100, 25)}
    zones = {r["label"]: r["cost"] for r in await ask(pool, "cost_by_label", label="zone")}
    assert zones == {"1": 200, "2": 100, "3": 100}, "what the agent registered"
    teams = {r["label"]: r for r in await ask(pool, "work_by_label")}
    assert pick([teams["red"]], "tasks", "completed", "attempts", "run_seconds") == [(2, 2, 3, 7)]
    assert pick([teams["blue"]], "tasks", "dead", "run_seconds") == [(1, 1, 2)]
    (series,) = {r["series"] for r in await ask(pool, "telemetry_hourly")}
    assert series == "llm.tokens"


async def graph_teams_and_chains_of_handoffs(pool: Pool) -> None:
    graph = {(r["from_agent"], r["to_agent"]): r for r in await ask(pool, "handoff_graph")}
    assert pick([graph["desk", "clerk"]], "handoffs", "share", "back", "accepted", "accepted_p50_seconds") == [
        (2, 1, 0, 2, 2)
    ]
    assert graph["clerk", "judge"]["accepted"] == 0
    teams = await ask(pool, "handoff_clusters")
    assert pick(teams, "agents", "members", "within") == [
        (2, "ann, x", 1), (2, "away, far", 1), (2, "clerk, desk", 0.6667),
    ]  # fmt: skip
    loose = await ask(pool, "handoff_clusters", at_least=1)
    assert loose[0]["members"] == "clerk, desk, judge"
    longest, *_ = await ask(pool, "handoff_chains", limit=1)
    assert pick([longest], "key", "handoffs", "agents", "first_id", "last_id", "path") == [
        ("case", 2, 3, "h0", "h1", "desk > clerk > judge")
    ]
    times = {r["asked_for"]: r for r in await ask(pool, "handoff_times")}
    assert pick([times["clerk"]], "handoffs", "accepted", "asked", "p50_seconds") == [(2, 1, 1, 2)]
    follows = {(r["agent"], r["next_agent"]): r["times"] for r in await ask(pool, "who_follows_whom")}
    assert follows == {("ann", "bob"): 2, ("bob", "ann"): 1, ("bob", "eve"): 1}
    (run,) = await ask(pool, "run_failures")
    assert pick([run], "agent", "step", "speaker", "messages", "handoffs_before", "through") == [
        ("BOB", 3, "BOB", 5, 3, 0.8)
    ]


async def where_workflows_went_wrong_and_what_made_them_long(pool: Pool) -> None:
    (first,) = await ask(pool, "workflow_first_failures")
    assert pick([first], "id", "gave_up_at", "task", "agent", "error", "after_seconds") == [
        ("bad", "a", "a", "w2", "Lost", 5)
    ]
    assert {r["id"]: r["task"] for r in await ask(pool, "workflow_first_failures", status="all")} == {
        "bad": "a", "flow": None,
    }  # fmt: skip
    for which in ({}, {"id": "flow"}):
        chain = await ask(pool, "workflow_slowest_chain", **which)
        assert pick(chain, "position", "step", "capability", "waited_seconds", "took_seconds") == [
            (1, "a", "parse", 1, 2), (2, "b", "parse", 2, 15), (3, "d", "sum", 1, 1),
        ]  # fmt: skip
        assert sum(r["share"] for r in chain) == pytest.approx(1, abs=0.001)
    (news,) = await ask(pool, "workflow_times")
    assert pick([news], "name", "workflows", "completed", "failed", "p50_seconds", "fails_most_at") == [
        ("news", 2, 1, 1, 22, "a")
    ]
    led = await ask(pool, "causes", tenant="acme", key="t1")
    assert pick(led, "depth", "event_id", "event") == [
        (0, "c3", "completed"),
        (1, "c2", "claimed"),
        (2, "c1", "submitted"),
    ]
    assert len(await ask(pool, "causes", tenant="acme", key="t1", event_id="c2")) == 2


async def who_waits_and_which_promises_were_kept(pool: Pool) -> None:
    held = await ask(pool, "blockers")
    assert {(r["holder"], r["what"], r["waits_for"]) for r in held} == {
        ("(nobody)", "task", "sum"), ("w1", "task", "parse"), ("judge", "handoff", "judge"), ("a1", "lock", "db"),
    }  # fmt: skip
    assert held[0]["sum_seconds"] >= held[-1]["sum_seconds"] > 2000
    open_ = {r["capability"]: r for r in await ask(pool, "backlog")}
    assert pick([open_["sum"]], "open", "queued", "workers") == [(1, 1, 0)]
    assert pick([open_["parse"]], "open", "claimed", "workers") == [(1, 1, 1)]
    assert pick(await ask(pool, "deadlines", within="1 day"), "id", "attempts") == [("t4", 0)]
    assert pick(await ask(pool, "lock_contention"), "lock", "waiting", "held_by") == [("db", 1, "a1")]
    kept = {r["capability"]: r for r in await ask(pool, "sla_kept", wait_s=5)}
    assert pick([kept["parse"]], "ended", "completed", "with_deadline", "deadline_kept", "wait_kept") == [
        (9, 0.7778, 2, 0.5, 0.9)
    ]
    assert kept["sum"]["wait_kept"] == 0, "it has not begun, and is late"
    (placed,) = await ask(pool, "placement_outcomes")
    assert pick([placed], "strategy", "placed", "score_most", "accepted", "completed", "run_p50_seconds") == [
        ("resources", 1, 0.9, 1, 1, 2)
    ]
    late = {r["agent"]: r for r in await ask(pool, "fact_delays")}
    assert (late["w1"]["to_log_p50_seconds"], late["w1"]["facts"]) == (0, 12)


async def local_steps_stand_beside_tasks(pool: Pool) -> None:
    line = Log()
    offered = [{"step": name, "task": "sum"} for name in "bcd"]
    line.say(600, "_workflow", "task", "a", "submitted.parse.normal", {"then": offered}, key="line")
    line.say(602, "w1", "task", "a", "claimed.1", key="line")
    did = [{"step": "b", "after_s": 1.5, "run_s": 0.5}, {"step": "c", "after_s": 2, "run_s": 1, "error": "Lost"}]
    line.say(605, "w1", "task", "a", "completed", {"run_s": 1.5, "then": did}, key="line")
    names = ("id", "status", "capability", "claimant", "run_seconds", "attempts", "error", "with_task")
    expected: list[tuple[Any, ...]] = [
        ("a", "completed", "parse", "w1", 1.5, 1, None, None),
        ("b", "completed", "sum", "w1", 0.5, 1, None, "a"),
        ("c", "failed", "sum", "w1", 1, 1, "Lost", "a"),
    ]
    async with pool.transaction() as conn:
        assert await entities.project(conn, [line]) == [{}]
        await copy.events(conn, line)
    found = await ask(pool, "workflow_steps", tenant="acme", key="line")
    assert pick(found, *names) == expected
    assert [(row["submitted_at"] - BASE).total_seconds() for row in found] == [600, 603.5, 604]

    # It is tried again, as a task of its own.
    again = Log(line[:1])
    again.say(620, "_workflow", "task", "c", "submitted.sum.normal", {"then": offered[2:]}, key="line")
    async with pool.transaction() as conn:
        await entities.project(conn, [again[1:]])
        await copy.events(conn, again[1:])
    expected[2] = ("c", "queued", "sum", None, None, 0, None, None)
    assert pick(await ask(pool, "workflow_steps", tenant="acme", key="line"), *names) == expected


async def test_every_answer_is_right(pool: Pool) -> None:
    """All of the above of one database: to make it is most of the work."""
    for right in (
        throughput_and_where_it_comes_from,
        how_long_tasks_wait_and_run,
        who_works_and_who_does_not,
        why_things_are_tried_again_and_what_it_costs,
        graph_teams_and_chains_of_handoffs,
        where_workflows_went_wrong_and_what_made_them_long,
        who_waits_and_which_promises_were_kept,
        local_steps_stand_beside_tasks,
    ):
        await right(pool)


def felt(at: datetime) -> EventRow:
    return event(1_000_000, at=at, kind="pulse", id="p", key="p", event="felt", agent="heart")


async def test_a_strange_hour_is_found_and_the_disk_has_a_date(pool: Pool) -> None:
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    strange = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    rows = [
        felt(midnight - timedelta(days=day) + timedelta(hours=hour, minutes=n))
        for day in range(1, 16)
        for hour in range(24)
        for n in range(12 + (day + hour) % 3)
    ]
    extra = [felt(strange) for _ in range(90)]
    async with pool.transaction() as conn:
        await copy.events(conn, [r for r in rows if r[0] < strange] + extra)
        await conn.execute("ANALYZE coord.event")
    found = await ask(pool, "anomalies", since=(strange - timedelta(minutes=1)).isoformat())
    hours = [r for r in found if r["kind"] == "pulse" and r["hour"] == strange]
    assert pick(hours, "event", "facts") == [("felt", 90)]
    assert hours[0]["score"] > 20
    assert hours[0]["usual"] == pytest.approx(13, abs=1)
    assert hours[0]["days"] >= 10
    early, likely, late = await ask(pool, "disk_full", capacity_gib="0.01", days=10, retain_days=100_000)
    assert likely["days_judged"] == 10
    assert 24 * 12 <= likely["facts_per_day"] <= 24 * 15
    assert early["full_at"] <= likely["full_at"] <= late["full_at"]
    assert likely["full_at"] > NOW
    assert {r["full_at"] for r in await ask(pool, "disk_full", retain_days=1)} == {None}, (
        "what comes replaces what goes"
    )
    assert (await ask(pool, "disk_full", capacity_gib="0.000001"))[0]["full_at"] <= datetime.now(UTC)
    stored = {r["relation"]: r for r in await ask(pool, "storage")}
    assert stored["event"]["rows_about"] == pytest.approx(len(LOG) + len(rows), rel=0.3)
    assert stored["event"]["bytes"] > 100_000
