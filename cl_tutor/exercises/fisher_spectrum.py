"""Lesson 12: power iteration with deflation, the Gram trick, and where in the network the eigenvectors live.

The mutants are the mistakes that give a plausible spectrum all the same: a vector that is never made one long, a
direction that is found twice, a Gram matrix summed instead of averaged, a mass that counts every layer's size.
"""

import torch

from .harness import Exercise
from .reader import Question
from .teacher import Step


def power_iteration(product, starts, steps):
    """The top eigenvalues (k,) and eigenvectors (P, k) of v -> F v, one for each column of `starts` (P, k)."""
    values, V = [], starts[:, :0]
    for v in starts.T:
        for _ in range(steps):
            v = v - V @ (V.T @ v)  # deflation: leave out the directions found before
            v = product(v)
            v = v / v.norm()
        values.append(v @ product(v))  # Rayleigh's quotient
        V = torch.column_stack([V, v])
    return torch.stack(values), V


def gram_pairs(G, N, k):
    """The top k eigenvalues (k,) and eigenvectors (P, k) of F = GᵀG/N, from the small matrix GGᵀ/N."""
    values, U = torch.linalg.eigh(G @ G.T / N)  # rising
    values, U = values.flip(0)[:k], U.flip(1)[:, :k]
    return values, G.T @ U / (N * values).sqrt()


def mass(V, weights, layers):
    """Σ_k w_k v_kᵀ P_ℓ v_k for each layer ℓ; `layers` says which rows of V (P, k) are a layer's."""
    return {name: (weights * V[rows].square()).sum() for name, rows in layers.items()}


def operators():
    """Symmetric matrices with a gap below each of the first eigenvalues, never diagonal, and where to start."""
    rng = torch.Generator().manual_seed(0)
    for words, spectrum, k in [
        ("4 weights, one direction", [3.0, 1.0, 0.5, 0.0], 1),
        ("5 weights, three directions", [4.0, 1.0, 0.25, 0.05, 0.0], 3),
        ("8 weights, two directions", [0.9, 0.3, 0.1, 0.1, 0.05, 0.0, 0.0, 0.0], 2),
    ]:
        Q = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=rng).double())[0]
        F = Q @ torch.tensor(spectrum).double().diag() @ Q.T
        yield words, F, torch.randn(len(F), k, generator=rng).double() + 0.5, 100


def score_matrices():
    """Rows of scores: more weights than rows, as in every network; with exact labels there are C rows a sample."""
    rng = torch.Generator().manual_seed(1)
    for words, rows, N, P, k in [
        ("one label a sample: 6 rows, 20 weights", 6, 6, 20, 3),
        ("exact labels, 4 samples of 3 classes", 12, 4, 30, 5),
        ("a mean that is not zero", 5, 5, 9, 2),
    ]:
        yield words, torch.randn(rows, P, generator=rng).double() + (N == 5), N, k


def eigenvectors():
    """Orthonormal columns, weights for them, and the rows of each layer."""
    rng = torch.Generator().manual_seed(2)
    layers = {"conv": slice(0, 3), "fc": slice(3, 9), "out": slice(9, 10)}
    for words, k, weights in [
        ("three directions that count alike", 3, [1.0, 1.0, 1.0]),
        ("weighted by their eigenvalues", 2, [4.0, 0.5]),
        ("all ten directions", 10, [1.0] * 10),
    ]:
        V = torch.linalg.qr(torch.randn(10, k, generator=rng).double())[0]
        yield words, V, torch.tensor(weights).double(), layers


def _signed(answer, *arguments):
    """Eigenvalues and eigenvectors, each vector turned so that its largest entry is positive: ±v are one direction."""
    values, V = answer(*arguments)
    largest = V.gather(0, V.abs().argmax(0, keepdim=True)) if V.ndim == 2 else V
    return values, V * largest.sign()


def _ask_power(answer, F, starts, steps):
    return _signed(answer, lambda v: F @ v, starts, steps)


def _power(deflate, normalise=lambda v: v / v.norm(), once=False, value=None):
    """A wrong power iteration: with this deflation, at every step or once, and this way to read the eigenvalue."""

    def wrong(product, starts, steps):
        values, V = [], starts[:, :0]
        for v in starts.T:
            v = deflate(v, V)
            for _ in range(steps):
                v = normalise(product(v if once else deflate(v, V)))
            values.append(value(v, product) if value else v @ product(v))
            V = torch.column_stack([V, v])
        return torch.stack(values), V

    return wrong


