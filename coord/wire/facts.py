"""Which Python type carries the data of which fact, and how a fact of it is treated.

An application registers its payload types with the decorator and then emits and decodes
plain objects::

    @fact("file", "scanned")
    class FileScanned(msgspec.Struct):
        lines: int

The rules for authors and classes of service are the table in `coord.wire.authors`; an
application chooses the class of service of its own kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from coord import limits
from coord.errors import RegisteredTwice, UnknownSchema
from coord.wire import authors, codec
from coord.wire.authors import Author, Rule, ServiceClass
from coord.wire.subjects import check_token
from coord.wire.upcast import Upcaster, Upcasters

__all__ = ["REGISTRY", "Author", "FactType", "Registry", "Rule", "ServiceClass", "fact", "payload_to_builtins", "rule"]

T = TypeVar("T", bound=type)


class FactType(msgspec.Struct, frozen=True):
    """A registered payload type."""

    kind: str
    event: str
    schema: int
    payload: type
    service_class: ServiceClass | None = None


class Registry:
    """Payload types by event and by type, and their upcasters."""

    def __init__(self) -> None:
        self._by_event: dict[tuple[str, str], FactType] = {}
        self._by_type: dict[type, FactType] = {}
        self._upcasters = Upcasters()

    def register(
        self,
        kind: str,
        event: str,
        payload: type,
        *,
        schema: int = 1,
        service_class: ServiceClass | None = None,
    ) -> FactType:
        """Make `payload` the type of (kind, event) at version `schema`.

        Raises `InvalidToken` for a bad name and `RegisteredTwice` when either is taken.
        Registering the same again (a module imported twice) replaces it.
        """
        check_token(kind, "kind")
        check_token(event, "event")
        if not 1 <= schema <= limits.SCHEMA_VERSION_MAX:
            raise UnknownSchema(schema=schema, kind=kind, event=event)
        entry = FactType(kind, event, schema, payload, service_class)
        for known in (self._by_event.get((kind, event)), self._by_type.get(payload)):
            if known is not None and not _same(known, entry):
                raise RegisteredTwice(kind=kind, event=event, registered=known.payload.__qualname__)
        self._by_event[kind, event] = entry
        self._by_type[payload] = entry
        return entry

    def fact(
        self, kind: str, event: str, *, schema: int = 1, service_class: ServiceClass | None = None
    ) -> Callable[[T], T]:
        """Class decorator: `register`."""

        def decorate(payload: T) -> T:
            self.register(kind, event, payload, schema=schema, service_class=service_class)
            return payload

        return decorate

    def upcaster(self, kind: str, event: str, from_schema: int) -> Callable[[Upcaster], Upcaster]:
        """Function decorator: the step from `from_schema` to the next version."""

        def decorate(step: Upcaster) -> Upcaster:
            self._upcasters.register(kind, event, from_schema, step)
            return step

        return decorate

    def of_event(self, kind: str, event: str) -> FactType | None:
        """The type registered for (kind, event)."""
        return self._by_event.get((kind, event))

    def of_payload(self, payload: object) -> FactType | None:
        """What a payload object's own class is registered for."""
        return self._by_type.get(type(payload))

    def of_type(self, payload: type) -> FactType | None:
        """What a class is registered for."""
        return self._by_type.get(payload)

    def upcast(self, entry: FactType, data: Any, schema: int) -> Any:
        """`data` of version `schema` as the version of `entry`; raises `UnknownSchema`."""
        return self._upcasters.apply(entry.kind, entry.event, data, schema, entry.schema)

    def service_class(self, kind: str, event: str) -> ServiceClass:
        """How urgently a fact is published: the registration's wish for an application's kind, else the table's."""
        rule = authors.rule_for(kind, event)
        if kind in authors.RESERVED_KINDS:
            return rule.service_class
        entry = self._by_event.get((kind, event))
        return (entry and entry.service_class) or rule.service_class


REGISTRY = Registry()
"""The process's registry; `fact` adds to it."""

fact = REGISTRY.fact


def rule(kind: str, event: str) -> Rule:
    """The rule of (kind, event): see `coord.wire.authors`."""
    return authors.rule_for(kind, event)


def payload_to_builtins(payload: Any) -> Any:
    """A payload object as dicts, lists and scalars; `InvalidPayload` if it has no such form."""
    return codec.to_builtins(payload)


def _same(known: FactType, entry: FactType) -> bool:
    name = (known.payload.__module__, known.payload.__qualname__)
    return (known.kind, known.event) == (entry.kind, entry.event) and name == (
        entry.payload.__module__,
        entry.payload.__qualname__,
    )
