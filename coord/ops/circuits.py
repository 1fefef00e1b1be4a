"""Which circuits of the services on this machine are open, as their ``/metrics`` say."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from coord.ops.checks import Check, ok, skip, warn
from coord.runtime.circuit import LEVELS
from coord.runtime.http_config import HttpConfig

_FETCH_S: Final = 2.0
_PAGE_BYTES_MAX: Final = 4 * 1024 * 1024


async def check(http: HttpConfig) -> Check:
    """One line for `coord doctor`: what the services at `http` have stopped asking."""
    host = "127.0.0.1" if http.host in {"0.0.0.0", "::"} else http.host
    url = f"http://{host}:{http.port}/metrics"
    text = await asyncio.to_thread(_fetch, url)
    if text is None:
        return skip("flow", "circuits", f"no service answers at {url}")
    found = states(text)
    troubled = sorted(name for name, level in found.items() if level != LEVELS["closed"])
    if troubled:
        return warn(
            "flow", "circuits", f"open: {', '.join(troubled)}",
            "See why what they stand before does not answer; they close by themselves when it does.",
        )  # fmt: skip
    return ok("flow", "circuits", f"{len(found)} closed")


def states(text: str) -> dict[str, float]:
    """Circuit → level, from a page of metrics."""
    return {
        sample.labels["name"]: sample.value
        for family in text_string_to_metric_families(text)
        if family.name == "coord_circuit_state"
        for sample in family.samples
    }


def _fetch(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=_FETCH_S) as answer:  # noqa: S310 - the operator's own setting
            return bytes(answer.read(_PAGE_BYTES_MAX)).decode("utf-8", "replace")
    except (OSError, urllib.error.URLError, ValueError):
        return None
