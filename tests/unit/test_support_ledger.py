"""The soak ledger is appended to by soak tests alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SUITE = """
import pytest

@pytest.mark.soak
def test_counted(record_property):
    record_property("facts", 12)

@pytest.mark.soak
def test_broken():
    raise AssertionError

def test_other():
    pass
"""


def test_soak_tests_are_written_down_with_their_counts(tmp_path):
    (tmp_path / "test_soak.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.support.ledger"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    soak: x\n")
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text('{"kept": true}\n')
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        "PYTHONPATH": str(Path.cwd()),
        "COORD_SOAK_LEDGER": str(ledger),
        "COORD_SOAK_ROUNDS": "7",
        "COORD_TEST_SEED": "5",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_soak.py"]
    subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False, timeout=200)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert lines[0] == {"kept": True}
    by_name = {line["test"].rpartition("::")[2]: line for line in lines[1:]}
    assert set(by_name) == {"test_counted", "test_broken"}
    assert by_name["test_counted"]["counts"] == {"facts": 12}
    assert by_name["test_counted"]["rounds"] == 7
    assert by_name["test_counted"]["seed"] == "5"
    assert by_name["test_broken"]["outcome"] == "failed"
