"""Whom `yardmaster chat` talks to: a server over HTTP, or a model in this program."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from .address import base_url, key_headers
from .console import CommandError
from .refusal import error_text, refusal

if TYPE_CHECKING:
    import httpx

    from ...engine.config import EngineConfig

Reply = Generator[tuple[str, str], None, None]


class Partner(Protocol):
    name: str

    def reply(self, messages: list[dict[str, Any]]) -> Reply:
        """The answer as (reasoning, content) pieces; closing the generator ends it.

        Raises ValueError when the conversation is refused, CommandError when nobody answers any more.
        """

    def close(self) -> None: ...


class Remote:
    """An OpenAI-compatible server at `url`, with or without /v1. `fields` go into each request's body."""

    def __init__(self, url: str, api_key: str | None, model: str | None, fields: Mapping[str, Any]) -> None:
        import httpx

        base, headers = base_url(url, "MODEL|URL"), key_headers(api_key)
        self._http = httpx.Client(base_url=base, headers=headers, timeout=httpx.Timeout(600.0, connect=10.0))
        self._fields = fields
        try:
            self.name = model or self._first_model()
        except BaseException:
            self._http.close()
            raise

    def reply(self, messages: list[dict[str, Any]]) -> Reply:
        import httpx

        body = {"model": self.name, "messages": messages, "stream": True, **self._fields}
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        yield from _pieces(line[5:].strip())
        except httpx.HTTPError as error:
            raise CommandError(f"{self._http.base_url}: {error or type(error).__name__}") from None

    def close(self) -> None:
        self._http.close()

    def _first_model(self) -> str:
        import httpx

        try:
            response = self._http.get("/v1/models")
        except httpx.HTTPError as error:
            raise CommandError(f"{self._http.base_url}: {error or type(error).__name__}") from None
        if response.status_code != 200:
            raise _refusal(response)
        try:
            return str(response.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise CommandError(f"{self._http.base_url}v1/models lists no model") from None


class Local:
    """The model of `config`, loaded into this program. `fields` as a request's body has them."""

    def __init__(self, config: EngineConfig, fields: Mapping[str, Any], progress: Callable[[str], None]) -> None:
        from ..llm import LLM

        self.name = config.model
        template = {"reasoning_effort"}
        self._variables = {name: value for name, value in fields.items() if name in template}
        self._llm = LLM.of(config, progress)
        self._params = self._llm.default_sampling_params(
            **{name: value for name, value in fields.items() if name not in template}
        )

    def reply(self, messages: list[dict[str, Any]]) -> Reply:
        with closing(self._llm.stream_chat(messages, self._params, **self._variables)) as pieces:
            for piece in pieces:
                yield piece.reasoning, piece.text

    def close(self) -> None:
        self._llm.close()


def _pieces(data: str) -> Reply:
    """Of one server-sent event."""
    if data == "[DONE]":
        return
    try:
        event = json.loads(data)
        if "error" in event:
            raise ValueError(error_text(event["error"]))
        for choice in event["choices"]:
            delta = choice["delta"]
            yield delta.get("reasoning_content") or "", delta.get("content") or ""
    except (json.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise CommandError("the server sent something that is no chat completion chunk") from None


def _refusal(response: httpx.Response) -> Exception:
    """A 4xx is the request's fault; anything else is the server's."""
    line = f"{response.status_code}: {refusal(response.content)}"
    return ValueError(line) if 400 <= response.status_code < 500 else CommandError(line)
