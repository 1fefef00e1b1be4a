"""One question of one fleet: from a request to a page of its answer.

::

    request ──▶ its ETag is ours, and nothing was heard since that would change the answer ──▶ "not modified"
             │                                                        (no database, no answer needed: any instance)
             ▼
            a piece of the answer, kept ──or── read: checkpoints and rows of one snapshot (`coord.store.snapshots`)
             ▼
            its rows are those of the ETag ──▶ "not modified", under a newer ETag
             ▼
            a page of it, with where to go on

A *piece* is what is read at once: `limits.QUERY_ANSWER_ROWS` rows or `limits.QUERY_ANSWER_BYTES`.  Its pages show one
snapshot as long as it is kept; where they do not, the page says so (`moved`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from coord import errors, limits
from coord.cache.entries import Shape
from coord.cache.loading import Cache, Loaded, Policy
from coord.core.eviction import Watermark, sources_of
from coord.core.fairness import Until
from coord.query import catalogue
from coord.query.catalogue import Question
from coord.query.queueing import Queueing
from coord.query.tenants import Tenants
from coord.runtime.clock import Clock
from coord.store import answers
from coord.store.reading import Reads
from coord.store.snapshots import reading
from coord.telemetry.metrics import Metrics
from coord.wire import query_api, subjects
from coord.wire.query_api import Etag, Position, QueryAnswer, QueryRequest


class Piece(msgspec.Struct, frozen=True):
    """Rows of an answer, as they are kept."""

    columns: list[tuple[str, str]]
    rows: list[bytes]
    """Each a JSON object."""
    more: bool
    """Whether rows follow."""
    content: bytes
    """Digest of all that."""
    read_at_ms: int
    marks: bytes
    """Where it was read, of the partitions that it depends on (`query_api.pack`)."""
    watermark: bytes
    """Where it was read, as JSON."""


_SHAPE: Final = Shape(Piece)
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_KEY_CHARS: Final = limits.CACHE_KEY_BYTES_MAX // 4
"""Of values in a key: a text takes four bytes a character at most."""


class Answering:
    """Answers everybody's questions.  Its pool and its fleets' caches are the caller's to open and to close."""

    def __init__(self, tenants: Tenants, pool: Reads, queueing: Queueing, clock: Clock, metrics: Metrics) -> None:
        """`queueing`: whose turn it is at `pool`."""
        self._tenants = tenants
        self._pool = pool
        self._queueing = queueing
        self._untils: WeakValueDictionary[tuple[str, ...], Until] = WeakValueDictionary()
        """(tenant, key of a piece) → up to when somebody wants it."""
        self._clock = clock
        self._counted = metrics.query_answers
        self._moved = metrics.query_moved

    async def answer(self, tenant: str, name: str, asked: QueryRequest, bytes_max: int, until: float) -> QueryAnswer:
        """The page that is asked for; `bytes_max`: of its rows; `until`: when its caller leaves, by the loop's clock.

        Raises `UnknownQuestion`, `QueryError` for what cannot be asked so, `PayloadTooLarge` for a row that does not
        fit, `Overloaded`, `TablesBehind` where `min_watermark` is not reached in time, `LoadTimeout`, `StoreError`s.
        """
        question = catalogue.get(name)
        values = question.bind(tenant, asked.params)
        if not 1 <= asked.rows <= limits.QUERY_PAGE_ROWS_MAX:
            raise errors.QueryError(f"rows is 1 to {limits.QUERY_PAGE_ROWS_MAX}", rows=asked.rows)
        identity = query_api.digest([name.encode(), question.version.encode()], (v.encode() for v in values))
        at = _position(asked.after, identity)
        wanted = _wanted(asked)
        page_of = query_api.digest([identity, b"%d %d %d" % (at.start, at.offset, asked.rows)])
        given = None if asked.etag is None else query_api.read_etag(asked.etag)
        if given is not None and given.asked != page_of:
            given = None
        tags = question.tags(values)
        async with self._tenants.turn(tenant) as cache:
            if given is not None and self._still_holds(cache, given, tags, question.ttl_s, wanted):
                self._counted.labels(name, "proved").inc()
                return _unmodified(given, msgspec.json.encode(query_api.as_watermark(given.marks)))
            key = _key(question, identity, values, at.start)
            wants = self._until(tenant, key, until)
            look = partial(self._look, question, values, tags, at.start)
            load = partial(self._queueing.run, tenant, name, wants, look)
            piece: Piece = await cache.read(key, tags, load, _policy(question), wanted)
        etag = Etag(page_of, piece.content, piece.read_at_ms, piece.marks)
        if given is not None and given.content == piece.content:
            self._counted.labels(name, "same").inc()
            return _unmodified(etag, piece.watermark)
        self._counted.labels(name, "rows").inc()
        moved = _has_moved(at, piece)
        if moved:
            self._moved.inc()
        return _page(piece, at, asked.rows, bytes_max, etag, moved=moved)

    def _still_holds(
        self, cache: Cache, given: Etag, tags: tuple[str, ...], ttl_s: float, wanted: Watermark | None
    ) -> bool:
        """Whether whoever read the tables now would find in them what the ETag's holder has."""
        age_s = self._clock.now().timestamp() - given.read_at_ms / 1000
        if not -limits.QUERY_CLOCKS_S <= age_s < ttl_s:
            return False
        try:
            marks = query_api.unpack(given.marks)
        except msgspec.MsgspecError:
            return False
        if wanted is not None and not cache.evictions.has(marks.get(wanted.source, (0, 0)), wanted):
            return False
        return cache.evictions.proves(tags, marks) and cache.evictions.is_pardoned(tags)

    def _until(self, tenant: str, key: tuple[str, ...], at: float) -> Until:
        """Of a piece, for whoever waits for it: one load is shared by all."""
        wants = self._untils.get((tenant, *key))
        if wants is None:
            wants = self._untils[tenant, *key] = Until()
        wants.wanted(at)
        return wants

    async def _look(self, question: Question, values: list[str], tags: tuple[str, ...], start: int) -> Loaded:
        """Read a piece that begins with row `start`."""
        read_at_ms = int(self._clock.now().timestamp() * 1000)
        async with reading(self._pool) as seen:
            answer = await answers.ask(seen.conn, question.query, values)
            if start:
                await answer.skip(start)
            rows, more = await _rows(answer)
        columns = [(c.name, f"{c.type}[]" if c.is_array else c.type) for c in answer.columns]
        piece = Piece(
            columns=columns,
            rows=rows,
            more=more,
            content=query_api.digest([f"{name} {type_}".encode() for name, type_ in columns], rows, [b"%d" % more]),
            read_at_ms=read_at_ms,
            marks=query_api.pack(seen.marks, sources_of(tags)),
            watermark=msgspec.json.encode(query_api.as_watermark(query_api.pack(seen.marks))),
        )
        return Loaded(piece, seen.marks)


