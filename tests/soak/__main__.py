"""`make soak`: run the scenarios one after another and write the ledger.

    python -m tests.soak [NAME …] [--seed N] [--rounds N] [--facts N] [--scale 0.1] [--bug NAME] [--no-ledger]
    python -m tests.soak --list
    python -m tests.soak --render          only write docs/fault-ledger.md anew

Each scenario runs in a process of its own (`--child`), is ended at its bound, and leaves its
result in docs/fault-ledger/NAME.json.  Exit code 1 when any failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import pkgutil
import secrets
import signal
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import tests.soak
from coord.ops.bench import machine
from tests.soak import page
from tests.soak.harness import Finding, Job, Result, Scenario, say
from tests.support.planted import BUGS

_KILL_AFTER_S = 60.0
"""A scenario over its bound is asked to end, and killed when it has not after so long."""


def scenarios() -> dict[str, Scenario]:
    """Module name → scenario, in the ledger's order."""
    found = {}
    for info in pkgutil.iter_modules(tests.soak.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"tests.soak.{info.name}")
        scenario = getattr(module, "SCENARIO", None)
        if isinstance(scenario, Scenario):
            found[info.name] = scenario
    return dict(sorted(found.items(), key=lambda item: (item[1].rank, item[1].name)))


def main(argv: list[str]) -> int:
    """See the module."""
    options = _options(argv)
    known = scenarios()
    if options.list:
        for scenario in known.values():
            print(f"{scenario.name:20} at most {scenario.bound_s:g} s: {scenario.title}")
        return 0
    if options.child:
        return _child(options.child, msgspec.json.decode(options.job, type=Job))
    if not options.render:
        signal.signal(signal.SIGTERM, _as_interrupt)  # a scenario must not outlive its driver
        unknown = set(options.names) - {s.name for s in known.values()}
        if unknown:
            print(f"no such scenario: {', '.join(sorted(unknown))}; --list shows them", file=sys.stderr)
            return 2
        seed = options.seed if options.seed is not None else secrets.randbits(32)
        job = Job(
            seed=seed,
            rounds=options.rounds,
            facts=options.facts,
            minutes=options.minutes,
            scale=options.scale,
            bug=options.bug,
            logs=options.logs and str(Path(options.logs).resolve()),
        )
        say(f"seed {seed}")
        results = [
            _run(module, scenario, job, keep=not options.no_ledger)
            for module, scenario in known.items()
            if not options.names or scenario.name in options.names
        ]
        failed = [r.scenario for r in results if r.outcome == "failed"]
        say(f"{len(results)} scenarios, failed: {', '.join(failed) or 'none'}; to repeat: --seed {seed}")
        if options.no_ledger:
            return bool(failed)
        page.write()
        return bool(failed)
    page.write()
    return 0


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Volume faults; see docs/fault-ledger.md")
    parser.add_argument("names", nargs="*", help="scenarios to run; all when none is named")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--facts", type=int)
    parser.add_argument("--minutes", type=float, help="of tasks: begin no further round after so long")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--bug", choices=BUGS, help="plant a bug: the verdict must find it")
    parser.add_argument("--logs", help="keep what servers and programs wrote in this folder")
    parser.add_argument("--no-ledger", action="store_true", help="print the results and keep nothing")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _run(module: str, scenario: Scenario, job: Job, *, keep: bool) -> Result:
    """One scenario in a process of its own, so that whatever it leaves behind ends with it."""
    say(f"=== {scenario.name}: {scenario.title}")
    circumstances = machine.Circumstances()
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.soak", "--child", module, "--job", msgspec.json.encode(job).decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        out, _ = process.communicate(timeout=scenario.bound_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        result = Result(findings=[Finding("bound", f"not done after {scenario.bound_s:g} s")])
    except BaseException:  # Ctrl-C
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    else:
        try:
            result = msgspec.json.decode(out, type=Result)
        except msgspec.MsgspecError:
            result = Result(findings=[Finding("crashed", f"exit code {process.returncode}, no result")])
    report = circumstances.report("soak", 1)
    result.scenario, result.title = scenario.name, scenario.title
    result.seed, result.scale, result.bug = job.seed, job.scale, job.bug
    result.duration_s = round(time.monotonic() - began, 1)
    result.commit, result.machine = report["commit"], report["machine"]
    result.at = datetime.now(UTC).isoformat(timespec="seconds")
    say(f"{scenario.name}: {result.outcome} in {result.duration_s:g} s; {page.summary(result)}")
    say(f"  details: {result.details}")
    for finding in result.findings:
        say(f"  {finding.kind}: {finding.text}")
    if keep and job.bug is None:
        page.keep(result)
    return result


def _child(module: str, job: Job) -> int:
    run = importlib.import_module(f"tests.soak.{module}").run
    with contextlib.redirect_stdout(sys.stderr):
        try:
            result = asyncio.run(_until_told(run, job))
        except Exception as exc:
            traceback.print_exc()
            result = Result(findings=[Finding("crashed", f"{type(exc).__name__}: {exc}")])
    os.write(1, msgspec.json.encode(result))
    return 0


async def _until_told(run: object, job: Job) -> Result:
    """SIGTERM cancels the scenario, so that its servers end with it."""
    task = asyncio.ensure_future(run(job))  # type: ignore[operator]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    result: Result = await task
    return result


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main(sys.argv[1:]))
