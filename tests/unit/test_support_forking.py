"""Programs of the tests are forks: as good as new ones."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import msgspec

from tests.support import forking

PROGRAM = """
import json, os, random, sys, threading
print(json.dumps({
    "argument": sys.argv[1], "name": __name__, "cwd": os.getcwd(), "environ": dict(os.environ),
    "threads": threading.active_count(), "files": len(os.listdir("/proc/self/fd")), "random": random.getrandbits(60),
}), flush=True)
if sys.stdin.readline():
    sys.exit(7)
os.kill(os.getpid(), 9)
"""


async def test_a_fork_is_a_program_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "aprogram.py").write_text(PROGRAM)
    environ = {"PYTHONPATH": str(tmp_path)}
    with (tmp_path / "err").open("wb") as err:
        a, b, c = [
            await forking.python(
                "-m", "aprogram", name, cwd=tmp_path, env=environ | {"MINE": name}, stderr=err.fileno()
            )
            for name in "abc"
        ]
        told = [msgspec.json.decode(await each.stdout.readline()) for each in (a, b, c)]
    assert [each["argument"] for each in told] == ["a", "b", "c"]
    assert told[0] | {"random": 0, "files": 0} == {
        "argument": "a", "name": "__main__", "cwd": str(tmp_path), "threads": 1, "random": 0,
        "environ": {"PYTHONPATH": str(tmp_path), "MINE": "a"}, "files": 0,
    }  # fmt: skip
    assert len({each["files"] for each in told}) == 1, "nobody's files but its own"
    assert len({each["random"] for each in told}) == 3
    a.stdin.write(b"go\n")
    b.stdin.close()
    c.send_signal(signal.SIGTERM)
    async with asyncio.timeout(100):
        assert [await each.wait() for each in (a, b, c)] == [7, -signal.SIGKILL, -signal.SIGTERM]
    assert await a.stdout.read() == b""
    assert (tmp_path / "err").read_bytes() == b""
