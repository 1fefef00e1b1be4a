"""``coord workflow`` on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import coord
from coord.ops.devstack.nats import NatsServer
from tests.support.cli import cli
from tests.support.tasks import Fleet, services
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
async def fleet(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with services(nats_server.url) as found:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("COORD_NATS_URLS", found.url)
        monkeypatch.setenv("COORD_IDENTITY_TENANT", found.tenant)
        monkeypatch.setenv("COORD_DATABASE_URL", "postgresql://127.0.0.1:1/none")
        yield found


async def test_a_workflow_from_a_template_to_its_end(fleet: Fleet, tmp_path: Path) -> None:
    agent = coord.Agent("writer", capabilities={"draft": 1, "publish": 1, "withdraw": 1})
    for capability in ("draft", "publish", "withdraw"):

        @agent.task(capability)
        async def work(given: object, ctx: coord.TaskContext) -> str:
            return ctx.capability

    listed = await cli("workflow", "new", "-o", "json")
    assert "approve" in {row["template"] for row in listed.json}
    assert (await cli("workflow", "new", "--from", "approve", "-p", "name=mine", "-f", "mine.toml")).code == 0
    assert 'name = "mine"' in (tmp_path / "mine.toml").read_text()
    assert (await cli("workflow", "new", "--from", "approve", "-f", "mine.toml")).code == 2, "nothing is overwritten"
    assert (await cli("workflow", "graph", "mine.toml", "--format", "svg", "-f", "mine.svg")).code == 0
    assert (tmp_path / "mine.svg").read_text().startswith("<svg")

    async with agent.connect(fleet.url, tenant=fleet.tenant):
        started = await cli("workflow", "start", "mine.toml", "--id", "w1", "-i", '{"topic": "x"}', "-o", "json")
        assert started.json["workflow"] == "mine@1"

        async def waits() -> bool:
            shown = (await cli("workflow", "get", "w1", "-o", "json")).json
            assert shown["life"]["status"] == "running", "what is the default is shown too"
            statuses: dict[str, str] = {step["name"]: step["status"] for step in shown["steps"]}
            return statuses["gate"] == "running"

        await until(waits)
        table = await cli("workflow", "get", "w1")
        assert "gate" in table.out
        assert "class s1 running" in (await cli("workflow", "graph", "w1")).out
        assert (await cli("workflow", "signal", "w1", "approved", "--approve")).code == 0

        async def ended() -> bool:
            return bool((await cli("workflow", "get", "w1", "-o", "json")).json["life"]["status"] == "completed")

        await until(ended)
        assert (await cli("workflow", "cancel", "w1")).code == 1, "it has ended"

        await cli("workflow", "start", "approve", "--id", "w2", "--agent", "somebody")
        refused = await cli("workflow", "cancel", "w2", "--agent", "other")
        assert (refused.code, "[workflow.not_submitter]" in refused.err) == (1, True)
        assert (await cli("workflow", "cancel", "w2", "--reason", "enough")).code == 0

        async def cancelled() -> bool:
            life = (await cli("workflow", "get", "w2", "-o", "json")).json["life"]
            return (life["status"], life["submitter"]) == ("cancelled", "somebody")

        await until(cancelled)

        steps = '[{"name": "a", "task": "draft"}, {"name": "b", "task": "publish", "needs": ["a"], "local": true}]'
        (tmp_path / "line.json").write_text(f'{{"name": "line", "steps": {steps}}}')
        await cli("workflow", "start", "line.json", "--id", "w3")

        async def told() -> bool:
            return "with a by writer" in " ".join((await cli("workflow", "get", "w3")).out.split())

        await until(told)
        assert "publish, local" in (await cli("workflow", "graph", "w3")).out
        planned = await cli("workflow", "rerun", "w3", "--from", "b", "--dry-run", "-o", "json")
        assert planned.json == {"id": None, "rerun_of": "w3", "taken_over": ["a"], "runs": ["b"]}
        again = await cli("workflow", "rerun", "w3", "--from", "b", "--wait", "-o", "json")
        assert (again.json["id"], again.json["result"]) == ("w3-r2", "publish")
        assert "taken over" in (await cli("workflow", "get", "w3-r2")).out
        assert "[workflow.unknown_step]" in (await cli("workflow", "rerun", "w3", "--from", "x")).err
    asked = await cli("workflow", "get", "nobody")
    assert (asked.code, "cannot be asked" in asked.err) == (3, True), "older ones are in a database, and there is none"
    (tmp_path / "bad.json").write_text('{"name": "w", "steps": [{"name": "a", "task": "t", "needs": ["b"]}]}')
    bad = await cli("workflow", "start", "bad.json")
    assert bad.code != 0
    assert "workflow.unknown_step" in bad.err
