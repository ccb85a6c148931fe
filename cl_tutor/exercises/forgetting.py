"""Lesson 00: stochastic gradient descent by hand, and what it takes to compare two ways of training fairly."""

from itertools import pairwise

import torch
import torch.nn.functional as F

from .harness import Exercise


def sgd(net, batches, lr):
    """One pass of plain SGD over the batches; the loss of each batch, before its step."""
    losses = []
    for x, y, _ in batches:
        loss = F.cross_entropy(net(x), y)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads):
                p -= lr * g
        losses.append(loss.item())
    return losses


def equal_epochs(tasks, epochs):
    """Joint epochs that take as many steps as `epochs` epochs on each of `tasks` tasks in a row."""
    in_a_row = tasks * epochs
    jointly = tasks * (tasks + 1) / 2  # the i-th joint epoch passes over i tasks
    return in_a_row / jointly


def networks():
    """A linear net and one with a hidden layer, in float64, and three small batches."""
    rng = torch.Generator().manual_seed(0)
    for words, sizes in [("a linear network", (3, 2)), ("one hidden layer", (3, 5, 2))]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        net = torch.nn.Sequential(*[m for layer in layers for m in (layer, torch.nn.Tanh())][:-1]).double()
        draw = lambda n: (torch.randn(n, 3, generator=rng).double(), torch.arange(n) % 2, torch.zeros(n))
        yield words, net, [draw(4), draw(6), draw(5)], 0.3


def run(answer, net, batches, lr):
    """What an answer to q1 returns, and where it leaves the weights."""
    losses = answer(net, batches, lr)
    return losses, torch.cat([p.detach().flatten() for p in net.parameters()])


def _climbs(net, batches, lr):
    return sgd(net, batches, -lr)


def _accumulates(net, batches, lr):
    losses, total = [], [torch.zeros_like(p) for p in net.parameters()]
    for x, y, _ in batches:
        loss = F.cross_entropy(net(x), y)
        for s, g in zip(total, torch.autograd.grad(loss, list(net.parameters()))):
            s += g
        with torch.no_grad():
            for p, s in zip(net.parameters(), total):
                p -= lr * s
        losses.append(loss.item())
    return losses


def _steps_once(net, batches, lr):
    losses = [F.cross_entropy(net(x), y) for x, y, _ in batches]
    grads = torch.autograd.grad(sum(losses), list(net.parameters()))
    with torch.no_grad():
        for p, g in zip(net.parameters(), grads):
            p -= lr * g
    return [loss.item() for loss in losses]


def _reports_after(net, batches, lr):
    after = []
    for x, y, t in batches:
        sgd(net, [(x, y, t)], lr)
        after.append(F.cross_entropy(net(x), y).item())
    return after


q1 = Exercise(
    name="Stochastic gradient descent",
    reference=sgd,
    cases=networks,
    ask=run,
    mutants={
        "climbs instead of descending": _climbs,
        "keeps the old gradients and adds the new ones to them": _accumulates,
        "takes one step at the end instead of one a batch": _steps_once,
        "reports the loss after the step instead of before it": _reports_after,
        "looks at the first batch only": lambda net, batches, lr: sgd(net, batches[:1], lr),
    },
    hints=(
        "For every batch: measure the loss, find its slope in every weight, and move each weight a little downhill.",
        r"$\theta \leftarrow \theta - \eta\,\nabla L(\theta; B)$ for each batch $B$ in turn, equation (0.1). "
        "`torch.autograd.grad(loss, list(net.parameters()))` gives the slopes.",
        """
        ```python
        losses = []
        for x, y, _ in batches:
            loss = F.cross_entropy(net(x), y)
            grads = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                ...                    # p -= lr * g for every p and its g
            losses.append(loss.item())
        return losses
        ```
        """,
    ),
)

q2 = Exercise(
    name="Equal numbers of steps",
    reference=equal_epochs,
    cases=(("five tasks, nine epochs", 5, 9), ("two tasks, ten epochs", 2, 10), ("one task changes nothing", 1, 4)),
    mutants={
        "divides the epochs by the number of tasks": lambda tasks, epochs: epochs / tasks,
        "ignores that the joint epochs grow longer": lambda tasks, epochs: float(epochs),
        "counts 0 + 1 + 2 + ... tasks, one too few each time": lambda t, e: t * e / max(t * (t - 1) / 2, 1),
        "has the ratio upside down": lambda tasks, epochs: epochs * (tasks + 1) / 2,
    },
    hints=(
        "Count the samples that pass through the network, once in a row and once jointly.",
        r"In a row: $T \cdot E$ passes over one task. Jointly with $E'$ epochs each: "
        r"$E'(1 + 2 + \dots + T) = E'\,T(T+1)/2$. Set them equal.",
        """
        ```python
        in_a_row = tasks * epochs
        jointly = ...                  # passes over one task when every joint stage lasts one epoch
        return in_a_row / jointly
        ```
        """,
    ),
)

questions = ()
derivation = ()
notes = ""
