"""Lesson 90: ten bugs that train and look healthy, each as a run and as a function, and the test that catches it.

Here an answer is a *test*: it is handed an implementation, sound or not, and says whether it is sound. The functions on
show are the solutions of the earlier lessons and the mutants that their checks reject; `PAIRS` has the same bugs as
methods, for the runs in notebooks/runs/bug_museum.json.
"""

from functools import partial

import torch

from ..methods.architectures import PackNet
from ..methods.memory import Reservoir
from ..methods.projection import AGEM, gradient, project_mean, read_grads, write_grads
from ..methods.regularization import EWC, MAS, SI, LwF, Well, draw
from ..methods.replay import ER
from ..streams import Batch
from . import ewc, fisher, importance, lwf, replay, scenarios_and_metrics
from .harness import Exercise
from .reader import Question
from .teacher import Step

# ---- the bugs as methods ---------------------------------------------------------------------------------------------


class BatchSquaredEWC(EWC):
    """The gradient of a batch's mean loss, squared: avalanche's and PyCIL's Fisher."""

    def importance(self, learner, task):
        rng, total = (
            torch.Generator().manual_seed(self.seed),
            {n: torch.zeros_like(p) for n, p in learner.params.items()},
        )
        batches = [Batch(*b) for b in draw(learner, task, self.samples, rng)]
        for batch in batches:
            grads = torch.autograd.grad(learner.loss(batch), list(learner.params.values()))
            total = {n: f + g**2 / len(batches) for (n, f), g in zip(total.items(), grads)}
        return total


class LiveAnchorEWC(EWC):
    """The anchor is the live weights, by another name."""

    def well(self, learner, task):
        return Well({n: p.detach() for n, p in learner.params.items()}, self.importance(learner, task))


class ViewSI(SI):
    """The weights before the step are a view of those after it."""

    def edit_grads(self, learner, batch):
        super().edit_grads(learner, batch)
        self.before_ = {n: p.detach().cpu() for n, p in learner.params.items()}


class MeanMAS(MAS):
    """The absolute value of the mean gradient, in which the signs cancel."""

    def importance(self, learner, task):
        rng = torch.Generator().manual_seed(self.seed)
        parts = [
            0.5 * learner.logits(x, t).square().sum(1).mean() for x, _, t in draw(learner, task, self.samples, rng)
        ]
        grads = torch.autograd.grad(sum(parts) / len(parts), list(learner.params.values()))
        return {n: g.abs() for n, g in zip(learner.params, grads)}


class ColdLwF(LwF):
    """T² is missing."""

    def loss(self, learner, batch):
        return super().loss(learner, batch) / self.T**2


class ShortReservoir(Reservoir):
    """Offer i draws from {0, ..., i − 1}: one too few."""

    def add(self, *columns):
        late = self.offered > self.slots
        self.offered -= late
        super().add(*columns)
        self.offered += late


class FlippedAGEM(AGEM):
    """Projects where the gradients agree, and lets them pass where they clash."""

    def edit_grads(self, learner, batch):
        if len(self.memory_):
            g, ref = read_grads(learner), gradient(learner, Batch(*self.memory_.sample(self.size)))
            write_grads(learner, -project_mean(-g, ref))


class MaskedPackNet(PackNet):
    """Frozen weights get the gradient 0, and the optimiser moves them all the same."""

    def edit_grads(self, learner, batch):
        for n, p in learner.params.items():
            p.grad *= self.moves_[n]
            self.trained_[n] |= p.grad != 0

    def after_step(self, learner, batch): ...


# room: (the sound method, the one with the bug, the option that is chosen for each, and its values)
PAIRS = {
    1: (EWC, BatchSquaredEWC, "lam", (3.0, 10.0, 30.0, 100.0)),
    2: (EWC, LiveAnchorEWC, "lam", (3.0, 10.0)),
    3: (LwF, ColdLwF, "alpha", (0.3, 1.0, 3.0)),
    4: (SI, ViewSI, "lam", (0.1, 0.3)),
    5: (MAS, MeanMAS, "lam", (0.03, 0.1, 0.3)),
    6: (ER, partial(ER, memory=ShortReservoir), "slots", (100,)),
    7: (AGEM, FlippedAGEM, "slots", (100,)),
    9: (PackNet, MaskedPackNet, "keep", (0.5,)),
}


