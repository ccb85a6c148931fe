"""The ledger of claims: every sentence that a lesson puts to the test, every stored run that bears on it, one rule.

A claim names an interval before it looks: the mean of something that was measured, one number a seed, should lie in
it. Where a claim compares two methods, the number is their difference *within* each seed. Nothing here is typed but
sentences and intervals: all numbers come from the files in notebooks/runs, and a new file makes a new table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t

from . import plots
from .results import Results

HOLDS, FAILS, MIXED, OPEN = "holds", "does not hold", "holds here but not there", "open"
SYMBOLS = {HOLDS: "✓", FAILS: "✗", MIXED: "◐", OPEN: "○"}
INF = float("inf")
Seeds = dict[int, float]  # one number a seed


# ---- the rule --------------------------------------------------------------------------------------------------------


def halfwidth(values: Sequence[float], level: float = 0.95) -> float:
    """t·s/√n: the mean of n seeds ± this covers the truth with probability `level` (Student 1908)."""
    n = len(values)
    return float(t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else INF


def margin(values: Sequence[float], low: float, high: float) -> float:
    """How far the mean lies inside the interval of the claim; below zero: outside."""
    return float(min(np.mean(values) - low, high - np.mean(values)))


def verdict(values: Sequence[float], low: float = -INF, high: float = INF) -> str:
    """Holds if the mean ± t·s/√n lies within (low, high), does not hold if it lies outside, else open.

    >>> verdict([0.30, 0.32, 0.31], low=0.1), verdict([0.30, 0.32, 0.31], high=0.1), verdict([0.0, 0.4, 0.2], low=0.1)
    ('holds', 'does not hold', 'open')

    Fewer than three seeds are open, whatever they say.
    """
    if len(values) < 3:
        return OPEN
    m, h = margin(values, low, high), halfwidth(values)
    return HOLDS if m > h else FAILS if m < -h else OPEN


def together(verdicts: Iterable[str]) -> str:
    """The verdict over several protocols: those that are open have no vote."""
    found = set(verdicts) - {OPEN}
    return MIXED if len(found) > 1 else found.pop() if found else OPEN


# ---- what was stored -------------------------------------------------------------------------------------------------


class Runs:
    """The folder of stored runs: `runs["bug_museum"]` is the JSON of a file, `runs.cells("buffers", slots=50)` the
    cells of a plan's file."""

    def __init__(self, folder: str | Path = "runs"):
        self.folder = Path(folder)
        self._files: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._files:
            path = self.folder / f"{name}.json"
            if not path.is_file():
                raise FileNotFoundError(f"There is no {path}: name the folder that holds the stored runs.")
            self._files[name] = json.loads(path.read_text(encoding="utf-8"))
        return self._files[name]

    def cells(self, name: str, **fields: Any) -> list[tuple[dict[str, Any], dict[int, Results]]]:
        """(its fields and settings, the results of the seeds that did not diverge) of each cell that fits `fields`.

        A tuple fits any of its values. LookupError: no cell does.
        """
        found = []
        for cell in self[name]["cells"]:
            own = self[name]["base"] | cell
            own |= {key.split(".")[1]: value for key, value in own.get("settings", {}).items()}
            if all(own.get(k) in (v if isinstance(v, tuple) else (v,)) for k, v in fields.items()):
                lived = zip(own["seeds"], own["R"], own["b"])
                found.append((own, {seed: Results(R, b) for seed, R, b in lived if R is not None}))
        if not found:
            raise LookupError(f"{name}.json has no run with {fields}.")
        return found

    def acc(self, name: str, **fields: Any) -> Seeds:
        """ACC of each seed; of several cells that fit, the highest: kind to whoever must be beaten."""
        pairs = [(seed, r.acc) for _, found in self.cells(name, **fields) for seed, r in found.items()]
        return {seed: max(acc for other, acc in pairs if other == seed) for seed in sorted({s for s, _ in pairs})}

    def protocol(self, name: str) -> str:
        """How the runs of a source were made, in the words of its file."""
        file, _, part = name.partition("/")
        found = self[file]["protocol"]
        if part:
            return found[part]
        if "about" not in self[file]:
            said = found.items()
        else:
            said = [("about", self[file]["about"]), ("command", f"`{found['command']}`")]
        return _capital("; ".join(text.removesuffix(".") for _, text in said if isinstance(text, str)) + ".")


