"""Plans measured on this device, beside the rule of thumb: a small JSON file a device, written by `yardmaster tune`.

Read once at start-up and never changed while serving. Pure Python: neither torch nor triton.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .experts_plan import FEW_PAIRS, Layer, Plan, Tile, choose, rounded

VERSION = 1
MOST_BYTES = 8 << 20
MOST_SHARED = 227 << 10  # bytes that a program may have on Hopper


class TuningError(ValueError):
    """A file of measured plans that cannot be used: names it and the mend."""


@dataclass(slots=True)
class Plans:
    """The plan of each layer and number of pairs: the measured one where there is one, else the rule of thumb's."""

    processors: int
    measured: dict[tuple[Layer, int], Plan] = field(default_factory=dict)

    def __call__(self, layer: Layer, pairs: int) -> Plan:
        return self.measured.get((layer, rounded(pairs))) or choose(layer, pairs, self.processors)

    def load(self, path: Path) -> int:
        """Take in what a file has; a missing one has nothing. Returns how many plans. Raises TuningError."""
        try:
            if path.stat().st_size > MOST_BYTES:
                raise TuningError(f"{path} is larger than {MOST_BYTES >> 20} MiB: delete it and run `yardmaster tune`")
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, TuningError):
                raise
            raise TuningError(f"{path} cannot be read ({error}): delete it and run `yardmaster tune`") from error
        try:
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']}")
            found = dict(_entry(entry) for entry in content["plans"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TuningError(
                f"{path} is no file of plans of this version ({error}): delete it and run `yardmaster tune`"
            ) from error
        self.measured.update(found)
        return len(found)

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write all measured plans, whole or not at all. `about` says where they were measured."""
        plans = [
            {**asdict(layer), "pairs": pairs, "few": plan.few, "up": asdict(plan.up), "down": asdict(plan.down)}
            for (layer, pairs), plan in self.measured.items()
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_text(json.dumps({"version": VERSION, **about, "plans": plans}, indent=1) + "\n")
        part.replace(path)


def tuning_file(device: str, directory: Path | None = None) -> Path:
    """Where a device's plans lie: `directory`, or $YARDMASTER_CACHE, or ~/.cache/yardmaster."""
    folder = directory or Path(os.environ.get("YARDMASTER_CACHE") or Path.home() / ".cache" / "yardmaster")
    return folder / f"tuning-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-') or 'device'}.json"


def neighbours(layer: Layer, plan: Plan) -> Iterator[Plan]:
    """Plans that differ from this one in one thing: what a search tries next."""
    for name in ("up", "down"):
        tile: Tile = getattr(plan, name)
        for other in _tiles(tile, plan.few, plan.few and name == "down"):
            if shared_bytes(layer.format, other) <= MOST_SHARED:
                yield replace(plan, up=other) if name == "up" else replace(plan, down=other)


def shared_bytes(weights: str, tile: Tile) -> float:
    """About what a program's pipeline takes of shared memory."""
    weight = {"mxfp4": 17 / 32, "dense": 2, "fp8": 1}[weights]
    return tile.stages * tile.block_k * (2 * tile.block_m + weight * tile.block_n)


def _tiles(tile: Tile, few: bool, may_split: bool) -> Iterator[Tile]:
    choices = {
        "block_n": (32, 64, 128, 256),
        "block_m": (8, 16, 32, 64, 128, 256),
        "block_k": (64, 128),
        "warps": (2, 4, 8),
        "stages": (2, 3, 4, 5, 6, 8),
        "split": (1, 2, 4, 8) if may_split else (tile.split,),
        "last_m": (tile.last_m,) if few else (0, 16, 32, 64, 128),
    }
    for name, values in choices.items():
        for value in values:
            if value != getattr(tile, name):
                other = replace(tile, **{name: value})
                if (
                    other.last_m < other.block_m
                    and other.block_n >= 16 * other.warps
                    and other.block_n * other.block_m <= 256 * 32 * other.warps
                ):
                    yield other


def _entry(entry: dict[str, Any]) -> tuple[tuple[Layer, int], Plan]:
    if not isinstance(entry["format"], str):
        raise ValueError("format is no name")
    layer = Layer(entry["format"], *(_number(entry, name) for name in ("experts", "hidden", "width")))
    least = {"last_m": 0}
    tiles = [
        Tile(*(_number(entry[name], one.name, least.get(one.name, 1)) for one in fields(Tile)))
        for name in ("up", "down")
    ]
    for tile in tiles:
        sizes = (tile.block_n, tile.block_m, tile.block_k, tile.warps, tile.split, tile.last_m)
        fits = all(size & (size - 1) == 0 for size in sizes) and tile.block_n >= 16 and tile.block_m >= 8
        if (
            not fits
            or tile.last_m >= tile.block_m
            or tile.block_k not in (64, 128)
            or tile.warps > 16
            or tile.stages > 16
            or tile.split > 64
        ):
            raise ValueError(f"no tile: {tile}")
    if tiles[0].split > 1:
        raise ValueError("only the second product may be split")
    if not isinstance(entry["few"], bool):
        raise ValueError("few is neither true nor false")
    pairs = rounded(_number(entry, "pairs"))
    if entry["few"] and pairs > FEW_PAIRS:
        raise ValueError(f"few is true of {pairs} pairs")
    return (layer, pairs), Plan(entry["few"], *tiles)


def _number(entry: dict[str, Any], name: str, least: int = 1) -> int:
    value = entry[name]
    if type(value) is not int or not least <= value < 1 << 31:
        raise ValueError(f"{name} is {value!r}")
    return value


def search(layer: Layer, plan: Plan, measure: Callable[[Plan], float], gain: float = 0.02) -> tuple[Plan, float]:
    """From one plan to better ones, a step at a time, until none of the neighbours gains this part of the time.

    `measure` gives a plan's time, infinity for one that cannot run. Returns the best plan and its time.
    """
    best, time = plan, measure(plan)
    seen = {plan}
    while True:
        near = [other for other in neighbours(layer, best) if other not in seen]
        seen.update(near)
        times = [measure(other) for other in near]
        if not times or min(times) >= time * (1 - gain):
            return best, time
        time = min(times)
        best = near[times.index(time)]
