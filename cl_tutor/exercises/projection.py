"""Lesson 09: A-GEM's projection, GEM's quadratic programme, and what each of them costs.

The mutants project when they should not, project onto one constraint after another, or count the wrong gradients: none
of them crashes, and all of them train.
"""

from itertools import combinations

import torch

from ..methods.projection import project, project_mean
from .harness import Exercise
from .reader import Question
from .teacher import Step


def agem(g, g_ref):
    """The vector nearest to g (P,) whose inner product with g_ref (P,) is not negative."""
    dot = g @ g_ref
    if dot >= 0:
        return g
    return g - dot / (g_ref @ g_ref) * g_ref


def gem(g, G):
    """The vector nearest to g (P,) that has G g̃ ≥ 0, for old gradients G (K, P): try every set of active rows."""
    for size in range(len(G) + 1):
        for rows in combinations(range(len(G)), size):
            A = G[list(rows)]
            v = -torch.linalg.pinv(A.T) @ g  # makes A (g + Aᵀv) = 0
            bent = g + A.T @ v
            if (v >= 0).all() and (G @ bent >= -1e-9).all():
                return bent


def cost_ratio(T):
    """Gradients that GEM takes over a stream of T equal tasks, for each one that A-GEM takes."""
    gem = 1 + (T - 1) / 2  # its own, and one for each earlier task: 0, 1, ..., T−1
    agem = 1 + (T - 1) / T  # its own, and one reference, except on the first task
    return gem / agem


def pairs():
    """A new gradient and one old one."""
    real = lambda *v: torch.tensor(v, dtype=torch.float64)
    yield "they disagree", real(1.0, -1.0), real(1.0, 3.0)
    yield "they agree", real(2.0, 1.0), real(1.0, 0.5)
    yield "a right angle", real(2.0, 0.0), real(0.0, 3.0)
    yield "opposite", real(-1.0, -2.0, 0.5), real(2.0, 4.0, -1.0)
    yield "an empty memory: g_ref is zero", real(1.0, -2.0, 3.0), real(0.0, 0.0, 0.0)
    rng = torch.Generator().manual_seed(0)
    g, noise = torch.randn(2, 30, generator=rng).double()
    yield "30 weights, at odds", g, noise - 0.7 * g
    yield "30 weights, of one mind", g, noise + 0.7 * g


def problems():
    """A new gradient and several old ones."""
    real = lambda rows: torch.tensor(rows, dtype=torch.float64)
    yield "two constraints, one of them broken", real([1.0, -1.0]), real([[0.0, 1.0], [1.0, 0.2]])
    yield "none broken", real([1.0, 2.0]), real([[0.0, 1.0], [1.0, 0.0]])
    yield "both active", real([-1.0, -1.0, 2.0]), real([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]])
    yield "broken only once the other is mended", real([1.0, -1.0, 0.0]), real([[0.0, 1.0, 0.0], [1.0, -2.0, 0.0]])
    rng = torch.Generator().manual_seed(3)
    for K in (3, 4):
        g = torch.randn(8, generator=rng).double()
        yield f"{K} old tasks, 8 weights", g, torch.randn(K, 8, generator=rng).double() - 0.4 * g


def _in_turn(g, G):
    for row in G:
        g = agem(g, row)
    return g


def _equalities(g, A):
    return g - torch.linalg.pinv(A) @ (A @ g)


q1 = Exercise(
    name="A-GEM's projection",
    reference=agem,
    cases=pairs,
    mutants={
        "projects when the dot product is positive: a published slip": lambda g, r: (
            g if g @ r <= 0 else g - g @ r / (r @ r) * r
        ),
        "projects always, agreement or not": lambda g, r: g - g @ r / (r @ r).clamp(min=1e-300) * r,
        "divides by the length instead of its square": lambda g, r: g if g @ r >= 0 else g - g @ r / r.norm() * r,
        "divides by the square of the wrong vector": lambda g, r: g if g @ r >= 0 else g - g @ r / (g @ g) * r,
        "adds where it should subtract": lambda g, r: g if g @ r >= 0 else g + g @ r / (r @ r) * r,
        "drops the step altogether": lambda g, r: g if g @ r >= 0 else 0 * g,
        "divides by zero where the memory is empty": lambda g, r: g if g @ r > 0 else g - g @ r / (r @ r) * r,
    },
    hints=(
        "If the two agree, nothing is to be done. If not, take away from g just the piece that points against g_ref, "
        "so that what is left stands at a right angle to it.",
        r"$\tilde g = g - \dfrac{g \cdot g_\mathrm{ref}}{\lVert g_\mathrm{ref} \rVert^2}\, g_\mathrm{ref}$ where "
        r"$g \cdot g_\mathrm{ref} < 0$, otherwise $\tilde g = g$: equation (9.4).",
        """
        ```python
        dot = g @ g_ref
        if ...:
            return g
        return g - dot / ... * g_ref
        ```
        """,
    ),
)

