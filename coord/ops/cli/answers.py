"""An answer of the database, written batch by batch: as text for people and pipes, as Parquet and Arrow for tools.

Every format takes the rows as they come and holds one batch of them; Parquet one row group.  JSON
columns are JSON inside JSON, text elsewhere.  `numeric` becomes a double: the questions cast where it matters.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO

from coord import errors, limits
from coord.ops.cli.output import csv_field, table, to_json
from coord.store.answers import Row, json_columns, nested, number, plain

if TYPE_CHECKING:
    import pyarrow as pa

    from coord.store.answers import Column


class Writer(Protocol):
    """Takes an answer's rows in order; `close` writes what belongs at the end."""

    def write(self, rows: Sequence[Row]) -> None:
        """The next rows."""

    def close(self) -> None:
        """No more rows come."""


class TableWriter:
    """Aligned columns for a person; each batch has widths and a head of its own."""

    def __init__(self, stream: TextIO, columns: Sequence[Column], style: Callable[..., str]) -> None:
        self._stream, self._style = stream, style
        self._columns = [c.name for c in columns]

    def write(self, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        self._stream.write(table([plain(row) for row in rows], self._columns, style=self._style) + "\n")

    def close(self) -> None:
        """See `Writer`."""


class JsonWriter:
    """One JSON array, a row a line."""

    def __init__(self, stream: TextIO, columns: Sequence[Column]) -> None:
        self._stream = stream
        self._raw = json_columns(columns)
        self._between = "[\n"

    def write(self, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        for row in rows:
            self._stream.write(self._between + to_json(nested(row, self._raw)))
            self._between = ",\n"

    def close(self) -> None:
        """See `Writer`."""
        self._stream.write("[]\n" if self._between == "[\n" else "\n]\n")


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, stream: TextIO, columns: Sequence[Column]) -> None:
        self._stream = stream
        self._raw = json_columns(columns)

    def write(self, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        for row in rows:
            self._stream.write(to_json(nested(row, self._raw)) + "\n")

    def close(self) -> None:
        """See `Writer`."""


class CsvWriter:
    """A header, and a row a line; nothing is an empty field."""

    def __init__(self, stream: TextIO, columns: Sequence[Column]) -> None:
        self._csv = csv.writer(stream, lineterminator="\n")
        self._csv.writerow([c.name for c in columns])

    def write(self, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        self._csv.writerows([csv_field(number(v)) for v in row.values()] for row in rows)

    def close(self) -> None:
        """See `Writer`."""


class ArrowWriter:
    """An Arrow IPC stream, a record batch for each batch of rows."""

    def __init__(self, stream: BinaryIO, columns: Sequence[Column], about: Mapping[str, str]) -> None:
        arrow = pyarrow()
        self._columns = columns
        self._schema = _schema(arrow, columns, about)
        self._ipc = arrow.ipc.new_stream(stream, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        self._ipc.write_batch(_batch(self._columns, self._schema, rows))

    def close(self) -> None:
        """See `Writer`."""
        self._ipc.close()


class ParquetWriter:
    """A Parquet file, zstd, in row groups of `limits.EXPORT_GROUP_ROWS` or about `limits.EXPORT_GROUP_BYTES`."""

    def __init__(self, stream: BinaryIO, columns: Sequence[Column], about: Mapping[str, str]) -> None:
        arrow = pyarrow()
        from pyarrow import parquet

        self._columns = columns
        self._schema = _schema(arrow, columns, about)
        self._table = arrow.Table.from_batches
        self._file = parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._group: list[pa.RecordBatch] = []

    def write(self, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        self._group.append(_batch(self._columns, self._schema, rows))
        rows_held = sum(b.num_rows for b in self._group)
        bytes_held = sum(b.nbytes for b in self._group)
        if rows_held >= limits.EXPORT_GROUP_ROWS or bytes_held >= limits.EXPORT_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """See `Writer`."""
        if self._group:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        self._file.write_table(self._table(self._group, self._schema), row_group_size=limits.EXPORT_GROUP_ROWS)
        self._group = []


def pyarrow() -> Any:
    """The package, imported when it is wanted.  Raises `ExtraMissing` where it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError as exc:
        raise errors.ExtraMissing("pyarrow is not installed: Parquet and Arrow need it", extra="archive") from exc
    return pa


# --- values --------------------------------------------------------------------------------


def _schema(arrow: Any, columns: Sequence[Column], about: Mapping[str, str]) -> Any:
    fields = []
    for column in columns:
        type_ = _arrow_types(arrow).get(column.type, arrow.string())
        fields.append(arrow.field(column.name, arrow.list_(type_) if column.is_array else type_))
    return arrow.schema(fields, metadata=dict(about))


def _arrow_types(arrow: Any) -> dict[str, Any]:
    """What PostgreSQL's types become; all others are text."""
    return {
        "bool": arrow.bool_(), "int2": arrow.int16(), "int4": arrow.int32(), "int8": arrow.int64(),
        "float4": arrow.float32(), "float8": arrow.float64(), "numeric": arrow.float64(), "bytea": arrow.binary(),
        "timestamptz": arrow.timestamp("us", tz="UTC"), "timestamp": arrow.timestamp("us"), "date": arrow.date32(),
        "interval": arrow.duration("us"),
    }  # fmt: skip


def _batch(columns: Sequence[Column], schema: Any, rows: Sequence[Row]) -> Any:
    arrow = pyarrow()
    arrays = []
    for column, field, values in zip(columns, schema, zip(*(r.values() for r in rows), strict=True), strict=True):
        given: Sequence[Any] = values
        if column.type == "numeric" and not column.is_array:
            given = [None if v is None else float(v) for v in values]
        elif field.type == arrow.string():
            given = [v if v is None or isinstance(v, str) else str(v) for v in values]
        arrays.append(arrow.array(given, type=field.type))
    return arrow.record_batch(arrays, schema=schema)
