"""Gradient projection: step only where the losses of the past do not rise, to first order. A-GEM and GEM.

A step θ ← θ − η g̃ changes an old loss L_k by −η g̃·g_k + O(η²): it does not rise as long as g̃·g_k ≥ 0. The guarantee
is that of plain SGD. Momentum and weight decay act after the projection, and may step across it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import nnls
from torch import Tensor

from ..learn import Learner, Method
from ..streams import Batch, Task
from ..vectors import flat, unflat
from .memory import Reservoir


def project(g: Tensor, G: Tensor, margin: float = 0.0) -> Tensor:
    """The vector nearest to g (P,) that has G g̃ ≥ 0, for old gradients G (K, P) (Lopez-Paz & Ranzato 2017, section 3).

    g̃ = g + Gᵀv with v = argmin_{v ≥ 0} ‖Gᵀv + g‖, the dual, in K unknowns. Where no constraint is broken g̃ is
    g itself. `margin` = γ asks for v ≥ γ instead: in the units of v, the multiple of *every* old gradient that is added
    as soon as *one* constraint is broken, so that with γ > 0 GEM turns into replay there.

    >>> project(torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 1.0]]))
    tensor([1., 0.])
    """
    if (G @ g >= 0).all():
        return g
    near = (g + margin * G.sum(0)).double()  # v = γ + u with u ≥ 0: the same problem, from another start
    rows = G.double()
    A, c = rows @ rows.T, rows @ near  # ‖rowsᵀu + near‖² = uᵀA u + 2cᵀu + constant: K numbers instead of P
    length = A.diagonal().sqrt()  # which does not matter to a cone
    length[length == 0] = 1  # a zero row constrains nothing: its u stays 0
    values, V = torch.linalg.eigh(A / length / length[:, None])
    root = values.clamp(min=0).sqrt()  # R = Λ^½ Vᵀ, Rᵀb = c: ‖R u + b‖² is that sum, u in units of 1/length
    R, b = root[:, None] * V.T, torch.where(root > 1e-7, V.T @ (c / length) / root, 0)  # two rows alike leave a 0
    u, _ = nnls(R.cpu().numpy(), -b.cpu().numpy())
    return (near + rows.T @ (torch.as_tensor(u).to(rows) / length)).to(g)


def project_mean(g: Tensor, g_ref: Tensor) -> Tensor:
    """g̃ = g − (g·g_ref / ‖g_ref‖²) g_ref where g·g_ref < 0, else g (Chaudhry et al. 2019a, eq. 11).

    `project` with one row, in closed form. A g_ref of zero breaks nothing, and is never divided by.

    >>> project_mean(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))
    tensor([1., 0.])
    """
    ref = g_ref.double()  # its square would underflow in single precision
    dot = g.double() @ ref
    return g if dot >= 0 else (g - dot / (ref @ ref) * ref).to(g)


def gradient(learner: Learner, batch: Batch) -> Tensor:
    """∇L(batch) as one vector (P,). `p.grad` is left alone."""
    names, weights = zip(*learner.params.items())
    grads = torch.autograd.grad(learner.loss(batch), weights, allow_unused=True, materialize_grads=True)
    return flat(dict(zip(names, grads)))


def read_grads(learner: Learner) -> Tensor:
    """The gradient of the step to come, as one vector (P,)."""
    return flat({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in learner.params.items()})


def write_grads(learner: Learner, g: Tensor) -> None:
    """Let the optimiser see g instead."""
    for n, part in unflat(g, learner.params).items():
        learner.params[n].grad = part.clone()


@dataclass
class AGEM(Method):
    """One constraint: the mean loss over the memory of all past tasks must not rise (Chaudhry et al. 2019a, eq. 10).

    At each step g_ref is the gradient of `size` rows drawn from a memory of `slots`, a uniform sample of the tasks that
    have ended: the current one is not among them. Single tasks may still lose, if others gain: see GEM. Suits all
    scenarios, each row under its own head. Keeps slots × (input + 2) numbers; one more backward pass a step.
    """

    slots: int = 200
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be 1 or more, not {self.size}: it is the number of rows drawn at each step.")
        self.memory_ = Reservoir(self.slots, self.seed)

    def edit_grads(self, learner: Learner, batch: Batch) -> None:
        if len(self.memory_):
            g_ref = gradient(learner, Batch(*self.memory_.sample(self.size)))
            write_grads(learner, project_mean(read_grads(learner), g_ref))

    def after_task(self, learner: Learner, task: Task) -> None:
        for batch in task.batches(500):
            self.memory_.add(*batch.to(learner.device))


@dataclass
class GEM(Method):
    """One constraint for each past task: none of their losses may rise (Lopez-Paz & Ranzato 2017, section 3).

    g_k is the gradient of all `per_task` rows kept of task k, a uniform sample of its training set. `margin` is γ of
    `project`: 0 is the problem as stated, the authors ran 0.5. Suits all scenarios, each row under its own head. Keeps
    per_task × (input + 2) numbers a task; t − 1 more backward passes a step.
    """

    per_task: int = 50
    margin: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_task < 1:
            raise ValueError(f"per_task must be 1 or more, not {self.per_task}: a task without rows has no gradient.")
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin must be a finite number of 0 or more, not {self.margin}.")
        self.memories_: list[Batch] = []  # one a task
        self.rng_ = torch.Generator().manual_seed(self.seed)

    def edit_grads(self, learner: Learner, batch: Batch) -> None:
        if self.memories_:
            G = torch.stack([gradient(learner, rows) for rows in self.memories_])
            write_grads(learner, project(read_grads(learner), G, self.margin))

    def after_task(self, learner: Learner, task: Task) -> None:
        self.memories_.append(next(task.batches(self.per_task, rng=self.rng_)).to(learner.device))
