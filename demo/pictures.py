"""Curves of a training, from its log, as SVG files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SMOOTH = 20  # lines of the log that a point of the loss is the mean of


def draw(log: Path, directory: Path) -> list[Path]:
    """Write loss.svg, right.svg and load.svg into `directory`. Needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "yardmaster"  # the same log, the same bytes
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    checks = [line for line in lines if "exact" in line]
    directory.mkdir(parents=True, exist_ok=True)
    return [_loss(steps, directory), _right(checks, directory), _load(steps, directory)]


def _loss(steps: list[dict[str, Any]], directory: Path) -> Path:
    losses = [line["loss"] for line in steps]
    means = [sum(losses[max(0, i - SMOOTH + 1) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(losses))]
    axes = _axes("tokens (millions)", "cross entropy (nats a token)")
    axes.plot([line["tokens"] / 1e6 for line in steps], means)
    axes.set_yscale("log")
    return _save(axes, directory / "loss.svg")


def _right(checks: list[dict[str, Any]], directory: Path) -> Path:
    axes = _axes("step", "exactly right, held out, mean over efforts (%)")
    for kind in checks[-1]["exact"] if checks else ():
        shares = [100 * sum(line["exact"][kind]) / len(line["exact"][kind]) for line in checks]
        axes.plot([line["step"] for line in checks], shares, label=kind)
    axes.legend(fontsize="small", ncols=2)
    return _save(axes, directory / "right.svg")


def _load(steps: list[dict[str, Any]], directory: Path) -> Path:
    axes = _axes("step", "load of the busiest expert over the mean")
    for layer in range(len(steps[0]["max_over_mean_load"]) if steps else 0):
        axes.plot([s["step"] for s in steps], [s["max_over_mean_load"][layer] for s in steps], label=f"layer {layer}")
    axes.legend(fontsize="small")
    return _save(axes, directory / "load.svg")


def _axes(x: str, y: str) -> Any:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7, 4), layout="constrained").add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return axes


def _save(axes: Any, path: Path) -> Path:
    axes.figure.savefig(path, metadata={"Date": None})
    return path
