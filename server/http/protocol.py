"""uvicorn's fast HTTP/1.1 protocol with what it leaves open: a bound in bytes and seconds on a request's head.

httptools' parser buffers a head of any length; and a connection that sends nothing, or a header byte a minute, would
stay for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .errors import ApiError, encode_json


def bounded_protocol(max_header_bytes: int, header_timeout: float) -> type[asyncio.Protocol]:
    """A protocol class for `uvicorn.Config(http=…)`."""

    class BoundedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _in_head = True
        _message_ended = False
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._message_ended = False
            super().data_received(data)
            # A head that came whole within this data is not counted: `Guard` measures it. Nor is data in which a
            # message ended: it is that message's body, and at most the beginning of the next head.
            if self._in_head and not self._message_ended and self.parser is not None:
                if self._head_timer is None:
                    self._await_head()
                self._head_bytes += len(data)
                if self._head_bytes > max_header_bytes:
                    self._refuse(ApiError(431, f"The request's line and headers exceed {max_header_bytes} bytes."))

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_timer()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._in_head = self._message_ended = True
            self._head_bytes = 0

        def send_400_response(self, msg: str) -> None:
            self._refuse(ApiError(400, msg, code="invalid_http"))

        def _refuse(self, error: ApiError) -> None:
            self._stop_timer()
            if self.transport.is_closing():
                return
            body = encode_json(error.body)
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            # Amid an answer to an earlier request this one's error would corrupt it: then the connection just ends.
            answering = self.cycle is not None and not self.cycle.response_complete
            if not answering or not (self.cycle.response_started or self.pipeline):
                self.transport.write(STATUS_LINE[error.status] + head.encode() + body)
            self.transport.close()

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(header_timeout, self._give_up)

        def _give_up(self) -> None:
            self._head_timer = None
            if self._in_head and (self.cycle is None or self.cycle.response_complete):
                self.transport.close()

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return BoundedProtocol