# ---- the bugs as functions -------------------------------------------------------------------------------------------


def put_back(weight, frozen, opt):
    """One step of the optimiser; frozen weights are put back after it."""
    before = weight.detach().clone()
    opt.step()
    with torch.no_grad():
        weight[frozen] = before[frozen]


def mask_gradient(weight, frozen, opt):
    weight.grad[frozen] = 0
    opt.step()


def freeze_all(weight, frozen, opt):
    before = weight.detach().clone()
    opt.step()
    with torch.no_grad():
        weight.copy_(before)


def equal_work(tasks, epochs):
    """Passes over one task's data, stage by stage: (in a row, jointly)."""
    return [epochs] * tasks, [2 * epochs * k / (tasks + 1) for k in range(1, tasks + 1)]


ROOMS = {  # what hangs in each room: {words: function}
    1: {"the right one": fisher.fisher}
    | {
        words: fisher.q2.mutants[words]
        for words in (
            "squares the gradient of the batch mean",
            "adds the gradients up and squares their sum",
            "leaves dropout on",
        )
    },
    2: {"the right one": ewc.remember}
    | {words: ewc.q2.mutants[words] for words in ("keeps a view of the weights, which moves when they move",)},
    3: {"the right one": lwf.distil}
    | {words: lwf.q1.mutants[words] for words in ("leaves out T²", "multiplies by T instead of T²")},
    4: {"the right one": importance.si}
    | {
        words: importance.q3.mutants[words]
        for words in ("keeps the weights before the step as a view, so that nothing ever moves",)
    },
    5: {"the right one": importance.mas}
    | {
        words: importance.q2.mutants[words]
        for words in ("takes the absolute value of the mean gradient, in which signs cancel",)
    },
    6: {"the right one": replay.reservoir}
    | {words: f for words, f in replay.q1.mutants.items() if words.startswith("lets offer i draw")},
    7: {
        "the right one": project_mean,
        "projects where the gradients agree": lambda g, ref: -project_mean(-g, ref),
        "lets every gradient pass": lambda g, ref: g,
        "projects every time": lambda g, ref: g - (g @ ref) / (ref @ ref) * ref,
    },
    8: {"the right one": scenarios_and_metrics.bwt}
    | {
        words: scenarios_and_metrics.q1.mutants[words]
        for words in (
            "divides by T, though only T − 1 tasks are old",
            "reads R transposed (rows are after training on, columns are tested on)",
        )
    },
    9: {"the right one": put_back, "sets the gradient to 0": mask_gradient, "lets nothing move": freeze_all},
    10: {
        "the right one": equal_work,
        "gives joint training the same epochs": lambda T, E: ([E] * T, [E * k for k in range(1, T + 1)]),
        "counts stages instead of passes": lambda T, E: ([E] * T, [E / k for k in range(1, T + 1)]),
    },
}


# ---- the tests that catch them ---------------------------------------------------------------------------------------


def adds_up(importance, net, x, y):
    """Is the importance of all samples the mean of the importances of single samples?"""
    whole = importance(net, x, y)
    single = [importance(net, x[n : n + 1], y[n : n + 1]) for n in range(len(x))]
    return all(torch.allclose(w, sum(parts) / len(x)) for w, parts in zip(whole, zip(*single)))


def anchor_stays(remember, net, x):
    """Does the anchor stay where it was when the weights move on?"""
    anchor, _ = remember(net, x)
    with torch.no_grad():
        for p in net.parameters():
            p += 1.0
    return all(((p - a) == 1.0).all().item() for p, a in zip(net.parameters(), anchor))


def size_of_gradient(distil, old, new):
    """Is the gradient at T = 40 about as large as at T = 20?"""
    sizes = []
    for T in (20.0, 40.0):
        z = new.clone().requires_grad_()
        sizes.append(torch.autograd.grad(distil(old, z, T), z)[0].norm())
    return bool(0.8 < sizes[1] / sizes[0] < 1.25)


