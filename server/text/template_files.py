"""A checkpoint's chat templates, as its files have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .files import read_json_object, read_regular

MAX_TEMPLATE_BYTES = 1 << 20
MAX_CONFIG_BYTES = 16 << 20


def checkpoint_templates(directory: Path) -> tuple[Path, dict[str, str]]:
    """The file, and the templates in it by name: `default`, `tool_use` …; none where there are none.

    From chat_template.jinja, else from `chat_template` in tokenizer_config.json, which is one template or a list of
    {name, template}. Raises ValueError, one line that names the file.
    """
    path = Path(directory) / "chat_template.jinja"
    try:
        try:
            return path, {"default": template_file(path)}
        except FileNotFoundError:
            path = Path(directory) / "tokenizer_config.json"
        try:
            return path, _named(read_json_object(path, MAX_CONFIG_BYTES).get("chat_template"))
        except FileNotFoundError:
            return path, {}
    except ValueError as error:
        raise ValueError(naming(path, error)) from None


def template_file(path: Path) -> str:
    """The template in any file. Raises OSError, and ValueError where it is too large or no text."""
    return read_regular(path, MAX_TEMPLATE_BYTES).decode()


def naming(path: Path, error: Exception) -> str:
    """One line that says what is wrong, and in which file."""
    line = str(error)
    return line if str(path) in line else f"{path}: {line}"


def _named(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("template"), str)
        for item in value
    ):
        return {item["name"]: item["template"] for item in value}
    raise ValueError("chat_template must be a string or a list of {name, template}")
