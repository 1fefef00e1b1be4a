"""``GET /v1/query/{name}``: the same questions over HTTP.

::

    GET /v1/query/tasks?status=dead&_rows=20     Authorization: Bearer …     If-None-Match: W/"…"
    200  ETag: W/"…"   Cache-Control: private, no-cache   Age: 3             or 304, without a body

The question's parameters are the query's; those that begin with ``_`` are the page's (`_rows`, `_after`) and what it
has to have seen (`_min_key`, `_min_seq`, `_min_stream`).  Whoever keeps an answer has to ask whether it still holds
(``no-cache``), which costs nobody anything while it does.

Whose fleet it is about, the token says: there is no request without one.  It is on a port of its own, so that
whoever may ask questions need not reach the probes, and cannot keep them busy.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from coord import errors, limits
from coord.bus import rpc
from coord.query.config import digest, tenants_of
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import query_api
from coord.wire.query_api import QueryAnswer, QueryRequest, Since

if TYPE_CHECKING:
    from starlette.requests import Request

    from coord.query.answering import Answering

_log = logs.get("query.http")

_ROWS: Final = "_rows"
_AFTER: Final = "_after"
_MIN: Final = {"_min_key": "key", "_min_seq": "seq", "_min_stream": "stream", "_min_epoch": "epoch"}
_ETAG: Final = re.compile(r'(?:W/)?"([A-Za-z0-9_-]+)"')
_SCHEME: Final = "bearer "
_KEPT: Final = {"cache-control": "private, no-cache", "vary": "Authorization"}
_NOT_KEPT: Final = {"cache-control": "no-store"}


class QueryHttp:
    """The route; it answers between `begin` and `end`."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tenants: Mapping[bytes, str] = {}
        self.allow(tokens)
        self._answering: Answering | None = None
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.routes: Final = (Route("/v1/query/{name}", self._get, methods=["GET"]),)

    def allow(self, tokens: Iterable[str]) -> None:
        """These tokens from now on, and no others.  Raises `SettingsError`."""
        self._tenants = tenants_of(tokens)

    def begin(self, answering: Answering) -> None:
        """There is somebody who answers."""
        self._answering = answering

    async def end(self) -> None:
        """Answer what was accepted and take no more.  Twice is legal."""
        self._answering = None
        await self._idle.wait()

    async def _get(self, request: Request) -> Response:
        self._active += 1
        self._idle.clear()
        try:
            return _answered(await self._answer(request))
        except errors.CoordError as exc:
            return _refused(exc)
        except Exception as exc:  # noqa: BLE001 - a defect is answered, logged and counted as such
            _log.error("query.http_failed", path=request.url.path, exc_info=exc)
            return _refused(errors.CoordError("the responder failed; its log says why"))
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def _answer(self, request: Request) -> QueryAnswer:
        tenant = self._tenant(request.headers.get("authorization", ""))
        asked = _asked(request.query_params.multi_items(), request.headers.get("if-none-match", ""))
        deadline = request.headers.get(rpc.DEADLINE)
        answering = self._answering
        if answering is None:
            raise errors.ServiceUnavailable("the query service is not ready")
        try:
            until = asyncio.get_running_loop().time()
            until += rpc.deadline_s({} if deadline is None else {rpc.DEADLINE: deadline})
            async with asyncio.timeout_at(until):
                name = request.path_params["name"]
                return await answering.answer(tenant, name, asked, limits.QUERY_ANSWER_BYTES, until)
        except TimeoutError:
            raise errors.DeadlineExceeded("the caller's deadline passed before the answer") from None

    def _tenant(self, authorization: str) -> str:
        # By its digest: how long the look-up takes says nothing about the tokens there are.
        token = authorization[len(_SCHEME) :] if authorization[: len(_SCHEME)].lower() == _SCHEME else ""
        found = self._tenants.get(digest(token))
        if found is None:
            raise errors.Unauthorized
        return found


def _asked(query: list[tuple[str, str]], if_none_match: str) -> QueryRequest:
    """What the parameters and headers ask for; raises `QueryError`."""
    given = dict(query)
    if len(given) != len(query):
        raise errors.QueryError("a parameter is given twice")
    if unknown := [name for name in given if name.startswith("_") and name not in {_ROWS, _AFTER, *_MIN}]:
        raise errors.QueryError(f"there is no parameter {unknown[0][:64]!r}")
    since = {field: given.pop(name) for name, field in _MIN.items() if name in given}
    page: dict[str, Any] = {"rows": given.pop(_ROWS)} if _ROWS in given else {}
    found = (query_api.read_etag(text) for text in _ETAG.findall(if_none_match[: 8 * limits.QUERY_TOKEN_BYTES_MAX]))
    etag = next((str(one) for one in found if one is not None), None)
    try:
        return msgspec.convert(
            page | {"after": given.pop(_AFTER, None), "etag": etag, "params": given, "min_watermark": since or None},
            QueryRequest,
            strict=False,
        )
    except msgspec.ValidationError as exc:
        raise errors.QueryError(str(exc)) from None


def _answered(answer: QueryAnswer) -> Response:
    headers = _KEPT | {"etag": f'W/"{answer.etag}"'}
    if not answer.modified:
        return Response(None, 304, headers=headers)
    age_s = clock.unix() - answer.read_at.timestamp()
    headers |= {"age": str(max(0, int(age_s))), "content-type": "application/json"}
    return Response(msgspec.json.encode(answer), headers=headers)


def _refused(error: errors.CoordError) -> Response:
    headers = _NOT_KEPT | {"content-type": "application/json"}
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.Overloaded):
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return Response(msgspec.json.encode(rpc.describe(error)), rpc.status(error), headers=headers)


assert Since.__struct_fields__ == tuple(_MIN.values())
