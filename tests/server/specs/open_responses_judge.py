"""Bodies held against the Open Responses specification's OpenAPI document, named by an environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .document import Document
from .kinds import KINDS, STREAM_EVENT

VARIABLE = "YARDMASTER_OPEN_RESPONSES_DOCUMENT"

RENAMED = {
    "response.reasoning_text.delta": "response.reasoning.delta",
    "response.reasoning_text.done": "response.reasoning.done",
}
"""OpenAI's clients know these events by another name. Those who ask for the specification's get that."""


class OpenResponsesJudge:
    name = "the Open Responses document"

    def __init__(self, path: str | Path) -> None:
        self._document = Document(path)
        stream = self._document.paths["/responses"]["post"]["responses"]["200"]["content"]["text/event-stream"]
        self._event = stream["schema"]

    def faults(self, kind: str, body: Any) -> list[str]:
        """What is wrong with `body`; nothing for a kind that the document does not know."""
        name = KINDS[kind].open_responses
        if name is None:
            return []
        schema = self._event if name == STREAM_EVENT else self._document.schemas[name]
        return self._document.faults(schema, _translated(body, RENAMED if kind == "response event" else {}))


def _translated(body: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """`body` without the differences that nobody can mend who also serves OpenAI's clients."""
    if body.get("type") in names:
        return body | {"type": names[body["type"]]}
    if "response" in body:
        return body | {"response": _translated(body["response"], names)}
    if body.get("object") == "response" and (format := body["text"]["format"])["type"] == "json_schema":
        # The document has null for its schema and nothing else; OpenAI's requires the schema.
        return body | {"text": body["text"] | {"format": format | {"schema": None}}}
    return body
