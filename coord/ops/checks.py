"""One check of `coord doctor`, and what the examinations have in common."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from coord import errors
from coord.bus.connection import Connection
from coord.ops.settings import Settings
from coord.store.pool import Pool

State = Literal["ok", "warn", "fail", "skip"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the examination."""

    area: str
    name: str
    state: State
    detail: str
    fix: str = ""
    """What to do about it; never empty for warn and fail."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is examined, as far as it could be reached."""

    settings: Settings
    conn: Connection | errors.CoordError
    pool: Pool | errors.CoordError
    preflight: bool
    monitor: str | None
    """nats-server's monitoring pages, http://host:8222."""


def there(what: Any) -> Any:
    """The connection or pool; raises the error that stands in its place."""
    if isinstance(what, errors.CoordError):
        raise what
    return what


def ok(area: str, name: str, detail: str) -> Check:
    """As it should be."""
    return Check(area=area, name=name, state="ok", detail=detail)


def skip(area: str, name: str, detail: str) -> Check:
    """Could not be looked at; `detail` says why."""
    return Check(area=area, name=name, state="skip", detail=detail)


def warn(area: str, name: str, detail: str, fix: str) -> Check:
    """Somebody should look."""
    return Check(area=area, name=name, state="warn", detail=detail, fix=fix)


def fail(area: str, name: str, detail: str, fix: str) -> Check:
    """Has to be fixed."""
    return Check(area=area, name=name, state="fail", detail=detail, fix=fix)
