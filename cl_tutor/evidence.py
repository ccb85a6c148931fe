"""The page of results: every stored table as words, and as a figure with the published numbers as marks."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from . import plots, spec
from .plans import Line, quoted, read, spread, worded

WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
REPEATS = 10  # runs behind each number of Hsu et al. (2018) and of Buzzega et al. (2020)


def page(runs: Path, pictures: Path) -> str:
    """Markdown of all files in `runs` that a plan made; the figures go into the folder `pictures`."""
    parts = [WORDS["introduction"].strip() + "\n"]
    for path in sorted(runs.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if "plan" not in found or found["plan"] == "lambda-grid":  # which the explorable of lesson 14 shows
            continue
        lines, protocol = read(path), found["protocol"]
        title = found["plan"].replace("-", " ").capitalize().replace("Lwf", "LwF")
        title = re.sub("(?i)mnist|ewc|cifar", lambda name: name[0].upper(), title)
        parts += [f"## {title}\n\n{found['about']}", WORDS["explained"].get(found["plan"], "").strip()]
        picture = drawn([line for line in lines if line.experiment.stream == lines[0].experiment.stream])
        picture.figure.savefig(pictures / f"{path.stem}.svg")
        parts += [f"![{picture.alt}](_static/{path.stem}.svg)", rows(lines, ledger=found["plan"] == "ledger")]
        parts += [apart(lines, found["plan"]), paired(lines), equal(lines) if found["plan"] == "ledger" else ""]
        told = [f"`{protocol['command']}`", protocol.get("device", ""), protocol.get("missing", "")]
        parts.append("How: " + ". ".join(text for text in told if text) + f". Stored in `runs/{path.name}`.")
    parts.append(WORDS["collapse"].strip())
    return "\n\n".join(part for part in parts if part) + "\n"


# -- tables ------------------------------------------------------------------------------------------------------------


def markdown(head: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    """A line each; a column that would be empty is left out, and so is a table without lines."""
    full = [k for k in range(len(head)) if any(row[k] for row in table)]
    text = [[head[k] for k in full], ["---"] * len(full), *([row[k] for k in full] for row in table)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in text) if table else ""


def rows(lines: Sequence[Line], ledger: bool = False) -> str:
    head = ["scenario", "method", "set", "tasks", "ACC", "seeds", "published", "numbers kept", "seconds"]
    head += ["bytes", "images", "times naive", "extra passes"]
    several = len({line.experiment.tasks for line in lines}) > 1
    table = [_row(line, several) + (_costs(line, lines) if ledger else [""] * 4) for line in lines]
    return markdown(head, table)


def _row(line: Line, tasks: bool) -> list[str]:
    e, kept = line.experiment, line.records[0]["kept"]
    own = worded(e.settings) or (f"{e.optimiser} {e.lr:g}" if e.method == "naive" else "")
    first = [e.scenario, e.method, own, str(e.tasks) * tasks, spread(line)]
    return [*first, str(len(line.records)), quoted(line), f"{kept['numbers']:,}" if kept else "", _seconds(line)]


def _seconds(line: Line) -> str:
    return f"{np.mean([r['seconds'] for r in line.records]):.1f}"


def _costs(line: Line, lines: Sequence[Line]) -> list[str]:
    """Bytes, images, seconds relative to naive on the same stream, extra passes."""
    e, numbers = line.experiment, line.records[0]["kept"]["numbers"]
    option = {k: p.default for k, p in spec.options(e.method).items()} | {k.split(".")[1]: v for k, v in e.settings}
    where = lambda o: (o.stream, o.scenario, o.tasks)
    naive = {where(o.experiment): float(_seconds(o)) for o in lines if o.experiment.method == "naive"}[where(e)]
    images = "all" if e.method == "joint" else str(option.get("slots", option.get("per_task", 0) * e.tasks) or "")
    return [f"{4 * numbers:,}", images, f"{float(_seconds(line)) / naive:.1f}", WORDS["passes"].get(e.method, "")]


def apart(lines: Sequence[Line], plan: str) -> str:
    """The cells more than two standard errors from what was published with its sd, each with its likely reason."""
    table = []
    for line, said in ((one, one.published) for one in lines if one.published and "sd" in one.published):
        acc, name = _acc(line), _full(line, lines)
        gap, error = acc.mean() - said["acc"], np.sqrt(acc.var(ddof=1) / len(acc) + said["sd"] ** 2 / REPEATS)
        if abs(gap) > 2 * error:
            reason = WORDS["likely"][plan][name]
            table.append([line.experiment.scenario, name, f"{gap:+.2f}".replace("-", "−"), f"{error:.2f}", reason])
    return markdown(["scenario", "method", "here − published", "standard error", "likely reason"], table)


def difference(a: Line, b: Line) -> np.ndarray:
    """ACC of `a` minus ACC of `b` in points, seed by seed: both met the same tasks and batches in the same order."""
    accs = [{r["experiment"]["seed"]: 100 * np.mean(r["R"][-1]) for r in one.records if r["R"]} for one in (a, b)]
    return np.array([accs[0][seed] - accs[1][seed] for seed in accs[0] if seed in accs[1]])


def _told(d: np.ndarray) -> list[str]:
    if len(d) < 2:
        return [f"{d.mean():+.2f}", "", str(len(d))]
    error = d.std(ddof=1) / np.sqrt(len(d))
    return [f"{d.mean():+.2f} ± {error:.2f}", f"{d.mean() / error:+.1f}", str(len(d))]


def paired(lines: Sequence[Line]) -> str:
    """Each combination against each of its parts that the table holds alone."""
    alone, table = {line.experiment.method: line for line in lines}, []
    for name, line in alone.items():
        parts = [part for part in spec.names(name) if part in alone and part != name]
        table += [[name, part, *_told(difference(line, alone[part]))] for part in parts]
    return markdown(["combination", "minus", "mean difference ± s.e., in points", "t", "seeds"], table)


def equal(lines: Sequence[Line]) -> str:
    """Methods against an ER that keeps as many numbers, to a hundredth."""
    room, table = lambda line: line.records[0]["kept"]["numbers"], []
    ers = [line for line in lines if dict(line.experiment.settings).get("er.slots")]
    for line in (one for one in lines if one.experiment.method != "er" and one.experiment.stream == "split"):
        e, near = line.experiment, [er for er in ers if abs(room(er) - room(line)) < 0.01 * room(line)]
        for er in (one for one in near if one.experiment.scenario == e.scenario):
            slots = str(dict(er.experiment.settings)["er.slots"])
            table.append([e.scenario, e.method, f"{4 * room(line):,}", slots, *_told(difference(er, line))])
    return markdown(["scenario", "method", "bytes", "slots of ER", "ER − method, in points", "t", "seeds"], table)


# -- figures -----------------------------------------------------------------------------------------------------------


def drawn(lines: Sequence[Line]) -> plots.Picture:
    """What changes decides: accuracy after every few steps, over the values of one setting, or method by method."""
    if any("watched" in line.records[0] for line in lines):
        return watched(lines)
    values: dict[str, set[float]] = {}
    for name, value in (pair for line in lines for pair in line.experiment.settings if not isinstance(pair[1], str)):
        values.setdefault(name.split(".")[1], set()).add(value)
    most = max(values, key=lambda name: len(values[name]), default="")
    few = len({line.experiment.method for line in lines}) < 3
    return over(lines, most) if few and most and len(values[most]) > 2 else beside(lines)


def over(lines: Sequence[Line], setting: str) -> plots.Picture:
    """ACC, mean ± sd, against the values of one setting: a panel for each scenario, a line for what else differs."""
    scenarios, alt = list(dict.fromkeys(line.experiment.scenario for line in lines)), []
    symbol = lambda name: WORDS["symbols"].get(name, name)
    pairs = {pair for line in lines for pair in line.experiment.settings}
    changing = {name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1}
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(11, 4.4))
        panels = figure.subplots(1, len(scenarios), squeeze=False)[0]
    for ax, scenario in zip(panels, scenarios):
        series: dict[str, list[tuple[float, float, float]]] = {}
        for line in (one for one in lines if one.experiment.scenario == scenario and len(one.runs) == len(one.records)):
            own = {k.split(".")[1]: v for k, v in line.experiment.settings if k in changing}
            acc, at = _acc(line), float(own.pop(setting))
            name = worded((symbol(k), v) for k, v in own.items())
            series.setdefault(name or line.experiment.method, []).append((at, acc.mean(), _sd(acc)))
        for name, look in plots.styles(series).items():
            x, y, sd = np.array(sorted(series[name])).T
            ax.errorbar(x, y, yerr=sd, label=name, **look)
            alt.append(f"{scenario}-IL, {name}: best {y.max():.1f} at {x[y.argmax()]:g}, last {y[-1]:.1f}")
        scale = "log" if min(x) > 0 and max(x) > 20 * min(x) else "linear"
        ax.set(title=f"{scenario.capitalize()}-IL", xlabel=symbol(setting), xscale=scale)
    panels[0].set_ylabel("ACC in %")
    panels[-1].legend(fontsize=9)
    return plots.Picture(figure, f"ACC against {symbol(setting)}. {'; '.join(alt)}.")


def watched(lines: Sequence[Line]) -> plots.Picture:
    """The accuracy on the first task during training: the mean over seeds."""
    scenario = lines[0].experiment.scenario
    own = [line for line in lines if line.experiment.scenario == scenario]
    seen = {line.experiment.method: np.mean([r["watched"] for r in line.records], 0) * 100 for line in own}
    steps = lines[0].experiment.watch * np.arange(1, min(map(len, seen.values())) + 1)
    cut = {name: (steps, y[: len(steps)]) for name, y in seen.items()}
    return plots.lines(cut, "step", "accuracy on task 1, %", f"Task 1 while five are learnt, {scenario}-IL")


def beside(lines: Sequence[Line]) -> plots.Picture:
    """ACC of each line as a dot with ± sd, and the published mean as a ring, a panel for each scenario."""
    scenarios = list(dict.fromkeys(line.experiment.scenario for line in lines))
    names = list(dict.fromkeys(_full(line, lines) for line in lines))
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(11, 1.6 + 0.3 * len(names)))
        axes = figure.subplots(1, len(scenarios), sharey=True, squeeze=False)
    gaps, best = [], []
    for ax, scenario in zip(axes[0], scenarios):
        own = [one for one in lines if one.experiment.scenario == scenario and one.runs]
        for line in own:
            y, acc = names.index(_full(line, lines)), _acc(line)
            ax.errorbar(acc.mean(), y, xerr=_sd(acc), fmt="o", color="#0072B2", label="here, ± sd")
            if line.published:
                ax.plot(line.published["acc"], y, "D", mfc="none", mec="#D55E00", ms=9, label="published")
                gaps.append((abs(acc.mean() - line.published["acc"]), f"{_name(line.experiment)} in {scenario}-IL"))
        top = max(own, key=lambda line: _acc(line).mean())
        best.append(f"{scenario}-IL: best {_full(top, lines)}, {_acc(top).mean():.1f}")
        ax.set(title=f"{scenario.capitalize()}-IL", xlabel="ACC in %", yticks=range(len(names)), yticklabels=names)
    handles = dict(zip(*axes[0][0].get_legend_handles_labels()[::-1]))
    axes[0][0].legend(handles.values(), handles.keys(), fontsize=9, loc="lower left")
    axes[0][0].invert_yaxis()
    alt = f"ACC of {len(names)} lines of the table. {'; '.join(best)}."
    if gaps:
        alt += f" Half lie within {np.median([g for g, _ in gaps]):.1f} points of the published means; "
        alt += "{1} is {0:.1f} away.".format(*max(gaps))
    return plots.Picture(figure, alt)


def _acc(line: Line) -> np.ndarray:
    return np.array([100 * r.acc for r in line.runs])


def _sd(acc: np.ndarray) -> float:
    return float(acc.std(ddof=min(1, len(acc) - 1)))  # 0 for one seed


def _name(e: Any) -> str:
    return f"{e.method} ({e.optimiser})" if e.method == "naive" else e.method


def _full(line: Line, lines: Sequence[Line]) -> str:
    """The method, and what sets this line apart from others of the same method and scenario, if it was not chosen."""
    e, chosen = line.experiment, {name for settings, _ in line.tried for name in settings}
    same = [o.experiment for o in lines if (o.experiment.method, o.experiment.scenario) == (e.method, e.scenario)]
    own = [str(v) for k, v in e.settings if k not in chosen and any(dict(o.settings).get(k) != v for o in same)]
    return ", ".join([_name(e), *own])