def _project(v, V):
    return v - V @ (V.T @ v)


def _last_image(v, product):
    w = product(v)
    return w @ product(w)


q1 = Exercise(
    name="Power iteration with deflation",
    reference=power_iteration,
    cases=operators,
    ask=_ask_power,
    rtol=1e-4,
    atol=1e-6,
    mutants={
        "never makes the vector one long": _power(_project, normalise=lambda v: v),
        "forgets deflation, and finds the first direction again and again": _power(lambda v, V: v),
        "subtracts the found vectors themselves instead of the components along them": _power(
            lambda v, V: v - V.sum(1)
        ),
        "deflates the start alone, so that rounding brings the first direction back": _power(_project, once=True),
        "reads the eigenvalue from the image Fv before it is made one long": _power(_project, value=_last_image),
        "returns ‖Fv‖², the square of the eigenvalue": _power(_project, value=lambda v, F: F(v).square().sum()),
        "divides by the sum of the entries instead of the length": _power(
            _project, normalise=lambda v: v / v.abs().sum()
        ),
    },
    hints=(
        "Multiply by F, again and again: the steepest direction grows fastest and wins. Two housekeeping jobs at every "
        "step: take out what was found before, or it wins again; and keep the vector one long, or it explodes.",
        r"$v \leftarrow v - VV^\top v$, then $v \leftarrow Fv/\lVert Fv\rVert$, `steps` times; then "
        r"$\lambda = v^\top F v$ with that $v$ of length 1, and $v$ joins the columns of $V$.",
        """
        `starts[:, :0]` is a matrix with no columns yet, `torch.column_stack([V, v])` adds one.
        ```python
        values, V = [], starts[:, :0]
        for v in starts.T:
            for _ in range(steps):
                v = v - ...
                v = product(v)
                v = ...
            values.append(...)
            V = torch.column_stack([V, v])
        return torch.stack(values), V
        ```
        """,
    ),
)

q2 = Exercise(
    name="The Gram trick",
    reference=gram_pairs,
    cases=score_matrices,
    ask=_signed,
    mutants={
        "does not divide the Gram matrix by N": lambda G, N, k: gram_pairs(G, 1, k),
        "divides by the number of rows, though exact labels have C rows a sample": lambda G, N, k: gram_pairs(
            G, len(G), k
        ),
        "leaves the vectors Gᵀu as long as they come": lambda G, N, k: (
            gram_pairs(G, N, k)[0],
            gram_pairs(G, N, k)[1] * (N * gram_pairs(G, N, k)[0]).sqrt(),
        ),
        "forgets N in the length of Gᵀu": lambda G, N, k: (
            gram_pairs(G, N, k)[0],
            gram_pairs(G, N, k)[1] * N**0.5,
        ),
        "takes the first k of eigh, which are the smallest": lambda G, N, k: (
            lambda lam, U: (lam[:k], G.T @ U[:, :k] / (N * lam[:k]).sqrt())
        )(*torch.linalg.eigh(G @ G.T / N)),
        "subtracts the mean score first: a covariance": lambda G, N, k: gram_pairs(G - G.mean(0), N, k),
    },
    hints=(
        "If GGᵀ/N sends u to λu, where does GᵀG/N send Gᵀu? Move the brackets. The small matrix knows everything; you "
        "only carry its vectors across.",
        r"$\frac1N G^\top G\,(G^\top u) = G^\top\bigl(\frac1N GG^\top u\bigr) = \lambda\, G^\top u$, and "
        r"$\lVert G^\top u\rVert^2 = u^\top GG^\top u = N\lambda$.",
        """
        `torch.linalg.eigh` gives the eigenvalues rising; `.flip(0)` and `.flip(1)` turn them round.
        ```python
        values, U = torch.linalg.eigh(...)
        values, U = values.flip(0)[:k], U.flip(1)[:, :k]
        return values, G.T @ U / ...
        ```
        """,
    ),
)

