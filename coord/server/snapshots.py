"""Snapshots of what a partition's deciders have folded: written now and then, read by whoever comes next.

::

    coord.snapshot.{p}.{token}-0 … -n   the state: MessagePack, zstd, cut into pieces
    coord.snapshot.{p}.head             JSON: of which sequence of which stream, which pieces, their digest,
                                        and the oldest fact that open work needs

The pieces are stored first, then the head, on the condition that it follows the head that the
writer knows: of two who believe to own the partition one is refused.  A head whose pieces are
not there or differ from the digest is as good as none: the log is folded from its beginning.
So is one of facts that the log has lost (a power cut, a backup put back): the head says when a
message that it has folded was stored, and the log has to have that very message, or to have aged it out.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from base64 import b64decode
from typing import Any, Final

import msgspec
import zstandard

from coord import errors, limits
from coord.bus import errors_map
from coord.bus.connection import Connection
from coord.telemetry import logs
from coord.wire import headers, subjects
from coord.wire.times import parse_time, to_unix_us

_log = logs.get("deciders")

_HEAD: Final = "head"
_THREAD_BYTES: Final = 256 * limits.KIB
"""From this size on compressing is left to a thread: 1 ms."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What the head says; only grows."""

    seq: int
    """Everything up to this stream sequence is folded, and what it led to is in the log."""
    created: str
    """When EVENTS was created, as the broker says it: another stream's snapshot is none."""
    witness: tuple[int, int] | None = None
    """(sequence, Unix microseconds) of a message up to `seq`: the log whose message there was stored at another
    moment has lost what this is made of."""
    oldest: int | None = None
    """The oldest sequence that open work needs."""
    pieces: list[tuple[str, int]] = []
    """(name, stream sequence in SNAPSHOTS)."""
    digest: str = ""
    """BLAKE2b of the pieces together, hexadecimal."""
    bytes: int = 0
    """Compressed."""

    @property
    def needs(self) -> int:
        """The oldest sequence of the log that whoever restores this may need."""
        return self.seq + 1 if self.oldest is None else min(self.oldest, self.seq + 1)


class Snapshot(msgspec.Struct, frozen=True):
    """What was found."""

    head: Head
    states: dict[str, Any]
    """By decider."""


