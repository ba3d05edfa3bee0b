"""The front end's process: HTTP in front, the engine's socket behind, and the orderly end of both.

It starts the ranks (or is started by rank 0 of a torchrun), takes requests as soon as they are ready, and leaves with
exit code 0 after a signal and 1 after the engine's death, in both cases once the answers under way are finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import msgspec
import uvloop

from .. import __version__
from ..engine.channel import private_address
from ..engine.client import EngineDead
from ..engine.config import EngineConfig
from ..engine.worker import Build, build_model
from ..engine.zmq_client import Ranks, ZmqEngineClient
from ..models.hf_config import load_config
from ..parallel.heads import split_heads
from .fair.client import FairClient
from .fair.keyring import Keyring
from .house import House, in_this_process
from .http.config import HttpConfig
from .hub.hub import in_processes
from .launch import ANNOUNCE_VARIABLE, WORKER, Agent, Parent, World, join
from .make_service import make_service as make_service

DEATH_SECONDS = 5  # for answers under way to end with their error, once the engine is dead
TORCHRUN_DRAIN_SECONDS = 15  # torchrun kills its ranks 30 s after a signal, whatever still runs
EVERYWHERE = "tcp://*:0"  # for ranks on other nodes; the socket asks for the shared secret

Launch = Callable[[str], Ranks]


class Settings(msgspec.Struct, frozen=True):
    """What the front end of a torchrun reads from rank 0. `many_nodes`: its ranks come over the network."""

    engine: EngineConfig
    http: HttpConfig
    many_nodes: bool = False


def serve(engine: EngineConfig, http: HttpConfig, worker: Sequence[str] = WORKER, build: Build = build_model) -> int:
    """Serve a model from this process, or be the rank that torchrun made it (then this ends the process).

    Returns the exit code; raises ValueError, one line, for what the user can mend. `worker` and `build` are what a rank
    runs, as a command and as a function.
    """
    world = World.of_environment()
    if world is not None:
        join(engine, world, msgspec.json.encode(Settings(engine, http, world.many_nodes)), build)
    with private_address() as address:
        return run(engine, http, address, lambda bound: Agent(engine, bound, worker))


def run(engine: EngineConfig, http: HttpConfig, address: str, launch: Launch) -> int:
    """Serve until a signal (0) or the engine's death (1). Raises ValueError when a file or an address is unusable."""
    model = load_config(Path(engine.model))  # before any process is started
    engine.check_model(model)
    split_heads(model.num_heads, model.num_kv_heads, engine.parallel.tp, 0)
    keys = None if http.keys_file is None else Keyring(Path(http.keys_file))
    with listen(http) as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Front(engine, http, listener, keys).run(address, launch))


def main() -> int:
    """The entry of `python -m yardmaster.server.front`, for rank 0 of a torchrun: settings come on standard input."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    announce = int(os.environ[ANNOUNCE_VARIABLE])
    http = replace(settings.http, shutdown_timeout=min(settings.http.shutdown_timeout, TORCHRUN_DRAIN_SECONDS))

    def adopt(bound: str) -> Ranks:
        os.write(announce, f"{bound}\n".encode())
        os.close(announce)
        return Parent()

    try:
        with contextlib.nullcontext(EVERYWHERE) if settings.many_nodes else private_address() as address:
            return run(settings.engine, http, address, adopt)
    except (ValueError, OSError) as error:
        _say(str(error))
        return 1


class _Front:
    """One run of the front end."""

    def __init__(
        self, engine: EngineConfig, http: HttpConfig, listener: socket.socket, keys: Keyring | None = None
    ) -> None:
        self._engine = engine
        self._http = http
        self._listener = listener
        self._keys = keys
        self._reloading: set[asyncio.Task[None]] = set()
        self._signalled = asyncio.Event()
        self._engine_up = asyncio.Event()
        self._stopping = False
        self._house: House | None = None

    async def run(self, address: str, launch: Launch) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if self._keys is not None:
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup, self._keys)
        size = self._engine.parallel
        shape = f"{size.world_size} ranks (tp {size.tp}, dp {size.dp}, ep {size.ep})"
        where = "1 rank" if size.world_size == 1 else shape
        _say(f"version {__version__}, {self._http.served_model_names[0]} on {where}")
        client = ZmqEngineClient(self._engine, address, launch, _say)
        life = asyncio.create_task(self._live(client))
        try:
            async with self._open(client) as self._house:
                await self._answer(self._house, life)
        finally:
            self._stopping = True
            await client.stop()
            reason = (await asyncio.gather(life, return_exceptions=True))[0]
        if isinstance(reason, Exception):
            raise reason
        return 1 if reason else 0

    def _open(self, client: ZmqEngineClient) -> AbstractAsyncContextManager[House]:
        """HTTP's side, in this process or in several."""
        engine, http, keys = self._engine, self._http, self._keys
        door = client if keys is None else FairClient.of(engine, client, keys)
        if http.api_servers == 1:
            return in_this_process(engine, http, door, keys, self._listener, self._signalled)
        return in_processes(engine, http, door, keys, self._listener, _say)

    async def _live(self, client: ZmqEngineClient) -> str | None:
        """Start the engine and wait for its end; why it died, None when it was stopped."""
        try:
            await client.start()
            self._engine_up.set()
            self._tell_house()
            reason = await client.wait_dead()
        except EngineDead as error:
            reason = None if self._stopping or self._signalled.is_set() else str(error)
        if reason is not None:
            _say(reason)
            self._tell_house()
        return reason

    def _tell_house(self) -> None:
        if self._house is not None:  # else it asks when it begins
            self._house.engine_changed()

    async def _answer(self, house: House, life: asyncio.Task[str | None]) -> None:
        """Serve HTTP until a signal or the engine's end, and then until the answers under way are finished."""
        ended = asyncio.create_task(house.ended())
        signalled = asyncio.create_task(self._signalled.wait())
        announcing = asyncio.create_task(self._announce(house))
        try:
            await asyncio.wait({life, signalled, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
            await house.drain(DEATH_SECONDS if life.done() else self._http.shutdown_timeout)
        finally:
            for task in (ended, signalled, announcing):
                task.cancel()

    async def _announce(self, house: House) -> None:
        await house.up()
        await self._engine_up.wait()
        with contextlib.suppress(OSError):
            print(f"ready: {_url(self._listener)}", flush=True)

    def _on_signal(self) -> None:
        if self._signalled.is_set() and self._house is not None:
            self._house.cut()
        elif not self._signalled.is_set():
            self._signalled.set()
            _say("stopping; answers under way may end first, a second signal cuts them off")

    def _on_hangup(self, keys: Keyring) -> None:
        task = asyncio.get_running_loop().create_task(_reload(keys))
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)


async def _reload(keys: Keyring) -> None:
    try:
        _say(f"the keys file has been read again: {await keys.reload()} keys")
    except ValueError as error:
        _say(f"the keys stay as they are: {error}")


def listen(http: HttpConfig) -> socket.socket:
    """Bound, so that a port in use is known before the model loads; not yet listening. Raises ValueError."""
    try:
        found = socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"--host {http.host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise ValueError(f"cannot listen on --host {http.host} --port {http.port}: {error.strerror}") from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever read our output may be gone; that must not keep us from anything
        print(f"yardmaster: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
