"""Two networks to study: forward(x, t=None) -> logits of all output units; features(x) -> the last hidden layer.

No BatchNorm and no dropout: a Fisher needs the gradient of one sample, and with BatchNorm there is no such thing.
The same seed gives the same network whatever was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between: `MLP((64, 100, 100, 10))`. Inputs of any shape are flattened."""

    def __init__(self, sizes: Sequence[int] = (64, 100, 100, 10), seed: int = 0):
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes needs an input and an output width of 1 or more, such as (64, 10), not {sizes}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = [module for a, b in pairwise(sizes[:-1]) for module in (nn.Linear(a, b), nn.ReLU())]
            self.body, self.head = nn.Sequential(*hidden), nn.Linear(sizes[-2], sizes[-1])

    def features(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1))  # (B, ...) -> (B, H)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.head(self.features(x))


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers, 49,742 parameters on 3×32×32 inputs and 10 classes."""

    def __init__(self, channels: int = 3, size: int = 32, classes: int = 10, hidden: int = 44, seed: int = 0):
        super().__init__()
        left = ((size - 4) // 2 - 4) // 2  # width after two 5×5 convolutions, each followed by 2×2 pooling
        if left < 1:
            raise ValueError(f"SmallCNN needs images of 16×16 pixels or more, not {size}×{size}: use an MLP.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv1, self.conv2 = nn.Conv2d(channels, 16, 5), nn.Conv2d(16, 32, 5)
            self.fc1, self.fc2 = nn.Linear(32 * left**2, hidden), nn.Linear(hidden, classes)

    def features(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)  # (B, 16, ·, ·)
        x = F.max_pool2d(self.conv2(x).relu(), 2)  # (B, 32, ·, ·)
        return self.fc1(x.flatten(1)).relu()  # (B, hidden)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.fc2(self.features(x))


class TwoWeights(nn.Module):
    """A network with two weights for inputs in the plane: its whole loss surface can be drawn.

    p(1|x) = σ(θ·x), written as two logits (0, θ·x) so that the course's loop and methods serve it unchanged.
    """

    def __init__(self, start: tuple[float, float] = (0.0, 0.0)):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float32))

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        z = x @ self.theta
        return torch.stack([torch.zeros_like(z), z], 1)  # (B, 2)
