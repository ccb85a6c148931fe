"""Lesson 05: the spring, what it remembers, and the step that no spring is too stiff for.

The mutants are those of published code: the ½ left out, an anchor that is a view of the live weights (so that the
penalty is a tensor minus itself), a Fisher of zeros because a mean was taken before the square, the explicit step.
"""

from itertools import pairwise

import torch

from .harness import Exercise
from .reader import Question
from .teacher import Step


def penalty(weights, wells, lam):
    """λ/2 Σ F (θ − θ*)² over all wells; weights, and both halves of a well (anchor, fisher), are lists of tensors."""
    total = 0.0
    for anchor, fisher in wells:
        for w, a, f in zip(weights, anchor, fisher):
            total = total + (f * (w - a) ** 2).sum()
    return lam / 2 * total


def remember(net, x):
    """A well (anchor, fisher): copies of the weights, and their exact diagonal Fisher over the images x."""
    weights = list(net.parameters())
    fisher = [torch.zeros_like(w) for w in weights]
    for image in x:
        log_p = net(image[None]).log_softmax(1)[0]
        for c, p in enumerate(log_p.exp().tolist()):
            score = torch.autograd.grad(log_p[c], weights, retain_graph=True)
            fisher = [f + p * s**2 / len(x) for f, s in zip(fisher, score)]
    return [w.detach().clone() for w in weights], fisher


def proximal(theta, anchor, fisher, rate):
    """Where the spring's own implicit step takes θ; rate is ηλ. All tensors have one shape."""
    return (theta + rate * fisher * anchor) / (1 + rate * fisher)


def wells():
    """Weights with gradients, none, one and two wells; float64."""
    rng = torch.Generator().manual_seed(5)
    draw = lambda: [torch.randn(2, 3, generator=rng).double(), torch.randn(4, generator=rng).double()]
    well = lambda: (draw(), [a.abs() for a in draw()])
    yield "two old tasks", draw(), [well(), well()], 3.0
    yield "one old task", draw(), [well()], 0.5
    yield "no old task yet", draw(), [], 2.0


def value_and_slope(answer, weights, wells, lam):
    """The penalty, and its gradient; zeros where the weights cannot feel it."""
    weights = [w.requires_grad_() for w in weights]
    value = answer(weights, wells, lam)
    if value is None or value is ...:
        return value
    felt = isinstance(value, torch.Tensor) and value.requires_grad
    slopes = torch.autograd.grad(value, weights, allow_unused=True) if felt else [None] * len(weights)
    return value, [torch.zeros_like(w) if s is None else s for w, s in zip(weights, slopes)]


def networks():
    rng = torch.Generator().manual_seed(6)
    for words, sizes in [("a linear network", (3, 2)), ("one hidden layer", (3, 4, 3))]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        net = torch.nn.Sequential(*[m for layer in layers for m in (torch.nn.Tanh(), layer)][1:]).double()
        yield words, net, 2 * torch.randn(5, 3, generator=rng, dtype=torch.float64)


def then_move(answer, net, x):
    """What is remembered, looked at after the weights have moved on: a memory must not move with them."""
    kept = answer(net, x)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    return kept


def points():
    rng = torch.Generator().manual_seed(7)
    for words, rate in [("a soft spring", 0.1), ("a stiff one", 1e3), ("no spring", 0.0)]:
        theta, anchor = torch.randn(2, 5, generator=rng, dtype=torch.float64)
        yield words, theta, anchor, torch.tensor([0.0, 0.1, 0.5, 1.0, 4.0]).double(), rate


def _pieces(piece, scale=lambda lam: lam / 2, which=slice(None)):
    """A wrong penalty: another sum over the pieces, another factor, or not all wells."""

    def wrong(weights, wells, lam):
        parts = [piece(w, a, f) for A, F in wells[which] for w, a, f in zip(weights, A, F)]
        return scale(lam) * sum(parts, torch.zeros((), dtype=torch.float64))

    return wrong


def _square(w, a, f):
    return (f * (w - a) ** 2).sum()


