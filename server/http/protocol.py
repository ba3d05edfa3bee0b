"""uvicorn's fast HTTP/1.1 protocol with what it leaves open: bounds on a request's head, and on what is around a body.

httptools' parser buffers a head or a trailer of any length; a connection that sends nothing, a header byte a minute, or
the rest of a body that nobody waits for would stay for ever, and so would one whose client does not read its answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .errors import ApiError, encode_json

FRAME_BYTES = 8  # that a chunk of one byte has around it
PATIENCE = 1.5  # times `send_timeout`: whoever streams gives up first, and says so


def bounded_protocol(
    max_header_bytes: int, header_timeout: float, send_timeout: float = 120.0
) -> type[asyncio.Protocol]:
    """A protocol class for `uvicorn.Config(http=…)`.

    `header_timeout`: for a head, and for the rest of a body after its answer. A client that takes nothing of
    what waits for it is cut off a little after `send_timeout`.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _around_bytes = 0  # of a message's body as it came, less what it says: chunks' sizes, extensions, trailers
        _in_head = True
        _message_ended = False
        _head_timer: asyncio.TimerHandle | None = None
        _taken_timer: asyncio.TimerHandle | None = None
        _waiting_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            if self._taken_timer is not None:
                self._taken_timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._message_ended = False
            if not self._in_head:
                self._around_bytes += len(data)
            super().data_received(data)
            if self.parser is None or self._message_ended:
                return
            # A head that came whole within this data is not counted: `Guard` measures it. Nor is data in which a
            # message ended: it is that message's body, and at most the beginning of the next head.
            if self._in_head:
                if self._head_timer is None:
                    self._await_head()
                self._head_bytes += len(data)
                if self._head_bytes > max_header_bytes:
                    self._refuse(ApiError(431, f"The request's line and headers exceed {max_header_bytes} bytes."))
            elif self._around_bytes > max_header_bytes + len(data):
                self._refuse(ApiError(431, f"What is around the request's body exceeds {max_header_bytes} bytes."))

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_head:  # nobody reads trailers
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._around_bytes = 0
            self._stop_timer()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._around_bytes -= len(body) * (1 + FRAME_BYTES)
            super().on_body(body)

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._in_head = self._message_ended = True
            self._head_bytes = 0

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._in_head and self._head_timer is None:
                self._await_head()  # and before it the rest of the body
            self._await_taken()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._await_taken()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._await_taken()

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
            self._await_taken()

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(header_timeout, self._give_up)

        def _give_up(self) -> None:
            self._head_timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()
                self._await_taken()

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _await_taken(self) -> None:
            """Cut the connection off unless something of what waits in its buffer is taken in time."""
            waiting = self.transport.get_write_buffer_size()
            if waiting and self._taken_timer is None:
                self._waiting_bytes = waiting
                self._taken_timer = self.loop.call_later(PATIENCE * send_timeout, self._cut_off)

        def _cut_off(self) -> None:
            self._taken_timer = None
            if 0 < self._waiting_bytes <= self.transport.get_write_buffer_size():
                self.transport.abort()
            else:
                self._await_taken()

    return BoundedProtocol