def something_matters(si, net, batches, optimiser):
    """Does any weight matter after training?"""
    return max(omega.max().item() for omega in si(net, batches, optimiser, 0.1)) > 0


def signs_survive(mas, net, x):
    """Is Ω of all inputs the mean of the Ω of single inputs?"""
    whole, single = mas(net, x), [mas(net, image[None]) for image in x]
    return all(torch.allclose(w, sum(parts) / len(x)) for w, parts in zip(whole, zip(*single)))


def fair_chance(reservoir, draw):
    """Of two offers and one slot: is each kept about half of the time?"""
    first = sum(reservoir(range(2), 1, draw) == [0] for _ in range(2000))
    return 850 < first < 1150


def harmless(project):
    """Clashing gradients end at a right angle to the old one, agreeing ones are left alone."""
    ref = torch.tensor([0.0, 2.0])
    clash, agree = torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0])
    return bool((project(clash, ref) @ ref).abs() < 1e-6 and torch.equal(project(agree, ref), agree))


def by_hand(bwt):
    """A matrix of which the answer is known, and whose transpose has another."""
    R = torch.tensor([[0.9, 0.0], [0.5, 0.8]]).numpy()
    return abs(bwt(R) - (0.5 - 0.9)) < 1e-6


def stays_frozen(step):
    """With a velocity in the optimiser: does a frozen weight stay, bit for bit, and does a free one move?"""
    weight = torch.nn.Parameter(torch.ones(4))
    frozen = torch.tensor([True, True, False, False])
    opt = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    weight.grad = torch.ones(4)
    opt.step()  # now there is a velocity
    before = weight.detach().clone()
    weight.grad = torch.ones(4)
    step(weight, frozen, opt)
    return torch.equal(weight[frozen], before[frozen]) and bool((weight[~frozen] != before[~frozen]).all())


def same_work(schedule):
    """Do both ways of training look at equally many samples?"""
    in_a_row, jointly = schedule(5, 3)
    return abs(sum(in_a_row) - sum(jointly)) < 1e-9


# ---- exercises -------------------------------------------------------------------------------------------------------


def _room(number, fixture=lambda: ()):
    """The cases of a room: every function in it, by name, with what a test of it needs."""
    return lambda: (
        (f"an answer that {words}" if words != "the right one" else words, words, *fixture()) for words in ROOMS[number]
    )


def _exercise(number, name, reference, mutants, hints, fixture=lambda: ()):
    ask = lambda answer, words, *rest: answer(ROOMS[number][words], *rest)
    trusting = {"is content with everything": lambda *a: True, "is content with nothing": lambda *a: False}
    return Exercise(name, reference, trusting | mutants, hints, _room(number, fixture), ask)


def _network():
    """With dropout, in training mode, and images whose scores differ in sign."""
    *_, (_, net, x, y) = fisher.networks()
    return net, x, y


def _plain():
    _, net, x = next(iter(importance.networks()))
    return net, x


def _walk():
    _, net, batches, optimiser, _ = next(iter(importance.walks()))
    return net, batches, optimiser


def _logits():
    rng = torch.Generator().manual_seed(3)
    return torch.randn(6, 4, generator=rng).double(), torch.randn(6, 4, generator=rng).double()


def _die():
    rng = torch.Generator().manual_seed(5)
    return (lambda k: int(torch.randint(k, (), generator=rng)),)


q1 = _exercise(
    1,
    "A Fisher that adds up",
    adds_up,
    {
        "asks only whether the numbers are positive": lambda f, net, x, y: all(
            (w >= 0).all().item() for w in f(net, x, y)
        ),
        "compares a batch with the same batch": lambda f, net, x, y: all(
            torch.allclose(a, b) for a, b in zip(f(net.eval(), x, y), f(net, x, y))
        ),
        "tries a batch of one image": lambda f, net, x, y: adds_up(f, net, x[:1], y[:1]),
    },
    (
        "A mean over samples is a mean: what must hold between the whole batch and its samples one by one?",
        r"Equation (90.1): `fisher(net, x, y)` against the mean of `fisher(net, x[n : n + 1], y[n : n + 1])`.",
        """
        ```python
        whole = fisher(net, x, y)
        single = [... for n in range(len(x))]
        return all(torch.allclose(w, sum(parts) / len(x)) for w, parts in zip(whole, zip(*single)))
        ```
        """,
    ),
    _network,
)

