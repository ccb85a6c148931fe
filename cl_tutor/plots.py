"""Figures as functions of results and arrays. Each returns a `Picture`: a figure with alt text made from its numbers.

Nothing here trains, and matplotlib's global settings are never touched: every function draws under its own `STYLE`. The
colours are Okabe & Ito's, and no line relies on colour: each has its own dashes and its own marker as well.
"""

from __future__ import annotations

import base64
import html
import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from contourpy import contour_generator
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .results import Results

# fmt: off
STYLE: dict[Any, Any] = {
    "figure.dpi": 100, "figure.constrained_layout.use": True, "figure.constrained_layout.h_pad": 0.1,
    "figure.facecolor": "white", "axes.facecolor": "white", "font.size": 12, "font.family": "DejaVu Sans",
    "axes.titlesize": 13, "axes.titlelocation": "left", "axes.titlepad": 10, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": "#e3e3e3", "lines.linewidth": 2.2,
    "lines.markersize": 7, "legend.frameon": False, "legend.handlelength": 3.4,
}
LOOKS = [  # colour, dashes, marker; then the last two once more in plotly's words
    ("#000000", (0, (1, 1.2)), "v", "dot", "triangle-down"),  # the floor
    ("#767676", (0, (6, 2)), "^", "dash", "triangle-up"),  # the ceiling
    ("#0072B2", "-", "o", "solid", "circle"),
    ("#D55E00", (0, (5, 1, 1, 1)), "s", "dashdot", "square"),
    ("#009E73", (0, (3, 1)), "D", "4px,2px", "diamond"),
    ("#CC79A7", (0, (8, 1, 1, 1, 1, 1)), "X", "longdashdot", "x"),
    ("#E69F00", (0, (9, 1.5)), "P", "longdash", "cross"),
    ("#56B4E9", (0, (2, 0.7)), "p", "3px,2px", "pentagon"),
]
# A method looks the same in every figure of the course; one of a family takes its relative's look when that is free.
METHODS = {
    "naive": 0, "joint": 1, "ewc": 2, "er": 3, "si": 4, "mas": 5, "lwf": 6, "online ewc": 7, "der": 5, "der++": 7,
    "a-gem": 4, "gem": 6, "packnet": 5, "progressive": 6, "supsup": 7,
}
CONTOURS = [("#0072B2", "-", "solid"), ("#D55E00", (0, (4, 2)), "dash")]  # the first surface and the second
VIEW = {"x": -1.1, "y": -1.4, "z": 0.9}  # from the front left, from above: θ₁ runs to the right
# fmt: on

