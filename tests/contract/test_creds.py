"""Logins that change: whose JWT has ended or password is another one is told so, and comes back when it is renewed."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from tests.support import nkeys
from tests.support.waiting import until


async def test_who_has_expired_is_told_and_comes_back_renewed(start_nats, tmp_path: Path) -> None:
    operator = nkeys.Operator()
    server = await start_nats(extra=operator.config, system=False)
    file = tmp_path / "mine.creds"
    file.write_text(operator.creds(600.0))
    config = NatsConfig(urls=(server.url,), creds_file=str(file), connect_timeout_s=0.3, reconnect_wait_s=0.05)
    conn = await Connection.open(config, name="test")

    def lose() -> int:
        conn.client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
        return conn.epoch

    file.write_text(operator.creds(-10.0))
    epoch = lose()
    await until(lambda: conn.refused)
    assert conn.refused == errors.BrokerLoginRefused.code
    with pytest.raises(errors.BrokerLoginRefused, match="does not let this login in"):
        await conn.request("anything")
    with pytest.raises(errors.BrokerLoginRefused, match="does not let this login in"):
        await Connection.open(config, name="late")
    file.write_text(operator.creds(600.0))
    await until(lambda: conn.epoch > epoch and conn.is_connected)
    await conn.flush()
    file.write_text("half of")  # what was read last holds
    epoch = lose()
    await until(lambda: conn.epoch > epoch and conn.is_connected)
    await conn.close()


async def test_a_password_is_changed_while_it_is_used(start_nats, tmp_path: Path) -> None:
    server = await start_nats(extra="authorization { users: [{ user: u, password: first }] }", system=False)
    file, conf = tmp_path / "password", server.folder / "nats.conf"
    file.write_text("first\n")
    config = NatsConfig(urls=(server.url,), user="u", password_file=str(file), reconnect_wait_s=0.05)
    conn = await Connection.open(config, name="test")
    for number, (password, late) in enumerate((("second", False), ("third", True)), conn.epoch + 1):
        file.write_text("" if late else password)  # what was read last holds, and is refused
        conf.write_text(conf.read_text().replace("first", password).replace("second", password))
        os.kill(server.pid, signal.SIGHUP)
        if late:
            await until(lambda: conn.refused)
            assert conn.refused == errors.BrokerLoginRefused.code
            file.write_text(password)
        await until(partial(back, conn, number))
        await conn.flush()
    await conn.close()


def back(conn: Connection, epoch: int) -> bool:
    return conn.epoch >= epoch and conn.is_connected


async def test_what_cannot_be_used_is_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = NatsConfig(creds_file=str(tmp_path / "mine.creds"))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "nacl.signing", None)
        with pytest.raises(errors.ExtraMissing, match=r"pip install 'coord\[nkeys\]'"):
            await Connection.open(config, name="test")
    with pytest.raises(errors.SettingsError, match="cannot be read"):
        await Connection.open(config, name="test")
    (tmp_path / "mine.creds").write_text("x")
    with pytest.raises(errors.SettingsError, match=r"no \.creds file"):
        await Connection.open(config, name="test")
    for text in (None, b"", b"\xff"):
        if text is not None:
            (tmp_path / "password").write_bytes(text)
        with pytest.raises(errors.SettingsError, match="password"):
            await Connection.open(NatsConfig(user="u", password_file=str(tmp_path / "password")), name="test")