q2 = _exercise(
    2,
    "An anchor that stays",
    anchor_stays,
    {
        "looks before the weights have moved": lambda f, net, x: all(
            torch.equal(p, a) for p, a in zip(net.parameters(), f(net, x)[0])
        ),
        "asks whether the Fisher is positive": lambda f, net, x: max(w.max().item() for w in f(net, x)[1]) > 0,
    },
    (
        "The bug sleeps until the weights move. So move them.",
        "`anchor, _ = remember(net, x)`; add 1 to every weight under `torch.no_grad()`; how far is the anchor now?",
        """
        ```python
        anchor, _ = remember(net, x)
        with torch.no_grad():
            for p in net.parameters():
                p += 1.0
        return all(((p - a) == 1.0).all().item() for p, a in ...)
        ```
        """,
    ),
    _plain,
)

q3 = _exercise(
    3,
    "A gradient that keeps its size",
    size_of_gradient,
    {
        "asks whether the loss is positive": lambda f, old, new: f(old, new, 20.0).item() > 0,
        "asks whether equal logits cost nothing": lambda f, old, new: abs(f(old, old, 2.0).item()) < 1e-9,
        "tries T = 1 alone": lambda f, old, new: torch.allclose(f(old, new, 1.0), lwf.distil(old, new, 1.0)),
    },
    (
        "T² was put there for one purpose, lesson 07: what should hardly change when T doubles?",
        "The norm of the gradient with respect to `new`, at T = 20 and at T = 40, equation (90.2).",
        """
        ```python
        sizes = []
        for T in (20.0, 40.0):
            z = new.clone().requires_grad_()
            sizes.append(torch.autograd.grad(..., z)[0].norm())
        return bool(0.8 < sizes[1] / sizes[0] < 1.25)
        ```
        """,
    ),
    _logits,
)

q4 = _exercise(
    4,
    "An importance that is not zero",
    something_matters,
    {
        "asks whether no Ω is negative": lambda f, net, b, o: all((w >= 0).all().item() for w in f(net, b, o, 0.1)),
        "asks whether the weights have moved": lambda f, net, b, o: bool(
            f(net, b, o, 0.1) and any(p.grad.abs().max() > 0 for p in net.parameters())
        ),
    },
    (
        "After training, some weight has lowered the loss. What can its Ω not be?",
        "The largest entry of all tensors that `si(net, batches, optimiser, 0.1)` returns.",
        """
        ```python
        return max(omega.max().item() for omega in ...) > 0
        ```
        """,
    ),
    _walk,
)

q5 = _exercise(
    5,
    "Signs that survive",
    signs_survive,
    {
        "asks only whether the numbers are positive": lambda f, net, x: all((w >= 0).all().item() for w in f(net, x)),
        "tries one input": lambda f, net, x: signs_survive(f, net, x[:1]),
    },
    (
        "The same test as in room 1 does it: a mean over inputs is a mean.",
        "`mas(net, x)` against the mean of `mas(net, image[None])` over the images.",
        """
        ```python
        whole, single = mas(net, x), [... for image in x]
        return all(torch.allclose(w, sum(parts) / len(x)) for w, parts in zip(whole, zip(*single)))
        ```
        """,
    ),
    _plain,
)

q6 = _exercise(
    6,
    "A reservoir that is fair",
    fair_chance,
    {
        "counts the slots": lambda f, draw: len(f(range(9), 3, draw)) == 3,
        "asks whether nothing is kept twice": lambda f, draw: len(set(f(range(9), 3, draw))) == 3,
        "tries a stream so short that all of it fits": lambda f, draw: f(range(2), 2, draw) == [0, 1],
    },
    (
        "An off-by-one is largest where numbers are small. Take the smallest stream that does not fit.",
        "Two offers, one slot: equation (90.3) says 1/2. Repeat 2,000 times, and leave room for chance.",
        """
        ```python
        first = sum(reservoir(range(2), 1, draw) == [0] for _ in range(2000))
        return ... < first < ...
        ```
        """,
    ),
    _die,
)

