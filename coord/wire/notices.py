"""What the projector tells the caches after a commit, as bytes.

``{"stream", "epoch", "partition", "session", "from", "to", "tags", "facts"}``.  One notice for each tenant
touched, to that tenant's subject: `tags` names what the commit touched, null means "anything of this
partition".  `from` is the `to` of the tenant's last notice from this partition and session.  A *beat*,
to everybody's subject, has no tags and says only which session the partition is in now, and of which stream.

`facts` accounts for every message of the tenant in ``(from, to]`` of which something was stored, in the log's order:
``[sequence, how many facts of it were stored, tag, tag, …]``, tags by their place in `tags`.  It is left out of a
notice of many messages, and where it would not say everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from coord import limits
from coord.errors import InvalidPayload

UNSAID: Final = msgspec.Raw()
"""`Notice.facts` where nothing is said of them."""


class Notice(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}, gc=False, omit_defaults=True):
    """One notice."""

    stream: str
    epoch: int
    partition: int
    session: str = ""
    """Which series of notices it belongs to: a new one whenever one of the old may be lost."""
    from_: int
    """Stream sequence at which the tenant's last notice of this partition and session ended."""
    to: int
    """Everything of the partition up to here is committed."""
    tags: list[str] | None
    """What was touched: ``{kind}:{id}``, ``key:{key}``, ``kind:{kind}``, ``series:{agent}.{series}``."""
    facts: msgspec.Raw = UNSAID
    """As JSON, for whoever wants it (`stored`): most do not."""
    created: str = ""
    """A beat's: when the broker created the stream, which is its identity, as `coord.wire.times.format_time` writes."""


class Stored(msgspec.Struct, frozen=True):
    """One message of the log of which facts were stored."""

    seq: int
    count: int
    """Of its facts: a frame may hold some that nobody believes."""
    tags: tuple[str, ...]
    """What they touched."""


_decoder = msgspec.json.Decoder(Notice)
encode = msgspec.json.Encoder().encode


def decode(body: bytes) -> Notice:
    """The notice in `body`; raises `InvalidPayload` for what is none."""
    try:
        notice = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidPayload(f"not a notice: {exc}") from exc
    if not 0 <= notice.partition < limits.PARTITIONS or notice.to < 0 or notice.from_ < 0 or notice.epoch < 0:
        raise InvalidPayload("not a notice: numbers out of range", partition=notice.partition)
    if notice.tags is not None and len(notice.tags) > limits.NOTICE_TAGS_RECEIVED_MAX:
        return msgspec.structs.replace(notice, tags=None)
    return notice


_decode_facts = msgspec.json.Decoder(list[list[int]]).decode


def said(facts: Iterable[tuple[int, int, tuple[str, ...]]], tags: list[str]) -> msgspec.Raw:
    """`Notice.facts` of (sequence, how many, tags); each tag is one of `tags`."""
    places = {tag: place for place, tag in enumerate(tags)}
    return msgspec.Raw(encode([[seq, count, *[places[tag] for tag in touched]] for seq, count, touched in facts]))


def stored(notice: Notice) -> list[Stored] | None:
    """Every message of ``(from, to]`` of which something was stored, in order; None: the notice does not say."""
    tags = notice.tags
    if tags is None or not notice.facts:
        return None
    try:
        rows = _decode_facts(notice.facts)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if len(rows) > limits.NOTICE_FACTS_RECEIVED_MAX:
        return None
    found, before = [], notice.from_
    for row in rows:
        if len(row) < 3 or not before < row[0] <= notice.to or row[1] < 1:
            return None
        if not all(0 <= place < len(tags) for place in row[2:]):
            return None
        before = row[0]
        found.append(Stored(row[0], row[1], tuple([tags[place] for place in row[2:]])))
    return found
