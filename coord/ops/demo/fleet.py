"""The fleet of `coord demo`: a scout, analysts and a reporter, each an agent of its own.

Run as ``python -m coord.ops.demo.fleet JOB``, where JOB is a `Job` as JSON: one process
hosts some of the agents, each with its own NATS connection.  The agents know each other
only through facts:

* scout      lists the files (`file.listed`), hands each to an analyst (`handoff.offered`)
* analyst    accepts (`handoff.accepted`), reviews, states `file.analysed`, hands the
             findings to the reporter; its timings are telemetry, its progress is status
* reporter   sums up what was analysed (`report.summed`)

The last line of the process's output is a `Tally` as JSON: what its agents had acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import uvloop

import coord
from coord.ops.demo.review import Findings, review

SCOUT, REPORTER = "scout", "reporter"
FINISHED = "finished"
"""Reason of the handoff that ends an analyst's work."""

_SKIPPED = frozenset({"site-packages", "__pycache__", ".git", ".venv", "node_modules"})
_BYTES_MAX = 2_000_000
"""Larger files are data that happens to end in .py."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of the fleet is to do."""

    url: str
    tenant: str
    root: str
    agents: tuple[str, ...]
    """Names of the agents this process hosts."""
    analysts: tuple[str, ...]
    """Names of all analysts of the fleet, wherever they run."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What the agents of one process had acknowledged by the broker."""

    facts: int
    samples: int
    shed: int


class Listed(msgspec.Struct, frozen=True):
    """A file that is to be reviewed."""

    path: str
    bytes: int


