"""The tools of a request: which the model is shown, which it may call, and whether it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from .constraint import Call

FUNCTION_NAME = r"^[A-Za-z0-9_.-]{1,128}$"


class Function(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern=FUNCTION_NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    """OpenAI's, of the only type there is."""

    type: Literal["function"]
    function: Function


class Named(msgspec.Struct, frozen=True):
    name: str


class NamedChoice(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    function: Named


class Allowed(msgspec.Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoice], msgspec.Meta(min_length=1)]


class AllowedChoice(msgspec.Struct, frozen=True, tag_field="type", tag="allowed_tools"):
    """Only some of the tools, for this one answer."""

    allowed_tools: Allowed


class ToolsError(ValueError):
    """Tools and choice are not OpenAI's, or contradict each other. `param`: the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """`shown`: as OpenAI has them, for the prompt. `functions`: that may be called, by their place in the request.

    `several`: an answer may hold more than one call.
    """

    shown: Sequence[Mapping[str, Any]]
    functions: Mapping[int, Function]
    must_call: bool = False
    several: bool = True

    @classmethod
    def of(cls, tools: Any, choice: Any, parallel: bool = True) -> OfferedTools:
        """OpenAI's `tools`, `tool_choice` and `parallel_tool_calls`, None where absent.

        All tools are shown as long as one may be called, but for those that `allowed_tools` leaves out. Raises
        ToolsError.
        """
        typed: list[Tool] = _converted(tools or [], list[Tool], "tools")
        asked = _converted(
            choice, Literal["none", "auto", "required"] | NamedChoice | AllowedChoice | None, "tool_choice"
        )
        if asked not in (None, "none") and not typed:
            raise ToolsError("goes with tools only", "tool_choice")
        if asked == "none" or not typed:
            return NO_TOOLS
        functions = {place: tool.function for place, tool in enumerate(typed)}
        if isinstance(asked, NamedChoice):
            functions = {at: function for at, function in functions.items() if function.name == asked.function.name}
            if not functions:
                raise ToolsError("is none of the tools", "tool_choice.function.name")
            return cls(tools, functions, must_call=True, several=False)
        if isinstance(asked, AllowedChoice):
            allowed = asked.allowed_tools
            functions = _among(functions, [choice.function.name for choice in allowed.tools])
            return cls([tools[at] for at in functions], functions, allowed.mode == "required", parallel)
        return cls(tools, functions, asked == "required", parallel)

    @property
    def names(self) -> frozenset[str]:
        """Of all that the model knows of."""
        return frozenset(tool["function"]["name"] for tool in self.shown)

    @property
    def binding(self) -> bool:
        """Whether an answer has to follow a grammar for their sake."""
        return self.must_call or any(function.strict for function in self.functions.values())

    def path(self, call: int) -> str:
        """Where the schema of one of the `calls` stands in the request."""
        return f"tools[{list(self.functions)[call]}].function.parameters"

    @property
    def calls(self) -> list[Call]:
        """For a grammar, in the order of `functions`. A function that is not strict gets any JSON object as arguments;

        where a call is forced, its schema, if that can be compiled.
        """
        return [
            Call(
                function.name,
                (function.parameters or {}) if function.strict or self.must_call else {},
                bool(function.strict),
            )
            for function in self.functions.values()
        ]


NO_TOOLS = OfferedTools((), {})


def _among(functions: Mapping[int, Function], names: Sequence[str]) -> dict[int, Function]:
    """Those of the names. Raises ToolsError for a name that is none of theirs."""
    known = {function.name for function in functions.values()}
    for place, name in enumerate(names):
        if name not in known:
            raise ToolsError("is none of the tools", f"tool_choice.allowed_tools.tools[{place}].function.name")
    return {at: function for at, function in functions.items() if function.name in names}


def _converted(value: Any, kind: Any, param: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ToolsError(str(error), param) from None