q3 = Exercise(
    name="The mass of a layer",
    reference=mass,
    cases=eigenvectors,
    mutants={
        "ignores the weights": lambda V, w, layers: mass(V, torch.ones_like(w), layers),
        "weights twice": lambda V, w, layers: mass(V, w**2, layers),
        "adds up the entries without squaring them": lambda V, w, layers: {
            n: (w * V[rows]).sum() for n, rows in layers.items()
        },
        "adds up the absolute entries": lambda V, w, layers: {
            n: (w * V[rows].abs()).sum() for n, rows in layers.items()
        },
        "takes the mean over a layer's weights, which rewards small layers": lambda V, w, layers: {
            n: (w * V[rows].square()).sum(1).mean() for n, rows in layers.items()
        },
        "takes the length of the piece instead of its square": lambda V, w, layers: {
            n: (w * V[rows].norm(dim=0)).sum() for n, rows in layers.items()
        },
        "divides by the number of directions": lambda V, w, layers: {
            n: m / V.shape[1] for n, m in mass(V, w, layers).items()
        },
    },
    hints=(
        "P_ℓ keeps a layer's entries of a vector and sets the others to 0. What is vᵀP_ℓv, then, in terms of the "
        "entries that are kept?",
        r"$v_k^\top P_\ell v_k = \sum_{i \in \ell} v_{k,i}^2$; times $w_k$, added up over $k$. Over all layers it "
        r"gives $\sum_k w_k$.",
        """
        `V[rows]` are the rows of one layer, (P_ℓ, k); weights (k,) multiply its columns.
        ```python
        return {name: (weights * V[rows]...).sum() for name, rows in layers.items()}
        ```
        """,
    ),
)

questions = (
    Question(
        "gap",
        "On what does the speed of power iteration depend?",
        ("On the gap between the first two eigenvalues.", "On the number of weights.", "On the trace of the matrix."),
        "a",
        "Each step shrinks the second direction by λ₂/λ₁ beside the first, whatever else the matrix holds.",
    ),
    Question(
        "residual",
        "Two successive estimates of an eigenvalue agree to 0.1 %. What do you know?",
        ("It is right to 0.1 %.", "Little, if the gap is narrow: print the residual.", "The vector has converged."),
        "b",
        "Slow progress looks like arrival; the residual bounds the distance to a true eigenvalue.",
    ),
    Question(
        "gram",
        "How can the top eigenvectors of a P × P Fisher be had without iterating?",
        (
            "From the diagonal, which has all that is needed.",
            "By inverting it once.",
            "From the small matrix of dot products between scores.",
        ),
        "c",
        "GGᵀ/N has the same nonzero eigenvalues, and Gᵀ carries its eigenvectors across.",
    ),
    Question(
        "percent",
        "Somebody says that 5 % of the directions hold 80 % of the trace. What do you ask?",
        ("At which learning rate.", "5 % of which directions, of how many samples.", "Whether the network was wide."),
        "b",
        "The rank is bounded by samples times classes less one: of all weights, any such share may hold by counting.",
    ),
)


def _scores():
    """Scores (N, C, P) of a linear softmax with 3 classes in float64, as rows √p s of G (N·C, P), and N."""
    rng = torch.Generator().manual_seed(3)
    W, x = torch.randn(3, 4, generator=rng).double(), torch.randn(5, 4, generator=rng).double()
    p = (x @ W.T).softmax(1)
    s = torch.einsum("ncd,ni->ncdi", torch.eye(3).double() - p[:, None], x).flatten(2)
    return (p.sqrt()[..., None] * s).flatten(0, 1), len(x)


def _small_fisher():
    G, N = _scores()
    return G.T @ G / N


def _error_shrinks():
    """After t products the error of λ is Σ_k c_k² (λ_1 − λ_k) λ_k^2t / Σ_k c_k² λ_k^2t, for a start Σ_k c_k v_k."""
    F, t = _small_fisher(), 6
    lam, V = torch.linalg.eigh(F)
    v = start = torch.randn(len(F), generator=torch.Generator().manual_seed(4)).double()
    for _ in range(t):
        v = F @ v / (F @ v).norm()
    weight = (V.T @ start) ** 2 * lam.clamp(min=0) ** (2 * t)
    return lam[-1] - v @ F @ v - (weight * (lam[-1] - lam)).sum() / weight.sum()


def _gram_carries():
    G, N = _scores()
    lam, U = torch.linalg.eigh(G @ G.T / N)
    V = G.T @ U
    return max((_small_fisher() @ V - V * lam).abs().max(), (V.square().sum(0) - N * lam).abs().max())


def _trace_and_diagonal():
    F = _small_fisher()
    lam, V = torch.linalg.eigh(F)
    return max((lam.sum() - F.trace()).abs(), (V.square() @ lam - F.diag()).abs().max())


def _random_signs():
    """The mean of δᵀFδ over all 2^12 choices of signs."""
    F = _small_fisher()
    d = torch.randn(len(F), generator=torch.Generator().manual_seed(5)).double()
    bits = torch.arange(2 ** len(F))[:, None] >> torch.arange(len(F)) & 1
    moves = (2.0 * bits - 1) * d
    return torch.einsum("ni,ij,nj->n", moves, F, moves).mean() - F.diag() @ d**2


