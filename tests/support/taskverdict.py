"""What the log says of a tenant's tasks and workflows, held against what was promised.

* every submitted task, and every started workflow, has exactly one outcome, and its submitter was told that one;
* no execution began after its task's outcome was stored, and none without a claim that was believed;
* no step's task was submitted before what it needs had succeeded;
* no recorded step of a task was done again;
* nothing that deciders state is in the log twice;
* the tables are the folds of the log, and every fact is a row once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from coord.bus.connection import Connection
from coord.bus.direct import DirectReader
from coord.core import tasks, workflow_life
from coord.core.tasks import Task
from coord.core.workflow_life import Workflow
from coord.projector import tables
from coord.wire import subjects
from coord.wire.envelope import StoredFact, decode_message
from tests.soak.harness import Finding
from tests.support import crew
from tests.support.taskload import FAN_OUT

_NEEDS = {"two": tuple(f"one-{i}" for i in range(FAN_OUT)), "three": ("two",)}
_SLACK_NS = 2_000_000
"""An execution writes down when it began a moment after it did; clocks of one machine, in microseconds."""

Place = tuple[str, str, str]
"""kind, key, id."""


class Log:
    """A tenant's facts, by entity."""

    def __init__(self) -> None:
        self.entities: dict[Place, list[StoredFact]] = defaultdict(list)
        self.facts = 0
        self.last: dict[int, int] = {}
        """Partition → the sequence of its last fact."""

    @classmethod
    async def read(cls, conn: Connection, tenant: str) -> Log:
        """All of it."""
        log, reader, seq = cls(), DirectReader(conn), 1
        while True:
            batch = await reader.batch(subjects.EVENTS, f"coord.log.*.{tenant}.>", from_seq=seq, messages_max=1_000)
            for m in batch.messages:
                for fact in decode_message(m.subject, m.headers, m.body, m.seq, m.stored_at):
                    assert isinstance(fact, StoredFact), fact
                    log.facts += 1
                    log.last[fact.partition] = fact.seq
                    if fact.kind in ("task", "workflow"):
                        log.entities[fact.kind, fact.key, fact.id].append(fact)
            if not batch.messages:
                await reader.close()
                return log
            seq = batch.messages[-1].seq + 1


def judge(log: Log, ends: dict[tuple[str, str], str], folder: Path) -> list[Finding]:
    """What does not hold; `ends` as `taskload.Load` has it."""
    findings: list[Finding] = []
    outcomes: dict[str, StoredFact] = {}
    claims: Counter[str] = Counter()
    for (kind, key, id_), facts in log.entities.items():
        name = f"{key}/{id_}"
        ended = _ended(kind, facts)
        if len(ended) != 1:
            story = " ".join(".".join((f.event, *f.detail)) for f in facts)
            findings.append(Finding("doubled" if ended else "lost", f"{kind} {name}: {len(ended)} outcomes in {story}"))
            continue
        if kind == "task":
            outcomes[name] = ended[0]
            task, _ = tasks.fold(facts)
            assert task is not None
            claims[name] = task.claims
        if (told := ends.get((kind, id_))) is not None and key == id_:
            status = _status(kind, facts)
            if told != status:
                findings.append(Finding("wrong", f"{kind} {name} is {status}, its submitter was told {told}"))
        findings += _stated_twice(name, facts)
        findings += _done_again(name, facts)
    for kind, id_ in ends:
        if (kind, id_, id_) not in log.entities:
            findings.append(Finding("lost", f"{kind} {id_} was acknowledged and is not in the log"))
    findings += _executions(folder, outcomes, claims)
    findings += _steps(log, outcomes)
    return findings


def _ended(kind: str, facts: list[StoredFact]) -> list[StoredFact]:
    """The facts that ended it: the fold believed them, and it was not ended before."""
    life: Any = (
        Task(tenant=facts[0].tenant, key=facts[0].key, id=facts[0].id)
        if kind == "task"
        else Workflow(tenant=facts[0].tenant, id=facts[0].id)
    )
    found = []
    for fact in facts:
        before = life.ended
        if life.apply(fact) is None and life.ended and not before:
            found.append(fact)
    return found


