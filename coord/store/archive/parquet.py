"""Rows into Parquet files, one for each tenant, day, kind and epoch, and the proof that they are there.

`write` runs in the thread that reads them from the database (`export`).  Memory is bounded whatever comes:
rows wait in `limits.ARCHIVE_BUFFER_BYTES` until a row group is full, and at most
`limits.ARCHIVE_FILES_OPEN_MAX` files are open.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Generator, Iterator
from datetime import date
from typing import Any, Final, TypeAlias

from coord import errors, limits
from coord.core.archive import File, Piece, Relation, aside, path
from coord.store.archive import columns
from coord.store.archive.files import Files, arrow, translated

_WRITE_BYTES: Final = 256 * 1024
"""What of a file is written at a time."""

_Key: TypeAlias = tuple[str, date, str | None, int]
"""tenant, day, kind, epoch."""


def write(files: Files, piece: Piece, batches: Generator[Any]) -> tuple[list[File], int]:
    """Write the rows of `batches`, in the order of (epoch, seq, idx), aside; the files, and the sum of seq.

    Raises `ArchiveUnavailable`, or `ArchiveError` for rows that Arrow cannot hold; then what was written is of no use.
    """
    try:
        with contextlib.closing(batches), contextlib.closing(_Writers(files, piece)) as writers:
            for batch in batches:
                writers.take(columns.checked(piece.relation, batch))
            return writers.finish(), writers.seq_sum
    except arrow().ArrowInvalid as exc:
        raise errors.ArchiveError(f"the {piece} cannot be written as Parquet: {exc}", piece=piece.piece) from exc


def verify(files: Files, relation: Relation, file: File) -> None:
    """Read a file back: its bytes, and every value in it.  Raises `ArchiveCorrupted` naming it."""
    with _naming(file):
        size = files.size(file.path)
        if size is None:
            raise errors.ArchiveCorrupted(f"{file.path} is not there", path=file.path)
        if size != file.bytes:
            raise errors.ArchiveCorrupted(f"{file.path} has {size} bytes instead of {file.bytes}", path=file.path)
        if files.sha256(file.path) != file.sha256:
            raise errors.ArchiveCorrupted(f"{file.path} has other bytes than were written", path=file.path)
        content, rows = columns.Content(relation), 0
        for group in groups(files, file.path):
            content.update(group)
            rows += group.num_rows
        if rows != file.rows or content.hexdigest() != file.content:
            raise errors.ArchiveCorrupted(f"{file.path} has other rows than were written", path=file.path)


def groups(files: Files, name: str) -> Iterator[Any]:
    """A file's rows, a table a row group."""
    pa = arrow()
    with files.read(name) as source:
        parquet = pa.parquet.ParquetFile(source, page_checksum_verification=True)
        for number in range(parquet.num_row_groups):
            yield parquet.read_row_group(number, use_threads=False)


@contextlib.contextmanager
def _naming(file: File) -> Iterator[None]:
    pa = arrow()
    try:
        yield
    except errors.CoordError:
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError) as exc:
        raise errors.ArchiveCorrupted(f"{file.path} cannot be read: {exc}", path=file.path) from exc


# --- writing -----------------------------------------------------------------------------


class _Writers:
    """The files of a piece that are being written, and the rows that wait for their row groups."""

    def __init__(self, files: Files, piece: Piece) -> None:
        self._files = files
        self._piece = piece
        self._waiting: dict[_Key, _Waiting] = {}
        self._waiting_bytes = 0
        self._open: OrderedDict[_Key, _Writer] = OrderedDict()
        """The one written to last at the end."""
        self._done: list[File] = []
        self._number = 0
        self.seq_sum = 0

    def take(self, batch: Any) -> None:
        """Some rows more.  They come many at a time: little pieces of a file cost more than what is in them."""
        self.seq_sum += arrow().compute.sum(batch.column("seq")).as_py() or 0
        for key, rows in _split(self._piece.relation, batch):
            waiting = self._waiting.setdefault(key, _Waiting())
            waiting.add(rows)
            self._waiting_bytes += rows.nbytes
            if waiting.rows >= limits.ARCHIVE_GROUP_ROWS:
                self._write(key)
        while self._waiting_bytes > limits.ARCHIVE_BUFFER_BYTES:
            self._write(max(self._waiting, key=lambda k: self._waiting[k].bytes))

    def finish(self) -> list[File]:
        for key in list(self._waiting):
            self._write(key)
        while self._open:
            self._end(next(iter(self._open)))
        with translated("write", aside(self._piece)):
            self._files.sync_all(aside_path(self._piece, file.number) for file in self._done)
        return sorted(self._done, key=lambda f: f.number)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].abandon()

    def _write(self, key: _Key) -> None:
        waiting = self._waiting.pop(key)
        self._waiting_bytes -= waiting.bytes
        writer = self._open.get(key)
        if writer is None:
            if len(self._open) >= limits.ARCHIVE_FILES_OPEN_MAX:
                self._end(next(iter(self._open)))
            writer = self._open[key] = _Writer(self._files, self._piece, self._number)
            self._number += 1
        self._open.move_to_end(key)
        writer.write(waiting.table())

    def _end(self, key: _Key) -> None:
        self._done.append(self._open.pop(key).finish(key))


