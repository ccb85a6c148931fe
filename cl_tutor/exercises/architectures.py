"""Lesson 10: PackNet's mask, the drift of a weight without a gradient, and the size of a Progressive Network.

The mutants are the mistakes that leave a healthy-looking run: a mask that takes old weights again, or the wrong ones; a
frozen weight that the optimiser still moves; a bill that forgets what grows.
"""

from itertools import pairwise

import torch

from ..methods.architectures import PackNet, Progressive
from .harness import Exercise
from .reader import Question
from .teacher import Step


def pack(weight, owner, keep, task):
    """The owners after task `task` of one layer: of its free weights (owner 0), the largest by size get this task."""
    free = owner == 0
    count = round(keep * int(free.sum()))
    best = weight.abs().masked_fill(~free, -1).flatten().topk(count).indices
    owner = owner.clone()
    owner.view(-1)[best] = task
    return owner


def drift(velocity, lr, momentum, steps):
    """How far SGD with momentum moves a weight in `steps` steps whose gradients are all 0, from its old velocity."""
    return -lr * velocity * sum(momentum**s for s in range(1, steps + 1))


def parameters(sizes, tasks):
    """All weights and biases of a Progressive Network with one column a task, laterals included."""
    ins, outs = sizes[:-1], sizes[1:]
    column = sum(a * b + b for a, b in zip(ins, outs))
    lateral = sum(a * b for a, b in zip(ins[1:], outs[1:]))
    return tasks * column + tasks * (tasks - 1) // 2 * lateral


def layers():
    """Layers with weights of both signs, some of them taken by earlier tasks."""
    rng = torch.Generator().manual_seed(0)
    for words, shape, taken, keep, task in [
        ("first task, all free", (3, 4), 0, 0.5, 1),
        ("second task, half of the layer taken", (4, 4), 8, 0.5, 2),
        ("third task, keeps a quarter", (5, 6), 14, 0.25, 3),
    ]:
        weight = torch.randn(shape, generator=rng).double()
        owner = torch.zeros(shape, dtype=torch.int16)
        owner.view(-1)[torch.randperm(owner.numel(), generator=rng)[:taken]] = 1
        weight[owner > 0] *= 3  # what an earlier task has kept is large
        yield words, weight, owner, keep, task


def _pack(scores, count=lambda keep, owner: round(keep * int((owner == 0).sum()))):
    """A wrong mask: with these scores, and this number of weights."""

    def wrong(weight, owner, keep, task):
        best = scores(weight, owner).flatten().topk(count(keep, owner)).indices
        owner = owner.clone()
        owner.view(-1)[best] = task
        return owner

    return wrong


def _all_pairs(sizes, tasks):
    column = sum(a * b + b for a, b in pairwise(sizes))
    return tasks * column + tasks * (tasks - 1) // 2 * sum(a * b for a, b in pairwise(sizes))


q1 = Exercise(
    name="PackNet's mask",
    reference=pack,
    cases=layers,
    mutants={
        "takes the largest of all weights, those of earlier tasks as well": _pack(lambda w, o: w.abs()),
        "looks at the signed value instead of its size": _pack(lambda w, o: w.masked_fill(o > 0, -9.0)),
        "keeps the smallest instead of the largest": _pack(lambda w, o: -w.abs().masked_fill(o > 0, 9.0)),
        "keeps a share of the whole layer instead of its free part": _pack(
            lambda w, o: w.abs().masked_fill(o > 0, -1.0), lambda keep, o: round(keep * o.numel())
        ),
    },
    hints=(
        "Three questions in turn: which weights are free, how many of them may this task keep, and which are the "
        "largest?",
        "Count: `round(keep * number of free weights)`. To leave the taken ones out of the contest, give them a size "
        "of −1, below every true one.",
        """
        ```python
        free = owner == 0
        count = ...                    # the share `keep` of the free ones, a whole number
        best = weight.abs().masked_fill(~free, -1).flatten().topk(count).indices
        owner = owner.clone()
        owner.view(-1)[best] = ...
        return owner
        ```
        """,
    ),
)

