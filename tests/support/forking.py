"""Processes of a test's own that need not import coord again: forks of one that has done nothing else.

A program that a test starts takes half a second of CPU until it begins, all of it imports.  Here a process of its own
imports coord once for each worker, never connects or starts a thread, and forks when it is asked: what runs then is
the same module, as ``__main__``, with its own argument, folder, environment and files.  The fork is our child, not
that process's, so that its end is ours to see: it is forked twice, and we adopt the orphan.

What a person starts (``coord serve``, examples of the documents) begins from nothing where its beginning is tested.
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
import types
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
_LINE_BYTES_MAX = 1 << 16


class _Request(msgspec.Struct, frozen=True):
    argv: list[str]
    """As Python's: ``-m``, a module and its arguments, or ``-c``, a program and its arguments, or a program's file."""
    cwd: str
    environ: dict[str, str]


class Forked:
    """As much of `asyncio.subprocess.Process` as tests need."""

    def __init__(
        self,
        pid: int,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader | None = None,
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
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

    async def communicate(self) -> tuple[bytes, bytes]:
        """Tell it nothing, and wait for its end: all that it wrote."""
        self.stdin.close()
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read() if self.stderr else _nothing())
        await self.wait()
        return out, err

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.stdin.close()
        self._ended.set()


async def _nothing() -> bytes:
    return b""


async def python(
    *argv: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stderr: int = 2,
    limit: int = _LINE_BYTES_MAX,
    options: tuple[str, ...] = (),
) -> Forked:
    """Run what Python would with `argv`, a ``-m``, a ``-c`` or a file, with pipes to its stdin and from its stdout.

    `cwd`, `env`: ours unless given; `stderr`: a file, ours unless given, or one of those that `subprocess` names;
    `limit`: of a line; `options`: of Python itself.
    """
    environ = dict(os.environ if env is None else env)
    request = msgspec.json.encode(_Request([str(each) for each in argv], str(cwd or Path.cwd()), environ))
    server = await asyncio.to_thread(_server, options)
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    ours_err: int | None = None
    if stderr == subprocess.PIPE:
        ours_err, theirs_err = os.pipe()
    elif stderr == subprocess.DEVNULL:
        theirs_err = os.open(os.devnull, os.O_WRONLY)
    else:
        theirs_err = os.dup(theirs_out if stderr == subprocess.STDOUT else stderr)
    try:
        pid = _fork(server, request, [theirs_in, theirs_out, theirs_err])
    finally:
        for theirs in (theirs_in, theirs_out, theirs_err):
            os.close(theirs)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(ours_in, "wb", 0))
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    stdout = await _reader(ours_out, limit)
    return Forked(pid, writer, stdout, None if ours_err is None else await _reader(ours_err, limit))


async def _reader(pipe: int, limit: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(pipe, "rb", 0))
    return reader


_started: dict[tuple[str, ...], socket.socket] = {}
"""By Python's options."""
_starting = threading.Lock()
"""Two programs may be asked for at once, and threads ask."""


def _server(options: tuple[str, ...]) -> socket.socket:
    """The connection to the one that forks; it ends when we do."""
    with _starting:
        if options not in _started:
            ours, theirs = _pair()
            root = Path(__file__).parents[2]
            environ = {k: v for k, v in os.environ.items() if not k.startswith("COORD_")} | {"PYTHONPATH": str(root)}
            command = [sys.executable, *options, "-m", __name__]
            process = subprocess.Popen(command, stdin=theirs.fileno(), cwd=root, env=environ)
            theirs.close()
            ours.recv(1)  # it has imported everything
            _started[options] = ours
            atexit.register(_end, options, process)
        return _started[options]


def begin() -> None:
    """In a fork that has begun nothing yet: one of its own forks for it, too."""
    ours, theirs = _pair()
    if os.fork() == 0:
        ours.close()
        request = _forks(theirs)
        if request is None:
            os._exit(0)
        _be(request)
        sys.exit()
    theirs.close()
    _started[()] = ours


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST_BYTES_MAX)
    return ours, theirs


def _end(options: tuple[str, ...], process: subprocess.Popen[bytes]) -> None:
    _started.pop(options).close()
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


def _forks(asked: socket.socket) -> _Request | None:
    """Fork when asked: in the fork, what it is to run; None when nobody will ask any more."""
    with asked:
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


def _be(request: _Request) -> None:
    """Run what was asked for."""
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environ)
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    kind, *arguments = request.argv
    if kind == "-m":
        sys.argv = arguments
        with contextlib.suppress(KeyError):
            del sys.modules[sys.argv[0]]  # it is to be `__main__`
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    if kind == "-c":
        name, text = "<string>", arguments.pop(0)
    else:
        name, text = kind, Path(kind).read_text(encoding="utf-8")
    sys.argv = [kind, *arguments]
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(text, name, "exec"), program.__dict__)


def main() -> None:
    """Import everything, and fork when asked: then be what was asked for."""
    for module in _IMPORTED:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a fork has one thread alone"
    gc.collect()
    gc.freeze()
    asked = socket.socket(fileno=os.dup(0))
    asked.send(b"!")
    if request := _forks(asked):
        _be(request)


if __name__ == "__main__":
    main()
