"""A chunk's rows out of the database, as Arrow's record batches.

Apache Arrow's own driver (ADBC, libpq within) reads PostgreSQL's binary COPY in C++: text and a parser of it cost
both sides half as much again (docs/adr/0115).  It blocks, so a thread reads, and another one can end that:

    thread   Copy.batches ──▶ rows ──▶ files          nothing comes any more, a file is full: it raises
    loop     Copy.cancel  ──▶ the server ends the statement; a server that is silent: the thread is left alone,
             and touches no file when TCP has given up (25 s after the last sign of the other side)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from psycopg import conninfo
from psycopg import sql as composing

from coord import errors, limits
from coord.core.archive import Piece, Relation
from coord.store.archive import pieces
from coord.store.archive.files import arrow
from coord.store.config import DatabaseConfig
from coord.store.pool import SESSION
from coord.store.queries import statement
from coord.store.sqlstate import classify, translated

T = TypeVar("T")

_EXPORTS: Final[dict[Relation, str]] = {
    "event": "archive_export_event",
    "metric_sample": "archive_export_metric_sample",
}
_OP: Final = "export a chunk"

_CONNECTION: Final = {
    "client_encoding": "UTF8",
    # A peer that is gone is noticed within 25 s, as the server does (`pool.SESSION`).
    "keepalives_idle": SESSION["tcp_keepalives_idle"],
    "keepalives_interval": SESSION["tcp_keepalives_interval"],
    "keepalives_count": SESSION["tcp_keepalives_count"],
    "tcp_user_timeout": "25000",
}

_AGAIN_S: Final = 0.5
"""A statement that was cancelled before the server had begun it is cancelled again."""

_LOOK_S: Final = 0.1
"""How often it is looked whether a thread that was told to end has."""


class Source:
    """The database as a run's exports reach it: by connections beside the pool's, as many as read at once."""

    def __init__(self, config: DatabaseConfig) -> None:
        self.config: Final = config
        self._lock = threading.Lock()
        self._idle: list[Any] = []

    def take(self) -> Any:
        """A connection; blocks."""
        _, manager = adbc()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return manager.AdbcConnection(_database(_info(self.config)))

    def give(self, connection: Any) -> None:
        """For the next one who takes; not after an error, whose statement may not have ended."""
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Hang up; blocks."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


class Copy:
    """One piece's rows, read by one thread; any other may end it."""

    def __init__(self, source: Source, piece: Piece) -> None:
        self._source = source
        self._piece = piece
        self._lock = threading.Lock()
        """Around the statement's end, so that nobody cancels what is closed."""
        self._statement: Any = None
        self._cancelled = False
        self._whole = False
        """The rows were read to their end, so the connection is of use."""
        self._over = threading.Event()
        self._since: float | None = None
        """Since when the thread waits for the server; None: it does not."""

    def batches(self) -> Generator[Any]:
        """The rows in the order of the log, `limits.ARCHIVE_BATCH_BYTES` of them at a time.

        Raises `DatabaseUnavailable` or what else the database's error is to coord, `ArchiveNotInstalled`.
        """
        try:
            with contextlib.ExitStack() as ends:
                reader = self._waiting(lambda: self._begin(ends))
                while (batch := self._waiting(lambda: _next(reader))) is not None:
                    yield batch
                self._whole = True
        finally:
            self._over.set()

    def cancel(self) -> None:
        """End it, wherever it is; returns when it has ended.  Blocks."""
        _, manager = adbc()
        self._cancelled = True
        while True:
            with self._lock, contextlib.suppress(manager.Error):  # what it says of a cancellation changes nothing
                if self._statement is not None:
                    self._statement.cancel()
            if self._over.wait(_AGAIN_S):
                return

    def silent_s(self) -> float:
        """How long the thread has waited for the server by now; 0: it does something else."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _begin(self, ends: contextlib.ExitStack) -> Any:
        _, manager = adbc()
        connection = self._source.take()
        ends.callback(self._give_back, connection)
        made = manager.AdbcStatement(connection)
        with self._lock:
            self._statement = made
        ends.callback(self._end)
        made.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(limits.ARCHIVE_BATCH_BYTES)})
        made.set_sql_query(_query(self._piece))
        self._check()
        handle, _ = made.execute_query()
        reader = arrow().RecordBatchReader.from_stream(handle)
        ends.callback(self._leave, reader)
        return reader

    def _leave(self, reader: Any) -> None:
        if not self._whole:  # or all that is left would be fetched first
            _, manager = adbc()
            with contextlib.suppress(manager.Error):
                self._statement.cancel()
        reader.close()

    def _end(self) -> None:
        with self._lock:
            ended, self._statement = self._statement, None
            ended.close()

    def _give_back(self, connection: Any) -> None:
        if self._whole:
            self._source.give(connection)
        else:
            connection.close()

    def _waiting(self, ask: Callable[[], T]) -> T:
        """Ask the server; whoever was cancelled meanwhile gets no answer."""
        self._since = time.monotonic()
        try:
            with _classified(self._source.config):
                answer = ask()
        finally:
            self._since = None
        self._check()
        return answer

    def _check(self) -> None:
        if self._cancelled:
            raise errors.DatabaseUnavailable("the export was cancelled", op=_OP)


async def exported(source: Source, piece: Piece, take: Callable[[Generator[Any]], T]) -> T:
    """What `take` makes of the piece's batches, in a thread.

    Cancelled, or after `limits.ARCHIVE_STATEMENT_S`, it has ended when this returns, unless the server is silent:
    then it ends later without taking another row.
    """
    copy = Copy(source, piece)
    taking = _in_thread("archive-export", lambda: take(copy.batches()))
    try:
        with translated(_OP):
            async with asyncio.timeout(limits.ARCHIVE_STATEMENT_S):
                return await asyncio.shield(taking)
    finally:
        if not taking.done():
            _in_thread("archive-cancel", copy.cancel).add_done_callback(_heard)
            while not taking.done() and copy.silent_s() < limits.ARCHIVE_CANCEL_S:
                await asyncio.wait({taking}, timeout=_LOOK_S)
            taking.add_done_callback(_heard)


def adbc() -> tuple[Any, Any]:
    """ADBC's driver for PostgreSQL and its manager.  Raises `ArchiveNotInstalled`."""
    try:
        import adbc_driver_manager
        import adbc_driver_postgresql
    except ImportError as exc:
        raise errors.ArchiveNotInstalled from exc
    return adbc_driver_postgresql, adbc_driver_manager


