"""The documentation is true: its examples run on real servers, and what it names exists.

A code block is judged by its language: `python` is a whole program and is run, `sql` is run on the
migrated database, `toml` is a settings file and is loaded, `sh` is taken line by line (`_Shell`).
`text` is output.  A block without a language, or a command that nobody here knows, fails.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import nats
import pytest
import typer
from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops import serve, settings
from coord.ops.cli import app
from coord.ops.settings import ServiceConfig, Settings, StreamsConfig
from coord.runtime import assets
from coord.runtime.http_config import HttpConfig
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from tests.support import forking
from tests.support.cli import Result, cli
from tests.support.pages import Block, Page, command_lines, page, pages, words
from tests.support.sources import ROOT
from tests.support.waiting import until

USUAL_NATS = "nats://127.0.0.1:4222"
USUAL_DATABASE = "postgresql://coord@127.0.0.1:5432/coord"
EXECUTED = [
    "README.md",
    "docs/quickstart.md",
    "docs/life-of-a-fact.md",
    *(n for n in pages() if n.startswith("docs/howto/")),
]

# Not run here: they stay, start servers, or are about something this stack does not have.
ONLY_PARSED = {("serve",), ("dev",), ("dev", "env"), ("demo",), ("bench", "spine"), ("logs", "filter"),
               ("projection", "new-epoch")}  # fmt: skip
DEAD_LETTERS = {"docs/howto/dead-letters.md": 1}
"""How many messages of a page are meant to be refused; of the others, none."""
# A person's or the system's business; what they are given is checked elsewhere, or is nothing of ours.
FOREIGN = {
    "apt",
    ".",
    "python",
    "sudo",
    "systemctl",
    "journalctl",
    "curl",
    "docker",
    "nats-server",
    "install",
    "pip",
    "useradd",
}


# --- the executed examples -----------------------------------------------------------------


class Stack(msgspec.Struct, frozen=True):
    """A running coord for one page."""

    nats: str
    database: str


@pytest.fixture
async def stack(start_nats: Any, migrated_database: Any, monkeypatch: Any, tmp_path: Path) -> AsyncIterator[Stack]:
    server = await start_nats()
    where = Stack(server.url, migrated_database.url)
    async with await Connection.open(NatsConfig(urls=(where.nats,)), name="docs") as conn:
        await topology.apply(conn, topology.load(assets.streams_dir(), "development"))
    config = Settings(
        nats=NatsConfig(urls=(where.nats,)),
        database=DatabaseConfig(url=where.database, pool_min=1, pool_max=8),
        streams=StreamsConfig(profile="development"),
        http=HttpConfig(enabled=False),
        service=ServiceConfig(stats_every_s=0),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COORD_NATS_URLS", where.nats)
    monkeypatch.setenv("COORD_DATABASE_URL", where.database)
    monkeypatch.setenv("COORD_STREAMS_PROFILE", "development")
    monkeypatch.setenv("COORD_ARCHIVE_URL", str(tmp_path / "archive"))
    async with serve.services(config, registry=Metrics(CollectorRegistry())) as group:
        await group.wait_ready(60)
        await until(lambda: _begun(where))
        yield where


async def _begun(stack: Stack) -> bool:
    """Whether every partition of the log has a checkpoint: commands ask where the projector is."""
    conn = await asyncpg.connect(stack.database)
    try:
        known: int = await conn.fetchval("SELECT count(*) FROM coord.checkpoint WHERE stream = 'EVENTS'")
        return known == limits.PARTITIONS
    finally:
        await conn.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXECUTED)
async def test_examples_run(name: str, stack: Stack, tmp_path: Path) -> None:
    letters = DEAD_LETTERS.get(name, 0)
    shell = _Shell(stack, letters)
    for block in pages()[name].blocks():
        print(f"{name}:{block.line}: {block.language}")
        if block.language == "python":
            await _run_python(block, stack, tmp_path)
        elif block.language == "sh":
            for line in command_lines(block.text):
                await shell.run(line)
        elif block.language == "sql" and block.text.startswith("-- DuckDB"):
            pass  # tests/integration/test_archive_elsewhere.py, where there are files to read
        elif block.language == "sql":
            await _run_sql(stack.database, block.text)
        elif block.language == "toml":
            _load_settings(block, tmp_path)
        else:
            assert block.language == "text", f"{name}:{block.line}: a block of {block.language or 'no language'}"
    await _all_projected(stack, letters)


async def _run_python(block: Block, stack: Stack, folder: Path) -> None:
    program = folder / f"example_{block.line}.py"
    assert USUAL_NATS in block.text or "coord.testing" in block.text, "a broker, or one in memory"
    text = block.text.replace(USUAL_NATS, stack.nats).replace(USUAL_DATABASE, stack.database)
    program.write_text(text, encoding="utf-8")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COORD_")} | {"PYTHONPATH": str(ROOT)}
    process = await forking.python(
        program, cwd=folder, env=environ, stderr=subprocess.STDOUT, options=("-X", "dev", "-W", "error")
    )
    try:
        async with asyncio.timeout(150):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    assert said, "an example says what it did"


async def _run_sql(url: str, text: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        for statement in filter(str.strip, text.split(";\n")):
            assert re.match(r"\s*(--.*\n\s*)*(SELECT|WITH)\b", statement), statement
            await conn.fetch(statement)
    finally:
        await conn.close()


def _load_settings(block: Block, folder: Path) -> None:
    path = folder / f"settings_{block.line}.toml"
    # What a file names (TLS, credentials) is not read before it is needed, so it need not be here.
    path.write_text(block.text, encoding="utf-8")
    loaded = settings.load(path, environ={}, dev_folder=None)
    assert loaded.origins, "a settings file that sets something"
    settings.topology(loaded.settings)


async def _all_projected(stack: Stack, letters: int) -> None:
    """Every message the page sent to the log is a row, but for so many that are dead letters."""
    conn = await asyncpg.connect(stack.database)
    nc = await nats.connect(stack.nats, connect_timeout=30)
    try:
        jetstream = nc.jetstream(timeout=60)
        sent = 0

        async def done() -> bool:
            nonlocal sent  # who was heard of may still be said something about
            sent = (await jetstream.stream_info(subjects.EVENTS)).state.messages
            rows = await conn.fetchval("SELECT count(DISTINCT (epoch, seq)) FROM coord.event")
            dead = await conn.fetchval("SELECT count(*) FROM coord.dead_letter WHERE stream = 'EVENTS'")
            return bool(rows + dead == sent)

        await until(done)
        dead = await conn.fetch("SELECT subject, reason FROM coord.dead_letter")
        assert len(dead) == min(letters, sent), dead
    finally:
        await nc.close()
        await conn.close()


class _Shell:
    """Runs the lines of `sh` blocks, or as much of each as can be run here."""

    def __init__(self, stack: Stack, letters: int) -> None:
        self._stack = stack
        self._letters = letters

    async def run(self, line: str) -> None:
        print(f"    $ {line}")
        if inner := re.fullmatch(r'eval "\$\((coord .*)\)"', line):
            parse(words(inner[1])[1:])
            return
        program, *args = words(line)
        if program == "coord":
            await self._coord(args)
        elif program == "nats":
            await self._nats(args)
        elif program == "make":
            assert f"\n{args[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), line
        elif program == "psql":
            assert args[0] == "$COORD_DATABASE_URL"
            assert args[1] == "-c"
            await _run_sql(self._stack.database, args[2])
        else:
            assert program in FOREIGN, f"nobody here knows {program!r}: {line}"

    async def _coord(self, args: list[str]) -> None:
        path, _ = parse(args)
        if path in ONLY_PARSED or "--preflight" in args:  # this stack is not fit for production
            return
        # A person sees what was stated a moment ago; a test has to wait for it.
        if path[0] in {"db", "event", "dlq", "top", "status", "doctor"}:
            await _all_projected(self._stack, self._letters)
        result = await cli(*args)
        if path[0] in {"top", "status", "doctor"} and result.code:  # a busy machine is well a moment later
            result = await until(lambda: _if_well(args))
        assert result.code == 0, (args, result)
        assert result.out or result.err, (args, result)

    async def _nats(self, args: list[str]) -> None:
        """What the nats command would do: the same subject, headers and body, through a plain client."""
        verb, subject, fields, body = _nats_command(args)
        nc = await nats.connect(self._stack.nats, connect_timeout=30)
        try:
            if verb == "sub":
                await nc.subscribe(subject)
                await nc.flush()
            elif verb == "pub":
                await nc.publish(subject, body, headers=fields or None)
                await nc.flush()
            else:
                answer = await nc.request(subject, body, headers=fields or None, timeout=60)
                reply = msgspec.json.decode(answer.data)
                assert "error" not in reply, reply
                assert "Nats-Service-Error-Code" not in (answer.headers or {}), reply
        finally:
            await nc.close()


async def _if_well(args: list[str]) -> Result | None:
    found = await cli(*args)
    print(found.out, found.err)
    return None if found.code else found


def _nats_command(args: list[str]) -> tuple[str, str, dict[str, str], bytes]:
    fields: dict[str, str] = {}
    plain: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "-H":
            name, _, value = rest.pop(0).partition(":")
            fields[name] = value
        elif word == "--server":
            rest.pop(0)
        else:
            assert not word.startswith("-"), f"the emulation does not know {word}"
            plain.append(word)
    verb, subject, *body = plain
    assert verb in {"pub", "req", "sub"}
    assert len(body) == (0 if verb == "sub" else 1)
    return verb, subject, fields, "".join(body).encode()


# --- the command line ----------------------------------------------------------------------

ROOT_COMMAND = typer.main.get_command(app)


def parse(args: list[str]) -> tuple[tuple[str, ...], Any]:
    """The command's path and its parsed context; fails for a command, option or value that does not exist."""
    command: Any = ROOT_COMMAND
    path: tuple[str, ...] = ()
    context: Any = None
    rest = list(args)
    while True:
        name = path[-1] if path else "coord"
        verbs = getattr(command, "commands", {})
        if not verbs or not rest or rest[0].startswith("-"):
            return path, command.make_context(name, list(rest), parent=context)
        if rest[0] not in verbs:
            raise LookupError(f"no such command: coord {' '.join((*path, rest[0]))}")
        context = command.context_class(command, info_name=name, parent=context)
        word = rest.pop(0)
        command = verbs[word]
        path = (*path, word)


