"""Lesson 01: what one step does to another task's loss, and the angle between two gradients, layer by layer.

The mutants are mistakes that leave a healthy-looking number behind: a sign, a learning rate, a norm, the biases.
"""

import numpy as np
import torch
from torch.func import grad, hessian

from .harness import Exercise
from .reader import Question
from .teacher import Step


def predicted_change(g1, g2, lr):
    """First-order change of task 1's loss when the weights take one step of size lr on task 2."""
    dot = sum((g1[name] * g2[name]).sum() for name in g1)
    return -lr * dot


def layer_cosines(a, b):
    """The cosine within each layer: `fc.weight` and `fc.bias` together are layer `fc`."""
    cosines = {}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in a):
        u = torch.cat([a[name].flatten() for name in a if name.rpartition(".")[0] == layer])
        v = torch.cat([b[name].flatten() for name in a if name.rpartition(".")[0] == layer])
        cosines[layer] = u @ v / (u.norm() * v.norm())
    return cosines


def gradients():
    """Pairs of gradients of two layers, of which one has far more weights and the other the larger bias."""
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
    by_hand = [[[1.0, 2.0]], [2.0], [[0.5]], [1.0]], [[[2.0, -4.0]], [-1.0], [[4.0]], [3.0]]
    names = ("body.0.weight", "body.0.bias", "head.weight", "head.bias")
    a, b = ({n: torch.tensor(v, dtype=torch.float64) for n, v in zip(names, side)} for side in by_hand)
    yield "two layers, by hand", a, b
    for words, turn in [("two tasks at odds", -0.6), ("two tasks alike", 0.8)]:
        a = {"body.0.weight": draw(4, 3), "body.0.bias": draw(4), "head.weight": draw(2, 4), "head.bias": 3 * draw(2)}
        yield words, a, {n: turn * g + 0.5 * draw(*g.shape) for n, g in a.items()}


def gradients_and_rates():
    return [(words, a, b, lr) for (words, a, b), lr in zip(gradients(), (0.1, 0.02, 0.3))]


def _weights(g):
    return {name: value for name, value in g.items() if not name.endswith("bias")}


def _layer(g, layer):
    return torch.cat([value.flatten() for name, value in g.items() if name.rpartition(".")[0] == layer])


def _per_layer(rule):
    """Layer cosines with another rule: `rule(u, v)` for the vectors of one layer."""
    return lambda a, b: {k: rule(_layer(a, k), _layer(b, k)) for k in {n.rpartition(".")[0] for n in a}}


def _tensor_by_tensor(a, b):
    pairs = {n: a[n].flatten() @ b[n].flatten() / (a[n].norm() * b[n].norm()) for n in a}
    return {k: (pairs[f"{k}.weight"] + pairs[f"{k}.bias"]) / 2 for k in {n.rpartition(".")[0] for n in a}}


def _whole_norms(a, b):
    norm = lambda g: torch.cat([v.flatten() for v in g.values()]).norm()
    return {k: _layer(a, k) @ _layer(b, k) / (norm(a) * norm(b)) for k in {n.rpartition(".")[0] for n in a}}


q1 = Exercise(
    name="First-order prediction",
    reference=predicted_change,
    cases=gradients_and_rates,
    mutants={
        "has the sign the wrong way round": lambda g1, g2, lr: -predicted_change(g1, g2, lr),
        "forgets the learning rate": lambda g1, g2, lr: predicted_change(g1, g2, 1.0),
        "leaves the biases out": lambda g1, g2, lr: predicted_change(_weights(g1), _weights(g2), lr),
        "takes the cosine instead of the dot product": lambda g1, g2, lr: (
            predicted_change(g1, g2, lr) / (predicted_change(g1, g1, 1.0) * predicted_change(g2, g2, 1.0)).sqrt()
        ),
        "takes a mean over the entries of each tensor instead of their sum": lambda g1, g2, lr: (
            -lr * sum((g1[n] * g2[n]).mean() for n in g1)
        ),
        "asks what the step does to task 2 itself": lambda g1, g2, lr: predicted_change(g2, g2, lr),
    },
    hints=(
        "A step on task 2 moves every weight by −η times its own slope. How much does the old loss change for each "
        "unit by which that weight moves? Add up over all weights, biases included.",
        r"$\Delta L_1 \approx g_1 \cdot \Delta\theta$ with $\Delta\theta = -\eta\, g_2$, which is (1.2). The dot "
        "product runs over every entry of every tensor.",
        """
        ```python
        dot = sum((g1[name] * ...).sum() for name in g1)
        return ... * dot
        ```
        """,
    ),
)

