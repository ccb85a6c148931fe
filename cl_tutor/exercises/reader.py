"""What every lesson asks of its reader besides the exercises: a prediction, and three questions from before.

Both are kept in the reader's own file (see progress.py), and `knowledge` reads it as the matrix R of lesson 03: what do
*you* forget?
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from numbers import Integral, Real
from types import EllipsisType
from typing import Any

import numpy as np
import torch

from ..methods.memory import Reservoir
from ..plots import Picture, matrix
from ..results import Results
from . import progress
from .harness import STATUS, Exercise, Hint

LESSONS = {  # in their order; the notebook of lesson 5 is notebooks/05_ewc.ipynb, its module exercises/ewc.py
    0: "forgetting",
    1: "interference",
    2: "loss_basins",
    3: "scenarios_and_metrics",
    4: "fisher",
    5: "ewc",
    6: "importance",
    7: "lwf",
    8: "replay",
    9: "projection",
    10: "architectures",
    11: "class_incremental",
    12: "fisher_spectrum",
    13: "meta_learning",
    14: "putting_it_together",
    90: "bug_museum",
    91: "claims",
}


@cache
def module(lesson: int) -> Any:
    """The module of a lesson's exercises, questions, derivation and notes."""
    if lesson not in LESSONS:
        raise ValueError(f"There is no lesson {lesson!r}: the lessons are {', '.join(map(str, LESSONS))}.")
    return import_module(f".{LESSONS[lesson]}", __package__)


# ---- predictions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guess:
    """A prediction, made before the run and scored after it; `...` stands for none.

    >>> guess = Guess("00: accuracy left on task 1", 0.5)
    >>> guess.marks
    {0.5: 'your guess'}
    """

    about: str
    value: float | str | EllipsisType | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _number_or_word(self.value))

    @property
    def marks(self) -> dict[float, str]:
        """For a figure: {value: "your guess"}; nothing without a prediction, or for a word, which no axis has."""
        unmarked = self.value is None or isinstance(self.value, str)
        return {} if unmarked else {self.value: "your guess"}  # type: ignore[dict-item]

    def score(self, measured: float | str) -> Hint:
        """Say how far off it was, and keep both."""
        measured = measured if isinstance(measured, str) else float(f"{measured:.3g}")
        said = _said(measured)
        if self.value is None:
            return Hint("Your prediction", f"None was made; measured: {said}. Put yours in place of the three dots.")
        progress.update(lambda stored: stored["guesses"].update({self.about: [self.value, measured]}))
        if isinstance(self.value, float | int) and isinstance(measured, float):
            verdict = f"off by {abs(self.value - measured):.2g}"
        else:
            verdict = "as you said" if self.value == measured else "not as you said"
        return Hint("Your prediction", f"You said {_said(self.value)}, measured {said}: {verdict}.")


def _said(value: Any) -> str:
    """17, not 17.0; and a minus sign, not a hyphen."""
    return f"{value:g}".replace("-", "−") if isinstance(value, float | int) else str(value)


def _number_or_word(value: Any) -> float | str | None:
    """What may be predicted: a finite number (also one in quotes), a word, or nothing yet."""
    if value is ... or value is None:
        return None
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
    if not isinstance(number, Real) or isinstance(number, bool) or not math.isfinite(number):
        raise TypeError(f"A prediction is a number or a word, not {value!r}: write it in place of the three dots.")
    return int(number) if isinstance(number, Integral) else float(number)


# ---- three questions from before ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One question with three answers to choose from, of which one, "a", "b" or "c", is right; and why."""

    key: str
    text: str
    choices: tuple[str, str, str]
    answer: str
    why: str


@dataclass(frozen=True, repr=False)
class Recall:
    """Three questions, each with the lesson that it comes from. `.check("a", "c", "b")` answers them."""

    lesson: int
    asked: tuple[tuple[int, Question], ...]
    round: int = 1

    def __repr__(self) -> str:
        return "\n\n".join(
            f"{n}. {q.text}\n" + "\n".join(f"   {letter}) {choice}" for letter, choice in zip("abc", q.choices))
            for n, (_, q) in enumerate(self.asked, 1)
        )

    def _repr_markdown_(self) -> str:
        return "\n\n".join(
            f"**{n}.** {q.text}\n\n" + "\n".join(f"- **{letter}** {choice}" for letter, choice in zip("abc", q.choices))
            for n, (_, q) in enumerate(self.asked, 1)
        )

    def check(self, *answers: str | EllipsisType) -> Marked:
        """Mark the answers and keep the marks: those of the first try. With a `...` among them nothing is marked."""
        if len(answers) != len(self.asked):
            raise ValueError(f"There are {len(self.asked)} questions, and {len(answers)} answers were given.")
        if wrong := [a for a in answers if a is not ... and a not in ("a", "b", "c")]:
            raise ValueError(f'{wrong[0]!r} is no answer: write "a", "b" or "c", or leave the three dots.')
        if ... in answers:
            return Marked(self, ())
        right = {f"{LESSONS[k]}/{q.key}": a == q.answer for a, (k, q) in zip(answers, self.asked)}
        entry = {"lesson": self.lesson, "round": self.round, "right": right}

        def keep(stored: dict[str, Any]) -> None:
            if all((e["lesson"], e["round"]) != (self.lesson, self.round) for e in stored["recalls"]):
                stored["recalls"].append(entry)  # who knows the answers by now, or runs all cells again, adds nothing

        progress.update(keep)
        return Marked(self, answers)