q2 = Exercise(
    name="GEM's projection",
    reference=gem,
    cases=problems,
    rtol=1e-6,
    atol=1e-8,
    mutants={
        "projects onto one constraint after another": _in_turn,
        "projects on the mean of the old gradients: A-GEM": lambda g, G: agem(g, G.mean(0)),
        "makes every constraint an equality": lambda g, G: g if (G @ g >= 0).all() else _equalities(g, G),
        "makes the broken constraints equalities, and looks no further": lambda g, G: _equalities(g, G[G @ g < 0]),
        "mends the worst constraint alone": lambda g, G: agem(g, G[(G @ g / G.norm(dim=1)).argmin()]),
        "has the inequality the wrong way round": lambda g, G: gem(g, -G),
    },
    hints=(
        "At the answer some constraints hold with equality, the active ones, and the others do not matter. You do not "
        "know which: with few tasks you may try every set. Or minimise (9.5) over v ≥ 0 by non-negative least squares.",
        r"For active rows $A$: $v = -(AA^\top)^{-1}Ag$ and $\tilde g = g + A^\top v$. It is the answer if $v \ge "
        r"0$ and "
        r"$G\tilde g \ge 0$, equation (9.6). Or: $v = \arg\min_{v\ge0}\lVert G^\top v + g\rVert$, which is "
        "`scipy.optimize.nnls`.",
        """
        ```python
        for size in range(len(G) + 1):
            for rows in combinations(range(len(G)), size):
                A = G[list(rows)]
                v = -torch.linalg.pinv(A.T) @ g
                bent = ...
                if ... and (G @ bent >= -1e-9).all():
                    return bent
        ```
        """,
    ),
)

q3 = Exercise(
    name="What GEM costs",
    reference=cost_ratio,
    cases=(("2 tasks", 2), ("5 tasks", 5), ("20 tasks", 20), ("one task", 1)),
    mutants={
        "counts the current task among the earlier ones": lambda T: (1 + (T + 1) / 2) / (1 + (T - 1) / T),
        "takes T − 1 earlier tasks all along, not on average half as many": lambda T: T / (1 + (T - 1) / T),
        "forgets the gradient of the batch itself": lambda T: ((T - 1) / 2) / max((T - 1) / T, 0.1),
        "takes a reference gradient on the first task too": lambda T: (1 + (T - 1) / 2) / 2,
        "has the ratio upside down": lambda T: 1 / cost_ratio(T),
    },
    hints=(
        "At each step of task t both take the gradient of the batch. A-GEM adds one for the memory, if there is "
        "a past; "
        "GEM adds one for each of the t − 1 earlier tasks. Average over the tasks.",
        r"GEM: $1 + \frac1T\sum_{t=1}^{T} (t-1) = 1 + \frac{T-1}{2}$. A-GEM: $1 + \frac{T-1}{T}$.",
        """
        ```python
        gem = 1 + ...
        agem = 1 + (T - 1) / T
        return gem / agem
        ```
        """,
    ),
)

questions = (
    Question(
        "when",
        "When does A-GEM change the gradient of the new batch?",
        (
            "At every step of every task but the first.",
            "When it points against the mean gradient of the memory.",
            "When it is longer than the gradient of the memory.",
        ),
        "b",
        "Only a negative inner product raises the old loss, to first order; agreement is left alone.",
    ),
    Question(
        "one-row",
        "What is GEM if only one old gradient is given to it?",
        ("A-GEM's formula", "Plain SGD on the new batch.", "Experience replay with a memory of one row."),
        "a",
        "With one row the dual has one unknown, and its solution is the closed form of A-GEM.",
    ),
    Question(
        "momentum",
        "Why does momentum break the guarantee of GEM?",
        (
            "It makes the gradients longer.",
            "It makes the quadratic programme infeasible.",
            "It adds old steps after the projection.",
        ),
        "c",
        "Directions that were harmless some steps ago are taken again, and nobody asks the memory about them.",
    ),
    Question(
        "mean",
        "A-GEM's constraint holds. May one of five old tasks lose by the step?",
        ("No, for the mean of the old losses does not rise.", "Only if the learning rate is too large.", "Yes"),
        "c",
        "A mean may stay while one task pays for the others; GEM has a constraint for each.",
    ),
)


