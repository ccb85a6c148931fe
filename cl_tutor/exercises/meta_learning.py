"""Lesson 13: the Reptile step, what two steps in either order have in common, and the price of learning to learn.

The mutants are the mistakes that leave a run which learns all the same: an interpolation the wrong way round or against
the wrong point, a second-order term of twice the size, a bill that counts the stream and not what went before it.
"""

import torch
from torch.func import grad

from ..methods.meta import oml_loss
from .harness import Exercise
from .reader import Question
from .teacher import Step


def reptile(theta, slopes, rate, keep):
    """One SGD step of size `rate` for each function in `slopes`, then back: the share `keep` of the way is gone."""
    start = theta
    for slope in slopes:
        theta = theta - rate * slope(theta)
    return start + keep * (theta - start)


def pull(loss1, loss2, theta):
    """∇(g₁·g₂) at theta: the direction in which the two losses' gradients come to agree."""
    agreement = lambda theta: grad(loss1)(theta) @ grad(loss2)(theta)
    return grad(agreement)(theta)


def bill(walks, classes, shots, stream):
    """Gradients that OML needs before the stream begins, for each gradient of the stream itself."""
    inner = classes * shots  # one step for each sample of a walk
    outer = 1  # and one meta-gradient, through all of them
    return walks * (inner + outer) / stream


class Named:
    """A function that a verdict can show."""

    def __init__(self, words, function):
        self.words, self.function = words, function

    def __call__(self, theta):
        return self.function(theta)

    def __repr__(self):
        return self.words


def starts():
    """Quadratic slopes in float64; two, three and one of them."""
    rng = torch.Generator().manual_seed(0)
    for words, count, rate, keep in [
        ("two steps", 2, 0.1, 0.5),
        ("three steps", 3, 0.2, 0.3),
        ("one step", 1, 0.3, 1.0),
    ]:
        A = [torch.randn(3, 3, generator=rng).double() for _ in range(count)]
        centres = [torch.randn(3, generator=rng).double() for _ in range(count)]
        slopes = [Named("θ ↦ A(θ − c)", lambda theta, a=a @ a.T, c=c: a @ (theta - c)) for a, c in zip(A, centres)]
        yield words, torch.randn(3, generator=rng).double(), slopes, rate, keep


def losses():
    """Two losses that are no parabolas, so that their Hessians differ from place to place."""
    rng = torch.Generator().manual_seed(1)
    for words, P in [("two weights", 2), ("five weights", 5)]:
        A, B = (torch.randn(P, P, generator=rng).double() for _ in range(2))
        yield (
            words,
            Named("θ ↦ Σ log cosh(Aθ)", lambda theta, A=A: (A @ theta).cosh().log().sum()),
            Named("θ ↦ Σ log cosh(B(θ − 1))", lambda theta, B=B: (B @ (theta - 1)).cosh().log().sum()),
            torch.randn(P, generator=rng).double(),
        )


def _restart(theta, slopes, rate, keep):
    start, ends = theta, [theta - rate * slope(theta) for slope in slopes]
    return start + keep * sum(end - start for end in ends)


def _hessians(loss1, loss2, theta):
    H = lambda loss: torch.func.hessian(loss)(theta)
    return H(loss1) @ grad(loss1)(theta) + H(loss2) @ grad(loss2)(theta)


q1 = Exercise(
    name="The Reptile step",
    reference=reptile,
    cases=starts,
    mutants={
        "keeps all of the way": lambda theta, slopes, rate, keep: reptile(theta, slopes, rate, 1.0),
        "interpolates the wrong way round": lambda theta, slopes, rate, keep: reptile(theta, slopes, rate, 1 - keep),
        "takes every step from the start, so that no step sees the one before": _restart,
        "shrinks the steps instead of the way": lambda theta, slopes, rate, keep: reptile(
            theta, slopes, rate * keep, 1.0
        ),
    },
    hints=(
        "Walk first, as SGD would, and remember where you came from. Then go back along the straight line.",
        r"$\theta_0 + \gamma(\theta_k - \theta_0)$, equation (13.1), with $\gamma$ = `keep`.",
        """
        ```python
        start = theta
        for slope in slopes:
            theta = ...
        return start + keep * (...)
        ```
        """,
    ),
)

