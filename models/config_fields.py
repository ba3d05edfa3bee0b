"""The fields of a JSON object, each taken with its type and bounds. Pure: no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..weights.errors import CheckpointError

REQUIRED: Any = object()


class Fields:
    """Typed access to one JSON object of a file. Every method raises CheckpointError naming the file and the field.

    A field that is absent or null takes `default`; without a default it is required. `prefix` names a nested object.
    """

    def __init__(self, file: Path, values: dict[str, Any], prefix: str = "") -> None:
        self.file = file
        self.values = values
        self.prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def wrong(self, name: str, fact: str, mend: str = "restore the file as its publisher wrote it") -> CheckpointError:
        return CheckpointError(self.file, f"{self.prefix}{name} {fact}", mend=mend)

    def integer(self, name: str, low: int, high: int, default: Any = REQUIRED) -> Any:
        """An int in [low, high]; true and 4.0 are none."""
        value = self._get(name, default)
        if value is default:
            return value
        return self._integer(name, value, low, high)

    def integers(self, name: str, low: int, high: int, most: int, default: Any = REQUIRED) -> Any:
        """A tuple of ints, from an int or a list of at most `most`."""
        value = self._get(name, default)
        if value is default:
            return value
        items = value if isinstance(value, list) else [value]
        if len(items) > most:
            raise self.wrong(name, f"lists {len(items)} values, more than {most}")
        return tuple(self._integer(name, item, low, high) for item in items)

    def number(self, name: str, low: float, high: float, default: Any = REQUIRED) -> Any:
        """A float in [low, high]; an int will do."""
        value = self._get(name, default)
        if value is default:
            return value
        if type(value) not in (int, float):
            raise self.wrong(name, f"is {value!r}, not a number")
        if not low <= value <= high or not math.isfinite(value):
            raise self.wrong(
                name, f"is {value:g}, outside [{low:g}, {high:g}]" if abs(value) < 1e300 else "is too large"
            )
        return float(value)

    def boolean(self, name: str, default: Any = REQUIRED) -> Any:
        value = self._get(name, default)
        if value is not default and type(value) is not bool:
            raise self.wrong(name, f"is {value!r}, not true or false")
        return value

    def choice(self, name: str, choices: Sequence[str], default: Any = REQUIRED) -> Any:
        """One of the strings `choices`."""
        value = self._get(name, default)
        if value is not default and (not isinstance(value, str) or value not in choices):
            raise self.wrong(name, f"is {value!r}, supported: {', '.join(choices)}", "choose a supported model")
        return value

    def strings(self, name: str, most: int, default: Any = REQUIRED) -> Any:
        """A tuple of at most `most` strings."""
        value = self._get(name, default)
        if value is default:
            return value
        if not isinstance(value, list) or len(value) > most or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, f"is not a list of at most {most} strings")
        return tuple(value)

    def nested(self, name: str, default: Any = REQUIRED) -> Any:
        """The Fields of the object `name`."""
        value = self._get(name, default)
        if value is default:
            return value
        if not isinstance(value, dict):
            raise self.wrong(name, "is not an object")
        return Fields(self.file, value, f"{self.prefix}{name}.")

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is REQUIRED:
            raise self.wrong(name, "is missing")
        return default

    def _integer(self, name: str, value: Any, low: int, high: int) -> int:
        if type(value) is not int:
            raise self.wrong(name, f"is {value!r}, not an integer")
        if not low <= value <= high:
            shown = str(value) if abs(value) < 10**30 else "absurdly large"
            raise self.wrong(name, f"is {shown}, outside [{low}, {high}]")
        return value
