"""Meta-learning: learn in such a way, or learn such features, that later learning disturbs less. MER and OML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..learn import Learner, Method, finite
from ..streams import Batch, Task
from ..vectors import Params
from .memory import Reservoir
from .regularization import snapshot

Pair = tuple[Tensor, Tensor]  # inputs and labels


@torch.no_grad()
def reptile(params: Params, start: Params, rate: float) -> None:
    """θ ← θ_0 + rate·(θ − θ_0), exact at rate 0 and 1 (Nichol et al. 2018, algorithm 1)."""
    for n, p in params.items():
        p.copy_(torch.lerp(start[n], p, rate))


@dataclass
class MER(Method):
    """Reptile over replay (Riemer et al. 2019, algorithm 1). For every batch B of the stream, from θ^A:

        for s trajectories, each from its own θ^W:  one step on B, then k − 1 steps, each on `size` rows of memory
            θ ← θ^W + β(θ − θ^W)        within a trajectory
        θ ← θ^A + γ(θ − θ^A)            across trajectories

    Why: k steps of size α move θ, on average over their order, by −α Σ_i g_i + α²/2 Σ_{i<j} ∇(g_i·g_j) + O(α³). The
    second term leads to weights at which the gradients of old and new samples point the same way (eq. 6). Steps with a
    large α, of which only the share γ is kept, give it more weight than small steps would. β = γ = 1: the plain steps.

    The loop's own step is the first of the first trajectory; terms of other methods enter there alone. The paper steps
    on one sample at a time, here on mini-batches; s·k gradients a batch. Plain SGD: momentum would carry over a pull
    back. All scenarios. Keeps raw samples: slots × (input + 2) numbers; needs nothing at test time.
    """

    slots: int = 200
    size: int = 32
    trajectories: int = 1  # s
    steps: int = 3  # k
    beta: float = 1.0
    gamma: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size, self.trajectories, self.steps) < 1:
            raise ValueError(
                "MER needs size, trajectories and steps of 1 or more, "
                f"not size={self.size}, trajectories={self.trajectories}, steps={self.steps}."
            )
        if not (0 <= self.beta <= 1 and 0 <= self.gamma <= 1):
            raise ValueError(f"beta and gamma must lie in [0, 1], not beta={self.beta}, gamma={self.gamma}.")
        self.memory_ = Reservoir(self.slots, self.seed)
        self.across_: Params = {}  # θ^A

    def edit_grads(self, learner: Learner, batch: Batch) -> None:
        """Leaves the gradient as it is; remembers where the loop's step starts."""
        self.across_ = snapshot(learner.params)

    def after_step(self, learner: Learner, batch: Batch) -> None:
        within = self.across_
        for i in range(self.trajectories):
            if i:  # the loop itself took the first step of the first trajectory
                within = snapshot(learner.params)
                step(learner, batch)
            for _ in range(self.steps - 1 if len(self.memory_) else 0):
                step(learner, Batch(*self.memory_.sample(self.size)))
            reptile(learner.params, within, self.beta)
        reptile(learner.params, self.across_, self.gamma)
        self.memory_.add(*batch)
        self.across_ = {}


def step(learner: Learner, batch: Batch) -> None:
    """One more step of the loop's optimiser."""
    learner.opt.zero_grad()
    learner.loss(batch).backward()
    learner.opt.step()


# ---------------------------------------------------------------------------------------------------------------- OML

Net = Callable[[Params, Tensor], Tensor]  # (parameters, inputs) -> outputs


def online(g: Net, W: Params, h: Tensor, y: Tensor, lr: float) -> Params:
    """U(W; S): one SGD step on each sample (h_j, y_j) in turn, W ← W − α ∇_W ℓ(g_W(h_j), y_j). Differentiable."""
    loss = lambda W, h, y: F.cross_entropy(g(W, h[None]), y[None])
    for h_j, y_j in zip(h, y):
        slope = grad(loss)(W, h_j, y_j)
        W = {n: w - lr * slope[n] for n, w in W.items()}
    return W