q2 = Exercise(
    name="A cosine for each layer",
    reference=layer_cosines,
    cases=gradients,
    mutants={
        "leaves the biases out": lambda a, b: layer_cosines(_weights(a), _weights(b)),
        "does not divide by the norms": _per_layer(lambda u, v: u @ v),
        "divides by one norm only": _per_layer(lambda u, v: u @ v / v.norm()),
        "divides by the norms squared": _per_layer(lambda u, v: u @ v / (u @ u * (v @ v))),
        "has the sign the wrong way round": _per_layer(lambda u, v: -(u @ v) / (u.norm() * v.norm())),
        "takes the mean of the weight's cosine and the bias's": _tensor_by_tensor,
        "divides by the norms of the whole gradient, not of the layer": _whole_norms,
    },
    hints=(
        "Two tensors belong to each layer, and the layer's gradient is one vector that holds both. "
        "An angle between vectors does not care how long they are.",
        r"$\cos = \dfrac{u \cdot v}{\lVert u \rVert\, \lVert v \rVert}$, equation (1.3), where $u$ and $v$ hold the "
        'weight and the bias of one layer. `"fc.weight".rpartition(".")[0]` is `"fc"`.',
        """
        ```python
        cosines = {}
        for layer in dict.fromkeys(name.rpartition(".")[0] for name in a):
            u = torch.cat([a[name].flatten() for name in a if name.rpartition(".")[0] == layer])
            v = ...
            cosines[layer] = ...
        return cosines
        ```
        """,
    ),
)

questions = (
    Question(
        "first order",
        "A step of size η on task 2 is taken. What happens to the loss of task 1, to first order?",
        (
            "It changes by −η times the dot product of the two gradients.",
            "It rises by η times the length of task 2's gradient, whatever task 1's is.",
            "It changes by −η times the cosine between the two gradients.",
        ),
        "a",
        "Equation (1.2): ΔL₁ ≈ −η g₁·g₂. The cosine has lost the lengths, and a change of loss needs them.",
    ),
    Question(
        "slope two",
        "On log-log axes the error of the first-order prediction falls along a line of slope 2. What does that prove?",
        (
            "That the two gradients conflict in half of the steps, the smaller ones.",
            "That the next term is proportional to η²: the first order is right, and what is missing is curvature.",
            "That the loss is a quadratic function of the weights.",
        ),
        "b",
        "What is left after the right first-order term is ½η² g₂ᵀH₁g₂ + O(η³); a wrong first-order term leaves "
        "slope 1.",
    ),
    Question(
        "orthogonal",
        "At the bottom of task 1's valley g₁ = 0. Can a long step on task 2 still harm task 1?",
        (
            "No: the dot product is 0, so the loss of task 1 stays as it is.",
            "Only if the gradients were opposed before the step.",
            "Yes, through curvature: the step may climb the valley's wall.",
        ),
        "c",
        "The second term, ½η² g₂ᵀH₁g₂, needs no slope; in lesson 01 one nearly orthogonal step did most of the damage.",
    ),
    Question(
        "counting conflicts",
        "Does the share of steps with g₁·g₂ < 0 measure forgetting?",
        (
            "No: an angle knows nothing of lengths or of curvature, and both decide how much is lost.",
            "Yes: each such step raises the old loss by about the same amount.",
            "Yes, as long as the share is taken over three seeds.",
        ),
        "a",
        "In Task-IL most small steps conflict and next to nothing is lost; at large steps most agree and much is lost.",
    ),
    Question(
        "accumulating grads",
        "Somebody measures g₁ and g₂ with two calls of `backward()` and no `zero_grad()` between. What do they report?",
        (
            "Cosines that are too small, since the gradients cancel.",
            "Cosines near 0, since the second gradient is lost.",
            "Cosines that look friendly: the second gradient contains the first.",
        ),
        "c",
        '`backward()` adds, so the "new" gradient is g₁ + g₂, and everything agrees with a sum that contains it.',
    ),
    Question(
        "random angle",
        "Two random vectors in 17,610 dimensions: how large is a typical |cosine| between them?",
        ("About 0.25", "About 0.008, one over the root of the dimension", "About 0.5, as for two random numbers"),
        "b",
        'The mean of cos² is 1/P exactly. "Nearly orthogonal" is what chance alone gives, real gradients are less so.',
    ),
)


