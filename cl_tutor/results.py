"""The accuracy matrix R and the four numbers read off it. NumPy only: nothing here trains or draws.

R[i, j] is the accuracy on task j after training on tasks 0 ... i, and b[j] the accuracy on task j of the same network
before any training. Everything that the field reports is a mean over some cells of R, now and then minus b.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

NAMES = ("ACC", "forgetting", "BWT", "FWT")


@dataclass(frozen=True, eq=False)
class Results:
    """The matrix R (T, T), the untrained baseline b (T,), and the loss of every step, one list a task.

    >>> r = Results(R=[[.9, .2, .1], [.7, .8, .3], [.5, .6, .9]], b=[.1, .1, .1])
    >>> r
    Results(ACC 0.667, forgetting 0.300, BWT -0.300, FWT 0.150, 3 tasks)

    Accuracies are fractions in [0, 1]. Rows are *after training on*, columns are *tested on*: a transposed R has the
    same ACC only by luck. With one task forgetting, BWT and FWT average over nothing and are nan.
    """

    R: np.ndarray
    b: np.ndarray
    losses: list[list[float]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        R, b = _accuracies("R", self.R), _accuracies("b", self.b)
        if R.ndim != 2 or R.shape[0] != R.shape[1] or not len(R):
            raise ValueError(f"R must be square, one row and one column a task, but its shape is {R.shape}.")
        if b.shape != R.shape[:1]:
            raise ValueError(f"b needs one entry a task: R has {len(R)} tasks, but the shape of b is {b.shape}.")
        object.__setattr__(self, "R", R)
        object.__setattr__(self, "b", b)

    def __eq__(self, other: object) -> bool:
        """The same accuracies; the losses do not count."""
        return isinstance(other, Results) and np.array_equal(self.R, other.R) and np.array_equal(self.b, other.b)

    @property
    def acc(self) -> float:
        """ACC = 1/T Σ_j R[T−1, j]: the mean of the last row (Lopez-Paz & Ranzato 2017, eq. 2)."""
        return float(self.R[-1].mean())

    @property
    def forgetting(self) -> float:
        """F = 1/(T−1) Σ_{j<T−1} max_{i<T−1} R[i, j] − R[T−1, j]: the fall from the best ever held, positive is bad
        (Chaudhry et al. 2018, eq. 3 and 4)."""
        return _mean((self.R[:-1].max(0, initial=0.0) - self.R[-1])[:-1])

    @property
    def bwt(self) -> float:
        """BWT = 1/(T−1) Σ_{j<T−1} R[T−1, j] − R[j, j]: below zero is forgetting (Lopez-Paz & Ranzato 2017, eq. 3)."""
        return _mean((self.R[-1] - self.R.diagonal())[:-1])

    @property
    def fwt(self) -> float:
        """FWT = 1/(T−1) Σ_{j≥1} R[j−1, j] − b[j]: help before the first look (Lopez-Paz & Ranzato 2017, eq. 4)."""
        return _mean(self.R.diagonal(1) - self.b[1:])

    def metrics(self) -> dict[str, float]:
        """The four numbers by the names that the JSON and the tables use."""
        return {"acc": self.acc, "forgetting": self.forgetting, "bwt": self.bwt, "fwt": self.fwt}

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in zip(NAMES, self.metrics().values()))
        return f"Results({numbers}, {len(self.R)} tasks)"

    def __rich__(self) -> Table:
        """`rich.print(results)` shows R under b as a table in the terminal, with the four numbers below it."""
        m = " · ".join(f"{name} {value:.3f}" for name, value in zip(NAMES, self.metrics().values()))
        table = Table("accuracy on", *(f"task {j + 1}" for j in range(len(self.R))), caption=m)
        for name, row in zip(
            ["before training", *(f"after task {i + 1}" for i in range(len(self.R)))], [self.b, *self.R]
        ):
            table.add_row(name, *(f"{v:.3f}" for v in row))
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>task {j + 1}</th>" for j in range(len(self.R)))
        row = lambda name, values: f"<tr><th>{name}</th>" + "".join(f"<td>{v:.3f}</td>" for v in values) + "</tr>"
        body = row("before training", self.b) + "".join(row(f"after task {i + 1}", r) for i, r in enumerate(self.R))
        caption = " · ".join(f"{name} {value:.3f}" for name, value in zip(NAMES, self.metrics().values()))
        head = f"<caption>{caption}</caption><thead><tr><th>accuracy on</th>{head}</tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>"

    def to_json(self) -> str:
        """One line of JSON with R, b and the losses; `Results.from_json` reads it back exactly."""
        return json.dumps({"R": self.R.tolist(), "b": self.b.tolist(), "losses": self.losses})

    @classmethod
    def from_json(cls, text: str) -> Results:
        """The inverse of `to_json`. Anything else is refused with a sentence that says what is missing."""
        try:
            d: dict[str, Any] = json.loads(text)
            R, b, losses = d["R"], d["b"], d.get("losses", [])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
            raise ValueError(f'Not a stored result: expected JSON such as {{"R": [[0.9]], "b": [0.1]}} ({e!r}).') from e
        return cls(R, b, losses)

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Results:
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def _mean(cells: np.ndarray) -> float:
    return float(cells.mean()) if len(cells) else float("nan")


def _accuracies(name: str, values: Any) -> np.ndarray:
    try:
        a = np.array(values, dtype=float)
    except (TypeError, ValueError) as e:
        raise ValueError(f"{name} must hold numbers in rows of equal length, one a task ({e}).") from None
    if a.size and not (np.isfinite(a).all() and a.min() >= 0 and a.max() <= 1):
        bad = a[~(np.isfinite(a) & (a >= 0) & (a <= 1))][0]
        raise ValueError(f"{name} holds {bad:g}, but an accuracy lies in [0, 1]: divide percentages by 100.")
    a.flags.writeable = False
    return a
