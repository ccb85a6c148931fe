"""Regularisation: let the weights move, but not those that matter. L2, EWC, Online EWC, MAS, SI; and LwF.

All but the last share one quadratic well per anchor, ½ Σ_i Ω_i (θ_i − θ*_i)², and differ only in what Ω is.
LwF holds on to what the network says instead of to where its weights are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from ..fisher import LogProb, check_labels, fisher_diagonal
from ..learn import Diverged, Learner, Method
from ..streams import Batch, Task, unit_float
from ..vectors import Params


class Well(NamedTuple):
    """Where the weights were, and how much each of them mattered there."""

    anchor: Params  # θ*
    omega: Params  # Ω ≥ 0


def quadratic(params: Params, anchor: Params, omega: Params) -> Tensor:
    """½ Σ_i Ω_i (θ_i − θ*_i)²: a scalar. Its Hessian is diag Ω."""
    return torch.stack([0.5 * (omega[n] * (params[n] - anchor[n]).square()).sum() for n in omega]).sum()


def snapshot(params: Params) -> dict[str, Tensor]:
    """A copy that later steps cannot reach: `.detach()` alone would be a view of the live weights."""
    return {n: p.detach().clone() for n, p in params.items()}


@dataclass
class Anchored(Method):
    """λ Σ_wells energy(θ). Abstract: a subclass says what a well is, its energy, and its largest curvature max Ω.

    SGD multiplies θ − θ* by 1 − ηλΩ at every step: it diverges beyond λ = 2/(η·max Ω), and says so beforehand.
    """

    lam: float = 1.0

    remedy = ""  # what else helps against divergence

    def __post_init__(self) -> None:
        if not 0 <= self.lam < float("inf"):
            raise ValueError(f"lam must be a finite number of 0 or more, not {self.lam}.")
        self.wells_: list[Any] = []
        self.warned_ = 0  # the last task at which the ceiling was checked

    def well(self, learner: Learner, task: Task) -> Any:
        """What to keep of a finished task."""
        raise NotImplementedError

    def energy(self, params: Params, well: Any) -> Tensor:
        """½ (θ − θ*)ᵀ Ω (θ − θ*): a scalar."""
        raise NotImplementedError

    def max_omega(self) -> float:
        """The largest curvature of the wells."""
        raise NotImplementedError

    def penalty(self, params: Params) -> Tensor | float:
        return self.lam * sum(self.energy(params, well) for well in self.wells_)

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        if not self.wells_:
            return 0.0
        penalty = torch.as_tensor(self.penalty(learner.params))
        if not torch.isfinite(penalty):
            raise Diverged(f"{type(self).__name__}'s penalty is no longer finite: {self.ceiling(learner)}")
        return penalty

    def after_step(self, learner: Learner, batch: Batch) -> None:
        if not self.wells_ or self.warned_ == learner.seen:
            return
        self.warned_ = learner.seen  # once a task, at its first step: before the run itself shows it
        if self.stiffness(learner) > 1:
            warnings.warn(f"{type(self).__name__} will diverge: {self.ceiling(learner)}", stacklevel=2)

    def after_task(self, learner: Learner, task: Task) -> None:
        learner.net.eval()
        self.wells_.append(self.well(learner, task))

    def stiffness(self, learner: Learner) -> float:
        """λη max Ω over what SGD bears. Above 1 the weights run away. 0 for other optimisers."""
        if not isinstance(learner.opt, torch.optim.SGD):
            return 0.0  # Adam scales every step by itself
        return self.lam * learner.opt.param_groups[0]["lr"] * self.max_omega() / _bearable(learner.opt)

    def ceiling(self, learner: Learner) -> str:
        if not self.stiffness(learner) > 1:
            return "not by λ alone, the weights ran away with it. Take a smaller learning rate."
        lr, omega, limit = learner.opt.param_groups[0]["lr"], self.max_omega(), _bearable(learner.opt)
        return (
            f"λ·η·max Ω = {self.lam:g} · {lr:g} · {omega:.3g} = {self.lam * lr * omega:.3g}, and SGD is stable below "
            f"{limit:.3g}. Take λ < {limit / (lr * omega):.3g}, a smaller learning rate{self.remedy}."
        )


def _bearable(opt: torch.optim.Optimizer) -> float:
    """The largest η·curvature at which SGD still contracts: 2(1 + μ) with momentum μ, over 1 + 2μ with Nesterov's."""
    momentum, nesterov = opt.param_groups[0]["momentum"], opt.param_groups[0]["nesterov"]
    return 2 * (1 + momentum) / (1 + 2 * momentum if nesterov else 1)