class _Waiting:
    """Rows of one file that are not written yet."""

    def __init__(self) -> None:
        self._batches: list[Any] = []
        self.rows = 0
        self.bytes = 0

    def add(self, batch: Any) -> None:
        self._batches.append(batch)
        self.rows += batch.num_rows
        self.bytes += batch.nbytes

    def table(self) -> Any:
        return arrow().Table.from_batches(self._batches)


class _Writer:
    """One file that is being written, with what its manifest says of it."""

    def __init__(self, files: Files, piece: Piece, number: int) -> None:
        self._files = files
        self._piece = piece
        self._number = number
        self._path = aside_path(piece, number)
        self._content = columns.Content(piece.relation)
        self._rows = 0
        self._first: int | None = None
        self._last = 0
        with translated("write", self._path):
            self._sink = _Hashed(files.sink(self._path))
            # Each page is several writes: few of them should come as far as Python.
            self._buffered = arrow().BufferedOutputStream(arrow().PythonFile(self._sink, "w"), _WRITE_BYTES)
            self._parquet = arrow().parquet.ParquetWriter(
                self._buffered, columns.schema(piece.relation), **columns.writing(piece.relation)
            )

    def write(self, table: Any) -> None:
        self._content.update(table)
        self._rows += table.num_rows
        seq = table.column("seq")
        if self._first is None:
            self._first = seq[0].as_py()
        self._last = seq[-1].as_py()
        with translated("write", self._path):
            self._parquet.write_table(table, row_group_size=max(table.num_rows, 1))

    def finish(self, key: _Key) -> File:
        tenant, day, kind, epoch = key
        with translated("write", self._path):
            self._parquet.close()
            self._buffered.close()
            self._sink.close()
        assert self._first is not None, "a file is begun when there are rows for it"
        return File(
            number=self._number,
            path=path(self._piece, self._number, tenant=tenant, day=day, kind=kind),
            tenant=tenant,
            day=day,
            kind=kind,
            epoch=epoch,
            seq_first=self._first,
            seq_last=self._last,
            rows=self._rows,
            bytes=self._sink.bytes,
            sha256=self._sink.sha256.hexdigest(),
            content=self._content.hexdigest(),
        )

    def abandon(self) -> None:
        """Close what can be closed; the file is of no use."""
        with contextlib.suppress(OSError, ValueError):
            self._parquet.close()
        self._parquet.is_open = False  # or it would try again when it is collected
        for stream in (self._buffered, self._sink):
            with contextlib.suppress(OSError, ValueError):
                stream.close()


class _Hashed:
    """A stream that counts what is written and takes its checksum."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self.sha256: Final = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.sha256.update(view)
        self._sink.write(view)
        self.bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """The whole file is synced once, at its end."""

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._sink.close()


def aside_path(piece: Piece, number: int) -> str:
    """Where a file is written before it gets its name."""
    return f"{aside(piece)}/{piece.attempt}-{number:04d}.parquet"


def _split(relation: Relation, batch: Any) -> Iterator[tuple[_Key, Any]]:
    """The rows of a batch by the file they belong to, in the order in which they came; copies, if it is several."""
    pa = arrow()
    names = ["tenant", *(["kind"] if relation == "event" else [])]
    days = batch.column("stored_at").cast(pa.date32())
    coded = [pa.compute.dictionary_encode(array) for array in (*map(batch.column, names), days, batch.column("epoch"))]
    code: Any = None
    for array in coded:
        indices = array.indices.cast(pa.int64())
        code = indices if code is None else pa.compute.add(pa.compute.multiply(code, len(array.dictionary)), indices)
    if all(len(array.dictionary) == 1 for array in coded):
        yield _key(relation, coded, 0), batch
        return
    order = pa.compute.sort_indices(code)  # stable
    runs = pa.compute.run_end_encode(code.take(order))
    begin = 0
    for end in runs.run_ends.to_pylist():
        rows = order.slice(begin, end - begin)
        yield _key(relation, coded, rows[0].as_py()), batch.take(rows)
        begin = end


def _key(relation: Relation, coded: list[Any], row: int) -> _Key:
    values = [array[row].as_py() for array in coded]
    if relation == "event":
        tenant, kind, day, epoch = values
        return tenant, day, kind, epoch
    tenant, day, epoch = values
    return tenant, day, None, epoch
