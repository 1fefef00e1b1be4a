"""Deciders on three servers with three copies: the leader of the log is killed while tasks are open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus.connection import NatsConfig
from coord.core.task_decider import TaskDecider
from coord.server.decider_service import DeciderService
from coord.telemetry.metrics import Metrics
from tests.support.deciding import Hand
from tests.support.nats_cluster import NatsCluster
from tests.support.waiting import until


@pytest.mark.soak
@pytest.mark.skipif("COORD_SOAK_ROUNDS" not in os.environ, reason="15 s: for `make soak`")
async def test_a_leader_that_is_killed_costs_no_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLICA_BEAT_S", 0.05)
    async with NatsCluster(tmp_path / "cluster") as cluster:
        await cluster.apply(EVENTS={"max_bytes": 1 << 26}, TELEMETRY={"max_bytes": 1 << 26},
                            SNAPSHOTS={"max_bytes": 1 << 24})  # fmt: skip
        config = NatsConfig(urls=cluster.urls, ping_interval_s=1.0)
        hand = await Hand.open(",".join(cluster.urls))
        look = await cluster.connect("look")
        async with DeciderService(config, registry=Metrics(CollectorRegistry())) as service:
            await service.wait_ready(100)
            await hand.open_queues()
            ids = [f"t{n}" for n in range(40)]
            for id_ in ids:
                await hand.submit(id_, instance="me1")
                await hand.claim(id_, 1, instance="i1")
            for id_ in ids[:20]:
                await hand.complete(id_)
            await until(lambda: len({t["id"] for t in hand.told("me", "ended")}) == 20)
            victim = await cluster.leader(look, "EVENTS")
            cluster.kill(victim)

            def released() -> bool:
                service.gone("acme", "w1", "i1", 0.0)
                deciders = [d for d in service.deciders() if isinstance(d, TaskDecider)]
                return sum(d.open_count() for d in deciders) == 20 and not any(d.usage() for d in deciders)

            await until(released, 120, every_s=0.1)
            with pytest.raises(errors.WrongLastSequence):
                await hand.submit(ids[0])
            # Of the dead leader's consumer state nothing is needed.
            for id_ in ids:
                ended = "completed" if id_ in ids[:20] else "released.1"
                assert await hand.events(id_) == ["submitted", "claimed.1", ended]
            value = service.metrics.registry.get_sample_value
            assert not value("coord_decider_statements_total", {"decider": "_task", "outcome": "conflict"})
        await look.close()
        await hand.close()