# ---- the derivation --------------------------------------------------------------------------------------------------


def _random(K=3, P=6):
    g = torch.randn(P).double()
    return g, torch.randn(K, P).double() - 0.4 * g


def multipliers(g, G, bent):
    """The v with bent = g + Gᵀv."""
    return torch.linalg.lstsq(G.T, (bent - g)[:, None]).solution[:, 0]


def kkt(g, G, bent, v):
    """The largest violation of (9.6): stationarity, both signs, and complementary slackness."""
    signs = torch.cat([-(G @ bent), -v]).clamp(min=0).max()
    return max((bent - g - G.T @ v).abs().max(), signs, (v * (G @ bent)).abs().max()).item()


def dykstra(g, G, sweeps=4000):
    """The same projection by another road: one half-space after another, each correction taken back before the next.

    (Boyle & Dykstra 1986.) Without the corrections p it ends in the intersection too, but not at the nearest point.
    """
    x, p = g.clone(), torch.zeros_like(G)
    for _ in range(sweeps):
        for k, row in enumerate(G):
            y = x + p[k]
            x = agem(y, row)
            p[k] = y - x
    return x


def _first_order():
    """How far ΔL + η g̃·g_k is from η², seen as the slope in η at 0, by central differences."""
    X, y = torch.randn(9, 4).double(), torch.randn(9).double()
    theta, bent = torch.randn(4).double(), torch.randn(4).double()
    loss = lambda w: (X @ w - y).square().mean()
    slope = (loss(theta - 1e-3 * bent) - loss(theta + 1e-3 * bent)) / 2e-3
    return slope + bent @ (2 * X.T @ (X @ theta - y) / 9)


def _one_row():
    worst = 0.0
    for _ in range(50):
        g, G = _random(K=1)
        bent = agem(g, G[0])
        worst = max(worst, kkt(g, G, bent, -torch.clamp(G @ g, max=0) / (G @ G.T)[0]))
    return worst


def _nothing_nearer():
    """How much nearer to g than g̃ the best of 20,000 feasible vectors is: a brute force that knows no multiplier."""
    g, G = _random(K=1, P=3)
    x = g + 2 * torch.randn(20_000, 3).double()
    x = x[x @ G[0] >= 0]
    return ((agem(g, G[0]) - g).norm() - (x - g).norm(dim=1).min()).clamp(min=0)


def _many_rows():
    problems = [_random() for _ in range(20)]
    return max(kkt(g, G, bent := gem(g, G), multipliers(g, G, bent)) for g, G in problems)


def _three_roads():
    worst = 0.0
    for _ in range(4):
        g, G = _random()
        worst = max(worst, (gem(g, G) - project(g, G)).abs().max(), (gem(g, G) - dykstra(g, G)).abs().max())
    return worst


def _no_gap():
    g, G = _random()
    bent = gem(g, G)
    v = multipliers(g, G, bent)
    return (bent - g).square().sum() / 2 + (v @ G @ G.T @ v / 2 + (G @ g) @ v)


def _agem_is_gem():
    problems = [_random(K=1) for _ in range(20)]
    return max((agem(g, G[0]) - b).abs().max() for g, G in problems for b in (gem(g, G), project_mean(g, G[0])))


def _curvature():
    """On a quadratic loss, for a step that is projected on the border: ΔL − ½η² g̃ᵀHg̃."""
    X, y, theta, new = (torch.randn(*shape).double() for shape in ((9, 4), (9,), (4,), (4,)))
    loss = lambda w: (X @ w - y).square().mean()
    old = 2 * X.T @ (X @ theta - y) / 9
    bent = agem(-new * (new @ old).sign(), old)  # turned so that it points against the old gradient
    return loss(theta - 0.1 * bent) - loss(theta) - 0.01 / 2 * bent @ (2 * X.T @ X / 9) @ bent


def _counted():
    worst = 0.0
    for T in range(1, 30):
        gem_counts, agem_counts = sum(1 + t for t in range(T)), sum(1 + (t > 0) for t in range(T))
        worst = max(worst, abs(cost_ratio(T) - gem_counts / agem_counts))
    return worst