def _mass_residual():
    (_, V, weights, layers), *_ = eigenvectors()
    return (sum(mass(V, weights, layers).values()) - weights.sum()).item()


derivation = (
    Step(
        "12.2",
        r"""
        Write the start in eigenvectors, $v = \sum_k c_k v_k$. One product multiplies each share by its eigenvalue, so
        after $t$ products it is $\sum_k c_k \lambda_k^t v_k$, up to its length. Rayleigh's quotient is the mean of the
        eigenvalues with the squared shares as weights, and its error

        $$\lambda_1 - \lambda = \frac{\sum_k c_k^2\,\lambda_k^{2t}\,(\lambda_1-\lambda_k)}{\sum_k c_k^2\,\lambda_k^{2t}}
        \approx \frac{c_2^2}{c_1^2}\,(\lambda_1-\lambda_2)\Big(\frac{\lambda_2}{\lambda_1}\Big)^{2t}.$$

        The vector converges like $(\lambda_2/\lambda_1)^t$, the eigenvalue like the square of that.
        """,
        _error_shrinks,
    ),
    Step(
        "12.3",
        r"""
        Let $\frac1N GG^\top u = \lambda u$, $\lVert u\rVert = 1$. Multiply by $G^\top$ from the left and move the
        brackets:

        $$\tfrac1N G^\top G\,(G^\top u) = G^\top\big(\tfrac1N GG^\top u\big) = \lambda\,(G^\top u).$$

        So $G^\top u$ is an eigenvector of $F$ with the same eigenvalue, and its length follows from
        $\lVert G^\top u\rVert^2 = u^\top GG^\top u = N\lambda$. The directions that no $G^\top u$ reaches have $Gv =
        0$:
        they are flat.
        """,
        _gram_carries,
    ),
    Step(
        "12.4",
        r"""
        $F = V\Lambda V^\top$ with orthonormal columns. Entry $i$ of the diagonal is $F_{ii} =
        \sum_k \lambda_k v_{k,i}^2$.
        Add up over $i$: each $v_k$ has length 1, so

        $$\sum_k \lambda_k = \sum_i F_{ii} = \operatorname{tr} F.$$

        The diagonal is the spectrum seen through the eigenvectors: it cannot tell which weights move together.
        """,
        _trace_and_diagonal,
    ),
    Step(
        "12.5",
        r"The projections $P_\ell$ onto the layers add up to the identity, and every $v_k$ has the length one. So "
        r"$\sum_\ell v_k^\top P_\ell v_k = 1$, and the masses of all layers add up to $\sum_k w_k$.",
        _mass_residual,
    ),
    Step(
        "12.7",
        r"""
        Give each $\delta_i$ a random sign $s_i = \pm 1$, independent of the others. Then $\mathbb E[s_i s_j]$ is 1 for
        $i = j$ and 0 otherwise, and in the double sum only the diagonal is left:

        $$\mathbb E\big[(s\delta)^\top F (s\delta)\big] = \sum_{i,j} \mathbb E[s_i s_j]\,F_{ij}\,\delta_i\delta_j =
        \sum_i
        F_{ii}\,\delta_i^2.$$

        The residual takes the mean over every choice of signs.
        """,
        _random_signs,
    ),
)

notes = """
**Time.** 45 minutes: 15 for the power iteration and its stopping rule, 10 for the Gram matrix, 10 for the claims, 10
for
the prediction of forgetting. `cl-tutor sheet 12` has the four derivations; (12.3) fits on a napkin and is worth it.

**In class.** Ask for the number of directions that hold 80 % of the trace before section 5 runs; answers spread over
three decades. Then let the class say what the 5 % in "the top 5 % of directions" is a share *of*: three readings give
three answers, which is the point of the section.

**Misconceptions.** "λ hardly changes, so it has converged": print the residual. "Few large eigenvalues show that the
network learnt something simple": with N samples the rank is at most N(C − 1), whatever it learnt. "The diagonal of F is
a rough version of F": as a price for SGD's own movement it is off by a factor of fifty, though in step with the truth.

**The stored runs.** CIFAR-10 here is a JPEG copy, three seeds, and says so beside the figures; the script is
`notebooks/runs/cifar_spectrum.py`. A good project: rescale the input, run it again, and see conv1's mass change.
"""
