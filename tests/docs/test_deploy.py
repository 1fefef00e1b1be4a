"""What lies in deploy/ is accepted by the programs it is for, and does what its comments say."""

from __future__ import annotations

import asyncio
import configparser
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
import yaml
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from prometheus_client import CollectorRegistry

import coord
from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.client.config import ClientConfig
from coord.ops import caches, preflight, settings
from coord.ops.checks import Subject
from coord.ops.devstack import ports
from coord.ops.devstack.nats import find_binary, server_info
from coord.query.service import QueryService
from coord.runtime import assets
from coord.runtime.service import ServiceGroup
from coord.server import together
from coord.server.config import PresenceConfig
from coord.server.presence import PresenceService
from coord.telemetry.metrics import Metrics
from coord.wire.cache_api import CacheAsk
from tests.docs.test_docs import parse
from tests.support.sources import ROOT
from tests.support.waiting import until

NATS_CONF = ROOT / "deploy/nats/nats.conf"
UNIT = ROOT / "deploy/systemd/coord.service"
SETTINGS_FILE = ROOT / "deploy/systemd/coord.toml"
COMPOSE = ROOT / "deploy/compose/compose.yaml"
PASSWORDS = {
    "COORD_NATS_PASSWORD": "pw-coord",
    "COORD_OPS_PASSWORD": "pw-ops",
    "COORD_PRESENCE_SYSTEM_PASSWORD": "pw-presence",
    "COORD_A1_PASSWORD": "pw-a1",
}


# --- nats-server ---------------------------------------------------------------------------


def local_conf(folder: Path, port: int, http_port: int) -> Path:
    """The shipped file with the places of this machine; each of them stands in it exactly once."""
    text = NATS_CONF.read_text(encoding="utf-8")
    for found, here in (
        (r"^listen: .*$", f"listen: 127.0.0.1:{port}"),
        (r"^http: .*$", f"http: 127.0.0.1:{http_port}"),
        (r"^  store_dir: .*$", f'  store_dir: "{folder / "store"}"'),
    ):
        text, count = re.subn(found, here, text, flags=re.MULTILINE)
        assert count == 1, found
    path = folder / "nats.conf"
    path.write_text(text, encoding="utf-8")
    return path