def _key(question: Question, identity: bytes, values: list[str], start: int) -> tuple[str, ...]:
    """What a piece is kept under: to be read by people where it is short."""
    short = sum(map(len, values)) <= _KEY_CHARS
    return (question.name, question.version, str(start), *(values if short else ("", identity.hex())))


def _policy(question: Question) -> Policy:
    return Policy(
        ttl_s=question.ttl_s,
        negative_ttl_s=0.0,
        timeout_s=limits.QUERY_LOAD_S,
        # What time changes is old before another instance could make use of it.
        shape=None if question.moving else _SHAPE,
        shared_ttl_s=limits.QUERY_SHARED_TTL_S,
    )


async def _rows(answer: answers.Answer) -> tuple[list[bytes], bool]:
    """As many as one piece has, and whether there are more."""
    rows: list[bytes] = []
    room = limits.QUERY_ANSWER_BYTES
    nest = answers.nesting(answer.columns)
    async for batch in answer.batches(limits.QUERY_FETCH_ROWS):
        for record in batch:
            row = _encode(nest(record))
            if len(rows) == limits.QUERY_ANSWER_ROWS or (rows and len(row) > room):
                return rows, True
            rows.append(row)
            room -= len(row)
    return rows, False


def _position(after: str | None, identity: bytes) -> Position:
    if after is None:
        return Position(identity)
    found = query_api.read_position(after)
    if found is None or found.asked != identity:
        raise errors.QueryError("after is not what an answer to this question had as next", after=after[:64])
    if found.start + found.offset > limits.QUERY_DEPTH_MAX:
        raise errors.QueryError(
            "too many rows lie before this page: ask for a part of them", rows_max=limits.QUERY_DEPTH_MAX
        )
    return found


