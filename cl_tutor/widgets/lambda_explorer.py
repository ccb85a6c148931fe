"""What a strength or a memory buys: every point of a grid of real runs, and one more of your own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import traitlets

from .. import plots
from ..learn import Diverged, meet
from ..plans import Line, read
from ..results import Results
from ..sweep import Experiment
from .island import Island, module

SCENARIOS = {"task": "Task-IL", "domain": "Domain-IL", "class": "Class-IL"}


class LambdaExplorer(Island):
    """ACC and forgetting of each run of a sweep, by method and by the one setting that varies; R at the chosen point.

    `LambdaExplorer.load("runs/lambda_grid.json")` reads what `cl-tutor sweep --preset lambda-grid` stored. The slider
    stops only at what was run. With a kernel, "train this one now" runs any value on a new seed; `trained` keeps what
    came of it.
    """

    _esm = module("lambda_explorer.js")
    grid: traitlets.List = traitlets.List().tag(sync=True)  # a dict for each protocol
    wanted: traitlets.Dict = traitlets.Dict().tag(sync=True)  # what the reader asks to be trained
    progress = traitlets.Unicode().tag(sync=True)
    trained: traitlets.List = traitlets.List().tag(sync=True)

    def __init__(self, lines: Sequence[Line]) -> None:
        protocols: dict[Experiment, list[Line]] = {}
        for line in lines:
            protocols.setdefault(replace(line.experiment, method="naive", settings=(), seed=0), []).append(line)
        self._experiments = {_name(e): {_label(line.experiment.method): line.experiment for line in own}
                             for e, own in protocols.items()}  # fmt: skip
        grid = [p for e, own in protocols.items() if (p := _protocol(_name(e), own))["methods"]]
        if not grid:
            raise ValueError("There is nothing to slide over: no method was run with two values of a setting or more.")
        super().__init__(grid=grid)

    @classmethod
    def load(cls, path: str | Path) -> LambdaExplorer:
        """From a file that `cl-tutor sweep` stored; ValueError says what is wrong with any other."""
        try:
            return cls(read(path))
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise ValueError(f"{path} holds no grid ({type(e).__name__}: {e}): `cl-tutor sweep --preset lambda-grid` "
                             "makes one.") from e  # fmt: skip

    @traitlets.observe("wanted")
    def _train(self, change: Any) -> None:
        """Run what was asked for, telling how far it is; whatever goes wrong is said in its place."""
        w = change["new"]
        self.progress = "training: the run is set up …"
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                base = self._experiments[w["protocol"]][w["method"]]
                option, value = w["option"], w["value"]
                learner = replace(base, settings=dict(base.settings) | {option: value}, seed=w["seed"]).learner()
                for k, task in enumerate(learner.stream.tasks, 1):
                    self.progress = f"training: task {k} of {len(learner.stream)} …"
                    meet(learner, task)
            found = Results(np.array(learner.rows), np.array(learner.baseline))
            self.trained = [*self.trained, w | _point([found])]
            self.progress = f"done: ACC {found.acc:.3f}, forgetting {found.forgetting:.3f}"
        except Diverged as e:
            self.progress = f"diverged in task {learner.seen}: {caught[0].message if caught else e}"
        except Exception as e:  # JupyterLab shows no error of a widget's message, so it is shown here
            self.progress = f"not trained ({type(e).__name__}): {e}"

    def picture(self) -> plots.Picture:
        def apart(p: dict[str, Any]) -> float:
            accs = [np.mean(point["acc"]) for m in p["methods"] for point in m["points"] if point["acc"]]
            return float(np.ptp(accs)) if accs else 0.0

        p = max(self.grid, key=apart)  # where the methods and their strengths differ most, there is most to see
        known = ", ".join(f"{name} ACC {np.mean(point['acc']):.2f}" for name, point in p["references"].items())
        mean = lambda m, key: [round(np.mean(p[key]), 3) if p[key] else np.nan for p in m["points"]]
        curves = {m["name"]: (mean(m, "forgetting"), mean(m, "acc")) for m in p["methods"]}
        return plots.lines(curves, "forgetting", "ACC", f"{p['name']}{f' ({known})' if known else ''}")


def _name(e: Experiment) -> str:
    return f"{e.stream} {e.data}, {SCENARIOS[e.scenario]}"


def _label(method: str) -> str:
    """ "er+lwf" -> "ER+LwF"."""
    return "naive" if method == "naive" else "joint" if method == "joint" else method.upper().replace("LWF", "LwF")


def _protocol(name: str, lines: list[Line]) -> dict[str, Any]:
    """Lines of one protocol, by method: those with settings in the order of the one that varies, the others apart."""
    by_method: dict[str, list[Line]] = {}
    for line in lines:
        by_method.setdefault(line.experiment.method, []).append(line)
    methods, references = [], {}
    for method, own in by_method.items():
        settings = [dict(line.experiment.settings) for line in own]
        options = [o for o in settings[0] if len({s.get(o) for s in settings}) > 1]
        if len(own) == 1:
            references[_label(method)] = _point(own[0].runs)
        elif len(options) == 1 and all(s[options[0]] > 0 for s in settings):
            ordered = sorted(zip((s[options[0]] for s in settings), own), key=lambda pair: pair[0])
            methods.append({"name": _label(method), "option": options[0], "values": [value for value, _ in ordered],
                            "points": [_told(line) for _, line in ordered]})  # fmt: skip
        else:
            raise ValueError(
                f"{name}, {method}: one setting must vary, and be above 0; here it is {options or 'none'}."
            )
    return {"name": name, "methods": methods, "references": references}


def _told(line: Line) -> dict[str, Any]:
    lost = [r for r in line.records if r["R"] is None]
    seconds = float(np.mean([r["seconds"] for r in line.records]))
    return _point(line.runs) | {"seconds": round(seconds, 1), "seeds": len(line.records),
                                "why": lost[0]["diverged"] if lost else ""}  # fmt: skip


def _point(runs: list[Results]) -> dict[str, Any]:
    """ACC and forgetting of each seed, and the mean R over seeds."""
    R = np.mean([r.R for r in runs], 0).round(3).tolist() if runs else []
    return {"acc": [round(r.acc, 5) for r in runs], "forgetting": [round(r.forgetting, 5) for r in runs], "R": R}
