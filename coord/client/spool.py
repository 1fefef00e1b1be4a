"""The spool: what is accepted while there is no broker, in files, so that a restart does not lose it.

A directory belongs to one agent and is used by one process at a time (``flock``: a lock whose
holder died is free).  Records are appended to segments and read back in order; a segment is
removed once everything in it is done.  ``done`` holds the number below which all is, and
the number below which each may have been sent.

Writes go to the kernel at once, in the event loop (5 µs of CPU), and survive the end of the
process.  Critical records are fsynced too, in a thread, several at a time: until then a power
cut takes them, as it takes the others that the kernel had not written.

Damage is never silent: what follows the first bad record of a segment is kept beside it as
``….damaged``, logged and counted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from coord import errors, limits
from coord.core import spool as core
from coord.core.spool import Record
from coord.telemetry import logs

_log = logs.get("spool")

_DONE_EVERY: Final = 64
"""Records between two writes of ``done``: 70 µs each."""


class _Segment:
    """One file; `sizes` are its records'."""

    __slots__ = ("fd", "first", "offsets", "path", "size")

    def __init__(self, path: Path, fd: int, first: int, sizes: list[int]) -> None:
        self.path = path
        self.fd = fd
        self.first = first
        self.offsets = [core.HEADER_BYTES]
        for size in sizes:
            self.offsets.append(self.offsets[-1] + size)

    @property
    def end(self) -> int:
        """Number after its last record."""
        return self.first + len(self.offsets) - 1

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self.offsets[-1]