q2 = Exercise(
    name="The drift of a frozen weight",
    reference=drift,
    cases=(("a long wait", 1.0, 0.1, 0.9, 200), ("three steps", -2.0, 0.05, 0.5, 3), ("no momentum", 1.0, 0.1, 0.0, 9)),
    mutants={
        "believes that no gradient means no movement": lambda v, lr, m, steps: 0.0,
        "lets the velocity stay as it is": lambda v, lr, m, steps: -lr * v * m * steps,
        "counts one step too many, with the velocity before it shrinks": lambda v, lr, m, steps: (
            -lr * v * sum(m**s for s in range(steps))
        ),
        "moves with the sign of the velocity": lambda v, lr, m, steps: -drift(v, lr, m, steps),
    },
    hints=(
        "Without a gradient the velocity only shrinks, and the weight moves by the learning rate times what is left.",
        r"In step $i$ the velocity is $v\,a^i$ with momentum $a$; the weight moves by $-\eta\,v\,a^i$. Add up.",
        """
        ```python
        return -lr * velocity * sum(... for s in range(1, steps + 1))
        ```
        """,
    ),
)

q3 = Exercise(
    name="The size of a Progressive Network",
    reference=parameters,
    cases=(("one column", (64, 30, 10), 1), ("three tasks", (4, 3, 2), 3), ("deep, eight tasks", (9, 8, 7, 6, 5), 8)),
    mutants={
        "forgets the laterals": lambda sizes, tasks: tasks * sum(a * b + b for a, b in pairwise(sizes)),
        "forgets the biases": lambda sizes, tasks: parameters(sizes, tasks) - tasks * sum(sizes[1:]),
        "lets laterals enter the first layer too": _all_pairs,
        "connects each column to the one before it only": lambda sizes, tasks: (
            tasks * sum(a * b + b for a, b in pairwise(sizes))
            + (tasks - 1) * sum(a * b for a, b in pairwise(sizes[1:]))
        ),
    },
    hints=(
        "Price one column alone, then one lateral from one older column; then count the pairs of columns.",
        r"A layer from $a$ to $b$ units costs $ab + b$; a lateral into it $ab$, without a bias, and none enters the "
        r"first layer. There are $T(T-1)/2$ pairs of an older and a newer column.",
        """
        ```python
        ins, outs = sizes[:-1], sizes[1:]
        column = sum(a * b + b for a, b in zip(ins, outs))
        lateral = ...                  # the layers after the first, no biases
        return tasks * column + ... * lateral
        ```
        """,
    ),
)

questions = (
    Question(
        "exact zero",
        "PackNet's forgetting is exactly 0, not merely small. What is the reason?",
        (
            "Its penalty on old weights is very strong.",
            "No weight that an old task reads ever moves again.",
            "Every task is trained until its loss is 0.",
        ),
        "b",
        "An old task's function is the same bits as before, so its accuracy is the same number.",
    ),
    Question(
        "frozen by gradient",
        "You set the gradient of a frozen weight to 0 before each step. Which optimiser still moves it?",
        (
            "Plain SGD with a large learning rate.",
            "SGD with weight decay.",
            "None: without a gradient there is no step.",
        ),
        "b",
        "Weight decay and momentum act inside the step, after the gradient was masked.",
    ),
    Question(
        "laterals",
        "A Progressive Network of T columns, each reading all older ones, has how many weights for large T?",
        ("Of the order of T².", "Of the order of T.", "Of the order of 2 to the power T."),
        "a",
        "Column k carries laterals from k older columns, and 0 + 1 + ... + (T − 1) grows like T².",
    ),
    Question(
        "one bit",
        "What does SupSup keep for each new task?",
        (
            "A new head of trained weights.",
            "A copy of the network with half of its weights.",
            "One bit for every weight.",
        ),
        "c",
        "The random weights are the same for all tasks, and a task is a mask over them.",
    ),
    Question(
        "what it costs",
        "PackNet with keep = 0.5 meets its eighth task. What goes wrong?",
        (
            "It forgets the first task.",
            "It has hardly a weight left to learn with.",
            "It can no longer tell the tasks apart.",
        ),
        "b",
        "Each task takes half of what is free: before the eighth little is left, and mostly weights that never move.",
    ),
)


def _masked_net_moves():
    """How far does a masked function move when only free weights move?"""
    weight, x = torch.randn(4, 6).double(), torch.randn(9, 6).double()
    mask = torch.rand(4, 6) < 0.5
    moved = torch.where(mask, weight, torch.randn(4, 6).double())
    return ((moved * mask) @ x.T - (weight * mask) @ x.T).abs().max().item()