q7 = _exercise(
    7,
    "A projection that does no harm",
    harmless,
    {
        "tries a clash alone": lambda f: bool((f(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))[1]).abs() < 1e-6),
        "tries agreement alone": lambda f: torch.equal(f(torch.ones(2), torch.tensor([0.0, 2.0])), torch.ones(2)),
    },
    (
        "Two cases, and both count: gradients that clash, and gradients that agree.",
        "`ref = (0, 2)`. For `g = (1, −1)` the result is at a right angle to `ref`; for `g = (1, 1)` it is `g` itself.",
        """
        ```python
        ref = torch.tensor([0.0, 2.0])
        clash, agree = torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0])
        return bool((project(clash, ref) @ ref).abs() < 1e-6 and ...)
        ```
        """,
    ),
)

q8 = _exercise(
    8,
    "A matrix worked by hand",
    by_hand,
    {
        "takes a matrix that forgets nothing": lambda f: abs(f(torch.ones(3, 3).numpy())) < 1e-6,
        "asks only for the sign": lambda f: f(torch.tensor([[0.9, 0.8], [0.5, 0.8]]).numpy()) < 0,
    },
    (
        "Two tasks are enough, if R is not symmetric and you know the answer.",
        "`R = [[0.9, 0.0], [0.5, 0.8]]`: one old task, learnt to 0.9, left at 0.5.",
        """
        ```python
        R = torch.tensor([[0.9, 0.0], [0.5, 0.8]]).numpy()
        return abs(bwt(R) - ...) < 1e-6
        ```
        """,
    ),
)

q9 = _exercise(
    9,
    "A weight that stays frozen",
    stays_frozen,
    {
        "takes plain SGD": lambda f: _frozen(f, momentum=0.0),
        "takes an optimiser that has made no step yet": lambda f: _frozen(f, momentum=0.9),
        "forgets to ask whether free weights move": lambda f: f is not mask_gradient,
    },
    (
        "A masked gradient is harmless until the optimiser has something else to go by. Give it that.",
        "Momentum and one true step before; then `step(weight, frozen, opt)`, and compare bit for bit. Do free weights "
        "still move?",
        """
        ```python
        weight = torch.nn.Parameter(torch.ones(4))
        frozen = torch.tensor([True, True, False, False])
        opt = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
        weight.grad = torch.ones(4)
        opt.step()  # now there is a velocity
        before = weight.detach().clone()
        weight.grad = torch.ones(4)
        step(weight, frozen, opt)
        return ...
        ```
        """,
    ),
)

q10 = _exercise(
    10,
    "Equal work",
    same_work,
    {
        "compares the number of stages": lambda f: len(f(5, 3)[0]) == len(f(5, 3)[1]),
        "tries one task": lambda f: abs(sum(f(1, 3)[0]) - sum(f(1, 3)[1])) < 1e-9,
        "compares the first stage": lambda f: abs(f(5, 3)[0][0] - f(5, 3)[1][0]) < 2.1,
    },
    (
        "What do both runs spend? Not epochs: samples.",
        "Add up each list that `schedule(5, 3)` returns.",
        """
        ```python
        in_a_row, jointly = schedule(5, 3)
        return ...
        ```
        """,
    ),
)


def _frozen(step, momentum):
    """A test that is fooled: no weight decay, and no step before the one that counts."""
    weight, frozen = torch.nn.Parameter(torch.ones(4)), torch.tensor([True, True, False, False])
    weight.grad = torch.ones(4)
    step(weight, frozen, torch.optim.SGD([weight], lr=0.1, momentum=momentum))
    return torch.equal(weight[frozen], torch.ones(2)) and bool((weight[~frozen] != 1).all())


# ---- what comes back in later lessons, and in class ------------------------------------------------------------------

