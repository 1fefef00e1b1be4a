"""Settings: the only reader of the environment and of configuration files.

A setting is ``section.field``; a section is the frozen struct of one component, with its
defaults, its documentation and its own `validate`.  A value comes from, the last one wins::

    the default in the code
    the dev stack that runs in ./.coord      (addresses only, and only when nothing else names them)
    a file          [nats]  urls = ["nats://…"]            coord.toml, see `find_file`
    the environment COORD_NATS_URLS=nats://a,nats://b      COORD_{SECTION}_{FIELD}
                    COORD_DATABASE_URL_FILE=/run/secret    the value is in that file
    an option       --nats nats://…

Nothing is ignored: an unknown section, field or COORD_ variable is refused, with the place
where it stands and what was probably meant.  All problems are reported at once.  Where a
value came from is kept (`Loaded.origins`) and shown by `coord config show --origin`, without
secrets.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import msgspec

from coord import limits
from coord.bus.connection import NatsConfig
from coord.bus.topology import Profile, Topology
from coord.bus.topology import load as load_topology
from coord.client.config import ClientConfig, PublisherConfig
from coord.client.subscriber import SubscriberConfig
from coord.core.trim import TrimConfig
from coord.errors import InvalidToken, SettingsError
from coord.ops import environment
from coord.projector.config import ProjectorConfig
from coord.query.config import QueryConfig
from coord.runtime.assets import streams_dir
from coord.runtime.http_config import HttpConfig
from coord.server.config import MaintenanceConfig, PresenceConfig
from coord.store.config import AgesConfig, ArchiveConfig, DatabaseConfig
from coord.telemetry.logs import LogConfig, redact
from coord.wire import subjects

FILE_NAME: Final = "coord.toml"
PREFIX: Final = "COORD_"

# Variables that are not settings of a running coord: which file, how to show errors, and what
# the dev stack and the tests read.  Anything else that begins with COORD_ is refused.
_OTHER_VARIABLES: Final = frozenset({"COORD_CONFIG", "COORD_DEBUG", "COORD_CACHE_DIR", "COORD_DEV_DATABASE"})
_OTHER_PREFIXES: Final = ("COORD_TEST_", "COORD_SOAK_", "COORD_HYPOTHESIS_", "COORD_BENCH_", "COORD_DEMO_")

_FILE_BYTES_MAX: Final = 1 * limits.MIB
_PROBLEMS_NAMED_MAX: Final = 20
_DEV_FOLDER: Final = Path(".coord")


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the process that runs the services.  Times in seconds."""

    drain_s: float = limits.DRAIN_S
    """From SIGTERM to the end.  What stops the process (systemd, Kubernetes) must wait longer."""
    stats_every_s: float = limits.STATS_EVERY_S
    """How often the gauges of streams, consumers and tables are refreshed; 0: never."""
    cpu_policy: Literal["batch", "other"] = "batch"
    """Linux's: in `batch` it pushes nobody off a core, so on busy cores more is done at once; `other`: the kernel's
    default."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if self.drain_s <= limits.STOP_S:
            raise SettingsError(f"service.drain_s must be above {limits.STOP_S:g} s, the part kept for stopping")
        if self.stats_every_s != 0 and self.stats_every_s < 0.5:
            raise SettingsError("service.stats_every_s must be 0 (never) or at least 0.5")


class StreamsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of the profiles in streams/ applies."""

    profile: Profile = "production"
    """`production` (one server), `cluster` (three replicas) or `development` (a short window)."""
    log_memory_mib: int | None = None
    """Memory of the broker that the log's subjects may take: `max_msgs` of EVENTS follows, one message
    for each 512 bytes.  None: what streams/ says."""
    log_disk_mib: int | None = None
    """Disk of each server that the log may take: `max_bytes` of EVENTS.  None: what streams/ says (8 GiB; in
    development 1 GiB)."""
    log_max_age_s: int | None = None
    """How long the log holds a fact: `max_age` of EVENTS.  None: what streams/ says (24 h, in development 1 h)."""

    def validate(self) -> None:
        """Raise `SettingsError` when a field is out of range."""
        if self.log_memory_mib is not None and not 1 <= self.log_memory_mib <= 1_048_576:
            raise SettingsError("streams.log_memory_mib must be from 1 to 1048576 (1 TiB)")
        least, most = limits.LOG_DISK_MIB_MIN, limits.LOG_DISK_MIB_MAX
        if self.log_disk_mib is not None and not least <= self.log_disk_mib <= most:
            raise SettingsError(f"streams.log_disk_mib must be from {least} to {most} (1 PiB)")
        if self.log_max_age_s is not None and self.log_max_age_s < limits.LOG_AGE_S_MIN:
            raise SettingsError(
                f"streams.log_max_age_s must be at least {limits.LOG_AGE_S_MIN}: the broker recognises what is sent"
                f" again for {limits.DUPLICATE_WINDOW_S:g} s, and what is projected or stated again needs its time"
            )


class IdentityConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this process speaks as, when it publishes or subscribes (`coord event`)."""

    tenant: str = ClientConfig().tenant
    agent: str = "cli"

    def validate(self) -> None:
        """Raise `SettingsError` when either is no name."""
        for field, name in (("tenant", self.tenant), ("agent", self.agent)):
            try:
                subjects.check_token(name, field)
            except InvalidToken as exc:
                raise SettingsError(f"identity.{field}: {exc.message}") from exc
        if subjects.is_decider(self.agent):
            raise SettingsError(f"identity.agent: {self.agent!r} begins with '_', as only deciders' names do")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a coord process can be told, one struct per component."""

    nats: NatsConfig = NatsConfig()
    database: DatabaseConfig = DatabaseConfig()
    ages: AgesConfig = AgesConfig()
    maintenance: MaintenanceConfig = MaintenanceConfig()
    archive: ArchiveConfig = ArchiveConfig()
    streams: StreamsConfig = StreamsConfig()
    trim: TrimConfig = TrimConfig()
    projector: ProjectorConfig = ProjectorConfig()
    query: QueryConfig = QueryConfig()
    presence: PresenceConfig = PresenceConfig()
    identity: IdentityConfig = IdentityConfig()
    publisher: PublisherConfig = PublisherConfig()
    subscriber: SubscriberConfig = SubscriberConfig()
    service: ServiceConfig = ServiceConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()

    def validate(self) -> None:
        """Raise `SettingsError` when the sections do not fit together; each one alone does already."""
        writers, pool_max = self.projector.writers, self.database.pool_max
        if writers + _POOL_RESERVE > pool_max:
            raise SettingsError(
                f"projector.writers ({writers}) must leave {_POOL_RESERVE} connections of database.pool_max"
                f" ({pool_max}) for reading checkpoints: raise pool_max to {writers + _POOL_RESERVE} or lower writers"
            )
        if self.projector.retry_max_s >= self.service.drain_s:
            raise SettingsError(
                f"projector.retry_max_s ({self.projector.retry_max_s:g}) must be below service.drain_s"
                f" ({self.service.drain_s:g}): a drain would be over before the next attempt"
            )

    @property
    def client(self) -> ClientConfig:
        """What `coord.connect` needs to speak as `identity`."""
        return ClientConfig(
            nats=self.nats, tenant=self.identity.tenant, agent=self.identity.agent, publisher=self.publisher
        )


_POOL_RESERVE: Final = 2
"""Connections a projector needs beside its writers: one to read checkpoints, one for the probes."""


class Origin(msgspec.Struct, frozen=True):
    """Where a value came from."""

    source: Literal["default", "dev stack", "file", "environment", "option"]
    where: str = ""
    """``coord.toml:12``, ``COORD_NATS_URLS``, ``--nats``, the dev stack's folder."""

    def __str__(self) -> str:
        return (
            self.where
            if self.source in {"file", "environment", "option"}
            else " ".join(filter(None, (self.source, self.where)))
        )


class Row(msgspec.Struct, frozen=True):
    """One line of `coord config show`."""

    key: str
    value: Any
    """Builtin types; secrets are masked."""
    origin: Origin
    changed: bool
    """Whether it differs from the default."""