def oml_loss(phi: Net, g: Net, theta: Params, W: Params, walk: Pair, rest: Pair, lr: float) -> Tensor:
    """OML(θ, W) = ℓ(g_{U(W; φ_θ(walk))}(φ_θ(x)), y) over (x, y) in rest: how well everything is answered *after* W has
    learnt the walk online, one correlated sample after another, while θ stood still (Javed & White 2019, eq. 4)."""
    learnt = online(g, W, phi(theta, walk[0]), walk[1], lr)
    return F.cross_entropy(g(learnt, phi(theta, rest[0])), rest[1])


def walks(
    x: Tensor, y: Tensor, count: int, batch: int = 16, classes: int = 5, shots: int = 5, seed: int = 0
) -> Iterator[tuple[Pair, Pair]]:
    """`count` times a batch of (walk, rest): x (E, N, ...) and y (E, N) with E = batch and N = classes·shots.

    A walk is a few classes, one after another; the rest are as many other samples of the same ones. The classes are
    drawn anew for each walk and called 0, 1 ..., so that no output unit can belong to one of them.
    """
    rng, pools = torch.Generator().manual_seed(seed), [(y == c).nonzero()[:, 0] for c in y.unique()]
    if len(pools) < classes or min(map(len, pools)) < 2 * shots:
        raise ValueError(f"Walks over {classes} classes need as many, each of at least 2·shots = {2 * shots} samples.")
    some = lambda items, n: [items[i] for i in torch.randperm(len(items), generator=rng)[:n]]
    labels = torch.arange(classes, device=y.device).repeat_interleave(shots).expand(batch, -1)
    for _ in range(count):
        rows = torch.stack(
            [torch.stack([torch.stack(some(c, 2 * shots)) for c in some(pools, classes)]) for _ in range(batch)]
        )
        walk, rest = (rows[:, :, part].flatten(1) for part in (slice(shots), slice(shots, None)))
        yield (x[walk], labels), (x[rest], labels)


def meta_train(
    net: nn.Module,
    episodes: Iterable[tuple[Pair, Pair]],
    prediction: str = "head",
    inner: float = 0.1,
    outer: float = 5e-3,
) -> list[float]:
    """θ ← θ − β ∇_θ E[OML(θ, W)], W = 0, by Adam: learn features on which online learning does not interfere.

    `net` needs features(x); `prediction` names its last layer g_W, which must be linear and is left at 0. `episodes`
    are batches of walks, as from `walks`. `inner` is α, `outer` is β. Returns the meta-loss of each step.
    """
    phi, g = Features(net), last_layer(net, prediction)
    theta = {n: p for n, p in phi.named_parameters() if not n.startswith(f"net.{prediction}.")}
    W = {n: torch.zeros_like(p) for n, p in g.named_parameters()}
    one = partial(oml_loss, partial(functional_call, phi), partial(functional_call, g), theta, W, lr=inner)
    opt, losses = torch.optim.Adam(theta.values(), outer), []
    for walk, rest in episodes:
        loss = vmap(one)(walk, rest).mean()
        losses.append(finite(loss))
        opt.zero_grad()
        loss.backward()
        opt.step()
    g.load_state_dict(W)
    return losses


class Features(nn.Module):
    """φ as a module: forward is `net.features`."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.features(x)


def last_layer(net: nn.Module, name: str) -> nn.Linear:
    layers = {n: module for n, module in net.named_modules() if isinstance(module, nn.Linear)}
    if name not in layers:
        names = ", ".join(layers)
        raise ValueError(f"There is no linear layer {name!r} to learn online: prediction is one of {names}.")
    return layers[name]


@dataclass
class OML(Method):
    """W ← W − α ∇_W ℓ(g_W(φ_θ(x)), y): the prediction network g_W learns online, the representation φ_θ stands still
    (Javed & White 2019, figure 1). `meta_train` has trained θ before the stream begins.

    All scenarios. Stores no sample, and needs nothing at test time.
    """

    prediction: str = "head"

    def check(self, learner: Learner) -> None:
        last_layer(learner.net, self.prediction)

    def before_task(self, learner: Learner, task: Task) -> None:
        for n, p in learner.net.named_parameters():
            p.requires_grad_(n.startswith(f"{self.prediction}."))
