"""The exercises, one module a lesson: `from cl_tutor.exercises.scenarios_and_metrics import q1`.

Each exercise has a check, three hints, a solution, and the mistakes that the check must reject. A new one is one
`Exercise` and one notebook cell that ends in `q.check(name)`; the tests find both by themselves.

Beside its exercises a lesson's module holds `questions` (asked again in later lessons: reader.py), the `derivation`, a
checked step at a time, and the `notes` for whoever teaches it (teacher.py).
"""

from .harness import Exercise, Hint, Solution, Verdict
from .reader import LESSONS, Guess, Question, recall, what_do_you_forget

__all__ = [
    "LESSONS",
    "Exercise",
    "Guess",
    "Hint",
    "Question",
    "Solution",
    "Verdict",
    "recall",
    "what_do_you_forget",
]