class Snapshots:
    """Of one partition, for one session."""

    def __init__(self, conn: Connection, partition: int) -> None:
        self.bytes = 0
        """Of the newest one written or read, compressed."""
        self._conn = conn
        self._partition = partition
        self._head_seq = 0
        self._pieces: list[str] = []
        self._token = secrets.token_hex(4)
        self._written = 0

    # --- reading -----------------------------------------------------------------------------

    async def load(self, created: str, last_seq: int) -> Snapshot | None:
        """The newest snapshot of the stream that was created then and ends there; None: none that can be used.

        Raises what `Connection.api` raises, but nothing because of what is stored.
        """
        found = await read_head(self._conn, self._partition)
        self._head_seq, head = found if found is not None else (0, None)
        if head is None:
            return None
        self._pieces = [name for name, _ in head.pieces]
        if head.created != created:
            _log.info("deciders.snapshot_of_another_stream", partition=self._partition)
            return None
        if head.seq > last_seq or await self._is_written_over(head.witness):
            where = {"partition": self._partition, "snapshot": head.seq, "last_seq": last_seq}
            _log.error("deciders.snapshot_of_lost_facts", **where)
            return None
        try:
            blob = b"".join([await self._piece(seq) for _, seq in head.pieces])
            if _digest(blob) != head.digest:
                raise errors.SnapshotBroken("its digest differs")
            states = await _in_thread(_unpack, blob)
        except (errors.SnapshotBroken, errors.ApiNotFound) as exc:
            _log.error("deciders.snapshot_broken", partition=self._partition, error=exc)
            return None
        self.bytes = head.bytes
        return Snapshot(head, states)

    async def _is_written_over(self, witness: tuple[int, int] | None) -> bool:
        if witness is None:  # of a release that did not say it
            return False
        seq, stored_us = witness
        try:
            answer = await self._conn.api(f"STREAM.MSG.GET.{subjects.EVENTS}", {"seq": seq})
        except errors.ApiNotFound:
            return False  # it has left the window
        return to_unix_us(parse_time(answer["message"]["time"])) != stored_us

    async def _piece(self, seq: int) -> bytes:
        answer = await self._conn.api(f"STREAM.MSG.GET.{subjects.SNAPSHOTS}", {"seq": seq})
        return b64decode(answer["message"].get("data") or "")

    # --- writing -----------------------------------------------------------------------------

    async def save(
        self, states: bytes, *, seq: int, created: str, oldest: int | None, witness: tuple[int, int] | None = None
    ) -> None:
        """Store the packed states as of `seq`; `witness` as in `Head`.

        Raises `PinLost` when another process stored one meanwhile, `StreamFull`, and
        what a request raises.
        """
        if len(states) > limits.SNAPSHOT_BYTES_MAX:
            raise errors.PayloadTooLarge("the deciders' state is larger than a snapshot may be", bytes=len(states))
        blob = await _in_thread(_pack, states)
        self._written += 1
        prefix = f"{self._token}{self._written % 2}"
        pieces: list[tuple[str, int]] = []
        for at in range(0, max(1, len(blob)), limits.SNAPSHOT_PIECE_BYTES):
            name = f"{prefix}-{len(pieces)}"
            piece = blob[at : at + limits.SNAPSHOT_PIECE_BYTES]
            pieces.append((name, await self._store(subjects.snapshot(self._partition, name), piece, None)))
        digest, size = _digest(blob), len(blob)
        head = Head(seq=seq, created=created, witness=witness, oldest=oldest, pieces=pieces, digest=digest, bytes=size)
        place = subjects.snapshot(self._partition, _HEAD)
        try:
            self._head_seq = await self._store(place, msgspec.json.encode(head), self._head_seq)
        except errors.WrongLastSequence as exc:
            raise errors.PinLost("another process wrote a snapshot", partition=self._partition) from exc
        self.bytes = len(blob)
        stale, self._pieces = self._pieces, [name for name, _ in pieces]
        for name in set(stale) - set(self._pieces):
            await self._purge(name)

    async def _store(self, subject: str, body: bytes, after: int | None) -> int:
        block = None if after is None else headers.encode({headers.EXPECTED_LAST_SUBJECT_SEQ: str(after)})
        try:
            message = await self._conn.request(subject, body, headers=block, timeout_s=limits.API_TIMEOUT_S)
        except errors.ServiceUnavailable as exc:
            raise errors.NoStream(subject=subject) from exc
        answer = msgspec.json.decode(message.data, type=dict[str, Any])
        if "error" in answer:
            raise errors_map.publish_error(answer["error"], subject)
        return int(answer["seq"])

    async def _purge(self, name: str) -> None:
        place = subjects.snapshot(self._partition, name)
        await self._conn.api(f"STREAM.PURGE.{subjects.SNAPSHOTS}", {"filter": place})

    async def tidy(self) -> None:
        """Remove pieces that no head names: of writers that died."""
        place = subjects.snapshot_filter(self._partition)
        info = await self._conn.api(f"STREAM.INFO.{subjects.SNAPSHOTS}", {"subjects_filter": place})
        for subject in info["state"].get("subjects") or ():
            name = subject.rpartition(".")[2]
            if name != _HEAD and name not in self._pieces:
                await self._purge(name)


async def read_head(conn: Connection, partition: int) -> tuple[int, Head | None] | None:
    """(its sequence in SNAPSHOTS, what it says; None: it cannot be read); None: there is none.

    Raises what `Connection.api` raises.
    """
    query = {"last_by_subj": subjects.snapshot(partition, _HEAD)}
    try:
        answer = await conn.api(f"STREAM.MSG.GET.{subjects.SNAPSHOTS}", query)
    except errors.ApiNotFound as exc:
        if exc.details.get("server_code") == 10037:  # no message found
            return None
        raise
    message = answer["message"]
    try:
        return int(message["seq"]), msgspec.json.decode(b64decode(message.get("data") or ""), type=Head)
    except msgspec.MsgspecError as exc:
        _log.error("deciders.snapshot_broken", partition=partition, error=str(exc))
        return int(message["seq"]), None


async def _in_thread(work: Any, blob: bytes) -> Any:
    return await asyncio.to_thread(work, blob) if len(blob) >= _THREAD_BYTES else work(blob)


def _pack(states: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(states)


def _unpack(blob: bytes) -> dict[str, Any]:
    try:
        states = zstandard.ZstdDecompressor().decompress(blob, max_output_size=limits.SNAPSHOT_BYTES_MAX)
        return msgspec.msgpack.decode(states, type=dict[str, Any])
    except (zstandard.ZstdError, msgspec.MsgspecError) as exc:
        raise errors.SnapshotBroken(str(exc)) from exc


def _digest(blob: bytes) -> str:
    return hashlib.blake2b(blob, digest_size=16).hexdigest()
