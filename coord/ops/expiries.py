"""When certificates and logins end: those in the files that the settings name, and those that the servers show.

What is renewed by itself is renewed in time: Let's Encrypt's with a third of its life left, cert-manager's likewise.
So what has less than a quarter left, or less than a month where that is sooner, has been forgotten or its renewal
fails, and is named while there is time.  What was renewed in place needs nothing more: files are read again at each
connection.

Of a bundle of authorities the last to end counts (the one before it is being replaced), of a chain the first.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from coord import errors, limits
from coord.bus import creds
from coord.ops.checks import Check, Subject, fail, ok, skip, warn
from coord.ops.settings import Settings
from coord.store.pool import Pool

AREA: Final = "expiry"

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _CONTEXT_0 = 0x17, 0xA0


class Term(msgspec.Struct, frozen=True):
    """From when until when something is valid."""

    begins: datetime
    ends: datetime | None
    """None: for ever."""


class _Claims(msgspec.Struct, frozen=True):
    iat: float = 0.0
    exp: float | None = None


def of_certificate(der: bytes) -> Term:
    """The validity of an X.509 certificate.  Raises `ValueError` when it is none."""
    try:
        _, tbs = next(_parts(next(_parts(der))[1]))
        fields = _parts(tbs)
        tag, _ = next(fields)
        if tag == _CONTEXT_0:  # the version, which only the first one leaves out
            next(fields)
        next(fields), next(fields)  # the algorithm, the issuer
        begins, ends = (_time(*part) for part in _parts(next(fields)[1]))
    except StopIteration as exc:
        raise ValueError("cut off") from exc
    return Term(begins, ends)


def of_jwt(jwt: bytes) -> Term:
    """The time that a JWT says of itself; its signature is the broker's to check.  Raises `ValueError`."""
    try:
        body = jwt.split(b".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)), type=_Claims)
        return Term(_moment(claims.iat), None if claims.exp is None else _moment(claims.exp))
    except (IndexError, OverflowError, OSError, binascii.Error, msgspec.MsgspecError) as exc:
        raise ValueError("it is no JWT") from exc


def judged(name: str, what: str, term: Term, now: datetime, fix: str) -> Check:
    """The check of one of them."""
    if term.ends is None:
        return ok(AREA, name, f"{what} does not end")
    left, until = term.ends - now, f"{term.ends:%Y-%m-%d %H:%M} UTC"
    if left <= timedelta(0):
        return fail(AREA, name, f"{what} has ended {until}, {_span(-left)} ago", fix)
    said = f"{what} ends {until}, in {_span(left)}"
    if term.begins > now + timedelta(seconds=limits.EXPIRY_SKEW_S):
        return fail(AREA, name, f"{what} is valid only from {term.begins:%Y-%m-%d %H:%M} UTC", fix)
    soon = min(timedelta(days=limits.EXPIRY_WARN_DAYS), (term.ends - term.begins) * limits.EXPIRY_WARN_SHARE)
    return warn(AREA, name, said, fix) if left < soon else ok(AREA, name, said)


async def check(it: Subject, now: datetime) -> list[Check]:
    """One for each file and each server; none where there is neither."""
    checks = [_of_file(name, path, now) for name, path in _files(it.settings)]
    shown: list[tuple[str, Any]] = []
    if not isinstance(it.conn, errors.CoordError):
        shown.append(("broker", it.conn.certificate))
    if isinstance(it.pool, Pool):
        async with it.pool.acquire() as conn:
            tls = conn._transport.get_extra_info("ssl_object")  # type: ignore[attr-defined]  # noqa: SLF001
            shown.append(("database", tls and tls.getpeercert(binary_form=True)))
    return checks + [_of_server(name, der, now) for name, der in shown if der]


def _files(found: Settings) -> Iterator[tuple[str, str]]:
    nats = found.nats
    yield from (
        (name, path)
        for name, path in (
            ("nats.creds_file", nats.creds_file),
            ("nats.tls_cert_file", nats.tls_cert_file),
            ("nats.tls_ca_file", nats.tls_ca_file),
            ("presence.system_creds_file", found.presence.system_creds_file),
        )
        if path
    )
    for name, url in (("database.url", found.database.url), ("database.replica_url", found.database.replica_url)):
        asked = parse_qs(urlsplit(url or "").query)
        for key in ("sslcert", "sslrootcert"):
            yield from ((f"{name} {key}", path) for path in asked.get(key, []) if path != "system")


def _of_server(name: str, der: bytes, now: datetime) -> Check:
    fix = "Renew it there: whoever connects afterwards is told that the server cannot be trusted."
    try:
        return judged(name, "the server's certificate", of_certificate(der), now, fix)
    except ValueError as exc:
        return skip(AREA, name, f"the server's certificate cannot be understood: {exc}")


def _of_file(name: str, path: str, now: datetime) -> Check:
    fix = f"Write a new one to {path}; whoever connects after that uses it, nothing is restarted."
    try:
        if name.endswith("creds_file"):
            return judged(name, "the login", of_jwt(creds.read(path)[0]), now, fix)
        terms = [of_certificate(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(Path(path).read_text("ascii"))]
        if not terms:
            raise ValueError("there is no certificate in it")
    except errors.SettingsError as exc:
        return fail(AREA, name, exc.message, fix)
    except OSError as exc:
        return fail(AREA, name, f"{path} cannot be read: {exc.strerror or exc}", fix)
    except ValueError as exc:
        return fail(AREA, name, f"{path} cannot be understood: {exc}", fix)
    trusted = name.endswith(("ca_file", "sslrootcert"))
    term = (max if trusted else min)(terms, key=lambda term: term.ends or now)
    return judged(name, "the authority's certificate" if trusted else "the certificate", term, now, fix)


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each thing in a row.  Raises `ValueError`."""
    at = 0
    while at < len(der):
        if at + 2 > len(der):
            raise ValueError("cut off")
        tag, size, begin = der[at], der[at + 1], at + 2
        if size & 0x80:
            digits = size & 0x7F
            begin, size = begin + digits, int.from_bytes(der[begin : begin + digits])
        at = begin + size
        if at > len(der):
            raise ValueError("cut off")
        yield tag, der[begin:at]


def _time(tag: int, text: bytes) -> datetime:
    # RFC 5280: to the second, in UTC; two digits of the year until 2049.
    digits = text.decode("ascii")
    if tag == _UTC_TIME:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _span(of: timedelta) -> str:
    hours = of.total_seconds() / 3600
    return (
        f"{int(hours // 24)} days" if hours >= 48 else f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} min"
    )
