"""From the broker's error codes to coord's error tree.

The numbers are nats-server's ``ApiErrors`` (server/errors.json); only those that need a
type of their own are listed, every other one becomes `PublishRefused` or `BusError` with
``server_code`` set.
"""

from __future__ import annotations

from typing import Any

from coord import errors

_PUBLISH: dict[int, type[errors.PublishRefused]] = {
    10054: errors.MessageTooLarge,
    10060: errors.WrongLastSequence,  # expected stream mismatch
    10071: errors.WrongLastSequence,
    10077: errors.StreamFull,  # maximum messages / bytes (per subject) exceeded
    10164: errors.WrongLastSequence,
    10047: errors.StreamFull,  # insufficient storage resources
    10023: errors.StreamFull,  # insufficient resources
    10028: errors.StreamFull,  # resource limits exceeded for the account
    10122: errors.StreamFull,  # server-wide storage limits
}

_API_NOT_FOUND = frozenset({10014, 10037, 10059})  # consumer, message, stream
# cluster not available / no leader / not enabled yet / stream or consumer offline: its servers are away
_API_RETRY = frozenset({10008, 10007, 10039, 10076, 10118, 10119})


def publish_error(error: dict[str, Any], subject: str) -> errors.PublishRefused:
    """The typed error of a PubAck's ``error`` object."""
    code = int(error.get("err_code") or 0)
    description = str(error.get("description") or "refused")
    kind = _PUBLISH.get(code, errors.PublishRefused)
    return kind(description, server_code=code, subject=subject)


def api_error(error: dict[str, Any], request: str) -> errors.BusError:
    """The typed error of a JetStream API answer's ``error`` object."""
    code = int(error.get("err_code") or 0)
    description = str(error.get("description") or "refused")
    if code in _API_NOT_FOUND:
        return errors.ApiNotFound(description, server_code=code, request=request)
    if code in _API_RETRY or int(error.get("code") or 0) == 503:
        return errors.ApiUnavailable(description, server_code=code, request=request)
    return errors.BusError(description, server_code=code, request=request)
