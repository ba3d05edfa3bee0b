"""Messages to a prompt, through the checkpoint's chat template.

What enters is a request's messages, tools and template variables, all of it text from outside. What leaves is a prompt
whose control tokens are the template's own: sandbox.py says how. Rendering happens in a process of its own, which the
kernel holds to a time and a memory limit (render_child.py); a round trip there costs a fraction of a millisecond.
"""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lanes import Lanes, Place
from .render_process import RenderDied, RenderError, RenderProcess
from .template_files import checkpoint_templates, naming, template_file
from .tokenizer import Tokenizer

QUICK, SLOW = 2, 2  # that are rendered at once, each in a process of its own
MAX_WAITING = 256  # threads, idle but for what stands above
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class TemplateError(ValueError):
    """The template refused the messages, failed, ran too long or is malformed; one line. HTTP: 400.

    The line may quote the request: it is for the client, not for a log.
    """


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt, for `Tokenizer.encode_prompt`."""

    text: str
    """What transformers' `apply_chat_template(tokenize=False)` gives."""
    marked: str
    """The same with the template's control tokens under their secret names: never shown, never logged."""


class ChatTemplate:
    """One checkpoint's chat template. Thread-safe.

    `tool_use` is the template for requests with tools, where a checkpoint brings two. Raises TemplateError when either
    is malformed. `render` blocks, at worst for `time_limit` seconds: on an event loop use `render_async`.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, time_limit: float = 2.0, tool_use: str | None = None) -> None:
        self._sources = {"default": source} | ({} if tool_use is None else {"tool_use": tool_use})
        self._tokenizer = tokenizer
        self._limit = time_limit
        self._idle: list[RenderProcess] = []
        self._lanes = Lanes(QUICK, SLOW)
        self._threads = ThreadPoolExecutor(MAX_WAITING, "templates")
        try:
            self._idle.append(self._start())
        except RenderError as error:
            raise TemplateError(tokenizer.unmark(str(error))) from None

    @property
    def text(self) -> str:
        """All that it consists of."""
        return "\n".join(self._sources.values())

    @classmethod
    def load(cls, directory: Path, tokenizer: Tokenizer, time_limit: float = 2.0) -> ChatTemplate | None:
        """From chat_template.jinja, else from `chat_template` in tokenizer_config.json; None where neither is.

        Raises TemplateError, naming the file, when it is no template.
        """
        path = Path(directory)
        try:
            path, sources = checkpoint_templates(directory)
            if "default" not in sources:
                return None
            return cls(sources["default"], tokenizer, time_limit, sources.get("tool_use"))
        except (ValueError, RecursionError) as error:
            raise TemplateError(naming(path, error)) from None

    @classmethod
    def from_file(cls, path: Path, tokenizer: Tokenizer, time_limit: float = 2.0) -> ChatTemplate:
        """From any file. Raises TemplateError, naming it, when it is no template."""
        try:
            return cls(template_file(path), tokenizer, time_limit)
        except (OSError, ValueError, RecursionError) as error:
            raise TemplateError(naming(path, error)) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> Rendered:
        """The prompt for `messages` (plain dicts: see messages_in.py). `kwargs` are the template's further variables.

        `continue_final_message` leaves the last message open, for the model to go on with it. Raises TemplateError, and
        Busy where it takes long and others do so already.
        """
        if not messages:
            raise TemplateError("messages must hold at least one message")
        if continue_final_message and add_generation_prompt:
            raise TemplateError("continue_final_message and add_generation_prompt exclude each other; set one to false")
        chat = [_message(message) for message in messages]
        tag = f"y{secrets.token_hex(16)} " if continue_final_message else ""
        if tag:
            chat[-1]["content"] = _tagged(chat[-1].get("content"), tag)
        # Parts of `variables` that the server vouches for go in after the rest has been searched for secret names.
        variables = {"documents": None} | kwargs
        variables |= {"messages": chat, "tools": tools, "add_generation_prompt": add_generation_prompt}
        own = {name: self._tokenizer.mark(text) for name, text in self._tokenizer.special_variables.items()}
        own = {name: text for name, text in own.items() if name not in variables}
        try:
            given = self._tokenizer.without_secrets(json.dumps(variables))
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateError(f"messages, tools and chat_template_kwargs must be plain JSON: {error}") from None
        payload = given if not own else f"{given[:-1]}, {json.dumps(own)[1:]}"
        name = "tool_use" if tools is not None and "tool_use" in self._sources else "default"
        try:
            marked = self._rendered(name, payload)
        except RenderError as error:
            raise TemplateError(self._tokenizer.unmark(str(error))) from None
        if tag:
            marked = _cut(marked, tag)
        return Rendered(self._tokenizer.unmark(marked), marked)

    async def render_async(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> Rendered:
        """`render` in a thread of the template's own, so that the event loop goes on, and all else in threads too."""
        render = functools.partial(
            self.render, messages, tools, add_generation_prompt, continue_final_message, **kwargs
        )
        return await asyncio.get_running_loop().run_in_executor(self._threads, render)

    def close(self) -> None:
        """End the rendering processes; also happens when the template is collected and at exit."""
        self._threads.shutdown(wait=False)
        while self._idle:
            self._idle.pop().close()

    def _start(self) -> RenderProcess:
        return RenderProcess(self._sources, self._tokenizer.secret_names, self._limit)

    def _rendered(self, name: str, variables: str) -> str:
        with self._lanes.place() as place:
            try:
                return self._ask(self._take(), name, variables, place)
            except RenderDied:  # something outside ended it while it was idle: once more, with a new one
                return self._ask(self._start(), name, variables, place)

    def _take(self) -> RenderProcess:
        try:
            return self._idle.pop()  # a list's pop and append are atomic
        except IndexError:
            return self._start()

    def _ask(self, process: RenderProcess, name: str, variables: str, place: Place) -> str:
        try:
            return process.render(name, variables, place)
        finally:
            if place.slow:
                process.close()
            elif not process.dead:
                self._idle.append(process)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that are null (templates would print "None"); reasoning under the names that templates read."""
    plain = {name: value for name, value in message.items() if value is not None}
    for field in REASONING_FIELDS:
        if field in plain:
            return {"thinking": plain[field], **plain, "reasoning_content": plain[field]}
    return plain


def _tagged(content: Any, tag: str) -> Any:
    """The content with `tag` behind its last text."""
    if isinstance(content, str):
        return content + tag
    if isinstance(content, list):
        parts = [dict(part) if isinstance(part, Mapping) else part for part in content]
        for part in reversed(parts):
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                part["text"] += tag
                return parts
    raise TemplateError("continue_final_message needs text in the last message's content")


def _cut(marked: str, tag: str) -> str:
    """The rendering up to `tag`. Where the template trimmed the space that ends the tag, it trims the message too."""
    place = marked.rfind(tag.strip())
    if place < 0:
        raise TemplateError("continue_final_message: the chat template leaves the last message out")
    return marked[:place] if marked.startswith(tag, place) else marked[:place].rstrip()
