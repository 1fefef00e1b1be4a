"""``coord cache`` on a real broker: every cache of the fleet answers for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import coord
from tests.support.cli import Result, cli
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def settings(nats, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COORD_NATS_URLS", nats.url)
    monkeypatch.setenv("COORD_IDENTITY_TENANT", "acme")


async def cache(*args: str, processes: int) -> Result:
    """Ask until so many have answered."""
    return await cli("cache", *args, "--wait", "60", "--processes", str(processes))


async def heard(processes: int) -> None:
    """They listen: what is asked before that is not answered."""

    async def answering() -> bool:
        asked = await cli("cache", "stats", "--each", "--wait", "1", "--processes", str(processes), "-o", "json")
        return len(asked.json) == processes

    await until(answering)


async def test_what_caches_hold_is_shown_and_evicted(conn, nats) -> None:
    async with (
        coord.connect(nats.url, tenant="acme", agent="a1") as one,
        coord.connect(nats.url, tenant="acme", agent="a2") as two,
        coord.connect(nats.url, tenant="other", agent="a1") as other,
    ):
        for c in (one, two, other):

            @c.cached("page:{name}")
            async def page(name: str) -> str:
                return "<b>" + name

            for name in ("x", "x", "y"):
                await page(name)
        await heard(2)
        stats = await cache("stats", "--each", "-o", "json", processes=2)
        rows = {row["agent"]: row for row in stats.json}
        assert [(row["tier"], row["hits"], row["misses"], row["target"]) for row in rows.values()] == [
            ("l1", 1, 2, 0.8)
        ] * 2
        (total,) = (await cache("stats", "-o", "json", processes=2)).json
        assert (total["processes"], total["hits"], total["kept"]) == (2, 2, 4)
        top = (await cache("top", "-o", "json", processes=2)).json
        assert [(row["key"], row["processes"], row["held"]) for row in top] == [
            ("page:x", 2, {"l1": 2}), ("page:y", 2, {"l1": 2}),
        ]  # fmt: skip
        found = await cache("get", "page:*", "--value", "--agent", "a2", "-o", "json", processes=1)
        assert {(row["agent"], row["key"], row["value"]) for row in found.json} == {
            ("a2", "page:x", "'<b>x'"), ("a2", "page:y", "'<b>y'"),
        }  # fmt: skip
        assert (await cache("get", "page:z", processes=2)).code == 4
        evicted = await cache("evict", "--key", "page:x", "-o", "json", processes=2)
        assert evicted.json == {"processes": 2, "entries": 2}
        assert (await cache("evict", "--all", "-o", "json", processes=2)).json == {"processes": 2, "entries": 2}
        assert len(other.cache.l1) == 2, "another tenant's is not asked"
        assert (await cli("cache", "evict")).code == 2
        nobody = await cli("cache", "stats", "--tenant", "nobody", "--wait", "0.05", "-o", "json")
        assert (nobody.code, nobody.json) == (0, [])
