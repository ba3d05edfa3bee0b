"""python -m yardmaster.demo: count, train, export, check and draw a small model. See README.md beside this file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ..weights.errors import CheckpointError
from .config import DEFAULT, DemoConfig

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
Config = Annotated[Path, typer.Option("--config", help="What to train and how, in TOML.")]
Folder = Annotated[Path, typer.Option("--folder", help="The folder of the training.")]
RUN = Path("build/demo")


@app.command()
def count(config: Config = DEFAULT, tokens: int = 2208) -> None:
    """How many parameters a model of this shape has, with a tokenizer of so many tokens."""
    from .count import Count

    chosen = _read(config)
    counted = Count.of(chosen.shape.model(tokens))
    for name in ("embedding", "attention", "experts", "rest", "total", "active"):
        print(f"{name:10} {getattr(counted, name):>12,}")
    print(f"{'checkpoint':10} {counted.packed_bytes / 1e6:>9.1f} MB with experts in MXFP4")


@app.command()
def train(
    config: Config = DEFAULT,
    run: Folder = RUN,
    threads: Annotated[int, typer.Option(help="Of the processor; 0 takes all.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(help="So many at most: fewer steps than the config's, by what the first ones take.", min=0),
    ] = None,
    begin_with: Annotated[
        Path | None,
        typer.Option(help="A checkpoint of this shape, or of fewer layers: weights and tokenizer to begin with."),
    ] = None,
) -> None:
    """Train the model, or go on where the training in the folder stopped; under torchrun, on all of its ranks."""
    import torch

    from .progress import progress
    from .ranks import Ranks
    from .tokenizer import copy_tokenizer
    from .training import STATE, Training
    from .vocabulary import train_tokenizer

    chosen = _read(config)
    device = _device(device)
    ranks = Ranks.met(device)
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // ranks.size))
    try:
        begins_with = None if (run / STATE).exists() else begin_with
        if ranks.first and begins_with is not None:
            copy_tokenizer(begins_with, run / "tokenizer")
        elif ranks.first and not (run / "tokenizer" / "tokenizer.json").exists():
            train_tokenizer(run / "tokenizer", chosen.vocabulary, chosen.shape.context, chosen.train.seed)
        ranks.wait()
        training = Training(chosen, run, device, ranks)
        if begins_with is not None:
            training.trainee.begin_with(begins_with)
        with progress(training.step, training.schedule.steps, ranks.first) as report:
            training.run(report, minutes)
    except ValueError as error:
        raise _refused(error) from None
    ranks.part()


@app.command()
def export(
    directory: Path,
    config: Config = DEFAULT,
    run: Folder = RUN,
    bfloat16: bool = False,
    average_with: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER=SHARE", help="Another training of this model: the mean of the weights is written."
        ),
    ] = None,
) -> None:
    """Write the trained model as a checkpoint that `yardmaster serve DIRECTORY` takes."""
    from .averaging import average
    from .export import export as write
    from .training import STATE, Training

    chosen = _read(config)
    try:
        others = [_share(each) for each in average_with or ()]
        for folder in (run, *(folder for folder, _ in others)):
            if not (folder / STATE).exists():
                raise ValueError(f"{folder} has no {STATE}: nothing was trained there")
        training = Training(chosen, run)
        average(training.trainee, [(Training(chosen, folder).trainee, share) for folder, share in others])
        coefficient = chosen.train.router_aux_loss_coef
        write(training.trainee, run / "tokenizer", directory, packed=not bfloat16, aux_loss=coefficient)
    except (CheckpointError, ValueError) as error:
        raise _refused(error) from None


@app.command()
def check(
    url: Annotated[str, typer.Argument(help="Of a server, such as http://127.0.0.1:8000/v1.")],
    count: Annotated[int, typer.Option(help="Held-out conversations of a kind and effort.")] = 200,
    at_once: int = 16,
    seed: Annotated[int, typer.Option(help="Other questions for another number.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A file for the result, in JSON.")] = None,
) -> None:
    """Ask a server held-out questions of every kind and count the right answers."""
    import httpx

    from .checking import check as ask

    try:
        shares = ask(url, count, at_once, seed)
    except httpx.HTTPError as error:
        raise _refused(error) from None
    for kind, efforts in shares.items():
        print(f"{kind:14}" + "".join(f"  {effort} {100 * share:5.1f} %" for effort, share in efforts.items()))
    if out is not None:
        out.write_text(json.dumps(shares, indent=2) + "\n", encoding="utf-8")


@app.command()
def draw(run: Folder = RUN, directory: Path = RUN) -> None:
    """Pictures of the loss, the right answers and the experts' load from a training's log. Needs matplotlib."""
    from .pictures import draw as paint

    for path in paint(run / "log.jsonl", directory):
        print(path)


def _share(text: str) -> tuple[Path, float]:
    """FOLDER=SHARE."""
    folder, _, share = text.rpartition("=")
    try:
        return Path(folder), float(share)
    except ValueError:
        raise ValueError(f"--average-with {text}: must be FOLDER=SHARE, such as build/demo/other=0.5") from None


def _device(name: str) -> str:
    """This rank's: its own GPU, where there is one for each rank of this machine."""
    from torch.cuda import device_count

    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name == "auto":
        name = "cuda" if device_count() >= here else "cpu"
    return f"cuda:{local}" if name == "cuda" else name


def _read(config: Path) -> DemoConfig:
    try:
        return DemoConfig.read(config)
    except ValueError as error:
        raise _refused(error) from None


def _refused(error: Exception) -> typer.Exit:
    typer.echo(f"yardmaster.demo: {error}", err=True)
    return typer.Exit(2)


if __name__ == "__main__":
    app()