derivation = (
    Step(
        "9.1",
        r"""
        A step $\theta - \eta\tilde g$ changes an old loss by $-\eta\,\tilde g\cdot g_k + O(\eta^2)$: that is (1.2)
        with another step. The residual compares the slope of $L_k(\theta - \eta\tilde g)$ in $\eta$, by central
        differences on a quadratic loss, with $-\tilde g \cdot g_k$.
        """,
        _first_order,
        1e-8,
    ),
    Step(
        "9.3",
        r"""
        One constraint. The Lagrangian of (9.2) is $\frac12\lVert\tilde g - g\rVert^2 - v\,\tilde g\cdot g_\mathrm{ref}$
        with $v \ge 0$. Its gradient in $\tilde g$ vanishes at $\tilde g = g + v\,g_\mathrm{ref}$. The problem is convex
        and has a feasible point, so these conditions with $v\,(\tilde g\cdot g_\mathrm{ref}) = 0$ are sufficient as
        well as necessary. Residual: the largest violation over 50 random pairs.
        """,
        _one_row,
    ),
    Step(
        "9.4",
        r"""
        Either $v = 0$, and $g$ itself is feasible; or $v > 0$, so $\tilde g\cdot g_\mathrm{ref} = 0$, which is
        $g\cdot g_\mathrm{ref} + v\lVert g_\mathrm{ref}\rVert^2 = 0$: A-GEM's formula. Brute force: of 20,000 random
        vectors that satisfy the constraint, none lies nearer to $g$.
        """,
        _nothing_nearer,
        0.0,
    ),
    Step(
        "9.5",
        r"""
        Several constraints: $\tilde g = g + G^\top v$, one multiplier a row. Put back into the Lagrangian, it leaves
        $-\frac12 v^\top GG^\top v - (Gg)\cdot v$, to be made as large as possible over $v \ge 0$; changing the sign and
        adding the constant $\frac12\lVert g\rVert^2$ gives $\frac12\lVert G^\top v + g\rVert^2$: non-negative least
        squares in $K$ unknowns. Convex, so there is no duality gap; that gap is the residual.
        """,
        _no_gap,
    ),
    Step(
        "9.6",
        r"""
        The four conditions for several rows: $\tilde g = g + G^\top v$, $v \ge 0$, $G\tilde g \ge 0$, and
        $v_k\,(g_k\cdot\tilde g) = 0$ for each $k$: a task pulls only if it stands at the border. Residual: the largest
        violation, with $v$ solved from $\tilde g - g$, over 20 random problems with three rows.
        """,
        _many_rows,
    ),
    Step(
        "9.6, three roads",
        r"""
        The same point $\tilde g$ by enumeration of the active sets, by non-negative least squares (the package), and by
        Dykstra's alternating projections, which know of no multiplier: they apply A-GEM's (9.4) to one row after
        another, and take each correction back before they return to its row.
        """,
        _three_roads,
        1e-8,
    ),
    Step(
        "9.4, again",
        r"""
        A-GEM is GEM with one row: for $G = g_\mathrm{ref}^\top$ the enumeration has two sets, empty and full, and they
        are the two lines of (9.4).
        """,
        _agem_is_gem,
    ),
    Step(
        "9.7",
        r"""
        Where the constraint is active, $\tilde g \cdot g_k = 0$ and the first-order term is gone. What is left is
        Taylor's
        next: $\frac12\eta^2\,\tilde g^\top H \tilde g$, exactly so for the quadratic loss of the residual, and never
        negative where $H$ has no negative eigenvalue. So at the border the old loss *rises*, by the square of the step.
        """,
        _curvature,
    ),
    Step(
        "9.8",
        r"""
        Gradients a step: GEM takes its own and $t-1$ more in task $t$, on average $1 + \frac{T-1}{2}$; A-GEM its own
        and one more from task 2 on, $1 + \frac{T-1}{T}$. The residual counts them one by one for $T$ up to 29.
        """,
        _counted,
    ),
)

notes = """
45 minutes; 60 with the KKT conditions on the board. Draw one half-plane and one arrow first, and let the class find
(9.4) with set squares; only then write multipliers. The two-constraint picture shows why one projection after the other
is not the answer: mending the second breaks the first.

Misconceptions: that a harmless gradient leaves the old *accuracy* alone (it is a statement about the loss on the
memory,
to first order, for one step); that A-GEM protects each task; that the optimiser does not matter. The momentum run in
section 4 surprises most. Ask before section 5 how the cost of GEM grows with the number of tasks: the answer, half of
T − 1, settles the "thousand times" without a stopwatch. If time is short, leave out section 3's exercise and show it.
"""
