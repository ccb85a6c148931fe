"""Lesson 02: where the springs settle, the plane through three networks, and the barrier on a line between two.

The mutants are what people draw and publish: axes that are not orthogonal, coordinates without the origin, a "barrier"
that only says that one end is higher than the other, a λ that stands on one side of the equation.
"""

import numpy as np
import torch

from .harness import Exercise


def minimiser(H2, theta2, omega, theta1, lam):
    """θ(λ): where the gradient of the new loss and the pull of the spring cancel."""
    return torch.linalg.solve(H2 + lam * omega, H2 @ theta2 + lam * omega @ theta1)


def plane(a, b, c):
    """Two orthonormal axes (2, P) of the plane through a, b, c, and the coordinates (2,) of c; a is at (0, 0)."""
    u = (b - a) / (b - a).norm()
    v = (c - a) - (u @ (c - a)) * u
    axes = torch.stack([u, v / v.norm()])
    return axes, axes @ (c - a)


def barrier(losses):
    """How far the loss on a line rises above the straight line between its two ends."""
    chord = np.linspace(losses[0], losses[-1], len(losses))
    return (losses - chord).max()


def springs():
    """Two curvatures, two optima and a strength; θ₁* is never the origin, and H₂ never a multiple of Ω."""
    real = lambda rows: torch.tensor(rows, dtype=torch.float64)
    H2, turned = real([[2.0, 0.5], [0.5, 1.0]]), real([[0.52, -0.48], [-0.48, 0.52]])
    yield "a diagonal Ω", H2, real([2.0, 0.5]), real([[3.0, 0.0], [0.0, 0.2]]), real([-1.0, 1.0]), 2.0
    yield "an ellipse at 45°", H2, real([1.0, -2.0]), turned, real([0.5, 0.7]), 5.0
    yield "no spring at all", H2, real([1.0, -2.0]), turned, real([0.5, 0.7]), 0.0
    rng = torch.Generator().manual_seed(2)
    A, B, t1, t2 = (torch.randn(4, n, generator=rng).double() for n in (4, 4, 1, 1))
    yield "four weights", A @ A.T + torch.eye(4), t2[:, 0], B @ B.T, t1[:, 0], 0.5


def corners():
    """Three points each, the first one away from 0."""
    real = lambda *rows: [torch.tensor(row, dtype=torch.float64) for row in rows]
    yield "three weights", *real([1.0, 0.0, 0.0], [4.0, 0.0, 0.0], [2.0, 2.0, 0.0])
    yield "a right angle at a", *real([0.0, 1.0, 1.0], [0.0, 1.0, 3.0], [5.0, 1.0, 1.0])
    yield "twelve weights", *torch.randn(3, 12, generator=torch.Generator().manual_seed(1)).double()


def profiles():
    """Losses along a line, from its first end to its last."""
    s = np.linspace(0, 1, 21)
    yield "a ridge between two equal valleys", 0.1 + np.sin(np.pi * s)
    yield "a wall: uphill all the way, and straight", 0.1 + 2.0 * s
    yield "one bowl, ends of different heights", 0.2 + 3.0 * (s - 0.3) ** 2
    yield "a ridge on the way down", 3.0 - 2.5 * s + 0.8 * np.sin(np.pi * s) ** 2
    yield "a dip, then a ridge", 0.5 + 0.3 * s - np.sin(2 * np.pi * s) * (0.4 + 0.2 * s)


def _not_orthogonal(a, b, c):
    axes = torch.stack([(b - a) / (b - a).norm(), (c - a) / (c - a).norm()])
    return axes, axes @ (c - a)


def _not_normalised(a, b, c):
    u, w = b - a, c - a
    axes = torch.stack([u, w - (u @ w) / (u @ u) * u])
    return axes, axes @ w


def _projects_on_a_long_axis(a, b, c):
    u, w = b - a, c - a
    v = w - (u @ w) * u
    axes = torch.stack([u / u.norm(), v / v.norm()])
    return axes, axes @ w


