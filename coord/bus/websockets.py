"""aiohttp is imported when a broker's address is a websocket's, and not because nats-py could speak to one.

nats-py imports it with its transports where it is installed: a fifth of what a short command takes in all.  While these
are imported a stand-in has its name, which imports aiohttp when something of it is asked for.  Who has imported either
before keeps what it has.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any, Final

_NAME: Final = "aiohttp"
_USER: Final = "nats.aio.transport"


class _Later(ModuleType):
    """What nats-py has for aiohttp until it needs it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # the import system asks what it is
        found = importlib.import_module(_NAME)
        vars(sys.modules[_USER])[_NAME] = found
        return getattr(found, name)


def put_off() -> None:
    """Import nats-py's transports without aiohttp; nothing where one of them is imported, or aiohttp is not there."""
    if _NAME in sys.modules or _USER in sys.modules or importlib.util.find_spec(_NAME) is None:
        return
    sys.modules[_NAME] = _Later(_NAME)
    try:
        importlib.import_module(_USER)
    finally:
        del sys.modules[_NAME]
