"""The wire between the front end and the ranks: one ROUTER at the front end, DEALERs at the ranks, msgpack frames.

On one machine the address is ipc:// in a directory that only this user may enter. Across machines it is tcp:// under
CURVE, with both ends' keys derived from one shared secret: a peer without it does not get past the handshake. Nothing
is ever dropped for want of room (no high-water mark: what may be queued is bounded by the requests admitted), and no
frame above the size limits is read.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import msgspec
import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from .messages import FromEngine, ToEngine, decode_from_engine, decode_to_engine, encode

log = logging.getLogger(__name__)

SECRET_VARIABLE = "YARDMASTER_SECRET"
AGENT = "agent"  # the peer that is no rank: the launcher, which knows how a rank ended
MIN_SECRET = 16
_MAX_TO_ENGINE = 64 << 20  # a prompt of a million tokens is 5 MB
_MAX_FROM_ENGINE = 1 << 30  # prompt logprobs of a long prompt, 20 a token
_KEEPALIVE = {zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 30, zmq.TCP_KEEPALIVE_INTVL: 10, zmq.TCP_KEEPALIVE_CNT: 3}
_MAX_IPC_PATH = 100  # of the 107 bytes that a Unix socket's address holds


@contextmanager
def private_address() -> Iterator[str]:
    """An ipc:// address in a fresh directory of mode 0700, removed at the end."""
    base = tempfile.gettempdir()
    if len(base) > _MAX_IPC_PATH - len("/yardmaster-01234567/front"):
        base = "/tmp"
    with tempfile.TemporaryDirectory(prefix="yardmaster-", dir=base, ignore_cleanup_errors=True) as folder:
        yield f"ipc://{Path(folder) / 'front'}"


def shared_secret() -> str:
    """The secret of a deployment on several machines. Raises ValueError when the environment has none."""
    secret = os.environ.get(SECRET_VARIABLE, "")
    if len(secret) < MIN_SECRET:
        raise ValueError(
            f"ranks on several nodes need a shared secret: set {SECRET_VARIABLE} to the same value of at least "
            f"{MIN_SECRET} characters on every node (`openssl rand -hex 32` makes one)"
        )
    return secret


class FrontSocket:
    """The front end's end; made and used inside one event loop. A tcp address asks for the shared secret.

    Raises ValueError when the secret is missing or the address cannot be bound.
    """

    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a rank that is not there is an error, not a void
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a rank that reconnects takes its name with it
        _limit(self._socket, _MAX_FROM_ENGINE)
        self._door: AsyncioAuthenticator | None = None
        try:
            if address.startswith("tcp:"):
                self._lock()
            self._socket.bind(address)
        except (zmq.ZMQError, ValueError) as error:
            self.close()
            raise ValueError(f"cannot listen for ranks at {address}: {error}") from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def receive(self) -> tuple[str, FromEngine]:
        """The next message and its sender: "rank-3", "beat-3" or "agent". What is none of ours is logged, skipped."""
        while True:
            frames = await self._socket.recv_multipart()
            try:
                sender, body = frames
                name = sender.decode("ascii")
                if name != AGENT and not name.startswith(("rank-", "beat-")):
                    raise ValueError("unknown sender")
                return name, decode_from_engine(body)
            except (ValueError, msgspec.MsgspecError):
                log.warning("dropped a message that is not one of ours, from %r", frames[0][:40])

    def send(self, rank: int, message: ToEngine) -> None:
        """Raises ConnectionError when that rank has no connection. Never waits: there is no high-water mark."""
        # Typed as an awaitable, it is a future, and done: only a high-water mark could make it wait.
        sent = cast("asyncio.Future[None]", self._socket.send_multipart([f"rank-{rank}".encode(), encode(message)]))
        if sent.done() and (error := sent.exception()) is not None:
            raise ConnectionError(f"rank {rank} is not connected: {error}")

    def close(self) -> None:
        if self._door is not None:
            self._door.stop()
        self._socket.close(linger=200)
        self._context.term()

    def _lock(self) -> None:
        public, private = _key("front")
        self._socket.ipv6 = True
        self._socket.curve_server = True
        self._socket.curve_secretkey = private
        self._socket.curve_publickey = public
        self._socket.setsockopt_string(zmq.ZAP_DOMAIN, "ranks")
        self._door = AsyncioAuthenticator(self._context)
        self._door.start()
        self._door.configure_curve_callback("ranks", _Keyholders(_key("rank")[0]))


class RankSocket:
    """A rank's (or the agent's) end: blocking, for the one thread that made it.

    ZeroMQ would connect again after a connection broke, and say nothing of the messages that were lost with it; here
    that is the end.
    """

    def __init__(self, address: str, name: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt_string(zmq.IDENTITY, name)
        _limit(self._socket, _MAX_TO_ENGINE)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._connected = self._lost = False
        if address.startswith("tcp:"):
            self._socket.ipv6 = True
            self._socket.curve_serverkey = _key("front")[0]
            self._socket.curve_publickey, self._socket.curve_secretkey = _key("rank")
        self._socket.connect(address)

    def send(self, message: FromEngine) -> None:
        self._socket.send(encode(message))

    def receive(self, timeout_seconds: float) -> list[ToEngine]:
        """All that has come; waits up to `timeout_seconds` for the first. What is none of ours is logged, skipped.

        Raises ConnectionError when the connection broke and all that came before has been received.
        """
        self._socket.poll(int(timeout_seconds * 1000))
        self._watch()  # first: what arrived before the end is then found behind it
        messages: list[ToEngine] = []
        while True:
            try:
                body = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                if self._lost and not messages:
                    raise ConnectionError("the connection to the front end broke") from None
                return messages
            try:
                messages.append(decode_to_engine(body))
            except (ValueError, msgspec.MsgspecError):
                log.warning("dropped a message of %d bytes that is not one of ours", len(body))

    def close(self, linger_seconds: float = 1.0) -> None:
        """Wait up to `linger_seconds` for what was sent to leave."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=int(linger_seconds * 1000))
        self._context.term()

    def _watch(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._lost |= self._connected and event == zmq.EVENT_DISCONNECTED
            self._connected |= event == zmq.EVENT_HANDSHAKE_SUCCEEDED


class _Keyholders:
    """Who may enter: the holders of the key derived from the shared secret."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def callback(self, domain: str, key: bytes) -> bool:
        return domain == "ranks" and key == self._public


def _key(role: str) -> tuple[bytes, bytes]:
    """The CURVE key pair of a role, public then private. scrypt, so that a weak secret costs a guesser something."""
    raw = hashlib.scrypt(shared_secret().encode(), salt=f"yardmaster 1 {role}".encode(), n=1 << 14, r=8, p=1, dklen=32)
    private = z85.encode(raw)
    return zmq.curve_public(private), private


def _limit(socket: zmq.Socket | zmq.asyncio.Socket, max_bytes: int) -> None:
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    for option, value in _KEEPALIVE.items():  # a connection that is silently gone is missed within a minute
        socket.setsockopt(option, value)