Runs = Mapping[str, Results | Sequence[Results]]
Surfaces = np.ndarray | Mapping[str, np.ndarray]
Paths = Mapping[str, np.ndarray]
Points = Mapping[str, tuple[float, float]]


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A look (colour, dashes, marker) for each name, all different: a method's own where it is free, else the next one.

    >>> [look["color"] for look in styles(["naive", "EWC", "mine"]).values()]
    ['#000000', '#0072B2', '#D55E00']
    """
    names = list(names)
    taken: dict[str, int] = {}
    for name in names:
        look = METHODS.get(name.lower())
        if look is not None and look not in taken.values():
            taken[name] = look
    free = [i for i in [2, 3, 4, 5, 6, 7, 0, 1] if i not in taken.values()]
    for name in names:
        if name not in taken:
            if not free:
                raise ValueError(f"{len(names)} lines in one figure cannot be told apart: draw at most {len(LOOKS)}.")
            taken[name] = free.pop(0)
    return {name: dict(zip(("color", "linestyle", "marker"), LOOKS[taken[name]])) for name in names}


# ---------------------------------------------------------------------------------------------- what enters a notebook


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """A figure and its alt text; as the last expression of a cell it shows itself.

    `figure` is matplotlib's, or plotly's together with `still`, a matplotlib figure for viewers that cannot run it.
    One output holds the words and the PNG, as an image and as `<img alt>`: neither JupyterLab nor nbconvert's default
    gives a bare image/png any alt text. Beside plotly's figure the PNG is in the HTML alone, for JupyterLab would show
    a bare one in its place until a mouse comes by.
    """

    figure: Any
    alt: str
    still: Figure | None = None

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise ValueError("A figure needs alt text: say in words and numbers what it shows.")
        if self.still is None and not isinstance(self.figure, Figure):
            raise ValueError("An interactive figure needs still=, a matplotlib figure, for viewers that cannot run it.")
        for figure in (self.figure, self.still):
            if isinstance(figure, Figure):
                plt.close(figure)  # or a notebook would draw a pyplot figure a second time at the end of the cell

    def png(self) -> bytes:
        """The picture in 256 colours at 100 dots an inch, some 20 kB: notebooks that carry it stay small."""
        figure, full, small = self.still or self.figure, io.BytesIO(), io.BytesIO()
        figure.savefig(full, dpi=100, format="png")
        Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        png = base64.b64encode(self.png()).decode()
        img = f'<img alt="{html.escape(self.alt)}" style="max-width: 100%" src="data:image/png;base64,{png}">'
        data: dict[str, Any] = {"text/plain": repr(self), "text/html": img}
        if self.still is not None:
            return data | {"application/vnd.plotly.v1+json": json.loads(self.figure.to_json())}, {}
        return data | {"image/png": png}, {"image/png": {"alt": self.alt}}


def show(figure: Any, alt: str = "", still: Figure | None = None) -> None:
    """Display a `Picture` in mid-cell, or a figure of your own: `show(fig, alt)`, `show(plotly, alt, still=fig)`."""
    display(figure if isinstance(figure, Picture) else Picture(figure, alt, still))


# ------------------------------------------------------------------------------------------------------------- results


@mpl.rc_context(STYLE)
def matrix(results: Results, title: str = "Accuracy after each task", names: Sequence[str] | None = None) -> Picture:
    """R as a heat map under the row b. Framed: BWT, diagonal -> last row (solid); FWT, b -> superdiagonal (dashed).

    `names`, one a task, replace "task 1", "task 2", ...
    """
    R, b, T = results.R, results.b, len(results.R)
    rows = np.vstack([b, R])  # row 0 is b, so R[i, j] is drawn at (i + 1, j)
    figure = Figure(figsize=(7.2, 1.9 + 0.48 * (T + 1)))
    ax = figure.add_subplot()
    shades = LinearSegmentedColormap.from_list("", ["#ffffff", "#7fa8cc"])  # light: black numbers stay legible
    ax.imshow(rows, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(rows):
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", size=12 if T <= 8 else 8)
    ax.axhline(0.5, color="white", linewidth=5, zorder=0.9)
    short = list(names or [f"task {j + 1}" if T <= 8 else str(j + 1) for j in range(T)])
    names = list(names or [f"task {j + 1}" for j in range(T)])
    if len(names) != T:
        raise ValueError(f"names needs one name for each of the {T} tasks, but it holds {len(names)}.")
    ax.set_xticks(range(T), short)
    ax.set_yticks(range(T + 1), ["before training", *names])
    ax.set(xlabel="tested on", ylabel="after training on", title=title)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)

    def mark(pairs: list[tuple[tuple[int, int], tuple[int, int]]], side: float, label: str, **look: Any) -> None:
        for start, end in pairs:
            for i, j in (start, end):
                ax.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, linewidth=2.2, gid=label, **look))
            tip = {"arrowstyle": "->", "color": look["edgecolor"], "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", (end[1] + side, end[0] - 0.3), (start[1] + side, start[0] + 0.3), arrowprops=tip)
        ax.add_patch(Rectangle((0, 0), 0, 0, fill=False, linewidth=2.2, label=label, **look))

    column = range(T - 1)
    mark([((j + 1, j), (T, j)) for j in column], -0.36, "BWT: diagonal → last row", edgecolor="#C04A00")
    mark([((0, j + 1), (j + 1, j + 1)) for j in column], 0.36, "FWT: before → superdiagonal", edgecolor="#005A8C",
         linestyle=(0, (3, 1.4)))  # fmt: skip
    m = {name: _num(value) for name, value in results.metrics().items()}
    numbers = f"ACC {m['acc']}    forgetting {m['forgetting']}    BWT {m['bwt']}    FWT {m['fwt']}"
    handles = ax.get_legend_handles_labels() if T > 1 else ([], [])
    figure.legend(*handles, loc="outside lower center", ncols=2, title=numbers, title_fontsize=13)
    cells = ". ".join(f"After {names[i]}: {', '.join(f'{v:.2f}' for v in R[i])}" for i in range(T))
    alt = (
        f"{title}: ACC {m['acc']}, forgetting {m['forgetting']}, BWT {m['bwt']}, FWT {m['fwt']}. A heat map of {T} by "
        f"{T} accuracies, a row after training on each task, a column for the task tested on. "
        f"Before training: {', '.join(f'{v:.2f}' for v in b)}. {cells}."
    )
    return Picture(figure, alt)


@mpl.rc_context(STYLE)
def curves(
    results: Runs, task: int | None = 0, guess: float | Sequence[float] | None = None, title: str = ""
) -> Picture:
    """Accuracy on one task (or on all tasks seen so far: `task=None`) after each task, mean ± sd over seeds.

    Put a naive run and a joint run into `results`: they are the floor and the ceiling. `guess`, the reader's
    prediction, is one accuracy for the end or one for each task; the figure sets it beside what happened.
    """
    runs, T = _runs(results)
    if task is not None and not 0 <= task < T:
        raise ValueError(f"task must lie in 0 ... {T - 1}, or be None for the mean over the tasks seen, not {task}.")
    after = np.arange(1, T + 1)
    pick = lambda R: R[:, task] if task is not None else np.array([R[i, : i + 1].mean() for i in range(T)])
    scores = {name: np.array([pick(r.R) for r in rs]) for name, rs in runs.items()}  # each (seeds, T)
    of = "the tasks seen so far" if task is None else f"task {task + 1}"
    title = title or f"Accuracy on {of}"
    figure, ax = _axes("after training on task", "accuracy", title)
    _draw(ax, {name: (after, s.mean(0)) for name, s in scores.items()})
    for line, s in zip(ax.lines, scores.values()):
        line.set_label(f"{line.get_label()}  {s.mean(0)[-1]:.2f}")
        if len(s) > 1:
            low, high = s.mean(0) - s.std(0, ddof=1), s.mean(0) + s.std(0, ddof=1)
            ax.fill_between(after, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    ends = [f"{name} from {_num(s.mean(0)[0])} to {_mean_sd(s[:, -1])}" for name, s in scores.items()]
    alt = f"{title} after each of {T} tasks, {_seeds(runs)}. {'; '.join(ends)}."
    if guess is not None:
        at = after[-1:] if np.ndim(guess) == 0 else after
        values = np.atleast_1d(np.asarray(guess, float))
        if values.shape != at.shape:
            raise ValueError(f"guess needs one accuracy, or one for each of the {T} tasks, but it holds {len(values)}.")
        look: Any = {"color": "#000000", "marker": "o", "markersize": 13, "linewidth": 1, "linestyle": ":"}
        ax.plot(at, values, markerfacecolor="none", markeredgewidth=2, label="your guess", zorder=5, **look)
        alt += f" Your guess: {', '.join(_num(v) for v in values)}."
    ax.set(ylim=(-0.02, 1.02), xticks=after, yticks=np.linspace(0, 1, 6))
    _legend(figure, ax)
    return Picture(figure, alt)


@mpl.rc_context(STYLE)
def bars(results: Runs, title: str = "Accuracy and forgetting at the end") -> Picture:
    """ACC and forgetting of each method: the bar is the mean, the line ± one sd over seeds, each dot one seed."""
    runs, _ = _runs(results)
    figure = Figure(figsize=(7.2, 1.5 + 0.5 * len(runs)))
    panels, looks, spoken = figure.subplots(1, 2, sharey=True), styles(runs), dict.fromkeys(runs, "")
    figure.suptitle(title, x=0.01, ha="left", size=13)
    for ax, key, label in zip(panels, ["acc", "forgetting"], ["ACC", "forgetting"]):
        for y, (name, rs) in enumerate(runs.items()):
            values = np.array([r.metrics()[key] for r in rs])
            colour, marker = looks[name]["color"], looks[name]["marker"]
            ax.barh(y, values.mean(), height=0.62, color=colour, alpha=0.3, edgecolor=colour, linewidth=1.5)
            ax.plot(values, y + np.linspace(-0.16, 0.16, len(values) + 2)[1:-1], marker, color=colour, markersize=5)
            if len(values) > 1:
                ax.errorbar(values.mean(), y, xerr=values.std(ddof=1), color="black", capsize=4, linewidth=1.6)
            ax.annotate(_mean_sd(values), (1.04, y), xycoords=("axes fraction", "data"), va="center", size=11)
            spoken[name] += f" {label} {_mean_sd(values)}"
        ax.set(xlabel=label, yticks=range(len(runs)), yticklabels=runs)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
    panels[0].set_xlim(0, 1)
    panels[0].invert_yaxis()
    alt = f"{title}, {_seeds(runs)}. " + ";".join(f" {name}:{words}" for name, words in spoken.items()).strip() + "."
    return Picture(figure, alt)


# ------------------------------------------------------------------------------------------------------ lines and bins


@mpl.rc_context(STYLE)
def lines(
    series: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, title: str = "", *,
    logx: bool = False, logy: bool = False, ylim: tuple[float, float] | None = None,
    marks: Mapping[float, str] | None = None,
) -> Picture:  # fmt: skip
    """One line for each name: (x, y). `marks` are vertical lines with words, {x: "task 2 starts"}."""
    figure, ax = _axes(xlabel, ylabel, title)
    ax.set_title(title, pad=24 if marks else None)  # room for their words
    data = {name: (np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in series.items()}
    for name, (x, y) in data.items():
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(f"{name!r} needs one x for each y in one row, but the shapes are {x.shape} and {y.shape}.")
    ax.set(xscale="log" if logx else "linear", yscale="log" if logy else "linear")
    if not logx and all((x == x.round()).all() for x, _ in data.values()):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))  # there is no task 1.5
    if ylim:
        ax.set_ylim(*ylim)
    for at, words in (marks or {}).items():
        ax.axvline(at, color="#767676", linewidth=1)
        ax.annotate(f" {words}", (at, 1), xycoords=("data", "axes fraction"), size=10, color="#555555", va="bottom")
    _draw(ax, data)
    if len(data) > 1 or not title:
        _legend(figure, ax)
    drawn = {name: (x[ok], y[ok]) for name, (x, y) in data.items() if (ok := np.isfinite(y)).any()}
    ends = [f"{n} from {_num(y[0])} at {x[0]:g} to {_num(y[-1])} at {x[-1]:g}" for n, (x, y) in drawn.items()]
    return Picture(figure, f"{title or ylabel}: {ylabel} against {xlabel}. {'; '.join(ends) or 'No point yet'}.")


@mpl.rc_context(STYLE)
def hist(values: Mapping[str, Sequence[float]], xlabel: str, title: str = "", bins: int = 40) -> Picture:
    """How often each value occurs, as a share of its own series; the alt text says mean, sd and share below zero."""
    data = {name: np.asarray(v, float) for name, v in values.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(data.values())), bins)
    figure, ax = _axes(xlabel, "share of values", title)
    for name, look in styles(data).items():
        fill, weights = (look["color"], 0.15), np.full(len(data[name]), 1 / len(data[name]))
        edge = {"edgecolor": look["color"], "linestyle": look["linestyle"], "linewidth": 2, "label": name}
        ax.hist(data[name], list(edges), weights=weights, histtype="stepfilled", facecolor=fill, **edge)
    if edges[0] < 0 < edges[-1]:
        ax.axvline(0, color="black", linewidth=1)
    _legend(figure, ax)
    below = lambda v: f"{100 * (v < 0).mean():.0f} % below zero"
    says = [f"{n}: mean {_num(v.mean())}, sd {_num(v.std(ddof=1))}, {below(v)}" for n, v in data.items()]
    return Picture(figure, f"{title or xlabel}: histogram of {xlabel}. {'; '.join(says)}.")


@mpl.rc_context(STYLE)
def images(rows: Mapping[str, Any], title: str = "") -> Picture:
    """One row of grey or colour images for each name: arrays (N, C, H, W) or (N, H, W), all with the same N."""
    arrays = {
        name: np.asarray(x).reshape(len(x), -1, *np.shape(x)[-2:]).transpose(0, 2, 3, 1) for name, x in rows.items()
    }
    counts = {len(x) for x in arrays.values()}
    if len(counts) != 1:
        raise ValueError(f"Every row needs as many images as the others, but the rows hold {sorted(counts)}.")
    (n,) = counts
    figure = Figure(figsize=(7.2, 0.4 * bool(title) + 6.2 * len(rows) / max(n, 6)))
    panels = figure.subplots(len(rows), n, squeeze=False)
    for (name, x), line in zip(arrays.items(), panels):
        for ax, image in zip(line, x):
            ax.imshow(image, cmap="gray_r", vmin=0, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title, x=0.01, ha="left", size=13)
    alt = f"{title or 'Images'}: {len(rows)} rows of {n} images of {image.shape[0]} by {image.shape[1]} pixels"
    return Picture(figure, f"{alt}: {', '.join(rows)}.")


class Live:
    """A plot that grows while a cell runs, and stays as one PNG with alt text when the cell has ended.

    >>> live = Live("Task 1 is being forgotten", "step", "accuracy", ylim=(0, 1))
    >>> live.update({"task 1": [0.9, 0.7, 0.4]}, x=[0, 50, 100])  # all values so far; call it as often as you like
    >>> live.finish()
    Figure: Task 1 is being forgotten: accuracy against step. task 1 from 0.900 at 0 to 0.400 at 100.

    Drawing takes at most a fifth of the time and never more than 8 frames a second; `finish` draws the last one, and
    the notebook calls it at the end of the cell, an interrupted one too.
    """

    def __init__(self, title: str, xlabel: str = "step", ylabel: str = "accuracy", **options: Any) -> None:
        self._draw = lambda series: lines(series, xlabel, ylabel, title, **options)
        self._series: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        self._handle: Any = None
        self._not_before = 0.0
        self._hooked = False
        self._shell = get_ipython()

    def update(self, series: Mapping[str, Sequence[float]], x: Sequence[float] | None = None) -> None:
        """Show these values against x, one x for all series (0, 1, 2, ... when left out); a gap is a nan."""
        self._series = {name: (list(range(len(y)) if x is None else x), list(y)) for name, y in series.items()}
        if self._shell is None:  # a script: only the last word counts
            return
        if not self._hooked:
            self._shell.events.register("post_run_cell", self._end_of_cell)
            self._hooked = True
        if (start := time.monotonic()) >= self._not_before:
            self.finish()
            cost = time.monotonic() - start
            self._not_before = start + cost + max(1 / 8, 4 * cost)

    def finish(self) -> None:
        """Draw what was given last, throttled or not."""
        picture = self._draw(self._series)
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)

    def _end_of_cell(self, *_: Any) -> None:
        self._shell.events.unregister("post_run_cell", self._end_of_cell)
        self._hooked = False
        self.finish()


# ------------------------------------------------------------------------------------------------------------ surfaces


@mpl.rc_context(STYLE | {"figure.constrained_layout.w_pad": 0.15})  # equal scales move the axes after the layout
def surface(
    xs: np.ndarray, ys: np.ndarray, Z: Surfaces, paths: Paths | None = None, points: Points | None = None, *,
    title: str = "Loss", xlabel: str = "θ₁", ylabel: str = "θ₂",
) -> Picture:  # fmt: skip
    """Contours of one loss or two, Z[i, j] at (xs[j], ys[i]), under paths (n, 2) that run from the ring to the marker.

    Levels are spaced as the square of the height, so that the rings of a quadratic bowl lie equally far apart.
    """
    Z, paths, points = _surfaces(xs, ys, Z), _paths(paths), points or {}
    figure, ax = _axes(xlabel, ylabel, title, height=4.8)
    ax.grid(False)
    for (label, z), (colour, dashes, _) in zip(Z.items(), CONTOURS):
        ax.contour(xs, ys, z, _levels(z), colors=colour, linestyles=[dashes], linewidths=1.1, alpha=0.65)
        ax.plot([], [], color=colour, linestyle=dashes, linewidth=1.1, label=label)
    for name, look in styles(paths).items():
        p = paths[name]
        ax.plot(*p.T, color=look["color"], linestyle=look["linestyle"], linewidth=2.6, zorder=3)
        ax.plot(*p[0], "o", color=look["color"], markerfacecolor="white", markeredgewidth=1.8, zorder=3)
        ax.plot(*p[-1], look["marker"], color=look["color"], markersize=11, markeredgecolor="white", zorder=4)
        ax.plot([], [], **look, label=name)
    for name, (x, y) in points.items():
        ax.plot(x, y, "+", color="black", markersize=13, markeredgewidth=2, zorder=3.5)
        box = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1}
        ax.annotate(name, (x, y), (7, 6), textcoords="offset points", zorder=5, bbox=box)
    ax.set(xlim=(xs[0], xs[-1]), ylim=(ys[0], ys[-1]), aspect="equal")  # or gradients would not cross contours squarely
    _legend(figure, ax)
    figure.draw_without_rendering()  # a first pass moves the ticks: only then does the layout know how wide they are
    return Picture(figure, _surface_alt(title, xs, ys, Z, paths, points))


def animate(
    xs: np.ndarray, ys: np.ndarray, Z: Surfaces, paths: Paths, points: Points | None = None, *,
    title: str = "Loss", xlabel: str = "θ₁", ylabel: str = "θ₂", frames: int = 60,
) -> Picture:  # fmt: skip
    """The same picture in motion: plotly, with play, pause and a slider to scrub; its last frame is the still.

    A surface is ONE line trace with gaps: plotly.js deletes real contour traces when frames play without a redraw.
    """
    from plotly import graph_objects as go  # a second to import, and only this function needs it

    still = surface(xs, ys, Z, paths, points, title=title, xlabel=xlabel, ylabel=ylabel)
    walks, traces = _paths(paths), []
    if not walks:
        raise ValueError("animate needs at least one path, an array of shape (n, 2): {'SGD': path}.")
    for (label, z), (colour, _, dash) in zip(_surfaces(xs, ys, Z).items(), CONTOURS):
        x, y = _polyline(xs, ys, z)
        look = {"line": {"color": colour, "width": 1, "dash": dash}, "opacity": 0.6, "hoverinfo": "skip"}
        traces.append(go.Scatter(x=x, y=y, mode="lines", name=label, **look))
    for name, (px, py) in (points or {}).items():
        cross = {"symbol": "cross-thin", "size": 13, "line": {"width": 2.5, "color": "black"}}
        look = {"mode": "markers+text", "text": [name], "textposition": "top right", "showlegend": False}
        traces.append(go.Scatter(x=[px], y=[py], name=name, marker=cross, **look))
    steps = np.unique(np.linspace(0, max(map(len, walks.values())) - 1, frames).round().astype(int))
    looks = {name: next(l for l in LOOKS if l[0] == look["color"]) for name, look in styles(walks).items()}

    def trail(name: str, n: int) -> Any:
        """The path up to the n-th of the steps, with its marker at the head; a shorter path waits at its end."""
        colour, _, _, dash, symbol = looks[name]
        x, y = walks[name][np.minimum(steps[:n], len(walks[name]) - 1)].round(4).T.tolist()
        head = {"size": [0] * (n - 1) + [13], "symbol": symbol, "color": colour, "opacity": 1}
        line = {"color": colour, "width": 3, "dash": dash}
        return go.Scatter(x=x, y=y, mode="lines+markers", marker=head, line=line, name=name)

    def go_to(frame: Any, ms: int) -> dict[str, Any]:
        how = {"mode": "immediate", "fromcurrent": True, "transition": {"duration": 0}}
        return {"method": "animate", "args": [frame, how | {"frame": {"duration": ms, "redraw": False}}]}

    moving = list(range(len(traces), len(traces) + len(walks)))
    movie = [go.Frame(name=str(k), data=[trail(w, n + 1) for w in walks], traces=moving) for n, k in enumerate(steps)]
    figure = go.Figure([*traces, *(trail(w, 1) for w in walks)], frames=movie)
    buttons = [{"label": "▶ play"} | go_to(None, 50), {"label": "❚❚ pause"} | go_to([None], 0)]
    scrub = [{"label": str(k)} | go_to([str(k)], 0) for k in steps]
    _frame(figure, title, xlabel, ylabel, height=600)
    figure.update_layout(
        xaxis={"range": [xs[0], xs[-1]], "constrain": "domain"},
        yaxis={"range": [ys[0], ys[-1]], "scaleanchor": "x", "constrain": "domain"},
        updatemenus=[{"type": "buttons", "direction": "left", "x": 0, "y": -0.16, "xanchor": "left", "yanchor": "top",
                      "buttons": buttons, "showactive": False}],
        sliders=[{"x": 0.34, "len": 0.66, "y": -0.1, "steps": scrub, "ticklen": 0, "minorticklen": 0,
                  "font": {"color": "#ffffff00"}, "currentvalue": {"prefix": "step ", "font": {"color": "black"}}}],
    )  # fmt: skip
    return Picture(figure, f"{still.alt} In JupyterLab it plays in {len(steps)} frames.", still.figure)


def relief(
    xs: np.ndarray, ys: np.ndarray, Z: Surfaces, *, title: str = "Loss", xlabel: str = "θ₁", ylabel: str = "θ₂",
    top: float | None = None,
) -> Picture:  # fmt: skip
    """The surfaces as a landscape to turn and to zoom, in plotly, cut off at the height `top`; the still is a map."""
    from plotly import graph_objects as go

    surfaces = _surfaces(xs, ys, Z)
    still = surface(xs, ys, Z, title=title, xlabel=xlabel, ylabel=ylabel)
    cap = max(z.max() for z in surfaces.values()) if top is None else top
    figure = go.Figure()
    for (name, z), (colour, _, _) in zip(surfaces.items(), CONTOURS):
        rings = {"z": {"show": True, "start": float(z.min()), "end": cap, "size": (cap - float(z.min())) / 12,
                       "color": "white"}}  # fmt: skip
        figure.add_surface(
            x=xs.round(4).tolist(), y=ys.round(4).tolist(), z=z.round(4).tolist(),
            name=name, showlegend=True, showscale=False, opacity=0.85, contours=rings,
            colorscale=[[0, colour], [1, "#f4f4f4"]], cmin=float(z.min()), cmax=cap,
            hovertemplate=f"{name}: %{{z:.3f}}<br>at (%{{x:.2f}}, %{{y:.2f}})<extra></extra>",
        )  # fmt: skip
    _frame(figure, f"{title} (height: the loss)", xlabel, ylabel, height=560)
    heights = {"title": {"text": ""}, "range": [min(z.min() for z in surfaces.values()), cap]}
    axes = {"xaxis": {"title": {"text": xlabel}}, "yaxis": {"title": {"text": ylabel}}, "zaxis": heights}
    view = {"aspectratio": {"x": 1, "y": 1, "z": 0.6}, "camera": {"eye": VIEW, "center": {"x": 0, "y": 0, "z": -0.12}}}
    figure.update_layout(scene=axes | view)
    return Picture(figure, f"{still.alt} In JupyterLab it is a landscape that can be turned.", still.figure)


def hover(
    series: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, title: str = "", *,
    logx: bool = False, logy: bool = False, notes: Mapping[str, Sequence[str]] | None = None,
) -> Picture:  # fmt: skip
    """`lines` in plotly: each mark says its numbers, and its `notes` {name: a word a mark}; drag to zoom, click a name
    to hide its line."""
    from plotly import graph_objects as go

    still = lines(series, xlabel, ylabel, title, logx=logx, logy=logy)
    symbols, figure = {look[0]: look[3:] for look in LOOKS}, go.Figure()
    for name, look in styles(series).items():
        dash, symbol = symbols[look["color"]]
        x, y = (np.asarray(v, float).tolist() for v in series[name])
        words = list((notes or {}).get(name, [""] * len(x)))
        if len(words) != len(x):
            raise ValueError(f"{name!r} has {len(x)} marks and {len(words)} notes: give one for each.")
        figure.add_scatter(
            x=x, y=y, name=name, mode="lines+markers", line={"color": look["color"], "dash": dash, "width": 2.5},
            marker={"symbol": symbol, "size": 9}, customdata=words,
            hovertemplate=f"{xlabel} %{{x:.4g}}<br>{ylabel} %{{y:.4g}}<br>%{{customdata}}<extra>{name}</extra>",
        )  # fmt: skip
    _frame(figure, title, xlabel, ylabel, height=440)
    figure.update_layout(xaxis={"type": "log" if logx else "linear"}, yaxis={"type": "log" if logy else "linear"})
    return Picture(figure, f"{still.alt} In JupyterLab each mark says its numbers.", still.figure)


def _frame(figure: Any, title: str, xlabel: str, ylabel: str, height: int) -> None:
    """What all plotly figures share: the size, and the words at their edges."""
    figure.update_layout(
        template="simple_white", width=720, height=height, title={"text": title, "x": 0.01}, font={"size": 14},
        margin={"l": 60, "r": 20, "t": 50, "b": 20}, xaxis={"title": {"text": xlabel}},
        yaxis={"title": {"text": ylabel}},
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- helpers


def _num(value: float, digits: int = 3) -> str:
    """A number as words can carry it: a true minus sign, which screen readers speak, and no 'nan'."""
    if not np.isfinite(value):
        return "undefined"
    small = 0 < abs(value) < 10.0**-digits or abs(value) >= 1e5
    return (f"{value:.2e}" if small else f"{value:.{digits}f}").replace("-", "−")


def _mean_sd(values: np.ndarray) -> str:
    if not np.isfinite(values.mean()):
        return "undefined"
    said = f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")
    return said.replace("-", "−")


def _runs(results: Runs) -> tuple[dict[str, list[Results]], int]:
    runs = {name: [r] if isinstance(r, Results) else list(r) for name, r in results.items()}
    tasks = sorted({len(r.R) for rs in runs.values() for r in rs})
    if len(tasks) != 1 or not all(runs.values()):
        raise ValueError(
            f"Runs in one figure need one number of tasks and at least one seed each, but T is in {tasks}."
        )
    return runs, tasks[0]


def _seeds(runs: Mapping[str, list[Results]]) -> str:
    n = sorted({len(rs) for rs in runs.values()})
    return "one seed" if n == [1] else f"mean ± sd over {' to '.join(map(str, n[:: max(1, len(n) - 1)]))} seeds"


def _axes(xlabel: str, ylabel: str, title: str, height: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, height))
    ax = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title)
    return figure, ax


def _draw(ax: Axes, series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for name, look in styles(series).items():
        x, y = series[name]
        ax.plot(x, y, **look, label=name, markevery=max(1, len(x) // 12), markeredgecolor="white", markeredgewidth=0.7)


def _legend(figure: Figure, ax: Axes) -> None:
    """Beside the axes, in the order in which the lines end, top first: the eye walks straight across."""
    handles, labels = ax.get_legend_handles_labels()
    ends: list[Any] = [
        np.asarray(h.get_ydata(), float)[-1:] if isinstance(h, mpl.lines.Line2D) else [] for h in handles
    ]
    last = [y[0] if len(y) and np.isfinite(y[0]) else -np.inf for y in ends]
    order = sorted(range(len(labels)), key=lambda i: -last[i])
    figure.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside right upper")


def _surfaces(xs: np.ndarray, ys: np.ndarray, Z: Surfaces) -> dict[str, np.ndarray]:
    named = {name: np.asarray(z, float) for name, z in (Z if isinstance(Z, Mapping) else {"loss": Z}).items()}
    shape = (len(ys), len(xs))
    for name, z in named.items():
        if z.shape != shape:
            raise ValueError(f"The surface {name!r} needs the shape (len(ys), len(xs)) = {shape}, not {z.shape}.")
    if not 1 <= len(named) <= len(CONTOURS):
        raise ValueError(f"A figure shows one surface or two, not {len(named)}.")
    return named


def _paths(paths: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(p, float) for name, p in (paths or {}).items()}
    for name, p in arrays.items():
        if p.ndim != 2 or p.shape[1] != 2 or not len(p):
            raise ValueError(f"The path {name!r} must be points in the plane, an array of shape (n, 2), not {p.shape}.")
    return arrays


def _levels(z: np.ndarray, n: int = 11) -> np.ndarray:
    return z.min() + (z.max() - z.min()) * np.linspace(0, 1, n + 2)[1:-1] ** 2


def _polyline(xs: np.ndarray, ys: np.ndarray, z: np.ndarray) -> tuple[list[float | None], list[float | None]]:
    generator, x, y = contour_generator(xs, ys, z), [], []
    for level in _levels(z):
        for line in generator.lines(level):
            x += [*np.asarray(line)[:, 0].round(3).tolist(), None]
            y += [*np.asarray(line)[:, 1].round(3).tolist(), None]
    return x, y


def _surface_alt(title: str, xs: Any, ys: Any, Z: Mapping[str, np.ndarray], paths: Any, points: Points) -> str:
    spot = lambda p: f"({_num(p[0], 2)}, {_num(p[1], 2)})"
    lows = []
    for name, z in Z.items():
        i, j = np.unravel_index(z.argmin(), z.shape)
        lows.append(f"{name} is lowest near {spot((xs[j], ys[i]))} at {_num(z[i, j])}")
    walks = [f"{name} walks from {spot(p[0])} to {spot(p[-1])} in {len(p) - 1} steps" for name, p in paths.items()]
    marks = [f"{name} lies at {spot(p)}" for name, p in points.items()]
    return f"{title}, a contour plot. {'; '.join([*lows, *walks, *marks])}."
