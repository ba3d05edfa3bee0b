"""Where another server is, and the key that it wants, as a user types them."""

from __future__ import annotations

from urllib.parse import urlsplit


def base_url(url: str, flag: str) -> str:
    """`url` without a final /v1. Raises ValueError, naming `flag`, for what is no http address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket without its other, a port that is none
        good = False
    if not good:
        raise ValueError(f"{flag} must be an address like http://127.0.0.1:8000, got {url!r}")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def key_headers(api_key: str | None) -> dict[str, str]:
    """Raises ValueError, without quoting it, for a key that cannot travel in a header."""
    if not api_key:
        return {}
    if not all("!" <= char <= "~" for char in api_key):
        raise ValueError("--api-key must be printable ASCII without spaces")
    return {"Authorization": f"Bearer {api_key}"}