q2 = Exercise(
    name="The pull towards agreement",
    reference=pull,
    cases=losses,
    mutants={
        "has twice the size": lambda l1, l2, theta: 2 * pull(l1, l2, theta),
        "pulls apart": lambda l1, l2, theta: -pull(l1, l2, theta),
        "multiplies each gradient by its own Hessian": _hessians,
        "takes the gradient of the product of the losses": lambda l1, l2, theta: grad(lambda t: l1(t) * l2(t))(theta),
        "forgets one of the two products": lambda l1, l2, theta: torch.func.hessian(l2)(theta) @ grad(l1)(theta),
    },
    hints=(
        "Write the agreement as a function of the weights, a dot product of two gradients, and differentiate that.",
        r"$\nabla(g_1 \cdot g_2) = H_1 g_2 + H_2 g_1$. With `torch.func.grad` no Hessian is needed.",
        """
        ```python
        agreement = lambda theta: ... @ ...
        return grad(agreement)(theta)
        ```
        """,
    ),
)

q3 = Exercise(
    name="The bill of OML",
    reference=bill,
    cases=(("the lesson's", 640, 5, 5, 150), ("one short walk", 1, 2, 1, 10), ("a long stream", 100, 5, 10, 100_000)),
    mutants={
        "counts walks instead of gradients": lambda walks, classes, shots, stream: walks / stream,
        "forgets the meta-gradients": lambda walks, classes, shots, stream: walks * classes * shots / stream,
        "has the ratio upside down": lambda walks, classes, shots, stream: 1 / bill(walks, classes, shots, stream),
        "adds the stream to the bill": lambda walks, classes, shots, stream: bill(walks, classes, shots, stream) + 1,
    },
    hints=(
        "A walk takes one step for each of its samples, and then one gradient goes back through all of them.",
        r"walks × (classes · shots + 1), for each gradient of the stream.",
        """
        ```python
        inner = ...  # one step for each sample of a walk
        outer = 1
        return walks * (inner + outer) / stream
        ```
        """,
    ),
)

questions = (
    Question(
        "reptile",
        "Reptile with γ = 0.5 takes five SGD steps from θ₀ to θ₅. Where does it go?",
        ("Half of the way, on the straight line.", "To θ₂ or θ₃, at random.", "To the minimum of the fifth loss."),
        "a",
        "θ₀ + γ(θ₅ − θ₀): the steps were only a way of asking where to go.",
    ),
    Question(
        "second order",
        "Averaged over their order, two SGD steps differ from one step on the sum of the losses. What does the "
        "difference do?",
        (
            "It makes both losses flatter.",
            "It makes the two gradients agree more.",
            "It vanishes for quadratic losses.",
        ),
        "b",
        "The mean of H₁g₂ and H₂g₁ is half of ∇(g₁·g₂): uphill in the agreement, of size α².",
    ),
    Question(
        "oml",
        "What does OML train before the stream begins?",
        (
            "Features on which later online steps disturb each other little.",
            "The prediction layer, by replay of the stream.",
            "The learning rate of every weight.",
        ),
        "a",
        "Its loss is measured after a prediction layer has learnt a walk online, and is differentiated through "
        "that walk.",
    ),
    Question(
        "price",
        "What makes OML expensive?",
        (
            "It stores all samples of the stream.",
            "Its network grows with every task.",
            "Each of its steps is a whole short life.",
        ),
        "c",
        "Every meta-gradient is taken through a walk of many online steps, and hundreds of walks are needed.",
    ),
)


def _losses(P=4):
    rng = torch.Generator().manual_seed(7)
    A, B = (torch.randn(P, P, generator=rng).double() for _ in range(2))
    return (
        lambda theta: (A @ theta).cosh().log().sum(),
        lambda theta: (B @ (theta - 1)).cosh().log().sum(),
        torch.randn(P, generator=rng).double(),
    )


def both_orders(loss1, loss2, theta, alpha):
    """Where one step on each loss leads, in the mean over the two orders."""
    step = lambda loss, theta: theta - alpha * grad(loss)(theta)
    return (step(loss2, step(loss1, theta)) + step(loss1, step(loss2, theta))) / 2


