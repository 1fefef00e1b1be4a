"""What can be asked of the query service: the named questions, for one fleet each.

Of each question it is known from its SQL what is needed to keep its answers:

* which facts change them, as tags of what the projector commits.  A question about one piece of work depends on the
  facts under its ordering key; one that reads the tables of entities, on facts of those kinds; any other one, on
  all facts of the tenant;
* whether they change by themselves: with time (``now()``), or by what no notice tells of.  Such an answer is
  kept for some seconds only.

What tags a view has is a table here, and a view that is not in it has the widest: a mistake costs hits, not truth.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from types import MappingProxyType
from typing import Final

import msgspec

from coord import errors, limits
from coord.runtime.assets import sql_dir
from coord.store import queries
from coord.store.queries import Query
from coord.wire import subjects
from coord.wire.query_api import Value

ANY: Final = "any"
"""The tag that every fact of the tenant touches, by `RULES`."""

RULES: Final = {"*.*": (ANY,)}
"""For `CacheConfig.tags`."""

_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "v_agent": ("agent",),
    "v_agent_status": ("agent",),
    "v_flag": ("flag",),
    "v_handoff_state": ("handoff",),
    "v_lock": ("lock",),
    "v_signal": ("signal",),
    "v_task": ("task",),
    "v_waiting": ("task", "signal", "lock", "handoff", "workflow"),
    "v_workflow": ("workflow", "task"),
}
"""View → kinds of the entities whose states it shows: what else is stated does not change it."""

_UNTOLD: Final = frozenset({"v_metric_sample", "v_telemetry_1h", "v_telemetry_1d", "v_dead_letter"})
"""Views of what notices do not name, or not by a tag that could be known beforehand."""

_ONE_KEY: Final[Mapping[str, tuple[str, ...]]] = {
    "task": ("key", "id"),
    "workflow": ("key", "id"),
    "handoff": ("key", "id"),
    "signal": ("key", "id"),
    "lock": ("key", "id"),
    "flag": ("key",),
    "workflow_steps": ("key",),
    "agent": ("id",),
    "history": ("key",),
    "causes": ("key",),
}
"""Question about one ordering key → its parameters that name the key, the first that is given."""

_NOW: Final = re.compile(r"\bnow\(\)|\bCURRENT_TIMESTAMP\b", re.IGNORECASE)
_CAST: Final = re.compile(r":'(?P<name>[a-z_]+)'(?:, ''\))?::(?P<type>[a-z]+)")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_WHOLE_TYPES: Final = frozenset({"bigint", "integer", "smallint"})
_NUMBER_TYPES: Final = frozenset({"double", "numeric", "real"})
_TIME_TYPES: Final = frozenset({"timestamptz", "timestamp"})


class Question(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One question that a fleet may ask about itself."""

    query: Query
    """Which sees nothing of other fleets."""
    kinds: tuple[str, ...] | None
    """Of entities whose facts change its answer; None: all."""
    key: tuple[str, ...]
    """Its parameters that name the one ordering key it is about; none: it is not about one."""
    types: Mapping[str, str]
    """Parameter → what PostgreSQL is told to read it as."""
    moving: bool
    """Whether its answer changes without a notice."""
    version: str
    """Of its SQL: what another one answered is another answer."""

    @property
    def name(self) -> str:
        """What it is asked by."""
        return self.query.name

    @property
    def ttl_s(self) -> float:
        """How long an answer is kept at most."""
        return limits.QUERY_MOVING_TTL_S if self.moving else limits.QUERY_TTL_S

    def bind(self, tenant: str, params: Mapping[str, Value]) -> list[str]:
        """The values in the order of the question's SQL; equal questions have equal ones.

        Raises `QueryError` for a parameter that there is not, the tenant among them, and for a value that is none.
        """
        if "tenant" in params:
            raise errors.QueryError("the tenant is the subject's, not a parameter")
        given = {name: self._text(name, value) for name, value in params.items() if value is not None}
        return list(self.query.bind({**given, "tenant": tenant}).values())

    def tags(self, values: list[str]) -> tuple[str, ...]:
        """What evicts the answer to the question with these values."""
        named = dict(zip(self.query.parameters, values, strict=True))
        for parameter in self.key:
            if named[parameter]:
                return (f"key:{named[parameter]}",)
        return (ANY,) if self.kinds is None else tuple(f"kind:{kind}" for kind in self.kinds)

    def _text(self, name: str, value: Value) -> str:
        text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
        if len(text.encode("utf-8", "surrogatepass")) > limits.QUERY_VALUE_BYTES_MAX:
            raise errors.QueryError(f"{name} is too long", bytes_max=limits.QUERY_VALUE_BYTES_MAX)
        if "\0" in text or (not text.isascii() and _has_surrogates(text)):
            raise errors.QueryError(f"{name} holds a character that text cannot hold")
        if not text:
            return text
        if name in self.key:
            return _token(name, text)
        type_ = self.types.get(name, "")
        if type_ in _WHOLE_TYPES:
            return _whole(name, text)
        if type_ in _NUMBER_TYPES:
            return _number(name, text)
        return _time(name, text) if type_ in _TIME_TYPES else text


@cache
def questions() -> Mapping[str, Question]:
    """Every question that a fleet may ask about itself, by name."""
    found = {}
    for name, query in queries.all_queries().items():
        try:
            found[name] = _question(query.of_its_tenant())
        except errors.QueryError:
            continue  # about the whole deployment, not about one fleet
    return MappingProxyType(found)


def get(name: str) -> Question:
    """The question of that name.  Raises `UnknownQuestion`."""
    found = questions().get(name)
    if found is None:
        raise errors.UnknownQuestion(f"there is no question {name[:64]!r}", questions=", ".join(questions()))
    return found


def _question(query: Query) -> Question:
    relations = query.relations
    wide = any(view not in _KINDS for view in relations)
    return Question(
        query=query,
        kinds=None if wide else tuple(dict.fromkeys(kind for view in sorted(relations) for kind in _KINDS[view])),
        key=_ONE_KEY.get(query.name, ()),
        types={m["name"]: m["type"] for m in _CAST.finditer(query.sql)},
        version=hashlib.sha256(query.sql.encode()).hexdigest()[:8],
        moving=bool(relations & _UNTOLD or _NOW.search(query.sql) or any(map(_moves, relations))),
    )


@cache
def _moves(view: str) -> bool:
    """Whether time changes what a view shows."""
    file = sql_dir() / "views" / f"{view}.sql"
    return file.is_file() and _NOW.search(file.read_text("utf-8")) is not None


# --- values --------------------------------------------------------------------------------


def _token(name: str, text: str) -> str:
    """What names an entity or a key; nothing else is about anything, and a tag is made of it."""
    try:
        return subjects.check_token(text, name)
    except errors.InvalidToken as exc:
        raise errors.QueryError(exc.message, given=text[:64]) from None


def _whole(name: str, text: str) -> str:
    if not _WHOLE.fullmatch(text):
        raise errors.QueryError(f"{name} is a whole number", given=text[:64])
    return str(int(text))


def _number(name: str, text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise errors.QueryError(f"{name} is a number", given=text[:64])
    return text


def _time(name: str, text: str) -> str:
    """The same moment has one text; words such as `now` would mean another one each time."""
    if text in {"infinity", "-infinity"}:
        return text
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise errors.QueryError(f"{name} is a time as in RFC 3339, infinity or -infinity", given=text[:64]) from None
    return moment.isoformat()


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
