"""A call's id: as Anthropic's clients see it, and as the family writes it, whose template may look at it."""

from __future__ import annotations

import re

_SHOWN = "toolu_"
_COMMON = "call_"
_COMMON_REST = re.compile(r"[0-9a-f]{24}")
_MISTRAL = re.compile(r"[A-Za-z0-9]{9}")
_KIMI = re.compile(r"functions\.(?P<name>.+):\d{1,9}")


def shown(identity: str) -> str:
    return _SHOWN + identity.removeprefix(_COMMON)


def written(identity: str, name: str, tools: str | None) -> str:
    """What `shown` was given, for a call of the function `name`; an id that the client has chosen stays as it is.

    `tools`: the format of calls, by its name in `ChatFormat`.
    """
    rest = identity.removeprefix(_SHOWN)
    if rest == identity:
        return identity
    if tools == "kimi_k2":
        found = _KIMI.fullmatch(rest)
        return rest if found is not None and found["name"] == name else identity
    if tools == "mistral":
        return rest if _MISTRAL.fullmatch(rest) else identity
    return _COMMON + rest if _COMMON_REST.fullmatch(rest) else identity
