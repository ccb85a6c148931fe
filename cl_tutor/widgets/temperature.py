"""Temperature: what a teacher says beyond its first answer, and how hard the student is pulled towards it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import traitlets

from .. import plots
from ..methods.regularization import distil
from .island import Island, module

RANGES = {"T": (0.5, 20.0), "alpha": (0.0, 10.0)}
# a photograph of a wolf, seen by a network that knows five classes, and by one that is learning two more
NAMES = ("dog", "fox", "cat", "car", "ship", "wolf", "bus")
TEACHER, STUDENT = (5.0, 3.6, 2.0, -1.0, -2.0), (1.6, 2.4, -0.6, 0.8, -1.2, 2.2, -0.4)


class Temperature(Island):
    """LwF on one image: cross-entropy + α T² KL(softmax(z_old/T) ‖ softmax(z_new/T)), and its gradient by class.

    `teacher` are the old network's logits, `student` those of the new network, the old classes first; `label` is the
    image's class, counted among all: one of the new ones. `shared`: do old and new units share the cross-entropy's
    softmax (Class-IL), or has the new task its own (Task-IL)?

    As T -> ∞, T²·KL -> 1/(2C) Σ_c (d_c − mean d)² with d = z_new − z_old: half the variance of the differences. For
    KL is the Bregman divergence of log Σ exp, ½ Var_q(d)/T² to second order, and q becomes uniform.

    >>> w = Temperature(T=4.0)
    >>> f"{w.distillation:.3f}, at infinite T {w.limit:.3f}"
    '1.568, at infinite T 1.941'
    """

    _esm = module("temperature.js")
    names: traitlets.List = traitlets.List().tag(sync=True)
    teacher: traitlets.List = traitlets.List().tag(sync=True)
    student: traitlets.List = traitlets.List().tag(sync=True)
    label = traitlets.Int().tag(sync=True)
    T, alpha = (traitlets.Float().tag(sync=True) for _ in range(2))
    shared = traitlets.Bool().tag(sync=True)

    def __init__(
        self, teacher: Sequence[float] = TEACHER, student: Sequence[float] = STUDENT,
        names: Sequence[str] | None = None, label: int | None = None, *, T: float = 2.0, alpha: float = 1.0,
        shared: bool = True,
    ) -> None:  # fmt: skip
        old, new = ([float(z) for z in logits] for logits in (teacher, student))
        label = len(old) if label is None else int(label)
        if names is None:
            names = NAMES if len(new) == len(NAMES) else [f"class {k}" for k in range(len(new))]
        if not 2 <= len(old) < len(new) <= 12 or len(names) != len(new):
            sizes = f"{len(old)} logits of the teacher, {len(new)} of the student and {len(names)} names"
            raise ValueError(
                f"Temperature needs 2 old classes or more, a new one or more, at most 12 in all: not {sizes}."
            )
        if not np.isfinite([*old, *new]).all():
            raise ValueError(f"Logits must be finite numbers, not {old} and {new}.")
        if not len(old) <= label < len(new):
            raise ValueError(f"label must be one of the new classes, {len(old)} to {len(new) - 1}, not {label}.")
        for name, value in {"T": T, "alpha": alpha}.items():
            low, high = RANGES[name]
            if not low <= value <= high:
                raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {value}.")
        super().__init__(names=list(names), teacher=old, student=new, label=label, T=T, alpha=alpha, shared=shared)

    def at(self, T: float) -> float:
        """T² KL at this temperature, over the old classes."""
        old, new = torch.tensor([self.teacher, self.student[: len(self.teacher)]], dtype=torch.float64).split(1)
        return float(distil(old, new, T))

    @property
    def distillation(self) -> float:
        return self.at(self.T)

    @property
    def limit(self) -> float:
        """½ Var(z_new − z_old): T² KL at infinite T."""
        return float(0.5 * np.subtract(self.student[: len(self.teacher)], self.teacher).var())

    def picture(self) -> plots.Picture:
        temperatures = np.geomspace(*RANGES["T"], 60)
        scaled = np.array([self.at(T) for T in temperatures])
        series = {"T²·KL": scaled, "KL": scaled / temperatures**2, "limit": np.full(60, self.limit)}
        drawn = plots.lines({name: (temperatures, y) for name, y in series.items()}, "temperature T", "loss",
                            "Temperature", logx=True, logy=True, marks={self.T: f"T = {self.T:g}"})  # fmt: skip
        z = np.array(self.teacher)
        soft = np.exp((z - z.max()) / self.T)
        says = ", ".join(f"{name} {p:.2f}" for name, p in zip(self.names, soft / soft.sum()))
        alt = (
            f"Temperature {self.T:g}: the teacher says {says}. T²·KL = {self.distillation:.3g}; for T from 0.5 to "
            f"20 it "
            f"goes from {scaled[0]:.3g} to {scaled[-1]:.3g}, and towards {self.limit:.3g}, half the variance of the "
            "logit differences, while KL alone falls like 1/T²."
        )
        return replace(drawn, alt=alt)
