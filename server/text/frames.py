"""Messages between the server and a process of its own: an 8-byte length, and so many bytes."""

from __future__ import annotations

import socket
import struct

LENGTH = struct.Struct("<Q")


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> bytes:
    """One frame. Raises EOFError when the other side has gone."""
    (length,) = LENGTH.unpack(_read(connection, LENGTH.size))
    return bytes(_read(connection, length))


def _read(connection: socket.socket, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(length - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return data
