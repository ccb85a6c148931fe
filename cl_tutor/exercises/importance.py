"""Lesson 06: many wells merged into one, MAS with gaps, SI from its specification.

The mutants are those of published code: the newest anchor taken for the merged one, |mean gradient| for mean
|gradient|,
a "before" that is a view of the live weights, so that no weight ever moves and SI is silently naive.
"""

from functools import partial
from itertools import pairwise

import torch
from torch.nn.functional import cross_entropy

from ..landscape import gradient
from .harness import Exercise
from .reader import Question
from .teacher import Step


def merge(anchors, omegas):
    """One well (anchor, omega), each (P,), with the energy of all of them up to a constant; both arguments (K, P)."""
    omega = omegas.sum(0)
    return (omegas * anchors).sum(0) / omega, omega


def mas(net, x):
    """Ω of each weight: the mean over the images x of |∂ ½‖f‖²/∂θ|, f being the logits of one image."""
    weights = list(net.parameters())
    omega = [torch.zeros_like(w) for w in weights]
    for image in x:
        energy = 0.5 * (net(image[None]) ** 2).sum()
        grads = torch.autograd.grad(energy, weights)
        omega = [o + g.abs() / len(x) for o, g in zip(omega, grads)]
    return omega


def si(net, batches, optimiser, xi):
    """Train on the batches (x, y) with optimiser(net.parameters()), and return SI's Ω of each weight."""
    weights, opt = list(net.parameters()), optimiser(net.parameters())
    start = [w.detach().clone() for w in weights]
    path = [torch.zeros_like(w) for w in weights]
    for x, y in batches:
        before = [w.detach().clone() for w in weights]
        opt.zero_grad()
        cross_entropy(net(x), y).backward()
        opt.step()
        path = [p - w.grad * (w.detach() - b) for p, w, b in zip(path, weights, before)]
    return [p.clamp(min=0) / ((w.detach() - s) ** 2 + xi) for p, w, s in zip(path, weights, start)]


def several_wells():
    rng = torch.Generator().manual_seed(8)
    for words, K in [("two wells", 2), ("five wells", 5), ("one well", 1)]:
        anchors = torch.randn(K, 4, generator=rng, dtype=torch.float64)
        yield words, anchors, 0.1 + torch.rand(K, 4, generator=rng, dtype=torch.float64)


