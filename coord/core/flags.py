r"""Feature flags: the fold of one, whether it is on for somebody, and who keeps them in the log.

A flag is the last `set` in log order, unless it was removed since.  Whether it is on is a function
of the flag and of who asks, computed where it is asked:

    bucket(salt, subject)   0 to 100: the first 4 bytes of SHA-256 of ``{salt}\0{subject}``,
                            as a big-endian number, times 100 / 2^32
    on, if                  bucket < percentage of the first rule that fits, or of the flag

So a subject is in or out everywhere alike, and stays in while the percentage grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from coord import limits
from coord.core.deciding import NONE, Effect, Folding, State
from coord.core.tasks import Refusal, decode
from coord.errors import WireError
from coord.wire import flagging as wire
from coord.wire.envelope import StoredFact
from coord.wire.flagging import FlagRule, FlagSet, Removed, Said

AGENT: Final = "_flag"

_MALFORMED: Final = "flag.malformed"
_KEY: Final = Refusal("flag.key", f"the key of flags is {wire.KEY!r}")
_NOT_SET: Final = Refusal("flag.not_set", "no such flag is set")
_FULL: Final = Refusal("flag.too_many", "the tenant has too many flags")


class Flag(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One flag as its facts leave it.  Mutable: `apply` changes it."""

    tenant: str
    key: str
    id: str
    """Its name."""
    said: FlagSet | None = None
    """None: it is not set, or was removed."""
    by: str = ""
    at: float = 0.0
    """Broker's clock, Unix seconds, of the last change."""
    changes: int = 0
    seq: int = 0
    """Of the fact that the log has of it."""
    begun_seq: int = 0
    """What was stated from here on has been folded: what was set then and is not known is over; 0: nothing was."""
    origin: int = 0
    """Of what it is now the sequence, or of what is stated again what that was; 0: a release kept none, it is `seq`."""

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of this flag; None: believed.  A refused one has changed nothing."""
        if fact.key != wire.KEY:
            return _KEY
        try:
            if fact.event == "set":
                return self._set(fact, wire.check(decode(fact, FlagSet)))
            if fact.event == "removed":
                decode(fact, Removed)
                return self._remove(fact)
        except WireError as exc:
            return Refusal(_MALFORMED, exc.message)
        return Refusal(_MALFORMED, "no such event of a flag")

    def _remove(self, fact: StoredFact) -> Refusal | None:
        late = _origin(fact) if fact.agent == AGENT else 0  # what was stated again though it was over
        if late and self.seq > late:
            return None  # somebody has set it since
        self.origin = late or fact.seq
        if self.said is None:
            return None if late else _NOT_SET
        self.said, self.by, self.at, self.seq = None, fact.agent, fact.stored_at.timestamp(), fact.seq
        self.changes += 1
        return None

    def _set(self, fact: StoredFact, said: FlagSet) -> Refusal | None:
        again = said.said if fact.agent == AGENT else None
        if again is not None and self.is_over(_origin(fact)):
            return None  # somebody changed or removed it before this was stored: what he said holds
        self.said, self.seq, self.begun_seq = said, fact.seq, self.begun_seq or fact.seq
        self.by, self.at = (fact.agent, fact.stored_at.timestamp()) if again is None else (again.by, again.at)
        self.origin = fact.seq if again is None else _origin(fact)
        self.changes += again is None
        return None

    def is_over(self, origin: int) -> bool:
        """Whether what was said at that sequence is not what holds now, as far as is known here."""
        if self.origin or self.seq:
            return origin < (self.origin or self.seq)
        return 0 < self.begun_seq <= origin


def _origin(fact: StoredFact) -> int:
    """The sequence of what is stated again."""
    origin = fact.detail[0] if fact.detail else ""
    return int(origin) if origin.isascii() and origin.isdecimal() and len(origin) < 20 else 0


# --- whether it is on ----------------------------------------------------------------------


def bucket(salt: str, subject: str) -> float:
    """Where a subject stands, 0 (in first) to 100."""
    digest = hashlib.sha256(f"{salt}\0{subject}".encode()).digest()
    return int.from_bytes(digest[:4], "big") * 100 / 2**32


def enabled(
    name: str, said: FlagSet, subject: str, *, agent: str = "", labels: Mapping[str, str] | None = None
) -> bool:
    """Whether the flag is on for `subject`, where `agent` with `labels` asks."""
    if not said.enabled:
        return False
    percentage = said.percentage
    for rule in said.rules:
        if _fits(rule, subject, agent, labels or {}):
            percentage = rule.percentage
            break
    return bucket(said.salt or name, subject) < percentage


def _fits(rule: FlagRule, subject: str, agent: str, labels: Mapping[str, str]) -> bool:
    return (
        (not rule.agents or agent in rule.agents)
        and (not rule.subjects or subject in rule.subjects)
        and all(labels.get(name) == value for name, value in rule.labels.items())
    )


# --- the decider ---------------------------------------------------------------------------

Ident: TypeAlias = tuple[str, str]
"""(tenant, name)."""


class _Dump(msgspec.Struct):
    """A snapshot; only grows."""

    flags: list[Flag] = []
    begun_seq: int = 0


class FlagDecider(Folding):
    """Of one partition; a `coord.core.deciding.Decider`.  It keeps flags in the log, for those who begin to read."""

    name = "flags"
    kinds = frozenset({"flag"})

    def __init__(self) -> None:
        super().__init__()
        self._flags: dict[Ident, Flag] = {}
        self._begun_seq = 0
        """Of the first fact that it believed."""

    def get(self, tenant: str, name: str) -> Flag | None:
        """A flag that is set; not to be changed."""
        flag = self._flags.get((tenant, name))
        return None if flag is None or flag.said is None else flag

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact of a flag."""
        ident = (fact.tenant, fact.id)
        flag = self._flags.get(ident)
        if flag is None:
            if len(self._flags) >= limits.FLAGS_MAX:
                self.refused[_FULL.code] += 1
                return NONE
            flag = Flag(tenant=fact.tenant, key=fact.key, id=fact.id, begun_seq=self._begun_seq)
        refusal = flag.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
            return NONE
        if flag.seq != fact.seq:
            if fact.event == "removed":
                return NONE
            # Stated again too late: whoever begins to read there must not take it for what holds.
            return (_removed_again(flag, fact) if flag.said is None else _again(flag, flag.said, fact.seq),)
        # One that was removed too: it may be on its way to be stated again.
        self._flags[ident] = flag
        self._begun_seq = self._begun_seq or fact.seq
        return NONE

    def edge(self, seq: int) -> Iterable[Effect]:
        """Flags that were set long ago are stated again, as they are."""
        old = [flag for flag in self._flags.values() if flag.seq < seq]
        for flag in old:
            if flag.said is None:
                del self._flags[flag.tenant, flag.id]
            else:
                yield _again(flag, flag.said)

    def oldest(self) -> int | None:
        """Of the facts that say what they are."""
        return min((flag.seq for flag in self._flags.values() if flag.said is not None), default=None)

    def dump(self) -> Any:
        """The flags that are set, and those that were lately removed."""
        return _Dump(list(self._flags.values()), self._begun_seq)

    def load(self, dumped: Any) -> None:
        """The same again."""
        said = msgspec.convert(dumped, _Dump)
        self._flags = {(flag.tenant, flag.id): flag for flag in said.flags}
        self._begun_seq = said.begun_seq

    def open_count(self) -> int:
        """Flags that are set."""
        return sum(flag.said is not None for flag in self._flags.values())


def _again(flag: Flag, said: FlagSet, behind: int = 0) -> State:
    """`behind`: the fact that has to be made good; 0: its own is about to leave the log."""
    n = said.restated + 1
    again = msgspec.structs.replace(said, restated=n, said=Said(flag.by, flag.at))
    return State(
        tenant=flag.tenant, agent=AGENT, key=flag.key, kind="flag", id=flag.id, event="set",
        detail=(str(flag.seq), str(n), *_behind(behind)), data=msgspec.to_builtins(again), once="own",
        step=".".join(("set", flag.id, *_behind(behind))), attempt=flag.seq, ordinal=n, from_outside=True,
    )  # fmt: skip


def _behind(seq: int) -> tuple[str, ...]:
    return (str(seq),) if seq else ()


def _removed_again(flag: Flag, late: StoredFact) -> State:
    return State(
        tenant=flag.tenant, agent=AGENT, key=flag.key, kind="flag", id=flag.id, event="removed",
        detail=(str(late.seq),), data={}, once="own", step=f"removed.{flag.id}", attempt=late.seq, from_outside=True,
    )  # fmt: skip
