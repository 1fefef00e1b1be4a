"""What every test shares: the seed in the header, and the servers."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from coord.telemetry import logs

pytest_plugins = ["tests.support.servers", "tests.support.ledger"]

# A run on a busy two-core machine is not flaky because one example took long.
settings.register_profile("coord", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", settings.get_profile("coord"), max_examples=2_000)
settings.load_profile(os.environ.get("COORD_HYPOTHESIS_PROFILE", "coord"))


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its own option
def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's seed once; xdist workers inherit it through the environment."""
    seed = os.environ.setdefault("COORD_TEST_SEED", str(secrets.randbits(32)))
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = seed


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Leave modules and tests, which stay for the whole run, to themselves: the collector need not walk through them.

    A look at all of them takes 0.1 to 0.3 s of CPU, which every command that runs in this process would begin with.
    What is young is looked at as rarely as in coord's own processes: a seventh less CPU in simulations.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        if session.testscollected:  # not in the one that only hands out the tests
            gc.collect()
            gc.freeze()
            gc.set_threshold(10_000, *gc.get_threshold()[1:])


@pytest.fixture
def thawed() -> Iterator[None]:
    """For tests of what is frozen: nothing is at first."""
    gc.unfreeze()
    yield
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse test ids that hold an object's address: xdist's workers would collect different tests."""
    if unstable := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"give ids= without addresses to {unstable[0]}")


def pytest_report_header(config: pytest.Config) -> str:
    return f"coord seed: COORD_TEST_SEED={os.environ['COORD_TEST_SEED']}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Repeat the seed where somebody looks after a failure."""
    if exitstatus:
        terminalreporter.write_line(f"to repeat: COORD_TEST_SEED={os.environ['COORD_TEST_SEED']}")


class DebuggingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop in debug mode, also where pytest-asyncio, which goes by its own option, turns that off."""

    def set_debug(self, enabled: bool) -> None:
        super().set_debug(True)


def a_uvloop() -> asyncio.AbstractEventLoop:
    """uvloop, that ends at pytest's timeout: what a signal's handler raises goes to its exception handler alone."""
    loop = uvloop.new_event_loop()

    def raised(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        if isinstance(context.get("exception"), pytest.fail.Exception):
            loop.stop()

    loop.set_exception_handler(raised)
    return loop


_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "debug": DebuggingLoop,
    "uvloop": a_uvloop,
}


def loops_of(path: Path) -> list[str]:
    """asyncio's own, or those that COORD_TEST_LOOPS names, with commas; every one for files that COORD_TEST_ALL_LOOPS
    names, with blanks.

    "uvloop" is what coord's processes run on.
    """
    if any(path.match(name) for name in os.environ.get("COORD_TEST_ALL_LOOPS", "").split()):
        return list(_LOOPS)
    return os.environ.get("COORD_TEST_LOOPS", "asyncio").split(",")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test on each of its file's loops."""
    return {name: _LOOPS[name] for name in loops_of(item.path)}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Name the test that leaves this process's logging configured: a later one would wait for its records in vain."""
    yield
    sinks = list(logs._sinks)
    logs.unconfigure()  # or all later ones would be named, too
    mine = [log for name, log in logging.root.manager.loggerDict.items() if name.partition(".")[0] == "coord"]
    deaf = [log.name for log in mine if isinstance(log, logging.Logger) and not log.isEnabledFor(logging.WARNING)]
    assert not sinks, "a sink is left"
    assert not deaf, f"left without a voice: {deaf}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's own seed: stable for one COORD_TEST_SEED, whatever else runs beside it."""
    value = random.Random(f"{os.environ['COORD_TEST_SEED']}/{request.node.nodeid}").getrandbits(32)
    print(f"seed {value} (COORD_TEST_SEED={os.environ['COORD_TEST_SEED']})")
    return value


@pytest.fixture
def rng(seed: int) -> random.Random:
    """A generator seeded for this test; its seed is printed with a failure."""
    return random.Random(seed)


def soak_rounds(default: int) -> int:
    """How many rounds a seeded fault test does: `default`, times COORD_SOAK_ROUNDS in a soak."""
    return default * max(1, int(os.environ.get("COORD_SOAK_ROUNDS", "1")))


@pytest.fixture(scope="session")
def rounds() -> int:
    """Rounds of a seeded fault test: 2, times COORD_SOAK_ROUNDS."""
    return soak_rounds(2)
