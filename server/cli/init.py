"""`yardmaster init`: a random checkpoint of any dimensions in the true layout, for trying out, tests and benches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import note, progress_bar
from .flags import user_path

SHAPE = "Shape"
FAMILIES = ("gpt_oss",)
_KINDS = {"s": "sliding_attention", "f": "full_attention"}


def _size(help: str, high: int | None = None) -> typer.models.OptionInfo:
    return typer.Option(metavar="INT", min=1, max=high, help=help, rich_help_panel=SHAPE)


def init(
    directory: Annotated[
        Path, typer.Argument(parser=user_path, metavar="DIR", help="Made if it is not there.", show_default=False)
    ],
    family: Annotated[str, typer.Option(metavar="|".join(FAMILIES), help="The architecture.")] = "gpt_oss",
    dtype: Annotated[str, typer.Option(metavar="bfloat16|float16|float32", help="What weights are in.")] = "bfloat16",
    expert_dtype: Annotated[
        str | None,
        typer.Option(metavar="mxfp4", help="mxfp4 packs the experts; by default they are as --dtype."),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="INT", min=0, max=(1 << 63) - 1, help="The same seed gives the same bytes.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
    hidden_size: Annotated[int, _size("Width of the residual stream.")] = 128,
    num_layers: Annotated[int, _size("Decoder layers.", 1024)] = 4,
    num_heads: Annotated[int, _size("Query heads.")] = 8,
    num_kv_heads: Annotated[int, _size("Key-value heads.")] = 2,
    head_dim: Annotated[int, _size("Width of a head; hidden size need not be heads x width.")] = 32,
    num_experts: Annotated[int, _size("Experts of a layer.")] = 8,
    experts_per_token: Annotated[int, _size("Experts a token goes to.")] = 4,
    expert_width: Annotated[int, _size("Inner width of an expert.")] = 128,
    vocab_size: Annotated[int, _size("Rows of the embedding.")] = 2048,
    sliding_window: Annotated[int, _size("Window of sliding layers, in tokens.")] = 128,
    max_position: Annotated[int, _size("Longest context.")] = 131072,
    layer_types: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="One letter a layer, s sliding and f full, repeated; by default sf.",
            rich_help_panel=SHAPE,
        ),
    ] = None,
) -> None:
    """Make a random checkpoint, as the hub has them: config, safetensors, tokenizer, chat template.

    Without flags it is a gpt-oss of a few megabytes. The true shape of gpt-oss-20b: --hidden-size 2880 --num-layers 24
    --num-heads 64 --num-kv-heads 8 --head-dim 64 --num-experts 32 --expert-width 2880 --vocab-size 201088
    --expert-dtype mxfp4
    """
    if family not in FAMILIES:
        raise ValueError(f"--family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if expert_dtype not in (None, "mxfp4", dtype):
        raise ValueError(f"--expert-dtype must be mxfp4, or as --dtype {dtype}, got {expert_dtype!r}")
    pattern = "sf" if layer_types is None else layer_types
    if not pattern or not set(pattern) <= _KINDS.keys():
        raise ValueError(f"--layer-types takes the letters s and f, got {layer_types!r}")

    from ...models.hf_config import parameters
    from ...models.random_checkpoint import small_gpt_oss, write_random_checkpoint
    from ...weights.errors import CheckpointError

    config = small_gpt_oss(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_experts=num_experts,
        experts_per_token=experts_per_token,
        expert_width=expert_width,
        vocab_size=vocab_size,
        sliding_window=sliding_window,
        max_position=max_position,
        layer_types=tuple(_KINDS[pattern[layer % len(pattern)]] for layer in range(num_layers)),
    )
    with progress_bar(quiet) as progress:
        task = progress.add_task("writing", total=None)
        try:
            made = write_random_checkpoint(
                directory,
                config,
                dtype=dtype,
                experts=expert_dtype or dtype,
                seed=seed,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        except CheckpointError as error:
            if Path(error.file).name != "config.json":
                raise
            fact = str(error).partition("config.json: ")[2].rpartition(";")[0]  # its mend is for a file, not for flags
            raise ValueError(f"the flags describe no model: {fact}") from None
    if not quiet:
        size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        note(f"{directory}: {parameters(made) / 1e6:.1f} M parameters, {size / 1e6:.1f} MB")
        note(f"serve it: yardmaster serve {directory}")