def test_nats_server_takes_the_configuration() -> None:
    done = subprocess.run(
        [find_binary(), "-t", "-c", NATS_CONF], env=PASSWORDS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lacking = subprocess.run(
        [find_binary(), "-t", "-c", NATS_CONF], env={}, capture_output=True, text=True, check=False
    )
    assert lacking.returncode != 0, "a password that is not given is an error, not an empty password"


class Broker(msgspec.Struct, frozen=True):
    """A nats-server that runs with the shipped configuration."""

    url: str
    monitor: str

    def config(self, user: str, password: str, **more: Any) -> NatsConfig:
        """How `user` connects."""
        return NatsConfig(urls=(self.url,), user=user, password=password, **more)

    @property
    def as_a1(self) -> ClientConfig:
        """The agent of the example."""
        return ClientConfig(nats=self.config("a1", "pw-a1", inbox_prefix="_INBOX_a1"), tenant="acme", agent="a1")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    port = ports.choose(0)
    http_port = ports.choose(0, taken=frozenset({port}))
    conf = local_conf(tmp_path, port, http_port)
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(find_binary(), "-c", conf, env=PASSWORDS, stderr=log)
        try:
            await until(lambda: server_info(port))
            yield Broker(f"nats://127.0.0.1:{port}", f"http://127.0.0.1:{http_port}")
        finally:
            process.terminate()
            await process.wait()


@pytest.fixture
async def service(broker: Broker) -> AsyncIterator[Connection]:
    """coord's own connection, with the streams made and the log's reader running."""
    config = broker.config("coord", "pw-coord")
    async with await Connection.open(config, name="service") as conn:
        await topology.apply(conn, topology.load(assets.streams_dir(), "production"))
        async with QueryService(conn, registry=Metrics(CollectorRegistry())):
            yield conn


async def stored(conn: Connection) -> int:
    info = await conn.api("STREAM.INFO.EVENTS")
    return int(info["state"]["messages"])


async def test_an_agent_has_all_it_needs(broker: Broker, service: Connection) -> None:
    async with coord.connect(broker.as_a1) as c:
        said = coord.Fact(kind="note", id="n", event="said", data={"a": 1}, event_id="once")
        ack = await c.publish(said)
        assert ack.seq == 1
        assert (await c.publish(said)).duplicate  # it may read its own facts back, so this is no collision
        await c.sample("cpu", 0.5)
        await c.flush()
        heard = []
        async with c.subscribe(kind="note", start="first", durable="d") as facts:
            async for fact in facts:
                heard.append(fact.id)
                if len(heard) == 2:
                    break
                await c.publish(coord.Fact(kind="note", id="live", event="said"))
            facts.finish()
        assert heard == ["n", "live"]
        assert c.cache.stats().kept == 0

        async def asked() -> list[str]:
            found = await caches.ask(service, "acme", CacheAsk(asker="", what="stats"), wait_s=1, processes=1)
            return [answer.agent for answer in found]

        assert await until(asked) == ["a1"]
    assert (await service.api("STREAM.INFO.CURSORS"))["state"]["messages"] == 1
    assert (await service.api("STREAM.INFO.TELEMETRY"))["state"]["messages"] == 1


async def test_an_agent_works_and_its_death_is_heard(broker: Broker, service: Connection) -> None:
    presence = PresenceConfig(system_user="presence", system_password="pw-presence")
    registry = Metrics(CollectorRegistry())
    agent = coord.Agent("a1", capabilities={"summarize": 1})

    @agent.task("summarize")
    async def summarize(text: str) -> str:
        return text[:1] if len(text) == 3 else text[::-1]

    services = together.deciding(service.config, presence, registry=registry)
    async with ServiceGroup("deciding", services, registry=registry) as group:
        await group.wait_ready(90)
        board = next(m.board for m in group.members if isinstance(m, PresenceService))
        await until(lambda: board.hears_deaths)
        gone: list[str] = []
        board.listen(lambda tenant, agent, instance, now, left: gone.append(instance))
        async with coord.connect(broker.as_a1) as c:
            await agent.start(c)
            handle = await c.submit("summarize", "abc", id="t1")
            assert await handle.result(timeout_s=90) == "a"
            large = await c.submit("summarize", "ab" * limits.TASK_INLINE_BYTES)  # by reference, both ways
            assert await large.result(timeout_s=60) == "ba" * limits.TASK_INLINE_BYTES
            await until(lambda: _is(_names(c, "summarize"), ["a1"]))
            await c.drain_agent("a1")
            await until(lambda: c.beating.draining)
        await until(lambda: gone == [c.instance])
        before = board.events
        nc = await nats.connect(broker.url, connect_timeout=30, user="a1", password="pw-a1", name="coord:acme:a1:x1")
        await nc.close()
        await until(lambda: board.events > before)


async def test_an_agent_speaks_only_as_itself(broker: Broker, service: Connection) -> None:
    other = msgspec.structs.replace(broker.as_a1, agent="a2")
    async with coord.connect(other) as c:
        with pytest.raises(errors.NoPermission):
            await c.publish(coord.Fact(kind="note", id="n", event="said"))
    assert await stored(service) == 0


async def test_a_forged_reply_subject_reaches_no_log(broker: Broker, service: Connection) -> None:
    nc = await nats.connect(broker.url, connect_timeout=30, user="a1", password="pw-a1", inbox_prefix=b"_INBOX_a1")
    try:
        for reply in ("coord.ev.acme.a2.k.note.forged.said", "$JS.API.STREAM.PURGE.EVENTS"):
            await nc.publish("coord.ev.acme.a1.k.note.n.said", b"{}", reply=reply)
        await nc.flush()
        await until(lambda: _is(stored(service), 2))
        # A third, acknowledged, comes behind whatever the first two made the server do.
        answer = await nc.request("coord.ev.acme.a1.k.note.n.said", b"{}", timeout=60)
        assert msgspec.json.decode(answer.data)["seq"] == 3
        info = await service.api("STREAM.INFO.EVENTS", {"subjects_filter": ">"})
        assert set(info["state"]["subjects"]) == {"coord.log." + _tail("k")}
    finally:
        await nc.close()


async def test_an_agent_has_no_jetstream_of_its_own(broker: Broker, service: Connection) -> None:
    nc = await nats.connect(
        broker.url, connect_timeout=30, user="a1", password="pw-a1", inbox_prefix=b"_INBOX_a1", error_cb=_quiet
    )
    try:
        for subject in ("$JS.API.STREAM.INFO.EVENTS", "$JS.API.DIRECT.GET.EVENTS", "$JS.API.STREAM.PURGE.EVENTS"):
            with pytest.raises((NatsTimeoutError, NoRespondersError)):
                await nc.request(subject, b"{}", timeout=0.3)
    finally:
        await nc.close()
    assert (await service.api("STREAM.INFO.EVENTS"))["config"]["name"] == "EVENTS"


async def test_preflight_finds_every_ack_behind_an_fsync(broker: Broker, service: Connection) -> None:
    environ = {"COORD_NATS_PASSWORD": "p", "COORD_PRESENCE_SYSTEM_PASSWORD": "p"}
    given = settings.load(SETTINGS_FILE, environ=environ, dev_folder=None).settings
    subject = Subject(
        settings=given, conn=service, pool=errors.DatabaseUnavailable(), preflight=True, monitor=broker.monitor
    )
    checks = {check.name: check for check in await preflight._durability(subject)}
    assert {name: check.state for name, check in checks.items()} == {"sync_interval": "ok", "room": "ok"}


async def _is(asked: Any, wanted: object) -> bool:
    return bool(await asked == wanted)


async def _names(c: Any, capability: str) -> list[str]:
    return [found.agent for found in await c.agents(capability=capability)]


def _tail(key: str) -> str:
    from coord.wire import subjects

    return f"{subjects.partition(key)}.acme.{key}.note.n.a1.said"


async def _quiet(_: Exception) -> None:
    """Refused subjects are what the test is about."""


# --- systemd -------------------------------------------------------------------------------


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def test_the_unit_starts_what_exists_and_waits_long_enough() -> None:
    service = unit()["Service"]
    program, *args = shlex.split(service["ExecStart"])
    assert Path(program).name == "coord"
    assert parse(args)[0] == ("serve",)
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > limits.DRAIN_S


def test_the_units_secrets_are_settings(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    environ = dict(re.findall(r"^Environment=(\w+)=(\S+)$", text, re.MULTILINE))
    credentials = dict(re.findall(r"^LoadCredential=([\w-]+):(\S+)$", text, re.MULTILINE))
    assert {value.removeprefix("%d/") for value in environ.values()} == set(credentials)
    (tmp_path / "nats-password").write_text("secret\n")
    (tmp_path / "presence-password").write_text("secret\n")
    (tmp_path / "database-url").write_text("postgresql://coord:secret@db/coord\n")
    given = {name: value.replace("%d", str(tmp_path)) for name, value in environ.items()}
    loaded = settings.load(SETTINGS_FILE, environ=given, dev_folder=None).settings
    assert loaded.nats.password_file == str(tmp_path / "nats-password")
    assert loaded.presence.system_password_file == str(tmp_path / "presence-password")
    assert loaded.database.url.endswith("@db/coord")
    assert loaded.database.edition == "community"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here; the unit is parsed above")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    program = shlex.split(unit()["Service"]["ExecStart"])[0]
    here = tmp_path / "coord.service"
    here.write_text(text.replace(program, sys.executable), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "coord.service" in line]
    assert complaints == []


# --- compose -------------------------------------------------------------------------------


def test_the_compose_file_fits_what_it_starts(tmp_path: Path) -> None:
    document = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    services = document["services"]
    assert set(services) == {"nats", "timescaledb", "coord"}
    service = services["coord"]
    assert parse(service["command"])[0] == ("serve",)
    assert float(service["stop_grace_period"].removesuffix("s")) > limits.DRAIN_S

    secrets = {}
    for name, value in service["environment"].items():
        if not str(value).startswith("/run/secrets/"):
            secrets[name] = str(value)
            continue
        secret = Path(value).name
        assert secret in service["secrets"]
        file = tmp_path / secret
        file.write_text("postgresql://coord:p@timescaledb:5432/coord" if "url" in secret else "p")
        secrets[name] = str(file)
    loaded = settings.load(None, environ=secrets, dev_folder=None).settings
    assert loaded.nats.urls == ("nats://nats:4222",)
    assert loaded.http.host == "0.0.0.0"

    for each in services.values():
        assert set(each.get("secrets", [])) <= set(document["secrets"])
        for mount in each.get("volumes", []):
            source = mount.partition(":")[0]
            assert source in document["volumes"] or (COMPOSE.parent / source).is_file(), mount
    build = service["build"]
    context = (COMPOSE.parent / build["context"]).resolve()
    assert context == ROOT
    dockerfile = context / build["dockerfile"]
    for copied in re.findall(r"^COPY (\S+) ", dockerfile.read_text(encoding="utf-8"), re.MULTILINE):
        assert (context / copied).exists()
    sent = dockerfile.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8")
    for needed in re.findall(r"^!(\S+)$", sent, re.MULTILINE):
        assert (context / needed).exists(), needed


def test_the_compose_file_gives_nats_every_password() -> None:
    needed = set(re.findall(r"\$(COORD_\w+)", re.sub(r"#.*", "", NATS_CONF.read_text(encoding="utf-8"))))
    assert needed == set(PASSWORDS)
    said = COMPOSE.read_text(encoding="utf-8")
    assert {name for name in needed if f"{name}=%s" in said} == needed
