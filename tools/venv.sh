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
newline='
'

fail() {
  echo "$*" >&2
  exit 1
}

# Every Python on PATH that would do, the one that a shell would take first, each once and by its own path.
pythons() {
  seen=:
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    rest=$PATH:
    while [ -n "$rest" ]; do
      candidate=${rest%%:*}/$name
      rest=${rest#*:}
      [ -x "$candidate" ] || continue
      candidate=$("$candidate" -c 'import os, sys
if sys.version_info < (3, 11):
    sys.exit(1)
print(os.path.realpath(sys.executable))' 2>/dev/null) || continue
      case $seen in *:"$candidate":*) continue ;; esac
      seen=$seen$candidate:
      echo "$candidate"
    done
  done
}

# How long a Python takes for what coord does all day (calls, dictionaries, strings): the best of nine, in µs.
pace() {
  "$1" -c '
import time
class Fact:
    __slots__ = ("seq", "tokens")
    def __init__(self, seq, subject):
        self.seq, self.tokens = seq, subject.split(".")
    def key(self, *, width=1):
        return f"{self.tokens[1]}.{self.tokens[-1]}:{width}"
def turn(clock):
    seen, began = {}, clock()
    for seq in range(8000):
        fact = Fact(seq, "coord.tenant.task.%d" % (seq & 63))
        seen[fact.key(width=seq & 7)] = seen.get(fact.key(), 0) + 1
    return clock() - began
print(int(1e6 * min(turn(time.process_time) for _ in range(9))))' 2>/dev/null || echo 0
}

# The smaller of two that were measured; 0 was not.
least() {
  if [ "$1" -gt 0 ] && { [ "${2:-0}" -eq 0 ] || [ "$1" -lt "$2" ]; }; then echo "$1"; else echo "${2:-0}"; fi
}

# The first one, unless another runs coord a fifth faster: builds without profile-guided optimisation (what pyenv makes
# unless told otherwise) need a third more for everything.  PYTHON= names one and asks nothing.
find_python() {
  if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 ||
      fail "PYTHON=$PYTHON is no Python 3.11 or newer: name another one, or none for the best on PATH"
    echo "$PYTHON"
    return
  fi
  found=$(pythons)
  [ -n "$found" ] || fail 'coord needs Python 3.11 or newer: apt install python3 (Debian 12 and Ubuntu 24.04 have one)'
  first='' best='' first_us=0 best_us=0
  IFS=$newline
  for candidate in $found; do
    "$candidate" -c 'import venv, ensurepip' 2>/dev/null || continue
    if [ -z "$first" ]; then
      first=$candidate best=$candidate
      continue
    fi
    # By turns: what else the machine does for a moment must not choose.
    us=0
    for _ in 1 2 3; do
      first_us=$(least "$first_us" "$(pace "$first")")
      us=$(least "$us" "$(pace "$candidate")")
    done
    [ "$best" != "$first" ] || best_us=$first_us
    if [ "${us:-0}" -gt 0 ] && [ "$first_us" -gt 0 ] && [ $((us * 5)) -lt $((first_us * 4)) ] && [ "$us" -lt "$best_us" ]; then
      best=$candidate best_us=$us
    fi
  done
  unset IFS
  # Where none of them can make virtual environments, make_venv says so.
  [ -n "$best" ] || { echo "${found%%$newline*}"; return; }
  if [ "$best" != "$first" ]; then
    echo "Using $best: $((first_us * 100 / best_us)) % of the speed of $first (PYTHON=$first takes that one)" >&2
  fi
  echo "$best"
}

make_venv() {
  python=$(find_python) || exit 1
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
