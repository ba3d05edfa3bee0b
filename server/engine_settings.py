"""From the names that users know (vLLM's flags) to an `EngineConfig`, and from a model's name to its directory."""

from __future__ import annotations

import difflib
import os
from dataclasses import fields as fields_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.config import MAX_MODEL_LEN, EngineConfig
from ..engine.scheduler import SchedulerConfig

if TYPE_CHECKING:
    from .launch import World

DEMO_NAME = "yardmaster-demo"
_LIMITS = EngineConfig(model="-").scheduler
_FIELDS = {field.name for field in fields_of(EngineConfig)} - {"model", "parallel", "scheduler", "page_size"}


def engine_config(
    model: str,
    *,
    tensor_parallel_size: int | None = None,
    data_parallel_size: int | None = None,
    expert_parallel_size: int | None = None,
    block_size: int = 16,
    max_num_seqs: int = _LIMITS.max_num_seqs,
    max_num_batched_tokens: int = _LIMITS.max_num_batched_tokens,
    max_waiting: int = _LIMITS.max_waiting,
    world: World | None = None,
    **fields: Any,
) -> EngineConfig:
    """`fields` are `EngineConfig`'s own, `world` is torchrun's for who joins it. Raises ValueError, naming the flag."""
    from .launch import layout  # here: with its sockets it would make `--help` slow

    if unknown := fields.keys() - _FIELDS:
        wrong = min(unknown)
        near = difflib.get_close_matches(wrong, [*_FIELDS, *(engine_config.__kwdefaults__ or ()), "revision"], n=1)
        raise ValueError(f"there is no argument {wrong!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    for flag, size in (
        ("--tensor-parallel-size", tensor_parallel_size),
        ("--data-parallel-size", data_parallel_size),
        ("--expert-parallel-size", expert_parallel_size),
    ):
        if size is not None and size < 1:  # 0 must not pass for "not given"
            raise ValueError(f"{flag} must be at least 1, got {size}")
    return EngineConfig(
        model=model,
        parallel=layout(tensor_parallel_size, data_parallel_size, expert_parallel_size, world),
        scheduler=SchedulerConfig(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=MAX_MODEL_LEN,
            max_waiting=max_waiting,
        ),
        page_size=block_size,
        **fields,
    )


def model_directory(model: str | None, revision: str | None = None, *, fetch: bool = True) -> Path:
    """The checkpoint's directory: `model` itself, a hub repository's (fetched if need be), or the demo's for None.

    Raises ValueError, one line for the user.
    """
    try:
        Path(model or "").expanduser()
    except RuntimeError:
        raise ValueError(f"MODEL {model}: that home folder is not known; write the whole path") from None
    if not (model is None or model.strip()):
        raise ValueError("MODEL must not be empty; leave it out for the demo")
    if revision is not None and (model is None or Path(model).expanduser().is_dir()):
        raise ValueError("--revision goes with a model on the hub, OWNER/NAME")
    if model is None:
        return demo_directory()
    if Path(model).is_symlink() and not Path(model).exists():
        raise ValueError(f"{model} is a link to {os.readlink(model)}, which is not there")
    from ..weights.hub import resolve

    return resolve(model, revision=revision, local_only=not fetch)


def demo_directory() -> Path:
    """The embedded default model, which came with the package. Raises ValueError."""
    place = Path(__file__).parents[1] / "demo" / "checkpoint"
    if not (place / "config.json").is_file():
        raise ValueError(f"the embedded demo model is not in {place}: install the package again, or name a MODEL")
    return place