@lru_cache(maxsize=4)
def _database(info: str) -> Any:
    """What the driver knows of a server: all its types, for which it asks once (50 ms of CPU); no connection."""
    driver, _ = adbc()
    return driver.connect(info)


@contextlib.contextmanager
def _classified(config: DatabaseConfig) -> Iterator[None]:
    """What the driver raises leaves the block as coord's error; the URL's password is in none."""
    _, manager = adbc()
    try:
        yield
    except manager.Error as exc:
        if exc.sqlstate:
            raise classify(exc, _OP) from exc
        raise errors.DatabaseUnavailable(str(exc).replace(config.url, config.safe_url).strip(), op=_OP) from exc
    except (OSError, arrow().ArrowCancelled) as exc:  # pyarrow's word for an error in the middle of a stream
        raise errors.DatabaseUnavailable(str(exc).strip(), op=_OP) from exc


def _next(reader: Any) -> Any:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


def _info(config: DatabaseConfig) -> str:
    """How libpq connects: as the URL says, with the settings that the pool's sessions and its patient ones have."""
    given = conninfo.conninfo_to_dict(config.url)
    settings = {**SESSION, **pieces.patience(limits.ARCHIVE_STATEMENT_S)}
    options = [str(given.get("options") or ""), *(f"-c {name}={_escaped(text)}" for name, text in settings.items())]
    given |= _CONNECTION
    given["options"] = " ".join(options).strip()
    given["application_name"] = config.application_name
    given["connect_timeout"] = str(max(2, round(config.connect_timeout_s)))  # libpq takes whole seconds, 2 at least
    return conninfo.make_conninfo("", **given)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(" ", "\\ ")


def _query(piece: Piece) -> str:
    """The statement with its bounds written into it: COPY has no parameters."""
    text = statement(_EXPORTS[piece.relation])
    return text.replace("$1", _literal(piece.start)).replace("$2", _literal(piece.end))


def _literal(moment: datetime) -> str:
    return composing.Literal(moment).as_string(None)


def _in_thread(name: str, do: Callable[[], T]) -> asyncio.Future[T]:
    """Like `asyncio.to_thread`, but nobody waits for the thread when the process ends: it may hang in libpq."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            done.set_result(do())
        except BaseException as exc:  # noqa: BLE001 - it is the caller's
            done.set_exception(exc)

    threading.Thread(target=run, name=name, daemon=True).start()
    return asyncio.wrap_future(done)


def _heard(ended: asyncio.Future[Any]) -> None:
    """Nobody asks any more how it ended; asyncio would say so in the log."""
    if not ended.cancelled():
        ended.exception()
