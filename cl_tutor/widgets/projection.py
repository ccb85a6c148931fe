"""The geometry of A-GEM and GEM in the plane: drag the gradients and see which half-planes a step may enter."""

from __future__ import annotations

import matplotlib as mpl
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from ..methods.projection import project, project_mean
from .island import Island, module

RATE = 0.1  # η of the step whose first-order changes are shown
_vector = lambda: traitlets.List(traitlets.Float(), minlen=2, maxlen=2)


class Projection(Island):
    """g̃ of a new gradient `g_new` and the gradients `g_refs` of one to three old tasks, by `method` "A-GEM" or "GEM".

    A-GEM keeps g̃·ḡ ≥ 0 for the mean ḡ of the old gradients; GEM keeps g̃·g_k ≥ 0 for each (see
    `cl_tutor.methods.projection`). Shown for each task: −η g̃·g_k, the first-order change of its loss, η = 0.1.

    >>> w = Projection(g_new=[1.0, -1.0], g_refs=[[0.0, 1.0]])
    >>> w.g_tilde.tolist()
    [1.0, 0.0]
    """

    _esm = module("projection.js")
    g_new = _vector().tag(sync=True)
    g_refs = traitlets.List(_vector(), minlen=1, maxlen=3).tag(sync=True)
    method = traitlets.Enum(("A-GEM", "GEM"), "A-GEM").tag(sync=True)

    def __init__(self, g_new=(1.5, -0.9), g_refs=((0.4, 1.4), (1.4, 0.6)), method: str = "A-GEM") -> None:
        super().__init__(g_new=list(g_new), g_refs=[list(g) for g in g_refs], method=method)

    @property
    def g_tilde(self) -> Tensor:
        """The gradient that the optimiser sees, (2,)."""
        g, G = torch.tensor(self.g_new, dtype=torch.float64), torch.tensor(self.g_refs, dtype=torch.float64)
        return project(g, G) if self.method == "GEM" else project_mean(g, G.mean(0))

    def changes(self) -> list[float]:
        """−η g̃·g_k: first-order change of each old loss, in order, and of the new one, last."""
        step, gradients = self.g_tilde, torch.tensor([*self.g_refs, self.g_new], dtype=torch.float64)
        return (-RATE * gradients @ step).tolist()

    @mpl.rc_context(plots.STYLE)
    def picture(self) -> plots.Picture:
        arrows = {f"task {k}: g{'₀₁₂₃'[k]}": g for k, g in enumerate(self.g_refs, 1)}
        arrows |= {"new task: g": self.g_new, f"{self.method}: g̃": self.g_tilde.tolist()}
        figure = Figure(figsize=(7.2, 4.4))
        ax = figure.add_subplot(xlim=(-2.4, 2.4), ylim=(-1.8, 1.8), aspect="equal", title=f"{self.method}'s projection")
        ax.set(xticks=[0], xticklabels=[], yticks=[0], yticklabels=[])
        for (name, (x, y)), look in zip(arrows.items(), plots.styles(arrows).values()):  # g̃ may lie under g
            under = {"linewidth": 8, "linestyle": "-", "alpha": 0.45, "zorder": 1} if name.endswith("g̃") else {}
            ax.plot([0, x], [0, y], **look | under, markevery=[1], label=name)
        figure.legend(loc="outside right upper")
        at = ", ".join(f"{name} = ({x:.2f}, {y:.2f})" for name, (x, y) in arrows.items())
        *old, new = (f"{change:+.3f}".replace("-", "−") for change in self.changes())
        says = f"With η = {RATE} the old losses change by {', '.join(old)} and the new one by {new}, to first order."
        return plots.Picture(figure, f"{self.method} in the plane: {at}. {says}")
