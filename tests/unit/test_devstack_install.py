"""Where a database comes from: the choice, and the texts given to apt.  Nothing is downloaded here."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import msgspec
import pytest

from coord.errors import EnvironmentProblem, SettingsError
from coord.ops.devstack import DevStackConfig, apt, docker, install, places, prefix
from coord.ops.devstack.apt import Mirror
from coord.ops.devstack.install import Machine
from coord.ops.devstack.postgres import PostgresOptions, render, server_settings

MIRROR = Mirror("http://mirror.test/debian")
DEBIAN = Machine(architecture="amd64", mirror=MIRROR, wheel=True)


@pytest.mark.parametrize(
    ("asked", "machine", "sources"),
    [
        ("auto", msgspec.structs.replace(DEBIAN, system_major=17), ("system", "private", "plain")),
        ("auto", DEBIAN, ("private", "plain")),
        ("auto", msgspec.structs.replace(DEBIAN, architecture="arm64"), ("private", "plain")),
        ("auto", msgspec.structs.replace(DEBIAN, mirror=None, cached_prefix=True), ("private", "plain")),
        ("auto", msgspec.structs.replace(DEBIAN, mirror=None), ("plain",)),
        ("auto", msgspec.structs.replace(DEBIAN, architecture="riscv64"), ("plain",)),
        ("auto", Machine(wheel=True), ("plain",)),
        ("plain", msgspec.structs.replace(DEBIAN, system_major=17), ("plain",)),
        ("private", DEBIAN, ("private",)),
    ],
)
def test_the_order_of_sources(asked, machine, sources):
    assert install.choose(asked, machine).sources == sources


@pytest.mark.parametrize(
    ("asked", "machine", "fix"),
    [
        ("auto", Machine(), r"pip install 'coord\[dev-servers\]'"),
        ("system", DEBIAN, "apt install postgresql-17-timescaledb"),
        ("private", msgspec.structs.replace(DEBIAN, mirror=None), "no Debian mirror"),
        ("plain", msgspec.structs.replace(DEBIAN, wheel=False), "pip install"),
    ],
)
def test_nothing_to_choose_ends_in_one_line_that_names_the_fix(asked, machine, fix):
    with pytest.raises(EnvironmentProblem, match=fix) as caught:
        install.choose(asked, machine)
    assert "\n" not in str(caught.value)


def test_what_was_passed_over_is_said():
    choice = install.choose("auto", Machine(wheel=True))
    assert len(choice.passed_over) == 2
    assert "not a Debian" in choice.passed_over[1]


def test_a_mirror_that_fails_leads_to_plain_and_the_note_says_why(tmp_path, monkeypatch):
    def fails(*_: object) -> Path:
        raise EnvironmentProblem("Fetching Debian trixie packages: the mirror is away.")

    monkeypatch.setattr(install, "look", lambda _: DEBIAN)
    monkeypatch.setattr(prefix, "provide", fails)
    monkeypatch.setattr(apt, "machine_mirror", lambda: MIRROR)
    said: list[str] = []
    provided = install.provide("auto", tmp_path, None, said.append)
    assert provided.source == "plain"
    assert not provided.timescaledb
    assert "the mirror is away" in provided.note
    with pytest.raises(EnvironmentProblem, match="the mirror is away"):
        install.provide("private", tmp_path, None, said.append)
    assert any("Fetching TimescaleDB" in line for line in said)


def test_the_newest_complete_system_package_is_taken(tmp_path):
    def put(major: int, *, module: bool = True) -> None:
        for path in (f"share/postgresql/{major}/extension/timescaledb.control", f"lib/postgresql/{major}/bin/postgres"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch(0o755)
        (tmp_path / f"lib/postgresql/{major}/lib").mkdir()
        if module:
            (tmp_path / f"lib/postgresql/{major}/lib/timescaledb.so").touch()

    assert install.system_major(tmp_path) is None
    put(15)
    assert install.system_major(tmp_path) is None  # too old
    put(16)
    put(17)
    put(18, module=False)
    assert install.system_major(tmp_path) == 17


def test_the_debian_archive_is_found_among_the_sources():
    lines = (
        "https://packages.test/apt|cloud-sdk-bookworm|main\n"
        "http://security.test/debian-security|bookworm-security|main\n"
        "http://mirror.test/debian|bookworm|contrib\n"
        "http://mirror.test/debian/|bookworm|main\n"
    )
    assert apt.find_mirror(lines) == MIRROR
    assert apt.find_mirror("http://archive.test/ubuntu|noble|main\n") is None
    assert apt.find_mirror("") is None


def test_apt_keeps_the_machines_way_to_the_mirror_and_nothing_else(tmp_path):
    inherited = (
        'APT::Update::Post-Invoke:: "rm -f /var/cache/apt/*";\n'
        'Acquire::http::Proxy "http://proxy.test:3128";\n'
        'Acquire::IndexTargets::deb::DEP-11::MetaKey "x";\n'
        'Acquire::Languages:: "de";\n'
        'Dir::State "var/lib/apt";\n'
    )
    text = apt.apt_conf(tmp_path, "arm64", inherited, sandbox_user="root")
    assert 'Acquire::http::Proxy "http://proxy.test:3128";' in text
    assert "Post-Invoke" not in text
    assert "DEP-11" not in text
    assert '"de"' not in text
    assert 'APT::Architecture "arm64";' in text
    dirs = re.findall(r'^Dir::\S+ "([^"]*)";$', text, re.MULTILINE)
    assert len(dirs) == 8
    assert all(d == "/dev/null" or d.startswith(str(tmp_path)) for d in dirs)


def test_the_archives_keyring_verifies_the_packages(tmp_path):
    assert apt.sources_list(MIRROR, "trixie", tmp_path) == f"deb [signed-by={tmp_path}] {MIRROR.uri} trixie main\n"


def test_only_libraries_are_followed():
    depends = (
        "server\n |Depends: locales\n  Depends: libpq5\n  PreDepends: libc6\n  Depends: libllvm19\n"
        "  Depends: <debconf-2.0>\n    debconf\n  Depends: zlib1g\n"
        "libpq5\n  Depends: libc6\n  Depends: libssl3\nlibssl3\n  Depends: libpq5\n"
        "libllvm19\n  Depends: libz3-4\nlocales\n  Depends: libc-bin\n"
    )
    found = apt.closure(depends, ["server"], leave_out=re.compile("libllvm"))
    assert found == ["libc6", "libpq5", "libssl3", "server", "zlib1g"]


def test_a_prefix_counts_only_with_its_manifest_and_is_built_once(tmp_path, monkeypatch):
    built: list[Path] = []

    def build(work: Path, final: Path, _mirror: Mirror, architecture: str) -> Path:
        built.append(work)
        final.mkdir()
        manifest = prefix.Manifest(recipe=1, suite="s", architecture=architecture, postgresql="p", packages=[])
        (final / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        return final

    monkeypatch.setattr(prefix, "_build", build)
    (tmp_path / prefix.prefix_name("amd64") / "usr").mkdir(parents=True)  # cut off before its manifest
    assert prefix.find(tmp_path, "amd64") is None
    threads = [threading.Thread(target=prefix.provide, args=(tmp_path, MIRROR, "amd64")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert not built[0].exists()
    found = prefix.find(tmp_path, "amd64")
    assert found is not None
    assert prefix.read_manifest(found).architecture == "amd64"


def test_a_build_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def build(work: Path, *_: object) -> Path:
        (work / "half").write_text("x")
        raise EnvironmentProblem("no")

    monkeypatch.setattr(prefix, "_build", build)
    with pytest.raises(EnvironmentProblem):
        prefix.provide(tmp_path, MIRROR, "amd64")
    assert [p.name for p in tmp_path.iterdir()] == [f"{prefix.prefix_name('amd64')}.lock"]


def test_settings_are_quoted_and_loopback_only(tmp_path):
    options = PostgresOptions(settings={"search_path": "it's"}, fsync=False)
    settings = server_settings(options, port=5, socket_dir=tmp_path, timescaledb=False)
    assert settings["listen_addresses"] == "127.0.0.1"
    assert settings["fsync"] == "off"
    assert "shared_preload_libraries" not in settings
    assert "search_path = 'it''s'" in render(settings)
    long = server_settings(PostgresOptions(), port=5, socket_dir=Path("/" + "x" * 100), timescaledb=True)
    assert long["unix_socket_directories"] == ""
    assert long["shared_preload_libraries"] == "timescaledb"
    assert "fsync" not in long


def test_docker_publishes_on_loopback_alone_and_keeps_a_volume_only_when_asked():
    command = docker.run_command("coord-dev-1", 5432, PostgresOptions(), image="image", volume=True)
    assert command[command.index("-p") + 1] == "127.0.0.1:5432:5432"
    assert "coord-dev-1:/var/lib/postgresql/data" in command
    assert not any(part.startswith(("listen_addresses", "port=")) for part in command)
    assert "-v" not in docker.run_command("coord-dev-1", 5432, PostgresOptions(), image="image", volume=False)


async def test_asking_for_docker_without_docker_names_the_fix(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(EnvironmentProblem, match=r"apt install docker\.io"):
        await docker.DockerPostgres("x").start()


async def test_a_container_is_started_killed_and_removed_by_its_name(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    script = tmp_path / "docker"
    script.write_text(f'#!/bin/sh\necho "$1 $*" >> {calls}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    async def answers(_: object) -> bool:
        return True

    monkeypatch.setattr(docker.DockerPostgres, "_answers", answers)
    server = docker.DockerPostgres("7f")
    await server.start()
    assert server.url().startswith(f"postgresql://coord@127.0.0.1:{server.port}/")
    await server.kill()
    await server.start()
    await server.stop()
    await server.stop()
    lines = calls.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["rm", "run", "kill", "start", "stop", "rm"]
    assert all("coord-dev-7f" in line for line in lines)


def test_the_environment_fills_what_the_caller_left_out():
    config = DevStackConfig.from_env({"COORD_DEV_DATABASE": "plain", "COORD_CACHE_DIR": "/c"}, source="private")
    assert (config.source, config.cache_dir) == ("private", Path("/c"))
    assert DevStackConfig.from_env({"COORD_DEV_DATABASE": "plain"}).source == "plain"
    assert DevStackConfig.from_env({}) == DevStackConfig()
    with pytest.raises(SettingsError, match="COORD_DEV_DATABASE"):
        DevStackConfig.from_env({"COORD_DEV_DATABASE": "oracle"})


def test_a_cache_folder_of_somebody_else_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert places.cache_dir(None) == tmp_path / "mine" / "coord"
    real = Path.stat

    class Stat:
        st_uid = 4_000_000
        st_mode = 0o040755

    monkeypatch.setattr(Path, "stat", lambda self, **k: Stat() if self == tmp_path / "asked" else real(self, **k))
    with pytest.raises(EnvironmentProblem, match="COORD_CACHE_DIR"):
        places.cache_dir(None, asked=tmp_path / "asked")
