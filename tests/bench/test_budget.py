"""The budget is kept; and that it is kept can be told apart from its not being."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from coord.errors import SettingsError
from coord.ops.bench import budget
from coord.ops.bench.budget import Bound, Budget
from coord.ops.bench.counting import Aside, Held, Opcodes, Wire
from tests.support.waiting import until

FILE = Path(__file__).with_name("budget.toml")


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_what_a_fact_costs_is_within_the_budget() -> None:
    """The least of up to three measurements: what a busy machine disturbs is done again, and never costs less."""
    least: dict[tuple[str, str], dict[str, Any]] = {}
    over: list[dict[str, Any]] = []
    for _ in range(3):
        code, output, talk = await measured()
        for row in json.loads(output) if code in {0, 3} else ():
            before = least.setdefault((row["path"], row["count"]), row)
            if row["measured"] is not None and (before["measured"] is None or row["measured"] < before["measured"]):
                least[row["path"], row["count"]] = row
        over = [row for row in least.values() if row["verdict"] in budget.FAILING]
        if least and not over:
            break
        print(code, talk, over)
    for row in least.values():
        print(f"{row['path']:<15} {row['count']:<32} {row['measured']!s:>10} of {row['bound']!s:>10}  {row['verdict']}")
    assert {path for path, _ in least} == {
        "publish_single", "publish_frame", "project_single", "project_frame", "subscribe",
    }  # fmt: skip
    assert over == [], "cheaper again, or `coord bench budget --write` and why in the commit"


async def measured() -> tuple[int | None, bytes, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coord.ops.bench", "budget", "--file", str(FILE), "-o", "json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, talk = await process.communicate()
    return process.returncode, output, talk.decode()


# --- the file ------------------------------------------------------------------------------

A_BUDGET = Budget(
    python=budget.python(),
    paths={"publish_single": {"bytecodes": Bound(bound=110, measured=100, reason='because "so"')}},
)


def test_every_bound_of_the_project_says_why() -> None:
    found = budget.read(FILE)
    for path, counts in found.paths.items():
        for name, bound in counts.items():
            assert 0 < bound.measured <= bound.bound, (path, name)
            assert len(bound.reason) > 10, (path, name)
            assert "say why" not in bound.reason, (path, name)


def test_a_budget_survives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "budget.toml"
    file.write_text(budget.render(A_BUDGET))
    assert budget.read(file) == A_BUDGET


@pytest.mark.parametrize("text", ["", "python = 3", "not toml", '[paths.a.b]\nbound = "x"'])
def test_what_is_no_budget_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "budget.toml"
    file.write_text(text)
    with pytest.raises(SettingsError):
        budget.read(file)


@pytest.mark.parametrize(
    ("found", "verdict", "fails"),
    [
        ({"publish_single": {"bytecodes": 110.0}}, "within", False),
        ({"publish_single": {"bytecodes": 110.1}}, "over", True),
        ({"publish_single": {"bytes_sent": 1.0}}, "unbounded", True),
        ({}, "not measured", True),
    ],
)
def test_a_verdict_for_each_count(found: dict[str, dict[str, float]], verdict: str, fails: bool) -> None:
    row = budget.compare(A_BUDGET, found)[0]
    assert row["verdict"] == verdict
    assert (verdict in budget.FAILING) == fails


def test_what_another_python_would_count_differently_is_not_judged() -> None:
    other = Budget(python="3.99", paths=A_BUDGET.paths)
    assert budget.compare(other, {"publish_single": {"bytecodes": 999.0}})[0]["verdict"] == "other python"


def test_renewing_keeps_reasons_and_rounds_up() -> None:
    renewed = budget.renewed(A_BUDGET, {"publish_single": {"bytecodes": 200.0, "bytes_sent": 601.87}})
    made = renewed.paths["publish_single"]
    assert made["bytecodes"] == Bound(bound=220, measured=200, reason='because "so"')
    assert made["bytes_sent"].bound == 620
    assert made["bytes_sent"].measured == 601.9


# --- counting ------------------------------------------------------------------------------


def test_bytecodes_of_the_same_work_are_the_same_and_more_work_is_more() -> None:
    def work(times: int) -> int:
        return sum(i * i for i in range(times))

    counts = []
    for times in (100, 100, 100, 200):
        opcodes = Opcodes()
        with opcodes.counted():
            work(times)
        counts.append(opcodes.count)
    del counts[0]  # since 3.13 code is changed when it is first traced, and that pass counts a little less
    assert counts[0] == counts[1]
    assert 1.8 < counts[2] / counts[0] < 2.0
    assert sys.gettrace() is None or counts  # a debugger's own trace is back


def test_other_threads_are_not_counted() -> None:
    opcodes = Opcodes()
    with opcodes.counted():
        thread = threading.Thread(target=lambda: sum(i for i in range(10_000)))
        thread.start()
        thread.join()
    assert opcodes.count < 5_000


def test_memory_is_what_is_still_there() -> None:
    held = Held()
    with held.traced():
        kept = [bytes(1_000) for _ in range(100)]
        [bytes(1_000) for _ in range(100)].clear()
        held.weigh()
    assert 100_000 <= held.bytes <= 120_000
    assert len(kept) == 100


async def test_a_wire_counts_bytes_and_round_trips_and_holds_back() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line * 2)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Aside() as aside, Wire(aside, f"nats://127.0.0.1:{port}") as wire:
        host, there = wire.url.removeprefix("nats://").split(":")
        reader, writer = await asyncio.open_connection(host, int(there))
        for _ in range(3):
            writer.write(b"hello\n")
            assert await reader.readexactly(12) == b"hello\nhello\n"
        assert (wire.sent, wire.received, wire.turns) == (18, 36, 3)
        await wire.hold()
        writer.write(b"later\n")
        await until(lambda: wire.sent == 24)
        await wire.quiet(0.05)
        assert (wire.sent, wire.received) == (24, 36)
        await wire.release()
        assert await reader.readexactly(12) == b"later\nlater\n"
        assert wire.turns == 4
        writer.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(there)))
