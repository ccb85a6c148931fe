"""Architectures: give every task parameters of its own, and forget nothing. PackNet, Progressive, SupSup, Adapters.

PackNet divides one network among the tasks and is a `Method` for any network. The other three are networks and methods
at once: `Learner(Progressive((64, 100, 10)), stream)`. Each gives its bill, what every task costs in storage.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..learn import Learner, Method, fit
from ..streams import Batch, Task
from ..vectors import Params
from .regularization import snapshot


class Bill(NamedTuple):
    """What one task adds to the storage."""

    parameters: int  # floats that are trained for this task and kept
    bits: int  # these floats and the task's masks, in bits


def by_task(x: Tensor, t: Tensor, answer: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Each row under its own task: answer(rows of x, their task) -> (B_k, C), put back in order as (B, C)."""
    rows = [(t == k).nonzero()[:, 0] for k in t.unique()]
    answers = [answer(x[r], int(t[r[0]])) for r in rows]
    return torch.cat(answers)[torch.cat(rows).argsort()]


def largest(scores: Tensor, count: int) -> Tensor:
    """True at exactly `count` of the largest scores, of any shape and size."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().topk(count).indices] = True
    return mask.view_as(scores)


def needs_task_id(method: Method, learner: Learner) -> None:
    if not learner.stream.task_known:
        raise ValueError(
            f"{type(method).__name__} must be told at test time which task a sample is from, and this stream does not "
            "tell: build it with scenario='task', or take SupSup, which infers the task."
        )


@dataclass
class PackNet(Method):
    """f_k(x) = f(x; θ ⊙ [owner ≤ k]): each weight belongs to one task, and task k reads those of tasks 1 ... k
    (Mallya & Lazebnik 2018, section 3).

    Train the free weights; of each layer keep the share `keep` with the largest |θ|; set the others to 0 and free;
    retrain the kept ones for `retrain` epochs. A weight that got no gradient, such as another task's head, stays free.
    Biases and norms are fixed after task 1. Frozen weights are put back after every step: momentum and weight decay
    move weights whose gradient is 0. About (1 − keep)^k of the weights are free after k tasks: it says when few are.
    No other method takes part while the kept weights are retrained.

    Memory: the kept weights, and a mask of one bit a weight and task. Task-IL only: the mask is chosen by the task id.
    """

    keep: float = 0.5
    retrain: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or self.retrain < 0:
            raise ValueError(
                f"PackNet needs 0 < keep ≤ 1 and retrain ≥ 0, not keep={self.keep}, retrain={self.retrain}."
            )
        self.owner_: Params = {}  # the task that owns each weight, counted from 1; 0 is free
        self.moves_: Params = {}  # which weights train now
        self.trained_: Params = {}  # which weights got a gradient in this task
        self.held_: Params = {}  # the values of those that do not move

    def check(self, learner: Learner) -> None:
        needs_task_id(self, learner)
        if learner.methods[-1] is not self:
            raise ValueError("PackNet must be the last of the methods, so that no other moves its frozen weights.")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in learner.net.modules()):
            raise ValueError("PackNet cannot freeze the running statistics of BatchNorm: use GroupNorm or no norm.")

    def before_task(self, learner: Learner, task: Task) -> None:
        if not self.owner_:
            self.owner_ = {n: torch.zeros_like(p, dtype=torch.int16) for n, p in learner.params.items()}
        if not (free := self.free):
            raise ValueError(
                f"PackNet has no free weight left for task {task.id}: take keep < {self.keep:g} or a wider network."
            )
        if free < 0.05:
            warnings.warn(
                f"PackNet begins task {task.id} with {free:.1%} of the weights free: it will learn little. "
                f"Take keep < {self.keep:g} or a wider network.",
                stacklevel=2,
            )
        self.trained_ = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in learner.params.items()}
        self.train_only(learner, 0)

    def train_only(self, learner: Learner, owner: int) -> None:
        self.moves_, self.held_ = {n: o == owner for n, o in self.owner_.items()}, snapshot(learner.params)

    @torch.no_grad()
    def after_step(self, learner: Learner, batch: Batch) -> None:
        for n, p in learner.params.items():
            p.copy_(torch.where(self.moves_[n], p, self.held_[n]))
            if p.grad is not None:
                self.trained_[n] |= p.grad != 0

    @torch.no_grad()
    def prune(self, learner: Learner) -> None:
        for n, p in learner.params.items():
            owner = self.owner_[n]
            mine = (owner == 0) & self.trained_[n]  # prune this task's weights only
            if p.ndim < 2:
                kept = owner == 0
            else:
                kept = largest(p.abs().masked_fill(~mine, -1.0), round(self.keep * int(mine.sum())))
            owner[kept] = learner.seen
            p[mine & ~kept] = 0

    def after_task(self, learner: Learner, task: Task) -> None:
        self.prune(learner)
        self.train_only(learner, learner.seen)
        everyone, learner.methods = learner.methods, [self]  # the others have finished with this task
        fit(learner, task, self.retrain)
        learner.methods = everyone
        self.moves_, self.trained_, self.held_ = {}, {}, {}

    def predict(self, learner: Learner, x: Tensor, t: Tensor) -> Tensor | None:
        if not self.owner_:
            return None

        def answer(x: Tensor, k: int) -> Tensor:
            mask = {n: (owner > 0) & (owner <= k + 1) for n, owner in self.owner_.items()}
            return learner.logits(x, t.new_full((len(x),), k), {n: p * mask[n] for n, p in learner.params.items()})

        return by_task(x, t, answer)

    @property
    def free(self) -> float:
        """The share of the weights, biases and norms aside, that no task owns yet."""
        weights = [owner for owner in self.owner_.values() if owner.ndim > 1]
        return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))

    def bill(self) -> list[Bill]:
        """Task k: the weights that it owns, 32 bits each, and its mask."""
        owners = list(self.owner_.values())
        tasks = range(1, 1 + max((int(o.max()) for o in owners), default=0))
        owned = [sum(int((o == k).sum()) for o in owners) for k in tasks]
        mask = sum(o.numel() for o in owners if o.ndim > 1)
        return [Bill(n, 32 * n + mask) for n in owned]


class Isolated(nn.Module, Method):
    """A network with a sub-network for each task. Abstract: a subclass says how it answers, by `answer(x, k)`."""

    def __init__(self, sizes: Sequence[int], seed: int):
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes needs an input and an output width of 1 or more, such as (64, 10), not {sizes}.")
        self.sizes, self.seed = tuple(sizes), seed

    def __repr__(self) -> str:
        arguments = {n: v for n, v in vars(self).items() if n[0] != "_" and n[-1] != "_" and n != "training"}
        return f"{type(self).__name__}({', '.join(f'{n}={v}' for n, v in arguments.items())})"

    def check(self, learner: Learner) -> None:
        hooks = ("loss", "edit_grads", "predict")
        for m in learner.methods:
            if m is not self and any(getattr(type(m), h) is not getattr(Method, h) for h in hooks):
                raise ValueError(
                    f"{type(self).__name__} never changes what an old task uses, so that {type(m).__name__} has "
                    "nothing to guard: leave it out, or take an MLP."
                )

    def rng(self, task: int) -> torch.Generator:
        """The same draws for the same seed and task, whatever happened before."""
        return torch.Generator().manual_seed(self.seed * 1000 + task)

    @property
    def newest(self) -> int:
        raise NotImplementedError

    def answer(self, x: Tensor, k: int) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Every row under its own task; a task that has not been met yet, and t=None, under the newest."""
        x, newest = x.flatten(1), self.newest
        return self.answer(x, newest) if t is None else by_task(x, t.clamp(max=newest), self.answer)


