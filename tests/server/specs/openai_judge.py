"""Bodies held against OpenAI's published OpenAPI document, of which an environment variable names a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .document import Document
from .kinds import KINDS

VARIABLE = "YARDMASTER_OPENAI_DOCUMENT"

NULLS = (
    # OpenAI answers with null, in the document's own examples too, where its schema would leave a field out.
    *(
        f"Batch/properties/{field}"
        for field in (
            "errors", "output_file_id", "error_file_id", "in_progress_at", "expires_at", "finalizing_at",
            "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
        )
    ),
    "Response/allOf/2/properties/usage", "ModelResponseProperties/properties/user",
    "TextResponseFormatJsonSchema/properties/description",
    # Of a list that is empty.
    "ListBatchesResponse/properties/first_id", "ListBatchesResponse/properties/last_id",
    "ListFilesResponse/properties/first_id", "ListFilesResponse/properties/last_id",
    "ResponseItemList/properties/first_id", "ResponseItemList/properties/last_id",
    # A text completion that goes on: the document has no schema for its chunks but that of the whole.
    "CreateCompletionResponse/properties/choices/items/properties/finish_reason",
    "CreateCompletionResponse/properties/usage",
    # With echo: nothing comes before the first token of a prompt.
    "CreateCompletionResponse/properties/choices/items/properties/logprobs/anyOf/0/properties/token_logprobs/items",
    "CreateCompletionResponse/properties/choices/items/properties/logprobs/anyOf/0/properties/top_logprobs/items",
)  # fmt: skip


class OpenAIJudge:
    name = "OpenAI's document"

    def __init__(self, path: str | Path) -> None:
        self._document = Document(path, NULLS)

    def faults(self, kind: str, body: Any) -> list[str]:
        """What is wrong with `body`; nothing for a kind that the document does not know."""
        schema = KINDS[kind].openai
        return [] if schema is None else self._document.faults(self._document.schemas[schema], body)
