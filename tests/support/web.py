"""One request over HTTP/1.1, as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping


async def get(
    url: str, path: str, accept: str = "*/*", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by their lower-case names, and body."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: {accept}\r\n{more}connection: close\r\n\r\n".encode())
    raw = await asyncio.wait_for(reader.read(), 100)
    writer.close()
    await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), found, body