def _kept(anchor=lambda w: w.detach().clone(), fisher=lambda p, s, n: p * s**2 / n, finish=lambda f: f):
    """A wrong memory: another anchor, or another rule for the Fisher; `finish` acts on its sum."""

    def wrong(net, x):
        weights = list(net.parameters())
        total = [torch.zeros_like(w) for w in weights]
        for image in x:
            log_p = net(image[None]).log_softmax(1)[0]
            for c, p in enumerate(log_p.exp().tolist()):
                score = torch.autograd.grad(log_p[c], weights, retain_graph=True)
                total = [t + fisher(p, s, len(x)) for t, s in zip(total, score)]
        return [anchor(w) for w in weights], [finish(t) for t in total]

    return wrong


def _likeliest(net, x):
    weights = list(net.parameters())
    total = [torch.zeros_like(w) for w in weights]
    for image in x:
        score = torch.autograd.grad(net(image[None]).log_softmax(1).max(), weights)
        total = [t + s**2 / len(x) for t, s in zip(total, score)]
    return [w.detach().clone() for w in weights], total


q1 = Exercise(
    name="The penalty",
    reference=penalty,
    cases=wells,
    ask=value_and_slope,
    mutants={
        "leaves out the ½": _pieces(_square, scale=lambda lam: lam),
        "forgets λ": _pieces(_square, scale=lambda lam: 0.5),
        "forgets the square, so that the spring pulls the same at every distance": _pieces(
            lambda w, a, f: (f * (w - a).abs()).sum()
        ),
        "takes means over the weights instead of sums": _pieces(lambda w, a, f: (f * (w - a) ** 2).mean()),
        "holds on to the last task alone": _pieces(_square, which=slice(-1, None)),
        "forgets the Fisher: plain L2": _pieces(lambda w, a, f: ((w - a) ** 2).sum()),
        "subtracts the squares, which is not the square of the difference": _pieces(
            lambda w, a, f: (f * (w**2 - a**2)).sum()
        ),
        "detaches the weights: the number is right, and no weight feels it": _pieces(
            lambda w, a, f: _square(w.detach(), a, f)
        ),
        "subtracts the weights from themselves": _pieces(lambda w, a, f: _square(w, w, f)),
    },
    hints=(
        "Every weight hangs on a spring, fixed where the weight was. The energy of a spring is half its "
        "stiffness times "
        "the square of how far it is stretched. Add up all weights, and all old tasks.",
        r"$\frac\lambda2 \sum_{\text{wells}} \sum_i F_i\,(\theta_i - \theta^*_i)^2$, equation (5.3) once per well. "
        "Three lists run side by side: `zip(weights, anchor, fisher)`.",
        """
        ```python
        total = 0.0
        for anchor, fisher in wells:
            for w, a, f in zip(weights, anchor, fisher):
                total = total + ...
        return lam / 2 * total
        ```
        """,
    ),
)

q2 = Exercise(
    name="What to remember of a task",
    reference=remember,
    cases=networks,
    ask=then_move,
    mutants={
        "keeps a view of the weights, which moves when they move": _kept(anchor=lambda w: w.detach()),
        "takes the mean score before it squares, and that mean is zero": _kept(
            fisher=lambda p, s, n: p * s / n, finish=lambda total: total**2
        ),
        "forgets to weigh the classes by p": _kept(fisher=lambda p, s, n: s**2 / n),
        "takes the most likely class only": _likeliest,
        "adds up over the images instead of taking their mean": _kept(fisher=lambda p, s, n: p * s**2),
        "weighs the score by p before it is squared": _kept(fisher=lambda p, s, n: (p * s) ** 2 / n),
    },
    hints=(
        "Two things: where the weights are now, as copies that later steps cannot reach; and how much each of them "
        "matters now, which is lesson 04's exercise, image by image and class by class.",
        r"$\theta^* \leftarrow$ `w.detach().clone()`; $F_i = \frac1N\sum_n\sum_c p(c\mid x_n)\,s_i(x_n, c)^2$, "
        r"where the "
        r"score is $s = \nabla\log p(c\mid x_n)$. `image[None]` is a batch of one.",
        """
        ```python
        weights = list(net.parameters())
        fisher = [torch.zeros_like(w) for w in weights]
        for image in x:
            log_p = net(image[None]).log_softmax(1)[0]
            for c, p in enumerate(log_p.exp().tolist()):
                score = torch.autograd.grad(log_p[c], weights, retain_graph=True)
                fisher = [f + ... for f, s in zip(fisher, score)]
        return [... for w in weights], fisher
        ```
        """,
    ),
)

