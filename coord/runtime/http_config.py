"""Where a process answers over HTTP; apart from `coord.runtime.http`, whose server takes long to import."""

from __future__ import annotations

import msgspec

from coord.errors import SettingsError


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a process answers probes and Prometheus."""

    enabled: bool = True
    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for every interface, as in a container."""
    port: int = 9464
    """TCP port; 0 takes any free one and says which."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"http.port must be 0 to 65535, not {self.port}")
        if not self.host:
            raise SettingsError("http.host is empty")
