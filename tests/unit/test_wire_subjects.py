"""Subjects: known hashes, culprits named, filters that select what they say."""

from __future__ import annotations

import pytest

from coord import limits
from coord.errors import InvalidSubject, InvalidToken
from coord.wire import subjects
from coord.wire.subjects import FactSubject, SampleSubject


@pytest.mark.parametrize(
    ("data", "value"),
    # From the authors of FNV: the test program of the reference implementation (test_fnv.c).
    [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968), (b"chongo was here!\n", 0xD49930D5)],
)
def test_fnv1a_is_the_published_one(data, value):
    assert subjects.fnv1a_32(data) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "key is empty"),
        ("Upper", "key contains 'U'"),
        ("a.b", "key contains '.'"),
        ("a b", "key contains ' '"),
        ("ä", "key contains 'ä'"),
        ("a\ud800", r"key contains '\ud800'"),
        ("x" * 65, "key is longer than 64 bytes"),
        ("a\n", r"key contains '\n'"),
    ],
)
def test_a_bad_token_is_named(value, reason):
    with pytest.raises(InvalidToken) as caught:
        subjects.check_token(value, "key")
    assert caught.value.message == reason


def test_the_constructor_does_not_check_and_checked_does():
    bad = FactSubject("acme", "a1", "k.1", "task", "t1", "done")
    with pytest.raises(InvalidToken, match="key contains"):
        bad.checked()
    with pytest.raises(InvalidToken, match="id contains"):  # who gave no key is told of the id that he gave
        FactSubject("acme", "a1", "a.py", "file", "a.py", "scanned").checked()
    # One token too many for one place, one too few for another: still caught.
    with pytest.raises(InvalidToken, match="key contains"):
        FactSubject("acme", "a1", "k.1", "task", "t1", "done", ("x",)).checked()
    with pytest.raises(InvalidSubject, match="detail"):
        FactSubject("acme", "a1", "k", "task", "t1", "done", ("x",) * (limits.DETAIL_TOKENS_MAX + 1)).checked()
    with pytest.raises(InvalidToken, match="detail"):
        FactSubject("acme", "a1", "k", "task", "t1", "done", ("X",)).checked()
    with pytest.raises(InvalidSubject, match="series"):
        SampleSubject("acme", "a1", "a.b.c.d.e").checked()
    with pytest.raises(InvalidToken, match="series"):
        SampleSubject("acme", "a1", "cpu..x").checked()
    assert FactSubject("acme", "a1", "k", "task", "t1", "done", ("x", "1")).checked().detail == ("x", "1")