class Growing(Isolated):
    """A new part for every task, and all older ones frozen. Abstract: a subclass builds a part, by `grow(k)`."""

    def __init__(self, sizes: Sequence[int], seed: int):
        super().__init__(sizes, seed)
        self.parts = nn.ModuleList()

    def check(self, learner: Learner) -> None:
        needs_task_id(self, learner)
        super().check(learner)
        if len(self.parts) > 1:
            raise ValueError(f"This {type(self).__name__} has grown {len(self.parts)} parts already: build a new one.")

    def grow(self, k: int) -> nn.Module:
        raise NotImplementedError

    def extend(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1000 + len(self.parts))
            self.parts.append(self.grow(len(self.parts)))

    def before_task(self, learner: Learner, task: Task) -> None:
        if learner.seen > 1:  # the first part is there from the start
            self.requires_grad_(False)
            self.extend()
            self.parts[-1].to(next(self.parameters()))  # device and precision

    @property
    def newest(self) -> int:
        return len(self.parts) - 1

    def bill(self) -> list[Bill]:
        """Task k: its part; task 0 pays for what all share."""
        count = lambda module: sum(p.numel() for p in module.parameters())
        own = [count(part) for part in self.parts]
        own[0] += count(self) - sum(own)
        return [Bill(n, 32 * n) for n in own]


