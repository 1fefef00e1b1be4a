"""Small volumes that can fill up: tmpfs in a mount namespace of this process's own, gone when it ends."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

_CLONE_NEWNS = 0x0002_0000
_MS_REC, _MS_PRIVATE = 0x4000, 0x4_0000
_MIB = 1024 * 1024
_BALLAST = "somebody-elses-file"


class NotAllowed(Exception):
    """This process may not mount anything."""


def own_mounts() -> None:
    """From now on what this process mounts is seen by it and its children alone.  Raises `NotAllowed`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise NotAllowed(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        raise NotAllowed(f"mounts cannot be made private: {os.strerror(ctypes.get_errno())}")


class Volume:
    """A tmpfs of `mib` MiB at `path`; it goes with the last process of the namespace."""

    def __init__(self, path: Path, mib: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs")

    def fill(self, leave_mib: int) -> None:
        """Somebody else's file takes all but so much of the room there is."""
        with (self.path / _BALLAST).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, int((self.free_mib - leave_mib) * _MIB))

    def make_room(self) -> None:
        """Somebody removes that file."""
        (self.path / _BALLAST).unlink()

    @property
    def free_mib(self) -> float:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize / _MIB

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=False, capture_output=True)

    def _mount(self, *arguments: str) -> None:
        done = subprocess.run(["mount", *arguments, self.path], check=False, capture_output=True, text=True)
        if done.returncode:
            raise NotAllowed(f"mount: {done.stderr.strip()}")
