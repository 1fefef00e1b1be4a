"""Upcasters: payloads of older schema versions, one version at a time, to the newest.

A struct only grows, with defaults; what cannot be expressed so bumps ``schema`` and brings
a function from the old payload (builtin types) to the new one.  They are chained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coord.errors import RegisteredTwice, UnknownSchema

Upcaster = Callable[[Any], Any]


class Upcasters:
    """The known steps; each turns the data of schema n into the data of schema n + 1."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str, int], Upcaster] = {}

    def register(self, kind: str, event: str, from_schema: int, step: Upcaster) -> None:
        """Add the step from `from_schema` to the next; `RegisteredTwice` if there is one."""
        known = self._steps.setdefault((kind, event, from_schema), step)
        if known is not step:
            raise RegisteredTwice(kind=kind, event=event, from_schema=from_schema)

    def apply(self, kind: str, event: str, data: Any, schema: int, to: int) -> Any:
        """`data` of version `schema` as version `to`.

        Raises `UnknownSchema` when `schema` is newer than `to` or a step is missing.
        """
        if schema > to:
            raise UnknownSchema(schema=schema, known=to, kind=kind, event=event)
        for version in range(schema, to):
            step = self._steps.get((kind, event, version))
            if step is None:
                raise UnknownSchema(
                    f"no upcaster from schema {version} to {version + 1}", schema=schema, kind=kind, event=event
                )
            data = step(data)
        return data
