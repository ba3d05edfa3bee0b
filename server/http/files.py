"""/v1/files: what batches read and write. Uploads are checked line by line before they are taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from ..batch.lines import survey
from ..batch.records import StoredFile, new_file_id
from ..batch.store import Store
from .config import HttpConfig
from .errors import ApiError, bad_request, unavailable
from .storage import Owner, after_of, limit_of, page, query, switched_off, worded
from .upload import Upload, receive

log = logging.getLogger("yardmaster.http")

PURPOSE = "batch"
MAX_UPLOADS = 8  # at once, per process; more wait their turn
MAX_PAGE = 10_000
MIN_KEEP, MAX_KEEP = 3600, 30 * 24 * 3600  # seconds, OpenAI's

_CHUNK = 256 << 10


def router(store: Store | None, config: HttpConfig, owner: Owner) -> APIRouter:
    if store is None:
        return switched_off("/v1/files")
    routes = APIRouter(tags=["files"])
    slots = asyncio.Semaphore(MAX_UPLOADS)

    @routes.post("/v1/files", openapi_extra=_FORM)
    async def create_file(request: Request) -> dict[str, Any]:
        """Upload the requests of a batch, as JSON lines."""
        try:
            async with _place(slots, config.body_timeout):
                file = await _take(request, store, owner(request), config.body_timeout)
        except ApiError as refusal:
            refusal.headers["connection"] = "close"  # what else there is of the body is not wanted
            raise
        return file.body

    @routes.get("/v1/files", openapi_extra=_LIST)
    async def list_files(request: Request) -> dict[str, Any]:
        """Uploaded files and those that batches wrote. `purpose`, `limit`, `order` (asc or desc), `after`."""
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise bad_request("order: asc or desc", "order")
        limit, purpose = limit_of(request, MAX_PAGE, MAX_PAGE), request.query_params.get("purpose")
        with worded("file", "file_id"):
            return page(
                *await store.run(store.files, owner(request), purpose, limit, order == "desc", after_of(request))
            )

    @routes.get("/v1/files/{file_id}")
    async def retrieve_file(request: Request, file_id: str) -> dict[str, Any]:
        """What a file is called, and how large it is."""
        with worded("file", "file_id"):
            return (await store.run(store.file, owner(request), file_id)).body

    @routes.get("/v1/files/{file_id}/content", response_class=Response)
    async def retrieve_file_content(request: Request, file_id: str) -> Response:
        """The file itself."""
        with worded("file", "file_id"):
            file = await store.run(store.file, owner(request), file_id)
        try:
            content = await asyncio.to_thread(store.shelf.path(file_id).open, "rb")
        except FileNotFoundError:
            raise ApiError(404, "This file is gone from the disk.", param="file_id", code="file_not_found") from None
        return _Content(content, file.bytes, config.send_timeout)

    @routes.delete("/v1/files/{file_id}")
    async def delete_file(request: Request, file_id: str) -> dict[str, Any]:
        """Delete a file that no batch reads."""
        with worded("file", "file_id"):
            await store.run(store.delete_file, owner(request), file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    return routes


@asynccontextmanager
async def _place(slots: asyncio.Semaphore, patience: float) -> AsyncIterator[None]:
    """One of the uploads that may be under way. Raises ApiError 503 when none has become free after a while."""
    try:
        async with asyncio.timeout(patience):
            await slots.acquire()
    except TimeoutError:
        message = f"{MAX_UPLOADS} files are being uploaded already; try again when one of them has arrived."
        raise unavailable(message, "server_busy", 5) from None
    try:
        yield
    finally:
        slots.release()


async def _take(request: Request, store: Store, owner: str, patience: float) -> StoredFile:
    """Receive, check and store a file. Raises ApiError, naming field and line, where there is none to store."""
    bounds = store.config
    with store.shelf.upload() as (sink, path), worded("file", "file"):
        await store.run(store.check_room, _declared(request))
        upload = await receive(request, sink, bounds.max_file_bytes, patience)
        sink.flush()
        keep = _checked(upload, bounds.keep_files)
        found = await asyncio.to_thread(survey, path, bounds.max_lines, bounds.max_line_bytes)
        for error in found.errors:
            raise bad_request(f"file: {error}", "file", error.code)
        now = int(store.clock())
        file = StoredFile(
            id=new_file_id(), owner=owner, filename=upload.filename or "", purpose=PURPOSE, bytes=upload.size,
            created_at=now, expires_at=now + keep,
        )  # fmt: skip
        await store.run(store.add_file, file, path)
    return file


def _declared(request: Request) -> int:
    """What the body says of its size. It may be wrong: the store asks again when the file is there."""
    declared = request.headers.get("content-length", "0")
    return int(declared) if declared.isdigit() and len(declared) < 19 else 0


def _checked(upload: Upload, longest: int) -> int:
    """Seconds to keep the file. Raises ApiError 400, naming the field."""
    if upload.filename is None:
        raise bad_request("file: is missing", "file", "missing_required_parameter")
    purpose = upload.fields.get("purpose")
    if purpose is None:
        raise bad_request("purpose: is missing; this server takes `batch`", "purpose", "missing_required_parameter")
    if purpose != PURPOSE:
        raise bad_request("purpose: this server takes files for `batch` only", "purpose")
    anchor, seconds = (upload.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return longest
    if anchor != "created_at":
        raise bad_request("expires_after[anchor]: must be `created_at`", "expires_after[anchor]")
    digits = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) < 9
    if seconds is None or not digits or not MIN_KEEP <= int(seconds) <= MAX_KEEP:
        message = f"expires_after[seconds]: a whole number from {MIN_KEEP} to {MAX_KEEP}"
        raise bad_request(message, "expires_after[seconds]")
    return min(int(seconds), longest)


class _Content(Response):
    """Streams a file, which is closed at the end, or when the client takes nothing for too long."""

    media_type = "application/octet-stream"

    def __init__(self, file: BinaryIO, size: int, send_timeout: float) -> None:
        super().__init__(headers={"content-disposition": "attachment", "x-content-type-options": "nosniff"})
        self.headers["content-length"] = str(size)
        self._file = file
        self._left = size
        self._send_timeout = send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while self._left and (chunk := await asyncio.to_thread(self._file.read, min(_CHUNK, self._left))):
                self._left -= len(chunk)
                try:
                    async with asyncio.timeout(self._send_timeout):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except TimeoutError:
                    log.warning("a client took nothing of a file for %g s", self._send_timeout)
                    return
            await send({"type": "http.response.body", "body": b""})


_LIST = query(
    ("purpose", {"type": "string"}),
    ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": MAX_PAGE}),
    ("order", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    ("after", {"type": "string"}),
)
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": MIN_KEEP, "maximum": MAX_KEEP},
                    },
                }
            }
        },
    }
}
