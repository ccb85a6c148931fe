"""The page of results: every stored table as words, and as a figure with the published numbers as marks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from . import plots
from .plans import Line, read, spread

INTRODUCTION = """# Results

What the course's methods reach on real data, beside what others published. Every table was made by one command, which
anyone can run again; settings were chosen on a tenth of the training data that no run trains on, with a seed that is
not reported. ACC is the mean accuracy over all tasks after the last, in percent: mean ± sd over the seeds. A line
"diverged" had a seed that did. Where a column is missing, no published number could be checked.
"""
EXPLAINED = {
    "split-mnist": "Where we differ from Hsu et al. (2018) by more than two standard errors, the likely "
    "reasons, none of "
    "them isolated, are these. EWC and Online EWC could choose a λ of up to 10⁶ and took 10⁵ and 10⁶ where the task is "
    "known or the inputs shift. Inputs are 28×28 in [0, 1], neither padded nor normalised, which weighs most for "
    "plain SGD "
    "and GEM, here with 4 seeds. Each task begins with a fresh optimiser. Generative replay has 3 seeds.",
    "permuted-mnist": "The protocol is that of Buzzega et al. (2020), with our own grid of settings. Their "
    "table could not be "
    "checked, so it is not quoted. ER, DER and DER++ grow with the buffer; A-GEM hardly does.",
    "ledger": "Numbers are floats of 4 bytes that stay beside the network. With as many as Online "
    "EWC keeps, ER holds 228 "
    "images. One seed: read differences of a point as none.",
    "combinations": "ER alone could choose a weight of 4, and did; the combinations were offered at most "
    "1 within the same "
    "budget of six trials. So this table does not show that combining hurts. At the weight 1, ER alone reaches 83.2 "
    "(under Buffers, 500 slots), which neither LwF nor EWC beside it improves on.",
}


def page(runs: Path, pictures: Path) -> str:
    """Markdown of all files in `runs` that a plan made; the figures go into the folder `pictures`."""
    parts = [INTRODUCTION]
    for path in sorted(runs.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if "plan" not in found or found["plan"] == "lambda-grid":  # which the explorable of lesson 14 shows
            continue
        lines, protocol = read(path), found["protocol"]
        title = found["plan"].replace("-", " ").capitalize()
        for name in ("MNIST", "EWC", "LwF"):
            title = re.sub(name, name, title, flags=re.IGNORECASE)
        parts.append(f"## {title}\n\n{found['about']}")
        parts.append(EXPLAINED.get(found["plan"], ""))
        if any(line.published for line in lines):
            picture = beside(lines)
            picture.figure.savefig(pictures / f"{path.stem}.svg")
            parts.append(f"![{picture.alt}](_static/{path.stem}.svg)")
        told = [f"`{protocol['command']}`", protocol.get("device", ""), protocol.get("missing", "")]
        parts += [rows(lines), "How: " + ". ".join(text for text in told if text) + f". Stored in `runs/{path.name}`."]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows(lines: Sequence[Line]) -> str:
    """A Markdown table, a line each; a column that would be empty is left out."""
    head = ["scenario", "method", "set", "tasks", "ACC", "seeds", "published", "numbers kept", "seconds"]
    table = [_row(line, len({one.experiment.tasks for one in lines}) > 1) for line in lines]
    full = [k for k in range(len(head)) if any(row[k] for row in table)]
    text = [[head[k] for k in full], ["---"] * len(full), *([row[k] for k in full] for row in table)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in text)


def _row(line: Line, tasks: bool) -> list[str]:
    e, kept = line.experiment, line.records[0]["kept"]
    own = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in e.settings)
    own = own or (f"{e.optimiser} {e.lr:g}" if e.method == "naive" else "")
    said = f"{line.published['acc']:.2f} ± {line.published['sd']:.2f}" if line.published else ""
    seconds = np.mean([r["seconds"] for r in line.records])
    acc, numbers = spread(line), f"{kept['numbers']:,}" if kept else ""
    own_tasks = str(e.tasks) if tasks else ""
    return [e.scenario, e.method, own, own_tasks, acc, str(len(line.records)), said, numbers, f"{seconds:.1f}"]


def beside(lines: Sequence[Line]) -> plots.Picture:
    """ACC of each line as a bar of ± sd, and the published mean as a ring, a panel for each scenario."""
    scenarios = list(dict.fromkeys(line.experiment.scenario for line in lines))
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(11, 5))
        axes = figure.subplots(1, len(scenarios), sharey=True, squeeze=False)
    names = list(dict.fromkeys(_name(line.experiment) for line in lines))
    gaps = []
    for ax, scenario in zip(axes[0], scenarios):
        for line in (one for one in lines if one.experiment.scenario == scenario and one.runs):
            y, acc = names.index(_name(line.experiment)), np.array([100 * r.acc for r in line.runs])
            sd = acc.std(ddof=1) if len(acc) > 1 else 0.0
            ax.errorbar(acc.mean(), y, xerr=sd, fmt="o", color="#0072B2", label="here, ± sd")
            if line.published:
                ax.plot(line.published["acc"], y, "D", mfc="none", mec="#D55E00", ms=9, label="published")
                gaps.append((abs(acc.mean() - line.published["acc"]), f"{_name(line.experiment)} in {scenario}-IL"))
        ax.set(title=f"{scenario.capitalize()}-IL", xlabel="ACC in %", yticks=range(len(names)), yticklabels=names)
    handles = dict(zip(*axes[0][0].get_legend_handles_labels()[::-1]))
    axes[0][0].legend(handles.values(), handles.keys(), fontsize=9, loc="lower left")
    axes[0][0].invert_yaxis()
    gap, where = max(gaps)
    alt = f"ACC of {len(names)} methods in {len(scenarios)} scenarios beside the published means: half of them lie "
    alt += "within "
    alt += f"{np.median([g for g, _ in gaps]):.1f} points, and the furthest is {where}, {gap:.1f} points away."
    return plots.Picture(figure, alt)


def _name(e: Any) -> str:
    return f"{e.method} ({e.optimiser})" if e.method == "naive" else e.method