q1 = Exercise(
    name="Where the spring settles",
    reference=minimiser,
    cases=springs,
    mutants={
        "swaps the two curvatures": lambda H2, t2, O, t1, lam: minimiser(O + 1e-9 * torch.eye(len(O)), t2, H2, t1, lam),
        "leaves λ out of the right-hand side": lambda H2, t2, O, t1, lam: torch.linalg.solve(
            H2 + lam * O, H2 @ t2 + O @ t1
        ),
        "leaves λ out of the matrix that is inverted": lambda H2, t2, O, t1, lam: torch.linalg.solve(
            H2 + O, H2 @ t2 + lam * O @ t1
        ),
        "swaps the two optima": lambda H2, t2, O, t1, lam: minimiser(H2, t1, O, t2, lam),
        "takes a plain mean of the optima, blind to curvature": lambda H2, t2, O, t1, lam: (t2 + lam * t1) / (1 + lam),
        "keeps only the diagonal of Ω": lambda H2, t2, O, t1, lam: minimiser(H2, t2, O.diag().diag(), t1, lam),
    },
    hints=(
        "At the lowest point the two forces cancel. Write the gradient of (2.3), set it to zero, and collect what "
        "multiplies θ on one side.",
        r"$H_2(\theta-\theta_2^*) + \lambda\Omega(\theta-\theta_1^*) = 0$, so "
        r"$(H_2 + \lambda\Omega)\,\theta = H_2\theta_2^* + \lambda\Omega\,\theta_1^*$.",
        """
        `torch.linalg.solve(A, b)` gives the θ with Aθ = b; `@` multiplies a matrix by a vector.
        ```python
        def minimiser(H2, theta2, omega, theta1, lam):
            return torch.linalg.solve(H2 + ..., H2 @ theta2 + ...)
        ```
        """,
    ),
)

q2 = Exercise(
    name="The plane through three points",
    reference=plane,
    cases=corners,
    mutants={
        "has axes that are not orthogonal": _not_orthogonal,
        "has axes that are not of length 1": _not_normalised,
        "projects on the first axis before that has length 1": _projects_on_a_long_axis,
        "gives c's coordinates from 0 instead of from a": lambda a, b, c: (plane(a, b, c)[0], plane(a, b, c)[0] @ c),
        "takes directions from 0 instead of from a": lambda a, b, c: plane(0 * a, b, c),
        "puts c on the second axis": lambda a, b, c: (
            plane(a, b, c)[0],
            torch.stack([0 * (c - a).norm(), (c - a).norm()]),
        ),
    },
    hints=(
        "From a to b: that direction, made one long, is the first axis. Of the way from a to c, keep only what the "
        "first axis does not explain, and make that one long too.",
        r"$u = \frac{b-a}{\lVert b-a\rVert}$, $w = c-a$, $\tilde v = w - (u\cdot w)\,u$, "
        r"$v = \tilde v/\lVert\tilde v\rVert$; the coordinates of $c$ are $(u\cdot w,\; v\cdot w)$.",
        """
        ```python
        u = (b - a) / (b - a).norm()
        v = (c - a) - ... * u
        axes = torch.stack([u, v / ...])
        return axes, axes @ ...
        ```
        """,
    ),
)

q3 = Exercise(
    name="The barrier on a line",
    reference=barrier,
    cases=profiles,
    mutants={
        "subtracts the lowest loss instead of the line between the ends": lambda L: L.max() - L.min(),
        "subtracts the loss at the start": lambda L: L.max() - L[0],
        "subtracts the mean of the two ends": lambda L: L.max() - (L[0] + L[-1]) / 2,
        "subtracts the higher end": lambda L: L.max() - max(L[0], L[-1]),
        "takes the largest distance from the line, above or below it": lambda L: np.abs(
            L - np.linspace(L[0], L[-1], len(L))
        ).max(),
    },
    hints=(
        "A slope is not a ridge. Draw a straight string from the first loss to the last one: how far does the profile "
        "rise above the string?",
        r"$\max_s\, \bigl[L(s) - (1-s)\,L(0) - s\,L(1)\bigr]$, equation (2.6). At both ends the bracket is 0, so the "
        "barrier is never negative.",
        """
        `np.linspace(start, end, n)` makes the string.
        ```python
        chord = np.linspace(losses[0], ..., len(losses))
        return (losses - ...).max()
        ```
        """,
    ),
)

questions = ()
derivation = ()
notes = ""