def _status(kind: str, facts: list[StoredFact]) -> str:
    life: Any = (tasks.fold if kind == "task" else workflow_life.fold)(facts)[0]
    return str(life.status)


def _stated_twice(name: str, facts: list[StoredFact]) -> Iterable[Finding]:
    told = Counter((f.event, f.detail) for f in facts if subjects.is_decider(f.agent) and f.event != "submitted")
    return [Finding("decided twice", f"{name}: {what}") for what, count in told.items() if count > 1]


def _done_again(name: str, facts: list[StoredFact]) -> Iterable[Finding]:
    """A record is stated by whoever has done its step: of one that counts there is no second."""
    refused = {fact.seq for fact, _ in tasks.fold(facts)[1]} if facts[0].kind == "task" else set()
    done = {(f.data["step"], f.event_id) for f in facts if f.event == "recorded" and f.seq not in refused}
    told = Counter(step for step, _ in done)
    return [Finding("done again", f"task {name}: step {step}") for step, count in told.items() if count > 1]


def _executions(folder: Path, outcomes: dict[str, StoredFact], claims: Counter[str]) -> Iterable[Finding]:
    runs: Counter[str] = Counter()
    for name, began_ns in crew.began(folder):
        runs[name] += 1
        outcome = outcomes.get(name)
        if outcome is not None and began_ns > outcome.stored_at.timestamp() * 1e9 + _SLACK_NS:
            late_ms = (began_ns - outcome.stored_at.timestamp() * 1e9) / 1e6
            yield Finding("run after its end", f"task {name} began {late_ms:.1f} ms after its {outcome.event}")
    for name, count in runs.items():
        if name in outcomes and count > claims[name]:
            yield Finding("run without a claim", f"task {name}: {count} executions, {claims[name]} claims")


def _steps(log: Log, outcomes: dict[str, StoredFact]) -> Iterable[Finding]:
    for (kind, key, id_), facts in log.entities.items():
        if kind != "task" or key == id_ or id_ not in _NEEDS:
            continue
        begun = next(f.seq for f in facts if f.event == "submitted")
        needed = [outcomes.get(f"{key}/{name}") for name in _NEEDS[id_]]
        if any(f is None or f.event != "completed" or f.seq > begun for f in needed):
            yield Finding("unmet", f"{key}/{id_} was submitted at {begun} before {_NEEDS[id_]} had succeeded")


async def compare_tables(db: asyncpg.Connection[Any], tenant: str, log: Log) -> list[Finding]:
    """The tables against the folds."""
    findings: list[Finding] = []
    for kind, type_ in (("task", Task), ("workflow", Workflow)):
        rows = await db.fetch(f"SELECT key, id, fold FROM coord.{kind} WHERE tenant = $1", tenant)
        saved = {(r["key"], r["id"]): r["fold"] for r in rows}
        for (of, key, id_), facts in log.entities.items():
            if of != kind:
                continue
            life: Any = (tasks.fold if kind == "task" else workflow_life.fold)(facts)[0]
            if life is None:
                continue
            tables.TABLES[kind].slim(life)
            fold = saved.pop((key, id_), None)
            if fold is None or msgspec.msgpack.decode(fold, type=type_) != life:
                findings.append(Finding("tables", f"{kind} {key}/{id_} is not its fold"))
        findings += [Finding("tables", f"{kind} {place} is not in the log") for place in saved]
    rows = await db.fetch(
        "SELECT count(*) AS n, count(DISTINCT (epoch, seq, idx)) AS once FROM coord.event WHERE tenant = $1", tenant
    )
    parked = await db.fetchval("SELECT count(*) FROM coord.dead_letter")
    found, once = rows[0]["n"], rows[0]["once"]
    if found != once:
        findings.append(Finding("doubled", f"{found - once} facts are rows twice"))
    if once + parked != log.facts:
        findings.append(Finding("lost", f"{log.facts} facts, {once} rows and {parked} dead letters"))
    return findings