def test_the_parser_itself() -> None:
    assert parse(["event", "tail", "--tenant", "acme"])[0] == ("event", "tail")
    assert parse(["dev", "--ephemeral"])[0] == ("dev",)
    for wrong in (["event", "tail", "--nonsense"], ["event", "nonsense"], ["db", "query", "--param"]):
        with pytest.raises(Exception, match=r"(?i)no such|requires an argument|unexpected|missing"):
            parse(wrong)


# --- the README ----------------------------------------------------------------------------


def test_readme_is_as_long_as_a_readme() -> None:
    assert 150 <= len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250


def test_the_twelve_line_agent_has_twelve_lines() -> None:
    program = next(b.text for b in page(ROOT / "README.md").blocks() if b.language == "python")
    assert len([line for line in program.splitlines() if line.strip()]) <= 12


def test_the_readmes_demo_prints_what_the_demo_prints() -> None:
    """Its headings are the demo's, its columns are those of the queries."""
    said = next(b.text for b in page(ROOT / "README.md").blocks() if b.language == "text" and "reviewed" in b.text)
    source = (ROOT / "coord/ops/demo/run.py").read_text(encoding="utf-8")
    headings = [line for line in said.splitlines() if re.fullmatch(r"[A-Z][a-z]+( [a-z]+)*", line)]
    assert len(headings) == 6
    assert [h for h in headings if f'"{h}"' not in source] == []
    queries = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "sql/queries").glob("*.sql"))
    for line in said.splitlines():
        if line.strip() and line == line.upper() and re.search("[A-Z]", line):
            for column in re.split(r"\s{2,}", line.strip()):
                assert column.lower().replace(" ", "_") in queries, column


def test_the_glossary_has_each_word_once() -> None:
    terms = re.findall(r"^- \*\*([^*]+)\*\*", pages()["docs/glossary.md"].text, re.MULTILINE)
    assert len(terms) == len(set(terms)) > 40


def test_decisions_are_numbered_once_and_dated() -> None:
    found: dict[str, Page] = {p.path.name[:4]: p for n, p in pages().items() if re.match(r"docs/adr/\d{4}-", n)}
    assert len(found) == len([n for n in pages() if re.match(r"docs/adr/\d{4}-", n)])
    for number, decision in found.items():
        assert decision.text.startswith(f"# {number}: "), decision.name
        assert re.search(r"^\| 1 \| \d{4}-\d\d-\d\d \| ", decision.text, re.MULTILINE), decision.name
        headings = re.findall(r"^## (.+)$", decision.text, re.MULTILINE)
        assert headings[:1] == ["Context"], decision.name
        assert "Decision" in headings, decision.name
        assert "Consequences" in headings, decision.name
