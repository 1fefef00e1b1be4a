"""tools/venv.sh on machines that lack something: each ends in one line that names the fix."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path("tools/venv.sh").resolve()

# A python3 that is a shell script: it answers what venv.sh asks, and its venv's python is itself.
PYTHON = """#!/bin/sh
# {name}
case "$*" in
  *version_info*) echo "$0"; exit {version} ;;
  *process_time*) echo {pace} ;;
  *ensurepip*) exit {ensurepip} ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit 0 ;;
  *sys.prefix*) cd "$(dirname "$0")/.." && pwd -P ;;
  *"--only-binary"*) {wheels} ;;
  *"--require-hashes"*) echo built; exit 0 ;;
  *"--editable ."*) echo editable; exit 0 ;;
  *) exit 9 ;;
esac
"""


def run(
    tmp_path: Path,
    *,
    compiler: bool = False,
    second: dict[str, object] | None = None,
    env: dict[str, str] | None = None,
    **answers: object,
) -> subprocess.CompletedProcess[str]:
    """Run a copy of venv.sh on a machine with nothing but a shell, its tools and the fake Python (and a second one)."""
    checkout, bin_dir = tmp_path / "checkout", tmp_path / "bin"
    (checkout / "tools").mkdir(parents=True, exist_ok=True)
    bin_dir.mkdir(exist_ok=True)
    shutil.copy(TOOLS, checkout / "tools")
    for tool in ("sh", "rm", "mkdir", "cp", "dirname", "grep", "tail"):
        if not (bin_dir / tool).exists():
            (bin_dir / tool).symlink_to(shutil.which(tool) or tool)
    answers = {"name": "first", "version": 0, "ensurepip": 0, "pace": 1000, "wheels": "exit 0", **answers}
    programs = {"python3": PYTHON.format(**answers)}
    if second is not None:
        programs["python3.13"] = PYTHON.format(**{**answers, **second})
    if compiler:
        programs["cc"] = "#!/bin/sh\n"
    for name, text in programs.items():
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(0o755)
    return subprocess.run(
        [str(checkout / "tools" / "venv.sh"), "x.lock"],
        env={"PATH": str(bin_dir), "HOME": str(tmp_path), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        cwd=os.fspath(tmp_path),
    )


@pytest.mark.parametrize(
    ("answers", "fix"),
    [
        ({"version": 1}, "apt install python3 "),
        ({"ensurepip": 1}, "apt install python3-venv"),
        ({"wheels": "echo 'ERROR: No matching distribution found for x' >&2; exit 1"}, "apt install build-essential"),
        ({"wheels": "echo 'Failed to establish a new connection' >&2; exit 1"}, "check the way to the package index"),
    ],
)
def test_what_is_missing_is_named_in_the_last_line(tmp_path, answers, fix):
    done = run(tmp_path, **answers)
    assert done.returncode == 1, done.stderr
    assert fix in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_with_a_compiler_what_has_no_wheel_is_built(tmp_path):
    missing = "echo 'ERROR: No matching distribution found for x' >&2; exit 1"
    done = run(tmp_path, compiler=True, wheels=missing)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["built", "editable"]


def test_a_virtual_environment_is_kept_unless_it_was_moved(tmp_path):
    assert run(tmp_path).returncode == 0
    marker = tmp_path / "checkout" / ".venv" / "marker"
    marker.touch()
    assert run(tmp_path).returncode == 0
    assert marker.exists()
    (tmp_path / "checkout" / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho /elsewhere/.venv\n")
    assert run(tmp_path).returncode == 0
    assert not marker.exists()


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ({}, {"pace": "790"}, "second"),
        ({}, {"pace": "810"}, "first"),
        ({}, {"pace": ""}, "first"),
        ({"ensurepip": 1}, {"pace": "5000", "ensurepip": 0}, "second"),
        ({"version": 1}, {"pace": "5000", "version": 0}, "second"),
    ],
    ids=["a fifth faster", "hardly faster", "cannot say", "the first has no venv", "the first is too old"],
)
def test_the_first_python_that_will_do_unless_another_is_a_fifth_faster(tmp_path, first, second, taken):
    done = run(tmp_path, second={**second, "name": "second"}, **first)
    assert done.returncode == 0, done.stderr
    assert f"# {taken}\n" in (tmp_path / "checkout" / ".venv" / "bin" / "python").read_text()
    assert ("% of the speed" in done.stderr) == (taken == "second" and not first)


def test_whoever_names_a_python_is_not_asked(tmp_path):
    done = run(tmp_path, second={"pace": "1", "name": "second"}, env={"PYTHON": "python3"})
    assert done.returncode == 0, done.stderr
    assert "# first\n" in (tmp_path / "checkout" / ".venv" / "bin" / "python").read_text()
    shutil.rmtree(tmp_path / "checkout")
    done = run(tmp_path, env={"PYTHON": "python9"})
    assert done.returncode == 1
    assert "PYTHON=python9 is no Python 3.11 or newer" in done.stderr
