"""Lesson 02: where the springs settle, the plane through three networks, and the barrier on a line between two.

The mutants are what people draw and publish: axes that are not orthogonal, coordinates without the origin, a "barrier"
that only says that one end is higher than the other, a λ that stands on one side of the equation.
"""

import numpy as np
import torch
from torch.func import grad, hessian

from .harness import Exercise
from .reader import Question
from .teacher import Step


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

questions = (
    Question(
        "barrier",
        "The loss on the straight line between two networks rises from 0.1 to 2.2, all the way uphill and never above "
        "the chord. How high is the barrier?",
        ("2.1", "0", "2.2"),
        "b",
        "A barrier is what rises above the chord between the two ends. A slope is not a ridge.",
    ),
    Question(
        "shadow",
        "A network does not lie in the plane that a picture shows. What does the picture say about it?",
        (
            "Nothing safe: the loss at its shadow is not its own loss, and may be far lower.",
            "Its loss, up to a factor that depends on the distance.",
            "Its loss, as long as both axes have the same scale.",
        ),
        "a",
        "In lesson 02 EWC's shadow had a third of its true old loss. Cut through the point you talk about.",
    ),
    Question(
        "diagonal at 45",
        "A long narrow valley of the old loss lies at 45° to the axes. What is EWC's diagonal spring worth there?",
        (
            "As much as the full curvature, since the trace is the same.",
            "More than the full curvature, which is too stiff along the valley.",
            "No more than plain L2: the diagonal is the same number twice.",
        ),
        "c",
        "A diagonal sees only valleys along the axes; turned by 45° both entries are equal, and the valley is gone.",
    ),
    Question(
        "convex",
        "With two weights and a logistic loss, can a ridge part the optima of two tasks?",
        (
            "Yes, whenever the two tasks have opposed gradients at the start.",
            "No: the second derivative is positive in every direction, so each loss is one bowl.",
            "Yes, if the two clouds of a task overlap.",
        ),
        "b",
        "Equation (2.2) is a sum of xxᵀ with positive weights; on a line a convex loss never rises above its chord.",
    ),
    Question(
        "signpost",
        "Joint training, continued from θ₁*, ends in the same valley of L₁, on level ground. What follows for "
        "SGD on task 2?",
        (
            "It could have stayed in that valley; nothing in the new loss pointed to it.",
            "It had to cross a ridge of the old loss, and a larger learning rate would help.",
            "Its end point must have the same old loss as the joint network's.",
        ),
        "a",
        "The basins overlap, and plain SGD walks past the overlap: a missing signpost, not a mountain pass.",
    ),
    Question(
        "full spring",
        "If both losses are exact bowls, with which stiffness Ω is the spring of (2.3) the same as joint training?",
        (
            "With the identity, if the strength is chosen well.",
            "With the diagonal of the old curvature, whatever its axes.",
            "With the whole matrix of the old curvature.",
        ),
        "c",
        "Then the spring is the old loss itself, weighted by λ. Its price is P² numbers.",
    ),
)


def _toy():
    """The logistic loss of (2.1) on twelve points, the points, and where to stand."""
    rng = torch.Generator().manual_seed(5)
    x, w = torch.randn(12, 2, generator=rng).double(), torch.randn(2, generator=rng).double()
    s = (torch.arange(12) % 2 * 2 - 1).double()
    return lambda w: torch.log1p(torch.exp(-s * (x @ w))).mean(), x, s, w


def _cross_entropy():
    L, x, s, w = _toy()
    z = x @ w
    two_logits = torch.stack([torch.zeros_like(z), z], 1)
    return (L(w) - torch.nn.functional.cross_entropy(two_logits, (s > 0).long())).abs().item()


def _curvature():
    L, x, _, w = _toy()
    p = torch.sigmoid(x @ w)
    return (hessian(L)(w) - (x.T * (p * (1 - p))) @ x / len(x)).abs().max().item()


def _forces():
    """The gradient of (2.3), by autograd, at θ(λ)."""
    worst = 0.0
    for _, H2, t2, O, t1, lam in springs():
        J = lambda w, H2=H2, t2=t2, O=O, t1=t1, lam=lam: (
            0.5 * (w - t2) @ H2 @ (w - t2) + lam / 2 * (w - t1) @ O @ (w - t1)
        )
        worst = max(worst, grad(J)(minimiser(H2, t2, O, t1, lam)).abs().max().item())
    return worst


def _joint():
    """With Ω = H₁ and λ = 1: the gradient of L₁ + L₂ at θ(1)."""
    _, H2, t2, H1, t1, _ = list(springs())[3]
    both = lambda w: 0.5 * (w - t2) @ H2 @ (w - t2) + 0.5 * (w - t1) @ H1 @ (w - t1)
    return grad(both)(minimiser(H2, t2, H1, t1, 1.0)).abs().max().item()


def _axes():
    worst = 0.0
    for _, a, b, c in corners():
        axes, at = plane(a, b, c)
        worst = max(worst, (axes @ axes.T - torch.eye(2)).abs().max(), (a + at @ axes - c).abs().max())
    return float(worst)


def _no_direction_is_steeper():
    """δᵀHδ/δᵀδ over 1,000 directions: how far it exceeds λ₁, or misses it along the eigenvector."""
    L, _, _, w = _toy()
    values, vectors = torch.linalg.eigh(hessian(L)(w))
    delta = torch.column_stack([torch.randn(2, 1000).double(), vectors[:, -1]])
    costs = (delta * (hessian(L)(w) @ delta)).sum(0) / delta.square().sum(0)
    return (costs.max() - values[-1]).abs().item()