def _straight():
    """With one step Reptile is SGD with the learning rate γα."""
    loss1, _, theta = _losses()
    return (reptile(theta, [grad(loss1)], 0.1, 0.3) - (theta - 0.03 * grad(loss1)(theta))).abs().max().item()


def _product_rule():
    loss1, loss2, theta = _losses()
    H = lambda loss: torch.func.hessian(loss)(theta)
    return (
        (pull(loss1, loss2, theta) - H(loss1) @ grad(loss2)(theta) - H(loss2) @ grad(loss1)(theta)).abs().max().item()
    )


def _third_order():
    """What (13.3) leaves out, over α³, goes to a constant; its change between two tiny α is of the order of α."""
    loss1, loss2, theta = _losses()
    left = []
    for alpha in (1e-3, 5e-4):
        told = theta - alpha * (grad(loss1)(theta) + grad(loss2)(theta)) + alpha**2 / 2 * pull(loss1, loss2, theta)
        left.append((both_orders(loss1, loss2, theta, alpha) - told).norm().item())
    return max(0.0, abs(left[0] / left[1] - 8) - 0.1)


def _oml_slope():
    """The derivative of OML's loss by a feature weight, against a difference quotient."""
    rng = torch.Generator().manual_seed(3)
    phi = lambda theta, x: (x @ theta["A"].T).tanh()
    g = lambda W, h: h @ W["W"].T
    draw = lambda n: (torch.randn(n, 3, generator=rng).double(), torch.arange(n) % 2)
    walk, rest, W = draw(4), draw(6), {"W": torch.zeros(2, 4).double()}
    A = torch.randn(4, 3, generator=rng).double()
    loss = lambda A: oml_loss(phi, g, {"A": A}, W, walk, rest, 0.5)
    D, e = torch.randn(4, 3, generator=rng).double(), 1e-5
    return (grad(loss)(A) * D).sum().item() - ((loss(A + e * D) - loss(A - e * D)) / (2 * e)).item()


derivation = (
    Step(
        "13.1",
        r"Reptile takes $k$ SGD steps from $\theta_0$ to $\theta_k$ and keeps the share $\gamma$ of the way, "
        r"$\theta_0 + \gamma(\theta_k - \theta_0)$. With $k = 1$ this is plain SGD with the learning rate "
        r"$\gamma\alpha$: "
        r"whatever is new begins with the second step.",
        _straight,
    ),
    Step(
        "13.2",
        r"The second gradient is taken where the first step has led: "
        r"$g_2(\theta - \alpha g_1) = g_2 - \alpha H_2 g_1 + O(\alpha^2)$. In the other order it is $g_1 - \alpha "
        r"H_1 g_2$. "
        r"By the product rule $H_1 g_2 + H_2 g_1 = \nabla(g_1 \cdot g_2)$.",
        _product_rule,
    ),
    Step(
        "13.3",
        r"The mean over both orders is therefore $-\alpha(g_1 + g_2) + \frac{\alpha^2}{2} \nabla(g_1 \cdot g_2) + "
        r"O(\alpha^3)$. With $k$ steps the same holds for every pair. The residual here is what the remainder "
        r"violates of "
        r"its order: halving $\alpha$ divides it by 8, within one per cent and a half.",
        _third_order,
    ),
    Step(
        "13.5",
        r"OML asks for features $\phi$ such that the loss is small *after* an online walk with $\phi$ fixed. Each "
        r"step of the "
        r"walk is a differentiable function of $\phi$, and so is the end: the gradient goes back through all of them. "
        r"Residual: against a difference quotient.",
        _oml_slope,
        1e-8,
    ),
)

notes = """
35 minutes. The pencil work is (13.2) and (13.3): let the class expand two steps in both orders before the cell does.
Ask
what happens for a quadratic loss (the term stays; only the remainder goes). The honest part is section 3: at equal
numbers of
gradients Reptile's share of the gain is small on this stream, and the gradients do not visibly align. Discuss why a
theorem
about one step need not decide a run of thousands. OML's bill makes a good exercise in counting what a table leaves out.
"""
