"""All parameters as one vector, and back: for the mathematics that sees a point in R^P, not a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Params = Mapping[str, Tensor]  # the parameters of a network by name, and whatever has one entry for each of them


def flat(params: Params) -> Tensor:
    """All parameters as one vector (P,), in the order of the dict."""
    return torch.cat([p.flatten() for p in params.values()])


def unflat(vector: Tensor, like: Params) -> dict[str, Tensor]:
    """The inverse of `flat`: the pieces of a vector (P,), named and shaped as in `like`."""
    pieces = vector.split([p.numel() for p in like.values()])
    return {n: piece.view_as(p) for (n, p), piece in zip(like.items(), pieces)}
