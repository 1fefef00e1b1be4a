"""What `coord top` shows: rates between two snapshots, and a picture of them.

Rates come from counters that only grow (stream sequences, deliveries), so a missed interval
only makes the average longer.  A consumer that was reset counts again from zero: its rate is
unknown for that interval, not negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from coord.ops.cli.output import cell, duration, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from coord.ops.stats import Problem, Snapshot


class StreamRate(msgspec.Struct, frozen=True, kw_only=True):
    """One stream's rates; per second."""

    stream: str
    stored_per_s: float
    """Messages stored."""
    projected_per_s: float | None
    """Messages delivered to projectors; None when unknown."""
    bytes_per_s: float
    """Growth of what the stream holds; negative while more ages out than comes in."""
    subjects_per_s: float


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Between two snapshots."""

    seconds: float
    streams: tuple[StreamRate, ...]

    def of(self, stream: str) -> StreamRate | None:
        """The stream's rates, if it was in both."""
        return next((r for r in self.streams if r.stream == stream), None)


def rates(before: Snapshot, after: Snapshot) -> Rates:
    """What happened per second between `before` and `after`."""
    seconds = max((after.at - before.at).total_seconds(), 1e-6)
    found = []
    for now in after.streams:
        then = before.stream(now.name)
        if then is None or then.last_seq > now.last_seq:
            continue  # new, or made anew
        found.append(
            StreamRate(
                stream=now.name,
                stored_per_s=(now.last_seq - then.last_seq) / seconds,
                projected_per_s=_delivered(before, after, now.name, seconds),
                bytes_per_s=(now.bytes - then.bytes) / seconds,
                subjects_per_s=(now.subjects - then.subjects) / seconds,
            )
        )
    return Rates(seconds=seconds, streams=tuple(found))


def _delivered(before: Snapshot, after: Snapshot, stream: str, seconds: float) -> float | None:
    then, now = before.consumer(stream, "projector"), after.consumer(stream, "projector")
    if then is None or now is None or now.delivered < then.delivered:
        return None
    return (now.delivered - then.delivered) / seconds


# --- rows, for tables and pictures ---------------------------------------------------------


def stream_rows(snapshot: Snapshot, measured: Rates | None = None) -> list[dict[str, Any]]:
    """One row a stream, against its limits."""
    rows = []
    for s in snapshot.streams:
        rate = measured.of(s.name) if measured else None
        row: dict[str, Any] = {"stream": s.name}
        if measured:
            row["msgs/s"] = round(rate.stored_per_s, 1) if rate else None
        rows.append(
            row
            | {
                "messages": s.messages,
                "of": s.limit_messages if s.limit_messages > 0 else None,
                "bytes": s.bytes,
                "of_bytes": s.limit_bytes,
                "full": f"{s.fill:.1%}",
                "when_full": "refuse" if s.discard == "new" else "drop oldest",
                "subjects": s.subjects,
                "last_at": s.last_at,
            }
        )
    return rows


def consumer_rows(snapshot: Snapshot, measured: Rates | None = None) -> list[dict[str, Any]]:
    """One row a consumer or group of consumers."""
    rows = []
    for c in snapshot.consumers:
        rate = measured.of(c.stream) if measured else None
        row: dict[str, Any] = {"consumer": f"{c.stream}/{c.name}" + (f" ×{c.members}" if c.members > 1 else "")}
        if measured:
            known = rate.projected_per_s if rate and c.name == "projector" else None
            row["delivered/s"] = round(known, 1) if known is not None else None
        rows.append(
            row
            | {
                "pending": c.pending,
                "ack_pending": c.ack_pending,
                "redelivered": c.redelivered,
                "pinned": f"{c.pinned}/{c.members}",
            }
        )
    return rows


def projection_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """One row a projected stream."""
    return [
        {
            "projection": p.stream,
            "behind": p.pending,
            "lag_seconds": p.lag_seconds,
            "confirmed": f"{duration(p.silent_seconds)} ago" if p.silent_seconds is not None else None,
            "epoch": p.epoch,
            "seq": p.seq_max,
        }
        for p in snapshot.projection
    ]


# --- the live picture ----------------------------------------------------------------------


def picture(snapshot: Snapshot, measured: Rates | None, problems: list[Problem]) -> RenderableType:
    """The whole screen."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(_headline(snapshot, measured), style="bold"), Text()]
    for rows in (
        _brief_stream_rows(snapshot, measured),
        consumer_rows(snapshot, measured),
        projection_rows(snapshot),
        [
            {"dead letters": d.letters, "stream": d.stream, "code": d.code, "last_at": d.last_at}
            for d in snapshot.dead_letters
        ],
    ):
        if rows:
            parts += [_table(rows), Text()]
    parts += [
        Text(f"{p.severity}: {p.what}: {p.message} - {p.remedy}", style="red" if p.severity == "error" else "yellow")
        for p in problems
    ]
    return Group(*parts)


def _brief_stream_rows(snapshot: Snapshot, measured: Rates | None) -> list[dict[str, Any]]:
    """What fits into eighty columns."""
    rows = []
    for row, stream in zip(stream_rows(snapshot, measured), snapshot.streams, strict=True):
        age_s = (snapshot.at - stream.last_at).total_seconds() if stream.last_at else None
        last = f"{duration(max(age_s, 0.0))} ago" if age_s is not None else None
        kept = {k: v for k, v in row.items() if k in {"stream", "msgs/s", "messages", "bytes", "full", "subjects"}}
        rows.append({**kept, "last": last})
    return rows


def _headline(snapshot: Snapshot, measured: Rates | None) -> str:
    parts = [snapshot.at.strftime("%H:%M:%S UTC")]
    if measured is not None:
        for name, word in (("EVENTS", "facts messages"), ("TELEMETRY", "telemetry messages")):
            rate = measured.of(name)
            if rate is not None:
                parts.append(f"{rate.stored_per_s:,.0f} {word}/s")
    if snapshot.agents:
        parts.append(f"{sum(snapshot.agents.values())} agents")
    if snapshot.instances is not None:
        parts.append(f"{len(snapshot.instances)} projector(s)")
    if snapshot.database is not None:
        parts.append(f"database {size(snapshot.database.bytes)}, {snapshot.database.edition}")
    return "  |  ".join(parts)


def _table(rows: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        number = isinstance(value, (int, float))
        table.add_column(name.replace("_", " "), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell(value, name)) for name, value in row.items()))
    return table
