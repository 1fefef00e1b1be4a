"""What a notice names of a batch: everything, or of a backlog nothing."""

from __future__ import annotations

from coord import limits
from coord.projector.rows import Batch
from tests.support.store import event


def batch_of(*facts: tuple[str, str]) -> Batch:
    """Of (tenant, key), each fact about an entity of its own."""
    batch = Batch("EVENTS", 0, 1)
    batch.events += [event(seq, tenant=tenant, key=key, id=f"i{seq}") for seq, (tenant, key) in enumerate(facts, 1)]
    return batch


def test_what_was_touched_is_named() -> None:
    kind = event(1)[8]
    tags = batch_of(("t", "k"), ("t", "k"), ("u", "k")).tags
    assert tags == {
        "t": {"key:k", f"kind:{kind}", f"{kind}:i1", f"{kind}:i2"},
        "u": {"key:k", f"kind:{kind}", f"{kind}:i3"},
    }


def test_too_much_to_name_is_a_whole_partition() -> None:
    many = [("t", "k")] * (limits.NOTICE_TAGS_MAX + 1)
    assert batch_of(*many).tags == {"t": None}


def test_a_tenant_behind_another_ones_backlog_is_named() -> None:
    many = [("t", "k")] * (limits.NOTICE_TAGS_MAX + 1)
    tags = batch_of(*many, ("u", "k"), *many).tags
    assert tags["t"] is None
    assert tags["u"] is not None
    assert "key:k" in tags["u"]


def test_as_many_as_fit_are_named() -> None:
    most = [("t", "k")] * (limits.NOTICE_TAGS_MAX - 2)
    tags = batch_of(*most).tags["t"]
    assert tags is not None
    assert len(tags) == limits.NOTICE_TAGS_MAX


def test_each_message_of_a_small_batch_is_named() -> None:
    batch = batch_of(("t", "k"), ("u", "k"), ("t", "l"))
    batch.events.append(event(3, idx=1, tenant="t", key="l", id="i3"))  # of one frame
    kind = event(1)[8]
    assert batch.stored == {
        "t": [(1, 1, (f"{kind}:i1", "key:k", f"kind:{kind}")), (3, 2, (f"{kind}:i3", "key:l", f"kind:{kind}"))],
        "u": [(2, 1, (f"{kind}:i2", "key:k", f"kind:{kind}"))],
    }
    assert all(set(tags) <= (batch.tags[tenant] or set()) for tenant, of in batch.stored.items() for *_, tags in of)


def test_of_a_large_batch_no_message_is_named() -> None:
    assert batch_of(*[("t", "k")] * limits.NOTICE_FACTS_MAX).stored["t"]
    assert batch_of(*[("t", "k")] * (limits.NOTICE_FACTS_MAX + 1)).stored == {}