q3 = Exercise(
    name="The proximal step",
    reference=proximal,
    cases=points,
    mutants={
        "takes the explicit step": lambda theta, anchor, fisher, rate: theta - rate * fisher * (theta - anchor),
        "has a minus in the denominator": lambda theta, anchor, fisher, rate: (
            (theta - rate * fisher * anchor) / (1 - rate * fisher + 1e-3)
        ),
        "shrinks the weights towards zero instead of the anchor": lambda theta, anchor, fisher, rate: (
            theta / (1 + rate * fisher)
        ),
        "forgets to divide": lambda theta, anchor, fisher, rate: theta + rate * fisher * anchor,
        "forgets the Fisher": lambda theta, anchor, fisher, rate: (theta + rate * anchor) / (1 + rate),
        "goes home at once": lambda theta, anchor, fisher, rate: anchor + 0 * theta,
    },
    hints=(
        "The explicit step pulls with the force at the old place. Pull with the force at the new place instead: write "
        "the step with θ⁺ on both sides, and solve for θ⁺.",
        r"$\theta^+ = \theta - \eta\lambda F\,(\theta^+ - \theta^*)$. Bring all $\theta^+$ to the left: "
        r"$(1 + \eta\lambda F)\,\theta^+ = \theta + \eta\lambda F\,\theta^*$.",
        """
        ```python
        return (theta + ...) / (1 + ...)
        ```
        """,
    ),
)

questions = (
    Question(
        "natural",
        "Both losses are means. Task 1 has 3,000 samples, task 2 has 1,000. Which λ does Bayes' rule ask of EWC?",
        ("1/3", "3", "It depends on the learning rate."),
        "b",
        "λ = N₁/N₂: the old data must count as often as they occurred, and N₂ was divided out of the new loss.",
    ),
    Question(
        "ceiling",
        "SGD with step η on EWC's penalty alone: what happens to a weight with ηλF = 2.1?",
        (
            "It returns to its anchor faster than the others.",
            "It stays exactly where it is.",
            "It jumps across its anchor, a little farther at every step.",
        ),
        "c",
        "Every step multiplies its distance by 1 − 2.1 = −1.1: the sign alternates and the distance grows.",
    ),
    Question(
        "travels",
        "Your code adds the squared scores up over 1,000 samples; a paper takes their mean, and λ = 50. Your λ "
        "is then?",
        ("0.05", "50", "50,000"),
        "a",
        "The penalty feels only the product λF. Your F is 1,000 times larger, so the same spring has λ/1,000.",
    ),
    Question(
        "view",
        "EWC runs, and ends at exactly the weights of the naive run, to the last bit. Where do you look first?",
        (
            "At the learning rate, which is too small.",
            "At the anchor, which may be a view of the live weights.",
            "At the labels of the Fisher.",
        ),
        "b",
        "If the anchor moves along with the weights, θ − θ* is zero at every step, and so are penalty and gradient.",
    ),
    Question(
        "proximal",
        "What does the proximal step of EWC guarantee that the explicit step does not?",
        ("No λ makes the spring diverge.", "No old task is forgotten.", "The Fisher needs fewer samples."),
        "a",
        "It divides by 1 + ηλF, which is at least 1 for every λ ≥ 0. How much is forgotten is another matter.",
    ),
)


# ---- the derivation, on linear regression: there every step is exact -------------------------------------------------


