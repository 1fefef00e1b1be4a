"""The ids that a process gives: unique without asking anybody, whatever becomes of the process or its clock."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.client.event_ids import EventIds
from coord.wire import ids


def drawn(*sessions: int) -> Callable[[int], int]:
    """Random bits that are known."""
    left = iter(sessions)
    return lambda bits: next(left) & (1 << bits) - 1


def test_ids_count_up_behind_bits_that_are_drawn_once():
    session = 0x2AAAAAAAAAAAAAAAAAA
    give = EventIds(drawn(session))
    assert [give() for _ in range(600)] == [ids.counted_id(session, n) for n in range(600)]


@given(st.lists(st.sampled_from(["take", "renew", "fork", "block"]), max_size=30))
def test_no_id_is_given_twice_and_they_are_in_order_within_a_session(steps):
    give = EventIds()
    sessions: list[list[str]] = [[]]
    for step in steps:
        if step == "renew":
            give.renew()
            sessions.append([])
        elif step == "fork":  # the parent goes on elsewhere with what it has
            give.forked()
            sessions.append([])
        else:
            sessions[-1] += [give() for _ in range(257 if step == "block" else 1)]
    given_ids = [one for session in sessions for one in session]
    assert len(set(given_ids)) == len(given_ids)
    for session in sessions:
        assert session == sorted(session)
        assert len({one[:24] for one in session}) <= 1
    assert all(uuid.UUID(one).version == 8 and str(uuid.UUID(one)) == one for one in given_ids)


def test_who_has_counted_to_the_end_begins_another_session():
    give = EventIds(drawn(1, 2), first=ids.COUNT_MAX - 255)
    found = [give() for _ in range(258)]
    assert found == [ids.counted_id(1, ids.COUNT_MAX - 255 + n) for n in range(256)] + [
        ids.counted_id(2, n) for n in range(2)
    ]


def test_a_process_that_begins_again_draws_other_bits():
    assert len({EventIds()()[:24] for _ in range(1_000)}) == 1_000


def test_no_clock_is_read(monkeypatch: pytest.MonkeyPatch):
    def none() -> None:
        raise AssertionError("a clock was read")

    give = EventIds()
    for name in ("time", "time_ns", "monotonic", "monotonic_ns"):
        monkeypatch.setattr(time, name, none)
    assert len({give() for _ in range(1_000)}) == 1_000


def test_threads_share_one_count():
    give = EventIds()
    each, threads = 5_000, 4
    found: list[list[str]] = [[] for _ in range(threads)]
    begin = threading.Barrier(threads)

    def take(mine: list[str]) -> None:
        begin.wait()
        mine += [give() for _ in range(each)]

    work = [threading.Thread(target=take, args=(mine,)) for mine in found]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len({one for mine in found for one in mine}) == each * threads
    assert all(mine == sorted(mine) for mine in found)
    assert max(mine[-1] for mine in found)[24:] == f"{each * threads - 1:012x}", "none is left out"


FORKS = """
import os
from coord.client.event_ids import new_event_id
begun = new_event_id()
child = os.fork()
os.write(1, (new_event_id() + os.linesep).encode())  # one write, which the other process cannot get into
if child:
    os.waitpid(child, 0)
"""


def test_a_forked_process_has_a_session_of_its_own():
    # In a process of its own: forking one with threads is warned of.
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=120, check=True)
    one, other = done.stdout.split()
    assert len(one) == len(other) == 36
    assert one[:24] != other[:24]
