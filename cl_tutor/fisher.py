"""Fisher information of a classifier. Mathematics only: no tasks, no methods, no training.

The score of one sample is s(x, y) = ∇_θ log p(y|x; θ), and F(θ) = E_x E_{y~p(·|x;θ)}[s sᵀ]. The expectation over y is
under the *model's* distribution; the square is taken per sample, *before* any mean. Squaring the gradient of a batch
mean instead gives about 1/B of the right numbers, and nothing in the accuracy tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap

from .vectors import Params, flat, unflat

LogProb = Callable[..., Tensor]  # (params, *one sample) -> log p(·|x): (C,)

LABELS = ("exact", "sample", "empirical")


@torch.no_grad()  # `grad` does not mind, and parameters left out of `params` stay out of the graph
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
    return {n: f / _some(count) for n, f in total.items()}


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


@torch.no_grad()
def fisher_product(
    log_prob: LogProb,
    params: Params,
    batches: Iterable[tuple[Tensor, ...]],
    labels: str = "exact",
    rng: torch.Generator | None = None,
) -> Callable[[Tensor], Tensor]:
    """V ↦ F V for columns V (P, k), without forming F: F V = 1/N Σ_n J_nᵀ diag(w_n) J_n V.

    J_n (C, P) is the Jacobian of log p(·|x_n), one score a row; w_n (C,) is p(·|x_n) for exact labels, else one-hot.
    (With logits z this is J_zᵀ(diag p − p pᵀ)J_z, the generalised Gauss-Newton product of Schraudolph 2002.)
    Arguments as in `fisher_diagonal`; sampled labels are drawn once, so that two equal products are equal.
    Memory: N·C floats, and k·P for the result.
    """
    check_labels(labels)
    params = {n: p.detach() for n, p in params.items()}
    parts = []
    for x, y, *rest in batches:
        every = vmap(log_prob, in_dims=(None, 0, *(0 for _ in rest)))
        outputs = lambda p, every=every, x=x, rest=rest: every(p, x, *rest)  # θ -> (B, C)
        weights = torch.zeros_like(prob := outputs(params).exp())
        for target, weight in _targets(prob, y, labels, rng):
            weights.scatter_add_(1, target[:, None], weight[:, None])
        parts.append((outputs, weights))
    count = _some(sum(len(weights) for _, weights in parts))

    @torch.no_grad()
    def product(V: Tensor) -> Tensor:
        total = torch.zeros_like(V)
        for outputs, weights in parts:
            transposed = vjp(outputs, params)[1]  # u (B, C) -> Jᵀu
            forward = lambda v, outputs=outputs: jvp(outputs, (params,), (unflat(v, params),))[1]  # v -> Jv
            one = lambda v, J=forward, JT=transposed, w=weights: flat(JT(w * J(v))[0])
            total += vmap(one, in_dims=1, out_dims=1)(V)
        return total / count

    return product


def top_eigenpairs(
    product: Callable[[Tensor], Tensor], start: Tensor, k: int, tol: float = 1e-3, steps: int = 100
) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues (k,), falling, and eigenvectors (P, k) of a symmetric operator: subspace iteration.

    Repeat Q ← orthonormal basis of F Q, and solve the small problem QᵀFQ (Rayleigh-Ritz). `start` (P, b) is any block
    with b ≥ k columns; some columns more than k speed it up, and b = P is exact at once. Stops when every residual
    ‖F v − λ v‖, which bounds the error of λ, is at most tol·λ₁, and warns when `steps` were not enough. The sign of a
    vector means nothing, nor does one vector among nearly equal eigenvalues: only their span. Memory: 3bP floats.
    """
    if not 0 <= k <= start.shape[1]:
        raise ValueError(f"k = {k} eigenpairs need a start of k columns or more, but it has {start.shape[1]}.")
    if k == 0:
        return start.new_zeros(0), start[:, :0]
    basis = torch.linalg.qr(start)[0]
    for _ in range(steps):
        image = product(basis)
        small, turn = torch.linalg.eigh(basis.T @ image)
        values, turn = small.flip(0)[:k], turn.flip(1)[:, :k]
        vectors = basis @ turn
        residual = (image @ turn - vectors * values).norm(dim=0)
        if residual.max() <= tol * values[0]:
            break
        basis = torch.linalg.qr(image)[0]
    else:
        reached = f"{residual.max() / values[0]:.1g}·λ₁, not {tol:g}·λ₁"
        warnings.warn(f"After {steps} steps of subspace iteration the residual is {reached}.", stacklevel=2)
    return values, vectors


class Kronecker(NamedTuple):
    """The Fisher of one linear layer as A ⊗ S: all of it that K-FAC keeps."""

    A: Tensor  # (in + 1, in + 1) E[a aᵀ], a the layer's input with a 1 for the bias; (in, in) without bias
    S: Tensor  # (out, out)       E[g gᵀ], g the gradient of log p(y|x) with respect to the layer's output


def kfac(
    net: nn.Module,
    log_prob: Callable[..., Tensor],  # (x, further columns) -> log p(·|x) of a batch: (B, C)
    batches: Iterable[tuple[Tensor, ...]],
    labels: str = "exact",
    rng: torch.Generator | None = None,
) -> dict[str, Kronecker]:
    """F_layer = E[a aᵀ ⊗ g gᵀ] ≈ E[a aᵀ] ⊗ E[g gᵀ] for every linear layer, by its name (Martens & Grosse 2015, eq. 1).

    Exact where a aᵀ and g gᵀ are uncorrelated over the samples: with one sample; or where p(·|x) is the same for all x
    in a single layer. Layers that see one vector a sample only. Memory: Σ (in + 1)² + out² floats.
    """
    check_labels(labels)
    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear) and m.weight.requires_grad}
    seen: dict[str, tuple[Tensor, Tensor]] = {}  # layer -> its input and output in the last pass

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if inputs[0].ndim != 2 or name in seen:
                raise ValueError(f"K-FAC needs one input vector a sample, but layer {name!r} sees more than one.")
            seen[name] = (inputs[0].detach(), output)
            return output.clone()  # an in-place ReLU that follows must not reach what we keep

        return hook

    handles = [layer.register_forward_hook(watch(n)) for n, layer in layers.items()]
    sums: dict[str, Kronecker] = {}
    count = 0
    try:
        for x, y, *rest in batches:
            count += len(x)
            seen.clear()
            logp = log_prob(x, *rest)
            inputs, outputs = zip(*(seen[n] for n in layers)) if layers else ((), ())
            S = [z.new_zeros(z.shape[1], z.shape[1]) for z in outputs]
            for target, weight in _targets(logp.detach().exp(), y, labels, rng):
                picked = logp.gather(1, target[:, None]).sum()
                for total, g in zip(S, torch.autograd.grad(picked, outputs, retain_graph=True)):
                    total += torch.einsum("b,bi,bj->ij", weight, g, g)
            for (n, layer), a, total in zip(layers.items(), inputs, S):
                a = a if layer.bias is None else torch.cat([a, a.new_ones(len(a), 1)], 1)
                new = Kronecker(a.T @ a, total)
                sums[n] = Kronecker(*(old + part for old, part in zip(sums[n], new))) if n in sums else new
    finally:
        for handle in handles:
            handle.remove()
    return {n: Kronecker(*(part / _some(count) for part in factors)) for n, factors in sums.items()}


def _some(count: int) -> int:
    if not count:
        raise ValueError("The Fisher is a mean over samples, and there is none: pass at least one batch.")
    return count
