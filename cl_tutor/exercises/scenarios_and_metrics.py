"""Lesson 03: three of the four numbers, written by the reader. R[i, j] is the accuracy on task j after training on i.

The mutants are the mistakes that people make and publish: R transposed, a mean over T instead of T − 1, a maximum
that sees the last row, an FWT that forgets the untrained network.
"""

import numpy as np
import torch

from ..results import Results
from .harness import Exercise
from .reader import Question
from .teacher import Step


def bwt(R):
    """Mean change on old tasks since the day each was learnt."""
    end, learnt = R[-1], R.diagonal()
    return (end - learnt)[:-1].mean()  # the last task is not old yet


def forgetting(R):
    """Mean fall on old tasks from the best held before the end."""
    best = R[:-1].max(axis=0)  # over the rows, without the last one
    return (best - R[-1])[:-1].mean()


def fwt(R, b):
    """Mean head start on a new task over the untrained network."""
    before = R.diagonal(offset=1)  # R[j−1, j] for j = 1 ... T−1
    return (before - b[1:]).mean()


def matrices():
    """Matrices on which no mistake below survives: never symmetric, best rows off the diagonal, T = 2 to 5."""
    by_hand = [[0.90, 0.20, 0.10, 0.15], [0.95, 0.85, 0.30, 0.20], [0.70, 0.60, 0.80, 0.25], [0.50, 0.65, 0.70, 0.90]]
    yield "four tasks, by hand", np.array(by_hand)
    yield "two tasks", np.array([[0.95, 0.12], [0.40, 0.90]])
    yield "old tasks end at their best", np.array([[0.6, 0.3, 0.2], [0.7, 0.5, 0.4], [0.8, 0.9, 0.7]])
    rng = np.random.default_rng(3)
    for T in (3, 5):
        yield f"{T} tasks at random", rng.uniform(0, 1, (T, T)).round(3)


def matrices_and_baselines():
    """The same, each with an untrained network that is right more or less often, and differently on each task."""
    rng = np.random.default_rng(4)
    return [(words, R, rng.uniform(0.05, 0.35, len(R)).round(3)) for words, R in matrices()]


q1 = Exercise(
    name="Backward transfer",
    reference=bwt,
    cases=matrices,
    mutants={
        "divides by T, though only T − 1 tasks are old": lambda R: (R[-1] - R.diagonal()).mean(),
        "reads R transposed (rows are after training on, columns are tested on)": lambda R: bwt(R.T),
        "has the sign the wrong way round": lambda R: -bwt(R),
        "starts from the best ever held instead of the day the task was learnt": lambda R: -forgetting(R),
        "starts from the first row instead of the diagonal": lambda R: (R[-1] - R[0])[:-1].mean(),
        "looks one row back instead of at the day each task was learnt": lambda R: (R[-1] - R[-2])[:-1].mean(),
        "adds the changes up without taking their mean": lambda R: (R[-1] - R.diagonal()).sum(),
    },
    hints=(
        "Each old task has two accuracies that matter: the one on the day it was learnt, and the one at the very end. "
        "Where in R does each of them stand? And is the last task old?",
        r"$\mathrm{BWT} = \frac{1}{T-1} \sum_{j=0}^{T-2} \left( R_{T-1,\,j} - R_{j,\,j} \right)$: the last row minus "
        "the diagonal, over all tasks but the last (Lopez-Paz & Ranzato 2017, eq. 3).",
        """
        `R[-1]` is the last row, `R.diagonal()` the diagonal, `[:-1]` drops the last entry.
        ```python
        def bwt(R):
            end, learnt = R[-1], ...
            return (end - learnt)[...].mean()
        ```
        """,
    ),
)

q2 = Exercise(
    name="Forgetting",
    reference=forgetting,
    cases=matrices,
    mutants={
        "divides by T, though only T − 1 tasks are old": lambda R: (R[:-1].max(0) - R[-1])[:-1].sum() / len(R),
        "reads R transposed (rows are after training on, columns are tested on)": lambda R: forgetting(R.T),
        "has the sign the wrong way round": lambda R: -forgetting(R),
        "takes the diagonal instead of the best earlier row, which is −BWT": lambda R: -bwt(R),
        "lets the maximum see the last row, so that it never falls below 0": lambda R: (R.max(0) - R[-1])[:-1].mean(),
        "takes the maximum over tasks instead of over rows": lambda R: (R[:-1].max(1) - R[-1, :-1]).mean(),
        "skips the rows before the task was learnt": lambda R: np.mean(
            [R[j:-1, j].max() - R[-1, j] for j in range(len(R) - 1)]
        ),
        "averages over all tasks, the last one too": lambda R: (R[:-1].max(0) - R[-1]).mean(),
    },
    hints=(
        "BWT looks at the day a task was learnt. But a later task may have helped first and hurt afterwards. "
        "Forgetting asks for the fall from the best accuracy ever held *before the end*, so it may be negative.",
        r"$F = \frac{1}{T-1} \sum_{j=0}^{T-2} \left( \max_{i<T-1} R_{i,\,j} - R_{T-1,\,j} \right)$: for each old task, "
        "the best of its column without the last row, minus the last row (Chaudhry et al. 2018, eq. 3 and 4).",
        """
        `R[:-1]` is R without its last row, `.max(axis=0)` the best of each column.
        ```python
        def forgetting(R):
            best = R[:-1].max(axis=...)
            return (best - ...)[:-1].mean()
        ```
        """,
    ),
)

