"""Lesson 11: what Class-IL asks beyond Task-IL, the nearest mean, and iCaRL's choice of what to keep.

The mutants answer with plausible classes: a mean that is never made one long, a factor that is not conditional, a list
of exemplars that are each typical and together are not.
"""

import torch
import torch.nn.functional as F

from ..methods.class_incremental import correct
from ..methods.memory import herd as package_herd
from .harness import Exercise
from .reader import Question
from .teacher import Step


def two_factors(z, y, owner):
    """(share of samples whose task wins, share of right units among those); owner[c] is the task of unit c."""
    winner = z.argmax(1)
    task = owner[winner] == owner[y]
    return task.double().mean(), (winner == y)[task].double().mean()


def nearest_mean(kept, y, features, C):
    """The class (N,) whose mean of kept features (M, H) is nearest to each row of features (N, H), all of length 1."""
    kept, features = F.normalize(kept), F.normalize(features)
    means = F.normalize(torch.stack([kept[y == c].mean(0) for c in range(C)]))
    return torch.cdist(features, means).argmin(1)


def herd(f, size):
    """Numbers of `size` rows of the features f (N, H), each row once, such that every beginning has nearly the mean."""
    mean, total, picked = f.mean(0), torch.zeros_like(f[0]), []
    for k in range(1, size + 1):
        gap = (mean - (total + f) / k).norm(dim=1)
        gap[picked] = torch.inf
        picked.append(int(gap.argmin()))
        total = total + f[picked[-1]]
    return picked


# ---- cases -----------------------------------------------------------------------------------------------------------


def answers():
    """Logits, labels, and two tasks of two or three units."""
    rng = torch.Generator().manual_seed(0)
    z = torch.tensor([[3.0, 1.0, 0.0, 2.0], [1.0, 3.0, 0.0, 2.0], [0.0, 1.0, 4.0, 2.0], [0.0, 1.0, 2.0, 4.0]])
    yield "two tasks of two, by hand", z, torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 1, 1])
    for words, shift in [("the newest task shouts", 2.0), ("a fair fight", 0.0)]:
        owner, y = torch.tensor([0, 0, 0, 1, 1, 1]), torch.randint(6, (60,), generator=rng)
        z = torch.randn(60, 6, generator=rng) + 1.5 * F.one_hot(y, 6) + shift * (owner == 1)
        yield words, z, y, owner


def featured():
    """Kept features with their classes, and features to classify: lengths differ, and so do class sizes."""
    rng = torch.Generator().manual_seed(1)
    for words, C, H in [("three classes", 3, 5), ("five classes", 5, 8)]:
        centres = torch.randn(C, H, generator=rng).double()
        draw = lambda y, H=H, centres=centres: (
            (centres[y] + 0.7 * torch.randn(len(y), H, generator=rng).double())
            * torch.rand(len(y), 1, generator=rng).double().add(0.05).pow(2)
            * 6
        )
        y = torch.cat([torch.arange(C), torch.zeros(6, dtype=torch.long), torch.randint(C, (9,), generator=rng)])
        yield words, draw(y), y, draw(torch.arange(80) % C), C


def clouds():
    """Features of one class, more than are to be kept."""
    rng = torch.Generator().manual_seed(2)
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]]).double()
    yield "five numbers, mean 3.2", line, 3
    yield "a cloud", torch.randn(12, 4, generator=rng).double(), 5
    yield (
        "two clumps",
        torch.cat([torch.randn(8, 3, generator=rng) - 2, torch.randn(4, 3, generator=rng) + 3]).double(),
        4,
    )


# ---- mistakes --------------------------------------------------------------------------------------------------------


def _within_alone(z, y, owner):
    """What Task-IL asks: only the task's own units compete."""
    own = owner[None] == owner[y][:, None]
    return z.masked_fill(~own, -torch.inf).argmax(1) == y


