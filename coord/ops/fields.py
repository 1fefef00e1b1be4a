"""A state shown whole: folds leave defaults out of what they save, whoever reads a state wants them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_MOMENTS: Final = frozenset({"at", "since", "waits_since", "deadline"})


def fields_of(state: msgspec.Struct) -> dict[str, Any]:
    """All of its own fields as values of JSON, and of what those are made of the ones that say something.

    Moments, Unix seconds in folds and on the wire, are times, as the tables have them; those of users' data stay.
    """
    return {name: _shown(name, getattr(state, name)) for name in state.__struct_fields__}


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, float) and (name.endswith("_at") or name in _MOMENTS):
        return datetime.fromtimestamp(value, UTC) if value else None
    if isinstance(value, msgspec.Struct):
        said = msgspec.to_builtins(value)
        if not isinstance(said, dict):
            return said
        for own, encoded in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            if encoded in said:
                said[encoded] = _shown(own, getattr(value, own))
        return said
    if isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
        return [_shown(name, member) for member in value]
    return msgspec.to_builtins(value)
