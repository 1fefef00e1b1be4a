"""Settings of the services; apart from them, since what they run with takes long to import."""

from __future__ import annotations

import msgspec

from coord import errors, limits
from coord.bus.connection import NatsConfig
from coord.core import upkeep


class PresenceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How deaths are noticed."""

    system_user: str | None = None
    """A user of the broker's system account, which is told of lost connections; None: heartbeats alone."""
    system_password: str | None = None
    system_password_file: str | None = None
    """A file with it, read again at each connection; instead of `system_password`."""
    system_creds_file: str | None = None
    """Instead of user and password: a .creds file."""
    settle_s: float = limits.PRESENCE_SETTLE_S
    """For so long after a start, or after the broker was away, nobody is gone because nothing was heard."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if bool(self.system_user) != bool(self.system_password or self.system_password_file):
            raise errors.SettingsError(
                "presence.system_user and presence.system_password (or presence.system_password_file) go together"
            )
        if self.system_password and self.system_password_file:
            raise errors.SettingsError("presence: give system_password or system_password_file")
        if self.system_user and self.system_creds_file:
            raise errors.SettingsError("presence: give system_user or system_creds_file")
        if not 0 < self.settle_s <= 300:
            raise errors.SettingsError("presence.settle_s must be above 0 and at most 300")

    @property
    def hears_deaths(self) -> bool:
        """Whether the server tells."""
        return bool(self.system_user or self.system_creds_file)

    def connection(self, nats: NatsConfig) -> NatsConfig:
        """`nats`, as the system account's user."""
        return msgspec.structs.replace(
            nats,
            user=self.system_user,
            password=self.system_password,
            password_file=self.system_password_file,
            creds_file=self.system_creds_file,
            token=None,
            inbox_prefix="_INBOX",
        )


class MaintenanceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the tables are maintained."""

    enabled: bool = True
    """Whether this process takes part; one of those that do leads."""
    at: str = limits.MAINTENANCE_AT
    """HH:MM, UTC: retention and archive begin then."""
    every_s: float = limits.MAINTENANCE_EVERY_S
    """How often rollups are moved on, and it is looked whether `at` has passed; jittered by half."""

    def validate(self) -> None:
        """Raise `SettingsError` when a field is out of range."""
        try:
            upkeep.parse_at(self.at)
        except ValueError as exc:
            raise errors.SettingsError(f"maintenance.at: {exc}") from None
        if self.every_s < 1:
            raise errors.SettingsError("maintenance.every_s must be at least 1")
