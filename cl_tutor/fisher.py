"""Fisher information of a classifier. Mathematics only: no tasks, no methods, no training.

The score of one sample is s(x, y) = ∇_θ log p(y|x; θ), and F(θ) = E_x E_{y~p(·|x;θ)}[s sᵀ]. The expectation over y is
under the *model's* distribution; the square is taken per sample, *before* any mean. Squaring the gradient of a batch
mean instead gives about 1/B of the right numbers, and nothing in the accuracy tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.func import grad, vmap

Params = dict[str, Tensor]
LogProb = Callable[..., Tensor]  # (params, *one sample) -> log p(·|x): (C,)

LABELS = ("exact", "sample", "empirical")


def fisher_diagonal(
    log_prob: LogProb,
    params: Params,
    batches: Iterable[tuple[Tensor, ...]],  # (x (B, ...), y (B,), further columns of the sample (B, ...))
    labels: str = "exact",
    rng: torch.Generator | None = None,
) -> Params:
    """diag F = 1/N Σ_n E_y[(∂ log p(y|x_n)/∂θ)²], in the units of 1/θ² (Kirkpatrick et al. 2017; Kunstner et al. 2019).

    labels="exact": y over all classes, weighted by p(y|x_n): no variance, one gradient a class.
    labels="sample": one y drawn from p(·|x_n) with `rng`: unbiased.
    labels="empirical": the y of the data set. Not the Fisher: it vanishes where the fit is perfect.

    `log_prob(params, x, *further)` sees one sample without a batch axis. Memory: B·P floats for batches of B.
    """
    check_labels(labels)
    params = {n: p.detach() for n, p in params.items()}
    picked = lambda p, y, x, *rest: log_prob(p, x, *rest).gather(0, y[None])[0]
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    count = 0
    for x, y, *rest in batches:
        count += len(x)
        score = vmap(grad(picked), in_dims=(None, 0, 0, *(0 for _ in rest)))
        prob = vmap(log_prob, in_dims=(None, 0, *(0 for _ in rest)))(params, x, *rest).exp()  # (B, C)
        for target, weight in _targets(prob, y, labels, rng):
            for n, s in score(params, target, x, *rest).items():
                total[n] += torch.einsum("b,b...->...", weight, s.square())
    if not count:
        raise ValueError("The Fisher is a mean over samples, and there is none: pass at least one batch.")
    return {n: f / count for n, f in total.items()}


def _targets(prob: Tensor, y: Tensor, labels: str, rng: torch.Generator | None) -> Iterable[tuple[Tensor, Tensor]]:
    """Pairs of labels (B,) and their weights (B,): the expectation over y as a short sum."""
    one = prob.new_ones(len(prob))
    if labels == "empirical":
        return [(y, one)]
    if labels == "sample":
        drawn = torch.multinomial(prob.cpu(), 1, generator=rng)[:, 0]
        return [(drawn.to(prob.device), one)]
    possible = prob.sum(0).nonzero()[:, 0]  # units that do not compete have probability 0
    return [(c.expand(len(prob)), prob[:, c]) for c in possible]


def check_labels(labels: str) -> None:
    if labels not in LABELS:
        raise ValueError(f"labels must be 'exact', 'sample' or 'empirical', not {labels!r}.")
