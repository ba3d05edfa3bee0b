"""What a body can be, and by which published type each judge knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import anthropic.types
from openai.pagination import SyncCursorPage, SyncPage
from openai.types import Batch, Completion, FileDeleted, FileObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import (
    InputTokenCountResponse,
    Response,
    ResponseItemList,
    ResponseStreamEvent,
)
from openai.types.shared import ErrorObject
from pydantic import BaseModel


class NestedError(BaseModel, extra="allow"):
    """OpenAI's SDK knows what is in an error, and takes it out of this."""

    error: ErrorObject


class Ping(BaseModel, extra="allow"):
    """Anthropic documents it; its SDK has no type for it, since its streams drop it."""

    type: Literal["ping"]


class TooLarge(BaseModel, extra="allow"):
    """Of status 413, likewise."""

    class Inside(BaseModel, extra="allow"):
        type: Literal["request_too_large"]
        message: str

    type: Literal["error"]
    error: Inside
    request_id: str | None


@dataclass(frozen=True)
class Kind:
    """`sdk`: a type of OpenAI's or Anthropic's SDK. The others: names of schemas in the documents. None: not there."""

    sdk: Any
    openai: str | None = None
    open_responses: str | None = None


STREAM_EVENT = "a member of POST /responses, text/event-stream"
"""Open Responses has no name for the union of its events: it stands in the route."""

KINDS = {
    "chat": Kind(ChatCompletion, "CreateChatCompletionResponse"),
    "chat chunk": Kind(ChatCompletionChunk, "CreateChatCompletionStreamResponse"),
    "completion": Kind(Completion, "CreateCompletionResponse"),
    "completion chunk": Kind(Completion, "CreateCompletionResponse"),
    "response": Kind(Response, "Response", "ResponseResource"),
    "response event": Kind(ResponseStreamEvent, "ResponseStreamEvent", STREAM_EVENT),
    "open responses event": Kind(None, None, STREAM_EVENT),
    "input items": Kind(ResponseItemList, "ResponseItemList"),
    "input tokens": Kind(InputTokenCountResponse, "TokenCountsResource"),
    "model": Kind(Model, "Model"),
    "models": Kind(SyncPage[Model], "ListModelsResponse"),
    "file": Kind(FileObject, "OpenAIFile"),
    "files": Kind(SyncCursorPage[FileObject], "ListFilesResponse"),
    "file deleted": Kind(FileDeleted, "DeleteFileResponse"),
    "batch": Kind(Batch, "Batch"),
    "batches": Kind(SyncCursorPage[Batch], "ListBatchesResponse"),
    "error": Kind(NestedError, "ErrorResponse"),
    "message": Kind(anthropic.types.Message),
    "message event": Kind(anthropic.types.RawMessageStreamEvent | Ping | anthropic.types.ErrorResponse),
    "message tokens": Kind(anthropic.types.MessageTokensCount),
    "message error": Kind(anthropic.types.ErrorResponse | TooLarge),
}