class Loaded(msgspec.Struct, frozen=True):
    """Settings and where each of them came from."""

    settings: Settings
    origins: dict[str, Origin]
    """``section.field`` → origin, for everything that is not a default."""
    file: Path | None = None

    def origin(self, key: str) -> Origin:
        """Where the value of ``section.field`` came from."""
        return self.origins.get(key, Origin("default"))

    def rows(self) -> Iterator[Row]:
        """Every setting, in the order of the code, masked for showing."""
        defaults = Settings()
        for key in _types():
            value = _at(self.settings, key)
            shown = redact(key.rpartition(".")[2], msgspec.to_builtins(value))
            yield Row(key, shown, self.origin(key), value != _at(defaults, key))


# --- loading -------------------------------------------------------------------------------


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    dev_folder: Path | None = _DEV_FOLDER,
) -> Loaded:
    """Read everything, check everything, once.

    `file`: the file to read (default: `find_file`).  `environ`: default the process's.
    `options`: ``section.field`` → (value, name of the option), from the command line.
    `dev_folder`: where a running dev stack is looked for; None: nowhere.

    Raises `SettingsError` naming every problem with its place.
    """
    environ = environment.variables() if environ is None else environ
    file = find_file(environ) if file is None else file
    reading = _Reading()
    if file is not None:
        reading.file(file)
    reading.environment(environ)
    for key, (value, option) in (options or {}).items():
        reading.put(key, value, Origin("option", option), text=isinstance(value, str))
    if dev_folder is not None:
        reading.dev_stack(dev_folder)
    return Loaded(reading.build(), reading.origins, file)


def find_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """COORD_CONFIG, else the first of ./coord.toml, ~/.config/coord/coord.toml, /etc/coord/coord.toml."""
    environ = environment.variables() if environ is None else environ
    if named := environ.get("COORD_CONFIG"):
        return Path(named)
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/") / ".config")
    for candidate in (Path(FILE_NAME), home / "coord" / FILE_NAME, Path("/etc/coord") / FILE_NAME):
        if candidate.is_file():
            return candidate
    return None


def topology(settings: Settings) -> Topology:
    """streams/ for the chosen profile, checked against what publishers do."""
    found = load_topology(streams_dir(), settings.streams.profile)
    said: dict[str, int] = {}
    if settings.streams.log_memory_mib is not None:
        said["max_msgs"] = settings.streams.log_memory_mib * limits.MIB // limits.SUBJECT_BYTES
    if settings.streams.log_disk_mib is not None:
        said["max_bytes"] = settings.streams.log_disk_mib * limits.MIB
    if settings.streams.log_max_age_s is not None:
        said["max_age"] = settings.streams.log_max_age_s * 10**9
        kept = found.get("OBJ_PAYLOADS").config["max_age"]
        if said["max_age"] > kept:
            raise SettingsError(
                f"streams.log_max_age_s must be at most {kept // 10**9}, for which streams/OBJ_PAYLOADS.toml keeps the"
                " payloads that the log names"
            )
    if said:
        found = found.with_fields(subjects.EVENTS, **said)
    check_windows(found, settings.publisher)
    return found


def window_s(settings: Settings) -> float:
    """How long the log holds a fact at most, seconds."""
    (events,) = (spec for spec in topology(settings).streams if spec.stream == subjects.EVENTS)
    return float(events.config["max_age"]) / 1e9


def check_windows(found: Topology, publisher: PublisherConfig) -> None:
    """Every stream must still recognise a fact when its publisher sends it for the last time."""
    last_send_s = publisher.retry.deadline_s + publisher.retry.attempt_max_s
    for spec in found.streams:
        window_s = spec.config.get("duplicate_window", 0) / 1e9
        if window_s <= last_send_s:
            raise SettingsError(
                f"streams/{spec.stream}.toml: duplicate_window ({window_s:g} s) must be above"
                f" publisher.retry.deadline_s and attempt_max_s together ({last_send_s:g} s),"
                " or a resend would be stored twice"
            )


def side_pool(database: DatabaseConfig, purpose: str) -> DatabaseConfig:
    """`database` for work beside the main one: one connection, only while it is used."""
    name = f"{database.application_name}-{purpose}".encode()[:63].decode(errors="ignore")
    return msgspec.structs.replace(database, pool_min=0, pool_max=1, application_name=name)


def _sections() -> dict[str, type[msgspec.Struct]]:
    return {f.name: f.type for f in msgspec.structs.fields(Settings)}