class Spool:
    """See the module.  Not thread-safe, but for `fsync`."""

    def __init__(self, folder: Path, owner: str, bytes_max: int) -> None:
        """Open or make the directory; `owner`: ``tenant/agent``, which must stay the same.

        Raises `SpoolUnusable`: locked by another process, another agent's, or not writable.
        """
        self.folder = folder
        self.bytes_max = bytes_max
        self.problems = 0
        """Segments of which a part could not be read."""
        self.failed: OSError | None = None
        """Why nothing more is written; what is there is still sent."""
        self._segments: list[_Segment] = []
        self._low = self._next = self._end = 0
        self._low_written = self._sent_below = 0
        self.doubt_below = 0
        """A former process may have sent the records below this number."""
        self.failures = 0
        """Writes and fsyncs that the disk refused, ever."""
        self._done_early: set[int] = set()
        self._to_sync: list[int] = []
        """Descriptors of the directory and of segments that are full, since the last `to_sync`."""
        self._lock = -1
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = self._take_lock(owner)
            self._load()
        except OSError as exc:
            self.close()
            raise errors.SpoolUnusable(f"{exc.strerror or exc}", folder=str(folder)) from exc
        except BaseException:
            self.close()
            raise

    # --- what it holds -------------------------------------------------------------------

    @property
    def records(self) -> int:
        """Records that are not done."""
        return self._end - self._low - len(self._done_early)

    @property
    def unread(self) -> bool:
        """Whether `read` has another one."""
        while self._next < self._end and self._next in self._done_early:  # lost with a damaged segment
            self._next += 1
        return self._next < self._end

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size_bytes for segment in self._segments)

    def fits(self, size: int) -> bool:
        """Whether a record of about `size` bytes may be appended."""
        return (
            self.failed is None
            and self.size_bytes + size <= self.bytes_max
            and self._end - self._low < limits.SPOOL_RECORDS_MAX
        )

    # --- writing and reading -------------------------------------------------------------

    def append(self, record: Record) -> int | None:
        """Write one record; its number, or None where the disk refused it (`failed` says why)."""
        data = core.pack(record)
        try:
            if not self._segments or self._segments[-1].size_bytes + len(data) > limits.SPOOL_SEGMENT_BYTES:
                self._segments.append(self._new_segment())
            segment = self._segments[-1]
            written = os.pwrite(segment.fd, data, segment.size_bytes)
            if written != len(data):
                os.ftruncate(segment.fd, segment.size_bytes)  # part of a record would be reported as damage
                raise OSError(errno.ENOSPC, "no space left on device")
        except OSError as exc:
            self.give_up_writing(exc, "spool.write_failed")
            return None
        segment.offsets.append(segment.size_bytes + len(data))
        self._end += 1
        return self._end - 1

    def give_up_writing(self, why: OSError, event: str) -> None:
        """The disk refused something: nothing more is written until `failed` is cleared."""
        self.failed = why
        self.failures += 1
        error = errors.SpoolUnusable(why.strerror or str(why), folder=str(self.folder))
        error.__cause__ = why
        _log.error(event, error=error)

    def read(self) -> tuple[int, Record]:
        """The next record and its number; only where `unread`."""
        return self._next, core.unpack(self._bytes_of(self._next))

    def following(self, count_max: int) -> Iterator[tuple[int, Record]]:
        """What `read` would give if one advanced each time, `count_max` numbers at most."""
        for number in range(self._next, min(self._end, self._next + count_max)):
            if number not in self._done_early:
                yield number, core.unpack(self._bytes_of(number))

    def oldest(self) -> Record | None:
        """The oldest record that is not done."""
        return core.unpack(self._bytes_of(self._low)) if self._low < self._end else None

    def advance(self) -> None:
        """The record that `read` gave is about to be sent: a process that ends now leaves a note of it."""
        if self._next >= self._sent_below:
            self._sent_below = self._next + limits.SPOOL_AHEAD
            self._write_done()
        self._next += 1

    def rewind(self, number: int) -> None:
        """A record that `read` gave is not on its way any more: read from there again."""
        self._next = min(self._next, number)

    def done(self, number: int) -> None:
        """A record is stored, or refused for good: it is not sent again."""
        self._done_early.add(number)
        if number != self._low:
            return
        while self._low in self._done_early:
            self._done_early.remove(self._low)
            self._low += 1
        self._next = max(self._next, self._low)
        if self._low - self._low_written >= _DONE_EVERY or self._low == self._end:
            self._write_done()
        while self._segments and self._segments[0].end <= self._low:
            self._remove(self._segments[0])
        if not self._segments:
            self.failed = None  # its room is free again: try once more

    def refused(self, number: int) -> None:
        """The broker will never take this one: it is kept in the file ``refused``, a segment, and is done."""
        try:
            with (self.folder / "refused").open("ab") as file:
                if file.tell() < self.bytes_max:
                    file.write((b"" if file.tell() else core.header(0)) + self._bytes_of(number))
        except OSError as exc:
            _log.error("spool.refused_not_kept", folder=str(self.folder), error=str(exc))
        self.done(number)

    @property
    def has_full_segments(self) -> bool:
        """Whether `to_sync` should be called, whatever was written."""
        return bool(self._to_sync)

    def to_sync(self) -> list[int]:
        """Descriptors of all that was written since the last time, for `fsync` in a thread."""
        descriptors, self._to_sync = self._to_sync, []
        if self._segments:
            descriptors.append(os.dup(self._segments[-1].fd))
        return descriptors

    def close(self) -> None:
        """Let go of files and lock; what is not done stays.  Twice is legal."""
        if self._low != self._low_written:
            self._write_done()
        for descriptor in [*self._to_sync, *(segment.fd for segment in self._segments)]:
            with contextlib.suppress(OSError):
                os.fsync(descriptor)
            os.close(descriptor)
        self._segments, self._to_sync = [], []
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- below: how ----------------------------------------------------------------------

    def _bytes_of(self, number: int) -> bytes:
        segment = next(s for s in self._segments if s.first <= number < s.end)
        start, end = segment.offsets[number - segment.first : number - segment.first + 2]
        return os.pread(segment.fd, end - start, start)

    def _take_lock(self, owner: str) -> int:
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(fd)
            raise errors.SpoolUnusable("another process uses this spool", folder=str(self.folder)) from exc
        found = os.pread(fd, 1024, 0).decode(errors="replace")
        if found and found != owner:
            os.close(fd)
            raise errors.SpoolUnusable("another agent's spool", folder=str(self.folder), owner=found, agent=owner)
        os.pwrite(fd, owner.encode(), 0)
        return fd

    def _load(self) -> None:
        done, self.doubt_below = _read_done(self.folder)
        self._sent_below = self.doubt_below
        for path in sorted(self.folder.glob("*.spool")):
            self._load_segment(path)
        self._segments.sort(key=lambda segment: segment.first)
        self._end = max([done, *(segment.end for segment in self._segments)])
        self.doubt_below = min(self.doubt_below, self._end)
        # Numbers lost with a damaged end are done: nothing can be sent for them.
        self._low = self._next = min([self._end, *(max(done, s.first) for s in self._segments if s.end > done)])
        held = [(s.first, s.end) for s in self._segments]
        for number in range(self._low, self._end):
            if not any(first <= number < end for first, end in held):
                self._done_early.add(number)
        for segment in [s for s in self._segments if s.end <= self._low]:
            self._remove(segment)  # killed between being done and being removed

    def _load_segment(self, path: Path) -> None:
        data = path.read_bytes()
        found = core.scan(data)
        if found.problem is not None:
            self.problems += 1
            path.with_suffix(".damaged").write_bytes(data[found.good_bytes :])
            _log.error(
                "spool.damaged", file=path.name, problem=found.problem,
                records_kept=len(found.sizes), bytes_aside=len(data) - found.good_bytes,
            )  # fmt: skip
        if not found.sizes:
            path.unlink()
            return
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(fd, found.good_bytes)
        self._segments.append(_Segment(path, fd, found.first, found.sizes))

    def _remove(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        os.close(segment.fd)
        segment.path.unlink(missing_ok=True)

    def _new_segment(self) -> _Segment:
        path = self.folder / f"{self._end:020d}.spool"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.pwrite(fd, core.header(self._end), 0) != core.HEADER_BYTES:
                raise OSError(errno.ENOSPC, "no space left on device")
            # 8 MiB take 10 ms: in a thread.  A file's name is the directory's data.
            self._to_sync += [os.dup(segment.fd) for segment in self._segments[-1:]]
            self._to_sync.append(os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        return _Segment(path, fd, self._end, [])

    def _write_done(self) -> None:
        """Atomic for a process that is killed; lost in a power cut it means records sent again, same ids."""
        self._low_written = self._low
        try:
            new = self.folder / "done.new"
            new.write_text(f"{self._low} {self._sent_below}")
            new.replace(self.folder / "done")
        except OSError as exc:
            _log.warning("spool.done_not_written", folder=str(self.folder), error=str(exc))


class Seen(msgspec.Struct, frozen=True):
    """A record that `look` found."""

    number: int
    record: Record
    maybe_sent: bool
    """Whether the log may have it."""


class Found(msgspec.Struct):
    """What a spool's directory holds."""

    owner: str
    size_bytes: int
    records: list[Seen]
    """Not done, oldest first, as far as ``done`` was brought up to date."""
    problems: list[str]
    aside: list[str]
    """Files with what was refused or damaged."""


def look(folder: Path) -> Found:
    """Read a spool without taking its lock or changing anything, also while it is in use.  `OSError`."""
    low, sent_below = _read_done(folder)
    found = Found((folder / "lock").read_text(errors="replace"), 0, [], [], [])
    for path in sorted(folder.glob("*.spool")):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # its records were done meanwhile
        found.size_bytes += len(data)
        seen = core.scan(data)
        at = core.HEADER_BYTES
        for number, size in enumerate(seen.sizes, seen.first):
            if number >= low:
                record = core.unpack(data[at : at + size])
                found.records.append(Seen(number, record, record.sent or number < sent_below))
            at += size
        if seen.problem is not None:
            found.problems.append(f"{path.name}: {seen.problem} after {len(seen.sizes)} records")
    found.aside = sorted(p.name for p in [*folder.glob("*.damaged"), *folder.glob("refused")])
    return found


def _read_done(folder: Path) -> tuple[int, int]:
    """(number below which all is done, number below which each may have been sent)."""
    try:
        numbers = [int(text) for text in (folder / "done").read_text().split()]
    except (FileNotFoundError, ValueError):
        return 0, 0
    return (numbers[0], numbers[-1]) if numbers else (0, 0)


def fsync(descriptors: list[int]) -> None:
    """In a thread: fsync each, in order, and close them all; raises the first `OSError`."""
    with contextlib.ExitStack() as stack:
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        for descriptor in descriptors:
            os.fsync(descriptor)
