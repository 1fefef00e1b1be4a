"""Everything that decides, put together: one way for processes and for tests without servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.server.board import BoardService
from coord.server.config import PresenceConfig
from coord.server.decider_service import DeciderService
from coord.server.presence import PresenceService

if TYPE_CHECKING:
    from coord.bus.connection import NatsConfig
    from coord.bus.riding import Meeting
    from coord.runtime.service import Service
    from coord.telemetry.metrics import Metrics
    from coord.wire.readings import Readings


def deciding(
    nats: NatsConfig,
    presence_config: PresenceConfig,
    *,
    readings: Readings | None = None,
    meeting: Meeting | None = None,
    registry: Metrics,
) -> list[Service]:
    """Deciders, what they know of the world outside the log, and what all of them together say of it.

    In the order to start them.  `readings`: shared with the projector of this process; `meeting`: where deciders find
    its consumer, which may feed them, too.
    """
    presence = PresenceService(nats, presence_config, registry=registry)
    deciders = DeciderService(
        nats, presence=presence.board.table, readings=readings, meeting=meeting, registry=registry
    )
    presence.board.listen(deciders.gone)
    presence.board.holds = deciders.holds
    board = BoardService(nats, presence.board, deciders.deciders, registry=registry)
    return [presence, deciders, board]
