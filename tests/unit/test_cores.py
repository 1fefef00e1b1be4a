"""The policy by which a process pushes nobody off a core."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import coord
from coord.ops import serve
from coord.ops.settings import ServiceConfig, Settings
from coord.runtime import cores
from coord.runtime.cores import Cores
from coord.telemetry.metrics import Metrics

pytestmark = pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER, reason="Linux's, and set here already"
)


async def _policy() -> int:
    return os.sched_getscheduler(0)


def test_a_program_and_what_it_starts_run_in_batch_until_it_ends() -> None:
    async def child() -> str:
        code = "import os; print(os.sched_getscheduler(0))"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert coord.run(_policy()) == os.SCHED_BATCH
    assert coord.run(child()).strip() == str(os.SCHED_BATCH)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_another_policy_is_let_be() -> None:
    with cores.in_batch(), cores.in_batch():
        pass
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    with cores.in_batch():
        with cores.in_batch():
            pass
        assert os.sched_getscheduler(0) == os.SCHED_BATCH, "it was not the inner one's to set back"


@pytest.mark.parametrize("call", ["sched_setscheduler", "sched_getscheduler"])
def test_where_it_may_not_be_set_or_asked_the_program_runs_all_the_same(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = os.sched_getscheduler

    async def policy() -> int:
        return asked(0)

    def forbidden(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, call, forbidden)
    assert coord.run(policy()) == os.SCHED_OTHER
    monkeypatch.delattr(os, "SCHED_BATCH")
    assert coord.run(policy()) == os.SCHED_OTHER


@pytest.mark.parametrize(("policy", "there"), [("batch", True), ("other", False)])
def test_services_have_it_unless_a_setting_says_other(policy: str, *, there: bool) -> None:
    settings = Settings(service=ServiceConfig(cpu_policy=policy))  # type: ignore[arg-type]
    registry = Metrics(CollectorRegistry())
    for group in (serve.services(settings, registry=registry), serve.projector_services(settings, registry=registry)):
        assert any(isinstance(member, Cores) for member in group.members) is there


async def test_a_process_of_coord_is_in_batch_while_it_runs() -> None:
    async with Cores(registry=Metrics(CollectorRegistry())):
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_command_leaves_the_policy_to_the_setting(tmp_path: Path) -> None:
    """Whoever says `other` has no thread in batch: nothing has set it by the time the services are begun."""
    nowhere = {"COORD_NATS_URLS": "nats://127.0.0.1:1", "COORD_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from coord.ops.cli import main; main()", "serve", "projector"],
        env={**os.environ, **nowhere, "COORD_SERVICE_CPU_POLICY": "other", "COORD_HTTP_ENABLED": "false"},
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any("process.starting" in line for line in process.stderr)
        threads = Path(f"/proc/{process.pid}/task").iterdir()
        assert {os.sched_getscheduler(int(thread.name)) for thread in threads} == {os.SCHED_OTHER}
    finally:
        process.kill()
        process.communicate()