def _nearest(scale_rows=True, scale_means=True, pick="argmin", pool=lambda rows: rows.mean(0)):
    def wrong(kept, y, features, C):
        if scale_rows:
            kept, features = F.normalize(kept), F.normalize(features)
        means = torch.stack([pool(kept[y == c]) for c in range(C)])
        means = F.normalize(means) if scale_means else means
        return getattr(torch.cdist(features, means), pick)(1)

    return wrong


def _nearest_row(kept, y, features, C):
    return y[torch.cdist(F.normalize(features), F.normalize(kept)).argmin(1)]


def _dot(kept, y, features, C):
    means = torch.stack([kept[y == c].mean(0) for c in range(C)])
    return (features @ means.T).argmax(1)


def _herd(gap, repeat=False, add=True):
    def wrong(f, size):
        mean, total, picked = f.mean(0), torch.zeros_like(f[0]), []
        for k in range(1, size + 1):
            distance = gap(mean, total, f, k).norm(dim=1)
            if not repeat:
                distance[picked] = torch.inf
            picked.append(int(distance.argmin()))
            total = total + f[picked[-1]] * add
        return picked

    return wrong


q1 = Exercise(
    name="Two factors of Class-IL",
    reference=two_factors,
    cases=answers,
    mutants={
        "takes the second share over all samples": lambda z, y, o: (
            two_factors(z, y, o)[0],
            (z.argmax(1) == y).float().mean(),
        ),
        "asks the second question in Task-IL, over all samples": lambda z, y, o: (
            two_factors(z, y, o)[0],
            _within_alone(z, y, o).float().mean(),
        ),
        "compares units where it should compare tasks": lambda z, y, o: (
            (z.argmax(1) == y).float().mean(),
            two_factors(z, y, o)[1],
        ),
        "takes the sum of the probabilities of a task, not its best unit": lambda z, y, o: (
            (torch.stack([z.softmax(1)[:, o == k].sum(1) for k in o.unique()], 1).argmax(1) == o[y]).float().mean(),
            two_factors(z, y, o)[1],
        ),
        "swaps the two": lambda z, y, o: two_factors(z, y, o)[::-1],
    },
    hints=(
        "First ask only whether the winning unit belongs to the right task. Then look at those samples alone, and ask "
        "whether the unit itself is right.",
        r"`owner[z.argmax(1)] == owner[y]` marks the samples whose task wins. The product of the two shares is the "
        "accuracy, equation (11.1).",
        """
        ```python
        winner = z.argmax(1)
        task = owner[winner] == ...
        return task.double().mean(), (winner == y)[...].double().mean()
        ```
        """,
    ),
)

q2 = Exercise(
    name="The nearest mean",
    reference=nearest_mean,
    cases=featured,
    mutants={
        "forgets to make the features one long": _nearest(scale_rows=False),
        "never makes anything one long": _nearest(scale_rows=False, scale_means=False),
        "forgets to make the means one long": _nearest(scale_means=False),
        "answers with the farthest mean": _nearest(pick="argmax"),
        "takes the sum for the mean, so that classes with more rows lie farther off": _nearest(
            scale_means=False, pool=lambda rows: rows.sum(0)
        ),
        "asks the nearest kept row instead of the nearest mean": _nearest_row,
        "takes inner products of whatever length": _dot,
    },
    hints=(
        "One prototype a class: the mean of its kept features. A picture gets the class of the nearest prototype. So "
        "that only the direction counts, make everything one long.",
        r"$\mu_c$ is the mean of $h(x)/\lVert h(x)\rVert$ over the kept rows of class $c$, again made one long; the "
        r"answer is $\arg\min_c \lVert h(x)/\lVert h(x)\rVert - \mu_c\rVert$, equation (11.4).",
        """
        `F.normalize` makes rows one long, `torch.cdist(a, b)` gives all distances.
        ```python
        kept, features = F.normalize(kept), F.normalize(features)
        means = F.normalize(torch.stack([... for c in range(C)]))
        return torch.cdist(features, means)...
        ```
        """,
    ),
)

