"""For whoever teaches: a lesson's derivation, every step checked as it is printed, and its copy with the solutions."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from .harness import Exercise
from .reader import module


@dataclass(frozen=True)
class Step:
    """One step of a derivation: the number of its equation, the words, and how far a small case violates it."""

    tag: str
    text: str
    residual: Callable[[], float]
    tol: float = 1e-10


def sheet(lesson: int) -> str:
    """The derivation of a lesson as Markdown, each step with the residual that it has here and now.

    A step that does not hold is an ArithmeticError: nobody hands out a sheet with an error in it.
    """
    m = module(lesson)
    parts = [f"# Lesson {lesson:02d}: the derivation"]
    for step in m.derivation:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            residual = float(step.residual())
        if not abs(residual) <= step.tol:
            raise ArithmeticError(
                f"Step ({step.tag}) of lesson {lesson}: residual {residual:.1e}, over {step.tol:.0e}."
            )
        parts += [f"## ({step.tag})", textwrap.dedent(step.text).strip()]
        parts += [f"*Residual on a small case, in float64: {residual:.1e}.*"]
    return "\n\n".join(parts) + "\n"


def lecturers_copy(notebook: dict[str, Any], lesson: int) -> dict[str, Any]:
    """The notebook (its JSON) with every stub replaced by its solution, and the lecturer's notes under the header.

    A stub is the definition, or the assignment of `...`, of the name that `qN.check(name)` hands in. All outputs go:
    they belong to the reader's copy.
    """
    m, copy = module(lesson), deepcopy(notebook)
    for cell in copy["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    sources = [cell["source"] for cell in copy["cells"] if cell["cell_type"] == "code"]
    checked = re.findall(r"^[^#\n]*\b(q\d+)\.check\((\w+)\)", "\n".join(sources), re.M)
    for q, name in checked:
        exercise = getattr(m, q)
        if not _fill(copy["cells"], name, exercise):
            raise ValueError(f"Lesson {lesson}: {q}.check({name}) has no stub, no definition of {name} before it.")
    copy["cells"].insert(1, {"cell_type": "markdown", "id": "notes", "metadata": {}, "source": _notes(m, lesson)})
    return copy


def _notes(m: Any, lesson: int) -> str:
    notes = textwrap.dedent(m.notes).strip()
    return f"> **For the lecturer** (lesson {lesson:02d}; this copy holds the solutions)\n>\n" + textwrap.indent(
        notes, "> ", lambda line: True
    )


def _fill(cells: list[dict[str, Any]], name: str, exercise: Exercise) -> bool:
    """Put the solution where the stub of that name stands."""
    for cell in cells:
        if cell["cell_type"] != "code" or name not in cell["source"]:
            continue
        try:
            statements = ast.parse(cell["source"]).body
        except SyntaxError:  # a magic: no stub is in there
            continue
        for s in statements:
            defined = isinstance(s, ast.FunctionDef | ast.ClassDef) and s.name == name and _open(s)
            dots = isinstance(s, ast.Assign) and ast.unparse(s) == f"{name} = ..."
            if defined or dots:
                lines = cell["source"].split("\n")
                solution = textwrap.dedent(inspect.getsource(exercise.reference)).strip()
                if dots:
                    solution += f"\n\n\n{name} = {exercise.reference.__name__}()"
                cell["source"] = "\n".join([*lines[: s.lineno - 1], solution, *lines[s.end_lineno :]])
                return True
    return False


def _open(statement: ast.stmt) -> bool:
    """Is there a `...` or a NotImplementedError where the reader's code should be?"""
    return any(
        (isinstance(n, ast.Constant) and n.value is ...) or (isinstance(n, ast.Name) and n.id == "NotImplementedError")
        for n in ast.walk(statement)
    )
