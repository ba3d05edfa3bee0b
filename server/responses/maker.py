"""From a checked body to a run: conversation, prompt and the engine's parameters, all by the chat path's own means.

Where the response is to be kept, that too is arranged here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..database import NotFound
from ..http.choice import Choice
from ..http.chosen_splitter import chosen_notes
from ..http.config import HttpConfig
from ..http.errors import bad_request, report
from ..http.generation import Generation
from ..http.logprobs import chat_logprobs
from ..http.prompts import render_chat
from ..http.sampling import check_common, longest_scored, sampling_params, submits
from ..http.schema.chat import ChatRequest
from ..http.service import Service
from ..http.structured import chat_form
from ..http.tools import offered_tools
from .chat_request import chat_request, name_of
from .events import Narrator, ReasoningName
from .items import Kept, check_calls, listed, new_id, references
from .resource import Resource, new_resource
from .runs import Background, Noted, Run
from .schema import Conversation, ResponsesRequest
from .store import NotUsable, ResponseStore

log = logging.getLogger("yardmaster.http")

EFFORT = "medium"  # of a Harmony model that is told none


class Maker:
    """From a checked body to a run, and from there to an answer."""

    def __init__(
        self, service: Service, config: HttpConfig, store: ResponseStore | None, runs: Background | None = None
    ) -> None:
        self.runs = runs if runs is not None or store is None else Background(store)
        self._service = service
        self._config = config
        self._store = store

    async def make(self, body: ResponsesRequest, owner: str, open_responses: bool) -> tuple[Run, list[Kept]]:
        """A run whose generation has started, and its own input items. Raises ApiError.

        `open_responses`: the client wants that specification's names where OpenAI's differ.
        """
        service = self._service
        chat, given = await self._chat(body, owner)
        stores = self._check(body)
        tools = offered_tools(chat, service)
        service.admit()
        prompt = await render_chat(chat, chat.messages, service, tools.shown)
        form = await chat_form(chat, tools, service, prompt)
        top = (body.top_logprobs or 0) if body.logprobs else None
        params = sampling_params(chat, service, len(prompt), body.max_output_tokens, param="input", logprobs=top)
        most = longest_scored(top, 1, body.max_output_tokens, "top_logprobs")
        identity = new_id("resp")
        submit = submits(identity, prompt, params, chat, service, None if form is None else form.grammar)[0]
        notes = chosen_notes(
            service,
            prompt,
            tools.names,
            parallel_calls=chat.parallel_tool_calls is not False,
            skip_special_tokens=params.skip_special_tokens,
        )
        effort = EFFORT if service.harmony else None
        model, now = self._config.served_model_names[0], int(time.time())
        resource = new_resource(identity, body, params, model, effort, stores, now)
        logprobs = None if top is None else lambda tokens: chat_logprobs(service.tokenizer, tokens, top)["content"]
        reasoning: ReasoningName = "reasoning" if open_responses else "reasoning_text"
        narrator = Narrator(resource, len(prompt), logprobs, body.sealed, reasoning)

        async def keep(resource: Resource) -> None:
            await self._keep(resource, given, owner)

        if body.background and self.runs is not None:
            self.runs.admit()
        param = None if form is None else name_of(form.param, body)
        run = Run(Generation(service, [Choice(0, submit, notes, most)], param), notes, narrator, keep)
        await run.generation.start()
        return run, given

    async def count(self, body: Conversation, owner: str) -> int:
        """Tokens of the prompt. Raises ApiError."""
        chat, _ = await self._chat(body, owner)
        return len(await render_chat(chat, chat.messages, self._service, offered_tools(chat, self._service).shown))

    async def _chat(self, body: Conversation, owner: str) -> tuple[ChatRequest, list[Kept]]:
        """The whole conversation for the chat path, and the items of `input` alone. Raises ApiError."""
        if body.input is None and body.previous_response_id is None:
            raise bad_request("input: Field required", "input", "missing_required_parameter")
        before: list[Kept] = []
        if (previous := body.previous_response_id) is not None:
            with usable("previous_response_id"):
                before = await self.kept(ResponseStore.chain, owner, previous)
        found: dict[str, Kept] = {}
        if (wanted := references(body.input)) and self._store is not None:
            with usable("input"):
                found = await self._store.run(self._store.items, owner, set(wanted))
        given = listed(body.input if body.input is not None else [], found)
        check_calls([*before, *given], len(before))
        chat = chat_request(body, [*before, *given])
        check_common(chat, self._config)
        return chat, given

    async def kept(self, verb: Callable[[ResponseStore, str, str], Any], owner: str, identity: str) -> Any:
        """`verb` of the store, in its thread. Raises NotFound, as for all without a store, and NotUsable."""
        if self._store is None:
            raise NotFound(identity)
        return await self._store.run(verb, self._store, owner, identity)

    async def background(self, run: Run, owner: str, given: list[Kept], stream: bool) -> tuple[Resource, Noted | None]:
        """Let `run` go on by itself: the response as it is now, and its events where they are wanted."""
        assert self._store is not None
        assert self.runs is not None
        started = dict(run.narrator.resource)
        try:
            await self._store.run(self._store.add, owner, started, given)
        except BaseException:
            await run.generation.close()
            raise
        return started, self.runs.start(run, stream)

    def _check(self, body: ResponsesRequest) -> bool:
        """Whether the response is to be kept. Raises ApiError 400 for fields that do not go together."""
        if body.top_logprobs and not body.logprobs:
            raise bad_request("top_logprobs: goes with include=['message.output_text.logprobs'] only", "top_logprobs")
        if (body.top_logprobs or 0) > self._config.max_top_logprobs:
            most = self._config.max_top_logprobs
            raise bad_request(f"top_logprobs: at most {most}, got {body.top_logprobs}", "top_logprobs")
        if body.stream_options is not None and not body.stream:
            raise bad_request("stream_options: allowed only with stream=true", "stream_options")
        if self._store is None:
            for name in ("store", "background"):
                if getattr(body, name):
                    message = f"{name}: this server keeps no responses; it was started with --response-store off"
                    raise bad_request(message, name, "unsupported_parameter")
        if body.background and body.store is False:
            raise bad_request("store: must be true with background=true", "store")
        return self._store is not None and body.store is not False

    async def _keep(self, resource: Resource, given: list[Kept], owner: str) -> None:
        """A response that cannot be kept is an answer all the same, and says so."""
        if not resource["store"] or self._store is None:
            return
        try:
            if resource["background"]:
                await self._store.run(self._store.finish, owner, resource)
            else:
                await self._store.run(self._store.add, owner, resource, given)
        except Exception as error:
            report(log, resource["id"], error)
            resource["store"] = False


@contextmanager
def usable(param: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        message = f"{param}: there is no such response, or it is no longer kept"
        raise bad_request(message, param, "previous_response_not_found") from None
    except NotUsable as error:
        raise bad_request(f"{param}: {error}", param, error.code) from None
