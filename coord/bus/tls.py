"""The certificates of a connection, read again when their files have changed.

Certificates that live for weeks are renewed under processes that live for months.  Each attempt to connect
asks for the context; it is made anew when one of the files is another one.  What cannot be read in that moment
(half of a pair is written, say) leaves the context as it was, and says so.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, TypeAlias

from coord import errors
from coord.telemetry import logs

_log = logs.get("bus")

_Seen: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class TlsFiles:
    """Whom to trust, and who we are."""

    def __init__(self, ca_file: str | None, cert_file: str | None, key_file: str | None) -> None:
        """None: trust whom the system trusts; show no certificate."""
        self._ca_file: Final = ca_file
        self._cert_file: Final = cert_file
        self._key_file: Final = key_file
        self._files: Final = [name for name in (ca_file, cert_file, key_file) if name]
        self._context: ssl.SSLContext | None = None
        self._seen: _Seen = ()

    @property
    def is_wanted(self) -> bool:
        """Whether any file is named."""
        return bool(self._files)

    def context(self) -> ssl.SSLContext | None:
        """As the files are now; None when none is named.

        Raises `SettingsError` when they cannot be used and never could.
        """
        if not self._files:
            return None
        seen = tuple(map(_look, self._files))
        if seen == self._seen:
            return self._context
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
            if self._cert_file:
                context.load_cert_chain(self._cert_file, self._key_file)
        except OSError as exc:  # ssl.SSLError is one
            problem = f"the certificates in {', '.join(self._files)} cannot be used: {exc.strerror or exc}"
            if self._context is None:
                raise errors.SettingsError(problem) from exc
            _log.warning("bus.certificates_unusable", error=problem)
            return self._context
        self._context, self._seen = context, seen
        return context


def _look(name: str) -> tuple[int, int, int] | None:
    try:
        found = Path(name).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
