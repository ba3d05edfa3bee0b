"""What crosses the border between the hub and its front-end processes: typed msgpack, as between hub and engine.

Each pair shares one stream (wire.py), so messages arrive in order. What has a `number` is a question, chosen by the
front end; one `Answer` with the same number follows.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...engine.client import EngineDead, EngineOverloaded
from ...engine.config import EngineConfig
from ...engine.messages import EngineStats, RequestOutput, Submit
from ..fair.key_file import KeySpec
from ..http.config import HttpConfig
from ..http.errors import ApiError, internal_error


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An exception on its way to another process: one of those that a caller of the engine or the keys knows."""

    kind: str
    message: str
    status: int = 0
    param: str | None = None
    code: str | None = None
    type: str | None = None
    headers: dict[str, str] = {}
    retry_after: int = 0

    @classmethod
    def of(cls, error: Exception) -> Refusal | None:
        """None for an exception that is a bug, which the caller logs."""
        match error:
            case EngineDead():
                return cls(kind="dead", message=str(error))
            case EngineOverloaded():
                return cls(kind="overloaded", message=str(error), retry_after=error.retry_after)
            case ApiError():
                return cls(
                    kind="api", message=error.message, status=error.status, param=error.param, code=error.code,
                    type=error.type, headers=error.headers,
                )  # fmt: skip
            case ValueError():
                return cls(kind="value", message=str(error))
        return None

    @property
    def error(self) -> Exception:
        match self.kind:
            case "dead":
                return EngineDead(self.message)
            case "overloaded":
                return EngineOverloaded(self.message, self.retry_after)
            case "value":
                return ValueError(self.message)
            case "api":
                return ApiError(
                    self.status, self.message, param=self.param, code=self.code, type=self.type, headers=self.headers
                )
        return internal_error()


BUG = Refusal(kind="bug", message="")


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric of a front end: what it is, and its samples as (name, labels, value)."""

    name: str
    text: str
    kind: str
    samples: list[tuple[str, list[tuple[str, str]], float]]


# ---- from the hub


class Begin(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The first message: what this front end is to be."""

    engine: EngineConfig
    http: HttpConfig
    log_level: int


class EngineState(msgspec.Struct, frozen=True, tag=True):
    ready: bool
    max_model_len: int
    dead: str | None


class Keys(msgspec.Struct, frozen=True, tag=True):
    """Who may enter: of the keys only digests. Sent at the start and when anything has changed."""

    specs: list[KeySpec]
    draining: bool


class Answer(msgspec.Struct, frozen=True, tag=True):
    number: int
    value: Any = None
    refusal: Refusal | None = None


class News(msgspec.Struct, frozen=True, tag=True):
    """Outputs of this front end's sequences, in order."""

    outputs: list[RequestOutput]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A sequence that was taken in ends with an exception."""

    request_id: str
    refusal: Refusal


class Stats(msgspec.Struct, frozen=True, tag=True):
    group: int
    stats: EngineStats


class Count(msgspec.Struct, frozen=True, tag=True):
    """Say what you have counted: `Counted` with the same number, from 1 on."""

    number: int


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Let what runs end, for so many seconds at most, and leave."""

    seconds: int


class Cut(msgspec.Struct, frozen=True, tag=True):
    """Leave at once."""


# ---- from a front end


class Up(msgspec.Struct, frozen=True, tag=True):
    """Connections are welcome."""


class Broken(msgspec.Struct, frozen=True, tag=True):
    """It cannot begin: one line for the user."""

    message: str


class Sequence(msgspec.Struct, frozen=True, tag=True):
    """`caller`: the number of the `Enter` that it belongs to."""

    number: int
    submit: Submit
    caller: int | None


class Abort(msgspec.Struct, frozen=True, tag=True):
    request_id: str


class Enter(msgspec.Struct, frozen=True, tag=True):
    """One more HTTP request of the key with this name. `deadline` on the machine's monotonic clock.

    `background`: nobody waits for it.
    """

    number: int
    name: str
    deadline: float | None
    background: bool = False


class Leave(msgspec.Struct, frozen=True, tag=True):
    """That request has been answered."""

    caller: int


class Limits(msgspec.Struct, frozen=True, tag=True):
    """What is left of a key's limits, as headers."""

    number: int
    name: str


class Scrape(msgspec.Struct, frozen=True, tag=True):
    """The text of /metrics, of all processes."""

    number: int


class Counted(msgspec.Struct, frozen=True, tag=True):
    """Totals since this front end's start. `number` 0: unasked, so that little is lost if it dies."""

    number: int
    families: list[Family]


class Alive(msgspec.Struct, frozen=True, tag=True):
    """Once a second where there is nothing to count: its event loop turns."""


class Manage(msgspec.Struct, frozen=True, tag=True):
    """An admin's verb: list, reload, drain, undrain."""

    number: int
    verb: str


class Took(msgspec.Struct, frozen=True, tag=True):
    """So many of the connections that were handed over are now this front end's own."""

    connections: int


class Closed(msgspec.Struct, frozen=True, tag=True):
    """So many of them have ended."""

    connections: int


class Relay(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A request about a response, for whichever front end makes it: from one of them to all others."""

    number: int
    response_id: str
    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]


class Part(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Of the answer to a `Relay`, back to who asked: first `status` and headers, then pieces of the body."""

    number: int
    status: int = 0
    headers: list[tuple[bytes, bytes]] = []
    body: bytes = b""
    last: bool = False


class NotHere(msgspec.Struct, frozen=True, tag=True):
    """To a `Relay`: this front end does not make it; from the hub, none does."""

    number: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Nobody reads the answer to a `Relay` any more."""

    number: int


ToDoor = (
    Begin | EngineState | Keys | Answer | News | Failed | Stats | Count | Drain | Cut | Relay | Part | NotHere | Stop
)
FromDoor = (
    Up | Broken | Sequence | Abort | Enter | Leave | Limits | Scrape | Counted | Alive | Manage | Took | Closed
    | Relay | Part | NotHere | Stop
)  # fmt: skip

to_door = msgspec.msgpack.Decoder(ToDoor)
from_door = msgspec.msgpack.Decoder(FromDoor)
