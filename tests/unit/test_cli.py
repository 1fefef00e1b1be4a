"""The command line's own behaviour: formats, streams, exit codes, errors in one line, speed of --help."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args

import pytest
import typer

from coord import errors
from coord.core import handoff, placement, tasks, workflow_life
from coord.ops import times
from coord.ops.cli import base, choices, output
from coord.ops.cli.bars import bar
from coord.ops.cli.base import Context, Exit, command, group
from coord.ops.cli.output import Format, Output
from coord.telemetry import logs
from coord.wire import work
from tests.support.cli import Result, run_cli

NOUNS = ("event", "stream", "db", "dlq", "projection", "spool", "logs", "config", "dev", "bench")
VERBS = ("serve", "replay", "status", "top", "doctor", "demo")


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("COORD_CONFIG", "COORD_NATS_URLS", "COORD_DATABASE_URL", "COORD_DEBUG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)


# --- the tree of commands ------------------------------------------------------------------


def test_help_names_every_noun_and_verb() -> None:
    result = run_cli("--help")
    assert result.code == 0
    for name in (*NOUNS, *VERBS):
        assert f" {name} " in result.out, name


@pytest.mark.parametrize(
    "path", [(n,) for n in (*NOUNS, *VERBS)] + [("stream", "plan"), ("dev", "env"), ("dlq", "show")]
)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = run_cli(*path, "--help")
    assert result.code == 0
    assert "Usage" in result.out


def test_version() -> None:
    assert run_cli("--version").out.startswith("coord ")


def test_help_imports_nothing_heavy() -> None:
    """What keeps `coord --help` fast, counted instead of timed."""
    code = (
        "import sys\n"
        "from coord.ops.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'nats', 'asyncpg', 'psycopg', 'structlog', 'prometheus_client', 'starlette', 'uvicorn', 'rich'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ran.stderr.split()) <= {"rich"}  # typer's own, for the help page itself


def test_a_command_of_the_broker_imports_no_database_and_no_server() -> None:
    """Half of what `coord agent ls` took was what it never used."""
    code = (
        "import sys\n"
        "from coord.ops import settings\n"
        "settings.load(environ={}, dev_folder=None)\n"
        "import coord.bus.rpc, coord.runtime.running\n"
        "heavy = {'nats', 'asyncpg', 'psycopg', 'starlette', 'uvicorn'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["nats"]


# --- usage and errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("stream", "nonsense"),
        ("stream", "ls", "--nonsense"),
        ("status", "-o", "xml"),
        ("dlq", "show", "not-a-number"),
        ("event", "pub", "task"),
        ("serve", "everything"),
        ("event", "tail", "--start", "yesterday"),
        ("event", "tail", "--no-follow"),
        ("event", "pub", "task", "t1", "submitted", "-d", "{"),
        ("db", "query", "agents", "-p", "tenant"),
        ("logs", "filter", "--level", "loud"),
        ("config", "show", "nonsense"),
        ("status", "-c", "missing.toml"),
        ("dev", "--nats", "nats://h"),
        ("dev", "--ephemeral", "--path", "x"),
        ("demo", "--nats", "nats://h"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_nothing_on_stdout(args: tuple[str, ...]) -> None:
    result = run_cli(*args)
    assert result.code == Exit.USAGE
    assert result.out == ""
    assert result.err


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        (choices.TaskStatus, tasks.Status),
        (choices.WorkflowStatus, workflow_life.Status),
        (choices.HandoffStatus, handoff.Status),
        (choices.Priority, work.Priority),
        (choices.Strategy, placement.Strategy),
    ],
)
def test_an_option_takes_what_the_folds_have(shown: type[StrEnum], known: Any) -> None:
    beside = {"agent", "label"} if shown is choices.Strategy else set()
    of_tables = {"lost"} if shown.__name__.endswith("Status") else set()  # see lose_entities.sql
    assert {str(choice) for choice in shown} | beside == set(get_args(known)) | of_tables


@pytest.mark.parametrize("noun", ["task", "workflow", "handoff", "agent"])
def test_a_state_that_there_is_none_of_is_refused_naming_those_there_are(noun: str) -> None:
    result = run_cli(noun, "ls", "--state" if noun == "agent" else "--status", "nonsense")
    assert "Value error" not in result.err
    assert result.code == Exit.USAGE
    assert {"task": "claimed", "workflow": "running", "handoff": "seeking", "agent": "gone"}[noun] in result.err


@pytest.mark.parametrize(
    "args",
    [
        ("task", "submit", "x", "-i", "@no/such"),
        ("workflow", "start", "approve", "-i", "@no/such"),
        ("workflow", "start", "no/such.toml"),
        ("workflow", "new", "--from", "approve", "-f", "no/dir/x.toml"),
        ("workflow", "graph", "approve", "-f", "no/dir/x.svg"),
        ("flag", "set", "f", "-p", "200"),
    ],
)
def test_what_a_user_names_wrongly_is_never_our_defect(args: tuple[str, ...]) -> None:
    result = run_cli(*args, "-o", "json")
    assert (result.code, result.out) == (Exit.USAGE, "")
    assert "internal error" not in result.err
    if args[0] != "flag":  # typer says that one before there is a format
        said = json.loads(result.err)
        assert said["code"] in ("usage.file", "usage.invalid")
        assert "no/" in str(said["details"])
    assert "show --origin" not in run_cli(*args).err


def test_what_is_not_there_is_an_error_where_data_is_json() -> None:
    result = run_cli("dev", "env", "-o", "json")
    assert (result.code, result.out, json.loads(result.err)["code"]) == (Exit.NOT_FOUND, "", "usage.not_found")
    assert run_cli("dev", "env").err.startswith("No dev stack runs in .coord")


def test_an_option_before_the_verb_is_refused() -> None:
    result = run_cli("dev", "--path", "somewhere", "env")
    assert result.code == Exit.USAGE
    assert "after the verb: coord dev env --path" in result.err


def test_a_file_that_fails_anywhere_is_its_users(capsys: pytest.CaptureFixture[str]) -> None:
    def it(ctx: Context) -> None:
        Path("no/such").read_bytes()

    result = call(made(it), "it", capsys=capsys)
    assert result.code == Exit.USAGE
    assert "No such file or directory file=no/such [usage.file]" in result.err


def test_wrong_settings_exit_with_2_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "coord.toml").write_text("[nats]\nurl = 1\n")
    result = run_cli("status")
    assert result.code == Exit.USAGE
    assert result.err.count("\n") == 1
    assert "coord.toml:2: unknown setting nats.url; did you mean nats.urls?" in result.err


def test_no_server_is_unhealthy_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORD_NATS_CONNECT_TIMEOUT_S", "0.3")
    result = run_cli("stream", "ls", "--nats", "nats://u:hunter2@127.0.0.1:1")
    assert result.code == Exit.UNHEALTHY
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert "[bus.disconnected]" in result.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SettingsError("x"), 2),
        (errors.QueryError("x"), 2),
        (errors.InvalidToken("x"), 2),
        (errors.CyclicWorkflow("x"), 2),
        (errors.ApiNotFound("x"), 4),
        (errors.UnknownTask(), 4),
        (errors.UnknownWorkflow(), 4),
        (errors.UnknownSignal(), 4),
        (errors.UnknownAgent(), 4),
        (errors.NotConnected(), 3),
        (errors.DatabaseUnavailable(), 3),
        (errors.ApiUnavailable(), 3),
        (errors.ServiceUnavailable(), 3),
        (errors.StreamReplaced(), 3),
        (errors.BrokerLoginRefused(), 2),
        (errors.BrokerNotTrusted(), 3),
        (errors.DatabaseLoginRefused(), 2),
        (errors.DatabaseNotReady(), 3),
        (errors.ServiceTooOld(), 3),
        (errors.DestructiveChange(), 1),
        (errors.MigrationFailed(), 1),
    ],
)
def test_errors_have_their_exit_codes(error: errors.CoordError, code: int) -> None:
    assert base.exit_code(error) == code


def made(function: Any) -> typer.Typer:
    app = group("test", "A test.")
    command(app, "other")(lambda _ctx: None)
    command(app, "it")(function)
    return app


def call(app: typer.Typer, *args: str, capsys: pytest.CaptureFixture[str]) -> Result:
    with pytest.raises(SystemExit) as ended:
        app(args=list(args))
    logs.unconfigure()  # as `tests.support.cli` does
    code = int(ended.value.code or 0)
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


def test_an_error_is_said_in_one_line_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    def it(ctx: Context) -> None:
        raise errors.StreamFull("full\x1b[31m", url="nats://u:hunter2@h", body="x" * 500)

    result = call(made(it), "it", capsys=capsys)
    assert result.code == 1
    assert result.err.startswith("coord: full")
    assert "[bus.stream_full] - Wait for the window to move" in result.err
    assert "hunter2" not in result.err
    assert "\x1b" not in result.err
    assert len(result.err) < 400


def test_a_defect_is_one_line_and_with_debug_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def it(ctx: Context) -> None:
        raise KeyError("oops")

    result = call(made(it), "it", capsys=capsys)
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "internal error: KeyError" in result.err
    with pytest.raises(KeyError):
        made(it)(args=["it", "--debug"])


def test_common_options_stand_after_the_verb_and_own_ones_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    async def it(ctx: Context, name: str, count: Annotated[int, typer.Option("--count")] = 1) -> int:
        seen.append((ctx.output, ctx.config, ctx.nats, ctx.debug, name, count))
        return 3

    result = call(
        made(it), "it", "-o", "jsonl", "x", "--count", "2", "-c", "f.toml", "--nats", "nats://h", capsys=capsys
    )
    assert result.code == 3
    assert seen == [(Format.JSONL, Path("f.toml"), "nats://h", False, "x", 2)]


def test_interrupting_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    def it(ctx: Context) -> None:
        raise KeyboardInterrupt

    assert call(made(it), "it", capsys=capsys).code == Exit.INTERRUPTED


@pytest.mark.parametrize("args", [["config", "show", "-o", "json"], ["bench", "--help"]])
def test_a_reader_that_leaves_is_no_error(args: list[str]) -> None:
    code = f"from coord.ops.cli import main; main({args})"
    command_line = f'"{sys.executable}" -c "{code}" | true'
    ran = subprocess.run(["bash", "-o", "pipefail", "-c", command_line], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


# --- output --------------------------------------------------------------------------------


def out(form: Format, *, colour: bool = False) -> tuple[Output, io.StringIO, io.StringIO]:
    stdout, stderr = io.StringIO(), io.StringIO()
    return Output(form, stdout=stdout, stderr=stderr, colour=colour), stdout, stderr


ROWS = [
    {"name": "EVENTS", "messages": 1_234_567, "bytes": 1536, "at": datetime(2026, 1, 2, 3, 4, 5, 678_900, UTC)},
    {"name": "DLQ", "messages": 0, "bytes": -1, "at": None},
]


def test_a_simulation_that_finds_nothing_says_so_in_json() -> None:
    assert run_cli("chaos", "sim", "--seeds", "1", "-o", "json").json["failed"] == 0


def test_rows_as_a_table() -> None:
    o, stdout, _ = out(Format.TABLE)
    o.rows(ROWS)
    assert stdout.getvalue() == (
        "NAME     MESSAGES      BYTES  AT\n"
        "EVENTS  1,234,567    1.5 KiB  2026-01-02 03:04:05.678\n"
        "DLQ             0  unlimited  -\n"
    )


def test_rows_as_json_and_jsonl() -> None:
    o, stdout, _ = out(Format.JSON)
    o.rows(ROWS)
    assert json.loads(stdout.getvalue())[0]["at"] == "2026-01-02T03:04:05.678900Z"
    o, stdout, _ = out(Format.JSONL)
    o.rows(ROWS)
    assert [json.loads(line)["name"] for line in stdout.getvalue().splitlines()] == ["EVENTS", "DLQ"]


def test_rows_as_csv() -> None:
    o, stdout, _ = out(Format.CSV)
    o.rows(ROWS)
    assert stdout.getvalue() == ("name,messages,bytes,at\nEVENTS,1234567,1536,2026-01-02T03:04:05.678900Z\nDLQ,0,-1,\n")
    o, stdout, stderr = out(Format.CSV)
    o.rows([], ["a", "b"], empty="Nothing.")
    assert (stdout.getvalue(), stderr.getvalue()) == ("a,b\n", "")
    o, stdout, _ = out(Format.CSV)
    o.record({"text": 'a "b", c', "list": ["x"], "on": True, "evil": "\x1b[2J"})
    assert stdout.getvalue() == 'text,list,on,evil\n"a ""b"", c","[""x""]",true,\\x1b[2J\n'
    o, stdout, _ = out(Format.CSV)
    o.line({"a": 1})
    o.line({"a": 2, "b": 3})
    assert stdout.getvalue() == "a\n1\n2\n"


def test_no_rows_are_said_on_stderr_and_are_an_empty_list_in_json() -> None:
    o, stdout, stderr = out(Format.TABLE)
    o.rows([], empty="Nothing.")
    assert (stdout.getvalue(), stderr.getvalue()) == ("", "Nothing.\n")
    o, stdout, stderr = out(Format.JSON)
    o.rows([], empty="Nothing.")
    assert (json.loads(stdout.getvalue()), stderr.getvalue()) == ([], "")


def test_a_record() -> None:
    o, stdout, _ = out(Format.TABLE)
    o.record({"a": True, "long_name": ["x", "y"], "wait_s": 0.0032})
    assert stdout.getvalue() == "a          yes\nlong_name  x, y\nwait_s     3.2 ms\n"


def test_what_the_log_holds_cannot_drive_the_terminal() -> None:
    o, stdout, _ = out(Format.TABLE, colour=True)
    o.rows([{"name": "\x1b[2Jevil\x07\u202e", "state": o.style("ok", "green")}])
    body = stdout.getvalue().splitlines()[1]
    assert "\x1b[2J" not in body
    assert "\\x1b[2Jevil\\x07\\x202e" in body
    assert "\x1b[32mok\x1b[0m" in body


def test_colour_is_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.wants_colour(Terminal())
    assert not output.wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.wants_colour(Terminal())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.00021, "210 µs"), (0.0032, "3.2 ms"), (0.25, "250 ms"), (4.123, "4.12 s"), (119, "119 s"),
        (600, "10 min"), (7_200, "2 h"), (259_200, "3 d"), (float("inf"), "-"), (float("nan"), "-"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (512 * 2**20, "512 MiB"), (2**50, "1024 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert output.size(count) == text


# --- bars ----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_for_terminals_and_leaves_data_alone() -> None:
    for stderr, shown in ((Terminal(), True), (io.StringIO(), False)):
        stdout = io.StringIO()
        ctx = SimpleNamespace(out=Output(Format.JSON, stdout=stdout, stderr=stderr))
        with bar(ctx, "counting") as show:  # type: ignore[arg-type]
            show(1, 3)
            show(3, 3)
        assert ("counting" in stderr.getvalue()) is shown
        assert stdout.getvalue() == ""


# --- times ---------------------------------------------------------------------------------


def test_times_as_people_type_them() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert times.since("90s", now) == now - timedelta(seconds=90)
    assert times.since("1.5h", now) == now - timedelta(minutes=90)
    assert times.since("2026-01-01T10:00Z") == now - timedelta(hours=2)
    assert times.since("2026-01-01 10:00") == now - timedelta(hours=2)
    with pytest.raises(ValueError, match="neither"):
        times.since("yesterday")
    for long_ago in ("999999d", "99999999999999d"):
        with pytest.raises(ValueError, match="longer ago"):
            times.since(long_ago)


# --- logs ----------------------------------------------------------------------------------

RECORDS = [
    {"ts": "2026-01-01T00:00:00Z", "level": "info", "event": "bus.reconnected", "area": "bus", "epoch": 2},
    {"ts": "2026-01-01T00:00:01Z", "level": "warning", "event": "projector.dead_letters", "area": "projector",
     "correlation_id": "c1", "causation_id": "e1", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"},
    {"ts": "2026-01-01T00:00:02Z", "level": "error", "event": "projector.stopped", "area": "projector",
     "correlation_id": "c2", "exception": "Traceback\n  boom", "ok": True},
]  # fmt: skip


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    path = tmp_path / "coord.log"
    lines = ["not json", *(json.dumps(r) for r in RECORDS), "[1, 2]", "{broken"]
    lines[1] = "Jan 01 00:00:00 host coord[1]: " + lines[1]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("options", "events"),
    [
        ([], ["bus.reconnected", "projector.dead_letters", "projector.stopped"]),
        (["--correlation", "c1"], ["projector.dead_letters"]),
        (["--causation", "e1"], ["projector.dead_letters"]),
        (["--trace", "4bf92f3577b34da6a3ce929d0e0e4736"], ["projector.dead_letters"]),
        (["--trace", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"], ["projector.dead_letters"]),
        (["--level", "warning"], ["projector.dead_letters", "projector.stopped"]),
        (["--area", "bus"], ["bus.reconnected"]),
        (["--event", "projector"], ["projector.dead_letters", "projector.stopped"]),
        (["--event", "projector.stopped"], ["projector.stopped"]),
        (["--event", "proj"], []),
        (["--since", "2026-01-01T00:00:02Z"], ["projector.stopped"]),
        (["-w", "epoch=2"], ["bus.reconnected"]),
        (["-w", "ok=true", "-w", "correlation_id=c2"], ["projector.stopped"]),
        (["-w", "correlation_id=c3"], []),
    ],
)
def test_logs_are_filtered(log_file: Path, options: list[str], events: list[str]) -> None:
    result = run_cli("logs", "filter", log_file, "-o", "jsonl", *options)
    assert [r["event"] for r in result.lines] == events
    assert result.code == (Exit.OK if events else Exit.NOT_FOUND)


def test_logs_are_readable_and_come_from_stdin(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(log_file.read_text()))
    result = run_cli("logs", "filter", "--level", "error")
    assert result.out == (
        "2026-01-01T00:00:02Z error   projector.stopped area=projector correlation_id=c2 ok=true\n"
        "    Traceback\n      boom\n"
    )


# --- config --------------------------------------------------------------------------------


def test_config_show_tells_the_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "coord.toml").write_text("[http]\nport = 1234\n")
    monkeypatch.setenv("COORD_LOG_LEVEL", "debug")
    result = run_cli("config", "show", "--origin", "--changed", "-o", "jsonl", "--database", "postgresql://u:pw@h/db")
    rows = {r["key"]: (r["value"], r["origin"]) for r in result.lines}
    assert rows == {
        "http.port": (1234, "coord.toml:2"),
        "log.level": ("debug", "COORD_LOG_LEVEL"),
        "database.url": ("postgresql://u:***@h/db", "--database"),
    }


def test_config_show_json_can_be_read_by_section() -> None:
    shown = run_cli("config", "show", "-o", "json").json
    assert shown["http"]["port"] == 9464
    assert "9464 " in f"{run_cli('config', 'show', 'http').out} ".replace("\n", " ")
    assert shown["publisher"]["retry"]["deadline_s"] == 30.0


def test_config_check(tmp_path: Path) -> None:
    assert run_cli("config", "check").code == 0
    (tmp_path / "coord.toml").write_text("[projector]\nwriters = 40\n")
    assert run_cli("config", "check").code == Exit.USAGE


def test_render_is_what_the_nats_tool_takes() -> None:
    config = run_cli("stream", "render", "EVENTS", "--profile", "cluster").json
    assert (config["name"], config["num_replicas"], config["max_age"]) == ("EVENTS", 3, 24 * 3600 * 10**9)
    assert "EVENTS/projector-15" in run_cli("stream", "render").json
    assert run_cli("stream", "render", "NOPE").code == 1


def test_dev_env_without_a_stack_is_not_found() -> None:
    result = run_cli("dev", "env")
    assert (result.code, result.out) == (Exit.NOT_FOUND, "")
