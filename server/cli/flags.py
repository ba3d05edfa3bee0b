"""Flags that several commands share, as dataclasses: a command takes one as a parameter, `expand` makes flags of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ...engine.config import EngineConfig
from ...engine.sampling_params import SamplingParams
from ..engine_settings import DEMO_NAME, engine_config, model_directory

MODEL, MEMORY, PARALLEL, SAMPLING = "Model", "Memory and batching", "Parallelism", "Sampling"
_ENGINE = EngineConfig(model="-")
_LIMITS = _ENGINE.scheduler

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint's directory, or OWNER/NAME on the Hugging Face hub. Left out: the small embedded demo.",
        show_default=False,
    ),
]


def expand(function: Callable[..., Any]) -> Callable[..., Any]:
    """A typer command in whose signature each parameter of a dataclass type is replaced by the dataclass's fields."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))
            continue
        types = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name])
            for field in fields(group)
        ]

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFlags:
    """How an engine is built. Names and meanings are vLLM's, where vLLM has the flag."""

    dtype: Annotated[
        str,
        typer.Option(
            metavar="auto|bfloat16|float16|float32",
            help="Of activations; auto is the checkpoint's own on a GPU and float32 on a CPU.",
            rich_help_panel=MODEL,
        ),
    ] = _ENGINE.dtype
    expert_dtype: Annotated[
        str,
        typer.Option(
            metavar="auto|mxfp4|bfloat16|float16|float32",
            help="What expert weights are held in; auto keeps MXFP4 packed.",
            rich_help_panel=MODEL,
        ),
    ] = _ENGINE.expert_dtype
    load_format: Annotated[
        str,
        typer.Option(
            metavar="auto|dummy",
            help="dummy: true shapes with random weights, reads config.json and the tokenizer only.",
            rich_help_panel=MODEL,
        ),
    ] = _ENGINE.load_format
    revision: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Branch, tag or commit of a model on the hub.", rich_help_panel=MODEL),
    ] = None
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where the ranks run.", rich_help_panel=MODEL)
    ] = _ENGINE.device
    seed: Annotated[
        int, typer.Option(metavar="INT", help="Starts the seeds of requests without one.", rich_help_panel=MODEL)
    ] = _ENGINE.seed
    max_model_len: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="Longest prompt plus answer; by default the model's own limit, lowered to what memory holds.",
            rich_help_panel=MEMORY,
        ),
    ] = None
    gpu_memory_utilization: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Part of a GPU's memory, or of what a CPU's host has free, that the engine may take.",
            rich_help_panel=MEMORY,
        ),
    ] = _ENGINE.gpu_memory_utilization
    kv_cache_memory_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            help="A rank's cache; by default what is left, on a CPU 4 GiB or what one longest request takes.",
            rich_help_panel=MEMORY,
        ),
    ] = None
    kv_cache_dtype: Annotated[
        str,
        typer.Option(
            metavar="auto|fp8|bfloat16",
            help="Of cached keys and values; auto is that of activations, fp8 (E4M3) holds twice bfloat16's tokens.",
            rich_help_panel=MEMORY,
        ),
    ] = _ENGINE.kv_cache_dtype
    block_size: Annotated[
        int, typer.Option(metavar="TOKENS", help="Tokens of a cache page.", rich_help_panel=MEMORY)
    ] = _ENGINE.page_size
    max_num_seqs: Annotated[
        int,
        typer.Option(metavar="INT", help="Requests that run at once, per data-parallel group.", rich_help_panel=MEMORY),
    ] = _LIMITS.max_num_seqs
    max_num_batched_tokens: Annotated[
        int,
        typer.Option(metavar="TOKENS", help="Token budget of a step, per group.", rich_help_panel=MEMORY),
    ] = _LIMITS.max_num_batched_tokens
    async_scheduling: Annotated[
        bool | None,
        typer.Option(
            "--async-scheduling/--no-async-scheduling",
            help="Plan a step while the one before it runs; by default on a GPU.",
            rich_help_panel=MEMORY,
        ),
    ] = None
    enforce_eager: Annotated[
        bool,
        typer.Option("--enforce-eager", help="Capture no CUDA graphs.", rich_help_panel=MEMORY),
    ] = _ENGINE.enforce_eager
    max_cudagraph_capture_size: Annotated[
        int | None,
        typer.Option(
            metavar="INT", help="Largest decode batch that is captured; by default all are.", rich_help_panel=MEMORY
        ),
    ] = None
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--tensor-parallel-size",
            "--tp",
            "-tp",
            metavar="RANKS",
            help="Ranks that share one group's attention; by default 1.",
            rich_help_panel=PARALLEL,
        ),
    ] = None
    data_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--data-parallel-size",
            "--dp",
            "-dp",
            metavar="GROUPS",
            help="Groups that serve requests side by side; by default 1.",
            rich_help_panel=PARALLEL,
        ),
    ] = None
    expert_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--expert-parallel-size",
            "--ep",
            metavar="RANKS",
            help="Ranks over which the experts are spread; by default all.",
            rich_help_panel=PARALLEL,
        ),
    ] = None
    num_cpu_threads: Annotated[
        int | None,
        typer.Option(
            metavar="INT", help="CPU threads of a rank; by default its part of the cores.", rich_help_panel=PARALLEL
        ),
    ] = None
    collective_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="After so long a collective has failed.", rich_help_panel=PARALLEL),
    ] = _ENGINE.collective_timeout

    def changed(self) -> list[str]:
        """The flags that are not at their default."""
        names = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        return [f"--{name.replace('_', '-')}" for name in names]

    def config(self, model: str | None, **changes: Any) -> EngineConfig:
        """Checks every flag first, and only then finds, fetches or makes the model. Raises ValueError."""
        values = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        revision = values.pop("revision")
        engine_config(model or "-", **values)
        return engine_config(str(model_directory(model, revision)), **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFlags:
    """How tokens are chosen. What is not given is left to the checkpoint's generation_config.json, or the server."""

    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="INT", help="Longest answer.", rich_help_panel=SAMPLING),
    ] = None
    temperature: Annotated[
        float | None, typer.Option(metavar="FLOAT", help="0 takes the best token always.", rich_help_panel=SAMPLING)
    ] = None
    top_p: Annotated[
        float | None, typer.Option(metavar="FLOAT", help="Smallest set of this probability.", rich_help_panel=SAMPLING)
    ] = None
    top_k: Annotated[
        int | None, typer.Option(metavar="INT", help="Among the k likeliest tokens; 0: all.", rich_help_panel=SAMPLING)
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(metavar="FLOAT", help="Drop tokens below this part of the best one.", rich_help_panel=SAMPLING),
    ] = None
    sampling_seed: Annotated[
        int | None, typer.Option(metavar="INT", help="The same seed, the same answer.", rich_help_panel=SAMPLING)
    ] = None

    def given(self) -> dict[str, Any]:
        """The fields that were set, under their names in the API. Raises ValueError for one out of range."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["seed"] = values.pop("sampling_seed")
        values = {name: value for name, value in values.items() if value is not None}
        SamplingParams(**values)
        return values


def user_path(text: str) -> Path:
    """A path as it was typed, with `~` for a home. Raises typer.BadParameter, to which the parser adds the flag."""
    if not text.strip():
        raise typer.BadParameter("must not be empty; for the current folder give .")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise typer.BadParameter(f"{text}: that home folder is not known; write the whole path") from None


def api_names(model: str | None, given: Sequence[str] | None) -> tuple[str, ...]:
    """What the model is called in the API: as --served-model-name says, else MODEL. Raises ValueError."""
    if not given and model and not (model.strip() == model and model.isprintable()):
        raise ValueError(
            f"MODEL {model!r} has spaces around it, or what does not print: mend it, or name the model "
            "with --served-model-name NAME"
        )
    return tuple(given or (model or DEMO_NAME,))


def existing_file(path: Path, flag: str) -> Path:
    """Raises ValueError, naming the flag, when there is no such file."""
    if not path.is_file():
        raise ValueError(f"{flag}: {path} is no file")
    return path
