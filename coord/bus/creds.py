"""A .creds file: who we are, by a JWT that ends some day, and the key that answers the broker's question.

Read at each attempt to connect, so that it can be renewed in place.  What cannot be used in that moment (it is just
being written) leaves what was read before, and says so.

What signs is the package ``nkeys``, which coord does not install: nobody else needs it.
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


class CredsFile:
    """Of one connection."""

    def __init__(self, name: str) -> None:
        """Raises `SettingsError` when it cannot be used, or nothing is there to sign with."""
        self._name = name
        try:
            self._nkeys: Any = importlib.import_module("nkeys")
        except ImportError as exc:
            raise errors.SettingsError("nats.creds_file needs the package nkeys: pip install nkeys", file=name) from exc
        self._jwt, self._seed = self._read()

    def sign(self, nonce: str) -> bytes:
        """The answer to the broker's question, as the file is now."""
        try:
            self._jwt, self._seed = self._read()
        except errors.SettingsError as exc:
            _log.warning("bus.creds_unusable", error=exc.message)
        pair = self._nkeys.from_seed(bytearray(self._seed))
        signed = base64.b64encode(pair.sign(nonce.encode()))
        pair.wipe()
        return signed

    def jwt(self) -> bytes:
        """Of the key that `sign` used last."""
        return self._jwt

    def _read(self) -> tuple[bytes, bytes]:
        try:
            text = Path(self._name).read_bytes() + b"\n"
        except OSError as exc:
            raise errors.SettingsError(f"{self._name} cannot be read: {exc.strerror or exc}") from exc
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed is None:
            raise errors.SettingsError(f"{self._name} has no JWT and seed of a NATS user: it is no .creds file")
        return jwt[1], seed[1]
