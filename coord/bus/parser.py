"""The client's half of the NATS protocol, bytes to messages, without trust in whoever published.

nats-py's parser divides a line at any ASCII white space.  The server divides at blanks and
tabs only, so a subject may hold a form feed or a vertical tab, and one hostile publisher could
make every subscriber of a stream lose its connection, at every delivery, for ever.  Here a line
is divided as the server divides it.

What the socket gave is read where it lies: one regular expression a message, two slices of it,
and straight to the receiver of its subscription, without a coroutine, a copy of the rest or a
state in between.  Only what is incomplete at the end is kept, and not looked at again before
there is enough of it.

A line that still makes no sense, or a handler that fails, ends the connection with
`ProtocolError`, which nats-py answers with a reconnect; anything else would end its read loop
without a word.

Bounds: a control line is at most `_LINE_BYTES_MAX` long; a payload is what the server's
``max_payload`` allows.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from coord.bus.patched import PatchedClient

_LINE_BYTES_MAX: Final = 1 << 20
"""INFO of a large cluster is the longest line; the server's own bound for ours is 4 KiB."""

# As the server writes a delivery with headers and a reply subject, which most are.  What has a
# control character in its subject, or no reply, is left to the expressions that take all there is.
_USUAL = re.compile(rb"HMSG ([!-\xff]+) ([0-9]+) ([!-\xff]+) ([0-9]+) ([0-9]+)\r\n")
_MSG = re.compile(rb"MSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(?:([^ \t\r\n]+)[ \t]+)?(\d+)\r\n")
_HMSG = re.compile(rb"HMSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(?:([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n")


class StrictParser(Parser):
    """In the place of nats-py's; `buf` is what is left of the bytes received, from the start of a line."""

    nc: PatchedClient
    busy = False
    """It is in the middle of `parse`."""

    def parse_messages(self, data: bytes) -> bytes:
        """Hand on every message that is complete, up to a line that is none; what is left from there, for `parse`.

        Not while it is `busy`.  Raises `ProtocolError`; what came is then lost, and the connection is to end.
        """
        buf = self.buf
        if buf:
            buf += data
            if len(buf) < self.needed:
                return b""
            data = bytes(buf)
            buf.clear()
        at = self._messages(data, 0)
        if not self.needed and (data.find(b"\r\n", at) >= 0 or len(data) - at > _LINE_BYTES_MAX):
            return data[at:]
        buf += data[at:]
        return b""

    async def parse(self, data: bytes = b"") -> None:
        """Take what the socket gave and hand on every message that is complete."""
        self.busy = True
        try:
            await self._parse(data)
        except (ProtocolError, OSError):
            raise
        except Exception as exc:
            raise ProtocolError(f"nats: {type(exc).__name__} while reading: {exc}") from exc
        finally:
            self.busy = False

    async def _parse(self, data: bytes) -> None:
        buf = self.buf
        if buf:
            buf += data
            if len(buf) < self.needed:
                return
            data = bytes(buf)
            buf.clear()
        at = 0
        while True:
            at = self._messages(data, at)
            # There stands an incomplete message, nothing, or another line.
            end = -1 if self.needed else data.find(b"\r\n", at)
            if end < 0:
                break
            await self._control(data[at:end])
            if self.buf is not buf:
                return  # reset: the connection is another one now
            at = end + 2
        if len(data) - at > _LINE_BYTES_MAX and not self.needed:
            raise ProtocolError("nats: a line without an end")
        buf += data[at:]

    def _messages(self, data: bytes, at: int) -> int:
        """Hand on the complete messages from `at` on; where the first other thing begins.

        `needed` is then the size of the incomplete message that stands there, 0 if it is none.
        """
        size = len(data)
        receivers = self.nc.receivers
        usual = _USUAL.match
        count = count_bytes = 0
        self.needed = 0
        while at < size:
            if (found := usual(data, at)) is not None:
                subject, sid, reply, head_size, total_size = found.groups()
                start = found.end()
                body = start + int(head_size)
            elif (found := _MSG.match(data, at)) is not None:
                subject, sid, reply, total_size = found.groups()
                start = body = found.end()
            elif (found := _HMSG.match(data, at)) is not None:
                subject, sid, reply, head_size, total_size = found.groups()
                start = found.end()
                body = start + int(head_size)
            else:
                break
            end = start + int(total_size)
            if body > end:
                raise ProtocolError("nats: more headers than message")
            if end + 2 > size:
                self.needed = end + 2 - at
                break
            at = end + 2
            receive = receivers.get(sid)
            if receive is None:
                continue  # unsubscribed while on its way
            count += 1
            count_bytes += end - body
            try:
                receive(subject, reply or b"", data[start:body], data[body:end])
            except Exception as exc:  # noqa: BLE001 - a defective receiver must not end the read loop
                self.nc.receiver_failed(exc)
        stats = self.nc.stats
        stats["in_msgs"] += count
        stats["in_bytes"] += count_bytes
        return at

    async def _control(self, line: bytes) -> None:
        word, _, rest = line.replace(b"\t", b" ").partition(b" ")
        client = self.nc
        if word == b"PING":
            await client._process_ping()  # noqa: SLF001
        elif word == b"PONG":
            await client._process_pong()  # noqa: SLF001
        elif word == b"-ERR":
            await client._process_err(rest.strip().decode("utf-8", "backslashreplace").lower())  # noqa: SLF001
        elif word == b"INFO":
            await client._process_info(json.loads(rest))  # noqa: SLF001
        elif word != b"+OK":
            raise ProtocolError(f"nats: unknown protocol {line[:64]!r}")