def _no_barrier_in_a_bowl():
    """The loss of (2.1) on lines between random points: how far it rises above the chord."""
    L = _toy()[0]
    ends = 4 * torch.randn(20, 2, 2).double()
    s = torch.linspace(0, 1, 41).double()
    return max(barrier(np.array([L(torch.lerp(a, b, w)).item() for w in s])) for a, b in ends)


derivation = (
    Step(
        "2.1",
        r"""One weight vector, two classes: $p(1\mid x) = \sigma(\theta\cdot x)$ with $\sigma(z) = 1/(1 + e^{-z})$.
        For a label $s = \pm1$ the probability of the right class is $\sigma(s\,\theta\cdot x)$, since $1-\sigma(z) =
        \sigma(-z)$. Minus its logarithm is $\log(1 + e^{-s\,\theta\cdot x})$: the mean over the samples is the
        loss. The residual compares it with the cross-entropy of the two logits $(0, \theta\cdot x)$, as the
        package computes it.""",
        _cross_entropy,
    ),
    Step(
        "2.2",
        r"""Differentiate twice. With $z = \theta\cdot x$ the slope of $\log(1+e^{-sz})$ in $z$ is $-s\,\sigma(-sz)$,
        and its slope in turn is $\sigma(z)(1-\sigma(z))$, for both labels, because $s^2 = 1$. The chain rule adds
        an $x$ each time: $\nabla^2 L = \frac1N\sum_n \sigma(z_n)(1-\sigma(z_n))\, x_n x_n^\top$. For any
        direction $v$ this gives $v^\top\nabla^2 L\, v = \frac1N\sum_n \sigma(1-\sigma)\,(v\cdot x_n)^2 \ge 0$:
        one bowl.""",
        _curvature,
    ),
    Step(
        "2.4",
        r"""The gradient of $J_\lambda = \frac12(\theta-\theta_2^*)^\top H_2(\theta-\theta_2^*) +
        \frac\lambda2(\theta-\theta_1^*)^\top\Omega(\theta-\theta_1^*)$ is the sum of two forces. Set to zero
        and collected, $(H_2 + \lambda\Omega)\,\theta = H_2\theta_2^* + \lambda\,\Omega\,\theta_1^*$, a linear
        system. It has one solution whenever $H_2$ is positive definite. As $\lambda\to0$ it tends to
        $\theta_2^*$, and as $\lambda\to\infty$ to $\theta_1^*$ if $\Omega$ is positive definite as well. The
        residual is the gradient at the solution.""",
        _forces,
    ),
    Step(
        "2.4, the full spring",
        r"""With $\Omega = H_1$ the spring is the old bowl itself: $J_\lambda = L_2 + \lambda L_1$ up to constants, and
        $\theta(\lambda)$ is the optimum of joint training with weight $\lambda$ on task 1. So no other spring
        can offer a lower old loss at the same new loss. The residual is the gradient of $L_1 + L_2$ at
        $\theta(1)$.""",
        _joint,
    ),
    Step(
        "2.5",
        r"""Through three points $a$, $b$, $c$ goes one plane, unless they are on a line. Its first axis is $u =
        (b-a)/\lVert b-a\rVert$. Of $w = c-a$ the part along $u$ is $(u\cdot w)\,u$; what is left is orthogonal
        to $u$, and made one long it is $v$. The coordinates of $c$ are $(u\cdot w, v\cdot w)$. The residual
        checks that the axes are orthonormal and that $a + (u\cdot w)\,u + (v\cdot w)\,v$ is $c$ again.""",
        _axes,
    ),
    Step(
        "2.6",
        r"""On the line from $\theta$ to $\theta'$ the barrier is the most by which the loss rises above the chord
        between its two ends, $\max_s\,[L((1-s)\theta + s\theta') - (1-s)L(\theta) - sL(\theta')]$. At both ends the
        bracket is 0, so the barrier is never negative. A convex loss lies below every chord: there it is 0. The
        residual is the largest barrier of the loss (2.1) on twenty random lines.""",
        _no_barrier_in_a_bowl,
    ),
    Step(
        "2.7",
        r"""At the bottom of a basin the slope is 0, so Taylor's second term is the first that counts: a move by
        $\delta$ costs $\Delta L \approx \frac12\,\delta^\top H\delta$. Write $\delta$ in the eigenvectors of $H$,
        $\delta = \sum_k a_k v_k$: then $\delta^\top H\delta = \sum_k \lambda_k a_k^2 \le \lambda_1 \sum_k a_k^2
        = \lambda_1 \lVert\delta \rVert^2$, with equality along $v_1$. The bound says nothing about how long
        $\delta$ will be: that is why a flat basin need not forget less.""",
        _no_direction_is_steeper,
    ),
)

notes = """
Timing: 40 minutes alone. In class show section 1 and section 4 (20 minutes); the springs of section 2 are for those
who will meet EWC in lesson 05, and their exercise is a good piece of homework.

Let the class draw, before the figure, where plain SGD, a spring and a memory will stop; then play the animation
once without words. In section 3 let somebody read EWC's old loss off the first picture and write it on the board:
the truth, over three times as high, is the point. Misconceptions: that a projection shows distances or losses of
points outside the plane; that "another basin" means that there is a ridge (measure it: none on the way that SGD
took); that a barrier is the highest loss on the line minus the lowest; that flatness is a property of the loss and
not of the coordinates as well.
"""
