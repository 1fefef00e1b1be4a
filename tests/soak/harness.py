"""What scenarios are made of: the job they get, the result they give, and the clock between the two."""

from __future__ import annotations

import contextlib
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from tests.support.planted import Bug

Outcome = Literal["passed", "failed", "skipped"]

FINDINGS_NAMED_MAX = 20
"""Findings that a result names one by one; more are only counted."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A module's entry in the ledger."""

    name: str
    title: str
    """What is done to whom, in the ledger's words."""
    bound_s: float
    """The driver ends it then, and the result is a failure."""
    rank: int = 50
    """Lower runs, and stands in the ledger, first."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario is to do."""

    seed: int
    rounds: int | None = None
    """Kills, stops or the like; None: the scenario's own number."""
    facts: int | None = None
    """Volume; None: the scenario's own."""
    minutes: float | None = None
    """Begin no further round after so long, where the scenario can end early; the row tells how many there were."""
    scale: float = 1.0
    """Multiplies the scenario's own numbers; ledger rows below 1 say so."""
    bug: Bug | None = None
    """Plant this bug; the verdict must then find it."""
    logs: str | None = None
    """A folder that keeps what everybody wrote; None: it goes with the scenario."""

    def of(self, given: int | None, own: int, at_least: int = 1) -> int:
        """The number to use: what was given, else the scenario's own, scaled."""
        return given if given is not None else max(at_least, round(own * self.scale))

    def is_over(self, began: float) -> bool:
        """Whether no further round is to begin; `began`: monotonic."""
        return self.minutes is not None and time.monotonic() > began + 60 * self.minutes


class Finding(msgspec.Struct, frozen=True):
    """One way in which a guarantee did not hold."""

    kind: str
    """lost, doubled, disordered, stray, wrong, late, …"""
    text: str
    count: int = 1


class Result(msgspec.Struct, kw_only=True):
    """What a scenario found; what the driver adds comes last."""

    volume: dict[str, int] = {}
    """What went through: facts, messages, payloads, …"""
    rounds: int = 0
    lost: int | None = None
    """Acknowledged and not in the tables.  None: the scenario cannot tell."""
    doubled: int | None = None
    disordered: int | None = None
    catch_up_s: list[float] = []
    """Each measured catch-up."""
    findings: list[Finding] = []
    skipped: str | None = None
    """Why it could not run here."""
    details: dict[str, Any] = {}

    scenario: str = ""
    title: str = ""
    seed: int = 0
    scale: float = 1.0
    bug: str | None = None
    duration_s: float = 0.0
    commit: str | None = None
    machine: dict[str, Any] = {}
    at: str = ""

    @property
    def outcome(self) -> Outcome:
        """Failed with any finding: a scenario that measured nothing has one, too."""
        return "skipped" if self.skipped else "failed" if self.findings else "passed"

    @property
    def worst_catch_up_s(self) -> float | None:
        """The slowest catch-up."""
        return max(self.catch_up_s, default=None)

    def found(self, kind: str, text: str, count: int = 1) -> None:
        """Add a finding; of one kind the first ones are named, the others counted."""
        if sum(f.kind == kind for f in self.findings) < FINDINGS_NAMED_MAX:
            self.findings.append(Finding(kind, text, count))
        else:
            more = f"more findings: {kind}"
            self.details[more] = self.details.get(more, 0) + count

    def add(self, findings: Iterable[Finding]) -> None:
        """Add what a check found and set the three columns that every check of rows fills."""
        given = list(findings)
        self.findings += given
        counts: Counter[str] = Counter()
        for finding in given:
            counts[finding.kind] += finding.count
        self.lost = (self.lost or 0) + counts["lost"]
        self.doubled = (self.doubled or 0) + counts["doubled"]
        self.disordered = (self.disordered or 0) + counts["disordered"]


def percentile(values: Iterable[float], q: float) -> float:
    """The smallest value that at least `q` of them do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan


def rng_of(job: Job, purpose: str) -> random.Random:
    """Randomness for one purpose, the same for the same seed whatever else draws."""
    return random.Random(f"{job.seed}/{purpose}")


def say(*words: object) -> None:
    """One line for whoever watches."""
    print(time.strftime("%H:%M:%S", time.gmtime()), *words, file=sys.stderr, flush=True)


@contextlib.contextmanager
def folder(job: Job, purpose: str) -> Iterator[Path]:
    """A temporary folder that the database's account can walk to; its logs are kept where the job says so."""
    with tempfile.TemporaryDirectory(prefix=f"coord-soak-{purpose}-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        home.chmod(0o711)
        try:
            yield home
        finally:
            if job.logs is not None:
                for log in home.glob("**/*.log"):
                    kept = Path(job.logs) / f"{home.name.removeprefix('coord-soak-')}-{log.name}"
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(log, kept)
