"""How much of the prefill attention one program takes, by the width of a head and the window."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows (heads of tokens) and keys of a product, warps that share it, and how many turns ahead keys are loaded.

    `registers`: at most so many a lane, where that lets more programs share a multiprocessor.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


def choose(width: int, window: int | None) -> Tile:
    """The tile for heads so wide: one program a multiprocessor, or two, or three where each has few keys.

    Of narrow heads exponentials take as long as products: while one program is at its own, the other's go on.
    """
    if width > 64:
        return Tile(128, 64, 8, 3)
    return Tile(64, 64, 4, 3, registers=168) if window and window <= 512 else Tile(128, 64, 4, 3)
