"""Wells that are not aligned with the axes: EWC with more of the Fisher than its diagonal.

½ (θ − θ*)ᵀ F (θ − θ*) with the full F would need P² floats. Its top eigenvectors, or one Kronecker product a layer,
are what fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..fisher import Kronecker, check_labels, fisher_diagonal, fisher_product, kfac, top_eigenpairs
from ..learn import Learner
from ..streams import Task
from ..vectors import Params, flat, unflat
from .regularization import Anchored, check_samples, draw, log_prob, quadratic, snapshot


class Axes(NamedTuple):
    """F ≈ V diag(λ) Vᵀ + diag(rest)."""

    anchor: Params  # θ*
    values: Tensor  # (k,)
    vectors: Tensor  # (P, k), orthonormal columns
    rest: Params  # what the k axes leave of the diagonal; empty if it is not kept


class Layers(NamedTuple):
    """F ≈ A ⊗ S for each linear layer, and diag(rest) for all other parameters."""

    anchor: Params  # θ*
    factors: dict[str, Kronecker]  # by the layer's name
    rest: Params


@dataclass
class SubspaceEWC(Anchored):
    """λ Σ_tasks ½ [Σ_j≤k λ_j (v_jᵀδ)² + Σ_i r_i δ_i²], δ = θ − θ*: EWC along the k steepest directions of the Fisher.

    (λ_j, v_j) are the top eigenpairs of F, and r = diag(F − Σ_j λ_j v_j v_jᵀ) ≥ 0 is the diagonal of what they leave
    (`remainder=False` drops it). k = 0 is EWC; k = P is EWC with the full Fisher: with one old task, the Laplace
    approximation with F for the Hessian (MacKay 1992; Kirkpatrick et al. 2017 take its diagonal). Weights may
    still move together along directions that a diagonal, blind to correlations, would forbid.

    Suits Task-IL and Domain-IL; nothing at test time. Memory: kP + k + P floats a task, and P for the remainder.
    """

    k: int = 20
    remainder: bool = True
    labels: str = "exact"
    samples: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 0 or (self.k == 0 and not self.remainder):
            raise ValueError(f"k must be 0 or more, and without the remainder 1 or more, not {self.k}.")
        check_labels(self.labels)
        check_samples(self.samples)

    def check(self, learner: Learner) -> None:
        size = flat(learner.params).numel()
        if self.k > size:
            raise ValueError(f"k = {self.k} directions, but the network has only {size} parameters: take k ≤ {size}.")

    def well(self, learner: Learner, task: Task) -> Axes:
        rng = torch.Generator().manual_seed(self.seed)
        anchor, batches = snapshot(learner.params), list(draw(learner, task, self.samples, rng))
        labels = rng.get_state()  # the same labels for the eigenpairs and for the diagonal
        F = fisher_product(log_prob(learner), anchor, batches, self.labels, rng)
        theta = flat(anchor)
        start = torch.randn(len(theta), min(self.k + 10, len(theta)), generator=rng).to(theta)
        values, vectors = top_eigenpairs(F, start, self.k)
        rest: Params = {}
        if self.remainder:
            diagonal = fisher_diagonal(log_prob(learner), anchor, batches, self.labels, rng.set_state(labels))
            rest = unflat((flat(diagonal) - vectors.square() @ values).clamp(min=0), anchor)
        return Axes(anchor, values, vectors, rest)

    def energy(self, params: Params, well: Axes) -> Tensor:
        delta = flat({n: params[n] - anchor for n, anchor in well.anchor.items()})
        along = 0.5 * (well.values * (well.vectors.T @ delta).square()).sum()
        return along + quadratic(params, well.anchor, well.rest) if well.rest else along

    def max_omega(self) -> float:
        """Of the steepest single well: with several, no more than a lower bound of the whole."""
        return max(float(v.max()) for w in self.wells_ for v in (w.values, *w.rest.values()) if v.numel())


@dataclass
class KFACEWC(Anchored):
    """λ Σ_tasks ½ Σ_layers tr(S Δ A Δᵀ), Δ = [W − W*, b − b*]: EWC with correlations inside each linear layer
    (Ritter, Botev & Barber 2018, with the K-FAC of Martens & Grosse 2015).

    A = E[a aᵀ] of the layer's inputs and S = E[g gᵀ] of the gradients at its outputs: F_layer ≈ A ⊗ S, see `kfac`.
    Parameters outside linear layers (convolutions) keep the diagonal of their Fisher.

    Suits Task-IL and Domain-IL; nothing at test time. Memory a task: P floats for the anchor, (in + 1)² + out² for each
    linear layer, and one for each other parameter.
    """

    labels: str = "exact"
    samples: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels)
        check_samples(self.samples)

    def well(self, learner: Learner, task: Task) -> Layers:
        rng = torch.Generator().manual_seed(self.seed)
        anchor, batches = snapshot(learner.params), list(draw(learner, task, self.samples, rng))
        scores = lambda x, t: learner.mask(learner.logits(x, t), t).log_softmax(1)
        factors = kfac(learner.net, scores, batches, self.labels, rng)
        linear = {f"{layer}.{part}" for layer in factors for part in ("weight", "bias")}
        others = {n: p for n, p in anchor.items() if n not in linear}
        rest = fisher_diagonal(log_prob(learner), others, batches, self.labels, rng) if others else {}
        return Layers(anchor, factors, rest)

    def energy(self, params: Params, well: Layers) -> Tensor:
        delta = {n: params[n] - anchor for n, anchor in well.anchor.items()}
        parts = [quadratic(params, well.anchor, well.rest)] if well.rest else []
        parts += [factors.energy(delta, layer) for layer, factors in well.factors.items()]
        return torch.stack(parts).sum()

    def max_omega(self) -> float:
        """Of the steepest layer of a single well: with several, no more than a lower bound of the whole."""
        top = lambda M: float(torch.linalg.eigvalsh(M)[-1])
        layers = [top(A) * top(S) for well in self.wells_ for A, S in well.factors.values()]
        return max([*layers, *(float(f.max()) for well in self.wells_ for f in well.rest.values())])
