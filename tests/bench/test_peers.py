"""coord beside its peers, once, with tiny counts: that each writes what was published, nothing about speed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coord.errors import EnvironmentProblem, SettingsError
from coord.ops.bench import peers
from tests.support.benches import bench

SIDES = ("coord", "faststream", "faststream_lean", "nats_sinks")


@pytest.mark.slow
async def test_every_peer_writes_the_backlog_once() -> None:
    done = await bench(
        "peers", "--facts", "60", "--batch", "32", "--rounds", "1",
        "-o", "json",
    )  # fmt: skip
    assert done.code == 0, done.talk.decode()  # it compares every side's rows with coord's, too
    report = json.loads(done.out)
    assert set(report["rounds"]) == set(SIDES)
    assert {runs[0]["count"] for runs in report["rounds"].values()} == {64}
    of_peers = {f"{side}_{figure}" for side in SIDES[1:] for figure in ("rows_per_s", "ratio")}
    assert set(report["figures"]["peers"]) == {"rows_per_s"} | of_peers
    assert {"faststream", "nats-sinks"} <= set(report["versions"])


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EnvironmentProblem, match="faststream and nats-sinks"):
        peers._installed()


@pytest.mark.parametrize("wrong", [{"facts": 0}, {"rounds": 0}, {"batch": 0}, {"batch": 10_001}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        peers.PeersConfig(**wrong).validate()
