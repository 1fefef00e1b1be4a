"""Whether the log proves that an answer of before is current: nothing about its tags is behind what it has seen.

A process that has just begun knows of no eviction before that, and an answer that others kept is older.  But the log
knows: the last fact under a filter is found by the broker's index.  If that is one the answer has seen, nothing
evicted it until now, and from now on this process hears what does::

          seen by the answer        heard first by this process
    ──────────────┼────────────────────────────┼──────────▶ log
      last fact ──┘   nothing about its tags   │ notices

Which facts touch a tag is said by the projector (``{kind}:{id}``, ``key:{key}``, ``kind:{kind}``) and by the
configuration's rules.  Of ``series:…`` the log does not know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from coord import errors, limits
from coord.core.eviction import EVERY_PARTITION, Marks, Place, Source
from coord.wire import subjects

_FIELD: Final = re.compile(r"\\\{(?:kind|id)\\\}")


class LogEnds(msgspec.Struct, frozen=True):
    """What the log said: the sequences of its first and last message, and of the last under each filter."""

    first: int
    last: int
    under: Mapping[str, int | None]
    """None: there is none in the log's window."""
    created: str
    """When it was created, as `Notice.created`: which log that is."""


def asked(tags: Collection[str], tenant: str, rules: Mapping[str, tuple[str, ...]]) -> dict[str, frozenset[Source]]:
    """Filters over all facts that touch one of the tags, and the partitions where those are.

    Empty where the log cannot say, or more would have to be asked than an answer is worth.
    """
    found: dict[str, frozenset[Source]] = {}
    try:
        for tag in tags:
            kind, _, rest = tag.partition(":")
            if kind == "series":
                return {}
            if kind == "key":
                source = (subjects.EVENTS, subjects.partition(rest))
                found[subjects.log_filter(tenant, key=rest)] = frozenset((source,))
                continue
            if kind == "kind":
                found[subjects.log_filter(tenant, kind=rest)] = EVERY_PARTITION
            elif rest:
                found[subjects.log_filter(tenant, kind=kind, id=rest)] = EVERY_PARTITION
            for pattern, made in rules.items():
                if any(_may_make(one, tag) for one in made):
                    of_kind, _, of_id = pattern.partition(".")
                    filter_ = subjects.log_filter(
                        tenant, kind=None if of_kind == "*" else of_kind, id=None if of_id == "*" else of_id
                    )
                    found[filter_] = EVERY_PARTITION
    except errors.InvalidToken:
        # No fact is about something of that name; but then a rule may still make the tag of another.
        return {}
    return found if len(found) <= limits.CACHE_FILTERS_MAX else {}


def _may_make(template: str, tag: str) -> bool:
    """Whether a rule's tag may come out as `tag`."""
    return re.fullmatch(_FIELD.sub(".*", re.escape(template)), tag) is not None


def is_proved(
    filters: Mapping[str, frozenset[Source]], ends: LogEnds, marks: Marks, heard: Mapping[Source, Place], created: str
) -> bool:
    """Whether an answer that has seen everything up to `marks` is as good as one of `heard`.

    `heard`: what this process knew to be committed before the log was asked; `created`: of which log, "" if unknown.
    One that was made anew since has its own sequences, and nothing of what the answer may lack.
    """
    if not created or ends.created != created:
        return False
    if not filters or not heard or ends.last < max(seq for _, seq in heard.values()):
        return False  # a server that has not even that does not know the log's end
    for filter_, sources in filters.items():
        seen = [marks.get(source) for source in sources]
        if any(
            place is None or source not in heard or place[0] != heard[source][0]
            for source, place in zip(sources, seen, strict=True)
        ):
            return False
        least = min(place[1] for place in seen if place is not None)
        last = ends.under.get(filter_)
        # Where there is none: if the log begins behind what was seen, one may have left it.
        if (ends.first - 1 if last is None else last) > least:
            return False
    return True