def _wanted(asked: QueryRequest) -> Watermark | None:
    since = asked.min_watermark
    if since is None:
        return None
    least = since.seq if since.epoch is None else min(since.seq, since.epoch)
    if least < 1 or not since.key or since.stream not in {subjects.EVENTS, subjects.TELEMETRY}:
        raise errors.QueryError(
            "min_watermark has a key, a sequence (and an epoch) of at least 1, and stream"
            f" {subjects.EVENTS} or {subjects.TELEMETRY}"
        )
    return Watermark(since.key, since.seq, since.stream, since.epoch)


def _has_moved(at: Position, piece: Piece) -> bool:
    """Whether the page before was of other rows; of another piece, whether it was read at another place."""
    if not at.seen:
        return False
    return at.seen != (piece.content if at.offset else query_api.digest([piece.marks]))


def _page(piece: Piece, at: Position, rows_max: int, bytes_max: int, etag: Etag, *, moved: bool) -> QueryAnswer:
    """As many rows from `at` on as one answer takes."""
    wanted = piece.rows[at.offset : at.offset + rows_max]
    if sum(map(len, wanted)) + len(wanted) <= min(bytes_max, limits.QUERY_PAGE_BYTES):
        rows = list(map(msgspec.Raw, wanted))
    else:
        rows = _fitting(wanted, bytes_max)
    end = at.offset + len(rows)
    following = None
    if end < len(piece.rows):
        following = Position(at.asked, at.start, end, piece.content)
    elif piece.more:
        following = Position(at.asked, at.start + len(piece.rows), 0, query_api.digest([piece.marks]))
    return QueryAnswer(
        etag=str(etag),
        read_at=_time(etag),
        columns=piece.columns,
        rows=rows,
        next=None if following is None else str(following),
        moved=moved,
        watermark=msgspec.Raw(piece.watermark),
    )


def _fitting(wanted: list[bytes], bytes_max: int) -> list[msgspec.Raw]:
    """The first of these rows, as many as there is room for."""
    rows: list[msgspec.Raw] = []
    room = min(bytes_max, limits.QUERY_PAGE_BYTES)
    for row in wanted:
        if len(row) + 1 > bytes_max:
            if rows:
                break
            raise errors.PayloadTooLarge("this row does not fit into one answer", bytes=len(row), bytes_max=bytes_max)
        if rows and len(row) + 1 > room:
            break
        rows.append(msgspec.Raw(row))
        room -= len(row) + 1
    return rows


def _unmodified(etag: Etag, watermark: bytes) -> QueryAnswer:
    return QueryAnswer(etag=str(etag), read_at=_time(etag), modified=False, watermark=msgspec.Raw(watermark))


def _time(etag: Etag) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=etag.read_at_ms)


def packed(answer: QueryAnswer) -> dict[str, Any]:
    """The same for MessagePack, whose rows are no JSON."""
    made = {name: getattr(answer, name) for name in answer.__struct_fields__}
    made["rows"] = [msgspec.json.decode(row) for row in answer.rows]
    made["watermark"] = msgspec.json.decode(answer.watermark, type=query_api.Watermark)
    return made