questions = (
    Question(
        "looks",
        "EWC's penalty is identically 0 because its anchor is a view. What does the run look like?",
        ("It diverges in task 2.", "Like the naive run, digit for digit.", "Like joint training."),
        "b",
        "A method that does nothing is the naive run: compare with it, and ask that they differ.",
    ),
    Question(
        "identity",
        "Which test catches a squared batch mean, at any accuracy?",
        (
            "One sample at a time against the whole batch.",
            "The trace must be positive.",
            "Accuracy on task 1 must rise.",
        ),
        "a",
        "A mean over samples is the mean of single samples; a squared mean is not.",
    ),
    Question(
        "small numbers",
        "Where is a reservoir that is off by one most easily caught?",
        ("With one slot and two offers.", "With 500 slots and a million offers.", "With as many slots as offers."),
        "a",
        "The error in each draw is of the order of 1/i, largest for the smallest i that does not fit.",
    ),
    Question(
        "two sides",
        "Why must a test of A-GEM also try gradients that agree?",
        (
            "They are rarer, and so more important.",
            "Without them the reference gradient is zero.",
            "A projection that is always on passes every test of a clash.",
        ),
        "c",
        "One-sided tests accept methods that throw away all that old and new tasks have in common.",
    ),
)


def _fisher_additive():
    """The right Fisher adds up; residual in float64, in eval mode."""
    net, x, y = _network()
    whole, single = fisher.fisher(net, x, y), [fisher.fisher(net, x[n : n + 1], y[n : n + 1]) for n in range(len(x))]
    return max((w - sum(parts) / len(x)).abs().max().item() for w, parts in zip(whole, zip(*single)))


def _hot_gradient():
    """T²·KL against its limit: the residual falls like 1/T, so that T = 10⁷ leaves 10⁻⁷ of it."""
    old, new = _logits()
    z = new.clone().requires_grad_()
    T, C = 1e7, old.shape[1]
    q, p = (old / T).softmax(1), (z / T).softmax(1)
    grad = T * (p - q) / len(old)  # ∂/∂z of T²·KL, without the rounding of a difference of logarithms
    limit = ((z - z.mean(1, keepdim=True)) - (old - old.mean(1, keepdim=True))) / (C * len(old))
    return (grad - limit).abs().max().item()


def _half():
    law = replay.outcomes(replay.reservoir, 7, 3)
    return max(abs(share - 3 / 7) for share in replay.inclusion(law, 7))


def _angle():
    rng = torch.Generator().manual_seed(1)
    g, ref = torch.randn(20, generator=rng).double(), torch.randn(20, generator=rng).double()
    g = g if g @ ref < 0 else -g
    return (project_mean(g, ref) @ ref).item()


derivation = (
    Step(
        "90.1",
        r"A Fisher, and MAS's $\Omega$ too, is a mean over samples of something that each sample has by itself. So the "
        r"importance of $N$ samples is the mean of $N$ importances of one. The square of a batch's mean gradient, "
        r"and the "
        r"absolute value of one, break this: $\left(\frac1N\sum g_n\right)^2 \ne \frac1N\sum g_n^2$.",
        _fisher_additive,
    ),
    Step(
        "90.2",
        r"For large $T$ the softmax is linear, and $\nabla_z\, T^2 \mathrm{KL}$ goes to the difference of the centred "
        r"logits over $C$, whatever $T$ is. Without $T^2$ the gradient falls like $1/T^2$, and nothing but its "
        r"size shows it.",
        _hot_gradient,
        1e-6,
    ),
    Step(
        "90.3",
        r"Every one of $n$ offers is in a reservoir of $M$ slots with probability $M/n$. With $M = 1$ and $n = 2$ "
        r"that is "
        r"$\frac12$; drawing from one number too few makes the second offer certain, one too many gives it $\frac13$.",
        _half,
    ),
    Step(
        "90.4",
        r"After projection $\tilde g \cdot g_{\text{ref}} = 0$ where the two clashed, and $\tilde g = g$ where "
        r"they did "
        r"not. Both halves are needed: each alone is passed by a wrong method.",
        _angle,
    ),
)

notes = """
40 minutes, or ten minutes at the end of ten different lectures: a room is a unit of its own. Show the two curves of a
room first and let the class vote which has the bug; keep the count on the board, since the score is about that of a
coin.
Then ask for the test, not for the bug. The habit to teach is the identity: something that holds exactly for the right
code and fails for the wrong one, whatever the accuracy. Students who finish early can break one of the sound
functions in
a new way and see whether their own test notices.
"""
