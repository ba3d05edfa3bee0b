"""More layers for a trained model: put in its middle, they add nothing until they have learned to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

OUTPUTS = "attention.o.", "mlp.experts.down", "mlp.down."  # what a layer adds to the residual stream comes out of these


def sources(kinds: Sequence[object], deeper: Sequence[object]) -> list[int]:
    """Which of the layers of `kinds` each of the `deeper` ones is made of; the added ones come after the middle.

    Raises ValueError where a layer would be made of one of another kind.
    """
    more = len(deeper) - len(kinds)
    middle = len(deeper) // 2
    found = [layer if layer < middle else layer - more for layer in range(len(deeper))]
    if more > middle or any(deeper[layer] != kinds[source] for layer, source in enumerate(found)):
        raise ValueError(
            f"{len(kinds)} layers cannot grow to {len(deeper)}: add at most as many as there are, in whole turns of "
            "`attention`, and none that is dense"
        )
    return found


def deepened(weights: Mapping[str, torch.Tensor], made_of: Sequence[int]) -> dict[str, torch.Tensor]:
    """Weights by the names of `GptOss`, of which layer i is made of layer made_of[i]: a second one of it adds zeros."""
    grown = {name: weight for name, weight in weights.items() if not name.startswith("blocks.")}
    for layer, source in enumerate(made_of):
        again = source in made_of[:layer]
        for name, weight in weights.items():
            _, _, part = name.partition(f"blocks.{source}.")
            if part:
                silent = again and part.startswith(OUTPUTS)
                grown[f"blocks.{layer}.{part}"] = torch.zeros_like(weight) if silent else weight
    return grown
