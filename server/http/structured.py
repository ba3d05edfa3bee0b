"""From the fields that ask for an answer of a certain form, and from tools, to the grammar that the engine follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...engine.sampling_params import StructuredOutputsParams
from ..text.constraint import Constraint, ConstraintError, Speech
from ..text.formats.reasoning import switched_off
from ..text.harmony.grammar import HarmonySpeech
from ..text.offered_tools import NO_TOOLS, OfferedTools
from .errors import bad_request, unavailable
from .schema.chat import ChatRequest
from .schema.fields import SamplingFields
from .schema.structured import ResponseFormat
from .service import Service

_FIELDS = {
    "json_schema": "json",
    "json_object": "json_object",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
}
PATIENCE = 30.0  # seconds in which the grammars before this one should have been checked
_UNSUPPORTED = ("disable_additional_properties", "whitespace_pattern", "structural_tag")


@dataclass(frozen=True, slots=True)
class Form:
    """A grammar that has been checked, and the field that asked for it."""

    grammar: str
    param: str


async def text_form(body: SamplingFields, service: Service) -> Form | None:
    """Of an output that is all answer; None where it is free. Raises ApiError 400, naming the field."""
    constraint, param = _asked(body)
    if constraint is None:
        return None
    return await _made(service, lambda: service.grammars.plain(constraint), param)


async def chat_form(body: ChatRequest, tools: OfferedTools, service: Service, prompt: Sequence[int]) -> Form | None:
    """Of an answer to a conversation, behind its reasoning and with the calls that may be made instead.

    All as the model words it behind `prompt`; None where everything is free. Raises ApiError 400, naming the field.
    """
    constraint, param = _asked(body)
    if tools.must_call and constraint is not None:
        if not param.startswith("response_format"):  # OpenAI's clients send that one along; it is about answers
            raise bad_request(f"{param}: contradicts tool_choice, which asks for a call", param)
        constraint = None
    if constraint is None and not tools.binding:
        return None
    goes_on = bool(body.continue_final_message) or body.add_generation_prompt is False
    if goes_on and (service.harmony or constraint is None):
        name = "continue_final_message" if body.continue_final_message else "add_generation_prompt"
        cause = "a forced call" if tools.must_call else "strict functions" if constraint is None else param
        raise bad_request(f"{name}: with {cause} this model must begin its message itself", name)
    speech: Speech = HarmonySpeech()
    if not service.harmony:
        thinks = not goes_on and not switched_off(body.chat_template_kwargs or {})
        speech = service.format.speech(service.tokenizer, prompt, thinks=thinks)
    calls, must_call, several = tools.calls, tools.must_call, tools.several
    return await _made(
        service,
        lambda: service.grammars.chat(speech, constraint, calls, must_call=must_call, several=several),
        param or "tools",
        tools,
    )


async def _made(service: Service, make: Callable[[], str], param: str, tools: OfferedTools = NO_TOOLS) -> Form:
    """`make()`, off the event loop, which works on in other threads than those that texts are encoded in."""
    making = asyncio.get_running_loop().run_in_executor(service.compilers, make)
    try:
        return Form(await asyncio.wait_for(making, PATIENCE), param)
    except TimeoutError:
        raise unavailable("Too many schemas and grammars are being compiled; try again.", "server_busy", 5) from None
    except ConstraintError as error:
        at = param if error.call is None else tools.path(error.call)
        raise bad_request(f"{at}: {error}", at) from None


def _asked(body: SamplingFields) -> tuple[Constraint | None, str]:
    """The form that is asked for, and the field that does."""
    asked: list[tuple[Constraint, str]] = []
    if body.response_format is not None and (constraint := _of_format(body.response_format)) is not None:
        schema = ".json_schema.schema" if constraint.kind == "json_schema" else ""
        asked.append((constraint, f"response_format{schema}"))
    for name, params in _structured(body).items():
        try:
            constraint = Constraint.of(params)
        except ConstraintError as error:
            raise bad_request(f"{name}: {error}", name) from None
        if constraint is not None:
            field = f".{_FIELDS[constraint.kind]}" if name == "structured_outputs" else ""
            asked.append((constraint, name + field))
    if len(asked) > 1:
        raise bad_request(f"{asked[1][1]}: contradicts {asked[0][1]}; give one of them", asked[1][1])
    if asked and body.allowed_token_ids is not None:
        raise bad_request(f"allowed_token_ids: contradicts {asked[0][1]}; give one of them", "allowed_token_ids")
    return asked[0] if asked else (None, "")


def _of_format(format: ResponseFormat) -> Constraint | None:
    match format.type:
        case "text":
            return None
        case "json_object":
            return Constraint("json_object")
    if format.json_schema is None:
        message = "response_format.json_schema: Field required"
        raise bad_request(message, "response_format.json_schema", "missing_required_parameter")
    schema = format.json_schema.schema_
    return Constraint("json_object") if schema is None else Constraint("json_schema", schema)


def _structured(body: SamplingFields) -> dict[str, StructuredOutputsParams]:
    """By field: vLLM's one, and those that it had before."""
    found = {
        "guided_json": StructuredOutputsParams(json=body.guided_json),
        "guided_regex": StructuredOutputsParams(regex=body.guided_regex),
        "guided_choice": StructuredOutputsParams(choice=_tuple(body.guided_choice)),
        "guided_grammar": StructuredOutputsParams(grammar=body.guided_grammar),
    }
    given = body.structured_outputs
    if given is None:
        return found
    for name in _UNSUPPORTED:
        if getattr(given, name):
            path = f"structured_outputs.{name}"
            raise bad_request(f"{path}: this server does not support it", path, "unsupported_parameter")
    params = StructuredOutputsParams(
        json=given.json_,
        regex=given.regex,
        choice=_tuple(given.choice),
        grammar=given.grammar,
        json_object=given.json_object,
        disable_any_whitespace=bool(given.disable_any_whitespace),
    )
    return {"structured_outputs": params, **found}


def _tuple(choices: list[str] | None) -> tuple[str, ...] | None:
    return None if choices is None else tuple(choices)
