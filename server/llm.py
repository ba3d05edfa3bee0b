"""`LLM`: a model in this program, without a server. Names and behaviour follow vLLM's class of that name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from ..engine.config import EngineConfig
from ..engine.messages import TokenLogprob
from ..engine.sampling_params import SamplingParams
from ..models.hf_config import load_config
from .cli.console import progress_bar
from .engine_settings import engine_config, model_directory
from .http.choice import Piece
from .http.splitter import HarmonySplitter, PlainSplitter, Splitter
from .http.text_splitter import format_splitter
from .offline import Answer, Job, OfflineEngine
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


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a function; `arguments` are its own text, JSON if it did well."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer. Of a Harmony chat `text` is the final channel and `reasoning` the analysis.

    `token_ids` are all that were generated, the one that ended it included; `logprobs`, where asked for, are theirs.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: str | None
    stop_reason: int | str | None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestResult:
    """One prompt and what came of it. `prompt` is None when it was given as token ids."""

    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprob | None] | None
    outputs: list[CompletionOutput]


class LLM:
    """A model that is loaded on construction and freed by `close`, or at the end of a `with` block.

    `model` is a directory or OWNER/NAME on the hub; None is the embedded demo. The flags are those of `yardmaster
    serve`, with underscores: tensor_parallel_size, dtype, max_model_len, gpu_memory_utilization and so on. More than
    one rank means processes of their own. `progress` takes the lines that start-up has to say.

    Raises ValueError, in one line, for a model or flags that cannot be used, EngineDead when the start fails.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        progress: Callable[[str], None] = log.info,
        **flags: Any,
    ) -> None:
        engine_config("-", **flags)  # what is wrong with the flags is said before anything is fetched
        directory = model_directory(None if model is None else str(model), revision)
        self._open(engine_config(str(directory), **flags), progress)

    @classmethod
    def of(cls, config: EngineConfig, progress: Callable[[str], None]) -> LLM:
        """The same from a config that is made already."""
        llm = cls.__new__(cls)
        llm._open(config, progress)
        return llm

    def _open(self, config: EngineConfig, progress: Callable[[str], None]) -> None:
        directory = Path(config.model)
        self._model = load_config(directory)
        self.tokenizer = Tokenizer(directory)
        self._defaults = sampling_defaults(directory)
        self._eos = end_tokens(self.tokenizer, self._model.eos_token_ids or self.tokenizer.eos_token_ids)
        self._chat = HarmonyChat(HarmonyEncoder(self.tokenizer)) if is_harmony(self.tokenizer) else None
        self._template = ChatTemplate.load(directory, self.tokenizer) if self._chat is None else None
        source = self._template.text if self._template else ""
        self._format = ChatFormat() if self._chat else chat_format(self.tokenizer, source, self._model.family)
        self._grammars = GrammarBook(GrammarChecks())
        self._engine = OfflineEngine(config, progress)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestResult]:
        """Continue texts, one answer a prompt, in their order. A single text or list of token ids counts as one prompt.

        In a text a control token's name is text: give token ids where it is meant. With `structured_outputs` in the
        parameters the whole output is of that form. `use_tqdm` shows a progress bar on a terminal. Raises ValueError
        naming the prompt that cannot be served, EngineDead when the engine fails.
        """
        listed = _listed(prompts)
        params = self._params(sampling_params, len(listed))
        encoded = [self._encode(prompt, f"prompts[{i}]") for i, prompt in enumerate(listed)]
        jobs = []
        for i, ((_, ids), each) in enumerate(zip(encoded, params, strict=True)):
            grammar = self._text_grammar(each)
            splitter = PlainSplitter(self.tokenizer, each.skip_special_tokens)
            jobs.append(self._job(ids, each, splitter, grammar, f"prompts[{i}]"))
        return self._run(jobs, [text for text, _ in encoded], use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
    ) -> list[RequestResult]:
        """Answer one conversation, or several. Messages, `tools` and `tool_choice` are OpenAI's.

        With `structured_outputs` in the parameters the answer is of that form, behind whatever reasoning comes before
        it. Raises as `generate` does.
        """
        listed: list[Messages] = [messages] if messages and isinstance(messages[0], Mapping) else list(messages)  # type: ignore[arg-type,list-item]
        params = self._params(sampling_params, len(listed))
        offered = self._offered(tools, tool_choice)
        whole = add_generation_prompt and not continue_final_message
        thinks = whole and not switched_off(chat_template_kwargs or {})
        jobs, texts = [], []
        for i, (conversation, each) in enumerate(zip(listed, params, strict=True)):
            try:
                text, ids = self._render(
                    conversation, add_generation_prompt, continue_final_message, chat_template_kwargs or {}, offered
                )
                grammar = self._chat_grammar(each, offered, ids, whole, thinks)
            except ValueError as error:
                raise ValueError(f"messages[{i}]: {error}") from None
            jobs.append(self._job(ids, each, self._chat_splitter(ids, each, offered), grammar, f"messages[{i}]"))
            texts.append(text)
        return self._run(jobs, texts, use_tqdm)

    def stream_chat(
        self,
        messages: Messages,
        sampling_params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        **chat_template_kwargs: Any,
    ) -> Generator[Piece, None, None]:
        """Answer one conversation piece by piece (`text`, `reasoning`, `calls`). Closing the iterator aborts it."""
        (params,) = self._params(sampling_params, 1)
        offered = self._offered(tools, tool_choice)
        _, ids = self._render(messages, True, False, chat_template_kwargs, offered)
        splitter = self._chat_splitter(ids, params, offered)
        grammar = self._chat_grammar(params, offered, ids, thinks=not switched_off(chat_template_kwargs))
        return self._engine.stream(self._job(ids, params, splitter, grammar, "messages"))

    @property
    def max_model_len(self) -> int:
        """The longest prompt plus answer, in tokens."""
        return self._engine.max_model_len

    def default_sampling_params(self, **changes: Any) -> SamplingParams:
        """What generation_config.json recommends, with `changes`. Raises ValueError, naming the field."""
        return msgspec.convert({**self._defaults, **changes}, SamplingParams, str_keys=True)

    def close(self) -> None:
        """Free the model and end its processes. Idempotent."""
        self._engine.close()
        if self._template is not None:
            self._template.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _params(self, given: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
        if given is None:
            given = self.default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * count
        if len(given) != count:
            raise ValueError(f"{count} prompts need as many sampling_params, or one for all, got {len(given)}")
        return list(given)

    def _encode(self, prompt: Prompt, name: str) -> tuple[str | None, list[int]]:
        given: Any = prompt
        if isinstance(prompt, Mapping):
            given = prompt.get("prompt_token_ids", prompt.get("prompt", ()))
            if isinstance(given, str) and "prompt_token_ids" in prompt:
                given = None
        if isinstance(given, str):
            return given, self.tokenizer.encode(given, add_special_tokens=True)
        ids: list[Any] = list(given) if isinstance(given, Sequence) else [None]
        if not all(type(token) is int and 0 <= token < self._model.vocab_size for token in ids):
            raise ValueError(f"{name} must be a text or token ids from 0 to {self._model.vocab_size - 1}")
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

    def _offered(
        self, tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None
    ) -> OfferedTools:
        if (tools or choice not in (None, "none")) and self._chat is None and self._format.tools is None:
            raise ValueError("tools: this model's calls cannot be read")
        try:
            offered = OfferedTools.of(list(tools or ()), choice)
        except ToolsError as error:
            raise ValueError(f"{error.param}: {error}") from None
        return offered

    def _text_grammar(self, params: SamplingParams) -> str | None:
        """Raises ValueError."""
        with _named(NO_TOOLS):
            constraint = _constraint(params)
            return None if constraint is None else self._grammars.plain(constraint)

    def _chat_grammar(
        self, params: SamplingParams, tools: OfferedTools, prompt: list[int], whole: bool = True, thinks: bool = True
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

    def _job(self, ids: list[int], params: SamplingParams, splitter: Splitter, grammar: str | None, name: str) -> Job:
        if not 0 < len(ids) < self.max_model_len:
            raise ValueError(f"{name} has {len(ids)} tokens; it may have 1 to {self.max_model_len - 1}")
        if params.bad_words or params.structured_outputs is not None:  # the engine knows ids alone
            bad = params.bad_token_ids + bad_token_ids(self.tokenizer, params.bad_words)
            params = msgspec.structs.replace(params, bad_token_ids=bad, bad_words=(), structured_outputs=None)
        return Job(ids, params, splitter, self._eos, grammar)

    def _run(self, jobs: list[Job], texts: Sequence[str | None], show: bool) -> list[RequestResult]:
        with progress_bar(not show, "prompts") as progress:
            task = progress.add_task("generating", total=len(jobs))
            answers = self._engine.run(jobs, lambda answer: progress.advance(task))
        return [_result(text, job, answer) for text, job, answer in zip(texts, jobs, answers, strict=True)]


def _constraint(params: SamplingParams) -> Constraint | None:
    return None if params.structured_outputs is None else Constraint.of(params.structured_outputs)


@contextmanager
def _named(tools: OfferedTools) -> Iterator[None]:
    """What is wrong with a form or a function's schema as a ValueError with its place."""
    try:
        yield
    except ConstraintError as error:
        name = "structured_outputs" if error.call is None else tools.path(error.call)
        raise ValueError(f"{name}: {error}") from None


def _result(prompt: str | None, job: Job, answer: Answer) -> RequestResult:
    piece = answer.piece
    output = CompletionOutput(
        0,
        piece.text,
        answer.token_ids,
        answer.logprobs,
        piece.finish_reason,
        piece.stop_reason,
        piece.reasoning,
        tuple(ToolCall(call.id or "", call.name or "", call.arguments) for call in piece.joined_calls),
    )
    return RequestResult(prompt, job.prompt_token_ids, piece.prompt_logprobs, [output])


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping) or (prompts and all(type(token) is int for token in prompts)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]
