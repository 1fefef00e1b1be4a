"""`coord serve projector --processes N`: one service of several processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coord import errors
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops.processes import Processes
from coord.ops.serve import What, services
from coord.ops.settings import Settings
from coord.runtime import assets
from coord.telemetry.merging import merged
from coord.wire.envelope import Fact, encode_fact
from tests.support.cli import running_cli
from tests.support.waiting import until

ROWS = 400


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()


async def health(url: str) -> tuple[int, dict[str, Any]]:
    status, body = await asyncio.to_thread(get, url + "/readyz")
    return status, json.loads(body)


def children(record: dict[str, Any]) -> dict[str, Any]:
    return next(m for m in find(record, "children"))


def find(record: Any, name: str) -> list[Any]:
    if isinstance(record, dict):
        return [v for k, v in record.items() if k == name] + [x for v in record.values() for x in find(v, name)]
    return [x for v in record for x in find(v, name)] if isinstance(record, list) else []


def consumed_by(page: str) -> dict[str, float]:
    """Process → how many events it has consumed, from the merged page of metrics."""
    consumed: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith("coord_events_consumed_total{"):
            process = line.split('process="')[1][0]
            consumed[process] = consumed.get(process, 0.0) + float(line.rpartition(" ")[2])
    return consumed


@pytest.mark.slow
async def test_two_processes_share_the_work_survive_a_death_and_drain(
    start_nats: Any, migrated_database: Any, tmp_path: Path
) -> None:
    nats = await start_nats()
    async with await Connection.open(NatsConfig(urls=(nats.url,)), name="test") as conn:
        await topology.apply(conn, topology.load(assets.streams_dir(), "development"))
        db = await asyncpg.connect(migrated_database.url)
        env = {
            "COORD_NATS_URLS": nats.url, "COORD_DATABASE_URL": migrated_database.url, "COORD_HTTP_PORT": "0",
            "COORD_DATABASE_POOL_MIN": "1", "COORD_DATABASE_POOL_MAX": "6", "COORD_SERVICE_DRAIN_S": "100",
        }  # fmt: skip

        async def publish(first: int) -> None:
            for i in range(first, first + ROWS):
                fact = Fact(kind="note", id=f"n{i}", event="said", data={"i": i})
                sent = encode_fact(fact, tenant="acme", agent="a1", event_id=f"e{i}", occurred_at=datetime.now(UTC))
                await conn.request(sent.subject, sent.body, headers=sent.header_block())

        async def rows(wanted: int) -> bool:
            found: int = await db.fetchval("SELECT count(*) FROM coord.event")
            assert found <= wanted
            return found == wanted

        async with running_cli("serve", "projector", "--processes", "2", cwd=tmp_path, env=env) as process:
            url = json.loads(await process.says("http.listening"))["url"]

            async def ready() -> bool:
                status, record = await health(url)
                states = find(record, "members")
                return status == 200 and len(states) == 2 and all(len(m) == 2 for m in states)

            await until(ready)
            published = 0
            page, consumed = b"", dict[str, float]()
            since = time.monotonic()
            while len(consumed) < 2 or min(consumed.values()) == 0:  # pins move after the members are known
                assert time.monotonic() - since < 100, f"one of them has no share: {consumed}"
                await publish(published)
                published += ROWS
                await until(partial(rows, published))
                _, page = await asyncio.to_thread(get, url + "/metrics")
                consumed = consumed_by(page.decode())
            assert set(consumed) == {"1", "2"}
            assert b'coord_processes_ready{process="parent"} 2.0' in page

            _, record = await health(url)
            victim = children(record)["1"]["pid"]
            os.kill(victim, signal.SIGKILL)

            async def replaced() -> bool:
                _, now = await health(url)
                return children(now)["1"]["pid"] not in {victim, None}

            await until(replaced)
            await publish(published)
            await until(lambda: rows(published + ROWS))
            await until(ready)
            _, record = await health(url)
            pids = [c["pid"] for c in children(record).values()]
            process.send(signal.SIGTERM)
            assert await process.ends() == 0
            assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        await db.close()


def test_pages_are_merged_by_family_and_never_added_up() -> None:
    one = '# HELP a_total Of a.\n# TYPE a_total counter\na_total{x="1"} 3.0\n# TYPE b gauge\nb 1.0\n'  # fmt: skip
    two = '# HELP a_total Of a.\n# TYPE a_total counter\na_total{x="1"} 4.0\n'  # fmt: skip
    page = merged({"1": one, "2": two}).decode()
    assert 'a_total{process="1",x="1"} 3.0' in page
    assert 'a_total{process="2",x="1"} 4.0' in page
    assert page.count("# TYPE a_total counter") == 1
    assert 'b{process="1"} 1.0' in page


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(errors.SettingsError, match="query"):
        services(Settings(), What.QUERY, processes=2)
    with pytest.raises(errors.SettingsError, match="1 to"):
        Processes(Settings(), 1000)
