"""The audit's walk: a stream that is as it was projected passes, any other does not."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from coord.core import chain
from coord.core.audit import Gap, Point, Walk

Message = tuple[int, int, str, bytes | None, bytes]


def projected(count: int, rng: random.Random) -> tuple[list[Message], dict[int, list[Point]]]:
    """Messages of three partitions as (seq, partition, …), and the anchors that were written on the way."""
    messages: list[Message] = []
    points = {p: [Point(0, 0, chain.EMPTY)] for p in range(3)}
    digests, counts = dict.fromkeys(range(3), chain.EMPTY), dict.fromkeys(range(3), 0)
    for seq in range(1, count + 1):
        p = rng.randrange(3)
        message = (seq, p, f"coord.log.{p}.t", rng.choice([None, b"NATS/1.0\r\nA: b\r\n\r\n"]), rng.randbytes(4))
        messages.append(message)
        digests[p] = chain.extend(digests[p], seq, *message[2:])
        counts[p] += 1
        if rng.random() < 0.2 or seq == count:
            for q in [p] if seq < count else range(3):
                points[q].append(Point(seq, counts[q], digests[q]))
    return messages, points


def walked(messages: list[Message], points: dict[int, list[Point]], start: int, last: int) -> Walk:
    walk = Walk(points, start)
    for seq, partition, subject, headers, body in messages:
        if seq >= start:
            walk.add(partition, seq, subject, headers, body)
    walk.finish(last)
    return walk


@given(st.integers(1, 60), st.randoms(use_true_random=False), st.integers(1, 60))
def test_what_is_as_it_was_passes(count: int, rng: random.Random, start: int) -> None:
    messages, points = projected(count, rng)
    walk = walked(messages, points, min(start, count), count)
    assert (walk.gaps, walk.broken) == ([], [])
    if start == 1:
        assert walk.segments == sum(len(known) - 1 for known in points.values())


@given(st.integers(2, 60), st.randoms(use_true_random=False), st.sampled_from(["lost", "body", "headers", "swapped"]))
def test_what_is_not_does_not(count: int, rng: random.Random, how: str) -> None:
    messages, points = projected(count, rng)
    at = rng.randrange(count)
    seq, partition, subject, headers, body = messages[at]
    if how == "lost":
        del messages[at]
    elif how == "body":
        messages[at] = (seq, partition, subject, headers, bytes([body[0] ^ 1]) + body[1:])
    elif how == "headers":
        messages[at] = (seq, partition, subject, b"NATS/1.0\r\nA: c\r\n\r\n", body)
    else:
        other = (partition + 1) % 3
        messages[at] = (seq, other, subject.replace(str(partition), str(other)), headers, body)
    walk = walked(messages, points, 1, count)
    assert walk.gaps == ([Gap(seq, seq)] if how == "lost" else [])
    assert walk.missing == (how == "lost")
    concerned = {b.partition for b in walk.broken if b.after < seq <= b.upto}
    assert partition in concerned
    assert len(walk.broken) == (2 if how == "swapped" else 1), "damage to one segment shows in no other"
