"""Keys, JWTs and .creds files of NATS, for tests: Ed25519 as RFC 8032 writes it down, slow and in the open."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
_Point = tuple[int, int, int, int]


def _x_of(y: int) -> int:
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    x = x * _ROOT % _P if (x * x - square) % _P else x
    return _P - x if x % 2 else x


_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE: _Point = (_x_of(_Y), _Y, 1, _x_of(_Y) * _Y % _P)


def _add(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(n: int, p: _Point) -> _Point:
    found: _Point = (0, 1, 1, 0)
    while n:
        found, p, n = (_add(found, p) if n % 2 else found), _add(p, p), n // 2
    return found


def _bytes(p: _Point) -> bytes:
    inverse = pow(p[2], _P - 2, _P)
    x, y = p[0] * inverse % _P, p[1] * inverse % _P
    return (y | (x % 2) << 255).to_bytes(32, "little")


def _number(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def _text(raw: bytes) -> str:
    """As NATS writes keys: base32, with a CRC-16 behind it."""
    crc = 0
    for byte in raw:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return base64.b32encode(raw + crc.to_bytes(2, "little")).decode().rstrip("=")


class Key:
    """Of an operator (``O``), an account (``A``) or a user (``U``)."""

    def __init__(self, kind: str, secret: bytes | None = None) -> None:
        self._kind = ("ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(kind)) << 3
        self._secret = secret or secrets.token_bytes(32)
        digest = hashlib.sha512(self._secret).digest()
        self._scalar = int.from_bytes(digest[:32], "little") & ~7 & (1 << 254) - 1 | 1 << 254
        self._prefix = digest[32:]
        self.public = _bytes(_times(self._scalar, _BASE))

    @property
    def name(self) -> str:
        """Its public half, as NATS writes it."""
        return _text(bytes([self._kind]) + self.public)

    @property
    def seed(self) -> str:
        """Its secret, as NATS writes it."""
        kind = ord("S") - ord("A") << 3
        return _text(bytes([kind | self._kind >> 5, (self._kind & 31) << 3]) + self._secret)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        r = _number(self._prefix, message) % _L
        point = _bytes(_times(r, _BASE))
        s = (r + _number(point, self.public, message) * self._scalar) % _L
        return point + s.to_bytes(32, "little")

    def jwt(self, of: Key, said: dict[str, Any], lives_s: float | None = None) -> str:
        """What this key says of another one."""
        claims = {
            "jti": secrets.token_hex(8),
            "iat": int(time.time()),
            "iss": self.name,
            "sub": of.name,
            "name": "test",
        }
        claims |= {"nats": {"version": 2, **said}} | ({} if lives_s is None else {"exp": int(time.time() + lives_s)})
        text = ".".join(_url(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims))
        return f"{text}.{_url(self.sign(text.encode()))}"


def _url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Operator:
    """Of a broker with one account, that writes .creds files of users."""

    def __init__(self) -> None:
        self._operator, self._account, self._system = Key("O"), Key("A"), Key("A")

    @property
    def config(self) -> str:
        """For nats-server."""
        accounts = {
            account.name: self._operator.jwt(account, {"type": "account", "limits": _UNLIMITED})
            for account in (self._account, self._system)
        }
        known = ", ".join(f'{name}: "{jwt}"' for name, jwt in accounts.items())
        own = self._operator.jwt(self._operator, {"type": "operator"})
        system = f"system_account: {self._system.name}"
        return f'operator: "{own}"\nresolver: MEMORY\nresolver_preload {{ {known} }}\n{system}\n'

    def creds(self, lives_s: float) -> str:
        """The file of a new user."""
        user = Key("U")
        jwt = self._account.jwt(user, {"type": "user", "subs": -1, "data": -1, "payload": -1}, lives_s)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )


_UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1) | {"wildcards": True}