def matches(pattern: str, subject: str) -> bool:
    """NATS's own matching, for these tests."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > at
        if at >= len(tokens) or token not in ("*", tokens[at]):
            return False
    return len(wanted) == len(tokens)


HISTORY = [
    FactSubject("acme", "scout", "wf-7", "task", "t1", "submitted", ("sum", "high")),
    FactSubject("acme", "w1", "wf-7", "task", "t1", "claimed", ("1",)),
    FactSubject("acme", "w1", "wf-7", "task", "t1", "completed"),
    FactSubject("acme", "w1", "wf-7", "task", "t2", "completed"),
    FactSubject("acme", "w1", "w1", "agent", "w1", "status"),
    FactSubject("other", "w1", "wf-7", "task", "t1", "completed"),
]


def selected(*filters: str) -> list[int]:
    return [at for at, fact in enumerate(HISTORY) if any(matches(f, fact.stored) for f in filters)]


def test_filters_select_what_they_say():
    assert selected(subjects.entity_filter("acme", "wf-7", "task", "t1")) == [0, 1, 2]
    assert selected(subjects.event_filter("acme", "wf-7", "task", "t1", "claimed", ("1",))) == [1]
    assert selected(subjects.event_filter("acme", "wf-7", "task", "t1", "completed")) == [2]
    assert selected(subjects.log_filter("acme")) == [0, 1, 2, 3, 4]
    assert selected(subjects.log_filter("acme", key="wf-7")) == [0, 1, 2, 3]
    assert selected(subjects.log_filter("acme", agent="w1", kind="task")) == [1, 2, 3]
    assert selected(subjects.log_filter("acme", event="completed")) == [2, 3]
    assert selected(*subjects.log_filters("acme", event="submitted")) == [0]
    assert selected(*subjects.log_filters("acme", kind="task")) == [0, 1, 2, 3]
    first, second = subjects.log_filters("acme", event="claimed")
    assert not any(matches(first, f.stored) and matches(second, f.stored) for f in HISTORY)
    # A server compares optimistic-concurrency filters byte by byte: no wildcard in front.
    assert subjects.entity_filter("acme", "wf-7", "task", "t1") == "coord.log.0.acme.wf-7.task.t1.>"
    assert (
        subjects.event_filter("acme", "wf-7", "task", "t1", "claimed", ("1",))
        == "coord.log.0.acme.wf-7.task.t1.*.claimed.1"
    )


def test_live_filters_are_the_log_filters_elsewhere():
    log = subjects.log_filters("acme", key="wf-7", event="completed")
    live = subjects.live_filters("acme", key="wf-7", event="completed")
    assert [subjects.live_to_stored(f) for f in live] == list(log)
    assert subjects.parse_live(HISTORY[0].live) == HISTORY[0]


@pytest.mark.parametrize("wildcard", ["*", ">", "", "a.b"])
def test_a_filter_takes_no_wildcard_from_its_caller(wildcard):
    with pytest.raises(InvalidToken):
        subjects.log_filter("acme", kind=wildcard)
    with pytest.raises(InvalidToken):
        subjects.log_filter(wildcard)
    with pytest.raises(InvalidToken):
        subjects.entity_filter("acme", "k", "task", wildcard)
    with pytest.raises(InvalidToken):
        subjects.event_filter("acme", "k", "task", "t", "claimed", (wildcard,))
    with pytest.raises(InvalidToken):
        subjects.rpc("acme", "log", wildcard)


def test_partition_filters():
    assert subjects.partition_filter("EVENTS", 0) == "coord.log.0.>"
    assert subjects.partition_filter("TELEMETRY", 15) == "coord.tlog.15.>"
    for stream, p in (("EVENTS", 16), ("EVENTS", -1), ("DLQ", 0)):
        with pytest.raises(InvalidSubject):
            subjects.partition_filter(stream, p)
    with pytest.raises(InvalidSubject):
        subjects.notice("acme", 16)


def test_stray_filters_select_what_was_published_and_not_transformed():
    assert subjects.stray_filter("EVENTS") == "coord.ev.>"
    assert subjects.stray_filter("TELEMETRY") == "coord.tel.>"
    with pytest.raises(InvalidSubject):
        subjects.stray_filter("DLQ")


@pytest.mark.parametrize(
    ("subject", "owner"),
    [
        ("coord.log.0.acme.k.note.n.a1.taken", ("acme", "a1")),
        ("coord.log.0.acme.K.note.n.a1.taken", ("acme", "a1")),
        ("coord.log.0.ACME.k.note.n.a1.taken", (None, "a1")),
        ("coord.log.0.acme.k", ("acme", None)),
        ("coord.tlog.0.acme.a1.cpu", ("acme", "a1")),
        ("coord.ev.acme.a1.k.note.n.taken", ("acme", "a1")),
        ("coord.live.0.acme.k.note.n.a1.taken", ("acme", "a1")),
        ("elsewhere.acme.a1", (None, None)),
        ("", (None, None)),
        ("coord.log.\udcff", (None, None)),
    ],
)
def test_the_owner_of_a_bad_subject_as_far_as_it_can_be_read(subject, owner):
    assert subjects.owner(subject) == owner


def test_wrong_prefixes_are_refused():
    for parse in (
        subjects.parse_rpc,
        subjects.parse_timer,
        subjects.parse_due,
        subjects.parse_notice,
        subjects.parse_dlq,
        subjects.parse_cursor,
        subjects.parse_live,
        subjects.live_to_stored,
        subjects.parse_published,
        subjects.parse_stored,
    ):
        for subject in ("", "coord", "coord.", "coord.other.a.b.c", "x" * 5000):
            with pytest.raises(InvalidSubject):
                parse(subject)
    with pytest.raises(InvalidSubject):
        subjects.parse_notice("coord.notice.acme.16")
    with pytest.raises(InvalidSubject):
        subjects.parse_rpc("coord.rpc.acme.log.read.more")


def test_deciders():
    assert subjects.is_decider("_timer")
    assert not subjects.is_decider("timer_")
