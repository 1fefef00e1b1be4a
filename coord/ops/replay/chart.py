"""Waits as a picture, in SVG by hand: for each placement a bar of each priority, from its median to its p99."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final, TypeAlias

from coord.ops.replay.waits import Waits

_COLOURS: Final = {"critical": "#dc2626", "normal": "#2563eb", "batch": "#71717a"}
_LEAST_MS: Final = 0.1
"""Below this nothing is told apart: the broker's clock and two hops."""

_Scale: TypeAlias = Callable[[float], float]

_BAR: Final = 22
_GAP: Final = 52
_LEFT: Final = 64
_TOP: Final = 56
_HEIGHT: Final = 300
_BOTTOM: Final = 44


def svg(waits: Sequence[Waits], title: str) -> str:
    """The picture; the scale is logarithmic, and a bar's dark line is the 90th percentile."""
    placements = list(dict.fromkeys(one.placement for one in waits))
    priorities = [name for name in _COLOURS if any(one.priority == name for one in waits)]
    group = len(priorities) * _BAR
    width = max(460, _LEFT + len(placements) * (group + _GAP) + _GAP)
    low, high = _decades(waits)

    def y(ms: float) -> float:
        share = (math.log10(max(ms, 10.0**low)) - low) / (high - low)
        return round(_TOP + _HEIGHT * (1 - min(1.0, share)), 1)

    height = _TOP + _HEIGHT + _BOTTOM
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for n, priority in enumerate(priorities):
        x = _LEFT + 90 * n
        lines.append(f'<rect x="{x}" y="30" width="12" height="12" fill="{_COLOURS[priority]}"/>')
        lines.append(f'<text x="{x + 17}" y="41">{priority}</text>')
    for decade in range(low, high + 1):
        at = y(10.0**decade)
        lines.append(f'<line x1="{_LEFT}" x2="{width - 12}" y1="{at}" y2="{at}" stroke="#e4e4e7"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{at + 4}" text-anchor="end">{10.0**decade:g} ms</text>')
    for g, placement in enumerate(placements):
        left = _LEFT + _GAP + g * (group + _GAP)
        lines.append(
            f'<text x="{left + group / 2:g}" y="{_TOP + _HEIGHT + 20}" text-anchor="middle">{escape(placement)}</text>'
        )
        for one in waits:
            if one.placement == placement:
                lines += _bar(one, left + priorities.index(one.priority) * _BAR, y)
    return "\n".join([*lines, "</svg>", ""])


def _bar(one: Waits, x: float, y: _Scale) -> list[str]:
    top, bottom, middle = y(one.wait_p99_ms), y(one.wait_p50_ms), y(one.wait_p90_ms)
    tall = max(1.0, round(bottom - top, 1))
    words = f"p50 {one.wait_p50_ms:g}, p90 {one.wait_p90_ms:g}, p99 {one.wait_p99_ms:g} ms"
    fill = f'fill="{_COLOURS[one.priority]}" fill-opacity="0.55"'
    ends = f'x1="{x + 2:g}" x2="{x + _BAR - 2:g}" y1="{middle}" y2="{middle}"'
    return [
        f"<g><title>{escape(one.placement)}, {one.priority}: {words}</title>",
        f'<rect x="{x + 2:g}" y="{top}" width="{_BAR - 4}" height="{tall}" {fill}/>',
        f'<line {ends} stroke="#18181b" stroke-width="2"/></g>',
    ]


def _decades(waits: Sequence[Waits]) -> tuple[int, int]:
    least = min((one.wait_p50_ms for one in waits), default=1.0)
    most = max((one.wait_p99_ms for one in waits), default=10.0)
    low = math.floor(math.log10(max(least, _LEAST_MS)))
    return low, max(low + 1, math.ceil(math.log10(max(most, _LEAST_MS))))
