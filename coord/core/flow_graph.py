"""A workflow as a picture: Mermaid text, or SVG laid out in layers.

A step stands one column right of the last of those that it needs.  Within a column steps are put in the
order of the middle of what they need, which keeps most lines from crossing; that is all there
is to the layout.  Pure; with a `View` the steps have the colours of their statuses.
"""

from __future__ import annotations

from html import escape
from typing import Final

from coord.core.flow_definition import Plan, Planned, plan
from coord.core.flow_view import View
from coord.wire.flow import Definition, RuleTable, Step

_COLOURS: Final = {
    "waiting": ("#f4f4f5", "#a1a1aa"),
    "running": ("#dbeafe", "#2563eb"),
    "completed": ("#dcfce7", "#16a34a"),
    "failed": ("#fee2e2", "#dc2626"),
    "cancelled": ("#fef3c7", "#d97706"),
    "skipped": ("#fafafa", "#d4d4d8"),
    "undone": ("#ede9fe", "#7c3aed"),
}
"""Fill and line of each status: told apart by the words too, for whoever does not see colours."""

_WIDTH: Final = 168
_HEIGHT: Final = 46
_GAP_X: Final = 56
_GAP_Y: Final = 18
_EDGE: Final = 16
_ARROW: Final = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#71717a"/></marker></defs>'
)


def mermaid(definition: Definition, view: View | None = None) -> str:
    """As Mermaid draws it: ``flowchart LR``."""
    planned = plan(definition)
    statuses = _statuses(view)
    lines = ["flowchart LR"]
    for node in planned.steps:
        label = f"{node.step.name}<br/>{_what(node.step)}".replace('"', "#quot;")
        opening, closing = _shape(node)
        lines.append(f'  s{node.index}{opening}"{label}"{closing}')
    for node in planned.steps:
        for need in node.needs:
            condition = "|when|" if node.step.when is not None else ""
            lines.append(f"  s{need} -->{condition} s{node.index}")
    for status, (fill, line) in _COLOURS.items():
        members = [f"s{node.index}" for node in planned.steps if statuses.get(node.step.name) == status]
        if members:
            lines.append(f"  classDef {status} fill:{fill},stroke:{line},color:#18181b")
            lines.append(f"  class {','.join(members)} {status}")
    return "\n".join(lines) + "\n"


def _shape(node: Planned) -> tuple[str, str]:
    shapes = {"signal": ("([", "])"), "decide": ("{{", "}}"), "sleep": ("((", "))"), "workflow": ("[[", "]]")}
    return shapes.get(node.kind, ("[", "]"))


def _what(step: Step) -> str:
    if step.task is not None:
        what = step.task
    elif step.workflow is not None:
        what = step.workflow.name
    elif step.signal is not None:
        what = f"{'approval' if step.approval else 'signal'} {step.signal}"
    elif step.decide is not None:
        what = "rules" if isinstance(step.decide, RuleTable) else f"rules {step.decide}"
    else:
        what = f"sleep {step.sleep_s:g} s"
    if step.for_each is not None:
        return f"{what} × {step.max_parallelism}"
    return f"{what}, local" if step.local else what


def _statuses(view: View | None) -> dict[str, str]:
    return {} if view is None else {step.name: step.status for step in view.steps}


def columns(planned: Plan) -> list[list[Planned]]:
    """The steps in columns, from left to right and from top to bottom."""
    depth: dict[int, int] = {}

    def column(index: int) -> int:
        waiting = [index]
        while waiting:
            needs = planned.steps[waiting[-1]].needs
            missing = [need for need in needs if need not in depth]
            if missing:
                waiting += missing
                continue
            found = waiting.pop()
            depth[found] = 1 + max((depth[need] for need in needs), default=-1)
        return depth[index]

    laid: list[list[Planned]] = []
    for node in planned.steps:
        while len(laid) <= column(node.index):
            laid.append([])
        laid[column(node.index)].append(node)
    place: dict[int, float] = {}
    for steps in laid:
        steps.sort(key=lambda node: (_middle([place[need] for need in node.needs]), node.index))
        for row, node in enumerate(steps):
            place[node.index] = row - (len(steps) - 1) / 2
    return laid


def _middle(places: list[float]) -> float:
    return sum(places) / len(places) if places else 0.0


def svg(definition: Definition, view: View | None = None) -> str:
    """As one SVG document, without scripts or anything from elsewhere."""
    planned = plan(definition)
    laid = columns(planned)
    statuses = _statuses(view)
    rows = max(len(steps) for steps in laid)
    width = 2 * _EDGE + len(laid) * _WIDTH + (len(laid) - 1) * _GAP_X
    height = 2 * _EDGE + rows * _HEIGHT + (rows - 1) * _GAP_Y
    at: dict[int, tuple[float, float]] = {}
    for number, steps in enumerate(laid):
        used = len(steps) * _HEIGHT + (len(steps) - 1) * _GAP_Y
        for row, node in enumerate(steps):
            at[node.index] = (
                _EDGE + number * (_WIDTH + _GAP_X),
                (height - used) / 2 + row * (_HEIGHT + _GAP_Y),
            )
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" '
            f'height="{height:g}" font-family="system-ui, sans-serif" role="img" '
            f'aria-label="{escape(definition.name)}">'
        ),
        f"<title>{escape(definition.name)} {escape(definition.version)}</title>",
        _ARROW,
    ]
    for node in planned.steps:
        parts += [_edge(at[need], at[node.index], dashed=node.step.when is not None) for need in node.needs]
    parts += [_node(node, at[node.index], statuses.get(node.step.name, "waiting")) for node in planned.steps]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _edge(start: tuple[float, float], end: tuple[float, float], *, dashed: bool) -> str:
    x, y = start[0] + _WIDTH, start[1] + _HEIGHT / 2
    to_x, to_y = end[0], end[1] + _HEIGHT / 2
    bend = (to_x - x) / 2
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<path d="M{x:g} {y:g}C{x + bend:g} {y:g} {to_x - bend:g} {to_y:g} {to_x:g} {to_y:g}" fill="none" '
        f'stroke="#71717a" stroke-width="1.4"{dash} marker-end="url(#arrow)"/>'
    )


def _node(node: Planned, at: tuple[float, float], status: str) -> str:
    fill, line = _COLOURS[status]
    x, y = at
    round_ = {"signal": 22, "sleep": 22, "decide": 4}.get(node.kind, 8)
    double = (
        f'<rect x="{x + 4:g}" y="{y + 4:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="{round_}" fill="{fill}" '
        f'stroke="{line}"/>'
        if node.fanned
        else ""
    )
    return (
        f'<g>{double}<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="{round_}" fill="{fill}" '
        f'stroke="{line}" stroke-width="1.4"/>'
        f'<text x="{x + _WIDTH / 2:g}" y="{y + 19:g}" text-anchor="middle" font-size="13" fill="#18181b">'
        f"{escape(_short(node.step.name))}</text>"
        f'<text x="{x + _WIDTH / 2:g}" y="{y + 35:g}" text-anchor="middle" font-size="11" fill="#52525b">'
        f"{escape(_short(_what(node.step)))}</text>"
        f"<title>{escape(node.step.name)}: {escape(_what(node.step))}, {status}</title></g>"
    )


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"
