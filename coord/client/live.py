"""Live messages as a subscription keeps them: judged when they come, decoded when they are taken."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from coord.core.subscription import SKIPPED, Skipped
from coord.wire.decode import decode_message
from coord.wire.records import StoredFact
from coord.wire.sieve import Sieve, Verdict


class Live(NamedTuple):
    """A live message; its subject is the stored one."""

    subject: str
    headers: bytes | None
    body: bytes
    seq: int
    stored_at: datetime
    verdict: Verdict = True
    """What of it is wanted, as far as that was found out."""


class Wanted:
    """What a subscription wants of live messages; without a condition, everything."""

    def __init__(self, sieve: Sieve | None) -> None:
        self._sieve = sieve

    def admit(self, live: Live) -> Live | None:
        """`live` with a verdict; None when nothing of it is wanted."""
        if self._sieve is None:
            return live
        verdict = self._sieve.judge(*live[:5])
        if verdict is False:
            return None
        return live if verdict is True else live._replace(verdict=verdict)

    def expand(self, live: Live) -> list[StoredFact | Skipped | None]:
        """The entries of an admitted message in their places; None is poison."""
        if live.verdict is True or self._sieve is None:
            return [entry if isinstance(entry, StoredFact) else None for entry in decode_message(*live[:5])]
        found = self._sieve.decode(live.verdict, *live[:5])
        entries: list[StoredFact | Skipped | None] = [SKIPPED] * (found[-1][0] + 1 if found else 1)
        for index, entry in found:
            entries[index] = entry if isinstance(entry, StoredFact) else None
        return entries
