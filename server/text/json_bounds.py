"""How much a JSON text holds, told from its bytes before any of it is parsed.

A parser makes an object of every value, under the interpreter's lock: a few megabytes of `[],[],[],…` would hold up
every other request for seconds. Counting takes milliseconds, whatever the bytes are.
"""

from __future__ import annotations

MAX_NESTED = 1 << 15  # lists and objects
MAX_STRINGS = 1 << 16  # keys and values
MAX_VALUES = 1 << 19  # commas: a prompt of 128k token ids has as many as tokens


class JsonCount:
    """Sums up over several texts."""

    def __init__(self) -> None:
        self._nested = self._quotes = self._commas = 0

    def excess(self, data: bytes) -> str | None:
        """Count `data` too; what there is too much of by now, in words. Exact for valid JSON, and never raises."""
        # Pairs of backslashes first: the quote after one of them ends its string.
        plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
        self._quotes += plain.count(b'"')
        if self._quotes > 2 * MAX_STRINGS:
            return f"more than {MAX_STRINGS} strings"
        outside = b"".join(plain.split(b'"')[::2])
        self._nested += outside.count(b"[") + outside.count(b"{")
        self._commas += outside.count(b",")
        if self._nested > MAX_NESTED:
            return f"more than {MAX_NESTED} lists and objects"
        if self._commas > MAX_VALUES:
            return f"more than {MAX_VALUES} values"
        return None
