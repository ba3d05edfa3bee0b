"""The keys as a front end of several has them: who may enter it knows itself, what is left of limits the hub does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..fair.ring import Ring
from ..fair.tenant import Caller, Tenant
from .client import HubClient
from .messages import Enter, Leave, Limits, Manage
from .messages import Keys as KeysMessage


class DoorKeys(Ring):
    """See `fair.ring.Keys`. The tenants here only say whose a key is; their counts mean nothing."""

    def __init__(self, hub: HubClient) -> None:
        super().__init__(())
        self._hub = hub

    def take(self, message: KeysMessage) -> None:
        self.apply(message.specs)
        self.draining = message.draining

    async def enter(self, tenant: Tenant, deadline: float | None, background: bool = False) -> Caller:
        number = self._hub.number()
        try:
            await self._hub.ask(number, Enter(number, tenant.spec.name, deadline, background))
        except asyncio.CancelledError:
            self._hub.tell(Leave(number))
            raise
        return DoorCaller(tenant, deadline, number, lambda: self._hub.tell(Leave(number)))

    async def headers(self, tenant: Tenant) -> list[tuple[bytes, bytes]]:
        number = self._hub.number()
        found = await self._hub.ask(number, Limits(number, tenant.spec.name))
        return [(bytes(name), bytes(value)) for name, value in found]

    async def listing(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._manage("list")
        return found

    async def reload(self) -> int:
        found: int = await self._manage("reload")
        return found

    async def drain(self, draining: bool) -> dict[str, Any]:
        found: dict[str, Any] = await self._manage("drain" if draining else "undrain")
        return found

    async def _manage(self, verb: str) -> Any:
        number = self._hub.number()
        return await self._hub.ask(number, Manage(number, verb))


class DoorCaller(Caller):
    """One HTTP request, which the hub counts under `number`. What it has left running the hub knows, too."""

    __slots__ = ("_left", "number")

    def __init__(self, tenant: Tenant, deadline: float | None, number: int, left: Callable[[], None]) -> None:
        super().__init__(tenant, deadline)
        self.number = number
        self._left = left

    def hold(self) -> None: ...

    def drop(self) -> None:
        self._left()
