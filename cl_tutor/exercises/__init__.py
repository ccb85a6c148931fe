"""The exercises, one module a lesson: `from cl_tutor.exercises.scenarios_and_metrics import q1`.

Each exercise has a check, three hints, a solution, and the mistakes that the check must reject. A new one is one
`Exercise` and one notebook cell that ends in `q.check(name)`; the tests find both by themselves.
"""

from .harness import Exercise, Hint, Solution, Verdict

__all__ = ["Exercise", "Hint", "Solution", "Verdict"]
