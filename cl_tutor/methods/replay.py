"""Replay: keep a slice of the past, and train on it too."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..learn import Learner, Method
from ..streams import Batch
from .memory import Reservoir


@dataclass
class ER(Method):
    """L(B) + α L(M): cross-entropy on `size` rows drawn from `slots` kept ones (Chaudhry et al. 2019, algorithm 1).

    The rows are drawn before the batch is offered to the memory. Keeps raw samples: slots × (input + label + task id).
    """

    slots: int = 200
    size: int = 64
    alpha: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.alpha < 0:
            raise ValueError(f"ER needs size ≥ 1 and alpha ≥ 0, not size={self.size}, alpha={self.alpha}.")
        self.memory_ = Reservoir(self.slots, self.seed)

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        return self.alpha * learner.loss(Batch(*self.memory_.sample(self.size))) if len(self.memory_) else 0.0

    def after_step(self, learner: Learner, batch: Batch) -> None:
        self.memory_.add(*batch)
