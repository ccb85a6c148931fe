"""Lesson 14: memory on one scale, and a difference that is tested seed by seed.

The mutants are the mistakes that make a favourite win: a bill that forgets the anchors or the tasks, labels that cost
nothing, a test that throws the pairing away.
"""

import numpy as np
from scipy import stats

from .harness import Exercise
from .reader import Question
from .teacher import Step


def slots(weights, tasks, inputs):
    """How many rows of replay (an input, a label, a task) fit into what EWC keeps: anchor and Fisher of each task."""
    return 2 * weights * tasks // (inputs + 2)


def paired_t(a, b):
    """The mean difference a − b over seeds, in units of its standard error."""
    d = np.asarray(a) - np.asarray(b)
    return d.mean() / (d.std(ddof=1) / np.sqrt(len(d)))


def scores():
    rng = np.random.default_rng(0)
    for words, n, shared, gain in [
        ("five seeds that share their luck", 5, 0.05, 0.01),
        ("ten seeds", 10, 0.02, -0.01),
        ("three seeds, no gain", 3, 0.03, 0.0),
    ]:
        luck = shared * rng.standard_normal(n)
        yield words, 0.8 + luck + gain + 0.004 * rng.standard_normal(n), 0.8 + luck + 0.004 * rng.standard_normal(n)


def _unpaired(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))


q1 = Exercise(
    name="Rows for the price of EWC",
    reference=slots,
    cases=(("MNIST, five tasks", 89_610, 5, 784), ("digits, three tasks", 17_610, 3, 64), ("one task", 1000, 1, 8)),
    mutants={
        "forgets the anchors": lambda weights, tasks, inputs: weights * tasks // (inputs + 2),
        "counts one task only, as Online EWC may": lambda weights, tasks, inputs: 2 * weights // (inputs + 2),
        "lets labels and tasks come for nothing": lambda weights, tasks, inputs: 2 * weights * tasks // inputs,
        "adds the network itself": lambda weights, tasks, inputs: (2 * tasks + 1) * weights // (inputs + 2),
    },
    hints=(
        "Count numbers on both sides. EWC keeps two for every weight and task. What is in one row of a replay memory?",
        r"$\lfloor 2PT/(d + 2) \rfloor$, with $d$ numbers in an input: equation (14.1).",
        """
        ```python
        return 2 * weights * tasks // (...)
        ```
        """,
    ),
)

q2 = Exercise(
    name="A paired test",
    reference=paired_t,
    cases=scores,
    mutants={
        "throws the pairing away": _unpaired,
        "divides by the standard deviation, not by its error": lambda a, b: (
            (np.asarray(a) - b).mean() / (np.asarray(a) - b).std(ddof=1)
        ),
        "takes the standard deviation with n instead of n − 1": lambda a, b: (
            (np.asarray(a) - b).mean() / ((np.asarray(a) - b).std() / np.sqrt(len(a)))
        ),
        "has the sign the wrong way round": lambda a, b: paired_t(b, a),
    },
    hints=(
        "Seed 3 is kind to both methods, seed 4 to neither. So subtract within each seed first.",
        r"$\bar d \,/\, (s_d/\sqrt n)$ with $d = a - b$ and $s_d$ its standard deviation, with $n - 1$: equation "
        r"(14.2).",
        """
        ```python
        d = np.asarray(a) - np.asarray(b)
        return d.mean() / ...
        ```
        """,
    ),
)

questions = (
    Question(
        "fair memory",
        "A table gives ER 1,000 images and EWC 'no memory'. What is missing?",
        (
            "What EWC keeps: two numbers for each weight and task.",
            "The size of EWC's mini-batches.",
            "The labels of the images, which are the larger part.",
        ),
        "a",
        "An anchor and a Fisher for each task may weigh as much as a thousand images.",
    ),
    Question(
        "pairs",
        "Why are two methods compared seed by seed?",
        (
            "It makes each of them more accurate.",
            "The luck that both share cancels in the difference.",
            "It needs no standard error.",
        ),
        "b",
        "Same tasks, same start, same order of data: that part of the variance is in both, and subtracts.",
    ),
    Question(
        "what to use",
        "The task is not known at test time, and 200 images may be kept. What does the evidence say?",
        ("Replay them", "EWC with a larger λ.", "Keep nothing, and use LwF."),
        "a",
        "In Class-IL no method without old data was far above the naive run; replay was.",
    ),
    Question(
        "combine",
        "ER + LwF beats ER in a table. What do you ask first?",
        (
            "Which of the two was trained longer.",
            "How many tasks there were.",
            "Whether ER's own strength was tuned as widely.",
        ),
        "c",
        "Every term of a combination brings a strength to tune: a wider search alone can make the difference.",
    ),
)


def _fits():
    """The rows fit into the budget, and one more would not."""
    weights, tasks, inputs = 89_610, 5, 784
    n, budget = slots(weights, tasks, inputs), 2 * weights * tasks
    return float(max(0, n * (inputs + 2) - budget) + max(0, budget - (n + 1) * (inputs + 2) + 1))


def _against_scipy():
    (_, a, b), *_ = scores()
    return float(paired_t(a, b) - stats.ttest_rel(a, b).statistic)


def _variance():
    (_, a, b), *_ = scores()
    return float((a - b).var(ddof=1) - (a.var(ddof=1) + b.var(ddof=1) - 2 * np.cov(a, b)[0, 1]))


derivation = (
    Step(
        "14.1",
        r"EWC keeps an anchor and a Fisher for each task, $2P$ numbers each time, $2PT$ in all. A row of a replay "
        r"memory is "
        r"an input of $d$ numbers, a label and a task. So $\lfloor 2PT/(d+2) \rfloor$ rows cost the same, and one "
        r"more would "
        r"cost more: the residual is what is left over beyond one row.",
        _fits,
        0.0,
    ),
    Step(
        "14.2",
        r"Over $n$ seeds the mean difference $\bar d$ has the standard error $s_d/\sqrt n$. Their quotient "
        r"follows Student's "
        r"$t$ with $n - 1$ degrees of freedom if the true difference is 0. Residual: against SciPy's own paired test.",
        _against_scipy,
    ),
    Step(
        "14.3",
        r"Why pairs: $\mathrm{Var}(a - b) = \mathrm{Var}(a) + \mathrm{Var}(b) - 2\,\mathrm{Cov}(a, b)$. With a "
        r"shared seed the "
        r"covariance is large, and what both methods owe to luck drops out of the difference.",
        _variance,
    ),
)

notes = """
40 minutes. Begin with the decision guide as a blackboard question: what would you use, and why? Collect answers,
then let the
stored tables decide. The point of section 2 is that "no memory" is not zero; of section 3, that a combination must
be tuned no
more widely than its parts. Misconceptions: that a method with a theorem needs no baseline, and that one table of one
benchmark
transfers. Section 5 is a project: a method of the student's own, through the same loop, with three seeds.
"""
