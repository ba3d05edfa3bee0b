"""`yardmaster tune`: measure on this GPU which tiles the expert kernels are fastest with, once a model and layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..engine_settings import model_directory
from .console import note, progress_bar
from .flags import user_path


def tune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Directory with a config.json, or OWNER/NAME of a model that was downloaded.",
            show_default=False,
        ),
    ],
    tensor_parallel_size: Annotated[
        int, typer.Option("--tensor-parallel-size", "--tp", "-tp", metavar="INT", min=1)
    ] = 1,
    data_parallel_size: Annotated[int, typer.Option("--data-parallel-size", "--dp", "-dp", metavar="INT", min=1)] = 1,
    expert_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--expert-parallel-size", "--ep", metavar="INT", min=1, help="By default all ranks.", show_default=False
        ),
    ] = None,
    max_num_batched_tokens: Annotated[
        int, typer.Option(metavar="INT", min=1, max=1 << 20, help="The largest step that will be served.")
    ] = 8192,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="FILE",
            help="Instead of the cache folder, where serve looks for it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure which tiles the expert kernels are fastest with on this GPU, for `serve` to use.

    Needs no weights, one GPU and some minutes. The parallel sizes are those that will be served with.
    """
    directory = model_directory(model, fetch=False)

    from ...engine.tune import tune as measure
    from ...parallel.layout import ParallelConfig

    layout = ParallelConfig(tensor_parallel_size, data_parallel_size, expert_parallel_size)
    with progress_bar(unit="plans") as bar:
        task = bar.add_task("tuning", total=None)

        def progress(done: int, total: int, found: str) -> None:
            bar.update(task, completed=done, total=total, description=found)
            if not bar.live.is_started:
                note(f"{done} of {total}, {found}")

        path, count = measure(directory, layout, max_num_batched_tokens, progress, output)
    note(f"{count} plans measured: {path}")
