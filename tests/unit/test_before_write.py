"""What is called before a turn's bytes are written may ask again, and no defect ends the writing."""

from __future__ import annotations

import asyncio

from coord.bus.patched import PatchedClient


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_whoever_asks_again_from_its_call_is_called_in_the_next_turn() -> None:
    client = PatchedClient(print)
    called: list[int] = []

    def again() -> None:
        called.append(len(called))
        if len(called) < 2:
            client.before_write(again)

    client.before_write(again)
    await turns()
    assert called == [0, 1]
    client.before_write(again)
    await turns()
    assert called == [0, 1, 2]


async def test_an_error_that_nobody_can_be_told_of_ends_no_writing() -> None:
    def failed(exc: BaseException) -> None:
        raise exc

    client = PatchedClient(failed)
    called: list[str] = []
    seen: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context.get("exception")))
    try:
        client.before_write(lambda: called.append(called[0]))
        client.before_write(lambda: called.append("behind it"))
        await turns()
    finally:
        loop.set_exception_handler(None)
    assert called == ["behind it"]
    assert [type(exc) for exc in seen] == [IndexError]
    client.before_write(lambda: called.append("later"))
    await turns()
    assert called == ["behind it", "later"]
