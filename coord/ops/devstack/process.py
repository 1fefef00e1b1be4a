"""Programs that the dev stack runs: started so that they die with it, stopped by their own id.

Each child gets its own session, so that Ctrl-C in a terminal reaches coord alone and the
servers live until coord has drained.  Each child gets a parent-death signal, so that it ends
even when coord is killed.  Nothing here ever signals a process by name.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from coord import limits
from coord.errors import EnvironmentProblem
from coord.runtime import cores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_POLL_S = 0.02

_outliving: list[subprocess.Popen[bytes]] = []


class ProcessRef(msgspec.Struct, frozen=True):
    """One process for as long as the machine is up: an id alone is given to others later."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        """The process that has this id now; None when there is none (a zombie is none)."""
        started = _started(pid)
        return cls(pid, started) if started else None

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _started(self.pid) == self.started


class Account(msgspec.Struct, frozen=True):
    """A system account to run a server as."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> Account | None:
        """The account `name`; None when the machine has none."""
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        return cls(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


class Child:
    """A running program, its log, and how to end it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process
        self.ref = ProcessRef.of(process.pid)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL and reap: returns when it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    async def stop(self, first: signal.Signals, timeout_s: float = limits.DEV_STOP_S) -> None:
        """Ask with `first`, then kill after `timeout_s`.  Stopping twice is legal."""
        if self._process.poll() is None:
            self._process.send_signal(first)
            with contextlib.suppress(TimeoutError):
                await wait_until(self._gone, timeout_s)
        self.kill()

    async def ready(self, probe: Callable[[], Awaitable[bool]], timeout_s: float = limits.DEV_START_S) -> None:
        """Wait until `probe` answers True.

        Raises `EnvironmentProblem`, with the log's last lines, when the program ends before
        that or does not get there within `timeout_s`.
        """

        async def settled() -> bool:
            return self._process.poll() is not None or await probe()

        try:
            await wait_until(settled, timeout_s)
        except TimeoutError:
            self.kill()
            raise EnvironmentProblem(self._failure(f"was not ready after {timeout_s:g} s")) from None
        if self._process.poll() is not None:
            raise EnvironmentProblem(self._failure(f"ended with exit code {self._process.returncode}"))

    async def _gone(self) -> bool:
        return self._process.poll() is not None

    def _failure(self, what: str) -> str:
        return f"{self.name} {what}; its log {self.log} ends: {tail(self.log)}"


def spawn(
    name: str,
    argv: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path,
    account: Account | None = None,
    die_with_parent: signal.Signals | None = signal.SIGTERM,
    env: Mapping[str, str] | None = None,
) -> Child:
    """Start a server in its own session with its output appended to `log`; it pushes nobody off a core.

    `account`: whom to run as (None: as this process).  `die_with_parent`: the signal it gets
    when the thread that called this ends; None lets it outlive us.
    Raises `EnvironmentProblem` when the program cannot be started.
    """
    command = [os.fspath(a) for a in argv]
    options: dict[str, int | list[int]] = {}
    if die_with_parent is not None and (setpriv := _setpriv()):
        # setpriv execs the program: its pid is the program's, and the signal is set after the change of user,
        # which would clear it.
        wrapper = [setpriv, f"--pdeathsig={die_with_parent.name.removeprefix('SIG')}"]
        if account:
            wrapper += [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
        command = [*wrapper, "--", *command]
    elif account:
        options = {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        with log.open("ab") as out, cores.in_batch():
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,  # type: ignore[call-overload]
            )
    except OSError as exc:
        raise EnvironmentProblem(f"Cannot start {name} ({argv[0]}): {exc.strerror or exc}.") from exc
    if die_with_parent is None:
        _outliving.append(process)  # a Popen that is collected while its program runs is a ResourceWarning
    elif not _setpriv():
        atexit.register(process.terminate)  # the best there is without a parent-death signal
    return Child(name, process, log)


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    cwd: Path | None = None,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = limits.DEV_COMMAND_S,
) -> str:
    """Run a program to its end and return what it printed.

    Raises `EnvironmentProblem` naming `what` it was for, when it fails or takes longer than `timeout_s`.
    """
    options: dict[str, int | list[int]] = {}
    if account:
        options = {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [os.fspath(a) for a in argv],
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            **options,  # type: ignore[call-overload]
        )
    except subprocess.TimeoutExpired as exc:
        raise EnvironmentProblem(f"{what}: {Path(argv[0]).name} took longer than {timeout_s:g} s.") from exc
    except OSError as exc:
        raise EnvironmentProblem(f"{what}: cannot run {argv[0]}: {exc.strerror or exc}.") from exc
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        raise EnvironmentProblem(f"{what}: {Path(argv[0]).name} ended with exit code {done.returncode}: {said}")
    return str(done.stdout)


async def end_leftover(ref: ProcessRef, first: signal.Signals, timeout_s: float = limits.DEV_STOP_S) -> None:
    """End a process that an earlier stack left running; it is not our child."""

    async def gone() -> bool:
        return not ref.alive()

    for os_signal, wait_s in ((first, timeout_s), (signal.SIGKILL, timeout_s)):
        if not ref.alive():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(ref.pid, os_signal)
        with contextlib.suppress(TimeoutError):
            await wait_until(gone, wait_s)


async def wait_until(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
    """Poll `condition` until it is True.  Raises TimeoutError after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - another process's state: nobody sets an Event for it
            await asyncio.sleep(_POLL_S)


def tail(path: Path, lines: int = 4) -> str:
    """The last lines of a log on one line, for an error message."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - 4096))
            text = f.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return " | ".join(text.strip().splitlines()[-lines:]) or "(empty)"


def _started(pid: int) -> str | None:
    """When a process was started, in the system's own words; None when it is gone or a zombie."""
    try:
        # The program's name may hold blanks and brackets: what follows its last bracket is fields 3 onwards.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    else:
        return None if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, since = listed.stdout.strip().partition(" ")
    return None if not since or state.startswith("Z") else since.strip()


@functools.cache
def _setpriv() -> str | None:
    """util-linux's setpriv, when it can set a parent-death signal."""
    found = shutil.which("setpriv", path=os.environ.get("PATH", "") + ":/usr/bin:/bin")
    if not found:
        return None
    shown = subprocess.run([found, "--help"], capture_output=True, text=True, check=False)
    return found if "--pdeathsig" in shown.stdout else None
