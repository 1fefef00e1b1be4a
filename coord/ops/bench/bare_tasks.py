"""What coord's tasks are measured against: the same work by hand, as well as nats-py allows.

One process plays both sides, on a stream of its own: a task is submitted once under its id, taken from a pull consumer,
claimed on condition that nothing was stated about it since, done, and acknowledged.  Nothing is encoded, decided,
watched or projected, and there is nobody to be told: the process that submits sees the outcome's acknowledgement.
The bar for coord's own rate, 6,000 a second, was set where this did 13,500.

It is one process, coord's side are several: compare ratios of machines with as many cores, and no others.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Final, Self

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from coord.ops.bench.measure import BenchError

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_NOT_GIVEN: Final = "Nats-Pending-Messages"
"""Of how many that one request was for nothing came before it ended."""
_STREAM: Final = "BARE"
_QUEUE: Final = "queue"
_BODY: Final = b'{"no_work":"to be done by whoever takes it, whatever it is"}'
_PULL: Final = 256
_EXPIRES_S: Final = 30
_ALL_S: Final = 60.0
"""How long one run may take: far more than it needs."""


class BareTasks(AbstractAsyncContextManager["BareTasks"]):
    """See the module; `window` tasks are under way at a time."""

    def __init__(self, url: str, *, window: int) -> None:
        self._url = url
        self._window = window
        self._client = Client()
        self._inbox = ""
        self._next = 0
        self._until = 0
        self._left = 0
        self._asked = 0
        self._taken: dict[str, str] = {}
        self._refused: bytes | None = None
        self._done = asyncio.Event()

    async def __aenter__(self) -> Self:
        # Subjects are ours: checking each with a regular expression would only slow this side down.
        self._client = await nats.connect(self._url, skip_subject_validation=True)
        js = self._client.jetstream()
        await js.add_stream(StreamConfig(name=_STREAM, subjects=["bare.>"], storage=StorageType.FILE))
        await js.add_consumer(
            _STREAM,
            ConsumerConfig(
                durable_name=_QUEUE,
                filter_subject="bare.task.*.submitted",
                ack_policy=AckPolicy.EXPLICIT,
                max_ack_pending=4 * self._window,
            ),
        )
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.submitted.*", cb=self._submitted)
        await self._client.subscribe(f"{self._inbox}.delivered", cb=self._delivered)
        await self._client.subscribe(f"{self._inbox}.claimed.*", cb=self._claimed)
        await self._client.subscribe(f"{self._inbox}.completed.*", cb=self._completed)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.jetstream().delete_stream(_STREAM)
        await self._client.close()

    async def run(self, count: int) -> float:
        """Do `count` tasks; the seconds they took.  Raises `BenchError` when one is refused or does not end."""
        self._until, self._left = self._next + count, count
        self._done.clear()
        began = time.perf_counter()
        for _ in range(min(count, self._window)):
            await self._submit()
        await self._ask()
        try:
            async with asyncio.timeout(_ALL_S):
                await self._done.wait()
        except TimeoutError as exc:
            raise BenchError("bare tasks did not end", left=self._left) from exc
        if self._refused is not None:
            raise BenchError("the broker refused a message", answer=self._refused.decode("utf-8", "replace"))
        return time.perf_counter() - began

    async def _submit(self) -> None:
        number, self._next = self._next, self._next + 1
        await self._client.publish(
            f"bare.task.{number}.submitted",
            _BODY,
            f"{self._inbox}.submitted.{number}",
            {_EXPECTED: "0"},
        )

    async def _submitted(self, message: Msg) -> None:
        self._look_at(message)

    async def _ask(self) -> None:
        if self._asked >= _PULL // 2:
            return
        self._asked += _PULL
        wanted = f'{{"batch":{_PULL},"expires":{_EXPIRES_S * 1_000_000_000}}}'
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{_STREAM}.{_QUEUE}", wanted.encode(), f"{self._inbox}.delivered"
        )

    async def _delivered(self, message: Msg) -> None:
        if not message.subject.startswith("bare."):
            # One of the requests expired between two runs; the other, if there is one, still stands.
            self._asked -= int((message.headers or {}).get(_NOT_GIVEN, self._asked))
            await self._ask()
            return
        self._asked -= 1
        await self._ask()
        task = message.subject.split(".", 3)[2]
        self._taken[task] = message.reply
        await self._client.publish(
            f"bare.task.{task}.claimed",
            _BODY,
            f"{self._inbox}.claimed.{task}",
            {
                _EXPECTED: message.reply.split(".", 6)[5],
                f"{_EXPECTED}-Subject": f"bare.task.{task}.>",
            },
        )

    async def _claimed(self, message: Msg) -> None:
        self._look_at(message)
        task = message.subject.rpartition(".")[2]
        await self._client.publish(f"bare.task.{task}.completed", _BODY, f"{self._inbox}.completed.{task}")
        await self._client.publish(self._taken.pop(task), b"+ACK")

    async def _completed(self, message: Msg) -> None:
        self._look_at(message)
        self._left -= 1
        if self._next < self._until:
            await self._submit()
        elif not self._left:
            self._done.set()

    def _look_at(self, message: Msg) -> None:
        if b'"error"' in message.data or not message.data:
            self._refused = message.data
            self._done.set()
