"""Lesson 04: the curvature of a softmax, and the diagonal Fisher sample by sample.

The mutants of the Fisher are those of published code: the square of a batch mean, the square of a sum of gradients, the
labels of the data set, classes that all count alike, dropout left on. Each runs, and each looks like importance.
"""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F

from .harness import Exercise


def logit_curvature(z):
    """Second derivatives (C, C) of the cross-entropy −log softmax(z)_y by the logits z (C,). No y is needed."""
    p = z.softmax(0)
    return torch.diag(p) - torch.outer(p, p)


def fisher(net, x, y):
    """diag F over the images x, one tensor for each of net.parameters(); y are their labels in the data set."""
    net.eval()  # or dropout would hide a part of the network from every score
    weights = list(net.parameters())
    total = [torch.zeros_like(w) for w in weights]
    for image in x:
        log_p = net(image[None]).log_softmax(1)[0]
        for c, p in enumerate(log_p.exp().tolist()):
            score = torch.autograd.grad(log_p[c], weights, retain_graph=True)
            total = [f + p * s**2 / len(x) for f, s in zip(total, score)]
    return total


def logits():
    real = lambda *z: torch.tensor(z, dtype=torch.float64)
    yield "two classes", real(0.3, -0.5)
    yield "four classes", real(2.0, -1.0, 0.5, 0.0)
    yield "a network that is almost sure", real(0.0, 6.0, -1.0)


def networks():
    """Linear, with a hidden layer, and with dropout, handed over in training mode; float64, labels often surprising."""
    rng = torch.Generator().manual_seed(4)
    for words, sizes, drop in [("a linear network", (3, 2), 0.0), ("one hidden layer", (3, 4, 3), 0.0),
                               ("dropout, left in training mode", (3, 6, 3), 0.5)]:  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        between = (torch.nn.Tanh(), torch.nn.Dropout(drop)) if drop else (torch.nn.Tanh(),)
        net = torch.nn.Sequential(*[m for k, layer in enumerate(layers) for m in (*(between if k else ()), layer)])
        x = 2 * torch.randn(5, 3, generator=rng, dtype=torch.float64)
        yield words, net.double().train(), x, torch.arange(5) % sizes[-1]


def _scores(net, x):
    """Labels on one side, everything on the other: log p (N, C), and the scores of sample n and class c."""
    net = copy.deepcopy(net).eval()
    log_p = net(x).log_softmax(1)
    weights = list(net.parameters())
    return log_p.exp().detach(), lambda n, c: torch.autograd.grad(log_p[n, c], weights, retain_graph=True)


def _weighted(rule):
    """Σ_n Σ_c of rule(p, score) / N, another weight or another power than the right one."""

    def mutant(net, x, y):
        p, score = _scores(net, x)
        parts = [[rule(q, s) / len(x) for s in score(n, c)] for n, row in enumerate(p) for c, q in enumerate(row)]
        return [sum(layer) for layer in zip(*parts)]

    return mutant


def _labelled(pick):
    """One label a sample, `pick(p (N, C), y)`, as if the network had drawn it."""

    def mutant(net, x, y):
        p, score = _scores(net, x)
        parts = [[s**2 / len(x) for s in score(n, c)] for n, c in enumerate(pick(p, y))]
        return [sum(layer) for layer in zip(*parts)]

    return mutant


def _batch(reduction):
    """The gradient of the whole batch's loss, squared."""

    def mutant(net, x, y):
        net = copy.deepcopy(net).eval()
        loss = F.cross_entropy(net(x), y, reduction=reduction)
        return [g**2 for g in torch.autograd.grad(loss, list(net.parameters()))]

    return mutant


def _dropout_on(net, x, y):
    net.eval = lambda: net  # whoever forgets it
    return fisher(net, x, y)


q1 = Exercise(
    name="The curvature of a softmax",
    reference=logit_curvature,
    cases=logits,
    mutants={
        "has the sign of the second term the wrong way round": lambda z: (
            torch.diag(z.softmax(0)) + torch.outer(z.softmax(0), z.softmax(0))
        ),
        "has every sign the wrong way round": lambda z: -logit_curvature(z),
        "keeps the diagonal only": lambda z: torch.diag(z.softmax(0) * (1 - z.softmax(0))),
        "forgets that raising one logit lowers every other probability": lambda z: torch.diag(z.softmax(0)),
        "leaves the logits as they are, without a softmax": lambda z: torch.diag(z) - torch.outer(z, z),
    },
    hints=(
        "Differentiate twice. The cross-entropy's first derivative by the logits is p minus the one-hot label: the "
        "label is a constant in it, and the second derivative no longer knows it.",
        r"$\dfrac{\partial p_c}{\partial z_d} = p_c\,(\mathbf 1[c = d] - p_d)$: a diagonal, minus an outer product.",
        """
        ```python
        p = z.softmax(0)
        return torch.diag(...) - torch.outer(..., ...)
        ```
        """,
    ),
)

q2 = Exercise(
    name="The diagonal Fisher, sample by sample",
    reference=fisher,
    cases=networks,
    mutants={
        "lets the labels of the data set in": _labelled(lambda p, y: y.tolist()),
        "squares the gradient of the batch mean": _batch("mean"),
        "adds the gradients up and squares their sum": _batch("sum"),
        "forgets to weigh the classes by p": _weighted(lambda p, s: s**2),
        "weighs the score by p before it is squared": _weighted(lambda p, s: (p * s) ** 2),
        "takes the most likely class only": _labelled(lambda p, y: p.argmax(1).tolist()),
        "adds up over the samples instead of taking their mean": lambda net, x, y: [
            len(x) * f for f in fisher(net, x, y)
        ],
        "leaves dropout on": _dropout_on,
        "forgets the square": _weighted(lambda p, s: p * s),
    },
    hints=(
        "Two loops: over the images and the classes. For each pair one gradient of log p, squared *there and then*, "
        "and weighed by how much the network itself believes in that class. What are the labels for? And is the "
        "network in the right mode?",
        r"$F_{ii} = \frac1N \sum_n \sum_c p(c\mid x_n)\, s_i(x_n, c)^2$, equation (4.6). `net.eval()` switches dropout "
        "off; `image[None]` is a batch of one.",
        """
        ```python
        net.eval()
        weights = list(net.parameters())
        total = [torch.zeros_like(w) for w in weights]
        for image in x:
            log_p = net(image[None]).log_softmax(1)[0]
            for c, p in enumerate(log_p.exp().tolist()):
                score = torch.autograd.grad(..., weights, retain_graph=True)
                total = [f + ... for f, s in zip(total, score)]
        return total
        ```
        """,
    ),
)

questions = ()
derivation = ()
notes = ""
