"""How a limit says no: OpenAI's 429, naming the limit, when to try again, and what would mend it."""

from __future__ import annotations

import math

from ..http.errors import ApiError, bad_request, unavailable

DRAIN_RETRY = 30
NO_RETRY = {"x-should-retry": "false"}  # OpenAI's SDKs try again unless told not to


class LimitReached(ApiError):
    """A key's own limit binds. HTTP: 429. `wait`: seconds until it is worth trying again; None when it never is."""

    def __init__(self, kind: str, message: str, wait: float | None) -> None:
        headers = NO_RETRY if wait is None else retry_headers(wait)
        super().__init__(429, message, code="rate_limit_exceeded", type=kind, headers=headers)


def too_many_requests(name: str, limit: int, wait: float) -> LimitReached:
    message = f"Key {name!r} may make {limit} requests a minute, and has. Try again in {duration(wait)}."
    return LimitReached("requests", message, wait)


def too_many_at_once(name: str, limit: int) -> LimitReached:
    message = f"Key {name!r} may have {limit} requests at once, and has. Try again when one of them has ended."
    return LimitReached("requests", message, 1.0)


def too_many_tokens(name: str, limit: int, left: int, asked: int, wait: float) -> LimitReached:
    message = (
        f"Key {name!r} may use {limit} tokens a minute; {left} are left and this request asks for {asked} (prompt and "
        f"max_tokens). Try again in {duration(wait)}, or ask for fewer."
    )
    return LimitReached("tokens", message, wait)


def request_too_large(name: str, limit: int, asked: int) -> LimitReached:
    message = (
        f"Key {name!r} may use {limit} tokens a minute and this request asks for {asked} (prompt and max_tokens, for "
        "each of its answers): it can never run. Shorten the prompt or lower max_tokens or n."
    )
    return LimitReached("tokens", message, None)


def too_good_a_priority(name: str, best: int, asked: int) -> ApiError:
    message = f"priority: {best} is the best (lowest) that key {name!r} may ask for, got {asked}"
    return bad_request(message, "priority")


def too_late() -> ApiError:
    message = "The time that x-request-timeout allows passed before this request's turn came, so it was not run."
    return ApiError(504, message, code="deadline_exceeded", headers=NO_RETRY)


def draining() -> ApiError:
    return unavailable("This server is being emptied and takes no new requests.", "draining", DRAIN_RETRY)


def retry_headers(wait: float) -> dict[str, str]:
    """Whole seconds, as HTTP has it, and beside it the milliseconds that OpenAI's SDKs prefer."""
    return {"retry-after": str(max(1, math.ceil(wait))), "retry-after-ms": str(max(1, math.ceil(wait * 1e3)))}


def duration(seconds: float) -> str:
    """As OpenAI words its reset headers: 20ms, 1.5s, 6m0s, 1h0m0s."""
    milliseconds = math.ceil(round(seconds * 1e3, 3))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{milliseconds / 1000:g}s"
    if minutes or hours:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
