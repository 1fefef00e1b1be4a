"""Structured logs: event names plus fields, one schema, the conversation bound once.

Every record is one line of JSON::

    {
        "ts": "2026-11-21T04:29:00.000123Z",
        "level": "warning",
        "event": "projector.dead_letters",
        "service": "projector",
        "area": "projector",
        "correlation_id": "…",
        "causation_id": "…",
        "trace_id": "…",
        "span_id": "…",
        "stream": "EVENTS",
        "count": 3,
    }

``ts``, ``level``, ``event`` and ``area`` are always there, in this order; ``service`` is the
process's; the ids are there while `context` binds them; an error is ``code``, ``error`` and
``remedy`` (and ``exception``, the traceback, where one was passed); everything else belongs
to the event.  `coord logs filter` selects by any of them.

Two modes.  As a *library* inside an agent coord configures nothing: records go to the
standard `logging` tree as ``coord.{area}``, with the fields in the message, and the
application decides.  As a *process* (the ``coord`` command) `configure` sends every record,
those of other libraries too, as JSON or for a person to read, to one stream: stderr.

Passwords, tokens and the user part of URLs never reach a record (`redact`).

An application that uses structlog shares the conversation with coord, both ways; coord does not import it, since it
imports all of rich where that is installed: a tenth of a second of each program's start (ADR 0144).
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TextIO

import msgspec

from coord.errors import CoordError, SettingsError
from coord.telemetry import tracing

Format = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]

FIELD_CHARS_MAX: Final = 8_192
"""Characters of one field; the rest is cut with a mark, so that no record is unbounded."""

_SHOWN_CHARS: Final = 300
"""Of those a person at a terminal is shown so many: a query's plan has thousands."""

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_FIRST: Final = ("ts", "level", "event", "service", "area", "correlation_id", "causation_id", "trace_id", "span_id")
_SECRET_NAME: Final = re.compile(r"password|passwd|secret|token|creds|credential|authorization|nkey", re.IGNORECASE)
_URL_USER: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://)([^/@\s:]*)(:[^/@\s]*)?@", re.IGNORECASE)
_URL_SECRET: Final = re.compile(r"([?&][a-z_-]*(?:password|secret|token)[a-z_-]*=)[^&#\s]+", re.IGNORECASE)
"""As libpq takes them: `?user=…&password=…`."""
_HIDDEN: Final = "***"


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a process's logs."""

    level: Level = "info"
    """Least severity that is written."""
    format: Format = "json"
    """`json`: one object a line; `console`: for a person at a terminal."""
    libraries_level: Level = "warning"
    """The same for records of other libraries (nats, uvicorn, asyncio)."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if _LEVELS[self.libraries_level] < _LEVELS[self.level]:
            raise SettingsError("log.libraries_level must not be more talkative than log.level")


def get(area: str) -> Logger:
    """The logger of one part of coord; `area` is its package ("bus", "projector")."""
    return Logger(logging.getLogger(f"coord.{area}"), area)


class Bound(NamedTuple):
    """What `bind` did, for `unbind`."""

    before: Token[Mapping[str, Any]]
    of_structlog: Mapping[str, Token[Any]]


def bind(**fields: Any) -> Bound:
    """Bind fields to every record that follows in this context, and in tasks started in it, until `unbind`."""
    theirs = _structlogs()
    of_structlog = theirs.bind_contextvars(**fields) if theirs is not None else {}
    return Bound(_bound.set({**_bound.get(), **fields}), of_structlog)


def unbind(bound: Bound) -> None:
    """Back to what was bound before; in the context in which it was."""
    _bound.reset(bound.before)
    theirs = _structlogs()
    if bound.of_structlog and theirs is not None:
        theirs.reset_contextvars(**bound.of_structlog)


@contextlib.contextmanager
def context(
    *,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    traceparent: str | None = None,
    **fields: Any,
) -> Iterator[None]:
    """Bind the conversation to every record of this block, and of tasks started in it.

    None leaves what an outer block bound.  An application that uses structlog sees the same
    fields in its own records through `structlog.contextvars.merge_contextvars`.
    """
    if correlation_id is not None:
        fields["correlation_id"] = correlation_id
    if causation_id is not None:
        fields["causation_id"] = causation_id
    trace = tracing.parse(traceparent)
    if trace is not None:
        fields["trace_id"] = trace.trace_id
        fields["span_id"] = trace.span_id
    bound = bind(**fields)
    try:
        yield
    finally:
        unbind(bound)


class Logger:
    """Logs event names with fields: ``log.info("bus.reconnected", connection=name)``.

    ``error=exc`` or ``exc_info=exc`` of a `CoordError` becomes its code, message and remedy.
    """

    def __init__(self, logger: logging.Logger, area: str) -> None:
        self._logger = logger
        self._area = area

    def debug(self, event: str, **fields: Any) -> None:
        """Something only a developer wants to know."""
        if self.enabled("debug"):
            self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Something happened as it should."""
        if self.enabled("info"):
            self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something went wrong and coord goes on by itself."""
        if self.enabled("warning"):
            self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Somebody has to do something."""
        if self.enabled("error"):
            self._say("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """`error` with the traceback of the exception being handled."""
        fields.setdefault("exc_info", True)
        self.error(event, **fields)

    def enabled(self, level: str) -> bool:
        """Whether a record of this level would be written; for fields that are dear to compute."""
        if not _sinks:
            return self._logger.isEnabledFor(_LEVELS[level])
        return any(_LEVELS[level] >= sink.level for sink in _sinks)

    def _say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        record = _complete(level, {"area": self._area, "event": event, **fields})
        for sink in _sinks:
            if _LEVELS[level] >= sink.level:
                sink.write(record)
        if not _sinks:
            said = "".join(
                f" {k}={v!r}" for k, v in record.items() if k not in {"ts", "level", "event", "area", "exception"}
            )
            self._logger.log(_LEVELS[level], "%s%s", record["event"], said)
            if "exception" in record:
                self._logger.debug("%s", record["exception"])


class _Sink:
    """One place where a configured process writes."""

    def __init__(self, config: LogConfig, service: str, stream: TextIO) -> None:
        self.level = _LEVELS[config.level]
        self.libraries_level = _LEVELS[config.libraries_level]
        self.service = service
        self.stream = stream
        self.render = _render_json if config.format == "json" else _Console(colours=stream.isatty())

    def write(self, record: MutableMapping[str, Any]) -> None:
        # A closed or full stderr must not end a service.
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(self.render(record) + "\n")
            self.stream.flush()


_sinks: list[_Sink] = []


def configure(config: LogConfig, *, service: str = "coord", stream: TextIO | None = None) -> None:
    """Make this process write its logs; once, at start (again replaces what was).

    `service` stands in every record; `stream` defaults to stderr.
    """
    config.validate()
    unconfigure()
    _sinks.append(_Sink(config, service, stream if stream is not None else sys.stderr))
    root = logging.getLogger()
    root.addHandler(_FromLibraries())
    root.setLevel(_LEVELS[config.libraries_level])
    logging.captureWarnings(capture=True)


def also(config: LogConfig, *, stream: TextIO | None = None) -> None:
    """Write to another place as well, after `configure`: a file, and a terminal."""
    assert _sinks, "configure first"
    config.validate()
    _sinks.append(_Sink(config, _sinks[0].service, stream if stream is not None else sys.stderr))
    logging.getLogger().setLevel(min(sink.libraries_level for sink in _sinks))


def unconfigure() -> None:
    """Back to library mode."""
    _sinks.clear()
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _FromLibraries):
            root.removeHandler(handler)
            root.setLevel(logging.WARNING)
            logging.captureWarnings(capture=False)


def redact(name: str, value: Any) -> Any:
    """`value` without what nobody may read: secrets by the field's name, users in URLs."""
    if _SECRET_NAME.search(name) and value not in (None, "", ()):
        return _HIDDEN
    if isinstance(value, str):
        if "://" not in value:
            return value
        return _URL_SECRET.sub(rf"\1{_HIDDEN}", _URL_USER.sub(_hide_user, value))
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, (list, tuple)):
        return [redact(name, item) for item in value]
    if isinstance(value, dict):
        return {str(k): redact(str(k), v) for k, v in value.items()}
    return value


