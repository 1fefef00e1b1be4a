"""The soak ledger: one line of JSON for each soak test that ran, appended, never rewritten.

`COORD_SOAK_LEDGER` names the file (`make faults` sets it).  A test states its counts with pytest's
`record_property("facts", 120_000)`; they stand in the line beside seed, rounds, commit and machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

LEDGER = "COORD_SOAK_LEDGER"


def entry(report: pytest.TestReport, environ: dict[str, str], commit: str | None, now: datetime) -> dict[str, Any]:
    """What is written about one test."""
    return {
        "at": now.isoformat(timespec="seconds"),
        "test": report.nodeid,
        "outcome": report.outcome,
        "seconds": round(report.duration, 3),
        "rounds": int(environ.get("COORD_SOAK_ROUNDS", "1")),
        "seed": environ.get("COORD_TEST_SEED"),
        "counts": dict(report.user_properties),
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the controller, which alone sees every worker's reports: append what ran, or failed before it could."""
    ledger = os.environ.get(LEDGER)
    if not ledger or "PYTEST_XDIST_WORKER" in os.environ or "soak" not in report.keywords:
        return
    if report.when == "call" or report.failed:
        line = json.dumps(entry(report, dict(os.environ), _commit(), datetime.now(UTC)))
        with Path(ledger).open("a", encoding="utf-8") as f:
            f.write(line + "\n")


def _commit() -> str | None:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
