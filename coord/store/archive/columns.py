"""The archive's columns: what a table's are as Arrow's, as CSV for the way back, and a checksum of their values.

Tenant and kind stand in the files as well as in their folders' names, so that a file says all by itself;
the same value a hundred thousand times costs a few bytes.  JSON is text, exactly as PostgreSQL prints it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from coord.core.archive import Relation
from coord.store.archive.files import arrow
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS

_TYPES: Final[Mapping[str, str]] = {
    "stored_at": "time",
    "occurred_at": "time",
    "projected_at": "time",
    "seq": "int64",
    "epoch": "int32",
    "idx": "int32",
    "schema": "int32",
    "partition": "int16",
    "value": "double",
}
"""What is not listed is text."""


def _filed(columns: tuple[str, ...]) -> tuple[str, ...]:
    """A row's columns, and the one that the table fills."""
    at = columns.index("occurred_at") + 1
    return (*columns[:at], "projected_at", *columns[at:])


COLUMNS: Final[Mapping[Relation, tuple[str, ...]]] = {
    "event": _filed(EVENT_COLUMNS),
    "metric_sample": _filed(SAMPLE_COLUMNS),
}
"""The columns of each table as they stand in its files; the statements archive_export_… name them in this order."""

_NULLABLE: Final = frozenset({"correlation_id", "causation_id", "traceparent", "data"})
_FEW: Final = frozenset({"epoch", "idx", "partition", "tenant", "kind", "event", "detail", "type", "schema"})
"""Columns of a few values: their dictionary and runs of its codes are a few bytes.  zstd would cost more (it begins
anew for each column of each row group) than it brings."""
_DISTINCT: Final = frozenset({"event_id", "traceparent", "data", "value"})
"""Columns whose values hardly ever repeat: a dictionary of them would only be in the way."""


@cache
def schema(relation: Relation) -> Any:
    """The Arrow schema of a table's files."""
    pa = arrow()
    types = {"time": pa.timestamp("us", "UTC"), "double": pa.float64()}
    return pa.schema(
        [
            pa.field(name, types.get(kind) or getattr(pa, kind)(), nullable=name in _NULLABLE)
            for name in COLUMNS[relation]
            for kind in (_TYPES.get(name, "string"),)
        ]
    )


@cache
def writing(relation: Relation) -> dict[str, Any]:
    """How a table's files are encoded, as `ParquetWriter` takes it.

    Times and sequences rise in small steps and are stored as differences, ids by what they share with the
    one before: 20 bytes a fact of the real shape instead of 32, and less work for zstd.
    """
    columns = COLUMNS[relation]
    encoding = {name: "DELTA_BINARY_PACKED" for name in columns if _TYPES.get(name) == "time" or name == "seq"} | {
        name: "DELTA_BYTE_ARRAY" for name in columns if name == "event_id"
    }
    return {
        "compression": {name: "none" if name in _FEW else "zstd" for name in columns},
        # 3 takes half as long again for 1 % less
        "compression_level": {name: 1 for name in columns if name not in _FEW},
        "version": "2.6",
        "use_dictionary": [name for name in columns if name not in encoding and name not in _DISTINCT],
        "column_encoding": encoding,
        "write_page_checksum": True,
        "store_schema": True,
    }


_FINITE_US: Final = -210_866_803_200_000_000
"""The earliest time that PostgreSQL knows, in microseconds of Unix time.  Its infinities, which Arrow has not, and what
lies beyond the year 294247 come out of the driver before it."""


def checked(relation: Relation, batch: Any) -> Any:
    """What came out of the database, under the files' schema, which says what is never null.

    Raises pyarrow's `ArrowInvalid` for a time that Arrow cannot hold.
    """
    pa = arrow()
    for name in COLUMNS[relation]:
        if _TYPES.get(name) == "time":
            earliest = pa.compute.min(batch.column(name)).cast(pa.int64()).as_py()
            if earliest is not None and earliest < _FINITE_US:
                raise pa.ArrowInvalid(f"{name}: a time that is infinite, or too far away")
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema(relation))


def unparse(batch: Any) -> bytes:
    """A batch as CSV that COPY reads, with commas and quotation marks."""
    pa = arrow()
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(batch, sink, pa.csv.WriteOptions(include_header=False, quoting_style="needed"))
    return bytes(sink.getvalue())


class Content:
    """A checksum of values, the same whatever batches they come in and wherever those lie in memory.

    Of each column: the values one after the other; of texts also how long each is, and which are null.
    """

    def __init__(self, relation: Relation) -> None:
        self._columns = [(hashlib.sha256(), hashlib.sha256()) for _ in COLUMNS[relation]]

    def update(self, batch: Any) -> None:
        """Take in the rows of a record batch or table."""
        pa = arrow()
        for (values, lengths), column in zip(self._columns, batch.columns, strict=True):
            for array in column.chunks if isinstance(column, pa.ChunkedArray) else (column,):
                if not len(array):
                    continue
                if pa.types.is_string(array.type):
                    _texts(pa, values, lengths, array)
                else:
                    assert not array.null_count, "only texts may be null"
                    values.update(_fixed(array))

    def hexdigest(self) -> str:
        """The checksum of all that was taken in."""
        whole = hashlib.sha256()
        for values, lengths in self._columns:
            whole.update(values.digest())
            whole.update(lengths.digest())
        return whole.hexdigest()


def _texts(pa: Any, values: Any, lengths: Any, array: Any) -> None:
    filled, long = array, pa.compute.binary_length(array)
    if array.null_count:
        # What lies below a null is nobody's business, but it must be the same each time.
        filled, long = array.fill_null(""), long.fill_null(-1)
    lengths.update(_fixed(long))
    offsets = filled.buffers()[1]
    begin, end = _offset(offsets, filled.offset), _offset(offsets, filled.offset + len(filled))
    if end > begin:
        values.update(memoryview(filled.buffers()[2])[begin:end])


def _fixed(array: Any) -> memoryview:
    width = array.type.bit_width // 8
    begin = array.offset * width
    return memoryview(array.buffers()[1])[begin : begin + len(array) * width]


def _offset(offsets: Any, position: int) -> int:
    return int.from_bytes(memoryview(offsets)[position * 4 : position * 4 + 4], "little")
