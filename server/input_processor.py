"""Texts and conversations into jobs, for a model in this program."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from ..engine.sampling_params import SamplingParams
from ..models.hf_config import load_config
from .http.splitter import HarmonySplitter, PlainSplitter, Splitter
from .http.text_splitter import format_splitter
from .offline import Job
from .text.bad_words import bad_token_ids
from .text.constraint import Constraint, ConstraintError, Speech
from .text.formats.reasoning import switched_off
from .text.formats.registry import ChatFormat, chat_format
from .text.generation_config import sampling_defaults
from .text.grammar_book import GrammarBook
from .text.grammar_process import GrammarChecks
from .text.harmony.conversation import HarmonyChat
from .text.harmony.encoder import HarmonyEncoder
from .text.harmony.grammar import HarmonySpeech
from .text.harmony.parser import primer
from .text.harmony.tokens import end_tokens, is_harmony
from .text.messages_in import plain_messages
from .text.offered_tools import NO_TOOLS, OfferedTools, ToolsError
from .text.template import ChatTemplate
from .text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Prompt = str | Sequence[int] | Mapping[str, Any]
Messages = Sequence[Mapping[str, Any]]


class InputProcessor:
    """The text side of a checkpoint: its tokenizer, its chat form, the grammars its output is held to.

    `text` and `chat` give the prompt as text (None when it came as token ids) and the job. All raise ValueError, in
    one line, for what cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        model = load_config(directory)
        self.tokenizer = Tokenizer(directory)
        self.defaults = sampling_defaults(directory)
        self._vocab_size = model.vocab_size
        self._eos = end_tokens(self.tokenizer, model.eos_token_ids or self.tokenizer.eos_token_ids)
        self._chat = HarmonyChat(HarmonyEncoder(self.tokenizer)) if is_harmony(self.tokenizer) else None
        self._template = ChatTemplate.load(directory, self.tokenizer) if self._chat is None else None
        source = self._template.text if self._template else ""
        self._format = ChatFormat() if self._chat else chat_format(self.tokenizer, source, model.family)
        self._grammars = GrammarBook(GrammarChecks())
        self._warned = False

    def text(self, prompt: Prompt, params: SamplingParams, name: str) -> tuple[str | None, Job]:
        """A text, or token ids, to go on with. `name` is the prompt's in errors."""
        text, ids = self._encode(prompt, name)
        splitter = PlainSplitter(self.tokenizer, params.skip_special_tokens)
        return text, self._job(ids, params, splitter, self._text_grammar(params))

    def chat(
        self,
        messages: Messages,
        params: SamplingParams,
        tools: OfferedTools,
        kwargs: Mapping[str, Any],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> tuple[str, Job]:
        """A conversation to answer. `kwargs` are the chat template's variables."""
        whole = add_generation_prompt and not continue_final_message
        text, ids = self._render(messages, add_generation_prompt, continue_final_message, kwargs, tools)
        grammar = self._chat_grammar(params, tools, ids, whole, thinks=whole and not switched_off(kwargs))
        return text, self._job(ids, params, self._chat_splitter(ids, params, tools), grammar)

    def offered(
        self, tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None
    ) -> OfferedTools:
        """OpenAI's `tools` and `tool_choice`."""
        if (tools or choice not in (None, "none")) and self._chat is None and self._format.tools is None:
            raise ValueError("tools: this model's calls cannot be read")
        try:
            return OfferedTools.of(list(tools or ()), choice)
        except ToolsError as error:
            raise ValueError(f"{error.param}: {error}") from None

    def close(self) -> None:
        """End the template's process. Idempotent."""
        if self._template is not None:
            self._template.close()

    def _encode(self, prompt: Prompt, name: str) -> tuple[str | None, list[int]]:
        given: Any = prompt
        if isinstance(prompt, Mapping):
            given = prompt.get("prompt_token_ids", prompt.get("prompt", ()))
            if isinstance(given, str) and "prompt_token_ids" in prompt:
                given = None
        if isinstance(given, str):
            if not self._warned and (control := self.tokenizer.first_control(given)) is not None:
                self._warned = True
                log.warning("%s holds %s, which is text there: for a control token give token ids", name, control)
            return given, self.tokenizer.encode(given, add_special_tokens=True)
        ids: list[Any] = list(given) if isinstance(given, Sequence) else [None]
        if not all(type(token) is int and 0 <= token < self._vocab_size for token in ids):
            raise ValueError(f"{name} must be a text or token ids from 0 to {self._vocab_size - 1}")
        return None, ids

    def _render(
        self,
        messages: Messages,
        generate: bool,
        go_on: bool,
        kwargs: Mapping[str, Any],
        tools: OfferedTools,
    ) -> tuple[str, list[int]]:
        if self._chat is not None:
            flags = {"add_generation_prompt": generate, "continue_final_message": go_on}
            variables = {"current_date": date.today().isoformat(), **kwargs, **flags}
            ids = self._chat.encode(plain_messages(messages, raw_arguments=True), tools.shown, **variables)
            return self.tokenizer.decode(ids, skip_special_tokens=False), ids
        if self._template is None:
            raise ValueError("this model has no chat template: it completes text, with generate()")
        rendered = self._template.render(
            plain_messages(messages, raw_arguments=self._format.text_arguments),
            list(tools.shown) or None,
            add_generation_prompt=generate and not go_on,
            continue_final_message=go_on,
            **kwargs,
        )
        return rendered.text, self.tokenizer.encode_prompt(rendered)

    def _text_grammar(self, params: SamplingParams) -> str | None:
        """Raises ValueError."""
        with _named(NO_TOOLS):
            constraint = _constraint(params)
            return None if constraint is None else self._grammars.plain(constraint)

    def _chat_grammar(
        self, params: SamplingParams, tools: OfferedTools, prompt: list[int], whole: bool, thinks: bool
    ) -> str | None:
        """`whole`: the model begins its message itself. Raises ValueError."""
        with _named(tools):
            constraint = _constraint(params)
            if constraint is None and not tools.binding:
                return None
            if constraint is not None and tools.must_call:
                raise ValueError("structured_outputs contradict tool_choice, which asks for a call")
            if not whole and (self._chat is not None or constraint is None):
                raise ValueError("structured_outputs and forced calls need a message that the model begins itself")
            speech: Speech = HarmonySpeech()
            if self._chat is None:
                speech = self._format.speech(self.tokenizer, prompt, thinks=thinks)
            must_call, several = tools.must_call, tools.several
            return self._grammars.chat(speech, constraint, tools.calls, must_call=must_call, several=several)

    def _chat_splitter(self, ids: list[int], params: SamplingParams, tools: OfferedTools) -> Splitter:
        if is_harmony(self.tokenizer):
            return HarmonySplitter(self.tokenizer, primer(self.tokenizer, ids), tools.names)
        skips = params.skip_special_tokens
        return format_splitter(self.tokenizer, self._format, ids, tools.names, skip_special_tokens=skips)

    def _job(self, ids: list[int], params: SamplingParams, splitter: Splitter, grammar: str | None) -> Job:
        _check_ids(params, self._vocab_size)
        if params.bad_words or params.structured_outputs is not None:  # the engine knows ids alone
            bad = params.bad_token_ids + bad_token_ids(self.tokenizer, params.bad_words)
            params = msgspec.structs.replace(params, bad_token_ids=bad, bad_words=(), structured_outputs=None)
        return Job(ids, params, splitter, self._eos, grammar)


def _constraint(params: SamplingParams) -> Constraint | None:
    return None if params.structured_outputs is None else Constraint.of(params.structured_outputs)


def _check_ids(params: SamplingParams, vocab_size: int) -> None:
    """Raises ValueError, naming the field, for an id that no token has: the engine looks at none."""
    given: dict[str, Iterable[int]] = {
        "logit_bias": params.logit_bias,
        "stop_token_ids": params.stop_token_ids,
        "allowed_token_ids": params.allowed_token_ids or (),
        "bad_token_ids": chain.from_iterable(params.bad_token_ids),
    }
    for name, ids in given.items():
        for token in ids:
            if not 0 <= token < vocab_size:
                raise ValueError(f"{name}: {token} is no token; ids are from 0 to {vocab_size - 1}")


@contextmanager
def _named(tools: OfferedTools) -> Iterator[None]:
    """What is wrong with a form or a function's schema as a ValueError with its place."""
    try:
        yield
    except ConstraintError as error:
        name = "structured_outputs" if error.call is None else tools.path(error.call)
        raise ValueError(f"{name}: {error}") from None
