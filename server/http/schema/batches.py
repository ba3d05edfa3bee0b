"""The body of /v1/batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .fields import Metadata, Name


class OutputExpiresAfter(BaseModel):
    """From when the output files exist."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    anchor: Literal["created_at"]
    """Counted from the making of the file."""
    seconds: Annotated[int, Field(ge=3600, le=30 * 24 * 3600)]
    """When it is deleted."""


class BatchRequest(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    input_file_id: Name
    """An uploaded file whose `purpose` is `batch`."""
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    """The `url` of all its lines."""
    completion_window: Literal["24h"]
    """How long it may take."""
    metadata: Metadata | None = None
    """Kept with the batch."""
    output_expires_after: OutputExpiresAfter | None = None
    """When the files that it writes are deleted."""