@dataclass
class Quadratic(Anchored):
    """λ Σ_wells ½ Σ_i Ω_i (θ_i − θ*_i)². Abstract: a subclass says what Ω is, by `importance`.

    `decay=None` keeps one well a task, 2P floats each. `decay=γ` keeps one well for all, 2P floats in total: the
    newest anchor with Ω ← γΩ + Ω_new (Schwarz et al. 2018, eq. 9; γ = 1 is Huszár 2018). Schwarz also has γ in the
    penalty, so that λ there is our λ/γ.

    `proximal=True` takes the penalty implicitly after the step, θ ← (θ + ηλΩθ*)/(1 + ηλΩ): stable at every λ, where
    the explicit step has its ceiling. For SGD; with momentum μ, η is η/(1 − μ), to which its steps add up.
    """

    decay: float | None = None
    proximal: bool = False

    remedy = ", or proximal=True"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay is not None and not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], or be None for one well a task, not {self.decay}.")

    def check(self, learner: Learner) -> None:
        if self.proximal and not isinstance(learner.optimiser([*learner.params.values()]), torch.optim.SGD):
            raise ValueError("proximal=True divides by 1 + ηλΩ, with the η of SGD: take SGD, or proximal=False.")

    def importance(self, learner: Learner, task: Task) -> Params:
        """Ω of the task just learnt, at the weights as they are now."""
        raise NotImplementedError

    def well(self, learner: Learner, task: Task) -> Well:
        omega = self.importance(learner, task)
        if self.decay is not None and self.wells_:
            old = self.wells_.pop()
            omega = {n: self.decay * old.omega[n] + w for n, w in omega.items()}
        return Well(snapshot(learner.params), omega)

    def energy(self, params: Params, well: Well) -> Tensor:
        return quadratic(params, *well)

    def max_omega(self) -> float:
        """The stiffest weight, all wells together."""
        return max(float(sum(well.omega[n] for well in self.wells_).max()) for n in self.wells_[0].omega)

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        return 0.0 if self.proximal else super().loss(learner, batch)

    @torch.no_grad()
    def after_step(self, learner: Learner, batch: Batch) -> None:
        if not self.proximal:
            super().after_step(learner, batch)
        elif self.wells_:
            group = learner.opt.param_groups[0]
            eta = group["lr"] * (1 - group["dampening"]) / (1 - group["momentum"])  # what a slope comes to in the end
            rate = eta * self.lam
            for n, p in learner.params.items():
                pull = sum(well.omega[n] * well.anchor[n] for well in self.wells_)
                omega = sum(well.omega[n] for well in self.wells_)
                p.copy_((p + rate * pull) / (1 + rate * omega))


@dataclass
class L2(Quadratic):
    """λ ½ ‖θ − θ*‖²: every weight matters alike. The control of Kirkpatrick et al. (2017, fig. 2), not a straw man.

    What a method with an Ω of its own must beat. Every scenario; nothing at test time. Memory: 2P floats a
    task, with `decay` 2P in all.
    """

    def importance(self, learner: Learner, task: Task) -> Params:
        return {n: torch.ones_like(p.detach()) for n, p in learner.params.items()}


