"""All keys of a keys file, their limits and what they have used. The file can be read anew while requests run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .key_file import read_keys
from .refusals import draining
from .ring import Ring
from .tenant import Caller, Tenant


class Keyring(Ring):
    """See `Keys`. One per server: limits hold because all that count for them are here."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError, one line, when the file cannot be used."""
        super().__init__(read_keys(path), clock)
        self.listeners: list[Callable[[], None]] = []  # called when keys or limits are others, or draining
        self._path = path
        self._reading = asyncio.Lock()

    async def enter(self, tenant: Tenant, deadline: float | None, background: bool = False) -> Caller:
        if self.draining:
            raise draining()
        return tenant.enter_behind() if background else tenant.enter(deadline)

    async def headers(self, tenant: Tenant) -> list[tuple[bytes, bytes]]:
        return tenant.headers

    async def listing(self) -> dict[str, Any]:
        data = [_described(tenant) for tenant in self.tenants.values()]
        return {"object": "list", "draining": self.draining, "data": data}

    async def reload(self) -> int:
        async with self._reading:
            specs = await asyncio.to_thread(read_keys, self._path)
            self.apply(specs)
        self._tell()
        return len(specs)

    async def drain(self, draining: bool) -> dict[str, Any]:
        self.draining = draining
        self._tell()
        tenants = self.everyone
        return {
            "draining": draining,
            "requests": sum(tenant.concurrent for tenant in tenants),
            "sequences_running": sum(tenant.running for tenant in tenants),
            "sequences_waiting": sum(tenant.waiting for tenant in tenants),
        }

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()


def _described(tenant: Tenant) -> dict[str, Any]:
    spec = tenant.spec
    return {
        "name": spec.name,
        "admin": spec.admin,
        "weight": spec.weight,
        "requests_per_minute": spec.requests_per_minute,
        "tokens_per_minute": spec.tokens_per_minute,
        "max_concurrent": spec.max_concurrent,
        "priority": spec.priority,
        "usage": {
            "requests": tenant.requests,
            "prompt_tokens": tenant.prompt_tokens,
            "completion_tokens": tenant.generation_tokens,
            "rejected": dict(tenant.rejected),
            "concurrent": tenant.concurrent,
            "sequences_running": tenant.running,
            "sequences_waiting": tenant.waiting,
            "remaining_requests": tenant.remaining_requests,
            "remaining_tokens": tenant.remaining_tokens,
        },
    }
