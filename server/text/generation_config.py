"""generation_config.json: what a checkpoint recommends for sampling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from ...engine.sampling_params import SamplingParams
from .files import read_json_object

_SMALL_FILE = 1 << 20
_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def sampling_defaults(directory: Path) -> Mapping[str, float]:
    """Fields of `SamplingParams`; none without the file. Raises ValueError, naming the file, for one out of range."""
    path = directory / "generation_config.json"
    try:
        found = read_json_object(path, _SMALL_FILE)
    except FileNotFoundError:
        return {}
    values = {name: found[name] for name in _DEFAULTS if found.get(name) is not None}
    try:
        msgspec.convert(values, SamplingParams)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}") from None
    return values