def _free_after_three():
    owner = torch.zeros(8, 8, dtype=torch.int16)
    for task in (1, 2, 3):
        owner = pack(torch.randn(8, 8).double(), owner, 0.5, task)
    return (owner == 0).double().mean().item() - 0.5**3


def _drift_of_sgd():
    w = torch.nn.Parameter(torch.tensor(1.0).double())
    opt = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    w.grad = torch.tensor(2.0).double()
    opt.step()  # the velocity is now 2
    before = w.item()
    for _ in range(7):
        w.grad = torch.tensor(0.0).double()
        opt.step()
    return w.item() - before - (-0.1 * 2 * 0.9 * (1 - 0.9**7) / (1 - 0.9))


def _bill_of_four():
    net = Progressive((6, 5, 4, 3))
    for _ in range(3):
        net.extend()
    return float(sum(p.numel() for p in net.parameters()) - parameters((6, 5, 4, 3), 4))


def _supsup_bits():
    """PackNet's bill on a net of one layer is 32 bits for what it owns and one bit a weight."""
    method = PackNet()
    method.owner_ = {"w": pack(torch.randn(8, 8), torch.zeros(8, 8, dtype=torch.int16), 0.5, 1)}
    return float(method.bill()[0].bits - (32 * 32 + 64))


derivation = (
    Step(
        "10.1",
        r"Task $k$ is answered by $f_k(x) = f(x; \theta \odot m_k)$, the network with all weights outside its "
        r"mask $m_k$ "
        r"erased. If a later step moves only weights outside $m_k$, then $\theta \odot m_k$ is the same vector, "
        r"and $f_k$ "
        r"the same function, bit for bit: whatever is computed from it, accuracy too, cannot change.",
        _masked_net_moves,
        0.0,
    ),
    Step(
        "10.2",
        r"Hence every row of $R$ below the diagonal repeats it, $R_{i,k} = R_{k,k}$ for $i \ge k$, and BWT, the "
        r"mean of "
        r"$R_{T,k} - R_{k,k}$, is exactly 0. The price is bits: the weights that the task owns, 32 each, and one "
        r"bit for "
        r"every weight to say whose it is.",
        _supsup_bits,
        0.0,
    ),
    Step(
        "10.3",
        r"Let every task keep the share $r$ of what is free. Free are 1, then $1 - r$, then $(1 - r)^2$ of the "
        r"weights: "
        r"after $k$ tasks $(1 - r)^k$. With $r = \frac12$ the eighth task begins with less than one per cent.",
        _free_after_three,
    ),
    Step(
        "10.4",
        r"SGD with momentum $a$ keeps a velocity, $v \leftarrow a v + g$ and $\theta \leftarrow \theta - \eta v$. "
        r"From the "
        r"moment at which $g = 0$ the velocity is $a v, a^2 v, \dots$, and the weight moves by "
        r"$-\eta v (a + a^2 + \dots + a^n) = -\eta\, v\, a\, \frac{1 - a^n}{1 - a}$: for $a = 0.9$ up to nine "
        r"more steps.",
        _drift_of_sgd,
    ),
    Step(
        "10.5",
        r"A Progressive column has $P$ weights of its own. Into each layer after the first it reads the $k$ older "
        r"columns, "
        r"$\sum_\ell a_\ell b_\ell$ weights for each. Summed over the columns $0 \dots T - 1$ this is "
        r"$T P + \frac{T(T-1)}{2} \sum_\ell a_\ell b_\ell$: of the order of $T^2$, not of $T$.",
        _bill_of_four,
        0.0,
    ),
)

notes = """
35 minutes. Let the class vote on accuracy of the eighth task before it runs: most expect forgetting to come back,
and see
instead that nothing is forgotten and nothing is learnt any more. Section 3 is the part to do live: ask who would
notice the
drift in a curve of accuracies. A common misconception is that a masked gradient freezes a weight; another that "zero
forgetting" is a virtue by itself. End with the bill, and ask which of the four would fit into a telephone after a
hundred
tasks. q1 and q3 make good homework; q2 is five minutes with a pencil.
"""
