#!/bin/sh
# Make .venv from any Python ≥ 3.11 (when there is none that works) and install one lock and coord itself into it.
#
#   tools/venv.sh LOCKFILE
#
# Everything that can be missing on a bare machine ends in one line that names the fix.
set -eu
cd "$(dirname "$0")/.."
lock=$1
venv=.venv
log=$venv/install.log

fail() {
  echo "$*" >&2
  exit 1
}

find_python() {
  for python in python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  fail 'coord needs Python 3.11 or newer: apt install python3 (Debian 12 and Ubuntu 24.04 have one)'
}

make_venv() {
  python=$(find_python)
  # Debian keeps ensurepip in a package of its own; without it venv stops half way.
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "This $python cannot make virtual environments: apt install python3-venv"
  rm -rf "$venv"
  "$python" -m venv "$venv" || fail "$python could not make $venv: is the folder writable and the disk not full?"
}

pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}

install_lock() {
  # Wheels alone first: without a compiler a source distribution would end in a page of errors.
  pip install --quiet --require-hashes --only-binary :all: -r "$lock" 2>"$log" && return
  if ! grep -q 'No matching distribution' "$log" || grep -qiE 'connection|resolution|timed out' "$log"; then
    tail -n 3 "$log" >&2
    fail 'pip could not install the locked dependencies: check the way to the package index, then try again'
  fi
  command -v cc >/dev/null ||
    fail 'A dependency has no wheel for this Python and there is no compiler: apt install build-essential python3-dev'
  pip install --quiet --require-hashes -r "$lock"
}

# A folder that was moved or whose Python is gone does not count.
[ "$("$venv/bin/python" -c 'import sys; print(sys.prefix)' 2>/dev/null)" = "$(pwd -P)/$venv" ] || make_venv
echo "Installing $lock into $venv …" >&2
install_lock
pip install --quiet --no-deps --no-build-isolation --editable .
