"""coord's streams on a test's broker."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from coord.bus import topology
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.runtime import assets


async def apply_topology(conn: Connection, profile: str = "development", **streams: dict[str, Any]) -> None:
    """streams/ as in `profile`; `EVENTS={…}` overrides fields of a stream."""
    wanted = topology.load(assets.streams_dir(), profile)
    for stream, fields in streams.items():
        wanted = wanted.with_fields(stream, **fields)
    await topology.apply(conn, wanted)


class Copy(msgspec.Struct):
    """What `nats stream backup` writes."""

    said: dict[str, Any]
    chunks: list[bytes]


async def back_up(conn: Connection, stream: str) -> Copy:
    """A stream as it is, with its consumers."""
    chunks: list[bytes] = []
    whole = asyncio.Event()

    def take(message: Message) -> None:
        if not message.data:
            whole.set()
            return
        chunks.append(bytes(message.data))
        conn.publish(message.reply)

    inbox = conn.new_inbox()
    listening = await conn.subscribe(inbox, take)
    said = await conn.api(f"STREAM.SNAPSHOT.{stream}", {"deliver_subject": inbox, "chunk_size": 65_536})
    async with asyncio.timeout(100):
        await whole.wait()
    await listening.unsubscribe()
    return Copy({"config": said["config"], "state": said["state"]}, chunks)


async def restore(conn: Connection, stream: str, copy: Copy) -> None:
    """As `nats stream restore`."""
    to = (await conn.api(f"STREAM.RESTORE.{stream}", copy.said))["deliver_subject"]
    for chunk in [*copy.chunks, b""]:
        answer = await conn.request(to, chunk, timeout_s=100)
        assert b'"error"' not in answer.data, answer.data
