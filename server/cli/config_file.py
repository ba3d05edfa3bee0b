"""The YAML file of `serve`: its keys are flag names, its values become the flags' defaults."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .flags import existing_file

MAX_BYTES = 1 << 20
_NOT_IN_FILE = {"config", "help"}
_NULL = "tag:yaml.org,2002:null"


def read_config(path: Path, parameters: Iterable[Any]) -> dict[str, Any]:
    """Defaults by parameter name, for click's `default_map`. `parameters` are the command's.

    A key is a flag's long name with or without dashes in front, or `model`; values are the text that stands there, so
    that they mean what they would on the command line, and a wrong one is refused as there. Raises ValueError that
    names the file, the key, and the nearest flag.
    """
    known: dict[str, Any] = {}
    for parameter in parameters:  # MODEL before --model
        for spelling in _spellings(parameter):
            known.setdefault(spelling, parameter)
    shown = [spelling for spelling, parameter in known.items() if not getattr(parameter, "hidden", False)]
    found = _read(path)
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        parameter = known.get(str(key).lstrip("-").replace("_", "-"))
        if parameter is None:
            near = difflib.get_close_matches(str(key).lstrip("-").replace("_", "-"), shown, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{path}: unknown key {str(key)[:80]!r}{hint}")
        if parameter.name in defaults:
            raise ValueError(f"{path}: {str(key)[:80]!r} stands there twice, under two spellings")
        defaults[parameter.name] = _value(path, key, value, getattr(parameter, "multiple", False))
    return defaults


def _spellings(parameter: Any) -> list[str]:
    if parameter.name in _NOT_IN_FILE:
        return []
    return [option.lstrip("-").replace("_", "-") for option in parameter.opts if option.startswith("--")] or [
        parameter.name
    ]


def _read(path: Path) -> dict[Any, Any]:
    import yaml  # here: `--help` does without

    class Plain(yaml.SafeLoader):
        """A scalar is its text: `off`, 0123 and 1e3 are for the flag to understand. Only nothing is nothing."""

        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [each for each in resolvers if each[0] == _NULL]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        with existing_file(path, "--config").open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"--config: {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"--config: {path} is larger than {MAX_BYTES >> 20} MiB: it is to hold flags alone")
    try:
        found = yaml.load(data, Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold keys and values, as in `port: 8000`")
    return found


def _value(path: Path, key: Any, value: Any, multiple: bool) -> Any:
    if multiple:
        items = value if isinstance(value, list) else [value]
        return [_scalar(path, key, item) for item in items]
    return _scalar(path, key, value)


def _scalar(path: Path, key: Any, value: Any) -> str:
    if isinstance(value, str):
        return value
    kind = (
        "nothing; leave the key out, or put quotes around the value" if value is None else f"a {type(value).__name__}"
    )
    raise ValueError(f"{path}: {str(key)[:80]!r} must be a single value, got {kind}")
