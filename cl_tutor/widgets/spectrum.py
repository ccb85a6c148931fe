"""The spectrum of a Fisher matrix: what its k steepest directions hold, where they live, and what they foretell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import traitlets
from torch import Tensor

from .. import plots
from ..fisher import layer_mass
from ..scores import Scores
from ..vectors import flat
from .island import Island, module


class Spectrum(Island):
    """The K steepest directions of F, falling, and a small power iteration with the gap λ₂/λ₁ at hand.

    `values` λ_k; `trace` tr F; `mass` {layer: v_kᵀP_ℓv_k for each k}, which add up to 1 over the layers; `moved`
    (v_k·δ)² of a movement δ = θ − θ*, with `rises` {name: rise of the old loss}, to set beside ½ Σ λ_k (v_k·δ)².

    >>> Spectrum([4.0, 1.0], 10.0, {"fc1": [0.5, 0.2], "fc2": [0.5, 0.8]}, k=2).share
    0.5
    """

    _esm = module("spectrum.js")
    values: traitlets.List = traitlets.List().tag(sync=True)
    moved: traitlets.List = traitlets.List().tag(sync=True)
    mass, rises = (traitlets.Dict().tag(sync=True) for _ in range(2))
    trace, gap = traitlets.Float().tag(sync=True), traitlets.Float(0.8).tag(sync=True)
    k, steps = traitlets.Int().tag(sync=True), traitlets.Int(0).tag(sync=True)

    def __init__(
        self, values: Sequence[float], trace: float, mass: Mapping[str, Sequence[float]],
        moved: Sequence[float] = (), rises: Mapping[str, float] | None = None, *, k: int | None = None,
    ) -> None:  # fmt: skip
        lam, shares = np.asarray(values, float), {n: np.asarray(m, float) for n, m in mass.items()}
        if lam.ndim != 1 or len(lam) < 2 or not (np.diff(lam) <= 0).all() or not lam[-1] >= 0:
            raise ValueError("values must be two eigenvalues or more, falling, none below 0: those of Scores.top(k).")
        if not lam.sum() <= trace * (1 + 1e-4):
            raise ValueError(
                f"trace must be that of all of F: {trace:g} is less than the sum of values, {lam.sum():g}."
            )
        for name, row in {**shares, **({"moved": np.asarray(moved, float)} if len(moved) else {})}.items():
            if row.shape != lam.shape:
                raise ValueError(f"{name!r} needs one number for each of the {len(lam)} values, not {row.shape}.")
        if not shares or not np.allclose(sum(shares.values()), 1, atol=1e-3):
            raise ValueError("mass must add up to 1 over the layers, for each direction: that of a unit vector.")
        if rises and not len(moved):
            raise ValueError("rises stand beside what moved foretells: give moved, (v_k·δ)² for each value, as well.")
        k = min(5, len(lam)) if k is None else k
        if not 1 <= k <= len(lam):
            raise ValueError(f"k must lie between 1 and {len(lam)}, the number of values, not {k}.")
        super().__init__(
            values=lam.tolist(), trace=float(trace), mass={n: row.tolist() for n, row in shares.items()},
            moved=[float(m) for m in moved], rises={n: float(r) for n, r in (rises or {}).items()}, k=k,
        )  # fmt: skip

    @classmethod
    def of(cls, scores: Scores, K: int = 50, delta: Tensor | None = None, rise: float | None = None) -> Spectrum:
        """From the scores of a network; `delta` (P,), from `flat`, is where it went, `rise` what that cost."""
        values, V = scores.top(K)
        masses = [layer_mass(v[:, None], scores.params) for v in V.T]
        mass = {layer: [m[layer] for m in masses] for layer in masses[0]}
        if delta is None:
            return cls(values.tolist(), scores.trace(), mass)
        d = delta[:, None]
        rises = {"all of F": float((d * scores.product(d)).sum() / 2),
                 "its diagonal": float(flat(scores.diagonal()) @ delta.square() / 2)}  # fmt: skip
        rises |= {} if rise is None else {"true rise": rise}
        return cls(values.tolist(), scores.trace(), mass, (V.T @ delta).square().tolist(), rises)

    @property
    def share(self) -> float:
        """Σ_{j ≤ k} λ_j / tr F."""
        return sum(self.values[: self.k]) / self.trace

    @property
    def foretold(self) -> float:
        """½ Σ_{j ≤ k} λ_j (v_j·δ)²."""
        return 0.5 * float(np.dot(self.values[: self.k], self.moved[: self.k]))

    def picture(self) -> plots.Picture:
        lam, count = np.array(self.values), np.arange(1, len(self.values) + 1)
        series = {
            "eigenvalue over the first": (count, lam / lam[0]),
            "share of the trace": (count, lam.cumsum() / self.trace),
        }
        drawn = plots.lines(
            series, "direction", "share", "The Fisher spectrum", logx=True, marks={self.k: f"k = {self.k}"}
        )
        where = ", ".join(f"{layer} {np.mean(m[: self.k]):.2f}" for layer, m in self.mass.items())
        alt = (
            f"The spectrum of a Fisher: of {len(lam)} eigenvalues, from {lam[0]:.3g} down to {lam[-1]:.3g}, the first "
            f"{self.k} hold {self.share:.2f} of the trace {self.trace:.3g}. Their mass by layer: {where}."
        )
        if self.moved:
            beside = ", ".join(f"{name} {rise:.3g}" for name, rise in self.rises.items())
            alt += f" They foretell a rise of the old loss by {self.foretold:.3g}, beside {beside}."
        return replace(drawn, alt=alt)