def _types() -> dict[str, Any]:
    """Every setting's dotted key and type, in the order of the code."""
    found: dict[str, Any] = {}

    def walk(prefix: str, struct: type[msgspec.Struct]) -> None:
        for field in msgspec.structs.fields(struct):
            key = f"{prefix}.{field.name}"
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                walk(key, field.type)
            else:
                found[key] = field.type

    for section, struct in _sections().items():
        walk(section, struct)
    return found


def _at(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


class _Reading:
    """Values and problems as they are found; later sources overwrite earlier ones."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, Origin] = {}
        self.problems: list[str] = []
        self._types = _types()

    # --- sources ---

    def file(self, path: Path) -> None:
        """A TOML file."""
        text = _read_text(path)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise SettingsError(f"{path}: {exc}") from None
        lines = _lines(text)
        for section, content in document.items():
            place = f"{path}:{lines.get((section,), 1)}"
            if section not in _sections():
                self.problems.append(f"{place}: unknown section [{section}]{_meant(section, _sections())}")
            elif not isinstance(content, dict):
                self.problems.append(f"{place}: {section} is a section: write [{section}] and its fields below")
            else:
                self._table(path, lines, (section,), content)

    def _table(self, file: Path, lines: _Lines, at: tuple[str, ...], content: dict[str, Any]) -> None:
        for name, value in content.items():
            path = (*at, name)
            key = ".".join(path)
            nested = isinstance(value, dict) and any(k.startswith(f"{key}.") for k in self._types)
            if nested:
                self._table(file, lines, path, value)
                continue
            line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 1)
            self.put(key, value, Origin("file", f"{file}:{line}"), text=False)

    def environment(self, environ: Mapping[str, str]) -> None:
        """COORD_ variables."""
        names = {_variable(key): key for key in self._types}
        for variable in sorted(environ):
            if not variable.startswith(PREFIX) or variable in _OTHER_VARIABLES or variable.startswith(_OTHER_PREFIXES):
                continue
            origin = Origin("environment", variable)
            if variable in names:
                self.put(names[variable], environ[variable], origin, text=True)
            elif (plain := variable.removesuffix("_FILE")) in names and plain != variable:
                try:
                    self.put(names[plain], _read_text(Path(environ[variable])).strip(), origin, text=True)
                except SettingsError as exc:
                    self.problems.append(f"{variable}: {exc.message}")
            else:
                self.problems.append(f"unknown variable {variable}{_meant(variable, [*names, *_OTHER_VARIABLES])}")

    def dev_stack(self, folder: Path) -> None:
        """Fill in the addresses of a running dev stack, unless anything else names either of them."""
        if {"nats.urls", "database.url"} & self.origins.keys():
            return
        if not (folder / "stack.json").exists():
            return  # what runs stacks takes a while to import
        from coord.ops.devstack.stack import find

        stack = find(folder)
        if stack is None:
            return
        origin = Origin("dev stack", stack.data_dir)
        if stack.nats is not None:
            self.put("nats.urls", [stack.nats.url], origin, text=False)
            if stack.nats.system_user and "presence.system_user" not in self.origins:
                self.put("presence.system_user", stack.nats.system_user, origin, text=False)
                self.put("presence.system_password", stack.nats.system_user, origin, text=False)
        if stack.database is not None:
            self.put("database.url", stack.database.url, origin, text=False)
        if "streams.profile" not in self.origins:
            self.put("streams.profile", "development", origin, text=False)

    # --- values ---

    def put(self, key: str, value: Any, origin: Origin, *, text: bool) -> None:
        """Note one value; `text`: it is a string that has to be read as the field's type."""
        kind = self._types.get(key)
        if kind is None:
            self.problems.append(f"{origin.where}: unknown setting {key}{_meant_setting(key, self._types)}")
            return
        try:
            converted = msgspec.convert(_from_text(value, kind) if text else value, kind, strict=not text)
        except (msgspec.ValidationError, ValueError) as exc:
            reason = str(exc) if not _is_secret(key) else "not what this setting takes"
            self.problems.append(f"{origin.where}: {key}: {reason}")
            return
        self.values[key] = converted
        self.origins[key] = origin

    def build(self) -> Settings:
        """The settings, validated; raises `SettingsError` with all problems."""
        sections = {section: self._make(section, struct) for section, struct in _sections().items()}
        for section, made in sections.items():
            if hasattr(made, "validate"):
                self._check(made.validate, section)
        settings = Settings(**sections)
        if not self.problems:
            self._check(settings.validate, None)
        if self.problems:
            raise SettingsError(_all(self.problems))
        return settings

    def _make(self, prefix: str, struct: type[msgspec.Struct]) -> Any:
        fields: dict[str, Any] = {}
        for field in msgspec.structs.fields(struct):
            key = f"{prefix}.{field.name}"
            if key in self.values:
                fields[field.name] = self.values[key]
            elif key not in self._types:
                fields[field.name] = self._make(key, field.type)
        return struct(**fields)

    def _check(self, validate: Callable[[], None], section: str | None) -> None:
        try:
            validate()
        except SettingsError as exc:
            self.problems.append(exc.message + self._set_by(exc.message, section))

    def _set_by(self, message: str, section: str | None) -> str:
        """Where the settings that a validation message names were set."""
        places = []
        for key, origin in self.origins.items():
            # A component names its fields, settings.validate whole keys.
            name = key.rpartition(".")[2] if section is not None and key.startswith(f"{section}.") else key
            if re.search(rf"\b{re.escape(name)}\b", message):
                places.append(str(origin))
        return f" (set by {', '.join(places)})" if places else ""


def _all(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    named = problems[:_PROBLEMS_NAMED_MAX]
    more = len(problems) - len(named)
    return f"{len(problems)} problems:" + "".join(f"\n  {p}" for p in named) + (f"\n  and {more} more" if more else "")


# --- reading values ------------------------------------------------------------------------


def _from_text(value: str, kind: Any) -> Any:
    """A variable's or option's text, as what `msgspec.convert` reads as `kind`."""
    kinds = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    if value == "" and type(None) in kinds:
        return None
    if any(get_origin(k) in {tuple, list} for k in kinds):
        return [item.strip() for item in value.split(",") if item.strip()]
    if bool in kinds and value.lower() in {"yes", "on", "no", "off"}:
        return value.lower() in {"yes", "on"}
    return value


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise SettingsError(f"cannot read {path}: {exc.strerror}") from None
    if len(raw) > _FILE_BYTES_MAX:
        raise SettingsError(f"{path} is larger than {_FILE_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path} is not UTF-8: {exc.reason} at byte {exc.start}") from None


_Lines: TypeAlias = dict[tuple[str, ...], int]

_NAME: Final = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_PATH: Final = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_TABLE: Final = re.compile(rf"\s*\[\s*({_PATH})\s*\]")
_PAIR: Final = re.compile(rf"\s*({_PATH})\s*=")


def _lines(text: str) -> _Lines:
    """Where tables and keys stand, since tomllib does not say: path → line.

    Good enough for messages: a line inside a multi-line string may be taken for a key; the
    first place wins.
    """
    found: _Lines = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE.match(line):
            table = path = _split(match[1])
        elif match := _PAIR.match(line):
            path = (*table, *_split(match[1]))
        else:
            continue
        for length in range(1, len(path) + 1):
            found.setdefault(path[:length], number)
    return found


def _split(path: str) -> tuple[str, ...]:
    return tuple(name.strip("\"'") for name in re.findall(_NAME, path))


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", "_").upper()


def _is_secret(key: str) -> bool:
    return bool(redact(key, "x") != "x") or key.endswith((".url", ".urls", "_url"))


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _meant_setting(key: str, known: Mapping[str, Any]) -> str:
    section, _, field = key.rpartition(".")
    here = [k.removeprefix(f"{section}.") for k in known if k.startswith(f"{section}.")]
    # A slip of the finger; the same field of another section; anything near.
    if close := difflib.get_close_matches(field, here, n=1, cutoff=0.8):
        return f"; did you mean {section}.{close[0]}?"
    if elsewhere := [k for k in known if k.endswith(f".{field}")]:
        return f"; did you mean {', '.join(elsewhere[:3])}?"
    if close := difflib.get_close_matches(field, here, n=1, cutoff=0.5):
        return f"; did you mean {section}.{close[0]}?"
    return _meant(key, known) or (f"; [{section}] has {', '.join(here)}" if here else "")