def minus(a: Seeds, b: Seeds) -> list[float]:
    """a − b, seed by seed, over the seeds that both have."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


# ---- a claim, and what is found --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """One protocol: where, the stored run, the number of each seed, and the interval that the claim allows it."""

    where: str
    source: str  # a file of notebooks/runs, without .json; claims/lesson_03 is one protocol in it
    measure: Callable[[Runs], Sequence[float]]
    low: float = -INF
    high: float = INF


@dataclass(frozen=True)
class Claim:
    id: str
    lesson: int
    topic: str
    sentence: str
    places: Sequence[Place]


@dataclass(frozen=True)
class Reading:
    """A place with its numbers."""

    place: Place
    values: tuple[float, ...]

    @property
    def verdict(self) -> str:
        return verdict(self.values, self.place.low, self.place.high)

    @property
    def words(self) -> str:
        """Mean ± sd (seeds), and what was claimed."""
        low, high, n = self.place.low, self.place.high, len(self.values)
        claimed = f"> {low:g}" if high == INF else f"< {high:g}" if low == -INF else f"{low:g} to {high:g}"
        said = f"{_mean_sd(self.values)} ({n} seed{'s' * (n > 1)};_claimed {claimed.replace('-', '−')})"
        return said.replace(" ", "\N{NO-BREAK SPACE}").replace("_", " ")  # a line may break at one place only


@dataclass(frozen=True)
class Row:
    claim: Claim
    readings: tuple[Reading, ...]

    @cached_property
    def verdict(self) -> str:
        return together(r.verdict for r in self.readings)


def ledger(claims: Sequence[Claim], folder: str | Path = "runs") -> list[Row]:
    """What the stored runs in a folder say of each claim."""
    runs = Runs(folder)
    find = lambda place: Reading(place, tuple(float(v) for v in place.measure(runs)))
    return [Row(claim, tuple(find(place) for place in claim.places)) for claim in claims]


# ---- to look at ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Page:
    """Text that a notebook shows as Markdown."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


def table(rows: Sequence[Row], lessons: Mapping[int, str]) -> Page:
    """A row a claim: link to its lesson, sentence and id, where it was measured and what came out, verdict."""
    out = ["| lesson | claim | measured: mean ± sd | verdict |", "|:---|:---|:---|:---|"]
    for row in rows:
        n, several = row.claim.lesson, len(row.readings) > 1
        found = "<br>".join(
            f"{SYMBOLS[r.verdict]} " * several + f"{_capital(r.place.where)}: {r.words}" for r in row.readings
        )
        count = [r.verdict for r in row.readings].count(OPEN) * (row.verdict != OPEN)
        said = f"{SYMBOLS[row.verdict]} **{row.verdict}**" + f" ({count} open)" * bool(count)
        link = f"[{n:02d}]({n:02d}_{lessons[n]}.ipynb)"
        out.append(f"| {link} | {row.claim.sentence}<br>`{row.claim.id}` | {found} | {said} |")
    return Page("\n".join(out))


def protocols(rows: Sequence[Row], folder: str | Path = "runs") -> Page:
    """How each stored run behind the rows was made, in the words of its file, and which claims rest on it."""
    runs, rest = Runs(folder), dict[str, list[str]]()
    for row in rows:
        for reading in row.readings:
            own = rest.setdefault(reading.place.source, [])
            own += [row.claim.id] * (row.claim.id not in own)
    text = [f"- `{name}`: {runs.protocol(name)} *Behind:* {', '.join(own)}." for name, own in sorted(rest.items())]
    return Page("\n".join(text))


