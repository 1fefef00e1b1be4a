"""The fleet of `coord demo`: a scout, analysts and a reporter, each an agent of its own.

Run as ``python -m coord.ops.demo.fleet JOB``, where JOB is a `Job` as JSON: one process
hosts some of the agents, each with its own NATS connection.  Nobody knows who else there is:

* scout      states each file (`file.listed`) and submits a task for it to whoever can `review`
* analyst    takes tasks as it has hands free, reviews, states `file.analysed`; its timings are
             telemetry, its progress is status.  When it dies, others get what it held.
* reporter   sums up what was analysed (`report.summed`)

A process ends when all of its agents have, those of analysts when standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvloop

import coord
from coord.ops.demo.review import Findings, review

SCOUT, REPORTER = "scout", "reporter"
REVIEW = "review"
"""The capability of an analyst."""

CAPACITY = 2
"""Tasks an analyst takes at once."""

_RESULT_S = 300.0

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


class Listed(msgspec.Struct, frozen=True):
    """A file that is to be reviewed."""

    path: str
    bytes: int


class Reviewed(msgspec.Struct, frozen=True):
    """The outcome of a task; what was found is a fact of its own, for everybody."""

    lines: int
    functions: int


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


async def scout(job: Job) -> None:
    """List the tree, submit a task for every file, and wait until all are done."""
    root = Path(job.root)
    async with coord.connect(job.url, tenant=job.tenant, agent=SCOUT) as c:
        found = [Listed(str(path.relative_to(root)), path.stat().st_size) for path in source_files(root)]
        ids = [file_id(listed.path) for listed in found]
        for listed, work in zip(found, ids, strict=True):
            await c.emit(coord.Fact(kind="file", id=work, event="listed", data=listed))
        handles = await c.submit_many(REVIEW, found, ids=ids, returns=Reviewed)
        async with asyncio.timeout(_RESULT_S):
            await asyncio.gather(*(handle.result() for handle in handles))


@contextlib.asynccontextmanager
async def analyst(name: str, job: Job) -> AsyncIterator[None]:
    """Be an analyst while the block runs."""
    agent = coord.Agent(name, capabilities={REVIEW: CAPACITY})
    root, done = Path(job.root), 0

    @agent.task(REVIEW, timeout_s=60)
    async def review_file(listed: Listed, ctx: coord.TaskContext) -> Reviewed:
        nonlocal done
        started = time.perf_counter()
        findings = await asyncio.to_thread(_review, root, listed.path)
        done += 1
        c = ctx.coord
        await c.emit(coord.Fact(kind="file", id=ctx.task_id, event="analysed", data=findings))
        await c.sample("review_ms", (time.perf_counter() - started) * 1e3)
        await c.sample("file_bytes", float(findings.bytes))
        await c.emit(coord.Fact(kind="agent", id=name, event="status", data={"state": "reviewing", "done": done}))
        return Reviewed(findings.lines, len(findings.functions))

    async with agent.connect(job.url, tenant=job.tenant):
        yield


async def reporter(job: Job) -> None:
    """Sum up, once every file that was listed has been analysed."""
    expected = len(source_files(Path(job.root)))
    summary = _Sum()
    async with (
        coord.connect(job.url, tenant=job.tenant, agent=REPORTER) as c,
        c.subscribe(kind="file", event="analysed", start=1) as analysed,
    ):
        seen: set[str] = set()
        while len(seen) < expected:
            fact = await anext(analysed)
            if fact.id not in seen:  # a task of an agent that died is run again, and may have stated it before
                seen.add(fact.id)
                summary.add(fact.decode(Findings))
        await c.publish(coord.Fact(kind="report", id="tree", event="summed", data=summary.result()))


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


async def run(job: Job) -> None:
    """Run this process's agents to their end."""
    analysts = [name for name in job.agents if name not in _ROLES]
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(analyst(name, job)) for name in analysts))
        await asyncio.gather(*(_ROLES[name](job) for name in job.agents if name in _ROLES))
        if analysts:
            await _until_dismissed()


async def _until_dismissed() -> None:
    """Return when standard input has ended: whoever started the process has enough, or is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Job)))
