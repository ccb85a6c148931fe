"""Class-incremental learning: old and new classes compete, and the new ones shout. Two ways to answer fairly; iCaRL.

A network that has just learnt classes 8 and 9 says 8 or 9 to everything, even where its features still tell all classes
apart. Neither method here changes a weight: both answer in place of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..learn import Learner, Method
from ..streams import Batch, Task
from .memory import ClassBalanced, Herding, features_of
from .regularization import LwF
from .replay import DER, ER


@dataclass
class NearestMean(Method):
    """y(x) = argmin_c ‖φ(x) − μ_c‖, μ_c the mean of φ over the kept rows of class c (Rebuffi et al. 2017, eq. 2).

    φ is features(x), scaled to length 1, as is μ_c. The rows are those of ER or DER beside it in the list, and the
    means are taken anew at every answer, since features move. `[ER(200, alpha=0.0), NearestMean()]` keeps rows and
    trains on none. A class of which nothing is kept is never the answer. Suits Class-IL. Keeps nothing itself, but
    needs those rows at test time.
    """

    def check(self, learner: Learner) -> None:
        features_of(learner.net)
        if not any(isinstance(m, ER | DER) for m in learner.methods):
            raise ValueError("NearestMean takes means over kept rows, and nothing is kept: add ER(...) to the methods.")

    def predict(self, learner: Learner, x: Tensor, t: Tensor) -> Tensor | None:
        memory = next(m.memory_ for m in learner.methods if isinstance(m, ER | DER))
        if not len(memory):
            return None
        kept, y, *_ = memory.rows()
        features = features_of(learner.net)
        phi = lambda x: F.normalize(features(x))
        member = F.one_hot(y, learner.stream.units.shape[1]).to(x.dtype)  # (M, C)
        means = F.normalize(member.T @ phi(kept))  # (C, H); a sum has the direction of the mean
        return (-torch.cdist(phi(x), means)).masked_fill(member.sum(0) == 0, -torch.inf)


def icarl(slots: int = 200, alpha: float = 1.0, T: float = 2.0, seed: int = 0) -> list[Method]:
    """iCaRL is three ideas in a list: herded replay, distillation, and the nearest mean (Rebuffi et al. 2017).

    The paper trains sigmoid outputs on new and kept rows together; here each is the course's own part: softmax
    cross-entropy, and LwF, with its own alpha and T, on the inputs of the new task. Suits Class-IL. Keeps raw samples,
    and needs them at test time: slots × (input + 2) numbers; and a copy of the network.

    >>> icarl(200)  # doctest: +ELLIPSIS
    [ER(slots=200, ..., memory=Herding), LwF(alpha=1.0, T=2.0), NearestMean()]
    """
    return [ER(slots, seed=seed, memory=Herding), LwF(alpha, T), NearestMean()]


@dataclass
class BiasCorrection(Method):
    """z_c ← a_k z_c + b_k for the units c of task k: two numbers a task (after Wu et al. 2019, eq. 4).

    After each task the pairs (a_k, b_k) minimise the cross-entropy on `slots` class-balanced rows, the network fixed;
    a convex problem. These rows are not replayed, but each was trained on in its own task: the paper (BiC) holds its
    rows out, for the bias shows less on what was trained on. It fits the newest pair only; here all are fitted again,
    since every old task has sunk by its own amount.

    Suits Class-IL only, where tasks compete. Keeps slots × (input + 2) numbers, and at test time 2 a task.
    """

    slots: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        self.memory_ = ClassBalanced(self.slots, self.seed)
        self.pairs_ = identity(0)  # (T, 2): a_k and b_k

    def check(self, learner: Learner) -> None:
        if learner.stream.task_known or learner.stream.units.sum(0).max() > 1:
            raise ValueError("BiasCorrection weighs the units of tasks against each other: it needs Class-IL, a split.")
        self.pairs_ = identity(len(learner.stream)).to(learner.device)

    def after_step(self, learner: Learner, batch: Batch) -> None:
        self.memory_.add(*batch)

    def after_task(self, learner: Learner, task: Task) -> None:
        learner.net.eval()
        x, y, t = self.memory_.rows()
        with torch.no_grad():
            z = learner.logits(x, t)
        loss = lambda pairs: F.cross_entropy(learner.mask(correct(z, pairs, learner.stream.units), t), y)
        self.pairs_ = minimise(loss, identity(len(learner.stream)).to(z))

    def predict(self, learner: Learner, x: Tensor, t: Tensor) -> Tensor | None:
        return correct(learner.logits(x, t), self.pairs_, learner.stream.units)


def identity(tasks: int) -> Tensor:
    """Pairs (T, 2) that change nothing: a = 1 and b = 0."""
    return torch.tensor([1.0, 0.0]).repeat(tasks, 1)


def correct(z: Tensor, pairs: Tensor, units: Tensor) -> Tensor:
    """z_c ← a_k z_c + b_k: logits (B, C), pairs (T, 2), and who owns which unit, units (T, C) bool."""
    a, b = (pairs.T @ units.to(pairs)).split(1)  # (1, C) each
    return a * z + b


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, ridge: float = 1e-3) -> Tensor:
    """argmin_p loss(p) + ridge/2 ‖p − start‖², by L-BFGS. The ridge keeps p finite where the rows are separable."""
    p = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([p], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = loss(p) + ridge / 2 * (p - start).square().sum()
        total.backward()
        return total

    optimiser.step(closure)
    return p.detach()
