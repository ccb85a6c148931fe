"""The geometry of a loss: gradients and their angles, and pictures of weight space along lines and planes.

Mathematics only: a loss is a function of parameters, and parameters are a dict of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad_and_value

from .vectors import Params, flat, unflat

Loss = Callable[[Params], Tensor]  # parameters -> scalar


def gradient(loss: Loss, params: Params) -> Params:
    """∇L(θ), parameter by parameter. The `.grad` of the parameters is left alone."""
    leaves = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values()))))


@torch.no_grad()
def cosine(a: Params, b: Params) -> float:
    """a·b / (‖a‖ ‖b‖), over all parameters; 0 where one of them vanishes."""
    u, v = flat(a).double(), flat(b).double()
    return float(u @ v / (u.norm() * v.norm()).clamp(min=1e-300))


def layer_cosines(a: Params, b: Params) -> dict[str, float]:
    """The cosine within each layer: `fc1.weight` and `fc1.bias` count as layer `fc1`."""
    layers: dict[str, list[str]] = {}
    for name in a:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return {layer: cosine({n: a[n] for n in ns}, {n: b[n] for n in ns}) for layer, ns in layers.items()}


def line(loss: Loss, start: Params, end: Params, steps: int = 41) -> tuple[np.ndarray, np.ndarray]:
    """L((1−s)·start + s·end) for s from 0 to 1: arrays s and L of length `steps`."""
    s = np.linspace(0, 1, steps)
    mix = lambda w: {n: torch.lerp(start[n], end[n], w) for n in start}
    with torch.no_grad():
        return s, np.array([float(loss(mix(w))) for w in s])


def barrier(losses: np.ndarray) -> float:
    """How far the loss on a line rises above the straight line between its ends (Entezari et al. 2022; Frankle et al.
    2020 measure from the mean of the two ends)."""
    chord = np.linspace(losses[0], losses[-1], len(losses))
    return float((losses - chord).max())


def descend(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 2000, tol: float = 1e-5) -> list[Tensor]:
    """The path of BFGS from `start` (P,) down to where every |∂L/∂θ_i| ≤ tol: an optimum, not just a low place."""
    path, slope = [start], grad_and_value(loss)

    def both(theta: np.ndarray) -> tuple[float, np.ndarray]:
        g, value = slope(torch.from_numpy(theta).to(start))
        return value.item(), g.double().numpy()

    note = lambda theta: path.append(torch.from_numpy(theta.copy()).to(start))
    found = minimize(both, start, jac=True, method="BFGS", callback=note, options={"maxiter": steps, "gtol": tol})
    if not np.abs(found.jac).max() <= 10 * tol:  # SciPy gives up a little earlier where rounding ends the search
        raise ValueError(
            f"No optimum in {found.nit} steps of BFGS, |slope| = {np.abs(found.jac).max():.1g}: allow more."
        )
    return path


def ellipse(center: Tensor, A: Tensor, c: float, points: int = 81) -> Tensor:
    """The δ in the plane with ½ δᵀAδ = c, around `center` (2,): points (points, 2). A must be positive definite."""
    turn = torch.linspace(0, 2 * torch.pi, points, dtype=A.dtype)
    circle = torch.stack([turn.cos(), turn.sin()])
    factor = torch.linalg.cholesky(A)  # A = R Rᵀ, so δ = R⁻ᵀ u has δᵀAδ = uᵀu
    return center + (2 * c) ** 0.5 * torch.linalg.solve_triangular(factor.T, circle, upper=True).T


@dataclass(frozen=True)
class Plane:
    """The plane through three points of weight space, with coordinates (u, v) in the units of the weights.

    `origin` is at (0, 0), the second point at (‖b − a‖, 0); the third fixes the second axis (Garipov et al. 2018).
    """

    origin: Tensor  # (P,)
    axes: Tensor  # (2, P), orthonormal
    like: Params

    @classmethod
    @torch.no_grad()
    def through(cls, a: Params, b: Params, c: Params) -> Plane:
        origin = flat(a)
        u = flat(b) - origin
        v = flat(c) - origin
        u = u / u.norm()
        v = v - (u @ v) * u  # Gram-Schmidt
        if not v.norm() > 1e-6 * (flat(c) - origin).norm():
            raise ValueError("The three points lie on one line: choose a third that is not between the other two.")
        return cls(origin, torch.stack([u, v / v.norm()]), a)

    @torch.no_grad()
    def coordinates(self, params: Params) -> tuple[float, float]:
        """Where a point falls when projected onto the plane."""
        u, v = (self.axes @ (flat(params) - self.origin)).tolist()
        return u, v

    @torch.no_grad()
    def distance(self, params: Params) -> float:
        """How far a point lies from the plane: the part of it that the picture does not show."""
        offset = flat(params) - self.origin
        return float((offset - self.axes.T @ (self.axes @ offset)).norm())

    def at(self, u: float, v: float) -> Params:
        return unflat(self.origin + u * self.axes[0] + v * self.axes[1], self.like)


def surface(loss: Loss, at: Callable[[float, float], Params], us: Sequence[float], vs: Sequence[float]) -> np.ndarray:
    """Z[i, j] = L(at(us[j], vs[i])), a grid with rows along v. `at` is `plane.at`, or makes weights of two numbers."""
    with torch.no_grad():
        return np.array([[float(loss(at(float(u), float(v)))) for u in us] for v in vs])
