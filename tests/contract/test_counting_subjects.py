"""How many subjects match is asked of nats-server without having them named: `coord.bus.damage` relies on it."""

from __future__ import annotations

import pytest

from coord.wire import subjects
from tests.support.log import open_log


@pytest.mark.parametrize("offset", [3, 2**31 - 1])
async def test_an_offset_beyond_what_matches_names_nothing_and_says_how_many(nats_server, offset: int) -> None:
    async with open_log(nats_server.url) as log:
        for n in range(3):
            await log.flood(2, id=f"t{n}")
        asked = f"coord.log.*.{log.tenant}.>"
        request = {"subjects_filter": asked, "offset": offset}
        info = await log.conn.api(f"STREAM.INFO.{subjects.EVENTS}", request)
        assert (info["total"], info["limit"]) == (3, 100_000)
        assert not info["state"].get("subjects")
        request = {"subjects_filter": f"coord.log.*.{log.tenant}x.>", "offset": offset}
        assert (await log.conn.api(f"STREAM.INFO.{subjects.EVENTS}", request))["total"] == 0