class Offer(msgspec.Struct, frozen=True):
    """A piece of work with what is needed for it, handed to somebody."""

    to: str
    reason: str
    path: str | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole tree amounts to."""

    files: int
    lines: int
    functions: int
    todos: int
    unreadable: int
    most_imported: list[tuple[str, int]]


def source_files(root: Path) -> list[Path]:
    """Every Python file below `root` worth reviewing, in a stable order."""
    return sorted(
        p
        for p in root.rglob("*.py")
        if not _SKIPPED.intersection(p.relative_to(root).parts) and p.is_file() and p.stat().st_size <= _BYTES_MAX
    )


def file_id(path: str) -> str:
    """A token for a path: names on disk are not subject tokens; the path itself is in the body."""
    return hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=10).hexdigest()


# --- the agents ----------------------------------------------------------------------------


class Speaker:
    """A connected agent that keeps count of what it says."""

    def __init__(self, c: coord.Coord) -> None:
        self.c = c
        self.facts = self.samples = 0

    async def state(
        self,
        kind: str,
        event: str,
        data: object = None,
        *,
        id: str,  # noqa: A002 - what the entity's id is called, everywhere
        key: str | None = None,
        now: bool = False,
    ) -> None:
        """State one fact; `now`: wait until it is stored."""
        fact = coord.Fact(kind=kind, id=id, key=key, event=event, data=data)
        await (self.c.publish(fact) if now else self.c.emit(fact))
        self.facts += 1

    async def sample(self, series: str, value: float) -> None:
        """One value of telemetry."""
        await self.c.sample(series, value)
        self.samples += 1


async def scout(me: Speaker, job: Job) -> None:
    """List the tree, and hand file after file to whichever analyst has the least to read."""
    await _wait_for(me.c, job.analysts)
    root = Path(job.root)
    load = dict.fromkeys(job.analysts, 0)
    for path in source_files(root):
        name, size = str(path.relative_to(root)), path.stat().st_size
        work = file_id(name)
        chosen = min(load, key=lambda a: (load[a], a))
        load[chosen] += size + 2_000
        await me.state("file", "listed", Listed(name, size), id=work)
        await me.state("handoff", "offered", Offer(chosen, "review", name), id=work)
    for name in job.analysts:
        await me.state("handoff", "offered", Offer(name, FINISHED), id=f"end-{name}")
    await me.state("handoff", "offered", Offer(REPORTER, FINISHED), id=f"end-{REPORTER}")


async def analyst(me: Speaker, job: Job) -> None:
    """Review what is handed over, until told that there is no more."""
    name, root, done = me.c.agent, Path(job.root), 0
    await me.state("agent", "registered", {"capabilities": ["review"]}, id=name, now=True)
    # From the beginning of the log: it does not matter who starts first.
    async with me.c.subscribe(kind="handoff", event="offered", start=1) as offers:
        async for fact in offers:
            offer = fact.decode(Offer)
            if offer.to != name:
                continue
            if offer.reason == FINISHED or offer.path is None:
                break
            await me.state("handoff", "accepted", id=fact.id, key=fact.key)
            started = time.perf_counter()
            findings = await asyncio.to_thread(_review, root, offer.path)
            took_ms = (time.perf_counter() - started) * 1e3
            done += 1
            await me.state("file", "analysed", findings, id=fact.key)
            found = Offer(REPORTER, "findings", offer.path)
            await me.state("handoff", "offered", found, id=f"{fact.id}-findings", key=fact.key)
            await me.sample("review_ms", took_ms)
            await me.sample("file_bytes", float(findings.bytes))
            await me.state("agent", "status", {"state": "reviewing", "done": done}, id=name)
    await me.state("agent", "left", {"done": done}, id=name, now=True)


async def reporter(me: Speaker, job: Job) -> None:
    """Sum up, once every file that was listed has been analysed."""
    expected = len(source_files(Path(job.root)))
    summary = _Sum()
    async with me.c.subscribe(kind="file", event="analysed", start=1) as analysed:
        while summary.files < expected:
            summary.add((await anext(analysed)).decode(Findings))
    await me.state("report", "summed", summary.result(), id="tree", now=True)


async def _wait_for(c: coord.Coord, names: Iterable[str]) -> None:
    missing = set(names)
    async with c.subscribe(kind="agent", event="registered", start=1) as registrations:
        while missing:
            missing.discard((await anext(registrations)).id)


class _Sum:
    def __init__(self) -> None:
        self.files = self.lines = self.functions = self.todos = self.unreadable = 0
        self.imports: dict[str, int] = {}

    def add(self, findings: Findings) -> None:
        self.files += 1
        self.lines += findings.lines
        self.functions += len(findings.functions)
        self.todos += findings.todos
        self.unreadable += findings.problem is not None
        for name in findings.imports:
            self.imports[name] = self.imports.get(name, 0) + 1

    def result(self) -> Summary:
        top = sorted(self.imports.items(), key=lambda item: (-item[1], item[0]))[:10]
        return Summary(
            files=self.files,
            lines=self.lines,
            functions=self.functions,
            todos=self.todos,
            unreadable=self.unreadable,
            most_imported=top,
        )


def _review(root: Path, name: str) -> Findings:
    source = (root / name).read_bytes()
    # CPython counts the depth of an AST once per interpreter: two threads that build one at the
    # same time make each other fail ("AST constructor recursion depth mismatch").
    with _parsing:
        return review(name, source)


_parsing = threading.Lock()


# --- one process of the fleet --------------------------------------------------------------

_ROLES = {SCOUT: scout, REPORTER: reporter}


async def _agent(name: str, job: Job) -> Tally:
    async with coord.connect(job.url, tenant=job.tenant, agent=name) as c:
        me = Speaker(c)
        await _ROLES.get(name, analyst)(me, job)
        await c.flush()
        return Tally(facts=me.facts, samples=me.samples - c.stats.shed, shed=c.stats.shed)


async def run(job: Job) -> Tally:
    """Run this process's agents to their end."""
    tallies = await asyncio.gather(*(_agent(name, job) for name in job.agents))
    return Tally(
        facts=sum(t.facts for t in tallies), samples=sum(t.samples for t in tallies), shed=sum(t.shed for t in tallies)
    )


if __name__ == "__main__":
    tally = uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Job)))
    sys.stdout.write(msgspec.json.encode(tally).decode() + "\n")
