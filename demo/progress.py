"""A training as a terminal shows it: a bar, and a line for every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

COLUMNS = (
    TextColumn("training"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[now]}"),
)


@contextmanager
def progress(done: int, steps: int, shown: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What takes the lines of a training's log; `shown` false takes them and shows nothing."""
    with Progress(*COLUMNS, disable=not shown) as bar:
        task = bar.add_task("training", total=steps, completed=done, now="")

        def report(line: dict[str, Any]) -> None:
            if "exact" in line:
                shares = " ".join(f"{kind} {100 * min(each):.0f}" for kind, each in line["exact"].items())
                bar.console.print(f"step {line['step']}: % right at the worst effort: {shares}")
                return
            now = f"loss {line['loss']:.3f}, {line['tokens'] / max(1e-9, line['seconds']):.0f} tokens/s"
            bar.update(task, completed=line["step"], total=line["of"], now=now)

        yield report
