"""A state shown whole: folds leave defaults out of what they save, whoever reads a state wants them."""

from __future__ import annotations

from typing import Any

import msgspec


def fields_of(state: msgspec.Struct) -> dict[str, Any]:
    """All of its own fields as values of JSON, and of what those are made of the ones that say something."""
    return {name: msgspec.to_builtins(getattr(state, name)) for name in state.__struct_fields__}
