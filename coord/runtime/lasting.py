"""What holds for a process as long as a service of it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from coord.runtime.service import Service
from coord.telemetry import metrics


class Lasting(Service):
    """In the block that `enter` makes while it runs; afterwards it is left."""

    def __init__(
        self,
        name: str,
        enter: Callable[[], contextlib.AbstractContextManager[None]],
        *,
        registry: metrics.Metrics | None = None,
    ) -> None:
        super().__init__(name, registry=registry)
        self._block = enter
        self._until = contextlib.ExitStack()

    async def setup(self) -> None:
        """From now on."""
        self._until.enter_context(self._block())

    async def teardown(self) -> None:
        """As it was."""
        self._until.close()
