"""Files that say who we are: a password, or a JWT that ends some day with the key that answers the broker's question.

Read at each attempt to connect, so that they can be renewed in place.  What cannot be used in that moment (it is just
being written) leaves what was read before, and says so.

What signs with the key in a .creds file is PyNaCl, which comes with the extra ``coord[nkeys]``: nobody else needs it.
(The package ``nkeys`` is nine lines above it, and comes as source alone.)
"""

from __future__ import annotations

import base64
import importlib
import re
from pathlib import Path
from typing import Any, Final

from coord import errors
from coord.telemetry import logs

_log = logs.get("bus")

_JWT: Final = re.compile(rb"-+BEGIN NATS USER JWT-+\s+([A-Za-z0-9_\-.=]+)\s")
_SEED: Final = re.compile(rb"-+BEGIN USER NKEY SEED-+\s+(SU[A-Z2-7]{56})\s")


class PasswordFile:
    """Of one connection: called for the password, as the file is now."""

    def __init__(self, name: str) -> None:
        """Raises `SettingsError` when there is none in it."""
        self._name = name
        self._password = self._read()

    def __call__(self) -> str:
        """As the file is now."""
        try:
            self._password = self._read()
        except errors.SettingsError as exc:
            _log.warning("bus.password_unusable", error=exc.message)
        return self._password

    def _read(self) -> str:
        try:
            found = Path(self._name).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            why = getattr(exc, "strerror", None) or exc
            raise errors.SettingsError(f"the password in {self._name} cannot be read: {why}") from exc
        if not found:
            raise errors.SettingsError(f"there is no password in {self._name}")
        return found


class CredsFile:
    """Of one connection."""

    def __init__(self, name: str) -> None:
        """Raises `SettingsError` when it cannot be used, `ExtraMissing` when nothing is there to sign with."""
        self._name = name
        try:
            self._key_of: Any = importlib.import_module("nacl.signing").SigningKey
        except ImportError as exc:
            raise errors.ExtraMissing(
                "PyNaCl is not installed, which signs with the key in a .creds file: pip install 'coord[nkeys]'",
                extra="nkeys",
            ) from exc
        self._jwt, self._seed = read(self._name)

    def sign(self, nonce: str) -> bytes:
        """The answer to the broker's question, as the file is now."""
        try:
            self._jwt, self._seed = read(self._name)
        except errors.SettingsError as exc:
            _log.warning("bus.creds_unusable", error=exc.message)
        return base64.b64encode(self._key_of(_secret(self._seed)).sign(nonce.encode()).signature)

    def jwt(self) -> bytes:
        """Of the key that `sign` used last."""
        return self._jwt


def read(name: str) -> tuple[bytes, bytes]:
    """The JWT and the seed in a .creds file.  Raises `SettingsError`."""
    try:
        text = Path(name).read_bytes() + b"\n"
    except OSError as exc:
        raise errors.SettingsError(f"{name} cannot be read: {exc.strerror or exc}") from exc
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        raise errors.SettingsError(f"{name} has no JWT and seed of a NATS user: it is no .creds file")
    return jwt[1], seed[1]


def _secret(seed: bytes) -> bytes:
    """What NATS writes as base32, behind two bytes that say whose key it is and before two of a checksum."""
    return base64.b32decode(seed + b"=" * (-len(seed) % 8))[2:34]