class Column(nn.Module):
    """W: layers 1 ... L of one column; U: laterals into layers 2 ... L from the k columns before it, side by side."""

    def __init__(self, sizes: Sequence[int], k: int):
        super().__init__()
        self.W = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.U = nn.ModuleList(nn.Linear(k * a, b, bias=False) for a, b in pairwise(sizes[1:]) if k)


class Progressive(Growing):
    """h_i^(k) = ReLU(W_i^(k) h_{i−1}^(k) + Σ_{j<k} U_i^(k:j) h_{i−1}^(j)): a column a task, which also reads the layers
    below in all older, frozen columns (Rusu et al. 2016, eq. 1).

    Laterals enter layers 2 ... L, the output included, never layer 1: the input is read by W alone. We take the plain
    laterals of eq. 1, without the adapters of eq. 2. Memory: column k has P + k·Σ_{l≥2} a_l·b_l floats for layers
    a_l → b_l, so that T tasks cost of the order of T². Task-IL only: the column is chosen by the task id.

    >>> Progressive((64, 30, 10)).bill()
    [Bill(parameters=2260, bits=72320)]
    """

    def __init__(self, sizes: Sequence[int] = (64, 100, 100, 10), seed: int = 0):
        super().__init__(sizes, seed)
        self.extend()

    def grow(self, k: int) -> Column:
        return Column(self.sizes, k)

    def answer(self, x: Tensor, k: int) -> Tensor:
        columns: list[Any] = list(self.parts[: k + 1])
        h = [x] * (k + 1)  # h[j]: the layer below in column j, (B, width)
        for i in range(len(self.sizes) - 1):
            h = [a.relu() for a in h] if i else h
            z = [column.W[i](h[j]) for j, column in enumerate(columns)]
            if i:
                z[1:] = [z[j] + columns[j].U[i - 1](torch.cat(h[:j], 1)) for j in range(1, k + 1)]
            h = z
        return h[k]


