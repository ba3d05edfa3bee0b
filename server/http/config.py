"""What the HTTP door allows: addresses, keys, names and the upper bound of everything that a client may send."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from ..batch.config import BatchConfig

MIN_KEY_LENGTH = 8
MAX_API_SERVERS = 64
MAX_NAME = 4096  # characters: by default it is the model's path


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Limits count bytes, items or seconds, as their names say. Keys never show in `repr`.

    Raises ValueError, naming the flag, for an address that other machines can reach without a key, for a key that
    cannot travel in a header, and for limits below 1.
    """

    served_model_names: tuple[str, ...]  # the first one is what answers carry
    host: str = "127.0.0.1"
    port: int = 8000
    api_servers: int = 1  # front-end processes
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    no_auth: bool = False
    keys_file: str | None = None  # keys with names and limits, instead of `api_keys`
    chat_template: str | None = None  # a file; it rules over the checkpoint's own, and over Harmony's encoder
    tool_call_parser: str | None = None  # names of server/text/formats; None: as the checkpoint looks
    reasoning_parser: str | None = None
    batch: BatchConfig | None = None  # files and batches, and where they are kept
    response_store: str = ":memory:"  # a file of SQLite's for what /v1/responses keeps, or `off`
    max_body_bytes: int = 8 << 20
    max_header_bytes: int = 32 << 10
    max_requests: int = 2048  # in flight at once
    max_sequences: int = 128  # n times prompts of one request
    max_top_logprobs: int = 20
    max_completion_logprobs: int = 5
    header_timeout: float = 20.0  # from a connection's first byte, or its opening, to the end of a request's head
    body_timeout: float = 60.0
    send_timeout: float = 120.0  # a client that takes nothing for so long is gone
    keep_alive_timeout: int = 75
    shutdown_timeout: int = 30  # how long running answers may go on after a signal

    def __post_init__(self) -> None:
        if not self.served_model_names:
            raise ValueError("--served-model-name must give at least one name")
        for name in self.served_model_names:
            if not (name.strip() == name and name.isprintable() and 0 < len(name) <= MAX_NAME):
                raise ValueError(
                    f"--served-model-name must be printable, without spaces around, 1 to {MAX_NAME} long, got {name!r}"
                )
        if not self.host:
            raise ValueError("--host must not be empty")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be between 0 and 65535, got {self.port}")
        if not 1 <= self.api_servers <= MAX_API_SERVERS:
            raise ValueError(f"--api-servers must be between 1 and {MAX_API_SERVERS}, got {self.api_servers}")
        for key in self.api_keys:
            if len(key) < MIN_KEY_LENGTH or not all("!" <= char <= "~" for char in key):
                raise ValueError(
                    f"--api-key must be at least {MIN_KEY_LENGTH} printable ASCII characters without spaces"
                )
        if self.api_keys and self.no_auth:
            raise ValueError("--api-key (or YARDMASTER_API_KEY) and --no-auth contradict each other: give one of them")
        if self.keys_file is not None and (self.api_keys or self.no_auth):
            other = "--api-key (or YARDMASTER_API_KEY)" if self.api_keys else "--no-auth"
            raise ValueError(f"--keys-file and {other} contradict each other: give one of them")
        if not (self.api_keys or self.keys_file or self.no_auth or is_loopback(self.host)):
            raise ValueError(
                f"--host {self.host} is open to other machines: give --api-key KEY or --keys-file FILE, "
                "or --no-auth if that is meant"
            )
        for name in ("max_body_bytes", "max_header_bytes", "max_requests", "max_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("header_timeout", "body_timeout", "send_timeout", "keep_alive_timeout", "shutdown_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 seconds, got {getattr(self, name)}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. An unknown name counts as open."""
    try:
        return ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
