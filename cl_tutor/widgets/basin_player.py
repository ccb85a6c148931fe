"""Paths across one landscape, to play, pause and scrub, with the accuracies in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import traitlets

from .. import plots
from .island import Island, module

Curves = Mapping[str, Mapping[str, Sequence[float]]]


class BasinPlayer(Island):
    """`plots.animate` without plotly: the same arguments, and `curves` that run in step with the paths.

    Contours of one loss or two, Z[i, j] at (xs[j], ys[i]); paths (n, 2) by method, a shorter one waits at its end;
    named points. `curves` by what they show, then by method, one value for each point of its path:
    {"accuracy on task 1": {"naive": [...], "EWC": [...]}}. At most `frames` points of a path are kept.

    >>> line = np.linspace(0, 1, 5)
    >>> walk = BasinPlayer(line, line, np.add.outer(line, line), {"SGD": np.array([[0.9, 0.9], [0.2, 0.1]])})
    >>> walk.data["steps"]
    [0, 1]
    """

    _esm = module("basin_player.js")
    data = traitlets.Dict().tag(sync=True)
    frame = traitlets.Int(0, min=0).tag(sync=True)
    speed = traitlets.Enum((0.5, 1.0, 2.0, 4.0), 1.0).tag(sync=True)

    def __init__(
        self, xs: np.ndarray, ys: np.ndarray, Z: plots.Surfaces, paths: plots.Paths,
        points: plots.Points | None = None, curves: Curves | None = None, *,
        title: str = "Loss", xlabel: str = "θ₁", ylabel: str = "θ₂", frames: int = 200,
    ) -> None:  # fmt: skip
        still = plots.surface(xs, ys, Z, paths, points, title=title, xlabel=xlabel, ylabel=ylabel)
        walks, curves = plots._paths(paths), curves or {}
        if not walks:
            raise ValueError("BasinPlayer needs at least one path, an array of shape (n, 2): {'SGD': path}.")
        for what, lines in curves.items():
            for name, values in lines.items():
                if name not in walks or len(values) != len(walks[name]):
                    right = len(walks[name]) if name in walks else f"a path of that name, of {', '.join(walks)}"
                    raise ValueError(f"{what!r} of {name!r} has {len(values)} values and needs {right}.")
        steps = np.unique(np.linspace(0, max(map(len, walks.values())) - 1, frames).round().astype(int))
        keep = lambda values: np.asarray(values, float)[np.minimum(steps, len(values) - 1)]
        contours = {name: plots._polyline(xs, ys, z) for name, z in plots._surfaces(xs, ys, Z).items()}
        data = {
            "title": title, "x": [float(xs[0]), float(xs[-1]), xlabel], "y": [float(ys[0]), float(ys[-1]), ylabel],
            "steps": steps.tolist(), "surfaces": {name: [x, y] for name, (x, y) in contours.items()},
            "paths": {name: keep(p).round(4).tolist() for name, p in walks.items()},
            "points": {name: [float(u), float(v)] for name, (u, v) in (points or {}).items()},
            "curves": {what: {n: keep(v).round(5).tolist() for n, v in of.items()} for what, of in curves.items()},
        }  # fmt: skip
        super().__init__(data=data, frame=len(steps) - 1)
        ends = (
            f"{what}: {', '.join(f'{n} ends at {v[-1]:.3f}' for n, v in of.items())}." for what, of in curves.items()
        )
        self._still = plots.Picture(still.figure, " ".join([still.alt, *ends]))

    def picture(self) -> plots.Picture:
        return self._still
