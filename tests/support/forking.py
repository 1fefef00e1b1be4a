"""Processes of a test's own that need not import coord again: forks of one that has done nothing else.

A program that a test starts takes half a second of CPU until it begins, all of it imports.  Here a process of its own
imports coord once for each worker, never connects or starts a thread, and forks when it is asked: what runs then is
the same module, as ``__main__``, with its own argument, folder, environment and files.  The fork is our child, not
that process's, so that its end is ours to see: it is forked twice, and we adopt the orphan.
"""

from __future__ import annotations

import array
import asyncio
import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

_IMPORTED = (
    "uvloop", "coord.projector.service", "coord.projector.rebuild", "coord.client.connect", "coord.client.agent",
    "coord.server.deciding", "coord.store.migrations", "coord.telemetry.logs", "tests.support.crew",
)  # fmt: skip
"""What the programs import, as far as it begins nothing."""
_PR_SET_CHILD_SUBREAPER = 36
_REQUEST_BYTES_MAX = 1 << 20


class _Request(msgspec.Struct, frozen=True):
    module: str
    argument: str
    cwd: str
    environ: dict[str, str]


class Forked:
    """As much of `asyncio.subprocess.Process` as tests need."""

    def __init__(self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._reap)

    def send_signal(self, number: int) -> None:
        """Raises `ProcessLookupError` when it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.stdin.close()
        self._ended.set()


async def start(module: str, argument: str, *, cwd: Path, environ: Mapping[str, str], stderr: int) -> Forked:
    """Run a module with pipes to its stdin and from its stdout."""
    request = msgspec.json.encode(_Request(module, argument, str(cwd), dict(environ)))
    server = await asyncio.to_thread(_server)
    loop = asyncio.get_running_loop()
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    try:
        pid = _fork(server, request, [theirs_in, theirs_out, stderr])
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_out, "rb", 0))
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(ours_in, "wb", 0))
    return Forked(pid, asyncio.StreamWriter(transport, protocol, None, loop), reader)


_started: list[socket.socket] = []


def _server() -> socket.socket:
    """The connection to the one that forks; it ends when we do."""
    if not _started:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST_BYTES_MAX)
        root = Path(__file__).parents[2]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("COORD_")} | {"PYTHONPATH": str(root)}
        process = subprocess.Popen([sys.executable, "-m", __name__], stdin=theirs.fileno(), cwd=root, env=environ)
        theirs.close()
        ours.recv(1)  # it has imported everything
        _started.append(ours)
        atexit.register(_end, process)
    return _started[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    _started.pop().close()
    process.wait(10)


def _fork(server: socket.socket, request: bytes, files: list[int]) -> int:
    """Ask for a process; its id.  Milliseconds."""
    _adopt(orphans=True)
    try:
        socket.send_fds(server, [request], files)
        pid = int.from_bytes(server.recv(8), "big")
    finally:
        _adopt(orphans=False)
    assert pid, "the process that forks has ended"
    return pid


def _adopt(*, orphans: bool) -> None:
    """Whether processes whose parent ends become ours: only those that we have forked are wanted."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0)


# --- the other half ----------------------------------------------------------------------


def _serve() -> _Request | None:
    """Fork when asked: in the fork, what it is to run; None when nobody will ask any more."""
    for module in _IMPORTED:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a fork has one thread alone"
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=os.dup(0)) as asked:
        asked.send(b"!")
        while True:
            data, ancillary, _, _ = asked.recvmsg(_REQUEST_BYTES_MAX, socket.CMSG_SPACE(3 * 4))
            if not data:
                return None
            files = array.array("i")
            for _, _, found in ancillary:
                files.frombytes(found)
            told, tells = os.pipe()
            middle = os.fork()
            if middle == 0:
                if (pid := os.fork()) == 0:
                    for target, fd in enumerate(files):
                        os.dup2(fd, target)
                    for fd in (*files, told, tells):
                        os.close(fd)
                    break
                os.write(tells, pid.to_bytes(8, "big"))
                os._exit(0)
            os.waitpid(middle, 0)  # whose end gives the fork to who asked: before he hears of it
            asked.send(os.read(told, 8))
            for fd in (*files, told, tells):
                os.close(fd)
    return msgspec.json.decode(data, type=_Request)


def main() -> None:
    """Serve, or be what was asked for."""
    request = _serve()
    if request is None:
        return
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environ)
    sys.argv = [request.module, request.argument]
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    with contextlib.suppress(KeyError):
        del sys.modules[request.module]  # it is to be `__main__`
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
