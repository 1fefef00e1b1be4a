"""What the projector tells the caches after a commit, as bytes.

``{"stream", "epoch", "partition", "session", "from", "to", "tags"}``.  One notice for each tenant
touched, to that tenant's subject: `tags` names what the commit touched, null means "anything of this
partition".  `from` is the `to` of the tenant's last notice from this partition and session.  A *beat*,
to everybody's subject, has no tags and says only which session the partition is in now.
"""

from __future__ import annotations

import msgspec

from coord import limits
from coord.errors import InvalidPayload


class Notice(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}, gc=False):
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