def forest(rows: Sequence[Row], title: str = "Every claim against its interval") -> plots.Picture:
    """One mark a measurement: how far the mean lies inside its claim's interval, in half-widths t·s/√n of its own.

    Right of 1 it holds, left of −1 it does not, between them nobody knows; measurements with fewer than three seeds are
    hollow. The axis bends beyond ±1, and ends at ±30. A group for each topic.
    """
    looks = dict(zip((HOLDS, FAILS, OPEN), [("#009E73", "o"), ("#D55E00", "X"), ("#0072B2", "D")]))
    topics = list(dict.fromkeys(row.claim.topic for row in rows))
    rows = sorted(rows, key=lambda row: topics.index(row.claim.topic))
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.8, 1.6 + 0.24 * len(rows)))
        ax = figure.add_subplot(xlabel="← does not hold     margin in half-widths     holds →")
        ax.axvspan(-1, 1, color="#e8e8e8", zorder=0)
        for y, row in enumerate(rows):
            for r in row.readings:
                (colour, marker), few = looks[r.verdict], len(r.values) < 3
                ax.plot(_strength(r), y, marker, color=colour, mfc="none" if few else colour, ms=8, ls="none")
            if y == 0 or row.claim.topic != rows[y - 1].claim.topic:
                ax.axhline(y - 0.5, color="#767676", linewidth=0.8)
                ax.annotate(row.claim.topic, (1.01, y), xycoords=("axes fraction", "data"), va="center", size=10)
        for name, (colour, marker) in looks.items():
            ax.plot([], [], marker, color=colour, ms=8, label=name)
        ax.plot([], [], "D", color=looks[OPEN][0], mfc="none", ms=8, label="fewer than three seeds")
        ax.set_xscale("symlog", linthresh=1)
        ax.set(xlim=(-40, 40), xticks=(ticks := [-30, -10, -3, -1, 0, 1, 3, 10, 30]), ylim=(len(rows) - 0.4, -0.6))
        ax.set(xticklabels=[str(x).replace("-", "−") for x in ticks])
        ax.set(yticks=range(len(rows)), yticklabels=[row.claim.id for row in rows])
        ax.tick_params(axis="y", labelsize=9, length=0)
        ax.set_title(title)
        figure.legend(loc="outside lower center", ncols=4)
    count = {v: [r.verdict for row in rows for r in row.readings].count(v) for v in looks}
    alt = f"{title}: {sum(count.values())} measurements for {len(rows)} claims; "
    by = [[row.verdict for row in rows if row.claim.topic == topic] for topic in topics]
    told = [f"{topic}: {found.count(HOLDS)} of {len(found)} claims hold" for topic, found in zip(topics, by)]
    return plots.Picture(figure, alt + ", ".join(f"{n} {v}" for v, n in count.items()) + f". {'; '.join(told)}.")


def _strength(reading: Reading) -> float:
    m, h = margin(reading.values, reading.place.low, reading.place.high), halfwidth(reading.values)
    return float(np.clip(m / h if 0 < h < INF else np.sign(m) * 30 if h == 0 else 0.0, -30, 30))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _mean_sd(values: Sequence[float]) -> str:
    """Mean ± sd, to the second digit of the sd and at most the fourth decimal; what is smaller as a power of ten."""
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if sd <= 1e-9 * abs(mean):
        said = f"{mean:.3g}" + " ± 0" * (len(values) > 1)
    elif max(abs(mean), sd) < 1e-4:
        said = f"{mean:.1e} ± {sd:.0e}"
    else:
        decimals = min(max(1 - math.floor(math.log10(sd)), 0), 4)
        said = f"{mean:.{decimals}f} ± {sd:.{decimals}f}"
    return said.replace("-", "−")
