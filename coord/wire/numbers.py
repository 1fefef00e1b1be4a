"""Integers that facts may hold where a fold keeps them: what MessagePack and a table's column have room for.

JSON has integers of any size.  Whatever a decider or the projector keeps of a fact is saved as
MessagePack, which ends at 64 bits; so one number must not be what a partition's snapshot breaks on.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec

from coord.errors import InvalidPayload

COUNT_MAX: Final = 2**53
"""Exact in every language: some have nothing but doubles."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
"""A member of a fact's body; beyond it the body is not what its event demands."""


def check_integers(*values: Any) -> None:
    """Raise `InvalidPayload` when an integer somewhere inside has more than 64 bits."""
    try:
        msgspec.msgpack.encode(values)
    except OverflowError as exc:
        raise InvalidPayload("an integer has at most 64 bits") from exc
