"""Fisher information of a classifier. Mathematics only: no tasks, no methods, no training.

The score of one sample is s(x, y) = ∇_θ log p(y|x; θ), and F(θ) = E_x E_{y~p(·|x;θ)}[s sᵀ]. The expectation over y is
under the *model's* distribution; the square is taken per sample, *before* any mean. Squaring the gradient of a batch
mean instead gives about 1/B of the right numbers, and nothing in the accuracy tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from .factors import LABELS as LABELS  # found here as well
from .factors import Batches, Kronecker, check_labels, one_label, samples_alone, some
from .factors import kfac as kfac
from .vectors import Params, flat, unflat

LogProb = Callable[..., Tensor]  # (params, *one sample) -> log p(·|x): (C,)


@torch.no_grad()  # `grad` does not mind, and parameters left out of `params` stay out of the graph
def fisher_diagonal(
    log_prob: LogProb,
    params: Params,
    batches: Batches,
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
        with samples_alone():
            prob = vmap(log_prob, in_dims=(None, 0, *(0 for _ in rest)))(params, x, *rest).exp()  # (B, C)
        for target, weight in _targets(prob, y, labels, rng):
            for n, s in score(params, target, x, *rest).items():
                total[n] += torch.einsum("b,b...->...", weight, s.square())
    return {n: f / some(count) for n, f in total.items()}


def _targets(prob: Tensor, y: Tensor, labels: str, rng: torch.Generator | None) -> Iterable[tuple[Tensor, Tensor]]:
    """Pairs of labels (B,) and their weights (B,): the expectation over y as a short sum."""
    if labels != "exact":
        return [(one_label(prob, y, labels, rng), prob.new_ones(len(prob)))]
    possible = prob.sum(0).nonzero()[:, 0]  # units that do not compete have probability 0
    return [(c.expand(len(prob)), prob[:, c]) for c in possible]


@torch.no_grad()
def fisher_product(
    log_prob: LogProb,
    params: Params,
    batches: Batches,
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
        with samples_alone():
            prob = outputs(params).exp()
        weights = torch.zeros_like(prob)
        for target, weight in _targets(prob, y, labels, rng):
            weights.scatter_add_(1, target[:, None], weight[:, None])
        parts.append((outputs, weights))
    count = some(sum(len(weights) for _, weights in parts))

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
    _at_least_one(steps)
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


def top_by_lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, k: int, tol: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The same pairs by Lanczos' iteration from one vector `start` (P,), with ARPACK's hands.

    It searches all of span{s, Fs, F²s, ...}, where the power iteration keeps only the last: fewest products of all.
    Memory: max(2k + 1, 20)·P doubles.
    """
    if not 0 < k < len(start):
        raise ValueError(f"k must lie between 1 and {len(start) - 1}, one less than the parameters, not {k}.")
    through = lambda v: product(torch.as_tensor(v).to(start).view(-1, 1))[:, 0].cpu().double().numpy()
    F = LinearOperator((len(start), len(start)), matvec=through, dtype=np.float64)
    values, vectors = eigsh(F, k, v0=start.cpu().double().numpy(), tol=tol)
    return torch.as_tensor(values[::-1].copy()).to(start), torch.as_tensor(vectors[:, ::-1].copy()).to(start)


def power_iteration(
    product: Callable[[Tensor], Tensor], start: Tensor, found: Tensor | None = None, tol: float = 1e-3, steps: int = 100
) -> tuple[Tensor, Tensor, list[tuple[float, float]]]:
    """One eigenvalue, its vector (P,), and after each step (Rayleigh quotient vᵀFv, residual ‖Fv − vᵀFv v‖).

    v ← Fv/‖Fv‖ turns to the steepest direction, its error shrinking by λ₂/λ₁ a step. Deflation gives the next: `found`
    (P, j) are orthonormal eigenvectors whose share is taken out of every Fv. A lesson: where eigenvalues are close it
    crawls, and a pair inherits the errors of those before. Stops when the residual is at most tol·vᵀFv.
    """
    _at_least_one(steps)
    found = start.new_zeros(len(start), 0) if found is None else found
    deflate = lambda v: v - found @ (found.T @ v)
    v, history = deflate(start), []
    for _ in range(steps):
        v = v / v.norm()
        image = deflate(product(v[:, None])[:, 0])
        value = v @ image
        residual = (image - value * v).norm()
        history.append((float(value), float(residual)))
        if residual <= tol * value:
            break
        v = image
    return value, v / v.norm(), history


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}.")


def predictions(
    delta: Params,
    product: Callable[[Tensor], Tensor],
    diagonal: Params,
    pairs: tuple[Tensor, Tensor],  # eigenvalues (k,) and eigenvectors (P, k)
    layers: Mapping[str, Kronecker],
) -> dict[str, float]:
    """½ δᵀFδ, the rise of the old loss to second order in δ = θ − θ*, with all of F and with what a method keeps.

    Exact F only, and at a minimum: there it is the loss's Gauss-Newton curvature. Parameters that are in none of the
    `layers` of "K-FAC" count with their diagonal.
    """
    v, (values, vectors) = flat(delta), pairs
    by_diagonal = {n: float(0.5 * (diagonal[n] * d.square()).sum()) for n, d in delta.items()}
    kronecker = sum(float(factors.energy(delta, layer)) for layer, factors in layers.items())
    outside = sum(value for n, value in by_diagonal.items() if n.rpartition(".")[0] not in layers)
    return {
        "full": float(0.5 * v @ product(v[:, None])[:, 0]),
        "diagonal": sum(by_diagonal.values()),
        f"top {len(values)}": float(0.5 * values @ (vectors.T @ v).square()),
        "K-FAC": kronecker + outside,
    }


def layer_mass(vectors: Tensor, params: Params) -> dict[str, float]:
    """Σ_k v_kᵀ P_ℓ v_k for each layer ℓ, P_ℓ the projection on its parameters: the sum is k for unit vectors (P, k)."""
    mass: dict[str, float] = {}
    for n, piece in zip(params, vectors.split([p.numel() for p in params.values()])):
        layer = n.rpartition(".")[0]
        mass[layer] = mass.get(layer, 0.0) + float(piece.square().sum())
    return mass


def participation_ratio(values: Tensor) -> float:
    """(Σλ)²/Σλ² = tr²/‖F‖²_F of the whole spectrum: how many directions, if all that count were equally steep."""
    return float(values.sum() ** 2 / values.square().sum())


def stable_rank(values: Tensor) -> float:
    """Σλ/λ₁ = tr/λ₁ of the whole spectrum: how many directions as steep as the steepest would have its trace. (The
    stable rank of G, where F = GᵀG/N.)"""
    return float(values.sum() / values.max())


def overlap(V: Tensor, W: Tensor) -> float:
    """‖VᵀW‖²_F/k of two subspaces with orthonormal bases (P, k): 1 if they are the same, k/P on average if random."""
    return float((V.T @ W).square().sum() / V.shape[1])