q3 = Exercise(
    name="Forward transfer",
    reference=fwt,
    cases=matrices_and_baselines,
    mutants={
        "forgets b, the untrained network": lambda R, b: R.diagonal(1).mean(),
        "takes R[j, j], the task once learnt, instead of R[j−1, j]": lambda R, b: (R.diagonal() - b)[1:].mean(),
        "reads below the diagonal, which is what training left of the task before": lambda R, b: fwt(R.T, b),
        "divides by T, though there are T − 1 first looks": lambda R, b: (R.diagonal(1) - b[1:]).sum() / len(R),
        "pairs task j with the baseline of task j − 1": lambda R, b: (R.diagonal(1) - b[:-1]).mean(),
        "has the sign the wrong way round": lambda R, b: -fwt(R, b),
        "averages over all later tasks, not the next one alone": lambda R, b: (R - b)[
            np.triu_indices(len(R), 1)
        ].mean(),
        "takes one number for b, the mean over all tasks": lambda R, b: R.diagonal(1).mean() - b.mean(),
    },
    hints=(
        "Did the earlier tasks give this one a head start? Look at a task just before it is trained on, and compare "
        "with a network that has learnt nothing at all. The first task has nothing before it.",
        r"$\mathrm{FWT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( R_{j-1,\,j} - b_j \right)$: the cells just above the "
        "diagonal, each minus its own baseline (Lopez-Paz & Ranzato 2017, eq. 4).",
        """
        `R.diagonal(offset=1)` holds R[0, 1], R[1, 2], ...; `b[1:]` drops the first task.
        ```python
        def fwt(R, b):
            before = R.diagonal(offset=...)
            return (before - ...).mean()
        ```
        """,
    ),
)

questions = (
    Question(
        "who competes",
        "One trained network with ten units gets 0.96 in Task-IL and 0.31 in Class-IL. What differs between the two?",
        (
            "The units that may win; not one weight differs.",
            "The last layer, which is trained once for each scenario.",
            "The test images: Class-IL leaves out those of the last task.",
        ),
        "a",
        "Told the task, its two units compete; told nothing, all ten do. The logits are the same.",
    ),
    Question(
        "rows and columns",
        "In this course's R, where is the accuracy on task 1 after training on task 3?",
        ("In row 1, column 3", "In row 3, column 1", "On the diagonal, at place 3"),
        "b",
        "Rows: after training on. Columns: tested on. A transposed R gives healthy-looking, wrong numbers.",
    ),
    Question(
        "lazy",
        "A network stops learning after task 1 (its learning rate is then 0). Which number betrays it?",
        (
            "Forgetting, which becomes large.",
            "BWT, which falls far below zero.",
            "The diagonal of R, which stays at chance from task 2 on.",
        ),
        "c",
        "It has nothing to forget, so forgetting and BWT look splendid: they are blind to whether anything was learnt.",
    ),
    Question(
        "over T",
        "A library divides the sum of BWT by T instead of T − 1. With five tasks, what does it report for a true "
        "−0.50?",
        ("−0.40", "−0.50, as only the sign depends on it", "−0.62"),
        "a",
        "The sum has T − 1 terms, one for each old task; dividing by T hides a fifth of it.",
    ),
    Question(
        "F and BWT",
        "When is forgetting larger than −BWT?",
        (
            "When the last task was learnt badly.",
            "Whenever there are more than two tasks in the stream.",
            "When an old task was better at some later time than on the day it was learnt.",
        ),
        "c",
        "Forgetting falls from the best ever held, BWT from the diagonal: they differ where the best came later.",
    ),
    Question(
        "FWT in Class-IL",
        "Why does FWT say next to nothing in Class-IL on split classes?",
        (
            "Because forward transfer needs more than five tasks to show.",
            "Because the units of a class not met yet are untrained, so that every method scores about 0 there.",
            "Because the maximum over rows hides it.",
        ),
        "b",
        "R[j−1, j] is about 0 for all methods, and FWT is the mean of −b: the luck of the untrained network.",
    ),
    Question(
        "newest wins",
        "Why do the newest classes swamp the old ones in Class-IL without memory?",
        (
            "Each step on a new image pushes all old units down, and no old image is left to push back.",
            "The newest classes have more images than the old ones.",
            "The features of the old images are lost, so that even inside a pair they are guessed.",
        ),
        "a",
        "The gradient on every competing wrong unit is its probability, above zero. Within a pair the network "
        "still knows.",
    ),
)


