"""A port for a server that a test starts in another process."""

from __future__ import annotations

import random
import socket

OURS = range(20_000, 32_000)  # below those that the kernel hands out to whoever binds or connects without a number


def free_port() -> int:
    """One that nobody listens on now, and that nobody but us is likely to take until the server does."""
    while True:
        port = random.SystemRandom().choice(OURS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
