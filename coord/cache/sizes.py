"""How many bytes a value holds.

`sys.getsizeof` of everything that can be reached from it, each object once and rounded up as the allocator does.
What a value shares with the whole process (classes, functions, modules, small integers) is not its own.  Two values
that share an object are each charged for it: the sum is never less than what is held.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import gc
import types
import uuid
from sys import getsizeof
from typing import Any, Final

import msgspec

from coord import limits

_LEAVES: Final = frozenset({
    str, bytes, bytearray, int, float, complex, dt.datetime, dt.date, dt.time, dt.timedelta,
    decimal.Decimal, uuid.UUID, memoryview,
})  # fmt: skip
"""Nothing is behind these; a UUID's integer is within the allowance for an instance."""

_SHARED: Final = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType, enum.Enum,
    type(None), bool, type(NotImplemented), type(Ellipsis),
)  # fmt: skip

_INSTANCE_BYTES: Final = 296
"""What an object's attributes may take besides: a dict of its own, or an array that `getsizeof` does not see."""

_ROUND: Final = 15


def held_bytes(value: Any, bytes_max: int) -> int | None:
    """Bytes held by `value`; None when they are more than `bytes_max`, or in too many pieces to count."""
    seen: set[int] = set()
    stack = [value]
    total = 0
    while stack:
        one = stack.pop()
        kind = type(one)
        if id(one) in seen or isinstance(one, _SHARED):
            continue
        seen.add(id(one))
        total += (getsizeof(one) + _ROUND) & ~_ROUND
        if kind not in _LEAVES:
            if getattr(kind, "__dictoffset__", 0):
                total += _INSTANCE_BYTES
            if isinstance(one, msgspec.Struct):  # with gc=False nobody says what they refer to
                stack.extend(getattr(one, name) for name in one.__struct_fields__)
            else:
                if isinstance(one, dict):
                    stack.extend(one)  # a dict whose keys are all text does not tell the collector of them
                stack.extend(gc.get_referents(one))
        elif kind is uuid.UUID:
            total += _INSTANCE_BYTES
        if total > bytes_max or len(seen) + len(stack) > limits.CACHE_VALUE_OBJECTS_MAX:
            return None
    return total
