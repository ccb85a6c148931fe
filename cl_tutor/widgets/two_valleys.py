"""Two quadratic valleys to drag: what each method's steps do to both losses, and where the diagonal is not enough."""

from __future__ import annotations

import numpy as np
import traitlets

from .. import plots
from .island import Island, module

METHODS = ("naive", "L2", "EWC", "rank 1", "full Fisher", "A-GEM", "ER")
STEPS, RATE = 1000, 0.01  # on each task
SPAN = ((-3.0, 3.0), (-2.2, 2.2))  # of the plane that is drawn


def _point(x: float, y: float) -> traitlets.List:
    return traitlets.List(traitlets.Float(), [x, y], minlen=2, maxlen=2).tag(sync=True)


class TwoValleys(Island):
    """L_k(θ) = ½ (θ − θ_k*)ᵀ H_k (θ − θ_k*) in two weights: H₁ a valley along `angle` (degrees) with condition number
    `kappa`, its eigenvalues 1/√κ and √κ; H₂ = I. From `start`, 1,000 steps of 0.01 on task 1, then as many on task 2.

    `methods` that are drawn: naive; L2, EWC, rank 1 and full Fisher with Ω = I, diag H₁, √κ v vᵀ and H₁; A-GEM; ER
    with all of task 1. `lam` is λ of the penalties. `step` is where the marks stand, of 2,000.

    >>> TwoValleys(angle=45).ends()["rank 1"] < TwoValleys(angle=45).ends()["EWC"]  # (L₁, L₂): compared L₁ first
    True
    """

    _esm = module("two_valleys.js")
    theta1 = _point(-1.1, 0.0)
    theta2 = _point(1.1, 0.0)
    start = _point(-1.6, 1.2)
    angle = traitlets.Float(45.0).tag(sync=True)
    kappa = traitlets.Float(25.0, min=1.0, max=100.0).tag(sync=True)
    lam = traitlets.Float(1.0, min=0.0, max=10.0).tag(sync=True)
    step = traitlets.Int(2 * STEPS, min=0, max=2 * STEPS).tag(sync=True)
    methods = traitlets.List(traitlets.Enum(METHODS), ["EWC", "rank 1", "full Fisher"]).tag(sync=True)

    def hessian(self) -> np.ndarray:
        """H₁, (2, 2)."""
        along, across = self._axes()
        return np.outer(along, along) / self.kappa**0.5 + np.outer(across, across) * self.kappa**0.5

    def losses(self, theta: np.ndarray) -> tuple[float, float]:
        """L₁ and L₂ at a point."""
        d1, d2 = theta - np.array(self.theta1), theta - np.array(self.theta2)
        return float(0.5 * d1 @ self.hessian() @ d1), float(0.5 * d2 @ d2)

    def walk(self, method: str) -> np.ndarray:
        """All points of a method's path: (2001, 2), of which number 1,000 is the anchor that the penalties keep."""
        H, across, theta, path = self.hessian(), self._axes()[1], np.array(self.start), []
        for _ in range(STEPS):
            path.append(theta)
            theta = theta - RATE * H @ (theta - self.theta1)
        omegas = {"L2": np.eye(2), "EWC": np.diag(H.diagonal()), "full Fisher": H}
        omegas["rank 1"] = self.kappa**0.5 * np.outer(across, across)
        omega, anchor = self.lam * omegas.get(method, np.zeros((2, 2))), theta
        for _ in range(STEPS):
            path.append(theta)
            g1, g = H @ (theta - self.theta1), theta - self.theta2 + omega @ (theta - anchor)
            if method == "ER":
                g = g + g1
            if method == "A-GEM" and g @ g1 < 0:
                g = g - (g @ g1) / (g1 @ g1) * g1
            theta = theta - RATE * g
        return np.array([*path, theta])

    def ends(self) -> dict[str, tuple[float, float]]:
        """L₁ and L₂ where each method ends, drawn or not."""
        return {method: self.losses(self.walk(method)[-1]) for method in METHODS}

    def picture(self) -> plots.Picture:
        xs, ys = (np.linspace(*span, 61) for span in SPAN)
        grid = {f"L{'₁₂'[k]}": np.array([[self.losses(np.array([x, y]))[k] for x in xs] for y in ys]) for k in (0, 1)}
        grid = {name: np.minimum(z, 6.0) for name, z in grid.items()}  # the rings of the steep one are too many
        points = {"θ₁*": tuple(self.theta1), "θ₂*": tuple(self.theta2)}
        paths = {method: self.walk(method)[::20] for method in self.methods}
        title = f"Two valleys at {self.angle:g}°, κ = {self.kappa:g}, λ = {self.lam:g}"
        drawn = plots.surface(xs, ys, grid, paths, points, title=title)
        ends = self.ends()
        says = [f"{m} ends at L₁ = {ends[m][0]:.2f}, L₂ = {ends[m][1]:.2f}" for m in self.methods]
        return plots.Picture(drawn.figure, f"{title}: paths on the contours of two tasks. {'; '.join(says)}.")

    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors along the valley and across it."""
        c, s = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
        return np.array([c, s]), np.array([-s, c])
