"""The trimmer's decisions, against a log that drops what is older than its age, as the broker does.

The machine publishes, projects, lets holders fall behind, sets the broker's clock back, lets
trimmers decide on what they have read a while ago, and kills them in the middle of a cut.
Whatever the order: what a holder still needs has never left.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coord import errors
from coord.core import trim
from coord.core.trim import Aim, Blocked, Cut, Need, TrimConfig, Window

S = 1_000_000
DAY_NS = 86_400 * 10**9
CONFIG = TrimConfig()
LIMIT = 100
DUPLICATES_S = 120


class Message(msgspec.Struct):
    seq: int
    us: int


class Stream:
    """What the broker does: stores, and drops from the front what is older than the age."""

    def __init__(self) -> None:
        self.now = 10**15
        self.log: deque[Message] = deque()
        self.last = 0
        self.config: dict[str, Any] = {"max_age": DAY_NS, "duplicate_window": DUPLICATES_S * 10**9, "max_msgs": LIMIT}
        self.updates = 0

    def publish(self) -> bool:
        if len(self.log) >= LIMIT:
            return False
        self.last += 1
        self.log.append(Message(self.last, self.now))
        return True

    def expire(self) -> None:
        oldest = self.now - self.config["max_age"] // 1_000
        while self.log and self.log[0].us <= oldest:
            self.log.popleft()

    def update(self, config: dict[str, Any]) -> None:
        assert config["max_age"] >= config["duplicate_window"], "the broker refuses it"
        self.config = config
        self.updates += 1

    @property
    def first(self) -> int:
        return self.log[0].seq if self.log else self.last + 1

    def window(self) -> Window:
        return Window(
            messages=len(self.log),
            bytes=0,
            max_messages=LIMIT,
            max_bytes=-1,
            first_seq=self.first,
            last_seq=self.last,
            first_us=self.log[0].us if self.log else 0,
            now_us=self.now,
            max_age_us=trim.intended(self.config) // 1_000,
            duplicate_window_us=DUPLICATES_S * S,
        )

    def stored_us(self, seq: int) -> int | None:
        return next((m.us for m in self.log if m.seq >= seq), None)


class Trimming(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        holders=st.integers(1, 3), held=st.integers(0, 100), gap_us=st.sampled_from([S // 100, S, 4 * S, 30 * S])
    )
    def start(self, holders: int, held: int, gap_us: int) -> None:
        self.stream = Stream()
        for _ in range(held):
            self.stream.now += gap_us
            self.stream.publish()
        self.done = [held] * holders
        """Up to where each holder has got."""
        self.decided: list[tuple[int, Cut]] = []
        """Cuts that a trimmer has decided on and not made, and when it read what they rest on."""
        self.mine = False
        self.cuts = 0

    @rule(count=st.integers(1, 60), each_us=st.sampled_from([S // 100, S // 2, 2 * S, 8 * S]))
    def publish(self, count: int, each_us: int) -> None:
        for _ in range(count):
            if self.mine and self._until() - self.stream.now < each_us:
                break  # the trimmer sets the age back in time: `look`
            self.stream.now += each_us
            self.stream.expire()
            self.stream.publish()

    @rule(holder=st.integers(0, 2), count=st.integers(1, 80))
    def project(self, holder: int, count: int) -> None:
        holder %= len(self.done)
        self.done[holder] = min(self.done[holder] + count, self.stream.last)

    @rule()
    def catch_up(self) -> None:
        self.done = [self.stream.last] * len(self.done)

    @precondition(lambda self: not self.mine and not self.decided)
    @rule(back_us=st.integers(1, 60 * S))
    def clock_set_back(self, back_us: int) -> None:
        self.stream.now -= back_us

    @rule()
    def decide(self) -> None:
        stream = self.stream
        if trim.lowered_until(stream.config) is not None:
            return
        window = stream.window()
        found = trim.aim(window, [Need(f"h-{i}", seq + 1) for i, seq in enumerate(self.done)], CONFIG)
        if not isinstance(found, Aim):
            assert found is None or isinstance(found, Blocked)
            assert (found is None) == (window.fill < CONFIG.begin or not window.messages)
            return
        assert window.first_seq < found.keep_from <= found.barrier <= stream.last
        assert found.barrier <= min(self.done) + 1
        keep_from_us, barrier_us = stream.stored_us(found.keep_from), stream.stored_us(found.barrier)
        assert keep_from_us is not None
        assert barrier_us is not None
        decided = trim.cut(window, found, keep_from_us=keep_from_us, barrier_us=barrier_us, config=CONFIG)
        if isinstance(decided, Cut):
            assert window.first_us <= decided.cut_us <= window.now_us - DUPLICATES_S * S
            self.decided.append((stream.now, decided))

    @precondition(lambda self: self.decided)
    @rule(late_us=st.integers(0, int(CONFIG.lowered_s * S) - 1))
    def lower(self, late_us: int) -> None:
        """A cut that was decided a while ago is made now, perhaps by the second of two at the same time."""
        _, cut = self.decided.pop(0)
        stream = self.stream
        stream.now += late_us
        # What the margin has to bear, and the trimmers keep: a cut is a moment, not an age.
        until_us = stream.now + int(CONFIG.lowered_s * S)
        lowered = trim.lowered(stream.config, cut, now_us=stream.now, until_us=until_us)
        assert trim.intended(lowered) == DAY_NS
        assert trim.restored(lowered)["max_age"] == DAY_NS
        assert lowered["max_age"] <= DAY_NS
        stream.update(lowered)
        stream.expire()
        self.mine = True
        self.cuts += 1

    @precondition(lambda self: self.mine)
    @rule(after_us=st.integers(0, int(CONFIG.lowered_s * S)))
    def set_back(self, after_us: int) -> None:
        self.stream.now = max(self.stream.now, min(self.stream.now + after_us, self._until()))
        self.stream.expire()
        self.stream.update(trim.restored(self.stream.config))
        self.mine = False
        assert self.stream.config["max_age"] == DAY_NS
        assert trim.lowered_until(self.stream.config) is None

    @precondition(lambda self: not self.mine)
    @rule(rest_us=st.sampled_from([0, 200 * S]), late_us=st.integers(0, 2 * S), after_us=st.integers(0, 5 * S))
    def trim_at_once(self, rest_us: int, late_us: int, after_us: int) -> None:
        """The usual way, after a rest in which all of the log became old enough."""
        self.stream.now += rest_us
        self.decide()
        if self.decided:
            self.lower(late_us)
            self.set_back(after_us)

    def _until(self) -> int:
        until = trim.lowered_until(self.stream.config)
        assert until is not None
        return until

    @invariant()
    def nothing_needed_has_left(self) -> None:
        assert self.stream.first <= min(self.done) + 1, "a message that a holder needs has left"

        assert trim.unneeded_below(self.stream.config) <= min(self.done) + 1

    @invariant()
    def updates_are_bounded(self) -> None:
        assert self.stream.updates <= 2 * self.cuts


TestTrimming = Trimming.TestCase
TestTrimming.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def window(**fields: Any) -> Window:
    given = {
        "messages": 900, "bytes": 0, "max_messages": 1_000, "max_bytes": -1, "first_seq": 101, "last_seq": 1_000,
        "first_us": 0, "now_us": 900 * S, "max_age_us": 86_400 * S, "duplicate_window_us": 120 * S,
    }  # fmt: skip
    return Window(**(given | fields))


def test_a_full_log_is_cut_down_to_the_lower_mark() -> None:
    found = trim.aim(window(), [Need("projector-3", 1_001), Need("projector-4", 990)], CONFIG)
    assert found == Aim(101 + int(900 * (1 - CONFIG.end / 0.9)), 990, "projector-4")
    cut = trim.cut(window(), found, keep_from_us=380 * S, barrier_us=890 * S, config=CONFIG)
    assert cut == Cut(380 * S - 1, 990)


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (None, Blocked("unknown")),
        ([], Blocked("unknown")),
        ([Need("open-tasks", 101), Need("projector-0", 1_001)], Blocked("held", "open-tasks")),
        ([Need("projector-0", 1)], Blocked("held", "projector-0")),  # the window has passed it: nothing more may go
        ([Need("projector-0", 103)], Blocked("held", "projector-0")),  # two messages are not worth a cut
    ],
)
def test_what_blocks(needs: list[Need] | None, expected: Blocked) -> None:
    assert trim.aim(window(), needs, CONFIG) == expected
    assert trim.aim(window(messages=500, last_seq=600), needs, CONFIG) is None, "there is room"


def test_the_margin_before_the_barrier() -> None:
    found = Aim(500, 500, "projector-1")
    cut = trim.cut(window(), found, keep_from_us=300 * S, barrier_us=300 * S, config=CONFIG)
    assert cut == Cut(300 * S - int(CONFIG.margin_s * S), 500)
    early = window(first_us=295 * S)
    blocked = trim.cut(early, found, keep_from_us=300 * S, barrier_us=300 * S, config=CONFIG)
    assert blocked == Blocked("held", "projector-1")


def test_never_below_the_duplicate_window() -> None:
    found = Aim(500, 1_000, "projector-1")
    cut = trim.cut(window(), found, keep_from_us=850 * S, barrier_us=900 * S, config=CONFIG)
    assert cut == Cut(780 * S, 1_000)
    young = window(first_us=790 * S)
    assert trim.cut(young, found, keep_from_us=850 * S, barrier_us=900 * S, config=CONFIG) == Blocked(
        "duplicate_window"
    )


def test_what_is_older_than_the_age_goes_by_itself() -> None:
    old = window(max_age_us=100 * S)
    found = Aim(500, 1_000, "projector-1")
    assert trim.cut(old, found, keep_from_us=380 * S, barrier_us=900 * S, config=CONFIG) == Blocked("aging")


def test_bytes_fill_a_log_too() -> None:
    full = window(bytes=800, max_bytes=1_000, max_messages=-1)
    assert full.fill == 0.8
    assert isinstance(trim.aim(full, [Need("projector-0", 1_001)], CONFIG), Aim)
    assert window(max_messages=-1).fill == 0.0


def test_an_operator_who_changes_the_age_meanwhile_wins() -> None:
    config = {"max_age": DAY_NS, "max_msgs": 5, "metadata": {"team": "blue"}}
    lowered = trim.lowered(config, Cut(0, 7), now_us=300 * S, until_us=305 * S)
    assert lowered == {
        "max_age": 300 * 10**9, "max_msgs": 5,
        "metadata": {
            "team": "blue", trim.UNNEEDED: "7",
            trim.CONFIGURED: str(DAY_NS), trim.LOWERED: str(300 * 10**9), trim.UNTIL: str(305 * S),
        },
    }  # fmt: skip
    left = {"metadata": {"team": "blue", trim.UNNEEDED: "7"}}
    assert trim.restored(lowered) == config | left
    hour = 3_600 * 10**9
    theirs = lowered | {"max_age": hour}
    assert trim.intended(theirs) == hour
    assert trim.restored(theirs) == config | left | {"max_age": hour}
    # A second trimmer that lowers it again keeps what was configured.
    again = trim.lowered(lowered, Cut(0, 6), now_us=200 * S, until_us=205 * S)
    assert trim.restored(again) == config | left


@given(
    st.dictionaries(
        st.sampled_from([trim.CONFIGURED, trim.LOWERED, trim.UNTIL, "x"]), st.text(max_size=25) | st.just("7")
    ),
    st.integers(0, 10**18),
)
def test_whatever_stands_in_the_metadata(metadata: dict[str, str], age: int) -> None:
    config = {"max_age": age, "metadata": metadata}
    assert trim.intended(config) >= 0
    assert trim.lowered_until(trim.restored(config)) is None
    assert trim.restored(trim.restored(config)) == trim.restored(config)


@pytest.mark.parametrize("fields", [{"begin": 0.5, "end": 0.5}, {"begin": 0.9}, {"margin_s": 0}, {"every_s": 0}])
def test_settings_that_do_not_fit(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.SettingsError):
        TrimConfig(**fields).validate()


def test_an_age_that_was_left_lowered_is_told_from_one_that_is_being_used() -> None:
    us = 1_000_000
    for until_s, left in ((100.0, False), (100.1, False), (105.0, False), (99.9, True), (3_700.0, True), (0.0, True)):
        assert trim.is_left_behind(int(until_s * us), now_us=100 * us, lowered_s=5.0) is left, until_s