class Adapter(nn.Module):
    """h + U ReLU(D h), through a bottleneck. It starts as the identity: U = 0."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.D, self.U = nn.Linear(size, width), nn.Linear(width, size)
        nn.init.zeros_(self.U.weight)
        nn.init.zeros_(self.U.bias)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.U(self.D(h).relu())


class Adapters(Growing):
    """h_l ← a_l^(k)(ReLU(W_l h_{l−1})), a(h) = h + U ReLU(D h): one trunk W, frozen after task 1; for each task an
    adapter behind every hidden layer, and a head (Houlsby et al. 2019, section 2.1).

    What the trunk lost in task 1 no adapter brings back: for tasks that look alike, not for permuted pixels.
    Memory: Σ_l (2·w·d_l + d_l + w) floats a task for adapters of width w behind layers of width d_l, and its head.
    Task-IL only: the adapters are chosen by the task id.
    """

    def __init__(self, sizes: Sequence[int] = (64, 100, 100, 10), width: int = 8, seed: int = 0):
        super().__init__(sizes, seed)
        if width < 1 or len(sizes) < 3:
            raise ValueError(f"Adapters need width ≥ 1 and a hidden layer, not width={width}, sizes={tuple(sizes)}.")
        self.width = width
        self.extend()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[:-1]))

    def grow(self, k: int) -> nn.ModuleList:
        return nn.ModuleList(
            [*(Adapter(d, self.width) for d in self.sizes[1:-1]), nn.Linear(self.sizes[-2], self.sizes[-1])]
        )

    def answer(self, x: Tensor, k: int) -> Tensor:
        part: Any = self.parts[k]
        *adapters, head = part
        for layer, adapter in zip(self.trunk, adapters):
            x = adapter(layer(x).relu())
        return head(x)


class SupSup(Isolated):
    """f(x; W ⊙ M_k): random weights that are never trained, and a learnt binary mask M_k a task (Wortsman et al. 2020).

    W = ±√(2/(keep·fan_in)), random signs, no biases. Of each layer M keeps the share `keep` with the highest scores S;
    its gradient goes straight through to them, ∂L/∂S := ∂L/∂M. Where the task id is unknown it is inferred for each
    sample: mix the masks, W ⊙ Σ_k α_k M_k with α_k = 1/K, and take the one that lowers the entropy H of the output
    fastest, argmax_k −∂H/∂α_k (section 3.3, "one-shot"). Memory: one bit a weight and task; W is the seed.

    Task-IL; Domain-IL, where it infers; weak in Class-IL: a mask that has met two classes is sure of itself on all
    others too. At test time K forward passes and one backward pass, or one forward pass if the task is known.
    """

    def __init__(self, sizes: Sequence[int] = (64, 300, 300, 10), keep: float = 0.5, seed: int = 0):
        super().__init__(sizes, seed)
        if not 0 < keep < 1:
            raise ValueError(f"SupSup keeps a share of the weights: keep must lie in (0, 1), not {keep}.")
        self.keep = keep
        rng, shapes = self.rng(0), [(b, a) for a, b in pairwise(sizes)]
        signed = lambda shape: (2.0 * torch.randint(2, shape, generator=rng) - 1) * (2 / (keep * shape[1])) ** 0.5
        self.weights = nn.ParameterList(nn.Parameter(signed(shape), requires_grad=False) for shape in shapes)
        self.scores = nn.ParameterList(torch.rand(shape, generator=rng) / shape[1] ** 0.5 for shape in shapes)
        self.masks_: list[list[Tensor]] = []  # of the tasks that are done: a list a task, (out, in) bool a layer

    @torch.no_grad()
    def before_task(self, learner: Learner, task: Task) -> None:
        rng = self.rng(learner.seen)
        for s in self.scores:
            s.copy_(torch.rand(s.shape, generator=rng) / s.shape[1] ** 0.5)

    def after_task(self, learner: Learner, task: Task) -> None:
        self.masks_.append([self.select(s.detach()) for s in self.scores])

    def select(self, s: Tensor) -> Tensor:
        return largest(s, round(self.keep * s.numel()))

    @property
    def newest(self) -> int:
        return len(self.masks_)  # the task whose scores are being trained

    def answer(self, x: Tensor, k: int) -> Tensor:
        through = lambda s: self.select(s) + (s - s.detach())  # the value of M, the gradient of S
        masks = self.masks_[k] if k < len(self.masks_) else [through(s) for s in self.scores]
        return self.mixture(x, [masks], x.new_ones(len(x), 1))

    def mixture(self, x: Tensor, masks: Sequence[Sequence[Tensor]], alpha: Tensor) -> Tensor:
        """f(x; W ⊙ Σ_k α_k M_k), with weights alpha (B, K) for each sample: (B, C)."""
        for l, w in enumerate(self.weights):
            x = x.relu() if l else x
            x = torch.stack([alpha[:, k, None] * F.linear(x, w * m[l]) for k, m in enumerate(masks)]).sum(0)
        return x

    @torch.enable_grad()
    def infer(self, x: Tensor, units: Tensor | slice = slice(None)) -> Tensor:
        """argmax_k −∂H/∂α_k: the task of each sample, (B,). H is the entropy over the output units in use."""
        K = len(self.masks_)
        alpha = x.new_full((len(x), K), 1 / K).requires_grad_()
        log_p = self.mixture(x.flatten(1), self.masks_, alpha)[:, units].log_softmax(1)
        (slope,) = torch.autograd.grad(-(log_p.exp() * log_p).sum(), alpha)
        return slope.argmin(1)

    def predict(self, learner: Learner, x: Tensor, t: Tensor) -> Tensor | None:
        if learner.stream.task_known or not self.masks_:
            return None
        (units,) = learner.stream.heads(learner.seen)
        return self(x, self.infer(x, units.to(x.device)))

    def bill(self) -> list[Bill]:
        """Task k: a mask. The weights are drawn again from the seed."""
        return [Bill(0, sum(m.numel() for m in masks)) for masks in self.masks_]
