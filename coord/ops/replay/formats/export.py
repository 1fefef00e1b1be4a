"""coord's own export: JSON lines of facts, as ``coord event export`` and ``coord event tail -o jsonl`` write them.

Facts keep their author, event id, times and body; sequence, partition and stored time are the
new log's.  Facts of deciders are left out: whoever decides there states them anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Final

import msgspec

from coord.errors import InvalidToken
from coord.ops.replay.recording import Item, LeftOut, Problem, Statement
from coord.ops.replay.source import Line, Source
from coord.wire import subjects
from coord.wire.records import Fact

NAME: Final = "export"
TITLE: Final = "coord's own export of facts"


class ExportedFact(msgspec.Struct, kw_only=True):
    """One line.  Further members (seq, partition, stored_at …) say where it was and are not needed."""

    agent: str
    key: str
    kind: str
    id: str
    event: str
    event_id: Annotated[str, msgspec.Meta(min_length=1)]
    data: msgspec.Raw = msgspec.Raw(b"null")
    detail: list[str] = []
    occurred_at: datetime | None = None
    stored_at: datetime | None = None
    type: str | None = None
    schema: int = 1
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


_decode = msgspec.json.Decoder(ExportedFact).decode


def sniff(head: str) -> bool:
    """A first line that is an exported fact."""
    first = head.lstrip().split("\n", 1)[0]
    try:
        _decode(first)
    except (msgspec.MsgspecError, RecursionError):
        # A first line longer than the head: by its first members.
        return len(first) == len(head.lstrip()) and first.startswith('{"seq":') and '"event_id":' in first
    return True


def read(source: Source, run: str) -> Iterator[Item]:  # noqa: ARG001 - ids are the recorded ones
    """One statement a line."""
    for line in source.lines():
        yield line if isinstance(line, Problem) else _statement(line)


def _statement(line: Line) -> Item:
    try:
        known = _decode(line.text)
    except (msgspec.MsgspecError, RecursionError) as exc:
        return Problem(line.number, f"no exported fact: {exc}")
    for what, moment in (("occurred_at", known.occurred_at), ("stored_at", known.stored_at)):
        if moment is not None and moment.tzinfo is None:
            return Problem(line.number, f"{what} has no zone")
    try:
        subjects.check_token(known.agent, "agent")
    except InvalidToken as exc:
        return Problem(line.number, str(exc))
    if subjects.is_decider(known.agent):
        return LeftOut(line.number, f"a decider's fact ({known.agent})")
    fact = Fact(
        kind=known.kind,
        id=known.id,
        event=known.event,
        key=known.key,
        detail=tuple(known.detail),
        data=None if bytes(known.data) == b"null" else known.data,
        event_id=known.event_id,
        occurred_at=known.occurred_at,
        correlation_id=known.correlation_id,
        causation_id=known.causation_id,
        traceparent=known.traceparent,
        type=known.type,
        schema=known.schema,
    )
    return Statement(line=line.number, agent=known.agent, fact=fact, at=known.stored_at or known.occurred_at)
