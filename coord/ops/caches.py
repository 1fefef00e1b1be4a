"""Asking the caches of a fleet, and putting their answers together."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.wire import headers, subjects
from coord.wire.cache_api import CacheAnswer, CacheAsk, CacheStats, encode, read_answer


async def ask(
    conn: Connection, tenant: str, question: CacheAsk, *, wait_s: float, processes: int | None = None
) -> list[CacheAnswer]:
    """Who answers within `wait_s`, by agent and instance; returns as soon as `processes` have.

    The asker of `question` is replaced: each time it is asked anew.  Of one process the first answer counts.
    """
    asker = secrets.token_hex(8)
    found: dict[tuple[str, str], CacheAnswer] = {}
    enough = asyncio.Event()

    def heard(message: Message) -> None:
        try:
            _, agent, _ = subjects.parse_answer(message.subject)
            answer = read_answer(message.data)
        except errors.WireError:
            return
        # Whoever may publish there speaks for that agent alone.
        if not _is_said(message) or answer.agent != agent or len(found) >= limits.CACHE_ANSWERS_MAX:
            return
        found.setdefault((agent, answer.instance), answer)
        if processes is not None and len(found) >= processes:
            enough.set()

    subscription = await conn.subscribe(subjects.answer(tenant, None, asker), heard)
    try:
        await conn.flush()
        question = msgspec.structs.replace(question, asker=asker)
        conn.publish(subjects.ask(tenant, subjects.UNKNOWN, "cache"), encode(question))
        try:
            async with asyncio.timeout(wait_s):
                await enough.wait()
        except TimeoutError:
            pass
    finally:
        await subscription.unsubscribe()
    return [found[who] for who in sorted(found)]


def _is_said(message: Message) -> bool:
    """Whether somebody published it; what the broker answers in somebody's name has a reply subject or headers.

    What comes out of the agents' account has one header, the server's own.
    """
    return not message.reply and (message.raw_headers is None or set(message.headers) == {headers.REQUEST_INFO})


def stats_rows(answers: Iterable[CacheAnswer]) -> list[dict[str, Any]]:
    """One row a tier of a process."""
    return [
        {"agent": answer.agent, "instance": answer.instance, **_stats_row(stats)}
        for answer in answers
        for stats in answer.tiers
    ]


def total_rows(answers: Iterable[CacheAnswer]) -> list[dict[str, Any]]:
    """One row a tier, of all processes together."""
    by_tier: dict[str, list[CacheStats]] = {}
    for answer in answers:
        for stats in answer.tiers:
            by_tier.setdefault(stats.tier, []).append(stats)
    return [{"processes": len(found), **_stats_row(_sum(found))} for _, found in sorted(by_tier.items())]


def _sum(found: list[CacheStats]) -> CacheStats:
    total = msgspec.structs.asdict(found[0])
    for stats in found[1:]:
        for name, value in msgspec.structs.asdict(stats).items():
            if isinstance(value, dict):
                total[name] = {why: total[name].get(why, 0) + value.get(why, 0) for why in {**total[name], **value}}
            elif isinstance(value, int):
                total[name] += value
    return CacheStats(**total)


def _stats_row(stats: CacheStats) -> dict[str, Any]:
    target = limits.CACHE_HIT_TARGETS.get(stats.tier)
    return {
        "tier": stats.tier,
        "hit_rate": round(stats.hit_rate, 4),
        "target": target,
        "facts_moved": stats.moved.get("moved", 0),
        **{name: value for name, value in msgspec.structs.asdict(stats).items() if name != "tier"},
    }


def way_rows(answers: Iterable[CacheAnswer]) -> list[dict[str, Any]]:
    """One row a way of warming of a process that has used it."""
    return [
        {
            "agent": answer.agent,
            "instance": answer.instance,
            **msgspec.structs.asdict(paid),
            "hits_per_load": round(paid.hits_per_load, 3),
            "hits_per_mb": round(paid.hits_per_mb, 3),
        }
        for answer in answers
        for paid in answer.ways
        if paid.loads or paid.values
    ]


def key_rows(answers: Iterable[CacheAnswer], most: int) -> list[dict[str, Any]]:
    """The keys asked for most, of all processes together, and in how many tiers of theirs each is held."""
    rows: dict[str, dict[str, Any]] = {}
    for answer in answers:
        for entry in answer.entries:
            row = rows.setdefault(
                entry.key, {"key": entry.key, "reads": 0.0, "processes": 0, "held": {}, "bytes": None, "age_s": None}
            )
            row["reads"] += entry.reads
            row["processes"] += 1
            if entry.bytes is not None:
                row["held"][entry.tier] = row["held"].get(entry.tier, 0) + 1
                row["bytes"] = max(row["bytes"] or 0, entry.bytes)
            if entry.age_s is not None:
                row["age_s"] = max(row["age_s"] or 0.0, entry.age_s)
    return sorted(rows.values(), key=lambda row: (-row["reads"], row["key"]))[:most]


def evictor_rows(answers: Iterable[CacheAnswer], most: int) -> list[dict[str, Any]]:
    """What evicted most, of all processes together."""
    rows: dict[str, dict[str, Any]] = {}
    for answer in answers:
        for evictor in answer.evictors:
            row = rows.setdefault(evictor.tag, {"tag": evictor.tag, "entries": 0.0, "processes": 0})
            row["entries"] += evictor.entries
            row["processes"] += 1
    return sorted(rows.values(), key=lambda row: (-row["entries"], row["tag"]))[:most]


def entry_rows(answers: Iterable[CacheAnswer]) -> list[dict[str, Any]]:
    """One row for each key in each tier of each process."""
    return [
        {"agent": answer.agent, "instance": answer.instance, **msgspec.structs.asdict(entry)}
        for answer in answers
        for entry in answer.entries
    ]
