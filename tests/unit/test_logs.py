"""One schema for every record; ids bound once; no secret in any of them."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from coord import errors
from coord.telemetry import logs
from coord.telemetry.logs import LogConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Sink(io.StringIO):
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture(autouse=True, scope="module")
def _alone() -> Iterator[None]:
    """What other tests left behind is collected, and what it says about that is said, before records are counted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def sink() -> Iterator[Sink]:
    stream = Sink()
    logs.configure(LogConfig(level="info"), service="test", stream=stream)
    yield stream
    logs.unconfigure()


def test_a_record_has_the_schema_in_its_order(sink: Sink) -> None:
    logs.get("bus").info("bus.reconnected", connection="c1", epoch=2)
    (record,) = sink.records()
    assert list(record) == ["ts", "level", "event", "service", "area", "connection", "epoch"]
    assert record["ts"].endswith("Z")
    assert (record["level"], record["event"], record["service"], record["area"]) == (
        "info",
        "bus.reconnected",
        "test",
        "bus",
    )


def test_levels_filter(sink: Sink) -> None:
    log = logs.get("bus")
    log.debug("bus.noise")
    assert not log.enabled("debug")
    assert sink.records() == []
    logs.configure(LogConfig(level="debug"), stream=sink)
    log.debug("bus.noise")
    assert [r["level"] for r in sink.records()] == ["debug"]


async def test_ids_are_bound_once_and_follow_into_tasks(sink: Sink) -> None:
    log = logs.get("client")

    async def elsewhere() -> None:
        log.info("client.step")

    with logs.context(correlation_id="c", causation_id="p", traceparent=TRACE, service_class="critical"):
        await asyncio.create_task(elsewhere())
        with logs.context(causation_id="q", traceparent="nonsense"):
            log.info("client.inner")
    log.info("client.after")
    outer, inner, after = sink.records()
    assert (outer["correlation_id"], outer["causation_id"], outer["service_class"]) == ("c", "p", "critical")
    assert (outer["trace_id"], outer["span_id"]) == (TRACE[3:35], TRACE[36:52])
    assert (inner["correlation_id"], inner["causation_id"], inner["trace_id"]) == ("c", "q", TRACE[3:35])
    assert not {"correlation_id", "causation_id", "trace_id"} & set(after)


def test_a_coord_error_is_its_code_message_remedy_and_details(sink: Sink) -> None:
    logs.get("store").warning("store.lost", error=errors.DatabaseUnavailable("gone", host="db"))
    (record,) = sink.records()
    assert record["code"] == "store.unavailable"
    assert record["error"] == "gone"
    assert "`database.url`" in record["remedy"]
    assert record["host"] == "db"
    assert "exception" not in record


def test_an_exception_carries_its_traceback(sink: Sink) -> None:
    log = logs.get("x")
    try:
        raise ValueError("no")
    except ValueError as exc:
        log.exception("x.one")
        failed = exc
    log.error("x.two", exc_info=failed)
    for record in sink.records():
        assert record["error"] == "ValueError: no"
        assert "Traceback" in record["exception"]


def test_secrets_never_reach_a_record(sink: Sink) -> None:
    logs.get("bus").info(
        "bus.connecting",
        urls=["nats://user:hunter2@h:4222", "nats://s3cr3t@h:4222", "nats://plain:4222"],
        password="hunter2",
        nats={"user": "u", "api_token": "hunter2"},
        token=None,
        url="postgresql://coord:hunter2@h/db?x=1",
        replica="postgresql://h/db?user=coord&password=hunter2&sslpassword=hunter2&sslmode=require",
    )
    assert "hunter2" not in sink.getvalue()
    assert "s3cr3t" not in sink.getvalue()
    (record,) = sink.records()
    assert record["urls"] == ["nats://user:***@h:4222", "nats://***@h:4222", "nats://plain:4222"]
    assert record["url"] == "postgresql://coord:***@h/db?x=1"
    assert record["replica"] == "postgresql://h/db?user=coord&password=***&sslpassword=***&sslmode=require"
    assert record["nats"] == {"user": "u", "api_token": "***"}
    assert record["token"] is None


def test_anything_can_be_logged_and_nothing_is_unbounded(sink: Sink) -> None:
    logs.get("x").info("x.odd", raw=b"\xff\x00", obj=object(), long="y" * 100_000, sets={1})
    (record,) = sink.records()
    assert record["raw"] == "\\xff\x00"
    assert len(record["long"]) < logs.FIELD_CHARS_MAX + 100


def test_a_broken_stderr_ends_nothing() -> None:
    stream = io.StringIO()
    logs.configure(LogConfig(), stream=stream)
    stream.close()
    logs.get("x").error("x.lost")
    logs.unconfigure()


def test_other_libraries_speak_the_same_schema(sink: Sink) -> None:
    logging.getLogger("nats.aio").info("too quiet")
    logging.getLogger("nats.aio").warning("slow %s", "consumer")
    (record,) = sink.records()
    assert (record["event"], record["area"], record["level"]) == ("slow consumer", "nats.aio", "warning")


def test_warnings_are_records_too(sink: Sink) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in sink.records()[0]["event"]


def test_as_a_library_nothing_is_configured_and_the_standard_tree_gets_it(caplog: pytest.LogCaptureFixture) -> None:
    logs.unconfigure()
    with caplog.at_level(logging.WARNING, logger="coord"):
        log = logs.get("bus")
        log.info("bus.quiet")
        log.warning("bus.disconnected", connection="c1", password="hunter2")
    (record,) = caplog.records
    assert record.name == "coord.bus"
    assert record.getMessage() == "bus.disconnected connection='c1' password='***'"


def test_an_applications_own_structlog_sees_the_ids() -> None:
    with logs.context(correlation_id="c"):
        merged = structlog.contextvars.merge_contextvars(None, "info", {"event": "mine"})
    assert merged["correlation_id"] == "c"


def test_the_console_is_one_line_for_a_person() -> None:
    stream = io.StringIO()
    logs.configure(LogConfig(format="console"), stream=stream)
    logs.get("bus").warning("bus.lost", connection="a b", code="x", epoch=3)
    logs.unconfigure()
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert "warning bus.lost connection='a b' code=x epoch=3" in line
    assert "\x1b" not in line


def test_the_console_cuts_what_nobody_reads_there() -> None:
    terminal, file = io.StringIO(), io.StringIO()
    logs.configure(LogConfig(), stream=file)
    logs.also(LogConfig(format="console"), stream=terminal)
    logs.get("store").warning("statement.slow", plan="Sort\n" * 400, ms=3)
    logs.unconfigure()
    assert "characters) ms=3" in terminal.getvalue()
    assert len(terminal.getvalue()) < 500
    assert file.getvalue().count("Sort") == 400


def test_a_process_may_write_to_two_places(sink: Sink) -> None:
    terminal = io.StringIO()
    logs.also(LogConfig(level="warning", format="console", libraries_level="error"), stream=terminal)
    log = logs.get("bus")
    log.info("bus.quiet")
    log.warning("bus.loud")
    logging.getLogger("nats").warning("a library")
    assert [r["event"] for r in sink.records()] == ["bus.quiet", "bus.loud", "a library"]
    assert "bus.loud" in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1


def test_libraries_may_not_be_chattier_than_coord() -> None:
    with pytest.raises(errors.SettingsError):
        LogConfig(level="error", libraries_level="info").validate()
