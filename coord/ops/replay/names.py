"""Foreign names as subject tokens: ``Verification_Expert`` → ``verification_expert``.

The mapping depends on nothing but the name, so that two recordings of one team speak of the
same agents.  It loses letters; two names of one file that end as the same token would become
one agent, and are refused instead.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

from coord import limits

_FOREIGN: Final = re.compile(r"[^a-z0-9_]+")
_HASH_CHARS: Final = 8


class NameRefused(ValueError):
    """A name that cannot be mapped; the message says why."""


def token_of(name: str) -> str:
    """The token of a foreign name.

    Accents go, letters become small, whatever else is no token character becomes ``-``;
    ``_`` in front goes, because such names are deciders'.  A name that is too long, or of
    which nothing is left, ends in (or is) the first 8 hex digits of its SHA-256.
    """
    if not name.strip():
        raise NameRefused("an empty name")
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    token = _FOREIGN.sub("-", plain).strip("-").lstrip("_-")
    if token and len(token) <= limits.TOKEN_BYTES_MAX:
        return token
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    head = token[: limits.TOKEN_BYTES_MAX - _HASH_CHARS - 1].rstrip("-_") or "name"
    return f"{head}-{digest}"


class Names:
    """The names of one recording: token → the name it stands for, and where that was seen first."""

    def __init__(self, what: str, names_max: int = limits.REPLAY_NAMES_MAX) -> None:
        self._what = what
        self._names_max = names_max
        self._seen: dict[str, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def token(self, name: str, line: int) -> str:
        """The token of `name`, first seen on `line`.

        Raises `NameRefused` for a name that collides with another one, for an empty one, and
        for one too many.
        """
        token = token_of(name)
        known = self._seen.get(token)
        if known is None:
            if len(self._seen) >= self._names_max:
                raise NameRefused(f"more than {self._names_max:,} different names of {self._what}s")
            self._seen[token] = (name, line)
        elif known[0] != name:
            raise NameRefused(
                f"{self._what} {name!r} would be {token!r}, as is {known[0]!r} of line {known[1]}; rename one of them"
            )
        return token