def _toy():
    """Two smooth losses of five weights that are no quadratics, and where to stand."""
    rng = torch.Generator().manual_seed(3)
    x, z = (torch.randn(12, 5, generator=rng).double() for _ in range(2))
    y = (torch.arange(12) % 2 * 2 - 1).double()
    loss = lambda data: lambda w: torch.log1p(torch.exp(-y * torch.tanh(data @ w))).mean()
    return loss(x), loss(z), 0.5 * torch.randn(5, generator=rng).double()


def _along_the_step():
    """First and second derivative of η -> L₁(θ − ηg₂) at 0, minus what (1.1) says they are."""
    L1, L2, theta = _toy()
    g1, g2, H1 = grad(L1)(theta), grad(L2)(theta), hessian(L1)(theta)
    along = lambda eta: L1(theta - eta * g2)
    zero = torch.zeros((), dtype=torch.float64)
    return max(abs(grad(along)(zero) + g1 @ g2), abs(grad(grad(along))(zero) - g2 @ H1 @ g2)).item()


def _rest_of_a_bowl():
    """For a quadratic loss the error of (1.2), divided by η², is the same number at every η."""
    A = torch.tensor([[2.0, 0.3], [0.3, 0.5]]).double()
    L1 = lambda w: 0.5 * w @ A @ w
    theta, g2 = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.4, 0.7]).double()
    g1 = grad(L1)(theta)
    rest = [(L1(theta - eta * g2) - L1(theta) + eta * g1 @ g2) / eta**2 for eta in (0.01, 0.1, 1.0)]
    return max(abs(r - g2 @ A @ g2 / 2).item() for r in rest)


def _lengths_drop_out():
    """The cosine of scaled gradients minus that of the gradients themselves."""
    _, a, b = next(gradients())
    scaled = layer_cosines({n: 7 * g for n, g in a.items()}, {n: 0.01 * g for n, g in b.items()})
    return max(abs(scaled[layer] - c).item() for layer, c in layer_cosines(a, b).items())


def _chance():
    """The mean of cos²(u, q) over an orthonormal basis q of 40 dimensions, minus 1/40."""
    Q = torch.linalg.qr(torch.randn(40, 40).double())[0]
    u = torch.randn(40).double()
    return ((Q.T @ u / u.norm()).square().mean() - 1 / 40).abs().item()


def _integral():
    """The rest of (1.2) minus the integral of (1.4), by Gauss's rule with 20 nodes."""
    L1, L2, theta = _toy()
    g1, g2 = grad(L1)(theta), grad(L2)(theta)
    nodes, parts = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(20))
    bent = lambda s: g2 @ hessian(L1)(theta - s * g2) @ g2
    integral = sum(w / 2 * (1 - s) * bent(s) for w, s in zip(parts, (nodes + 1) / 2))
    return (L1(theta - g2) - L1(theta) + g1 @ g2 - integral).abs().item()


