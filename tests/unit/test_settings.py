"""Settings: every source, every refusal with its place, and where each value came from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coord import errors
from coord.bus.topology import Spec, Topology, compare
from coord.ops import settings
from coord.ops.devstack.process import ProcessRef
from coord.ops.devstack.stack import DatabaseState, NatsState, StackState
from coord.ops.settings import Loaded, Settings
from coord.wire import subjects


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "coord.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load(file: Path | None = None, environ: dict[str, str] | None = None, **options: Any) -> Loaded:
    given = {key.replace("__", "."): (value, f"--{key}") for key, value in options.items()}
    return settings.load(file, environ={"HOME": "/nowhere", **(environ or {})}, options=given, dev_folder=None)


def refused(file: Path | None = None, environ: dict[str, str] | None = None, **options: Any) -> str:
    with pytest.raises(errors.SettingsError) as caught:
        load(file, environ, **options)
    return caught.value.message


# --- sources -------------------------------------------------------------------------------


def test_without_anything_the_defaults_apply_and_fit_together() -> None:
    assert load().settings == Settings()
    assert load().origins == {}


def test_option_beats_environment_beats_file_beats_default(write: Any) -> None:
    path = write('[http]\nhost = "::1"\nport = 1\n[projector]\nwriters = 3\n')
    loaded = load(path, {"COORD_HTTP_PORT": "2", "COORD_PROJECTOR_WRITERS": "5"}, http__port=3)
    assert (loaded.settings.http.host, loaded.settings.http.port, loaded.settings.projector.writers) == ("::1", 3, 5)
    assert str(loaded.origin("http.host")) == f"{path}:2"
    assert str(loaded.origin("projector.writers")) == "COORD_PROJECTOR_WRITERS"
    assert str(loaded.origin("http.port")) == "--http__port"
    assert str(loaded.origin("log.level")) == "default"


def test_text_becomes_what_the_field_is() -> None:
    found = load(
        None,
        {
            "COORD_NATS_URLS": "nats://a:1, nats://b:2",
            "COORD_HTTP_ENABLED": "no",
            "COORD_AGES_RETAIN_DAYS": "",
            "COORD_LOG_LEVEL": "debug",
            "COORD_NATS_PING_INTERVAL_S": "2.5",
            "COORD_PUBLISHER_RETRY_BACKOFF_S": "0.2",
        },
    ).settings
    assert found.nats.urls == ("nats://a:1", "nats://b:2")
    assert not found.http.enabled
    assert found.ages.retain_days is None
    assert found.log.level == "debug"
    assert found.nats.ping_interval_s == 2.5
    assert found.publisher.retry.backoff_s == 0.2


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://u:hunter2@h/d\n")
    loaded = load(None, {"COORD_DATABASE_URL_FILE": str(secret)})
    assert loaded.settings.database.url == "postgresql://u:hunter2@h/d"
    assert str(loaded.origin("database.url")) == "COORD_DATABASE_URL_FILE"
    assert "cannot read" in refused(None, {"COORD_DATABASE_URL_FILE": str(tmp_path / "none")})


def test_a_field_that_ends_in_file_is_itself() -> None:
    assert load(None, {"COORD_NATS_CREDS_FILE": "/x.creds"}).settings.nats.creds_file == "/x.creds"
    both = {"COORD_NATS_USER": "u", "COORD_NATS_PASSWORD_FILE": "/p"}
    assert load(None, both).settings.nats.password_file == "/p"
    assert "password or password_file" in refused(None, both | {"COORD_NATS_PASSWORD": "x"})


def test_nested_tables_are_nested_settings(write: Any) -> None:
    path = write("[publisher]\ncontent = 'msgpack'\n\n[publisher.retry]\nattempt_s = 1.5\n")
    loaded = load(path)
    assert loaded.settings.publisher.content == "msgpack"
    assert loaded.settings.publisher.retry.attempt_s == 1.5
    assert str(loaded.origin("publisher.retry.attempt_s")) == f"{path}:5"
    path = write("[publisher]\nretry.attempt_s = 1.5\n")
    assert str(load(path).origin("publisher.retry.attempt_s")) == f"{path}:2"


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    (home / ".config" / "coord").mkdir(parents=True)
    assert settings.find_file({"HOME": str(home)}) is None
    (home / ".config" / "coord" / "coord.toml").touch()
    assert settings.find_file({"HOME": str(home)}) == home / ".config/coord/coord.toml"
    Path("coord.toml").touch()
    assert settings.find_file({"HOME": str(home)}) == Path("coord.toml")
    assert settings.find_file({"HOME": str(home), "COORD_CONFIG": "/x/y.toml"}) == Path("/x/y.toml")
    assert "cannot read /x/y.toml" in refused(None, {"COORD_CONFIG": "/x/y.toml"})


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[nats]\nurl = ['x']", 2, "unknown setting nats.url; did you mean nats.urls?"),
        ("\n[projector]\n\npool_max = 3", 4, "unknown setting projector.pool_max; did you mean database.pool_max?"),
        ("[Nats]\nx = 1", 1, "unknown section [Nats]; did you mean nats?"),
        ("[nonsense]\nx = 1", 1, "unknown section [nonsense]"),
        ("http = 3", 1, "http is a section: write [http]"),
        ("[http]\nzzz = 1", 2, "unknown setting http.zzz; [http] has enabled, host, port"),
        ("[http]\nport = '1'", 2, "http.port: Expected `int`, got `str`"),
        ("[log]\nlevel = 'loud'", 2, "log.level: Invalid enum value 'loud'"),
        ("[publisher.retry]\nattempts = 4", 2, "unknown setting publisher.retry.attempts"),
        ("[publisher]\nretry = 4", 2, "unknown setting publisher.retry"),
        ("[database]\nurl = 3", 2, "database.url: not what this setting takes"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(write: Any, text: str, line: int, said: str) -> None:
    path = write(text)
    message = refused(path)
    assert message.startswith(f"{path}:{line}: ")
    assert said in message


def test_broken_toml_names_its_place(write: Any) -> None:
    assert "at line 2" in refused(write("[nats]\nurls = x\n"))
    path = write("")
    path.write_bytes(b"\xff")
    assert "not UTF-8" in refused(path)


def test_an_unknown_variable_is_refused_and_other_tools_are_left_alone() -> None:
    assert "unknown variable COORD_NATS_URL; did you mean COORD_NATS_URLS?" in refused(None, {"COORD_NATS_URL": "x"})
    load(None, {"COORD_TEST_SEED": "1", "COORD_DEBUG": "1", "COORD_SOAK_ROUNDS": "3", "PATH": "/bin"})


def test_all_problems_are_told_at_once(write: Any) -> None:
    path = write("[nats]\nurl = 1\n[http]\nport = 70000\n")
    message = refused(path, {"COORD_LOG_LEVEL": "loud"})
    assert message.startswith("3 problems:")
    assert "nats.url" in message
    assert f"http.port must be 0 to 65535, not 70000 (set by {path}:4)" in message
    assert "COORD_LOG_LEVEL" in message


def test_a_secret_is_not_repeated_in_a_refusal(write: Any) -> None:
    message = refused(write("[nats]\npassword = ['hunter2']"))
    assert "hunter2" not in message


# --- across fields and sections ------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"COORD_PROJECTOR_WRITERS": "19"}, "raise pool_max to 21 or lower writers (set by COORD_PROJECTOR_WRITERS)"),
        (
            {"COORD_DATABASE_POOL_MAX": "5", "COORD_PROJECTOR_WRITERS": "4"},
            "projector.writers (4) must leave 2 connections",
        ),
        ({"COORD_DATABASE_POOL_MIN": "30"}, "pool_min (30) and pool_max (20)"),
        ({"COORD_SERVICE_DRAIN_S": "4"}, "service.drain_s must be above 4 s"),
        ({"COORD_PROJECTOR_RETRY_MAX_S": "60"}, "must be below service.drain_s"),
        ({"COORD_PUBLISHER_RETRY_DEADLINE_S": "119"}, "below the duplicate window"),
        ({"COORD_NATS_USER": "u"}, "nats.user and nats.password (or nats.password_file) go together"),
        ({"COORD_IDENTITY_AGENT": "_task"}, "only deciders' names do"),
        ({"COORD_IDENTITY_TENANT": "A b"}, "identity.tenant"),
        ({"COORD_SERVICE_STATS_EVERY_S": "0.1"}, "service.stats_every_s"),
        ({"COORD_DATABASE_HEALTH_AFTER_S": "400"}, "health_after_s"),
    ],
)
def test_what_does_not_fit_together_is_refused(environ: dict[str, str], said: str) -> None:
    assert said in refused(None, environ)


def test_the_pool_fits_exactly() -> None:
    assert load(None, {"COORD_PROJECTOR_WRITERS": "18"}).settings.projector.writers == 18


@pytest.mark.parametrize("profile", ["production", "cluster", "development"])
def test_the_shipped_streams_fit_the_publisher(profile: str) -> None:
    found = load(None, {"COORD_STREAMS_PROFILE": profile}).settings
    assert {s.stream for s in settings.topology(found).streams} == set(subjects.STREAMS)


def test_a_duplicate_window_within_the_publish_deadline_is_refused() -> None:
    publisher = Settings().publisher
    last_s = publisher.retry.deadline_s + publisher.retry.attempt_max_s
    short = Topology((Spec("EVENTS", None, {"duplicate_window": int(last_s * 1e9)}),))
    with pytest.raises(errors.SettingsError, match=r"streams/EVENTS\.toml: duplicate_window"):
        settings.check_windows(short, publisher)
    settings.check_windows(
        Topology((Spec("EVENTS", None, {"duplicate_window": int(last_s * 1e9) + 10**9}),)), publisher
    )


# --- the dev stack -------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    me = ProcessRef.of(os.getpid())
    assert me is not None
    state = StackState(
        owner=me,
        data_dir=str(tmp_path),
        nats=NatsState(url="nats://127.0.0.1:7", http_url="http://127.0.0.1:8", process=me),
        database=DatabaseState(url="postgresql://127.0.0.1:9/coord", edition="plain", note=""),
    )
    (tmp_path / "stack.json").write_bytes(msgspec.json.encode(state))
    return tmp_path


def test_a_running_dev_stack_is_found(stack: Path) -> None:
    loaded = settings.load(environ={}, dev_folder=stack)
    assert loaded.settings.nats.urls == ("nats://127.0.0.1:7",)
    assert loaded.settings.database.url == "postgresql://127.0.0.1:9/coord"
    assert loaded.settings.streams.profile == "development"
    assert str(loaded.origin("nats.urls")) == f"dev stack {stack}"


def test_the_dev_stack_is_never_mixed_with_what_somebody_named(stack: Path) -> None:
    loaded = settings.load(environ={"COORD_NATS_URLS": "nats://prod:4222"}, dev_folder=stack)
    assert loaded.settings == msgspec.structs.replace(Settings(), nats=loaded.settings.nats)


# --- showing -------------------------------------------------------------------------------


def test_rows_show_everything_but_secrets() -> None:
    loaded = load(
        None,
        {
            "COORD_NATS_USER": "u",
            "COORD_NATS_PASSWORD": "hunter2",
            "COORD_DATABASE_URL": "postgresql://coord:hunter2@db/coord",
            "COORD_NATS_URLS": "nats://s3cr3t@h:1",
        },
    )
    rows = {row.key: row for row in loaded.rows()}
    text = repr([row.value for row in rows.values()])
    assert "hunter2" not in text
    assert "s3cr3t" not in text
    assert rows["database.url"].value == "postgresql://coord:***@db/coord"
    assert rows["nats.password"].value == "***"
    assert rows["nats.password"].changed
    assert not rows["http.port"].changed
    assert rows["publisher.retry.deadline_s"].value == 30.0


def test_every_section_and_setting_has_an_unambiguous_variable() -> None:
    names = [settings._variable(key) for key in settings._types()]
    assert len(names) == len(set(names))
    for name in names:
        # Of a password that is a field of its own: it is read again at each connection.
        read_again = {"COORD_NATS_CREDS", "COORD_NATS_PASSWORD", "COORD_PRESENCE_SYSTEM_PASSWORD"}
        assert f"{name}_FILE" not in names or name in read_again


def test_every_component_is_composed_and_documented() -> None:
    for field in msgspec.structs.fields(Settings):
        assert issubclass(field.type, msgspec.Struct)
        assert field.type.__struct_config__.frozen, field.name
        assert field.type.__doc__, field.name


def test_the_log_within_a_budget_of_memory() -> None:
    found = settings.topology(load(streams__log_memory_mib=64).settings)
    assert found.get("EVENTS").config["max_msgs"] == 64 * 1024 * 1024 // 512
    assert found.get("TELEMETRY") == settings.topology(load().settings).get("TELEMETRY")
    assert "log_memory_mib" in refused(streams__log_memory_mib=0)


def test_the_logs_window_on_disk_and_in_time() -> None:
    said = load(streams__log_disk_mib=2048, streams__log_max_age_s=172_800).settings
    found = settings.topology(said)
    log = found.get("EVENTS").config
    assert (log["max_bytes"], log["max_age"]) == (2 * 2**30, 48 * 3600 * 10**9)
    assert settings.window_s(said) == 172_800
    current = settings.topology(load().settings).get("EVENTS").config
    change = compare(found.get("EVENTS"), current)
    assert change is not None
    assert change.destructive, "who makes it smaller has to say so"
    assert "max_bytes" in change.reason
    assert "max_age" not in change.reason
    for bad in (0, 599):
        assert "log_max_age_s" in refused(streams__log_max_age_s=bad)
    assert "log_disk_mib" in refused(streams__log_disk_mib=63)
    with pytest.raises(errors.SettingsError, match="OBJ_PAYLOADS"):
        settings.topology(load(streams__log_max_age_s=8 * 86_400).settings)