def _hide_user(match: re.Match[str]) -> str:
    # A user name is worth knowing; but in NATS's URLs a lone one is a token.
    scheme, user, password = match.groups()
    if password is not None:
        return f"{scheme}{user}:{_HIDDEN}@"
    return f"{scheme}{user}@" if scheme.lower().startswith("postgres") else f"{scheme}{_HIDDEN}@"


# --- what is bound -----------------------------------------------------------------------

_bound: ContextVar[Mapping[str, Any]] = ContextVar("coord_log_fields", default=MappingProxyType({}))


def _structlogs() -> Any:
    """`structlog.contextvars`, where the application has imported structlog; else None."""
    return sys.modules.get("structlog.contextvars")


# --- the steps of a record ---------------------------------------------------------------


def _complete(level: str, record: dict[str, Any]) -> MutableMapping[str, Any]:
    theirs = _structlogs()
    outer = {} if theirs is None else theirs.get_contextvars()
    return _clean(_explain(_stamp(level, {**outer, **_bound.get(), **record})))


def _stamp(level: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record["ts"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    record["level"] = level
    if _sinks:
        record["service"] = _sinks[0].service
    return record


def _explain(record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turn exceptions into fields."""
    exc_info = record.pop("exc_info", None)
    exc = sys.exc_info()[1] if exc_info is True else exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(exc, BaseException):
        record.setdefault("error", exc)
        record["exception"] = "".join(traceback.format_exception(exc))
    error = record.get("error")
    if isinstance(error, CoordError):
        record.setdefault("code", error.code)
        record.setdefault("remedy", error.remedy)
        record["error"] = error.message
        for key, value in error.details.items():
            record.setdefault(key, value)
    elif isinstance(error, BaseException):
        record["error"] = f"{type(error).__name__}: {error}"
    return record


def _clean(record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redact, bound, and put the common fields first."""
    ordered = {name: record[name] for name in _FIRST if name in record}
    for name, value in record.items():
        if name in ordered:
            continue
        clean = redact(name, value)
        if isinstance(clean, str) and len(clean) > FIELD_CHARS_MAX:
            clean = f"{clean[:FIELD_CHARS_MAX]}… ({len(clean)} characters)"
        ordered[name] = clean
    return ordered


def _render_json(record: MutableMapping[str, Any]) -> str:
    return _encoder.encode(record).decode("utf-8", "replace")


_encoder: Final = msgspec.json.Encoder(enc_hook=repr)


class _Console:
    """One line for a person: time, level, event, then the fields, of which long ones (plans) are cut."""

    _COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, record: MutableMapping[str, Any]) -> str:
        level = str(record.get("level", ""))
        fields = " ".join(
            f"{k}={_short(v)}"
            for k, v in record.items()
            if k not in {"ts", "level", "event", "service", "area", "exception"}
        )
        mark = f"{level:<7}"
        if self._colours:
            mark = f"\x1b[{self._COLOURS.get(level, '0')}m{mark}\x1b[0m"
        line = f"{str(record['ts'])[11:23]} {mark} {record['event']} {fields}".rstrip()
        return f"{line}\n{record['exception'].rstrip()}" if "exception" in record else line


def _short(value: Any) -> str:
    said = value if isinstance(value, str) and value and " " not in value else repr(value)
    return said if len(said) <= _SHOWN_CHARS else f"{said[:_SHOWN_CHARS]}… ({len(said)} characters)"


class _FromLibraries(logging.Handler):
    """Records of the standard library's loggers, in our schema."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _sinks:
            return
        fields: dict[str, Any] = {"event": record.getMessage(), "area": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        level = record.levelname.lower()
        complete = _complete(level if level in _LEVELS else "info", fields)
        for sink in _sinks:
            if record.levelno >= sink.libraries_level:
                sink.write(complete)
