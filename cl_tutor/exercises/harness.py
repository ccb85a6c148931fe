"""Exercises that answer back: `q.check(answer)`, `q.hint()`, `q.solution()`.

A check runs the reader's answer and the reference on the same seeded cases and compares what comes out. It never
raises for a wrong answer, so that a notebook with nothing filled in runs from top to bottom.
"""

from __future__ import annotations

import copy
import html
import inspect
import reprlib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from . import progress

# status: (symbol, Okabe-Ito colour of the bar); the words say the same, for whoever sees neither
STATUS = {"correct": ("✓", "#009E73"), "incorrect": ("✗", "#D55E00"), "not attempted": ("○", "#0072B2")}
STEPS = ("the idea", "the formula", "the skeleton")


@dataclass(frozen=True, eq=False, repr=False)
class Exercise:
    """One question to the reader.

    name       what the verdict calls it
    reference  the solution, a function (or class) with the name and the parameters of the notebook's stub
    mutants    {mistake: wrong function}, the mistake worded to follow "an answer that"; the check rejects every one
    hints      three Markdown texts: the idea, the formula, the skeleton
    cases      tuples (words, *arguments), or a function that makes them; none: the answer is the value `reference()`
    ask        how an answer is asked: `ask(answer, *arguments)` returns what is compared; by default, call it
    rtol, atol tolerances: |got − expected| <= atol + rtol |expected|

    >>> def double(x):
    ...     return 2 * x
    >>> q = Exercise("Double", double, {"squares x": lambda x: x * x}, ("", "", ""), (("three", 3.0),))
    >>> q.check(lambda x: ...)
    ○ Not attempted: Double
      Next: Replace the ... in the cell above. Stuck? Ask for a hint with .hint()
    >>> q.check(lambda x: x * x)
    ✗ Incorrect: Double
      Case: 1 of 1, three
      Given: x = 3.0
      Got: 9.0
      Expected: 6.0
      Largest difference: 3
      Perhaps: the same comes out of an answer that squares x
    >>> bool(q.check(lambda x: x + x))
    True
    """

    name: str
    reference: Callable
    mutants: Mapping[str, Callable]
    hints: tuple[str, str, str]
    cases: tuple[tuple, ...] | Callable[[], Iterable[tuple]] = ()
    ask: Callable = lambda answer, *arguments: answer(*arguments)
    rtol: float = 1e-5
    atol: float = 1e-7
    _hinted: list[int] = field(default_factory=lambda: [0], init=False)

    def __repr__(self) -> str:
        return f"Exercise {self.name}: .check(answer), .hint(), .solution()"

    def check(self, answer: Any) -> Verdict:
        """Compare an answer with the reference, case by case, and stop at the first that differs; note how it ended."""
        verdict = self._verdict(answer)
        package, _, module = self.reference.__module__.rpartition(".")
        if package == __package__ and verdict.status != "not attempted":  # an exercise of the course, tried
            progress.exercise(module, self.name, verdict.status)
        return verdict

    def _verdict(self, answer: Any) -> Verdict:
        cases = list(self.cases() if callable(self.cases) else self.cases)
        if unfinished(answer):
            return self._not_attempted()
        if cases and not callable(answer):
            want = f"the function itself, .check({self.reference.__name__}), not a value that it returned"
            return Verdict(self.name, "incorrect", {"Got": shown(answer), "Expected": want})

        for number, (words, *arguments) in enumerate(cases or [("your value",)], 1):
            where = {"Case": f"{number} of {len(cases)}, {words}", "Given": self._given(arguments)} if cases else {}
            expected = self._outcome(self.reference, arguments)
            try:
                got = self._outcome(answer, arguments) if cases else answer
            except Exception as e:  # whatever the reader's code may raise, the notebook goes on
                if isinstance(e, NotImplementedError) or "ellipsis" in str(e):
                    return self._not_attempted()
                return Verdict(self.name, "incorrect", where | {"Raised": f"{type(e).__name__}: {brief(str(e))}"})
            if number == 1 and unfinished(got):
                return self._not_attempted()
            if wrong := difference(got, expected, self.rtol, self.atol):
                return Verdict(self.name, "incorrect", where | wrong | self._diagnosis(got, arguments))
        return Verdict(self.name, "correct", {"Checked on": f"{len(cases)} cases"} if cases else {})

    def hint(self, number: int | None = None) -> Hint:
        """The next hint, or the one asked for: 1 the idea, 2 the formula, 3 the skeleton."""
        if number is None:
            self._hinted[0] += 1
            number = self._hinted[0]
        elif number not in (1, 2, 3):
            raise ValueError(f"There is no hint {number!r}: ask for 1 (the idea), 2 (the formula) or 3 (the skeleton).")
        if number > 3:
            return Hint("No more hints", "That was the last one. `.solution()` shows the solution.")
        return Hint(f"Hint {number} of 3, {STEPS[number - 1]}", textwrap.dedent(self.hints[number - 1]).strip())

    def solution(self) -> Solution:
        """The source of the reference, as it could stand in the notebook."""
        return Solution(textwrap.dedent(inspect.getsource(self.reference)).strip())

    def _not_attempted(self) -> Verdict:
        todo = "Replace the ... in the cell above. Stuck? Ask for a hint with .hint()"
        return Verdict(self.name, "not attempted", {"Next": todo})

    def _outcome(self, answer: Callable, arguments: list) -> Any:
        """What an answer gives on its own copy of the arguments; torch's generator starts at 0 and is put back."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return self.ask(answer, *copy.deepcopy(arguments))

    def _given(self, arguments: list) -> str:
        names = inspect.signature(self.reference).parameters
        named = zip(names, arguments) if len(names) == len(arguments) else enumerate(arguments)
        return "\n".join(f"{name} = " + shown(a).replace("\n", "\n" + " " * (len(str(name)) + 3)) for name, a in named)

    def _diagnosis(self, got: Any, arguments: list) -> dict[str, str]:
        """Name the mistake, if exactly one of the mutants makes it."""
        wrong = lambda mutant: difference(got, self._outcome(mutant, arguments), self.rtol, self.atol)
        same = [mistake for mistake, mutant in self.mutants.items() if not wrong(mutant)]
        return {"Perhaps": f"the same comes out of an answer that {same[0]}"} if len(same) == 1 else {}


@dataclass(frozen=True, repr=False)
class Verdict:
    """Correct, incorrect (and why) or not attempted. True only when correct."""

    exercise: str
    status: str
    details: dict[str, str]

    def __bool__(self) -> bool:
        return self.status == "correct"

    def __repr__(self) -> str:
        lines = (f"  {k}: " + v.replace("\n", "\n" + " " * (len(k) + 4)) for k, v in self.details.items())
        return "\n".join([f"{STATUS[self.status][0]} {self.status.capitalize()}: {self.exercise}", *lines])

    def _repr_html_(self) -> str:
        symbol, colour = STATUS[self.status]
        face = lambda k: ";font-family:monospace" if k in ("Given", "Got", "Expected") else ""  # keeps a matrix aligned
        cell = lambda k, v: f'<td style="text-align:left;white-space:pre-wrap{face(k)}">{html.escape(v)}</td>'
        row = lambda k, v: f'<tr><th scope="row" style="text-align:left">{k}</th>{cell(k, v)}</tr>'
        words = f"{self.status.capitalize()}: {html.escape(self.exercise)}"
        head = f'<strong><span aria-hidden="true">{symbol}</span> {words}</strong>'
        rows = "".join(row(k, v) for k, v in self.details.items())
        style = f"border-left:5px solid {colour};padding:.3em 1em"
        return f'<div role="status" style="{style}">{head}<table>{rows}</table></div>'


@dataclass(frozen=True, repr=False)
class Hint:
    title: str
    text: str

    def __repr__(self) -> str:
        return f"{self.title}: {self.text}"

    def _repr_markdown_(self) -> str:
        return f'<div role="status">\n\n**{self.title}.** {self.text}\n\n</div>'


@dataclass(frozen=True, repr=False)
class Solution:
    source: str

    def __repr__(self) -> str:
        return self.source

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.source}\n```"


def unfinished(x: Any) -> bool:
    """Is a `...` (or nothing at all) still standing where the answer should be?"""
    inside = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else ()
    return x is None or x is ... or any(unfinished(v) for v in inside)


def difference(got: Any, expected: Any, rtol: float, atol: float, at: str = "") -> dict[str, str]:
    """What sets two answers apart, as the lines of a verdict; empty if nothing does.

    Numbers, arrays and tensors are compared by shape, by kind (yes/no, whole, real) and by value: nan equals nan, and
    neither float width nor NumPy against torch matters. Tuples, lists and dicts go entry by entry; the rest by ==.
    """
    where = f"at {at}: " if at else ""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or got.keys() != expected.keys():
            keys = list(got) if isinstance(got, dict) else f"a {type(got).__name__}, {shown(got)}"
            return {"Got": f"{where}{keys}", "Expected": f"{where}a dict with the keys {list(expected)}"}
        pairs = [(got[k], expected[k], f"{at}[{k!r}]") for k in expected]
    elif isinstance(expected, tuple | list):
        got = list(got) if isinstance(got, np.ndarray | torch.Tensor) and got.ndim else got
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            return {"Got": where + shown(got), "Expected": f"{where}{len(expected)} entries, {shown(expected)}"}
        pairs = [(got[k], expected[k], f"{at}[{k}]") for k in range(len(expected))]
    else:
        return {k: where + v for k, v in _leaf(got, expected, rtol, atol).items()}
    return next((d for g, e, k in pairs if (d := difference(g, e, rtol, atol, k))), {})


def _leaf(got: Any, expected: Any, rtol: float, atol: float) -> dict[str, str]:
    g, e = _array(got), _array(expected)
    values = {"Got": shown(got), "Expected": shown(expected)}
    if e is None:
        return {} if type(got) is type(expected) and got == expected else values
    if g is None:
        return values | {"Got": f"a {type(got).__name__}, {shown(got)}"}
    if g.shape != e.shape:
        return {"Got": f"shape {g.shape}", "Expected": f"shape {e.shape}" + (", one number" if e.ndim == 0 else "")}
    kinds = {"b": "yes/no", "i": "whole", "u": "whole", "f": "real", "c": "complex"}
    gk, ek = kinds[g.dtype.kind], kinds[e.dtype.kind]
    if gk != ek and not (e.ndim == 0 and {gk, ek} == {"whole", "real"}):
        return {"Got": f"{gk} numbers (dtype {g.dtype})", "Expected": f"{ek} numbers (dtype {e.dtype})"}
    if np.allclose(g, e, rtol=rtol, atol=atol, equal_nan=True):
        return {}
    if ek == "yes/no":
        return values | {"Largest difference": f"{(g != e).sum()} of {e.size} entries differ"}
    g, e = g.astype(np.result_type(g, float)), e.astype(np.result_type(e, float))
    with np.errstate(invalid="ignore"):  # inf − inf
        gap = np.where((g == e) | (np.isnan(g) & np.isnan(e)), 0.0, np.abs(g - e))
    worst = np.unravel_index(np.argmax(gap), gap.shape)  # argmax puts nan first
    place = f" at [{', '.join(map(str, worst))}]" if worst else ""
    return values | {"Largest difference": f"{gap[worst]:.3g}{place}"}


def _array(x: Any) -> np.ndarray | None:
    """x as an array of numbers, or None if it is not made of numbers."""
    try:
        a = x.detach().cpu().resolve_conj().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    except (TypeError, ValueError):
        return None
    return a if a.dtype.kind in "biufc" else None


def shown(x: Any) -> str:
    """A value in at most a few lines: small arrays whole, large ones by shape, kind and range."""
    if isinstance(x, dict):
        return "{" + ", ".join(f"{k!r}: {shown(v)}" for k, v in list(x.items())[:8]) + (", ...}" if len(x) > 8 else "}")
    if isinstance(x, tuple | list):
        return "(" + ", ".join(map(shown, x[:8])) + (", ...)" if len(x) > 8 else ")")
    a = _array(x) if isinstance(x, np.ndarray | np.generic | torch.Tensor) else None
    if a is not None and a.ndim == 0:
        return shown(a.item())
    if a is None:
        return f"{x:.6g}" if isinstance(x, float) and not x.is_integer() else brief(reprlib.repr(x))
    if a.size <= 36:
        return np.array2string(a, precision=4, suppress_small=True, floatmode="maxprec_equal")
    return f"{a.dtype} of shape {a.shape}, from {a.min():.4g} to {a.max():.4g}"


def brief(text: str, width: int = 300) -> str:
    """One line: an answer's error is a sentence here, never a wall."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[:width] + " ..."