@dataclass
class EWC(Quadratic):
    """L(θ) + λ Σ_k ½ Σ_i F_k,i (θ_i − θ*_k,i)², F_k = diag Fisher of task k at θ*_k (Kirkpatrick et al. 2017, eq. 3).

    `decay=γ` is Online EWC (Schwarz et al. 2018). `normalise=True` gives every F_k the mean 1 before it is added, so
    that a task learnt to a flatter loss counts as much (Schwarz et al. do normalise, but leave open by which norm).
    `labels`: how the Fisher takes its y, see `fisher_diagonal`; `samples` of the task are enough for it.

    λ = 1 with `decay=1` is the Laplace approximation, with a diagonal Fisher for the Hessian, for tasks of equal size;
    a well a task counts old tasks again from the third on (Huszár 2018). Suits Task-IL and Domain-IL; nothing at test
    time. In Task-IL only the task's own units enter the softmax. Memory: 2P floats a task, with `decay` 2P in all.
    """

    labels: str = "exact"
    samples: int = 500
    seed: int = 0
    normalise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels)
        check_samples(self.samples)

    def importance(self, learner: Learner, task: Task) -> Params:
        rng = torch.Generator().manual_seed(self.seed)
        batches = draw(learner, task, self.samples, rng)
        fisher = fisher_diagonal(log_prob(learner), learner.params, batches, self.labels, rng)
        if self.normalise:
            mean = torch.cat([f.flatten() for f in fisher.values()]).mean()
            fisher = {n: f / mean.clamp(min=torch.finfo(f.dtype).tiny) for n, f in fisher.items()}
        return fisher


def log_prob(learner: Learner) -> LogProb:
    """(θ, x, t) -> log p(·|x; θ) of one sample, over the units that compete for it: (C,)."""
    return lambda params, x, t: learner.mask(learner.logits(x[None], t[None], params), t[None])[0].log_softmax(0)