def _regression():
    """Two tasks of linear regression with noise of variance 1: X (N, 2) and y for each; float64."""
    rng = torch.Generator().manual_seed(0)
    X = [
        torch.randn(n, 2, generator=rng).double() @ torch.tensor([[1.0, 0.6], [0.0, 1.0]]).double() for n in (300, 100)
    ]
    y = [x @ torch.tensor(w).double() + torch.randn(len(x), generator=rng).double()
         for x, w in zip(X, ([1.0, -1.0], [0.0, 2.0]))]  # fmt: skip
    return X, y


def _mean_loss(X, y, theta):
    return 0.5 * (y - X @ theta).square().mean()


def _solve(X, y):
    return torch.linalg.solve(X.T @ X, X.T @ y)


def _bayes():
    """The slope of −log posterior of both tasks against N₂ times that of L₂ plus that of the old −log posterior."""
    (X1, X2), (y1, y2) = _regression()
    theta = torch.tensor([0.3, -0.7]).double()
    both = (torch.cat([X1, X2]).T @ (torch.cat([X1, X2]) @ theta - torch.cat([y1, y2]))).double()
    parts = [torch.func.grad(lambda w, X=X, y=y: len(X) * _mean_loss(X, y, w))(theta) for X, y in ((X1, y1), (X2, y2))]
    return float((both - sum(parts)).abs().max())


def _laplace():
    """For a quadratic loss the parabola is the loss itself, at every θ."""
    (X1, _), (y1, _) = _regression()
    best, F = _solve(X1, y1), X1.T @ X1 / len(X1)
    thetas = torch.randn(20, 2).double()
    true = torch.stack([len(X1) * (_mean_loss(X1, y1, w) - _mean_loss(X1, y1, best)) for w in thetas])
    parabola = torch.stack([len(X1) / 2 * (w - best) @ F @ (w - best) for w in thetas])
    return float((true - parabola).abs().max())


def _natural():
    """The lowest point of (5.3) with the whole F and λ = N₁/N₂ against the lowest point of all data."""
    (X1, X2), (y1, y2) = _regression()
    F1, F2, lam = X1.T @ X1 / len(X1), X2.T @ X2 / len(X2), len(X1) / len(X2)
    ewc = torch.linalg.solve(F2 + lam * F1, X2.T @ y2 / len(X2) + lam * F1 @ _solve(X1, y1))
    return float((ewc - _solve(torch.cat([X1, X2]), torch.cat([y1, y2]))).abs().max())


def _contraction():
    """Ten steps of gradient descent on the penalty, by autograd, against (1 − ηλF)¹⁰ times the first distance."""
    fisher, anchor, rate = torch.tensor([0.0, 0.3, 1.0, 2.5]).double(), torch.randn(4).double(), 0.7
    theta = start = torch.randn(4).double()
    for _ in range(10):
        theta = theta - rate * torch.func.grad(lambda w: penalty([w], [([anchor], [fisher])], 1.0))(theta)
    return float((theta - anchor - (1 - rate * fisher) ** 10 * (start - anchor)).abs().max())


def _ceiling():
    """Just below the ceiling the stiffest weight comes closer, just above it runs away; at it, |1 − ηλF| is 1."""
    fisher, eta = torch.tensor([0.1, 0.4, 0.9]).double(), 0.2
    lam = 2 / (eta * fisher.max())
    factor = lambda share: (1 - eta * share * lam * fisher).abs().max()
    assert factor(0.99) < 1 < factor(1.01)
    return float((factor(1.0) - 1).abs())


def _proximal():
    """The slope, at θ⁺, of ‖θ⁺ − θ‖²/2η + λ/2 Σ F (θ⁺ − θ*)², which the proximal step minimises."""
    theta, anchor, fisher, eta, lam = (
        torch.randn(5).double(),
        torch.randn(5).double(),
        torch.rand(5).double(),
        0.2,
        40.0,
    )
    new = proximal(theta, anchor, fisher, eta * lam)
    energy = lambda w: (w - theta).square().sum() / (2 * eta) + penalty([w], [([anchor], [fisher])], lam)
    return float(torch.func.grad(energy)(new).abs().max())


