"""What ends soon is named before it does, by `coord doctor`: in files, whatever the servers say."""

from __future__ import annotations

import base64
import json
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coord import errors
from coord.bus.connection import NatsConfig
from coord.ops import doctor, expiries
from coord.ops.checks import Check, Subject
from coord.ops.settings import Loaded, Settings
from coord.server.config import PresenceConfig
from coord.store.config import DatabaseConfig
from tests.support import nkeys

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def part(tag: int, *content: bytes) -> bytes:
    """DER, its length in one byte or in three."""
    body = b"".join(content)
    return bytes([tag]) + (bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2)) + body


def pem(begins: datetime, ends: datetime, *, version: bool = True) -> str:
    """As much of a certificate as says from when until when."""
    times = [
        part(0x17, f"{at:%y%m%d%H%M%SZ}".encode()) if at.year < 2050 else part(0x18, f"{at:%Y%m%d%H%M%SZ}".encode())
        for at in (begins, ends)
    ]
    head = [part(0xA0, part(2, b"\2"))] if version else []
    tbs = part(0x30, *head, part(2, b"\7"), part(0x30), part(0x30), part(0x30, *times), part(0x30, b"x" * 300))
    return ssl.DER_cert_to_PEM_cert(part(0x30, tbs, part(0x30), part(3, b"\0")))


def creds(begins: datetime, ends: datetime | None) -> str:
    said = {"iat": begins.timestamp()} | ({"exp": ends.timestamp()} if ends else {})
    claims = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    return re.sub(r"(JWT-+\n)\S+", rf"\g<1>e30.{claims}.sig", nkeys.Operator().creds(1.0), count=1)


@pytest.mark.parametrize(
    ("began_days", "left_days", "state", "said"),
    [
        (335, 30.5, "ok", "in 30 days"),
        (335, 29.5, "warn", "in 29 days"),
        (5, 2.1, "ok", "in 2 days"),  # a week's, renewed with a third left
        (6, 1.2, "warn", "in 29 hours"),
        (90, -0.5, "fail", "has ended 2026-11-23 00:00 UTC, 12 hours ago"),
        (-1, 90, "fail", "only from 2026-11-24 12:00 UTC"),
        (1, 50 * 365, "ok", "ends 2076"),
    ],
)
async def test_each_file_is_judged_by_what_is_left(
    tmp_path: Path, began_days: float, left_days: float, state: str, said: str
) -> None:
    begins, ends = NOW - began_days * DAY, NOW + left_days * DAY
    cert, ca, login = tmp_path / "cert.pem", tmp_path / "ca.pem", tmp_path / "c.creds"
    later = pem(NOW - DAY, NOW + 40_000 * DAY)
    cert.write_text(later + pem(begins, ends))  # of a chain the first to end
    ca.write_text(pem(NOW - 900 * DAY, NOW - DAY, version=False) + pem(begins, ends))  # of authorities the last
    login.write_text(creds(begins, ends))
    found = await checks(
        nats=NatsConfig(creds_file=str(login), tls_ca_file=str(ca), tls_cert_file=str(cert), tls_key_file="k"),
        database=DatabaseConfig(url=f"postgresql://h/d?sslmode=verify-full&sslrootcert={ca}&sslcert={cert}"),
    )
    assert set(found) == {
        "nats.creds_file", "nats.tls_cert_file", "nats.tls_ca_file", "database.url sslcert", "database.url sslrootcert"
    }  # fmt: skip
    for check in found.values():
        assert (check.state, said in check.detail) == (state, True), check
        assert check.state == "ok" or check.fix


async def test_what_cannot_be_understood_is_said_of_the_file(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    config = NatsConfig(tls_ca_file=str(tmp_path / "absent.pem"), tls_cert_file=str(broken), tls_key_file="k")
    presence = PresenceConfig(system_creds_file=str(broken))
    for text in ("", pem(NOW, NOW)[:200], ssl.DER_cert_to_PEM_cert(b"\x30\x03\x30\x01"), ssl.DER_cert_to_PEM_cert(b"")):
        broken.write_text(text)
        found = await checks(nats=config, presence=presence)
        assert {check.state for check in found.values()} == {"fail"}
        assert "cannot be read: No such file" in found["nats.tls_ca_file"].detail
        assert "cannot be understood" in found["nats.tls_cert_file"].detail
        assert "is no .creds file" in found["presence.system_creds_file"].detail
    broken.write_text(creds(NOW, None))
    assert (await checks(presence=presence))["presence.system_creds_file"].detail == "the login does not end"


async def test_doctor_asks_though_no_server_is_there(tmp_path: Path) -> None:
    login = tmp_path / "c.creds"
    login.write_text(creds(NOW - 9 * DAY, NOW - DAY))
    found = Settings(
        nats=NatsConfig(urls=("nats://127.0.0.1:1",), connect_timeout_s=0.05),
        presence=PresenceConfig(system_creds_file=str(login)),
        database=DatabaseConfig(url="postgresql://127.0.0.1:1/none", connect_timeout_s=0.2),
    )
    (said,) = [check for check in await doctor.examine(Loaded(found, {})) if check.area == "expiry"]
    assert (said.name, said.state) == ("presence.system_creds_file", "fail")


async def checks(**sections: Any) -> dict[str, Check]:
    unreached = errors.NotConnected()
    it = Subject(settings=Settings(**sections), conn=unreached, pool=unreached, preflight=False, monitor=None)
    return {check.name: check for check in await expiries.check(it, NOW)}