def _class_is_hardest():
    """Samples that are right in Class-IL and wrong in Task-IL or Domain-IL, on random logits."""
    z, y = torch.randn(2000, 10), torch.randint(10, (2000,))
    own = torch.arange(10) // 2 == (y // 2)[:, None]
    wins = lambda z: z.argmax(1)
    in_class, in_task = wins(z) == y, wins(z.masked_fill(~own, -torch.inf)) == y
    in_domain = wins(z) % 2 == y % 2
    return (in_class & ~(in_task & in_domain)).sum().item()


def _softmax_slope():
    """The slope of the masked cross-entropy by autograd, minus p − [c = y] inside C and 0 outside."""
    z = torch.randn(1, 6).double().requires_grad_()
    C = torch.tensor([[True, True, False, True, False, True]])
    loss = torch.nn.functional.cross_entropy(z.masked_fill(~C, -torch.inf), torch.tensor([3]))
    p = (z.exp() * C / (z.exp() * C).sum()).detach()
    (g,) = torch.autograd.grad(loss, z)
    return (g - (p - (torch.arange(6) == 3).double())).abs().max().item()


def _numbers():
    """The reader's three numbers minus the package's, over all matrices of the checks."""
    worst = 0.0
    for _, R, b in matrices_and_baselines():
        r = Results(R, b)
        gaps = bwt(R) - r.bwt, forgetting(R) - r.forgetting, fwt(R, b) - r.fwt
        worst = max(worst, *map(abs, gaps))
    return worst


def _sum_of_two():
    """F + BWT minus the mean of what the best gained over the diagonal."""
    gaps = []
    for _, R in matrices():
        gained = np.mean([R[:-1, j].max() - R[j, j] for j in range(len(R) - 1)])
        gaps.append(abs(forgetting(R) + bwt(R) - gained))
    return max(gaps)


def _over_T():
    """Dividing by T: the wrong BWT minus (T − 1)/T times the right one."""
    return max(abs((R[-1] - R.diagonal()).mean() - (len(R) - 1) / len(R) * bwt(R)) for _, R in matrices())


derivation = (
    Step(
        "3.2",
        r"""Fix the logits. If the right unit $y$ beats all ten, it beats its partner as well, so Task-IL is right;
        and the winner's parity is $y$'s own, so Domain-IL is right. Every sample that Class-IL counts is counted by the
        other two, hence $A_{\text{class}} \le \min(A_{\text{task}}, A_{\text{domain}})$. No such order holds
        between Task-IL and Domain-IL. The residual counts the samples that break it, among 2,000 random ones.""",
        _class_is_hardest,
    ),
    Step(
        "3.3",
        r"""
        The loss is $L = -z_y + \log\sum_{c\in C} e^{z_c}$. The slope of the second part in $z_c$ is $e^{z_c}/\sum_{C}
        e^{z} = p_c$ for a unit in $C$, and 0 outside; the first part adds $-1$ at $y$. So $\partial
        L/\partial z_c = p_c
        - [c = y]$ in $C$: every wrong unit that competes is pushed down by its own probability, and a unit
        outside $C$ is
        left alone. The residual compares with autograd, on six units of which four compete.
        """,
        _softmax_slope,
    ),
    Step(
        "3.5",
        r"""From cells to numbers. An old task $j < T$ has three cells that matter: $R_{jj}$ on the day it was learnt,
        $\max_{i<T} R_{ij}$ at its best before the end, $R_{Tj}$ at the end. BWT is the mean of end minus day,
        $F$ the mean of best minus end, and FWT the mean of $R_{j-1,j} - b_j$ over $j > 1$. Each mean has $T-1$
        terms: the last task is not old and the first has nothing before it. The residual compares the
        exercises' solutions with the package.""",
        _numbers,
    ),
    Step(
        "3.5, over $T$",
        r"""A published slip divides the sum of the $T-1$ changes by $T$. The last task adds $R_{TT} - R_{TT} = 0$ to
        the sum, so nothing crashes, and the number is $(T-1)/T$ of what it should be: with $T = 5$ a fifth of the
        forgetting is hidden, with $T = 2$ half of it.""",
        _over_T,
    ),
    Step(
        "3.8",
        r"""Add (3.5) and (3.6): $R_{Tj}$ drops out, and $F + \mathrm{BWT} = \frac1{T-1}\sum_{j<T}(\max_{i<T} R_{ij} -
        R_{jj})$. The maximum runs over the rows before the last, and $R_{jj}$ is one of them, so no term is
        negative: $F \ge -\mathrm{BWT}$, with equality exactly when each old task was never better than on the
        day it was learnt.""",
        _sum_of_two,
    ),
)

notes = """
Timing: 40 minutes alone. In class 15 for section 1 and 2 (hand out the three rules, let pairs of students mark the
same ten logits by hand under each, and add up), 15 for R: give everybody a printed matrix of three tasks and ask
for all four numbers before any code is written. The R editor is for the projector.

Misconceptions: that a scenario is a kind of data set (the same images serve all three); that Class-IL fails because
the features are gone (told the pair, the network still answers); that a negative BWT must mean forgetting in some
deeper sense than "lower than on the day it was learnt"; that one number will do. Ask who would publish the lazy
learner's forgetting of 0.02. Those who use other libraries should check which way round their R is: transposing it
gives no error, only another number.
"""
