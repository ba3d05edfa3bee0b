"""Where keys come from a file: who asks, what the key's limits say, and how much of them is left. Pure ASGI."""

from __future__ import annotations

import math

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..fair.refusals import draining
from ..fair.ring import Keys
from ..fair.tenant import CALLER, Caller, Tenant
from .errors import ApiError, bad_request
from .middleware import OPEN_PATHS, bearer_key, unknown_key

TIMEOUT_HEADER = "x-request-timeout"
MAX_TIMEOUT = 86_400.0


class Gate:
    """Each POST counts as a request of its key, but for the admin's; what it costs in tokens is `FairClient`'s."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        tenant: Tenant | None = None
        caller: Caller | None = None
        try:
            tenant = self._counted(scope)
            if tenant is not None:
                caller = await self._keys.enter(tenant, self._deadline(scope))
        except ApiError as refusal:
            await refusal.response()(scope, receive, self._with_limits(send, tenant))
            return
        if caller is None:
            await self._app(scope, receive, send)
            return
        token = CALLER.set(caller)
        try:
            await self._app(scope, receive, self._with_limits(send, tenant))
        finally:
            CALLER.reset(token)
            caller.drop()

    def _counted(self, scope: Scope) -> Tenant | None:
        """Whose limits the request falls under, None for nobody's. Raises ApiError when it may not pass."""
        path = scope["path"]
        if path in OPEN_PATHS:
            if path == "/ready" and self._keys.draining:
                raise draining()
            return None
        key = bearer_key(scope)
        tenant = None if key is None else self._keys.find(key)
        if tenant is None:
            raise unknown_key()
        if path == "/admin" or path.startswith("/admin/"):
            if not self._keys.has_admin:
                raise ApiError(404, "There is no such route: the keys file names no admin key.")
            if not tenant.spec.admin:
                raise ApiError(403, "This route wants an admin key.", code="admin_key_required")
            return None
        return tenant if scope["method"] == "POST" else None

    def _deadline(self, scope: Scope) -> float | None:
        given = [value for name, value in scope["headers"] if name == TIMEOUT_HEADER.encode()]
        if not given:
            return None
        try:
            seconds = float(given[0]) if len(given) == 1 and len(given[0]) <= 32 else math.nan
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= MAX_TIMEOUT:
            raise bad_request(f"{TIMEOUT_HEADER}: seconds, above 0 to {MAX_TIMEOUT:g}, once", TIMEOUT_HEADER)
        return self._keys.clock() + seconds

    def _with_limits(self, send: Send, tenant: Tenant | None) -> Send:
        """`send`, with what is left of the tenant's limits when the answer begins."""
        if tenant is None:
            return send

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *await self._keys.headers(tenant)]
            await send(message)

        return send_with_limits
