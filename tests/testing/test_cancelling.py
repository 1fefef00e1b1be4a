"""What was cancelled before anybody took it is not begun; what was only spoken of is."""

from __future__ import annotations

from typing import Any

import coord
from coord.client import histories
from coord.testing import InMemoryCoord
from coord.wire.records import Fact


async def test_what_is_cancelled_while_it_waits_is_never_begun(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("worker", capabilities={"note": 4})
    seen: list[Any] = []

    @agent.task("note")
    async def note(given: Any) -> Any:
        seen.append(given)
        return given

    async with fleet.connect("boss") as c:
        handles = [await c.submit("note", n, id=f"n{n}") for n in range(4)]
        assert await handles[1].cancel("no more")
        # Anybody may say anything of a task: it is looked at, and then done.
        await c.emit(Fact(kind="task", id="n2", event="progress", data={"claim": 1, "done": 0.5}))
        await c.flush()
        async with fleet.work(agent):
            assert [await handles[n].result(timeout_s=30) for n in (0, 2, 3)] == [0, 2, 3]
            last = await c.submit("note", 4)
            assert await last.result(timeout_s=30) == 4
        assert sorted(seen) == [0, 2, 3, 4]
        _, facts = await histories.read(c.connection, c.tenant, "n1", "n1")
        assert [fact.event for fact in facts] == ["submitted", "cancelled"], "it was not even claimed"
