"""The policy by which a process pushes nobody off a core."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_where_it_may_not_be_set_the_program_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    assert coord.run(_policy()) == os.SCHED_OTHER
    monkeypatch.delattr(os, "SCHED_BATCH")
    assert coord.run(_policy()) == os.SCHED_OTHER


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