derivation = (
    Step(
        "5.1",
        r"""Samples are independent given $\theta$, so $p(\theta\mid 1, 2) \propto p(\text{task 2}\mid\theta)\,
        p(\theta\mid 1)$. Take $-\log$. With $L_2$ the mean of $-\log p(y\mid x;\theta)$ over the $N_2$ samples of
        task 2, $-\log p(\theta\mid 1, 2) = N_2 L_2(\theta) - \log p(\theta\mid 1) + c$. Task 1 enters through its
        posterior and nowhere else. The check compares slopes, for linear regression with a flat prior.""",
        _bayes,
        1e-9,
    ),
    Step(
        "5.2",
        r"""Laplace's approximation: expand $-\log p(\theta\mid 1) = N_1 L_1(\theta) + c$ (flat prior) at its lowest
        point $\theta_1^*$. The slope vanishes there, the curvature is $N_1 H$, and $H \approx F$ by lesson 04: $-\log
        p(\theta\mid 1) \approx c + \frac{N_1}2(\theta-\theta_1^*)^\top F\,(\theta-\theta_1^*)$. For linear
        regression with unit noise $F = X^\top X/N_1$, and the parabola is exact, which the check shows at 20
        points.""",
        _laplace,
        1e-9,
    ),
    Step(
        "5.3",
        r"""Put (5.2) into (5.1) and divide by $N_2$, so that the new loss is the mean that one's code computes anyway:
        $L_2(\theta) + \frac\lambda2(\theta-\theta_1^*)^\top F\,(\theta-\theta_1^*)$ with $\lambda = N_1/N_2$.
        EWC then keeps the diagonal of $F$ only. Check, with the whole $F$: the lowest point is that of training
        on all data at once.""",
        _natural,
        1e-10,
    ),
    Step(
        "5.4",
        r"""Gradient descent on the penalty alone: its slope is $\lambda F_i(\theta_i-\theta_i^*)$, so a step leaves
        $(1-\eta\lambda F_i)$ of the distance $\theta_i-\theta_i^*$, and $t$ steps its $t$-th power. The check
        takes ten steps by autograd.""",
        _contraction,
        1e-10,
    ),
    Step(
        "5.5",
        r"""The distance shrinks when $|1-\eta\lambda F_i| < 1$, that is $0 < \eta\lambda F_i < 2$. The stiffest weight
        decides: $\lambda < 2/(\eta\max_i F_i)$. The check evaluates the factor at the ceiling, where it is
        exactly one, and a hundredth to either side.""",
        _ceiling,
        1e-12,
    ),
    Step(
        "5.6",
        r"""Take the spring's force at the end of the step: $\theta^+ = \theta - \eta\lambda F(\theta^+-\theta^*)$.
        Solved, $\theta^+ = (\theta+\eta\lambda F\theta^*)/(1+\eta\lambda F)$. It is the minimum of
        $\frac1{2\eta}\lVert\theta^+-\theta\rVert^2 + \frac\lambda2\sum_i F_i(\theta_i^+-\theta_i^*)^2$: the
        check finds its slope zero there. The factor $1/(1+\eta\lambda F)$ lies between 0 and 1 for every
        $\lambda$.""",
        _proximal,
        1e-10,
    ),
)

notes = """
Sixty minutes in class; Run All takes about a minute. Let everybody write down a best λ before the sweep of section
5: most say 1, because section 1 has just told them so, and the discussion why the best is thirty times that is the
heart of the hour (the diagonal prices a movement at a fiftieth of its true cost, lesson 12; and SGD's way is not a
random one).

Misconceptions to listen for: that a large λ only makes the network rigid (with the explicit step it blows up long
before); that λ is a property of a data set; that EWC with a tuned λ proves its Fisher right. Ask for two
implementations that differ by the missing ½ and let the class find the experiment that tells them apart: there is
none with tuned λ.

The bug of section 7 is worth a live demonstration: change one `.clone()` and nothing crashes. A test that would
have caught it: the penalty is above zero after one step of the second task. With MNIST on the machines, section 8
runs the class's own code on the stream of the original paper; without it, the stored numbers stand beside the same
question.
"""
