"""The spool's format: whatever happens to a file, it gives a prefix of what was written and says what is wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coord.core import spool
from coord.core.spool import Record

RECORDS = st.lists(
    st.builds(
        Record, lane=st.integers(0, 2), home=st.integers(0, 2), group=st.text(max_size=8), count=st.integers(1, 1000),
        event_id=st.text(max_size=8), subject=st.text(max_size=20), headers=st.binary(max_size=40),
        body=st.binary(max_size=60),
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


def written(records: list[Record]) -> bytes:
    return spool.header(7) + b"".join(map(spool.pack, records))


def read(data: bytes) -> tuple[list[Record], spool.Scan]:
    found = spool.scan(data)
    at, records = spool.HEADER_BYTES, []
    for size in found.sizes:
        records.append(spool.unpack(data[at : at + size]))
        at += size
    return records, found


@given(RECORDS)
def test_what_was_written_is_read(records: list[Record]) -> None:
    got, found = read(written(records))
    assert got == records
    assert (found.first, found.problem, found.good_bytes) == (7, None, len(written(records)))


@given(RECORDS, st.data())
def test_a_torn_file_is_a_prefix(records: list[Record], data: st.DataObject) -> None:
    whole = written(records)
    cut = data.draw(st.integers(0, len(whole) - 1))
    got, found = read(whole[:cut])
    assert got == records[: len(got)]
    assert found.good_bytes in (cut, 0) if found.problem is None else found.problem == "torn"
    rest = sum(len(spool.pack(r)) for r in got) + spool.HEADER_BYTES
    assert cut < spool.HEADER_BYTES or rest + len(spool.pack(records[len(got)])) > cut, "no whole record is given up"


@given(RECORDS, st.data())
def test_a_flipped_bit_is_named_and_nothing_wrong_is_read(records: list[Record], data: st.DataObject) -> None:
    whole = bytearray(written(records))
    bit = data.draw(st.integers(spool.HEADER_BYTES * 8, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    got, found = read(bytes(whole))
    assert got == records[: len(got)]
    assert found.problem in ("torn", "damaged")


@given(st.binary(max_size=200))
def test_anything_else_is_no_spool(data: bytes) -> None:
    assert spool.scan(data).problem is not None
    assert not spool.scan(data).sizes
