"""Regularisation: let the weights move, but not those that matter. EWC and Online EWC.

All share one quadratic well per anchor, ½ Σ_i Ω_i (θ_i − θ*_i)², and differ only in what Ω is.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..fisher import Params, check_labels, fisher_diagonal
from ..learn import Diverged, Learner, Method
from ..streams import Batch, Task


class Well(NamedTuple):
    """Where the weights were, and how much each of them mattered there."""

    anchor: Params  # θ*
    omega: Params  # Ω ≥ 0


def quadratic(params: Params, anchor: Params, omega: Params) -> Tensor:
    """½ Σ_i Ω_i (θ_i − θ*_i)²: a scalar. Its Hessian is diag Ω."""
    return torch.stack([0.5 * (omega[n] * (params[n] - anchor[n]).square()).sum() for n in anchor]).sum()


def snapshot(params: Params) -> Params:
    """A copy that later steps cannot reach: `.detach()` alone would be a view of the live weights."""
    return {n: p.detach().clone() for n, p in params.items()}


@dataclass
class Quadratic(Method):
    """λ Σ_wells ½ Σ_i Ω_i (θ_i − θ*_i)². Abstract: a subclass says what Ω is, by `importance`.

    `decay=None` keeps one well a task, 2P floats each. `decay=γ` keeps one well for all, 2P floats in total: the
    newest anchor with Ω ← γΩ + Ω_new (Schwarz et al. 2018, eq. 9; γ = 1 is Huszár 2018).

    SGD multiplies θ − θ* by 1 − ηλΩ at every step: it diverges beyond λ = 2/(η·max Ω). `proximal=True` takes the
    penalty implicitly after the step, θ ← (θ + ηλΩθ*)/(1 + ηλΩ), and is stable at every λ.
    """

    lam: float = 1.0
    decay: float | None = None
    proximal: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.lam < float("inf"):
            raise ValueError(f"lam must be a finite number of 0 or more, not {self.lam}.")
        if self.decay is not None and not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], or be None for one well a task, not {self.decay}.")
        self.wells_: list[Well] = []
        self.warned_ = 0  # the last task at which the ceiling was checked

    def importance(self, learner: Learner, task: Task) -> Params:
        raise NotImplementedError

    def penalty(self, params: Params) -> Tensor | float:
        return self.lam * sum(quadratic(params, *well) for well in self.wells_)

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        if self.proximal or not self.wells_:
            return 0.0
        penalty = self.penalty(learner.params)
        if not torch.isfinite(penalty):
            raise Diverged(f"{type(self).__name__}'s penalty is no longer finite: {self.ceiling(learner)}")
        return penalty

    @torch.no_grad()
    def after_step(self, learner: Learner, batch: Batch) -> None:
        if not self.wells_:
            return
        if self.proximal:
            rate = learner.opt.param_groups[0]["lr"] * self.lam
            for n, p in learner.params.items():
                pull = sum(well.omega[n] * well.anchor[n] for well in self.wells_)
                omega = sum(well.omega[n] for well in self.wells_)
                p.copy_((p + rate * pull) / (1 + rate * omega))
        elif self.warned_ < learner.seen:  # once a task, at its first step: before the run itself shows it
            self.warned_ = learner.seen
            if self.stiffness(learner) > 1:
                warnings.warn(f"{type(self).__name__} will diverge: {self.ceiling(learner)}", stacklevel=2)

    def after_task(self, learner: Learner, task: Task) -> None:
        learner.net.eval()
        omega = self.importance(learner, task)
        if self.decay is not None and self.wells_:
            (old,) = self.wells_
            omega = {n: self.decay * old.omega[n] + w for n, w in omega.items()}
            self.wells_ = []
        self.wells_.append(Well(snapshot(learner.params), omega))

    def max_omega(self) -> float:
        """The stiffest weight, all wells together."""
        first, *_ = self.wells_
        return max(float(sum(well.omega[n] for well in self.wells_).max()) for n in first.omega)

    def stiffness(self, learner: Learner) -> float:
        """λη max Ω over what SGD bears, 2(1 + momentum). Above 1 the weights run away. 0 for other optimisers."""
        if not isinstance(learner.opt, torch.optim.SGD):
            return 0.0  # Adam scales every step by itself
        group = learner.opt.param_groups[0]
        return self.lam * group["lr"] * self.max_omega() / (2 * (1 + group["momentum"]))

    def ceiling(self, learner: Learner) -> str:
        group = learner.opt.param_groups[0]
        lr, omega, limit = group["lr"], self.max_omega(), 2 * (1 + group.get("momentum", 0))
        return (
            f"λ·η·max Ω = {self.lam:g} · {lr:g} · {omega:.3g} = {self.lam * lr * omega:.3g}, and SGD is stable below "
            f"{limit:g}. Take λ < {limit / (lr * omega):.3g}, a smaller learning rate, or proximal=True."
        )


@dataclass
class EWC(Quadratic):
    """L(θ) + λ Σ_k ½ Σ_i F_k,i (θ_i − θ*_k,i)², F_k = diag Fisher of task k at θ*_k (Kirkpatrick et al. 2017, eq. 3).

    `decay=γ` is Online EWC (Schwarz et al. 2018). `labels`: how the Fisher takes its y, see `fisher_diagonal`.
    With Task-IL only the task's own units enter the softmax. λ = 1 is the Laplace approximation for tasks of equal size.
    """

    labels: str = "exact"
    samples: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels)
        if self.samples < 1:
            raise ValueError(f"samples must be 1 or more, not {self.samples}: the Fisher is a mean over samples.")

    def importance(self, learner: Learner, task: Task) -> Params:
        def log_prob(params: Params, x: Tensor, t: Tensor) -> Tensor:
            return learner.mask(learner.logits(x[None], t[None], params), t[None])[0].log_softmax(0)

        rng = torch.Generator().manual_seed(self.seed)
        batch = next(task.batches(self.samples, rng=rng)).to(learner.device)
        chunks = zip(*(column.split(50) for column in batch))  # 50·P floats of gradients at a time
        return fisher_diagonal(log_prob, learner.params, chunks, self.labels, rng)
