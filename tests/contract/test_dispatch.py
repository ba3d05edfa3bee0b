"""One body over all dispatchers and layouts: rows reach their experts, exactly, and come home summed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("dispatch_ranks.py")

LAYOUTS = {  # by world size: name, (tp, dp, ep)
    1: {"local": (1, 1, 1)},
    2: {"ep2": (1, 2, 2), "tp2 ep2": (2, 1, 2), "etp2": (2, 1, 1)},
    3: {"ep3": (1, 3, 3), "etp3": (3, 1, 1)},
    4: {
        "ep4": (1, 4, 4),
        "ep2 twice": (1, 4, 2),
        "tp2 dp2 ep4": (2, 2, 4),
        "ep2 etp2": (2, 2, 2),
        "etp2 twice": (2, 2, 1),
        "etp4": (4, 1, 1),
        "local four times": (1, 4, 1),
    },
}


@pytest.mark.parametrize("world", LAYOUTS)
def test_dispatch_agrees_with_the_dense_oracle(ranks: Callable[..., list[Any]], world: int) -> None:
    """One start of the ranks runs all cases of all layouts: starting is what takes time."""
    done = ranks(SCRIPT, world, LAYOUTS=json.dumps(LAYOUTS[world]))
    assert done == [list(LAYOUTS[world])] * world
