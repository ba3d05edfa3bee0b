"""The mean of the weights that several trainings ended with, where one went on from the other.

It may answer better than either end (model soups, arXiv:2203.05482; what it did here: checkpoint/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .trainee import Trainee


@torch.no_grad()
def average(trainee: Trainee, others: Sequence[tuple[Trainee, float]]) -> None:
    """Give `trainee` the mean of its weights and the others', which are of its shape: theirs count for their shares.

    Raises ValueError where a share is not above 0, or nothing is left for `trainee`.
    """
    own = 1 - sum(share for _, share in others)
    if not all(share > 0 for _, share in others) or not own > 0:
        raise ValueError("shares of a mean must be above 0, and less than 1 together")
    theirs = [(dict(other.model.named_parameters()), share) for other, share in others]
    for name, parameter in trainee.model.named_parameters():
        parameter.mul_(own)
        for parameters, share in theirs:
            parameter.add_(parameters[name], alpha=share)
