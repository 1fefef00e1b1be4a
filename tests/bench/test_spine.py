"""Each bench once, with tiny counts: the figures mean nothing here, that they exist does."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import connect
from coord.ops.bench import workload
from coord.ops.bench.bare import BareLoop
from coord.ops.bench.measure import BenchError
from coord.ops.bench.workers import Job, Worker
from coord.runtime import assets
from coord.wire import headers
from coord.wire.envelope import Encoded, Sample
from coord.wire.headers import Headers
from tests.support.benches import bench
from tests.support.waiting import until

FIGURES = {
    "publish": {
        "single_ratio", "single_facts_per_s", "single_cpu_us", "frame_facts_per_s", "frame_ratio", "frame_cpu_us",
        "overhead_saved",
    },
    "publish_always": {
        "single_ratio", "single_facts_per_s", "single_cpu_us", "frame_facts_per_s", "frame_cpu_us", "overhead_saved",
    },
    "project": {
        "frame_ratio", "frame_rows_per_s", "frame_event_ratio", "frame_event_rows_per_s", "single_ratio",
        "single_rows_per_s",
    },
    "latency_ms": {"p50", "p90", "p99", "p999", "max", "seen_p50", "seen_p99"},
    "subscribe_ms": {"p50", "p90", "p99", "p999", "max"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_bench_of_the_spine_gives_every_figure(tmp_path: Path) -> None:
    done = await bench(
        "spine", "--scale", "0.01", "--rounds", "1", "--subscribers", "3",
        "-o", "json",
    )  # fmt: skip
    assert done.code == 0, done.talk.decode()
    report = json.loads(done.out)  # one object, and nothing beside it
    assert {name: set(found) for name, found in report["figures"].items()} == FIGURES
    numbers = [value for found in report["figures"].values() for value in found.values()]
    assert all(isinstance(value, float) for value in numbers)
    assert all(report["figures"]["latency_ms"][p] > 0 for p in ("p50", "p99"))
    assert {"machine", "python", "versions", "commit", "edition", "settings"} <= set(report)
    assert report["settings"]["rounds"] == 1
    assert set(report["rounds"]) == {
        "emit", "bare", "emit_many", "bare_frames", "sample_framed", "sample_alone", "drain_samples", "copy_samples",
        "drain_progress", "copy_progress", "drain_singles", "copy_singles",
        "emit_always", "bare_always", "sample_framed_always", "sample_alone_always",
    }  # fmt: skip
    assert b"publish" in done.talk

    kept = tmp_path / "spine.json"
    kept.write_bytes(done.out)
    await _compares_with_itself(kept)


async def _compares_with_itself(kept: Path) -> None:
    done = await bench(
        "compare", str(kept), str(kept), "-o", "json",
    )  # fmt: skip
    rows = json.loads(done.out)
    assert {row["verdict"] for row in rows} == {"same"}
    assert len(rows) == sum(map(len, FIGURES.values()))
    assert done.talk == b""


@pytest.fixture
async def conn(start_nats):
    server = await start_nats()
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="test") as connection:
        await topology.apply(connection, topology.load(assets.streams_dir(), "production"))
        yield connection


async def test_both_sides_publish_the_same_messages(conn: Connection) -> None:
    """Otherwise `single_ratio` and `frame_ratio` would compare two different things."""
    url = conn.config.urls[0]
    data = workload.bodies()
    fact = next(workload.facts(1, data))
    samples = [Sample(series=workload.SERIES[0], value=v) for v in workload.numbers()[: workload.FRAME]]
    async with connect(url, tenant=workload.TENANT, agent="author") as coord, BareLoop(url) as bare:
        await coord.emit(fact)
        await coord.flush()
        # The first sample of an idle publisher leaves at once; the frame behind it is the one compared.
        await coord.emit_many([samples[0], *samples])
        await coord.flush()
        await bare.publish(workload.encoded_facts(1, data, ["author"]))
        await bare.publish(workload.sample_frames(1, workload.numbers(), ["author"]))
    facts = await _stored(conn, "EVENTS")
    frames = [m for m in await _stored(conn, "TELEMETRY") if len(m.body) > 500]
    for ours, bare_one in (facts, frames):
        assert ours.subject == bare_one.subject
        assert set(ours.headers) == set(bare_one.headers)
        assert {n: len(v) for n, v in ours.headers.items() if n != headers.TIME} == {
            n: len(v) for n, v in bare_one.headers.items() if n != headers.TIME
        }
    assert facts[0].body == facts[1].body
    assert abs(len(frames[0].body) - len(frames[1].body)) < 0.25 * len(frames[1].body)


async def _stored(conn: Connection, stream: str) -> list[Encoded]:
    found = []
    last = (await conn.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
    for seq in range(1, last + 1):
        message = (await conn.api(f"STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
        block: Headers = headers.parse(base64.b64decode(message["hdrs"]))
        found.append(Encoded(message["subject"], dict(block.fields), base64.b64decode(message["data"]), ""))
    return found


async def test_the_bare_loop_does_not_swallow_a_refusal(conn: Connection) -> None:
    subject = workload.encoded_facts(1, workload.bodies(), ["a1"])[0].subject
    wrong = Encoded(subject, {"Nats-Expected-Stream": "ANOTHER"}, b"", "")
    async with BareLoop(conn.config.urls[0]) as bare:
        with pytest.raises(BenchError, match="refused"):
            await bare.publish([wrong])


async def test_a_failing_worker_says_why_and_is_gone() -> None:
    impossible = Job(role="drain", nats_url="nats://127.0.0.1:1", stream="NONE")
    with pytest.raises(BenchError, match="NONE"):
        async with Worker(impossible):
            pass


async def test_a_worker_ends_with_whoever_started_it(conn: Connection) -> None:
    job = Job(role="subscribers", nats_url=conn.config.urls[0], subscribers=2, expected=10)
    async with Worker(job) as worker:
        path = Path(f"/proc/{worker.pid}")
        assert path.exists()
    await until(lambda: not path.exists())


@pytest.mark.slow
async def test_the_quick_bench_says_what_a_row_costs() -> None:
    done = await bench(
        "project", "singles", "--rows", "200", "--rounds", "1", "-o", "json",
    )  # fmt: skip
    assert done.code == 0, done.talk.decode()
    report = json.loads(done.out)
    assert list(report["rounds"]) == ["drain_singles"]
    assert report["rounds"]["drain_singles"][0]["count"] == 200
    assert report["rounds"]["drain_singles"][0]["client_cpu_us"] > 0
