"""`LLM`: a model in this program, without a server. Names and behaviour follow vLLM's class of that name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..engine.config import EngineConfig
from ..engine.sampling_params import SamplingParams, params_of, typed
from .cli.console import progress_bar
from .cli.known_elsewhere import without_known_elsewhere
from .engine_settings import engine_config, model_directory
from .http.choice import Piece
from .input_processor import InputProcessor, Messages, Prompt
from .offline import Job, OfflineEngine
from .outputs import RequestResult
from .text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class LLM:
    """A model that is loaded on construction and freed by `close`, or at the end of a `with` block.

    `model` is a directory or OWNER/NAME on the hub; None is the embedded demo. The flags are those of `yardmaster
    serve`, with underscores: tensor_parallel_size, dtype, max_model_len, gpu_memory_utilization and so on. More than
    one rank means processes of their own, under torchrun too, whose world is not theirs. `progress` takes the lines
    that start-up has to say. Arguments that vLLM's class has besides are taken where they ask for what is so here.

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
        flags = without_known_elsewhere(flags, progress)
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
        self._processor = InputProcessor(Path(config.model))
        self.tokenizer = self._processor.tokenizer
        try:
            self._engine = OfflineEngine(config, progress)
        except BaseException:
            self._processor.close()
            raise

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
        names = [f"prompts[{place}]" for place in range(len(listed))]
        made = [self._processor.text(*each) for each in zip(listed, params, names, strict=True)]
        return self._run(made, names, use_tqdm)

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
        offered = self._processor.offered(tools, tool_choice)
        names = [f"messages[{place}]" for place in range(len(listed))]
        made = []
        for conversation, each, name in zip(listed, params, names, strict=True):
            try:
                one = self._processor.chat(
                    conversation,
                    each,
                    offered,
                    chat_template_kwargs or {},
                    add_generation_prompt,
                    continue_final_message,
                )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            made.append(one)
        return self._run(made, names, use_tqdm)

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
        offered = self._processor.offered(tools, tool_choice)
        _, job = self._processor.chat(messages, params, offered, chat_template_kwargs)
        return self._engine.stream(self._fitting(job, "messages"))

    @property
    def max_model_len(self) -> int:
        """The longest prompt plus answer, in tokens."""
        return self._engine.max_model_len

    def default_sampling_params(self, **changes: Any) -> SamplingParams:
        """What generation_config.json recommends, with `changes`. Raises ValueError, naming the field."""
        return params_of({**self._processor.defaults, **changes})

    def get_tokenizer(self) -> Tokenizer:
        """`tokenizer`, by the name that vLLM gives it."""
        return self.tokenizer

    def close(self) -> None:
        """Free the model and end its processes. Idempotent."""
        self._engine.close()
        self._processor.close()

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
            return [typed(given)] * count
        if not isinstance(given, Sequence) or not all(isinstance(each, SamplingParams) for each in given):
            raise ValueError(f"sampling_params must be SamplingParams, one for all or a list, got {given!r:.100}")
        if len(given) != count:
            raise ValueError(f"{count} prompts need as many sampling_params, or one for all, got {len(given)}")
        return [typed(each) for each in given]

    def _fitting(self, job: Job, name: str) -> Job:
        if not 0 < (length := len(job.prompt_token_ids)) < self.max_model_len:
            raise ValueError(f"{name} has {length} tokens; it may have 1 to {self.max_model_len - 1}")
        return job

    def _run(self, made: Sequence[tuple[str | None, Job]], names: Sequence[str], show: bool) -> list[RequestResult]:
        jobs = [self._fitting(job, name) for (_, job), name in zip(made, names, strict=True)]
        with progress_bar(not show, "prompts") as progress:
            task = progress.add_task("generating", total=len(jobs))
            answers = self._engine.run(jobs, lambda answer: progress.advance(task))
        return [RequestResult.of(text, job, answer) for (text, job), answer in zip(made, answers, strict=True)]


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping) or (prompts and all(type(token) is int for token in prompts)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]
