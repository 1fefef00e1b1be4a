"""traceparent: the W3C rules, as far as coord carries it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.telemetry import tracing

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BITS_128 = st.integers(min_value=0, max_value=2**128 - 1)
BITS_64 = st.integers(min_value=0, max_value=2**64 - 1)


def test_a_good_one_is_read() -> None:
    trace = tracing.parse(GOOD)
    assert trace is not None
    assert trace.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace.span_id == "00f067aa0ba902b7"
    assert trace.sampled
    assert str(trace) == GOOD


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "garbage",
        GOOD.upper(),
        GOOD[:-1],
        GOOD + "-more",  # version 00 has four fields
        GOOD + "\n",
        "ff" + GOOD[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        "00-٤bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ],
)
def test_a_malformed_one_is_dropped(value: str | None) -> None:
    assert tracing.parse(value) is None


def test_a_later_version_is_read_by_its_first_four_fields() -> None:
    trace = tracing.parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-the-future-brings")
    assert trace is not None
    assert trace.traceparent == GOOD


@given(st.text())
def test_no_text_raises(value: str) -> None:
    tracing.parse(value)


@given(BITS_128, BITS_64, st.booleans())
def test_what_is_made_can_be_read(trace_bits: int, span_bits: int, sampled: bool) -> None:
    made = tracing.start(trace_bits, span_bits, sampled=sampled)
    assert tracing.parse(made.traceparent) == made
    assert made.sampled is sampled


@given(BITS_64)
def test_a_child_stays_in_its_trace(span_bits: int) -> None:
    child = tracing.follow(GOOD, 1, span_bits)
    assert child.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert tracing.parse(child.traceparent) == child


def test_without_a_parent_a_trace_begins() -> None:
    assert tracing.follow("nonsense", 5, 6).traceparent == f"00-{5:032x}-{6:016x}-01"