def draw(learner: Learner, task: Task, samples: int, rng: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """`samples` of the task's training set, or all if there are fewer, 50 at a time: 50·P floats of gradients."""
    batch = next(task.batches(samples, rng=rng)).to(learner.device)
    return zip(*(column.split(50) for column in batch))


def check_samples(samples: int) -> None:
    if samples != int(samples) or samples < 1:
        raise ValueError(f"samples must be a whole number of 1 or more, not {samples}: a mean is taken over them.")


@torch.no_grad()  # `grad` does not mind
def sensitivity(output: Callable[..., Tensor], params: Params, batches: Iterable[tuple[Tensor, ...]]) -> Params:
    """1/N Σ_n |∂ ½‖f(x_n; θ)‖² / ∂θ|, the absolute value per sample: in a mean of gradients the signs would cancel.

    `output(params, *one sample)` is f: (C,). No label enters. Memory: B·P floats for batches of B.
    """
    params = {n: p.detach() for n, p in params.items()}
    energy = lambda p, *sample: 0.5 * output(p, *sample).square().sum()
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    count = 0
    for batch in batches:
        count += len(batch[0])
        for n, g in vmap(grad(energy), in_dims=(None, *(0 for _ in batch)))(params, *batch).items():
            total[n] += g.abs().sum(0)
    return {n: w / count for n, w in total.items()}


@dataclass
class MAS(Quadratic):
    """Ω_i = 1/N Σ_n |∂ ½‖f(x_n; θ)‖² / ∂θ_i|: how far a weight can move what the network says, right or wrong
    (Aljundi et al. 2018, eq. 2 and 3; without the two ½, so that λ there is our λ/4).

    f are the logits of the units that compete for the task; others would add an Ω for what nobody asks. No label is
    used. `inputs` (N, ...): other, unlabelled inputs, as the network sees them, whose answers shall stay: all of them
    are taken, after every task; without, `samples` of the task's own. Ω adds up over tasks (`decay=1`) as in the paper.

    Suits Task-IL and Domain-IL; nothing at test time. Memory: 2P floats in all, and `inputs`.
    """

    decay: float | None = 1.0
    samples: int = 500
    inputs: Tensor | None = field(default=None, repr=False, compare=False)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_samples(self.samples)
        if self.inputs is not None and not len(self.inputs):
            raise ValueError("inputs is empty: give at least one input, or None to take the task's own.")

    def importance(self, learner: Learner, task: Task) -> Params:
        def output(params: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
            z = learner.logits(x[None], t[None], params)
            return z.masked_fill(~learner.stream.competing(t[None], learner.seen), 0.0)[0]

        if self.inputs is None:
            rng = torch.Generator().manual_seed(self.seed)
            batches = [(x, t) for x, _, t in draw(learner, task, self.samples, rng)]
        else:
            x = unit_float(self.inputs).to(learner.device)
            batches = [(part, torch.full((len(part),), task.id, device=part.device)) for part in x.split(50)]
        return sensitivity(output, learner.params, batches)


@dataclass
class SI(Quadratic):
    """Ω_i = Σ_tasks max(ω_i, 0) / (Δ_i² + ξ), ω_i = −∫ g_i dθ_i: which weight lowered the loss, over how far it went
    (Zenke et al. 2017, eq. 3 to 5; without the ½, so that c there is our λ/2).

    The integral is a sum over steps, ω_i ← ω_i − g_i·(θ_i after − θ_i before), with the displacement as it was,
    momentum and all. As η -> 0, Σ_i ω_i is the drop of the loss. ω < 0 is a weight that was pushed uphill: Ω = 0, or
    the penalty would reward moving it. Δ is the way from start to end of the task; `xi` (ξ) keeps Ω finite for weights
    that hardly moved.

    g is the gradient at this place in the list of methods, less SI's own pull: the pull is not the task. Terms of other
    methods stay (replay is part of what shall be learnt). Put SI before methods that edit gradients.

    Suits Task-IL and Domain-IL; nothing at test time and no second pass over the data. Memory: 2P floats in all, and
    4P while a task is being learnt.
    """

    decay: float | None = 1.0
    xi: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.xi < float("inf"):
            raise ValueError(f"xi must be a finite number above 0, not {self.xi}: it divides where Δ = 0.")

    def before_task(self, learner: Learner, task: Task) -> None:
        self.start_ = snapshot(learner.params)
        self.path_ = {n: torch.zeros_like(p) for n, p in self.start_.items()}  # ω

    def edit_grads(self, learner: Learner, batch: Batch) -> None:
        self.before_ = snapshot(learner.params)
        self.grad_ = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in learner.params.items()}
        for well in () if self.proximal else self.wells_:
            for n, g in self.grad_.items():
                g -= self.lam * well.omega[n] * (self.before_[n] - well.anchor[n])

    @torch.no_grad()
    def after_step(self, learner: Learner, batch: Batch) -> None:
        super().after_step(learner, batch)
        for n, p in learner.params.items():
            self.path_[n] -= self.grad_[n] * (p - self.before_[n])

    def importance(self, learner: Learner, task: Task) -> Params:
        moved = {n: p.detach() - self.start_[n] for n, p in learner.params.items()}
        return {n: self.path_[n].clamp(min=0) / (d.square() + self.xi) for n, d in moved.items()}


def distil(old: Tensor, new: Tensor, T: float) -> Tensor:
    """T² KL(softmax(old/T) ‖ softmax(new/T)), the mean over a batch of logits (B, C) (Hinton et al. 2015).

    T² keeps the gradient's size: as T -> ∞ this is 1/(2C) ‖(new − mean new) − (old − mean old)‖². 0 for a single unit.
    """
    return T**2 * F.kl_div((new / T).log_softmax(1), (old / T).log_softmax(1), reduction="batchmean", log_target=True)


@dataclass
class LwF(Method):
    """α Σ_heads T² KL(softmax(z_old/T) ‖ softmax(z_new/T)) on the inputs of the new task (Li & Hoiem 2017, eq. 2).

    z_old are the logits of the network as the last task left it: frozen, in eval mode, fed the same inputs. One softmax
    for each old head: a task's own in Task-IL, all units met so far otherwise. Needs no old data, no Fisher and nothing
    at test time, but inputs that look somewhat like the old ones. Suits Task-IL. The paper's warm-up of the new head is
    left out. All heads are read in one pass with the batch's own t: the trunk must not depend on t.

    Memory: one copy of the network, P floats in all.
    """

    alpha: float = 1.0
    T: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be a finite number of 0 or more, not {self.alpha}.")
        if not 0 < self.T < float("inf"):
            raise ValueError(f"T, the temperature, must be a finite number above 0, not {self.T}.")
        self.teacher_: dict[str, Tensor] = {}

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        if not self.teacher_:
            return 0.0
        new, old = learner.logits(batch.x, batch.t), learner.frozen(batch.x, batch.t, self.teacher_)
        return self.alpha * sum(
            distil(old[:, head], new[:, head], self.T) for head in learner.stream.heads(learner.seen - 1)
        )

    def after_task(self, learner: Learner, task: Task) -> None:
        # buffers too: with the running statistics of the student a teacher would still move
        self.teacher_ = snapshot(learner.net.state_dict())