derivation = (
    Step(
        "1.1",
        r"""A step on task 2 moves the weights along a line: watch only $h(\eta) = L_1(\theta - \eta\, g_2)$, a
        function of one number. By the chain rule $h'(0) = -g_1 \cdot g_2$ and $h''(0) = g_2^\top H_1\, g_2$, with
        $H_1$ the matrix of second derivatives of $L_1$ at $\theta$. Taylor's theorem in one dimension then gives
        $L_1(\theta - \eta g_2) = L_1(\theta) - \eta\, g_1\cdot g_2 + \frac12\eta^2 g_2^\top H_1 g_2 +
        O(\eta^3)$. The residual compares both derivatives with autograd's.""",
        _along_the_step,
    ),
    Step(
        "1.2",
        r"""For small $\eta$ keep the first term, $\Delta L_1 \approx -\eta\, g_1\cdot g_2$. What is dropped shrinks
        like $\eta^2$: on log-log axes the error is a line of slope 2. For a quadratic loss there is no $O(\eta^3)$
        at all, so the error divided by $\eta^2$ is exactly $\frac12 g_2^\top H_1 g_2$ at every $\eta$: that is
        the residual, at $\eta = 0.01$, $0.1$ and $1$.""",
        _rest_of_a_bowl,
    ),
    Step(
        "1.3",
        r"""Divide the dot product by both lengths and only agreement is left: $\cos(g_1, g_2) = g_1\cdot g_2 / (\lVert
        g_1\rVert\,\lVert g_2\rVert)$. Multiply either gradient by a positive number and the cosine stays, while
        $\Delta L_1$ of (1.2) is multiplied too: an angle cannot measure harm. The residual scales one gradient
        by 7, the other by 0.01.""",
        _lengths_drop_out,
    ),
    Step(
        "1.3, by chance",
        r"""How large is a cosine between directions that have nothing to do with each other? Let $q_1, \dots, q_P$
        be an orthonormal basis and $u$ a vector of length 1. By Pythagoras $\sum_k (u\cdot q_k)^2 = 1$, so the mean
        of $\cos^2$ over the basis is $1/P$ exactly. A random direction is the first vector of a randomly turned
        basis, so $\mathbb{E}\cos^2 = 1/P$ and a typical $|\cos|$ is $1/\sqrt P$.""",
        _chance,
    ),
    Step(
        "1.4",
        r"""The rest, without approximation. Integrate $h''$ twice from 0 to $\eta$ and substitute $s$ for the
        fraction of the step: $\Delta L_1 = -\eta\, g_1\cdot g_2 + \eta^2 \int_0^1 (1-s)\, g_2^\top H_1(\theta - s\eta
        g_2)\, g_2\, ds$. So whatever the dot product misses is a weighted mean of the curvature of $L_1$ along
        the step, early parts of the step counting most. The residual takes $\eta = 1$ on a loss that is no
        bowl, and Gauss's rule for the integral.""",
        _integral,
    ),
)

notes = """
Timing: 35 minutes alone, 45 in class with the derivation on the board ("cl-tutor sheet 1" prints it). Draw the line
from θ to θ − ηg₂ first, and treat it as a function of one number: those who fear Hessians follow that.

Ask for a show of hands before section 3: in what share of lesson 00's steps do the gradients conflict? Nearly
everybody says more than half. The answer, about a third, is worth five minutes: the popular account (conflict, many
times over, erodes the old task) is true for small steps and false for those that people take. Misconceptions to
listen for: that orthogonal means harmless (not at the end of a long step), that the cosine measures harm (it has no
lengths), and that two tasks have one angle (the arrows in section 2 change it by a walk of a few units). The bug of
section 7 is easy to plant in a student's own code: let them find it by a test, two gradients that are orthogonal by
construction.
"""
