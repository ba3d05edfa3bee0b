"""Connections, accepted in one place and handed to the front end that has fewest.

One process that accepts spreads them evenly, however few there are, which neither SO_REUSEPORT (it hashes addresses)
nor a shared listening socket (who wakes first takes all) does; and a front end that dies takes none with it that it
has not begun to read: those that wait, wait here or in the listening socket.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque

log = logging.getLogger("yardmaster.hub")

_MARK = b"c"  # what a descriptor travels beside
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_BACKLOG = 2048
_AT_ONCE = 64  # accepted before other work gets its turn
_PAUSE_SECONDS = 0.05  # when nobody can take one, or there are no descriptors left


class Hatch:
    """Where one front end is handed its connections."""

    def __init__(self, end: socket.socket) -> None:
        self.open = 0  # connections that it has, as far as is known
        self._end = end
        self._handed: deque[socket.socket] = deque()  # it has not said yet that it took them

    def hand(self, connection: socket.socket) -> bool:
        """False where it has gone or has too many before it that it has not taken."""
        try:
            socket.send_fds(self._end, [_MARK], [connection.fileno()])
        except OSError:
            return False
        self._handed.append(connection)
        self.open += 1
        return True

    def taken(self, connections: int) -> None:
        for _ in range(min(connections, len(self._handed))):
            self._handed.popleft().close()

    def closed(self, connections: int) -> None:
        self.open = max(0, self.open - connections)

    def close(self) -> list[socket.socket]:
        """It has gone; the connections that it did not take."""
        self._end.close()
        left, self._handed, self.open = list(self._handed), deque(), 0
        return left


class Handover:
    """Listens from `begin` on, as long as there is anyone to hand connections to, until `close`."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._hatches: list[Hatch] = []
        self._waiting: deque[socket.socket] = deque()
        self._listening = self._closed = False
        self._pause: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)

    def add(self, hatch: Hatch) -> None:
        self._hatches.append(hatch)
        self._go_on()

    def remove(self, hatch: Hatch) -> None:
        if hatch in self._hatches:
            self._hatches.remove(hatch)
        self._waiting += hatch.close()
        self._go_on()

    def close(self) -> None:
        """Accept no more. Those that are here already are handed over."""
        if not self._closed:
            self._go_on()
            self._stop()
            self._closed = True
            self._listener.close()
            for connection in self._waiting:
                connection.close()
            self._waiting.clear()

    def _go_on(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        while self._waiting and self._give(self._waiting[0]):
            self._waiting.popleft()
        if self._closed:
            return
        if self._waiting or not self._hatches:
            self._stop()
            if self._waiting:
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._go_on)
        elif not self._listening:
            self._listening = True
            self._loop.add_reader(self._listener, self._accept)

    def _stop(self) -> None:
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                log.error("cannot accept connections: %s", error.strerror)
                self._stop()
                self._pause = self._loop.call_later(20 * _PAUSE_SECONDS, self._go_on)
                return
            if not self._give(connection):
                self._waiting.append(connection)
                self._go_on()
                return

    def _give(self, connection: socket.socket) -> bool:
        for hatch in sorted(self._hatches, key=_load):
            if hatch.hand(connection):
                self._hatches.remove(hatch)  # among equals it is the last to get the next one
                self._hatches.append(hatch)
                return True
        return False


def _load(hatch: Hatch) -> int:
    return hatch.open


def receive(end: socket.socket) -> list[socket.socket]:
    """The front end's side: the connections that have been handed over by now. Raises EOFError when the hub is gone."""
    found: list[socket.socket] = []
    while True:
        try:
            mark, descriptors, _, _ = socket.recv_fds(end, len(_MARK), 1, _FLAGS)
        except (BlockingIOError, InterruptedError):
            return found
        except OSError:
            mark, descriptors = b"", []
        if not mark:
            if found:
                return found
            raise EOFError
        found += [socket.socket(fileno=descriptor) for descriptor in descriptors]
