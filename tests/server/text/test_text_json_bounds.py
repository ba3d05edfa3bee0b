"""What a JSON text holds, counted from its bytes: held against a parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yardmaster.server.text import json_bounds
from yardmaster.server.text.json_bounds import JsonCount

ANYTHING = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a"\\\\[]{},:\n\u00e9\U0001f600'), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[{,', max_size=3), inner, max_size=4),
    max_leaves=12,
)


def count(value: Any) -> tuple[int, int, int]:
    """Strings, lists and objects, commas."""
    if isinstance(value, str):
        return 1, 0, 0
    if not isinstance(value, list | dict):
        return 0, 0, 0
    inner = list(value) if isinstance(value, list) else [*value, *value.values()]
    counts = [count(each) for each in inner]
    strings, nested, commas = (sum(each[i] for each in counts) for i in range(3))
    return strings, nested + 1, commas + max(len(value) - 1, 0)


@settings(max_examples=300)
@given(value=ANYTHING, ascii=st.booleans())
def test_the_count_is_exact(value: Any, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii).encode()
    limits = dict(zip(("MAX_STRINGS", "MAX_NESTED", "MAX_VALUES"), count(value), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in limits.items():
            patch.setattr(json_bounds, name, limit)
        assert JsonCount().excess(text) is None
        for name, limit in limits.items():
            if limit:
                patch.setattr(json_bounds, name, limit - 1)
                assert JsonCount().excess(text) is not None, name
                patch.setattr(json_bounds, name, limit)


def test_it_sums_up() -> None:
    counter = JsonCount()
    text = b"[" + b"[]," * 20_000 + b"1]"
    assert counter.excess(text) is None
    assert counter.excess(b"{}") is None
    assert counter.excess(text) == "more than 32768 lists and objects"


@pytest.mark.parametrize("raw", [b"", b'"', b"\\", b'\\"' * 3, b"[" * 9, b"\xff\x00" * 9, b'"' * 300_000])
def test_what_is_no_json_is_counted_too(raw: bytes) -> None:
    JsonCount().excess(raw)