@dataclass(frozen=True, repr=False)
class Marked:
    """The answers beside what is right, and why; no answers at all while one is missing."""

    recall: Recall
    answers: Sequence[Any]

    def _rows(self) -> list[tuple[str, str]]:
        if not self.answers:
            return [("not attempted", 'Write "a", "b" or "c" in place of each of the three dots.')]
        return [
            ("correct" if a == q.answer else "incorrect", f"Question {n}: {q.answer}. {q.why} (Lesson {k:02d})")
            for n, (a, (k, q)) in enumerate(zip(self.answers, self.recall.asked), 1)
        ]

    def _closing(self) -> str:
        again = f"`recall({self.recall.lesson}, {self.recall.round + 1})`"
        return f"\n\nAnother day, {again} asks again." if self.answers else ""

    def __repr__(self) -> str:
        return (
            "\n".join(f"{STATUS[status][0]} {status.capitalize()}: {text}" for status, text in self._rows())
            + self._closing()
        )

    def _repr_markdown_(self) -> str:
        line = lambda status, text: f"- {STATUS[status][0]} **{html.escape(status.capitalize())}.** {text}"
        return (
            '<div role="status">\n\n' + "\n".join(line(*row) for row in self._rows()) + self._closing() + "\n\n</div>"
        )


def recall(lesson: int, round: int = 1) -> Recall:
    """Three questions from the lessons before this one, drawn by the course's own reservoir (Vitter 1985).

    The draw follows from the lesson and the round alone, so that answers written in a notebook stay answers to the same
    questions. Rounds count from 1; the next one is another draw.
    """
    if lesson not in LESSONS or lesson == 0:
        raise ValueError(
            f"Nothing is asked in lesson {lesson!r}: write recall(3) in lesson 03; lesson 00 is the first."
        )
    if not isinstance(round, int) or round < 1:
        raise ValueError(f"Rounds are 1, 2, 3, ..., not {round!r}.")
    pool = [(k, q) for k in LESSONS if k < lesson for q in module(k).questions]
    memory = Reservoir(3, seed=100 * lesson + round)
    memory.add(torch.arange(len(pool)))
    return Recall(lesson, tuple(pool[i] for i in sorted(memory.rows()[0].tolist())), round)


# ---- what do you forget? -----------------------------------------------------------------------------------------


def knowledge() -> tuple[list[int], Results] | None:
    """The reader's own R: (the lessons met, R over them) from the file of progress, or None if nothing is in it.

    R[i, j] is the share of right answers to questions from lesson j that were asked in lesson i, or what it was before
    if none was asked there; on the diagonal stands the share of lesson j's exercises that are correct; b is 0.
    """
    stored = progress.read()
    share: dict[int, float] = {}
    for k, name in LESSONS.items():
        exercises = [q for q in vars(module(k)).values() if isinstance(q, Exercise)]
        status = [stored["exercises"].get(f"{name}/{q.name}") for q in exercises]
        if any(status):
            share[k] = status.count("correct") / len(status)
    asked = {k: [r["right"] for r in stored["recalls"] if r["lesson"] == k] for k in LESSONS}
    met = [k for k in LESSONS if k in share or asked[k]]
    if not met:
        return None
    R = np.zeros((len(met), len(met)))
    for i, after in enumerate(met):
        R[i, i] = share.get(after, 0.0)
        for j, about in enumerate(met[:i]):
            marks = [ok for right in asked[after] for key, ok in right.items() if key.startswith(f"{LESSONS[about]}/")]
            R[i, j] = np.mean(marks) if marks else R[i - 1, j]
    return met, Results(R, np.zeros(len(met)))


def what_do_you_forget() -> Picture | Hint:
    """The reader's own R as a picture: rows are the lesson in which you were asked, columns the lesson asked about."""
    if (known := knowledge()) is None:
        return Hint("Nothing yet", "Solve an exercise, or answer the three questions at the beginning of a lesson.")
    met, results = known
    return matrix(results, "What do you forget?", names=[f"lesson {k:02d}" for k in met])
