"""A small S3-compatible store on loopback: as much of the protocol as pyarrow's S3FileSystem speaks.

Objects are in memory; a multipart upload is there when it is completed, and not before.  Signatures are not
checked.  `fail` makes it refuse requests, as a store does that is full or out of order.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

_WHEN = "2026-01-01T00:00:00.000Z"
_HTTP_WHEN = "Thu, 01 Jan 2026 00:00:00 GMT"


class Store:
    """One bucket: `objects` by key."""

    def __init__(self, bucket: str = "bucket") -> None:
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], int | None] = lambda _method, _key: None
        """(method, key) -> the status to refuse with, or None."""
        self.lock = threading.Lock()
        self.port = 0

    @property
    def url(self) -> str:
        """As `archive.url` wants it."""
        return (
            f"s3://test:test@{self.bucket}/archive?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        )


@contextmanager
def s3_store() -> Iterator[Store]:
    """A running store; ended with the block."""
    store = Store()

    class Handler(_Handler):
        pass

    Handler.store = store
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing on stderr."""

    # --- verbs ---

    def do_GET(self) -> None:
        key, query = self._begin()
        if self._refused(key):
            return
        if not key:
            self._list(query)
            return
        body = self.store.objects.get(key)
        if body is None:
            self._answer(404, _error("NoSuchKey"))
            return
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
            self._answer(
                206,
                body[begin : end + 1],
                {"Content-Range": f"bytes {begin}-{end}/{len(body)}", **_object_headers(body)},
            )
            return
        self._answer(200, body, _object_headers(body))

    def do_HEAD(self) -> None:
        key, _ = self._begin()
        if self._refused(key):
            return
        if not key:
            self._answer(200)
            return
        body = self.store.objects.get(key)
        if body is None:
            self._answer(404)
        else:
            self._answer(200, body, _object_headers(body))

    def do_PUT(self) -> None:
        key, query = self._begin()
        body = self._body()
        if self._refused(key):
            return
        source = self.headers.get("x-amz-copy-source")
        with self.store.lock:
            if "partNumber" in query:
                parts = self.store.uploads.get(query["uploadId"])
                if parts is None:
                    self._answer(404, _error("NoSuchUpload"))
                    return
                parts[int(query["partNumber"])] = body
                self._answer(200, headers={"ETag": _etag(body)})
                return
            if source is not None:
                name = unquote(source).lstrip("/").removeprefix(f"{self.store.bucket}/")
                found = self.store.objects.get(name)
                if found is None:
                    self._answer(404, _error("NoSuchKey"))
                    return
                self.store.objects[key] = found
                text = f"<LastModified>{_WHEN}</LastModified><ETag>{_etag(found)}</ETag>"
                self._answer(200, f"<CopyObjectResult>{text}</CopyObjectResult>".encode())
                return
            if key:
                self.store.objects[key] = body
        self._answer(200, headers={"ETag": _etag(body)})

    def do_POST(self) -> None:
        key, query = self._begin()
        body = self._body()
        if self._refused(key):
            return
        bucket = self.store.bucket
        with self.store.lock:
            if "uploads" in query:
                upload = f"upload{len(self.store.requests)}"
                self.store.uploads[upload] = {}
                text = (
                    f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
                    f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                )
            elif "uploadId" in query:
                parts = self.store.uploads.pop(query["uploadId"])
                whole = self.store.objects[key] = b"".join(parts[number] for number in sorted(parts))
                text = (
                    f"<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
                    f"<ETag>{_etag(whole)}</ETag></CompleteMultipartUploadResult>"
                )
            else:  # delete several
                import xml.etree.ElementTree as ET

                for element in ET.fromstring(body).iter():
                    if element.tag.endswith("Key"):
                        self.store.objects.pop(element.text or "", None)
                text = "<DeleteResult></DeleteResult>"
        self._answer(200, text.encode())

    def do_DELETE(self) -> None:
        key, query = self._begin()
        if self._refused(key):
            return
        with self.store.lock:
            if "uploadId" in query:
                self.store.uploads.pop(query["uploadId"], None)
            else:
                self.store.objects.pop(key, None)
        self._answer(204)

    # --- parts of an answer ---

    def _begin(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        path = unquote(parts.path).lstrip("/")
        key = path.removeprefix(self.store.bucket).lstrip("/")
        self.store.requests.append((self.command, key))
        return key, {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}

    def _refused(self, key: str) -> bool:
        status = self.store.fail(self.command, key)
        if status is not None:
            self._answer(status, _error("InsufficientStorage"))
        return status is not None

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in (self.headers.get("Content-Encoding") or ""):
            return body
        pieces, rest = [], body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size.partition(b";")[0], 16)
            if not length:
                break
            pieces.append(rest[:length])
            rest = rest[length + 2 :]
        return b"".join(pieces)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            """Trailers."""

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        if "location" in query:
            self._answer(200, b"<LocationConstraint>us-east-1</LocationConstraint>")
            return
        entries, folders = [], set()
        for key, body in sorted(self.store.objects.items()):
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folders.add(prefix + head + delimiter)
                continue
            entries.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{_WHEN}</LastModified><ETag>{_etag(body)}</ETag>"
                f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        entries += [f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)]
        self._answer(
            200,
            f"<ListBucketResult><Name>{self.store.bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(entries)}</KeyCount><MaxKeys>1000000</MaxKeys><IsTruncated>false</IsTruncated>"
            f"{''.join(entries)}</ListBucketResult>".encode(),
        )

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _object_headers(body: bytes) -> dict[str, str]:
    return {"ETag": _etag(body), "Last-Modified": _HTTP_WHEN, "Accept-Ranges": "bytes"}


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def _error(code: str) -> bytes:
    return f"<Error><Code>{quote(code)}</Code><Message>{code}</Message></Error>".encode()
