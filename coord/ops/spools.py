"""What waits in the spool that the settings name, for `coord doctor`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from coord.client import spool
from coord.client.config import PublisherConfig
from coord.ops.checks import Check, ok, skip, warn

WAITS_WARN_S: Final = 300.0
"""An agent that runs and has a broker empties its spool at once."""

FILL_WARN: Final = 0.8


async def check(publisher: PublisherConfig, now: float | None = None) -> Check | None:
    """One line, None where no spool is set; `now`: Unix seconds.  Takes no lock, changes nothing, raises nothing."""
    if publisher.spool is None:
        return None
    folder = Path(publisher.spool)
    if not (folder / "lock").exists():
        return ok("process", "spool", f"nothing in {folder} yet")
    try:
        found = await asyncio.to_thread(spool.look, folder)
    except OSError as exc:
        return skip("process", "spool", f"{folder}: {exc.strerror or exc}")
    waits = f"{len(found.records)} messages wait in {folder}"
    see = f"See `coord spool ls {folder}`."
    if found.problems or found.aside:
        what = "; ".join([*found.problems, *(f"{name} was put aside" for name in found.aside)])
        return warn("process", "spool", f"{waits}; {what}", f"{see} What was put aside is not sent by itself.")
    if found.size_bytes >= FILL_WARN * publisher.spool_bytes:
        detail = f"{waits}: {found.size_bytes / publisher.spool_bytes:.0%} of publisher.spool_bytes"
        return warn(
            "process", "spool", detail, f"{see} Let the agent reach the broker, or raise publisher.spool_bytes."
        )
    if found.records:
        waited_s = max(0.0, (time.time() if now is None else now) - found.records[0].record.at_ms / 1000)
        if waited_s >= WAITS_WARN_S:
            detail = f"{waits}, the oldest for {waited_s:,.0f} s"
            return warn("process", "spool", detail, f"{see} Start the agent, or let it reach the broker.")
    return ok("process", "spool", waits)
