"""Who runs PostgreSQL, and where its files can lie.

PostgreSQL refuses to run as root, so for root another account runs it: `postgres` when the
machine has it (a Debian with any PostgreSQL package does), else `coord` when an administrator
made one, else `nobody`.  No account is ever created.  That account must be able to walk to its
files: a checkout under /root (mode 0700) is out of its reach, and then the data and the cache
go to /var/lib/coord and /var/cache/coord, and the dev stack says so.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from coord.errors import EnvironmentProblem
from coord.ops.devstack.process import Account

ACCOUNTS = ("postgres", "coord", "nobody")
SYSTEM_CACHE = Path("/var/cache/coord")
SYSTEM_DATA = Path("/var/lib/coord")


def database_account() -> Account | None:
    """Whom PostgreSQL runs as; None: as this process, which is not root's.

    Raises `EnvironmentProblem` when this process is root's and the machine has no other account.
    """
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        account = Account.named(name)
        if account and account.uid != 0:
            return account
    raise EnvironmentProblem(
        "PostgreSQL does not run as root, and no other account exists here: adduser --system coord"
    )


def cache_dir(account: Account | None, *, asked: Path | None = None) -> Path:
    """The folder for downloaded servers, made when missing and reachable by `account`.

    `asked`, else $XDG_CACHE_HOME/coord, else ~/.cache/coord; where `account` cannot reach it or
    this process cannot write, /var/cache/coord for root and a private folder in the temporary
    one for others.  Raises `EnvironmentProblem` when nothing is writable and reachable.
    """
    candidates = [asked] if asked else [_xdg_cache(), SYSTEM_CACHE if account else _private_temporary()]
    for candidate in candidates:
        if _usable(candidate, account):
            return candidate.resolve()
    named = " and ".join(str(c) for c in candidates)
    raise EnvironmentProblem(f"No place for the servers ({named}): set COORD_CACHE_DIR to a writable folder.")


def database_home(data_dir: Path, account: Account | None, stack_id: str) -> Path:
    """The folder for the database's files of the stack in `data_dir`, reachable by `account`.

    `data_dir`/postgres, unless the account cannot walk there: then a folder of /var/lib/coord
    named after the checkout and the stack's own id, so that a stack made anew never meets the
    database of one that was deleted.
    """
    if account is None or reachable(data_dir, account):
        return data_dir / "postgres"
    return SYSTEM_DATA / f"{data_dir.resolve().parent.name or 'root'}-{stack_id}" / "postgres"


def make_folder(folder: Path, account: Account | None) -> None:
    """Make `folder` and its missing parents; for `account` to walk through, whatever the umask says."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if account:
        for made in missing:
            made.chmod(0o755)


def reachable(folder: Path, account: Account | None) -> bool:
    """Whether `account` may walk into `folder`.  The kernel is asked, so that ACLs count too."""
    if account is None:
        return os.access(folder, os.X_OK)
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", 'cd "$1"', "sh", os.fspath(folder.resolve())],
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def own(path: Path, account: Account | None) -> None:
    """Give a file or folder to `account`."""
    if account:
        os.chown(path, account.uid, account.gid)


def _xdg_cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path(os.environ.get("HOME", "")) / ".cache"
    return base / "coord" if base.is_absolute() else _private_temporary()


def _private_temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"coord-{os.geteuid()}"


def _usable(folder: Path, account: Account | None) -> bool:
    try:
        make_folder(folder, account)
        owner = folder.stat().st_uid
        # What is run from here must be ours: nobody else may have prepared it.
        if owner != os.geteuid() or not os.access(folder, os.W_OK):
            return False
    except OSError:
        return False
    return reachable(folder, account)
