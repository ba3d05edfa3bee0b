"""`yardmaster batch`: a file of requests, as for /v1/batches, answered without a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import note, progress_bar
from .flags import EngineFlags, ModelArgument, api_names, existing_file, expand, user_path

if TYPE_CHECKING:
    from ..batch.offline import Counts


@expand
def batch(
    model: ModelArgument = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            parser=user_path,
            metavar="FILE",
            help="JSON lines with custom_id, method, url and body.",
            show_default=False,
        ),
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=user_path,
            metavar="FILE",
            help="Answers as JSON lines, in the input's order; what was refused is there too, with its error.",
            show_default=False,
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="`model` in the bodies, instead of MODEL; may be repeated.", show_default=False
        ),
    ] = None,
    *,
    engine: EngineFlags,
) -> None:
    """Answer a file of requests offline. When it was interrupted, the same command goes on where it was."""
    if input_file is None or output_file is None:
        raise ValueError("give --input FILE and --output FILE")
    source = existing_file(input_file, "--input")
    if output_file.exists() and (output_file.is_dir() or output_file.samefile(source)):
        raise ValueError(f"--output: {output_file} must be a file other than the input")
    if not output_file.absolute().parent.is_dir():
        raise ValueError(f"--output: there is no folder {output_file.absolute().parent}")
    names = api_names(model, served_model_name)
    config = engine.config(model)

    from ..batch.offline import run_batch
    from ..http.config import HttpConfig

    http = HttpConfig(served_model_names=names)
    with progress_bar(unit="requests") as bar:
        task = bar.add_task("answering")

        def begun(counts: Counts) -> None:
            ready = counts.completed + counts.failed
            bar.update(task, total=counts.total, completed=ready)
            if ready:
                note(f"going on: {ready} of {counts.total} requests were answered before")

        def kept(counts: Counts) -> None:
            bar.update(task, completed=counts.completed + counts.failed)

        counts = asyncio.run(run_batch(config, http, source, output_file, begun, kept, note))
    note(f"{counts.total} requests: {counts.completed} answered, {counts.failed} refused; see {output_file}")
