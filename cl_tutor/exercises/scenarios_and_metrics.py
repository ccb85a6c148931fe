"""Lesson 03: three of the four numbers, written by the reader. R[i, j] is the accuracy on task j after training on i.

The mutants are the mistakes that people make and publish: R transposed, a mean over T instead of T − 1, a maximum
that sees the last row, an FWT that forgets the untrained network.
"""

import numpy as np

from .harness import Exercise


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

questions = ()
derivation = ()
notes = ""
