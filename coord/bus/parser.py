"""The client's half of the NATS protocol, bytes to messages, without trust in whoever published.

nats-py's parser divides a line at any ASCII white space.  The server divides at blanks and
tabs only, so a subject may hold a form feed or a vertical tab, and one hostile publisher could
make every subscriber of a stream lose its connection, at every delivery, for ever.  Here a line
is divided as the server divides it.

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
from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, Parser

if TYPE_CHECKING:
    from coord.bus.patched import PatchedClient

_LINE_BYTES_MAX: Final = 1 << 20
"""INFO of a large cluster is the longest line; the server's own bound for ours is 4 KiB."""

_MSG = re.compile(rb"MSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(?:([^ \t\r\n]+)[ \t]+)?(\d+)\r\n")
_HMSG = re.compile(rb"HMSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(?:([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n")


class StrictParser(Parser):
    """In the place of nats-py's; same states, same buffer."""

    nc: PatchedClient

    async def parse(self, data: bytes = b"") -> None:
        """Take what the socket gave and hand on every message that is complete."""
        try:
            await self._parse(data)
        except (ProtocolError, OSError):
            raise
        except Exception as exc:
            raise ProtocolError(f"nats: {type(exc).__name__} while reading: {exc}") from exc

    async def _parse(self, data: bytes) -> None:
        buf = self.buf
        buf.extend(data)
        while buf:
            if self.state == AWAITING_MSG_PAYLOAD:
                needed, headers = self.needed, self.header_needed
                if len(buf) < needed + 2:
                    return
                header_block = bytes(buf[:headers])
                payload = bytes(buf[headers:needed])
                del buf[: needed + 2]
                self.header_needed = 0
                self.state = AWAITING_CONTROL_LINE
                arg = self.msg_arg
                await self.nc._process_msg(arg["sid"], arg["subject"], arg["reply"], payload, header_block)  # noqa: SLF001
            elif (found := _HMSG.match(buf)) is not None:
                subject, sid, reply, header_size, size = found.groups()
                self._expect(subject, sid, reply, int(header_size), int(size))
                del buf[: found.end()]
            elif (found := _MSG.match(buf)) is not None:
                subject, sid, reply, size = found.groups()
                self._expect(subject, sid, reply, 0, int(size))
                del buf[: found.end()]
            else:
                end = buf.find(b"\r\n")
                if end < 0:
                    if len(buf) > _LINE_BYTES_MAX:
                        raise ProtocolError("nats: a line without an end")
                    return
                line = bytes(buf[:end])
                del buf[: end + 2]
                await self._control(line)
                if self.buf is not buf:
                    return  # reset: the connection is another one now

    def _expect(self, subject: bytes, sid: bytes, reply: bytes | None, headers: int, size: int) -> None:
        if headers > size:
            raise ProtocolError("nats: more headers than message")
        self.msg_arg = {"subject": subject, "sid": int(sid), "reply": reply or b""}
        self.header_needed = headers
        self.needed = size
        self.state = AWAITING_MSG_PAYLOAD

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
