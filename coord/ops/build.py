"""Which release this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed version; "0+unknown" when it runs from a folder that was never installed."""
    try:
        return metadata.version("coord")
    except metadata.PackageNotFoundError:
        return "0+unknown"