q3 = Exercise(
    name="Herding",
    reference=herd,
    cases=clouds,
    mutants={
        "takes the rows nearest to the mean, each for itself": _herd(lambda mean, total, f, k: mean - f),
        "may take the same row twice": _herd(lambda mean, total, f, k: mean - (total + f) / k, repeat=True),
        "forgets to divide by the number of rows": _herd(lambda mean, total, f, k: mean - (total + f)),
        "divides by k − 1": _herd(lambda mean, total, f, k: mean - (total + f) / max(k - 1, 1)),
        "forgets what was picked before": _herd(lambda mean, total, f, k: mean - (total + f) / k, add=False),
        "takes the first rows": lambda f, size: list(range(size)),
    },
    hints=(
        "Build the list one row at a time. Whom do you add so that the mean of the list so far comes nearest to the "
        "mean of all?",
        r"$p_k = \arg\min_x \bigl\lVert \mu - \frac1k\bigl(h(x) + \sum_{j<k} h(p_j)\bigr)\bigr\rVert$, each row once.",
        """
        ```python
        mean, total, picked = f.mean(0), torch.zeros_like(f[0]), []
        for k in range(1, size + 1):
            gap = (mean - ...).norm(dim=1)
            gap[picked] = torch.inf
            picked.append(int(gap.argmin()))
            total = ...
        return picked
        ```
        """,
    ),
)

questions = (
    Question(
        "perfect",
        "A network with one head a task is perfect in Task-IL. What does that say about Class-IL?",
        (
            "Nothing: no loss ever compared two tasks.",
            "That it is perfect there too, since it is the same network.",
            "That it is at least better than half right.",
        ),
        "a",
        "Adding a constant to all logits of one task changes no Task-IL loss, and every comparison between tasks.",
    ),
    Question(
        "ewc",
        "EWC ends at 19 % on five tasks in Class-IL. What does it know of the first four?",
        (
            "About 19 % of each of them.",
            "Nothing: it is right on the newest alone.",
            "Most, but no single test shows it.",
        ),
        "b",
        "0 % on four tasks and 95 % on the last average to 19 %: one fifth, which is what naive training gets.",
    ),
    Question(
        "why-mean",
        "Why does the nearest mean help a network that was trained naively?",
        (
            "It trains the old classes again on the kept rows.",
            "It lowers the learning rate of the newest units.",
            "It drops the output weights, whose sizes depend on when a class was met.",
        ),
        "c",
        "The features still tell the classes apart; means over kept rows measure all of them in the same way.",
    ),
    Question(
        "push",
        "A batch holds only digits 8 and 9, and all ten units compete. What happens to the bias of unit 3?",
        (
            "It stays, for no 3 is in the batch.",
            "It falls, by its mean probability.",
            "It rises, to make up for the others.",
        ),
        "b",
        "The gradient of an absent class's bias is its mean probability, which is positive: each step pushes it down.",
    ),
)


# ---- the derivation --------------------------------------------------------------------------------------------------


def _heads(z, y, owner):
    own = owner[None] == owner[y][:, None]
    return F.cross_entropy(z.masked_fill(~own, -torch.inf), y)


def _logits(n=40):
    owner, y = torch.arange(10) // 2, torch.arange(n) % 10
    return torch.randn(n, 10).double() + 2 * F.one_hot(y, 10), y, owner


def _product():
    z, y, owner = _logits()
    z[:, 8:] += 2
    task, within = two_factors(z, y, owner)
    return task.double() * within.double() - (z.argmax(1) == y).double().mean()


def _blind():
    z, y, owner = _logits()
    shift = 5 * torch.randn(5).double()
    return _heads(z + shift[owner], y, owner) - _heads(z, y, owner)


def _push():
    z, _, _ = _logits()
    b, y = torch.zeros(10).double().requires_grad_(), 8 + torch.arange(40) % 2
    (g,) = torch.autograd.grad(F.cross_entropy(z + b, y), b)
    p = z.softmax(1).mean(0)
    return (g[:8] - p[:8]).abs().max() + (-g[:8]).clamp(min=0).max()


