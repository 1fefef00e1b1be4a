"""Packages from the machine's own Debian mirror, without touching the machine.

A private apt configuration (own sources list, own lists, cache and status) on the mirror and
with the proxies that the machine's own sources use, verified by Debian's archive keyring.
The texts and choices are pure functions; `Apt` does what they say.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from coord import limits
from coord.errors import EnvironmentProblem
from coord.ops.devstack import process

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_DEBIAN_RELEASES = frozenset(
    ["bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable"]
)
_NOT_INHERITED = re.compile(r"Acquire::(IndexTargets|Changelogs)\b")
_DEPENDS = re.compile(r"[ |]+(?:Pre)?Depends: (\S+)")


class Mirror(msgspec.Struct, frozen=True):
    """A Debian archive that this machine already uses."""

    uri: str
    component: str = "main"


def find_mirror(index_targets: str) -> Mirror | None:
    """The Debian archive among `apt-get indextargets` lines "URI|RELEASE|COMPONENT"; None when there is none."""
    for line in index_targets.splitlines():
        uri, _, rest = line.strip().partition("|")
        release, _, component = rest.partition("|")
        if release in _DEBIAN_RELEASES and component == "main":
            return Mirror(uri.rstrip("/"))
    return None


def sources_list(mirror: Mirror, suite: str, keyring: Path | None) -> str:
    """The private sources list."""
    signed = f"[signed-by={keyring}] " if keyring else ""
    return f"deb {signed}{mirror.uri} {suite} {mirror.component}\n"


def apt_conf(folder: Path, architecture: str, inherited: str, *, sandbox_user: str) -> str:
    """The private configuration: the machine's way to its mirror (`apt-config dump`), our folders, no hooks."""
    kept = [
        line
        for line in inherited.splitlines()
        if line.startswith("Acquire::") and not _NOT_INHERITED.match(line) and not line.startswith("Acquire::Languages")
    ]
    ours = {
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::Parts": "/dev/null",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": folder / "state",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": architecture,
        "APT::Sandbox::User": sandbox_user,
        "Acquire::Languages": "none",
        # A mirror that is away is known in seconds: there is another edition to fall back to.
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "15",
        "Acquire::https::Timeout": "15",
    }
    return "\n".join([*kept, *(f'{key} "{value}";' for key, value in ours.items())]) + "\n"


def closure(depends: str, roots: Sequence[str], *, leave_out: re.Pattern[str]) -> list[str]:
    """`roots` and every library they need, out of `apt-cache depends --recurse`, sorted.

    Only libraries are followed (their names begin with "lib", and zlib1g): the rest of the
    dependencies set a machine up, and nothing is set up here.
    """
    edges: dict[str, list[str]] = {}
    package = ""
    for line in depends.splitlines():
        if not line.startswith((" ", "|", "<")):
            package = line.strip()
        elif found := _DEPENDS.match(line):
            edges.setdefault(package, []).append(found[1])
    wanted: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in wanted:
            continue
        wanted.add(name)
        libraries = (d for d in edges.get(name, []) if d.startswith("lib") or d == "zlib1g")
        todo += [d for d in libraries if not leave_out.match(d)]
    return sorted(wanted)


def machine_mirror() -> Mirror | None:
    """The Debian mirror in this machine's own sources; None when apt or such a source is missing."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return None
    try:
        said = process.run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)", "Identifier: Packages"],
            what="Reading the package sources",
        )
    except EnvironmentProblem:
        return None
    return find_mirror(said)


class Apt:
    """One suite of one mirror, with all of apt's state under `folder`."""

    def __init__(self, folder: Path, mirror: Mirror, suite: str, architecture: str) -> None:
        self.folder = folder
        self._mirror = mirror
        self._suite = suite
        self._architecture = architecture
        self._env: dict[str, str] = {}

    def update(self) -> None:
        """Write the configuration and fetch the suite's index.

        Raises `EnvironmentProblem` when the mirror does not answer or lacks the suite.
        """
        for sub in ("state", "lists/partial", "cache/archives/partial", "debs"):
            (self.folder / sub).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_text("")
        inherited = process.run(["apt-config", "dump"], what="Reading apt's configuration")
        (self.folder / "apt.conf").write_text(
            # The downloads lie in a folder that only this process's user can write: apt's own drop to another
            # user would not reach it.
            apt_conf(self.folder, self._architecture, inherited, sandbox_user="root")
        )
        keyring = KEYRING if KEYRING.is_file() else None
        (self.folder / "sources.list").write_text(sources_list(self._mirror, self._suite, keyring))
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._env = {"APT_CONFIG": str(self.folder / "apt.conf"), "PATH": path, "LC_ALL": "C", "HOME": str(self.folder)}
        try:
            # Without Error-Mode a mirror that does not answer is a warning and exit code 0.
            self._run("apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update", timeout_s=limits.DEV_DOWNLOAD_S)
        except EnvironmentProblem as exc:
            raise EnvironmentProblem(
                f"the Debian mirror of this machine's sources gave no index of {self._suite}: check the way to it"
            ) from exc

    def closure(self, roots: Sequence[str], *, leave_out: re.Pattern[str]) -> list[str]:
        """`roots` and the libraries they need."""
        no = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
        return closure(self._run("apt-cache", "depends", "--recurse", *no, *roots), roots, leave_out=leave_out)

    def download(self, packages: Sequence[str]) -> list[Path]:
        """The packages' files, verified by apt against the signed index."""
        self._run("apt-get", "-q", "download", *packages, cwd=self.folder / "debs", timeout_s=limits.DEV_DOWNLOAD_S)
        files = sorted((self.folder / "debs").glob("*.deb"))
        if len(files) != len(packages):
            raise EnvironmentProblem(f"The mirror gave {len(files)} of {len(packages)} packages: try again.")
        return files

    def _run(self, *argv: str, cwd: Path | None = None, timeout_s: float = limits.DEV_COMMAND_S) -> str:
        return process.run(
            argv, what=f"Fetching Debian {self._suite} packages", cwd=cwd, env=self._env, timeout_s=timeout_s
        )
