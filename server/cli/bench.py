"""`yardmaster bench serve`: how fast a server answers, seen from its clients."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import CommandError, note, plain, progress_bar
from .flags import user_path

if TYPE_CHECKING:
    from .bench_client import Report

app = typer.Typer(help="Measure.", no_args_is_help=True, rich_markup_mode="rich")
LOAD, SERVER = "Load", "Server"
_TITLES = {"ttft": "time to first token", "tpot": "time per output token", "itl": "inter-token latency", "e2e": "total"}


@app.callback()
def _group() -> None:
    """Measure a server that runs."""


@app.command()
def serve(
    base_url: Annotated[str, typer.Option(metavar="URL", rich_help_panel=SERVER)] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the API; by default the server's first.", rich_help_panel=SERVER),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(metavar="chat|completions", help="What to ask.", rich_help_panel=SERVER)
    ] = "completions",
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="YARDMASTER_API_KEY", show_default=False, rich_help_panel=SERVER),
    ] = None,
    num_prompts: Annotated[int, typer.Option(metavar="INT", help="Requests.", rich_help_panel=LOAD)] = 100,
    request_rate: Annotated[
        float,
        typer.Option(metavar="PER-SECOND", help="Poisson arrivals; inf sends all at once.", rich_help_panel=LOAD),
    ] = float("inf"),
    max_concurrency: Annotated[
        int | None, typer.Option(metavar="INT", help="Most requests at a time.", rich_help_panel=LOAD)
    ] = None,
    random_input_len: Annotated[
        int,
        typer.Option(
            metavar="TOKENS",
            help="Prompt length; exact with completions on a server that has /tokenize, else as many words.",
            rich_help_panel=LOAD,
        ),
    ] = 256,
    random_output_len: Annotated[int, typer.Option(metavar="TOKENS", help="Answer length.", rich_help_panel=LOAD)] = 64,
    temperature: Annotated[float, typer.Option(metavar="FLOAT", rich_help_panel=LOAD)] = 0.0,
    seed: Annotated[int, typer.Option(metavar="INT", help="Of prompts and arrivals.", rich_help_panel=LOAD)] = 0,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=user_path, metavar="FILE", help="Write the figures as JSON too."),
    ] = None,
) -> None:
    """Send random prompts to an OpenAI server; report latency, throughput and errors."""
    from . import bench_client

    load = bench_client.Load(
        base_url=base_url,
        model=model,
        endpoint=endpoint,  # type: ignore[arg-type]
        num_prompts=num_prompts,
        request_rate=request_rate,
        max_concurrency=max_concurrency,
        input_len=random_input_len,
        output_len=random_output_len,
        temperature=temperature,
        seed=seed,
        api_key=api_key,
    )
    if output_file is not None:
        output_file.touch()  # what cannot be written is said before the work
    with progress_bar(unit="requests") as progress:
        task = progress.add_task("requests", total=num_prompts)
        try:
            report = asyncio.run(bench_client.run(load, lambda timing: progress.advance(task)))
        except ConnectionError as error:
            raise CommandError(str(error)) from None
    _print(report)
    if output_file is not None:
        output_file.write_text(report.to_json(load) + "\n")
        note(f"written: {output_file}")
    if not report.completed:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("model", plain(report.model)),
        ("answered", f"{report.completed} of {report.completed + report.failed}"),
        ("duration", f"{report.duration:.2f} s, at most {report.max_concurrent} at a time"),
        ("tokens", f"{report.prompt_tokens} in, {report.output_tokens} out"),
        ("requests/s", f"{report.request_throughput:.2f}"),
        ("output tokens/s", f"{report.output_throughput:.1f}"),
        ("total tokens/s", f"{report.total_throughput:.1f}"),
    ):
        facts.add_row(name, value)
    console.print(facts, markup=False)
    for error, count in report.errors.items():
        console.print(f"  {count} x {plain(error)}", markup=False)
    table = Table("ms", "mean", "p50", "p90", "p99", "max", header_style="bold")
    for name, spread in report.spreads.items():
        values = (spread.mean, spread.p50, spread.p90, spread.p99, spread.max)
        table.add_row(_TITLES[name], *(f"{value:.2f}" for value in values))
    console.print(table)
