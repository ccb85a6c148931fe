"""Lesson 00: stochastic gradient descent by hand, and what it takes to compare two ways of training fairly."""

from itertools import pairwise

import torch
import torch.nn.functional as F

from .harness import Exercise
from .reader import Question
from .teacher import Step


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

questions = (
    Question(
        "capacity",
        "A network has lost task 1 after learning four more tasks. Which run shows that it was not too small for five?",
        (
            "The same network, trained on all five tasks at once, holds all five.",
            "A network twice as wide, trained on the tasks in a row, loses less of task 1.",
            "The network's loss on task 5 is as low as its loss on task 1 was when that was learnt.",
        ),
        "a",
        "One set of weights of the very same size serves all five, so it exists; training in a row does not find it.",
    ),
    Question(
        "nothing asks",
        "Why does plain SGD on task 2 do nothing to keep task 1?",
        (
            "Its learning rate is too large for what the old weights could bear.",
            "Its gradient is that of the new task's batch; the old loss is nowhere in it.",
            "The weights of task 1 are full, and must be emptied before they can store anything else.",
        ),
        "b",
        "The step is −η∇L₂(θ; B): the old task is not asked, and could only be served by luck.",
    ),
    Question(
        "floor and ceiling",
        "What do the naive run and joint training bracket?",
        (
            "The fastest and the slowest of the methods that keep no data, at the same learning rate.",
            "The smallest and the largest network that could learn the stream.",
            "What doing nothing leaves, and what keeping all data allows.",
        ),
        "c",
        "A method's number means little alone: it is read between this floor and this ceiling, at equal steps.",
    ),
    Question(
        "equal steps",
        "Joint training passes over i tasks at its stage i, for 10 epochs each, as long as the naive run's. With 5 "
        "tasks, how many steps does it take for one of the naive run?",
        ("Five", "Three", "One"),
        "b",
        "1 + 2 + 3 + 4 + 5 = 15 passes over a task for 5, times the same epochs: three to one.",
    ),
    Question(
        "how fast",
        "When is most of task 1 lost, in a network that learns five permuted tasks in a row?",
        (
            "Steadily, about a fifth with each of the five tasks.",
            "At the last task, once the weights can hold no more of them.",
            "Early: one pass over task 2 already takes a large part.",
        ),
        "c",
        "In lesson 00 about half was gone after a single epoch of task 2: a fall, not a slow fading.",
    ),
    Question(
        "permuted",
        "Why are permuted digits a good first stream?",
        (
            "To a network without convolutions every permutation is equally hard, so the tasks differ in nothing else.",
            "The pixels keep their neighbours, so that a feature learnt on task 1 helps on task 2.",
            "The label of an image changes from task to task, which makes the conflict plain.",
        ),
        "a",
        "A fixed shuffle of the inputs is undone by a shuffle of the first layer's weights: the same difficulty, and "
        "nothing shared but the labels.",
    ),
)


def _slope_by_differences():
    """The largest difference between the gradient and central differences of the loss, over all weights."""
    _, net, batches, _ = list(networks())[1]
    x, y, _ = batches[0]
    loss = lambda: F.cross_entropy(net(x), y)
    worst, h = 0.0, 1e-5
    for p, g in zip(net.parameters(), torch.autograd.grad(loss(), list(net.parameters()))):
        for k in range(p.numel()):
            with torch.no_grad():
                p.view(-1)[k] += h
                up = loss().item()
                p.view(-1)[k] -= 2 * h
                down = loss().item()
                p.view(-1)[k] += h
            worst = max(worst, abs((up - down) / (2 * h) - g.flatten()[k].item()))
    return worst


def _mean_of_gradients():
    """The gradient of a mixed batch, minus the mean of the tasks' gradients."""
    _, net, _, _ = list(networks())[1]
    parts = [(torch.randn(6, 3).double(), torch.arange(6) % 2) for _ in range(4)]
    slope = lambda x, y: torch.cat(
        [g.flatten() for g in torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))]
    )
    mixed = slope(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
    return (mixed - sum(slope(x, y) for x, y in parts) / 4).abs().max().item()


def _steps():
    """Passes over one task, counted stage by stage, in a row and jointly with `equal_epochs`."""
    gaps = []
    for tasks, epochs in [(5, 9), (2, 10), (7, 4)]:
        stages = sum(equal_epochs(tasks, epochs) for stage in range(tasks) for _ in range(stage + 1))
        gaps.append(abs(stages - tasks * epochs))
    return max(gaps)


derivation = (
    Step(
        "0.1",
        r"""A step of gradient descent on the loss of one batch moves every weight against its own slope: $\theta
        \leftarrow \theta - \eta\,\nabla L_k(\theta; B)$. Each entry of $\nabla L_k$ is what the loss changes per
        unit of one weight, $\partial L_k/\partial\theta_i = \lim_{h\to 0}\,[L_k(\theta + h e_i) - L_k(\theta - h e_i)]
        / 2h$ with $e_i$ one step along weight $i$. Autograd finds all of them in one pass; the residual is its
        largest difference from that quotient with $h = 10^{-5}$. The batch comes from task $k$: no other task
        is asked.""",
        _slope_by_differences,
        tol=1e-8,
    ),
    Step(
        "0.2",
        r"""The loss of the first $i$ tasks is the mean $L_{1:i} = \frac1i \sum_{k\le i} L_k$. A gradient is linear, so
        $\nabla L_{1:i} = \frac1i \sum_{k\le i} \nabla L_k$: a joint step is the mean of what every task asks
        for. The residual compares the gradient of one batch in which four tasks are mixed in equal parts with
        the mean of the four gradients.""",
        _mean_of_gradients,
    ),
    Step(
        "0.3",
        r"""Equal steps. In a row, $T$ tasks with $E$ epochs each are $T E$ passes over one task. Joint stage $i$ passes
        over $i$ tasks in each of its $E'$ epochs, so all stages make $E'(1 + 2 + \dots + T) = E'\,T(T+1)/2$
        passes. Both are equal when $E' = 2E/(T+1)$: for $T = 5$ the joint stages get a third of the epochs.""",
        _steps,
    ),
)

notes = """
Timing: 30 minutes alone; in class 10 for the prediction and the collapse, 10 for joint training, 10 for the
exercises. Collect the predictions on the board before anybody runs the cell of section 2: most say that a half or
more is left, and the surprise is the lesson.

Listen for two misconceptions. *The network is full*: let the sceptics run the joint cell on a network of 20 hidden
units; it still holds five tasks far better than a wide one trained in a row. *It would keep more if it trained
longer, or shorter*: section 5 counts steps, and the exercise on equal epochs is worth doing on paper, since
published comparisons get it wrong. Ask at the end which of the two repairs keeps data, and what that costs: it is
the question of the course.
"""
