"""How a client's key finds its tenant, and what the HTTP side asks of whoever keeps the tenants' counts."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol

from .key_file import INTERNAL, MIN_WEIGHT, KeySpec
from .tenant import Caller, Tenant


class Keys(Protocol):
    """The keys of a file, as middleware and admin routes see them: here, or in another process."""

    draining: bool  # nobody new is let in
    has_admin: bool
    clock: Callable[[], float]

    def find(self, key: bytes) -> Tenant | None:
        """Whose key it is."""

    tenants: dict[str, Tenant]  # by name

    async def enter(self, tenant: Tenant, deadline: float | None, background: bool = False) -> Caller:
        """Count one more HTTP request, which ends with `Caller.drop`. `background`: nobody waits for it.

        Raises ApiError.
        """

    async def headers(self, tenant: Tenant) -> list[tuple[bytes, bytes]]:
        """What is left of the tenant's limits."""

    async def listing(self) -> dict[str, Any]:
        """Names, limits and usage of all keys."""

    async def reload(self) -> int:
        """Read the file again; how many keys it holds. Raises ValueError, and then all stays as it was."""

    async def drain(self, draining: bool) -> dict[str, Any]:
        """Let nobody new in, or let them in again; what is left."""


class Ring:
    """Tenants by key. Of the keys only digests are kept, and of those only ones made with a secret of this process.

    So looking one up in a dict gives nothing away: how long that takes depends on digests that nobody outside can
    compute, and the one found is compared in constant time.
    """

    def __init__(self, specs: Sequence[KeySpec], clock: Callable[[], float] = time.monotonic) -> None:
        self.draining = False
        self.clock = clock
        self.tenants: dict[str, Tenant] = {}
        self.total_weight = 0.0
        self.has_admin = False
        self._secret = secrets.token_bytes(32)
        self._numbers = count()
        # What no client is waiting for: it gets next to nothing while anyone else does.
        self.internal = Tenant(KeySpec(name=INTERNAL, weight=MIN_WEIGHT), next(self._numbers), clock)
        self._gone: list[Tenant] = []  # no longer in the file
        self._by_digest: dict[bytes, Tenant] = {}
        self.apply(specs)

    def find(self, key: bytes) -> Tenant | None:
        """Whose key it is."""
        sealed = self._seal(hashlib.sha256(key).digest())
        tenant = self._by_digest.get(sealed)
        known = sealed if tenant is None else self._seal(tenant.spec.digest)
        return tenant if hmac.compare_digest(known, sealed) else None

    @property
    def everyone(self) -> list[Tenant]:
        """All tenants, the server itself, and keys that have left the file and still have requests here."""
        self._gone = [tenant for tenant in self._gone if tenant.concurrent]
        return [*self.tenants.values(), *self._gone, self.internal]

    def apply(self, specs: Sequence[KeySpec]) -> None:
        """A name that stays keeps its counts. Requests of a key that has gone may end."""
        before, self.tenants = {tenant.spec.name: tenant for tenant in self.everyone}, {}
        for spec in specs:
            tenant = before.pop(spec.name, None)
            if tenant is None:
                tenant = Tenant(spec, next(self._numbers), self.clock)
            else:
                tenant.change(spec)
            self.tenants[spec.name] = tenant
        self._gone = [tenant for tenant in before.values() if tenant is not self.internal]
        self._by_digest = {self._seal(spec.digest): self.tenants[spec.name] for spec in specs}
        self.total_weight = sum(spec.weight for spec in specs)
        self.has_admin = any(spec.admin for spec in specs)

    def _seal(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=32).digest()
