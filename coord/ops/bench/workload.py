"""What is published: facts and samples as agents state them, the same in every run.

A fact's JSON body has 221 bytes and its headers 377, a frame of 100 samples about 1.2 KB.
Everything is drawn from a seed; only ids and times differ between runs.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from coord import limits
from coord.wire import headers, ids, subjects
from coord.wire.envelope import Encoded, Fact, Sample, encode_fact, encode_frame

SEED: Final = 7
TENANT: Final = "bench"
FRAME: Final = 100
"""Entries of a frame: what the publisher's metrics class makes when busy."""

SERIES: Final = ("cpu", "rss", "llm.tokens", "llm.latency")

_ENTITIES: Final = 5_000
"""Distinct ids, each its own ordering key: spread over all partitions."""

_BODIES: Final = 64


def bodies(seed: int = SEED) -> list[dict[str, Any]]:
    """Bodies of facts: what an analyst says about one source file."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(200)]
    return [
        {
            "path": "/".join(rng.choices(words, k=4)) + ".py",
            "lines": rng.randint(1_000, 9_999),
            "bytes": rng.randint(10_000, 99_999),
            "imports": rng.choices(words, k=8),
            "complexity": {"mean": rng.randint(100, 999) / 100, "max": rng.randint(10, 99)},
            "digest": f"{rng.getrandbits(128):032x}",
        }
        for _ in range(_BODIES)
    ]


def facts(count: int, data: Sequence[dict[str, Any]]) -> Iterator[Fact]:
    """Facts of the critical class, about entities in turn."""
    for i in range(count):
        yield Fact(kind="file", id=f"f{i % _ENTITIES}", event="analysed", data=data[i % _BODIES])


def encoded_facts(count: int, data: Sequence[dict[str, Any]], agents: Sequence[str]) -> list[Encoded]:
    """The messages of `facts`, ready to be sent, by agents in turn."""
    now = datetime.now(UTC)
    author = itertools.cycle(agents)
    return [
        encode_fact(fact, tenant=TENANT, agent=next(author), event_id=event_id(), occurred_at=now)
        for fact in facts(count, data)
    ]


def samples(count: int, values: Sequence[float], series: str = SERIES[0]) -> Iterator[Sample]:
    """Samples of one series."""
    size = len(values)
    for i in range(count):
        yield Sample(series=series, value=values[i % size])


def numbers(seed: int = SEED) -> list[float]:
    """Values of samples: none of them whole, as measurements are."""
    rng = random.Random(seed)
    return [rng.random() * 100 for _ in range(4_096)]


def sample_frames(count: int, values: Sequence[float], agents: Sequence[str]) -> list[Encoded]:
    """`count` frames of `FRAME` samples a millisecond apart, by agents and series in turn."""
    began = datetime.now(UTC)
    made = []
    for i in range(count):
        entries = [
            Sample(
                series=SERIES[i // len(agents) % len(SERIES)],
                value=values[(i * FRAME + j) % len(values)],
                occurred_at=began + timedelta(milliseconds=i + j),
            )
            for j in range(FRAME)
        ]
        made.append(
            encode_frame(entries, tenant=TENANT, agent=agents[i % len(agents)], event_id=event_id(), occurred_at=began)
        )
    return made


def with_new_ids(messages: Sequence[Encoded]) -> list[Encoded]:
    """The same messages under ids of their own: the broker stores them again."""
    made = []
    for message in messages:
        fresh = event_id()
        msg_id = message.msg_id.removesuffix(message.headers[headers.ID]) + fresh
        fields = message.headers | {headers.ID: fresh, headers.MSG_ID: msg_id}
        made.append(Encoded(message.subject, fields, message.body, msg_id))
    return made


def progress_frames(count: int, agents: Sequence[str], tenant: str = TENANT) -> list[Encoded]:
    """`count` frames of `FRAME` facts `task.progress`, each frame about one task, by agents in turn."""
    began = datetime.now(UTC)
    made = []
    for i in range(count):
        entries = [
            Fact(
                kind="task",
                id=f"t{i}",
                event="progress",
                data={"done": j, "of": FRAME, "step": "parse", "note": f"file {i * FRAME + j}"},
                occurred_at=began + timedelta(milliseconds=i + j),
            )
            for j in range(FRAME)
        ]
        made.append(
            encode_frame(entries, tenant=tenant, agent=agents[i % len(agents)], event_id=event_id(), occurred_at=began)
        )
    return made


def agents_of_all_partitions(per_partition: int) -> list[str]:
    """Names of agents, as many on each partition: the hash of a handful would leave some empty."""
    found: dict[int, list[str]] = {p: [] for p in range(limits.PARTITIONS)}
    for i in itertools.count(1):
        name = f"agent-{i}"
        mine = found[subjects.partition(name)]
        if len(mine) < per_partition:
            mine.append(name)
        if all(len(names) == per_partition for names in found.values()):
            break
    return [name for names in zip(*found.values(), strict=True) for name in names]


def event_id() -> str:
    """A fresh one, in the form the publisher gives them."""
    return ids.uuid7(time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10), "big"))