def _network(sizes, seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    return torch.nn.Sequential(*[m for layer in layers for m in (torch.nn.Tanh(), layer)][1:]).double()


def networks():
    rng = torch.Generator().manual_seed(9)
    for words, sizes in [("a linear network", (3, 2)), ("one hidden layer", (3, 4, 3))]:
        yield words, _network(sizes), 2 * torch.randn(6, 3, generator=rng, dtype=torch.float64)


def walks():
    """With momentum a step is not −η times its gradient; with weight decay some weights are pushed uphill: ω < 0."""
    rng = torch.Generator().manual_seed(10)
    for words, sizes, steps, extra in [
        ("a linear network, plain SGD", (3, 2), 4, {}),
        ("a linear network, momentum and weight decay", (3, 2), 6, {"momentum": 0.9, "weight_decay": 0.5}),
        ("one hidden layer, weight decay", (3, 4, 3), 6, {"weight_decay": 1.0}),
    ]:
        draw = lambda C=sizes[-1]: (2 * torch.randn(5, 3, generator=rng, dtype=torch.float64), torch.arange(5) % C)
        yield words, _network(sizes), [draw() for _ in range(steps)], partial(torch.optim.SGD, lr=0.3, **extra), 0.1


def run(answer, net, batches, optimiser, xi):
    """Ω, and where the training has left the weights."""
    omega = answer(net, batches, optimiser, xi)
    return omega, [p.detach() for p in net.parameters()]


def _mas(rule, finish=lambda o: o):
    """A wrong MAS: Σ_n of rule(net, image, weights) / N; `finish` acts on the mean."""

    def wrong(net, x):
        weights = list(net.parameters())
        rows = [rule(net(image[None])[0], weights) for image in x]
        return [finish(sum(column) / len(x)) for column in zip(*rows)]

    return wrong


def _grads(value):
    return lambda f, weights: torch.autograd.grad(value(f), weights)


def _si(move=lambda w, b: w - b, path=lambda p: p.clamp(min=0), way=lambda d, xi: d**2 + xi, late=False):
    """A wrong SI: another displacement, another use of the path integral, another denominator, a gradient too late."""

    def wrong(net, batches, optimiser, xi):
        weights, opt = list(net.parameters()), optimiser(net.parameters())
        start = [w.detach().clone() for w in weights]
        total = [torch.zeros_like(w) for w in weights]
        for x, y in batches:
            before = [w.detach().clone() for w in weights]
            opt.zero_grad()
            cross_entropy(net(x), y).backward()
            opt.step()
            grads = torch.autograd.grad(cross_entropy(net(x), y), weights) if late else [w.grad for w in weights]
            total = [p - g * move(w.detach(), b) for p, g, w, b in zip(total, grads, weights, before)]
        return [path(p) / way(w.detach() - s, xi) for p, w, s in zip(total, weights, start)]

    return wrong


q1 = Exercise(
    name="Many wells, one well",
    reference=merge,
    cases=several_wells,
    mutants={
        "takes the newest anchor, as Online EWC does": lambda a, o: (a[-1], o.sum(0)),
        "takes the plain mean of the anchors": lambda a, o: (a.mean(0), o.sum(0)),
        "takes the mean of the stiffnesses": lambda a, o: ((o * a).sum(0) / o.sum(0), o.mean(0)),
        "forgets to divide by the whole stiffness": lambda a, o: ((o * a).sum(0), o.sum(0)),
        "keeps the newest stiffness": lambda a, o: ((o * a).sum(0) / o.sum(0), o[-1]),
    },
    hints=(
        "Several springs on one weight are one spring. How stiff is it? And where does it come to rest?",
        r"$\Omega = \sum_k \Omega_k$. It rests where the forces cancel: $\sum_k \Omega_k (\theta - \theta_k^*) = 0$. "
        "Everything weight by weight; the wells are the rows.",
        """
        ```python
        omega = omegas.sum(0)
        return (...).sum(0) / omega, omega
        ```
        """,
    ),
)

q2 = Exercise(
    name="MAS",
    reference=mas,
    cases=networks,
    mutants={
        "takes the absolute value of the mean gradient, in which signs cancel": _mas(
            _grads(lambda f: 0.5 * (f**2).sum()), torch.abs
        ),
        "squares the gradients, as a Fisher does": _mas(
            lambda f, w: [g**2 for g in torch.autograd.grad(0.5 * (f**2).sum(), w)]
        ),
        "leaves out the ½": _mas(lambda f, w: [g.abs() for g in torch.autograd.grad((f**2).sum(), w)]),
        "takes the length of the output instead of half its square": _mas(
            lambda f, w: [g.abs() for g in torch.autograd.grad(f.norm(), w)]
        ),
        "asks for the softmax instead of the logits": _mas(
            lambda f, w: [g.abs() for g in torch.autograd.grad(0.5 * (f.softmax(0) ** 2).sum(), w)]
        ),
        "keeps the signs": _mas(_grads(lambda f: 0.5 * (f**2).sum())),
        "adds up over the images": lambda net, x: [len(x) * o for o in mas(net, x)],
    },
    hints=(
        "No label enters. For one image: how fast does half the squared length of the output change when a weight "
        "moves, in either direction? Then the mean over the images, of numbers that are all positive.",
        r"$\Omega_i = \frac1N\sum_n \bigl|\partial\,\tfrac12\lVert f(x_n)\rVert^2/\partial\theta_i\bigr|$: "
        r"equation (6.4). "
        "`net(image[None])` are the logits of one image.",
        """
        ```python
        energy = 0.5 * (...).sum()
        grads = torch.autograd.grad(energy, weights)
        omega = [o + ... / len(x) for o, g in zip(omega, grads)]
        ```
        """,
    ),
)

q3 = Exercise(
    name="SI from its specification",
    reference=si,
    cases=walks,
    ask=run,
    mutants={
        "keeps the weights before the step as a view, so that nothing ever moves": _si(move=lambda w, b: w - w),
        "has the sign of the path integral the wrong way round": _si(move=lambda w, b: b - w),
        "does not clamp, and so rewards weights for moving": _si(path=lambda p: p),
        "takes the absolute value of the path integral": _si(path=torch.abs),
        "forgets the square in the denominator": _si(way=lambda d, xi: d.abs() + xi),
        "forgets ξ": _si(way=lambda d, xi: d**2 + 1e-12),
        "divides by ξ alone": _si(way=lambda d, xi: xi + 0 * d),
        "takes the gradient after the step instead of before it": _si(late=True),
    },
    hints=(
        "Three memories: the weights at the start, the running sum ω, and the weights just before each step. "
        "Copies, all "
        "of them: a view would move with the weights.",
        r"At each step $\omega \leftarrow \omega - g\,(\theta_{\text{after}} - \theta_{\text{before}})$, $g$ being the "
        r"gradient that makes the step; at the end $\Omega = \max(\omega, 0)/(\Delta^2 + \xi)$ with $\Delta$ from "
        r"start to "
        "end: equations (6.6) and (6.8).",
        """
        ```python
        weights, opt = list(net.parameters()), optimiser(net.parameters())
        start = [w.detach().clone() for w in weights]
        path = [torch.zeros_like(w) for w in weights]
        for x, y in batches:
            before = ...
            opt.zero_grad()
            cross_entropy(net(x), y).backward()
            opt.step()
            path = [p - ... for p, w, b in zip(path, weights, before)]
        return [... for p, w, s in zip(path, weights, start)]
        ```
        """,
    ),
)

questions = (
    Question(
        "merged",
        "Ten tasks have left ten quadratic wells. How many numbers a weight does an exact sum of them need?",
        ("Twenty", "Ten", "Two"),
        "c",
        "A sum of parabolas is a parabola: one stiffness and one place of rest, whatever the number of tasks.",
    ),
    Question(
        "gamma",
        "Every task brings the same Fisher F. To what does Online EWC's Ω grow in the long run with γ = 0.95?",
        ("0.95 F", "20 F", "It grows without bound."),
        "b",
        "The sum 1 + γ + γ² + ... is 1/(1 − γ) = 20. For ten tasks that is hardly any cure: 8 F instead of 10 F.",
    ),
    Question(
        "signs",
        "Why does MAS take the absolute value for each sample, before the mean?",
        (
            "Because a weight that raises one output and lowers another would otherwise look unimportant.",
            "Because the outputs of a network are positive.",
            "Because it is cheaper: one backward pass then does for the whole batch.",
        ),
        "a",
        "Gradients of opposite sign cancel in a mean. The absolute value of the mean is cheaper, and wrong.",
    ),
    Question(
        "path",
        "You add up SI's ω over all weights along gradient descent with small steps. What comes out?",
        ("The length of the path.", "The drop of the loss.", "The trace of the Fisher."),
        "b",
        "It is the line integral of −∇L along the path, and that is the loss at the start minus the loss at the end.",
    ),
    Question(
        "silent",
        "SI runs without an error, yet all Ω are zero. Which line is the likely culprit?",
        (
            "omega = path.clamp(min=0) / (moved**2 + xi)",
            "before = p.detach()",
            "path -= grad * (p.detach() - before)",
        ),
        "b",
        "On the CPU .detach() is a view: it moves with the weight, so the displacement is zero. It needs .clone().",
    ),
)


# ---- the derivation --------------------------------------------------------------------------------------------------


def _merged():
    """The slope of many wells against that of the merged one, at 20 places."""
    anchors, omegas, theta = torch.randn(4, 3).double(), torch.rand(4, 3).double() + 0.1, torch.randn(20, 3).double()
    anchor, omega = merge(anchors, omegas)
    many = (omegas * (theta[:, None] - anchors)).sum(1)
    return float((many - omega * (theta - anchor)).abs().max())


def _online():
    """Four parabolas learnt one by one under the single spring of Online EWC, against their joint optimum."""
    F, best = torch.rand(2, 4, 3).double() + 0.1
    theta, omega = best[0], F[0]
    for f, b in zip(F[1:], best[1:]):
        theta, omega = (omega * theta + f * b) / (omega + f), omega + f
    return float((theta - merge(best, F)[0]).abs().max())


def _series():
    """Twenty updates with one Fisher against the closed form."""
    F, gamma, omega = torch.rand(5).double(), 0.95, torch.zeros(5).double()
    for _ in range(20):
        omega = gamma * omega + F
    return float((omega - F * (1 - gamma**20) / (1 - gamma)).abs().max())


def _linear():
    """For f = Wx autograd's mean absolute gradient is the mean of |f_c| |x_i|, and lies under its bound."""
    net, x = torch.nn.Linear(4, 3, bias=False).double(), torch.randn(50, 4).double()
    (omega,) = mas(net, x)
    f = x @ net.weight.detach().T
    formula = (f.abs()[:, :, None] * x.abs()[:, None, :]).mean(0)
    assert (omega**2 <= f.square().mean(0)[:, None] * x.square().mean(0) + 1e-12).all()
    return float((omega - formula).abs().max())


def path_sum(lr, steps):
    """(Σω, the drop of the loss) along full-batch gradient descent on a small softmax regression; float64."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=rng).double(), torch.arange(40) % 3
    loss = lambda p: cross_entropy(x @ p["w"], y)
    theta = {"w": torch.randn(3, 3, generator=rng).double()}
    first, total = loss(theta), 0.0
    for _ in range(steps):
        g = gradient(loss, theta)["w"]
        new = theta["w"] - lr * g
        total -= (g * (new - theta["w"])).sum()
        theta = {"w": new}
    return float(total), float(first - loss(theta))


def _richardson():
    """The error of Σω is proportional to η: two runs to the same time, extrapolated to η = 0, agree with the drop."""
    errors = [total - drop for total, drop in (path_sum(0.1 / 2**k, 20 * 2**k) for k in (6, 7, 8))]
    return (errors[0] - 6 * errors[1] + 8 * errors[2]) / 3  # removes the terms in η and η²


derivation = (
    Step(
        "6.1",
        r"""Springs on one weight add up. $\sum_k \Omega_k(\theta-\theta_k^*)^2$ is quadratic in $\theta$ with second
        derivative $2\sum_k\Omega_k$ and its minimum where $\sum_k\Omega_k(\theta-\theta_k^*)=0$. So it equals
        $\Omega(\theta-\bar\theta)^2 + c$ with $\Omega = \sum_k\Omega_k$ and $\bar\theta =
        \sum_k\Omega_k\theta_k^*/\Omega$: two numbers a weight, for any number of tasks. The check compares the
        forces at 20 places.""",
        _merged,
    ),
    Step(
        "6.2",
        r"""Where the spring hangs. Let every loss be a parabola, $L_k = \frac12 F_k(\theta-b_k)^2$. If after $k$ tasks
        one spring at the joint optimum $\theta^*$ of these tasks, of stiffness $\Omega = \sum_{j\le k}F_j$, holds all
        of them, then learning task $k+1$ under it ends at $(\Omega\theta^*+F_{k+1}b_{k+1})/(\Omega+F_{k+1})$, the joint
        optimum of $k+1$ tasks, where by (6.1) one spring of stiffness $\Omega+F_{k+1}$ holds them all again: that is
        (6.2) with $\gamma=1$, and by induction nothing is ever lost. Separate wells at every $\theta_k^*$ are more than
        that: $\theta_2^*$ has been drawn towards task 1 already.""",
        _online,
    ),
    Step(
        "6.3",
        r"""Online EWC: $\Omega \leftarrow \gamma\,\Omega + F_k$. With equal $F_k = F$ the sum is geometric: $\Omega_T =
        F\,(1-\gamma^T)/(1-\gamma)$, which tends to $F/(1-\gamma)$. For $\gamma=0.95$ the limit is $20F$,
        reached after dozens of tasks; after ten it stands at $8.0F$, where plain accumulation has $10F$.""",
        _series,
    ),
    Step(
        "6.5",
        r"""A linear network $f_c = \sum_i w_{ci} x_i$: $\partial\,\frac12\lVert f\rVert^2/\partial w_{ci} = f_c
        x_i$, so MAS gives $\Omega_{ci} = \mathbb E\,|f_c|\,|x_i|$. The Fisher of the same network under Gaussian noise
        of variance one is $F_{ci} = \mathbb E\,x_i^2$. By Cauchy and Schwarz $\Omega_{ci} \le \sqrt{\mathbb E
        f_c^2}\,\sqrt{F_{ci}}$: MAS goes with the root of the Fisher. The check computes $\Omega$ by autograd,
        sample by sample, and asserts the bound.""",
        _linear,
    ),
    Step(
        "6.7",
        r"""SI's $\omega_i = -\int g_i\,\mathrm d\theta_i$. Added up over the weights it is the line integral of
        $-\nabla L$ along the path, which by the fundamental theorem is $L(\text{start}) - L(\text{end})$. Code has a
        sum over steps, with the gradient at the beginning of each: a left-hand rule, whose error is of order
        $\eta$. The check runs $\eta$, $\eta/2$, $\eta/4$ to the same time and extrapolates the error to $\eta =
        0$.""",
        _richardson,
        1e-6,
    ),
)

notes = """
Sixty minutes; Run All takes under a minute. The first half is worth a blackboard: let the class add two parabolas
before anyone mentions memory. Most are surprised that "EWC needs one well a task" is a choice of bookkeeping, and
that Online EWC differs from the exact sum only in where the spring comes to rest.

The exercises fade on purpose: MAS comes with gaps, SI with nothing but its specification. Have pairs write SI, then
swap and look for `.detach()` without `.clone()`: somebody always has it, and it is the same silence as in lesson
05.

Misconceptions: that γ = 0.95 forgets fast (its half-life is 13.5 tasks); that MAS is a Fisher without labels (it is
closer to the root of one, so its λ lives on another scale); that importance maps of different methods should look
alike because all three "work". Ask what a map would have to predict before one could call it right.
"""
