"""`yardmaster download`: a model from the Hugging Face hub to this disk, to be served later without the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .flags import user_path


def download(
    model: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit.")] = None,
    local_dir: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="DIR",
            help="Put the files there, instead of into the hub's cache.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fetch a checkpoint; an interrupted download goes on where it stopped.

    Takes safetensors and JSON, never a pickle. Looks first whether the disk has room. Prints the directory.
    A gated repository needs HF_TOKEN.
    """
    from ...weights.hub import download as fetch

    if local_dir is not None and local_dir.exists() and not local_dir.is_dir():
        raise ValueError(f"--local-dir: {local_dir} is no directory")
    print(fetch(model, revision=revision, local_dir=local_dir))
