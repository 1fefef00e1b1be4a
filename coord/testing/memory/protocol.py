"""What a client of NATS says, bytes to commands, and how a server answers; no sockets, no state beyond the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec

_END: Final = b"\r\n"
_STATUS: Final = re.compile(rb"NATS/1\.0 (\d{3})")


class Connect(msgspec.Struct, frozen=True):
    """Who it is, and what it understands."""

    options: dict[str, Any]


class Ping(msgspec.Struct, frozen=True):
    """To be answered behind everything before it."""


class Pong(msgspec.Struct, frozen=True):
    """An answer; this server asks nothing."""


class Subscribe(msgspec.Struct, frozen=True):
    """SUB."""

    subject: str
    queue: str
    sid: str


class Unsubscribe(msgspec.Struct, frozen=True):
    """UNSUB."""

    sid: str
    messages_max: int
    """0: at once."""


class Publish(msgspec.Struct, frozen=True):
    """PUB and HPUB."""

    subject: str
    reply: str
    headers: bytes | None
    body: bytes


Command: TypeAlias = Connect | Ping | Pong | Subscribe | Unsubscribe | Publish


class BadCommand(Exception):
    """What was sent is none: the server says so and hangs up."""


class Parser:
    """Of one connection."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Command]:
        """The commands that are complete now; raises `BadCommand`."""
        rest = self._rest
        rest += data
        at = 0
        try:
            while (end := rest.find(_END, at)) >= 0:
                line = bytes(rest[at:end])
                word = line[:4].upper()
                if word[:3] == b"PUB" or word == b"HPUB":
                    found = self._publish(line, end + 2)
                    if found is None:
                        break
                    command, at = found
                    yield command
                else:
                    at = end + 2
                    yield _simple(line)
        finally:
            del rest[:at]

    def _publish(self, line: bytes, start: int) -> tuple[Publish, int] | None:
        word, *tokens = text(line).split()
        try:
            sizes = [int(n) for n in (tokens[-2:] if word.upper() == "HPUB" else tokens[-1:])]
            names = tokens[: -len(sizes)]
            subject, reply = names[0], names[1] if len(names) > 1 else ""
        except (ValueError, IndexError) as exc:
            raise BadCommand(line[:64].decode("latin-1")) from exc
        end = start + sizes[-1]
        if len(self._rest) < end + 2:
            return None
        body = start if len(sizes) == 1 else start + sizes[0]
        headers = bytes(self._rest[start:body]) if len(sizes) == 2 else None
        return Publish(subject, reply, headers, bytes(self._rest[body:end])), end + 2


def _simple(line: bytes) -> Command:
    word, _, rest = text(line).partition(" ")
    tokens = rest.split()
    try:
        match word.upper():
            case "PING":
                return Ping()
            case "PONG":
                return Pong()
            case "CONNECT":
                return Connect(json.loads(rest))
            case "SUB":
                return Subscribe(tokens[0], tokens[1] if len(tokens) > 2 else "", tokens[-1])
            case "UNSUB":
                return Unsubscribe(tokens[0], int(tokens[1]) if len(tokens) > 1 else 0)
    except (ValueError, IndexError) as exc:
        raise BadCommand(line[:64].decode("latin-1")) from exc
    raise BadCommand(line[:64].decode("latin-1"))


def text(line: bytes) -> str:
    """As text that can be made the same bytes again, whatever they are."""
    return line.decode("utf-8", "surrogateescape")


def octets(line: str) -> bytes:
    """`text` undone."""
    return line.encode("utf-8", "surrogateescape")


def message(subject: str, sid: str, reply: str, headers: bytes | None, body: bytes) -> bytes:
    """MSG or HMSG."""
    place = octets(f"{subject} {sid} {reply} " if reply else f"{subject} {sid} ")
    if headers is None:
        return b"MSG %b%d\r\n%b\r\n" % (place, len(body), body)
    return b"HMSG %b%d %d\r\n%b%b\r\n" % (place, len(headers), len(headers) + len(body), headers, body)


# --- headers -------------------------------------------------------------------------------


def status(code: int, description: str = "", **fields: object) -> bytes:
    """The block of a control message; `fields` with underscores for dashes."""
    head = f"NATS/1.0 {code} {description}".rstrip()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([head, *lines, "", ""]).encode()


def with_lines(headers: bytes | None, lines: bytes) -> bytes:
    """The server's own lines behind the sender's; it cuts off two bytes, whatever they are."""
    return (b"NATS/1.0\r\n" if headers is None else headers[:-2]) + lines + b"\r\n"


def field(headers: bytes | None, name: bytes) -> str | None:
    """A header's value as the server looks for it: by its exact name, at the beginning of a line."""
    if headers is None:
        return None
    at = headers.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    end = headers.find(_END, start)
    return text(headers[start:end].strip(b" ")) if end >= 0 else None


def without(headers: bytes | None, prefix: bytes) -> bytes | None:
    """The block without the lines that begin so; None when nothing is left."""
    if headers is None:
        return None
    first, *lines = headers.split(_END)
    kept = [line for line in lines if not line.startswith(prefix)]
    return _END.join([first, *kept]) if any(kept) else None
