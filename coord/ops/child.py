"""``python -m coord.ops.child NAME``: one projector process of several; `coord.ops.processes` is its parent.

It is told its settings in the first line of its standard input, and ends, drained, when that
ends: a parent that was killed leaves no orphan.  Both sides speak in lines of JSON::

    parent → child   the settings, then {"ask": "metrics"} whenever somebody asked
    child → parent   {"ready": true, "health": {…}} every second, {"metrics": "…"} when asked

A child answers no probes and listens on no port: its parent does, for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Any

import msgspec
from prometheus_client import generate_latest

from coord import limits
from coord.ops import serve
from coord.ops.settings import Settings
from coord.runtime import signals
from coord.runtime.service import Service, cancel
from coord.runtime.signals import Interrupts
from coord.telemetry import logs, metrics


class _Line(msgspec.Struct):
    ask: str = ""


async def run(settings: Settings, parent_in: int, parent_out: int) -> int:
    """Serve until the parent or the operating system says that it is enough; the exit code."""
    registry = metrics.default()
    group = serve.projector_services(settings, registry=registry)
    with signals.interrupts() as received:
        async with _pipes(parent_in, parent_out) as (reader, writer):
            talking = [
                asyncio.create_task(_listen(reader, writer, registry, received)),
                asyncio.create_task(_tell(writer, group)),
            ]
            try:
                return await signals.run(group, drain_s=settings.service.drain_s, received=received)
            finally:
                for task in talking:
                    await cancel(task)


async def _listen(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, registry: metrics.Metrics, received: Interrupts
) -> None:
    while line := await reader.readline():
        if msgspec.json.decode(line, type=_Line).ask == "metrics":
            page = await asyncio.to_thread(generate_latest, registry.registry)
            _say(writer, {"metrics": page.decode()})
    if not received.first.is_set():  # an end that was asked for by signal is under way already
        received.send(signal.SIGTERM)


async def _tell(writer: asyncio.StreamWriter, group: Service) -> None:
    while True:
        _say(writer, {"ready": group.ready, "health": group.health()})
        await asyncio.sleep(limits.CHILD_BEAT_S)


def _say(writer: asyncio.StreamWriter, record: dict[str, Any]) -> None:
    """To a parent that does not read, nothing: it must not stop us, nor fill our memory."""
    if not writer.is_closing() and writer.transport.get_write_buffer_size() < limits.CHILD_LINE_BYTES_MAX:
        writer.write(msgspec.json.encode(record, enc_hook=str) + b"\n")


@contextlib.asynccontextmanager
async def _pipes(parent_in: int, parent_out: int) -> Any:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limits.CHILD_LINE_BYTES_MAX)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(parent_in, "rb", buffering=0)
    )
    writing, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(parent_out, "wb", buffering=0)
    )
    try:
        yield reader, asyncio.StreamWriter(writing, protocol, None, loop)
    finally:
        reading.close()
        writing.close()


def _settings(parent_in: int) -> Settings:
    """The first line, byte by byte: what follows it belongs to the loop's reader."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(parent_in, 1)
        if not byte:
            raise SystemExit(signals.EXIT_ERROR)
        line += byte
    return msgspec.json.decode(bytes(line), type=Settings)


def main() -> None:
    """Entry point of the process."""
    from coord.runtime.running import loop_factory

    parent_out = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not talk to the parent
    settings = _settings(0)
    logs.configure(settings.log, service=f"coord-projector-{sys.argv[1]}")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(run(settings, os.dup(0), parent_out)))


if __name__ == "__main__":
    main()