def _linear():
    h, mu = F.normalize(torch.randn(30, 6).double()), F.normalize(torch.randn(4, 6).double())
    return (torch.cdist(h, mu, compute_mode="donot_use_mm_for_euclid_dist").square() - (2 - 2 * h @ mu.T)).abs().max()


def _pairs_are_offsets():
    z, _, _ = _logits()
    units, pairs = F.one_hot(torch.arange(10) // 2, 5).T.bool(), torch.rand(5, 2).double() + 0.5
    by_hand = torch.stack([pairs[c // 2, 0] * z[:, c] + pairs[c // 2, 1] for c in range(10)], 1)
    return (correct(z, pairs, units) - by_hand).abs().max()


def _herding():
    f = torch.randn(15, 4).double()
    return sum(a != b for a, b in zip(herd(f, 6), package_herd(f, 6).tolist()))


derivation = (
    Step(
        "11.1",
        r"""
        An answer is right in Class-IL if the winning unit is $y$. Then the winner's task is $y$'s task. So
        $\Pr(\text{right}) = \Pr(\text{task right})\,\Pr(\text{right} \mid \text{task right})$, and nothing is assumed:
        it is the definition of a conditional probability, for shares as well. Where the task is right the winner is
        also the best unit *within* the task, which is why the second factor resembles Task-IL.
        """,
        _product,
    ),
    Step(
        "11.2",
        r"""
        Let $a_k$ be added to all logits of task $k$. In $p_c = e^{z_c} / \sum_{c' \in k} e^{z_{c'}}$ the factor
        $e^{a_k}$ cancels. So a loss made of one softmax a task does not depend on $a$, at any $\theta$, and neither
        does any of its gradients with respect to $a$: training leaves $a$ wherever it happened to be.
        """,
        _blind,
    ),
    Step(
        "11.3",
        r"""
        With one softmax over all, $\partial L / \partial b_c = \mathbb{E}[p_c] - \mathbb{E}[y = c]$. For a class
        that is
        not in the batch the second term is 0, and $p_c > 0$: every step of every later task lowers $b_c$, by $\eta$
        times its mean probability, and no image of the class is there to raise it again.
        """,
        _push,
    ),
    Step(
        "11.5",
        r"""
        For $\lVert h \rVert = \lVert \mu_c \rVert = 1$: $\lVert h - \mu_c \rVert^2 = 2 - 2\,h\cdot\mu_c$. So the
        nearest
        mean is the largest inner product: a linear output layer whose weights are the class means, all of one length,
        and whose biases are all 0. What (11.3) pushed down is no longer there.
        """,
        _linear,
    ),
    Step(
        "11.6",
        r"""
        Bias correction gives each task two numbers: $z_c \leftarrow a_k z_c + b_k$ for the units $c$ of task $k$. It is
        (11.2) put to use: the offsets that training could not determine are fitted on a few rows of all classes, which
        are not trained on. The residual compares the package's matrix form with a loop over units.
        """,
        _pairs_are_offsets,
    ),
    Step(
        "11.4, herding",
        r"""
        Which rows should be kept if only their mean $\mu_c$ will be used? Those whose mean is nearest to that of all,
        and for *every* beginning of the list, since lists are cut as classes arrive: greedily,
        $p_k = \arg\min_x \lVert \mu - \frac1k(h(x) + \sum_{j<k} h(p_j)) \rVert$. The same rows as the package's.
        """,
        _herding,
        0.0,
    ),
)

notes = """
45 minutes. Begin with the same network read twice: 97 % when told the task, 19 % when not. Let the class say what was
lost before any formula: the usual answer, "the old tasks", is refuted on the spot. Then (11.2) on the board takes two
lines and is the heart of the lesson.

Misconceptions: that EWC with a larger λ would do (try it: section 3); that the features are destroyed (the nearest mean
finds four fifths of the answers in a network that was never rehearsed); that balance alone is enough. A good
discussion:
bias correction and the nearest mean both need kept rows at some point; what could one do with none? Misread often: 19 %
is not "almost nothing everywhere", it is everything on one task and nothing on four.
"""
