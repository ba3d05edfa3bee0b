"""Which format a checkpoint speaks: known by its control tokens and chat template, or told by the flags' names."""

# ruff: noqa: RUF001 (the bars are DeepSeek's own)

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..tokenizer import Tokenizer
from .base import Family
from .deepseek import DeepSeek
from .grammar import FormatSpeech, Marks
from .hermes import Hermes
from .kimi import Kimi
from .llama import Llama
from .mistral import Mistral
from .parser import FormatParser
from .phi import Phi
from .reasoning import ANGLE, IMPLIED, SQUARE, Think

NONE = "none"
TOOL_PARSERS: Mapping[str, Family] = {
    "deepseek_v3": DeepSeek(fenced=True),
    "deepseek_v31": DeepSeek(),
    "hermes": Hermes(),
    "kimi_k2": Kimi(),
    "llama3_json": Llama(),
    "mistral": Mistral(),
    "phi4_mini_json": Phi(),
}
"""By the names that vLLM gives to --tool-call-parser."""
REASONING_PARSERS: Mapping[str, Think] = {
    "deepseek_r1": IMPLIED,
    "deepseek_v3": ANGLE,
    "kimi_k2": ANGLE,
    "mistral": SQUARE,
    "qwen3": ANGLE,
}
"""By the names that vLLM gives to --reasoning-parser."""
HARMONY_TOOL_PARSERS = ("openai", "gpt-oss")
HARMONY_REASONING_PARSERS = ("openai_gptoss", "gpt-oss")
"""vLLM's and SGLang's names for what a model that speaks Harmony gets anyway."""

# `+ tool['function']['arguments']` or `{{ call.function.arguments }}`, with no filter behind: an object would fail
# there, or be printed as Python has it.
_TEXT_ARGUMENTS = re.compile(r"""(?:\+|\{\{-?)\s*+[\w.\[\]'"]*\barguments\b['"]?+\]?+\s*+(?!\|)""")
_EITHER_ARGUMENTS = re.compile(r"""\barguments['"]?\]?\s+is\s+(?:string|mapping)""")
# A template's own text for other ways to fill the tags that Hermes uses: Qwen3-Coder's and GLM's.
_NOT_HERMES = ("<function=", "<arg_key>")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Names of parsers, None where the checkpoint has no such thing."""

    tools: str | None = None
    reasoning: str | None = None
    text_arguments: bool = False
    """The template takes the arguments of earlier calls as the text they are, and not as an object."""

    def plain(self, functions: Collection[str]) -> bool:
        """All text is the answer, in a request that offers these functions."""
        return self.reasoning is None and (self.tools is None or not functions)

    @property
    def family(self) -> Family | None:
        return None if self.tools is None else TOOL_PARSERS[self.tools]

    @property
    def think(self) -> Think | None:
        return None if self.reasoning is None else REASONING_PARSERS[self.reasoning]

    def controls(self, tokenizer: Tokenizer) -> dict[int, str]:
        """Markers that are control tokens, by their ids."""
        family, think = self.family, self.think
        markers = (*(family.markers if family else ()), *(think.markers if think else ()))
        ids = tokenizer.special_texts
        return {ids[marker]: marker for marker in markers if marker in ids}

    def speech(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), *, thinks: bool = True) -> FormatSpeech:
        """For grammars of what goes on from `prompt`. `thinks` False: without reasoning, if the prompt begins none."""
        family, think = self.family, self.think
        markers = (*(family.markers if family else ()), *(think.markers if think else ()))
        begun = "ended" if think is None else think.begun(tokenizer, prompt)
        return FormatSpeech(
            family, think, Marks.of(tokenizer, markers), "ended" if begun == "not yet" and not thinks else begun
        )

    def parser(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), functions: Collection[str] = ()) -> FormatParser:
        """For one sequence that goes on from `prompt`. `functions`: names of those that the request offers."""
        think = self.think
        opened = think is not None and think.opened(tokenizer, prompt)
        return FormatParser(self.family, think, functions, opened, self.controls(tokenizer).values())


def chat_format(
    tokenizer: Tokenizer,
    template: str = "",
    model_type: str = "",
    tool_call_parser: str | None = None,
    reasoning_parser: str | None = None,
) -> ChatFormat:
    """Of the checkpoint, but for what the flags say; `none` there leaves it out.

    template: the chat template's text, with the one for tools where a checkpoint brings two. model_type: config.json's.
    Raises ValueError, naming the flag, for a name that is none of the parsers'.
    """
    check_parser_names(tool_call_parser, reasoning_parser, harmony=False)
    tools = tool_call_parser or _tools_of(tokenizer, template, model_type)
    reasoning = reasoning_parser or _reasoning_of(template, tools)
    text_arguments = _TEXT_ARGUMENTS.search(template) is not None and _EITHER_ARGUMENTS.search(template) is None
    return ChatFormat(
        None if tools == NONE else tools, None if reasoning == NONE else reasoning, text_arguments=text_arguments
    )


def check_parser_names(tool_call_parser: str | None, reasoning_parser: str | None, harmony: bool | None = None) -> None:
    """`harmony`: whether the model speaks that; None: not known yet. Raises ValueError, naming the flag."""
    for flag, name, known, own in (
        ("--tool-call-parser", tool_call_parser, TOOL_PARSERS, HARMONY_TOOL_PARSERS),
        ("--reasoning-parser", reasoning_parser, REASONING_PARSERS, HARMONY_REASONING_PARSERS),
    ):
        names = [*(() if harmony else known), *(() if harmony is False else own), *(() if harmony else (NONE,))]
        if name is not None and name not in names:
            which = " for this model, which speaks Harmony" if harmony else ""
            raise ValueError(f"{flag} must be one of {', '.join(names[:-1])} or {names[-1]}{which}, got {name!r}")


def _tools_of(tokenizer: Tokenizer, template: str, model_type: str) -> str | None:
    """The first that fits. A checkpoint made from another's keeps its control tokens, so the template speaks first."""

    def shows(marker: str) -> bool:
        return marker in template

    if shows("<|tool_calls_section_begin|>") or model_type.startswith("kimi"):
        return "kimi_k2"
    if shows("<｜tool▁calls▁begin｜>"):
        return "deepseek_v3" if shows("```json") else "deepseek_v31"
    if shows("<tool_call>") and not any(map(shows, _NOT_HERMES)):
        return "hermes"
    if shows("[TOOL_CALLS]"):
        return "mistral"
    if shows("functools") or (model_type.startswith("phi") and shows("<|tool|>")):
        return "phi4_mini_json"
    if "<|python_tag|>" in tokenizer.special_texts and shows('"parameters"'):
        return "llama3_json"
    return None


def _reasoning_of(template: str, tools: str | None) -> str | None:
    if "[THINK]" in template:
        return "mistral"
    if "</think>" in template:  # whether a prompt has begun it, is seen in the prompt
        return {"kimi_k2": "kimi_k2", "deepseek_v3": "deepseek_v3", "deepseek_v31": "deepseek_v3"}.get(
            tools or "", "qwen3"
        )
    return None
