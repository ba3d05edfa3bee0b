"""python -m yardmaster.demo: count, train, export, check and draw a small model. See README.md beside this file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..weights.errors import CheckpointError
from .config import DEFAULT, DemoConfig

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
Config = Annotated[Path, typer.Option("--config", help="What to train and how, in TOML.")]
Folder = Annotated[Path, typer.Option("--run", help="The folder of the training.")]
RUN = Path("build/demo")


@app.command()
def count(config: Config = DEFAULT, words: int = 1700) -> None:
    """How many parameters a model of this shape has, with a vocabulary of so many tokens."""
    from .count import Count

    chosen = _read(config)
    counted = Count.of(chosen.shape.model(words))
    for name in ("embedding", "attention", "experts", "rest", "total", "active"):
        print(f"{name:10} {getattr(counted, name):>12,}")
    print(f"{'checkpoint':10} {counted.packed_bytes / 1e6:>9.1f} MB with experts in MXFP4")


@app.command()
def train(
    config: Config = DEFAULT,
    run: Folder = RUN,
    threads: Annotated[int, typer.Option(help="Of the processor; 0 takes all.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
) -> None:
    """Train the model, or go on where the training in the folder stopped."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .training import Training
    from .vocabulary import train_tokenizer

    chosen = _read(config)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    if not (run / "tokenizer" / "tokenizer.json").exists():
        train_tokenizer(run / "tokenizer", chosen.words, chosen.shape.context, chosen.train.seed)
    try:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        training = Training(chosen, run, device)
    except ValueError as error:
        raise _refused(error) from None
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=chosen.train.steps, completed=training.step, now="")

        def report(line: dict[str, Any]) -> None:
            if "exact" in line:
                shares = " ".join(f"{kind} {100 * min(each):.0f}" for kind, each in line["exact"].items())
                bar.console.print(f"step {line['step']}: % right at the worst effort: {shares}")
                return
            now = f"loss {line['loss']:.3f}, {line['tokens'] / max(1e-9, line['seconds']):.0f} tokens/s"
            bar.update(task, completed=line["step"], now=now)

        training.run(report)


@app.command()
def export(directory: Path, config: Config = DEFAULT, run: Folder = RUN, bfloat16: bool = False) -> None:
    """Write the trained model as a checkpoint that `yardmaster serve DIRECTORY` takes."""
    from .export import export as write
    from .training import Training

    chosen = _read(config)
    try:
        training = Training(chosen, run)
        coefficient = chosen.train.router_aux_loss_coef
        write(training.trainee, run / "tokenizer", directory, packed=not bfloat16, aux_loss=coefficient)
    except (CheckpointError, ValueError) as error:
        raise _refused(error) from None


@app.command()
def check(
    url: Annotated[str, typer.Argument(help="Of a server, such as http://127.0.0.1:8000/v1.")],
    count: Annotated[int, typer.Option(help="Held-out conversations of a kind and effort.")] = 200,
    at_once: int = 16,
    out: Annotated[Path | None, typer.Option(help="A file for the result, in JSON.")] = None,
) -> None:
    """Ask a server held-out questions of every kind and count the right answers."""
    from .checking import check as ask

    shares = ask(url, count, at_once)
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
