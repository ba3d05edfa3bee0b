"""One uploaded file and the fields beside it, of a multipart body: written as it comes, bounded in bytes and time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from .errors import ApiError, bad_request

MAX_PARTS = 8
MAX_FIELD_BYTES = 1024
MAX_HEADER_BYTES = 4096
MAX_NAME = 255
_HEADS = 64 << 10  # bytes of a body that may be around the file
_SLOWEST = 128 << 10  # bytes a second, on the whole
_LEAST = 16 << 10  # bytes a second, at any time: what only trickles holds up other uploads
_DROPPED, _DROP_SECONDS = 1 << 20, 2.0  # of what a refused client still sends


@dataclass(slots=True)
class Upload:
    """What has come. `size` and `filename` are those of the part `file`."""

    filename: str | None = None
    size: int = 0
    fields: dict[str, str] = field(default_factory=dict)


async def receive(request: Request, sink: BinaryIO, max_bytes: int, patience: float) -> Upload:
    """Write the part `file` to `sink`. `patience`: seconds that a client may send nothing.

    Raises ApiError, perhaps with a part of the body unread: 403 for a web page of another origin, 408, 413, 415, or 400
    with the field's name.
    """
    body = _Body(request, patience)
    try:
        return await _receive(request, body, sink, max_bytes)
    except ApiError:
        await body.let_come()
        raise


async def _receive(request: Request, body: _Body, sink: BinaryIO, max_bytes: int) -> Upload:
    # Unlike JSON, a form is what a page in a browser can post to a loopback address unasked; but it says who it is.
    if not _of_this_server(request.headers.get("origin"), request.headers.get("host", "")):
        raise ApiError(403, "Pages of another origin may not upload files here.", code="cross_origin")
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(415, "A file is uploaded as `multipart/form-data`, with the fields `file` and `purpose`.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "A compressed body is not accepted; send it without Content-Encoding.")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes + _HEADS):
        raise _too_large(max_bytes)
    form = _Form(sink, max_bytes)
    try:
        parser = MultipartParser(boundary, form.callbacks)
        async with asyncio.timeout(body.patience) as limit:
            received, begun = 0, asyncio.get_running_loop().time()
            while not body.over:
                chunk = await body.read()
                received += len(chunk)
                limit.reschedule(begun + body.patience + min(max_bytes / _SLOWEST, received / _LEAST))
                if received > max_bytes + _HEADS:
                    raise _too_large(max_bytes)
                if chunk:
                    await asyncio.to_thread(parser.write, chunk)
    except TimeoutError:
        raise ApiError(408, "The file did not arrive in time.") from None
    except FormParserError:
        raise bad_request("The body is not valid multipart/form-data.", code="invalid_multipart") from None
    if not form.ended:
        raise bad_request("The body ends before its last boundary.", code="invalid_multipart")
    return form.upload


def _of_this_server(origin: str | None, host: str) -> bool:
    """A page of this server's sends the request, or no page at all."""
    try:
        return origin is None or urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # "http://["
        return False


class _Body:
    """A request's body as it comes. `over` once its end has been read."""

    def __init__(self, request: Request, patience: float) -> None:
        self.patience = patience
        self.over = False
        self._receive = request.receive

    async def read(self) -> bytes:
        """What comes next. Raises TimeoutError after `patience` seconds of nothing, ClientDisconnect."""
        async with asyncio.timeout(self.patience):
            message = await self._receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        self.over = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def let_come(self) -> None:
        """Read on for a little, and drop it: to close upon unread bytes is to cut off one's own answer."""
        left = _DROPPED
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(_DROP_SECONDS):
                while not self.over and left > 0:
                    left -= len(await self.read())


class _Form:
    """The parser's callbacks. Parts other than `file` are short texts."""

    def __init__(self, sink: BinaryIO, max_bytes: int) -> None:
        self.upload = Upload()
        self.ended = False
        self._sink = sink
        self._max_bytes = max_bytes
        self._parts = 0
        self._header = self._value = b""
        self._disposition = b""
        self._name = ""
        self._text = b""
        self.callbacks: Any = {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise bad_request(f"The form has more than {MAX_PARTS} fields.", code="invalid_multipart")
        self._disposition = self._text = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._bound_header()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound_header()

    def _bound_header(self) -> None:
        if len(self._header) + len(self._value) > MAX_HEADER_BYTES:
            raise bad_request(f"A header in the form exceeds {MAX_HEADER_BYTES} bytes.", code="invalid_multipart")

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition.decode("latin-1"))
        try:
            self._name = options.get(b"name", b"").decode()
            filename = options[b"filename"].decode() if b"filename" in options else None
        except UnicodeDecodeError:
            raise bad_request("file: its name is not UTF-8", "file") from None
        if kind != b"form-data" or not self._name:
            raise bad_request("A field of the form has no name.", code="invalid_multipart")
        if self._name in self.upload.fields or (self._name == "file" and self.upload.filename is not None):
            raise bad_request("The form has a field twice.", self._name[:64], "invalid_multipart")
        if self._name == "file":
            self.upload.filename = _checked(filename)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.upload.size += end - start
            if self.upload.size > self._max_bytes:
                raise _too_large(self._max_bytes)
            self._sink.write(data[start:end])
        else:
            self._text += data[start:end]
            if len(self._text) > MAX_FIELD_BYTES:
                raise bad_request(f"A field of the form has more than {MAX_FIELD_BYTES} bytes.", self._name[:64])

    def _part_end(self) -> None:
        if self._name != "file":
            self.upload.fields[self._name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True


def _checked(name: str | None) -> str:
    """A name that is shown and never used as one on the disk, and still may not look like a path."""
    if name is None:
        raise bad_request("file: must be a file, with a filename", "file")
    if not (0 < len(name) <= MAX_NAME and name.isprintable()) or name in (".", "..") or "/" in name or "\\" in name:
        raise bad_request(f"file: its name has 1 to {MAX_NAME} printable characters and no slashes", "file")
    return name


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"A file has at most {limit} bytes here.", param="file")
