"""`coord bench cache`, a little of it: that it measures what it says, not how fast this machine is."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from coord.ops.bench import caching


@pytest.mark.slow
async def test_hits_are_compared_and_a_fleet_is_asked() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coord.ops.bench", "cache", "--scale", "0.02", "--seconds", "2", "-o", "json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    figures: dict[str, Any] = json.loads(out)["figures"]
    assert figures["stale_answers"] == 0
    assert figures["answers_checked"] > 0
    assert figures["eviction_ms"]["p99"] > 0
    assert figures["hit_rate"]["l1"] < 1
    assert all(figures[name] >= 0 for name in figures if name.startswith(("l1_", "hit_ns_")))


def test_an_answer_older_than_what_was_heard_is_stale() -> None:
    class Answers:
        def __init__(self, *answers: tuple[str, int, int]) -> None:
            self.answers = dict.fromkeys(answers, 3)

    commits: Any = [{"id": "n1", "seq": 5}, {"id": "n2", "seq": 6}, {"id": "n1", "seq": 9}]
    good: Any = Answers(("n1", 0, 0), ("n1", 5, 8), ("n1", 9, 8), ("n2", 6, 100), ("n3", 0, 100))
    old: Any = [Answers(("n1", 5, 9)), Answers(("n2", 0, 6))]
    assert caching._stale([good], commits) == 0
    assert caching._stale(old, commits) == 6
