"""Replay: keep a slice of the past, and train on it too. ER, DER and DER++."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..learn import Learner, Method
from ..streams import Batch, Task
from .memory import Memory, Reservoir


@dataclass
class ER(Method):
    """L(B) + α L(M): cross-entropy on `size` rows drawn from `slots` kept ones (Chaudhry et al. 2019b, algorithm 1).

    `memory` says what is kept: Reservoir, ClassBalanced or Herding. The rows are drawn before the batch is offered to
    it. Suits all three scenarios; each row is asked under its own head. Keeps raw samples: slots × (input + 2) numbers
    in all, and nothing of them is needed at test time. The sum, where others take the mean of L(B) and L(M): with
    α = 1 its step is twice theirs.
    """

    slots: int = 200
    size: int = 64
    alpha: float = 1.0
    seed: int = 0
    memory: type[Memory] = Reservoir

    def __post_init__(self) -> None:
        check_replay(self.size, alpha=self.alpha)
        self.memory_ = self.memory(self.slots, self.seed)

    def __repr__(self) -> str:  # with the memory by its name, as it was written
        return (
            f"ER(slots={self.slots}, size={self.size}, alpha={self.alpha}, seed={self.seed}, "
            f"memory={self.memory.__name__})"
        )

    def check(self, learner: Learner) -> None:
        self.memory_.check(learner.net)

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        if not self.alpha or not len(self.memory_):
            return 0.0
        return self.alpha * learner.loss(Batch(*self.memory_.sample(self.size)))

    def after_step(self, learner: Learner, batch: Batch) -> None:
        self.memory_.add(*batch)

    def after_task(self, learner: Learner, task: Task) -> None:
        learner.net.eval()
        batches = (batch.to(learner.device) for batch in task.batches(500))  # read only by a memory that looks at it
        self.memory_.update(learner.net, batches)


@dataclass
class DER(Method):
    """L(B) + α ‖f(x'; θ) − z'‖² + β L(x'', y''): on old inputs, answer as you once did (Buzzega et al. 2020, eq. 6).

    (x', z') and (x'', y'') are two independent draws. β = 0 is DER (eq. 5), β > 0 is DER++. z' are the logits of all
    units that the network gave when it met x', *before* it stepped on it, and the square is a mean over rows and units.

    "Dark experience" stores inputs *and* logits: a row is x, y, t and z, slots × (input + classes + 2) numbers in all,
    and no more private than ER. Suits all three scenarios; needs nothing at test time.
    """

    slots: int = 200
    size: int = 64
    alpha: float = 0.5
    beta: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_replay(self.size, alpha=self.alpha, beta=self.beta)
        self.memory_ = Reservoir(self.slots, self.seed)

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        loss: Tensor | float = 0.0
        if self.alpha and len(self.memory_):
            x, _, t, z = self.memory_.sample(self.size)
            loss = loss + self.alpha * F.mse_loss(learner.logits(x, t), z)
        if self.beta and len(self.memory_):
            x, y, t, _ = self.memory_.sample(self.size)
            loss = loss + self.beta * learner.loss(Batch(x, y, t))
        return loss

    @torch.no_grad()
    def edit_grads(self, learner: Learner, batch: Batch) -> None:
        """Offer the batch now: `loss` has drawn from the memory, and the weights are still those before the step."""
        self.memory_.add(*batch, learner.logits(batch.x, batch.t))


def check_replay(size: int, **strengths: float) -> None:
    """Refuse sizes and strengths that make no sense."""
    if size < 1:
        raise ValueError(f"size must be 1 or more, not {size}: it is the number of rows drawn at each step.")
    for name, value in strengths.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a finite number of 0 or more, not {value}.")
