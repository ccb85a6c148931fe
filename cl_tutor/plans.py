"""Tables as files: a TOML file of experiments, settings chosen on held-out data, and a small JSON file of the outcome.

    about = "one sentence"
    [common]                              # fields of Experiment, for all that follows
    data = "mnist"
    [[grid]]                              # a list is tried value by value: here 3 x 2 cells
    scenario = ["task", "domain", "class"]
    method = ["naive", "ewc"]
    [[grid]]                              # settings of methods have a dot; `choose` takes the best of a list
    scenario = "task"
    method = "si"
    choose = { "si.lam" = [1, 10, 100] }
    [[published]]                         # what others found, for the cells that match
    method = "ewc"
    acc = 97.7
    sd = 0.81

A choice is made by ACC on a tenth of the training set that no run trains on, with seed TRIAL, which is never reported.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from .results import Results
from .sweep import VERSION, Experiment, Record, results, write

TRIAL = 100  # the seed on which settings are chosen; it is never reported
PRESETS = Path(__file__).with_name("presets")
NAMES = {f.name for f in fields(Experiment)} - {"seed", "settings", "held_out"}
SCHEMA = Path(__file__).with_name("plan.schema.json")
QUOTED = ("acc", "sd", "source")  # of a row of `published`, beside what says which line it belongs to


class Cell(NamedTuple):
    """What becomes one line of a table: an experiment, over seeds; or the best of several candidates."""

    candidates: Sequence[Experiment]  # with seed 0
    published: dict[str, Any] | None = None

    def trials(self) -> list[Experiment]:
        """What must run before the best is known: nothing, where there is no choice."""
        found = [replace(e, seed=TRIAL, held_out=True, watch=0) for e in self.candidates]
        return found if len(found) > 1 else []

    def best(self, records: Iterable[Record]) -> Experiment:
        """The candidate with the highest ACC in its trial, the first of equals; a run that diverged is the worst."""
        accs = [found.acc if (found := results(r)) else -1.0 for r in records]
        return self.candidates[int(np.argmax(accs)) if accs else 0]


@dataclass(frozen=True)
class Plan:
    """A file of experiments."""

    name: str
    about: str
    cells: list[Cell]
    seeds: int = 5

    @classmethod
    def read(cls, path: Path) -> Plan:
        """From a TOML file, or ValueError that says what is wrong with it."""
        from jsonschema import Draft202012Validator, exceptions  # seconds, which a lesson without a plan need not wait

        schema = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
            if wrong := exceptions.best_match(schema.iter_errors(found)):
                raise ValueError(f"{wrong.json_path.removeprefix('$.')}: {wrong.message}")
            cells = [c for grid in found["grid"] for c in _cells(found.get("common", {}) | grid)]
            published = found.get("published", [])
            if stray := [row for row in published if not any(_fits(c.candidates[0], row) for c in cells)]:
                raise ValueError(f"no line of the table fits published {stray[0]}")
            cells = [c._replace(published=_match(c.candidates[0], published)) for c in cells]
            return cls(path.stem, found["about"], cells, found.get("seeds", 5))
        except (tomllib.TOMLDecodeError, TypeError, ValueError) as e:
            raise ValueError(f"{path}: {e}") from None

    @classmethod
    def preset(cls, name: str) -> Plan:
        if name not in presets():
            raise ValueError(f"There is no preset {name!r}: choose from {', '.join(presets())}.")
        return cls.read(PRESETS / f"{name}.toml")

    def trials(self) -> list[Experiment]:
        return [e for cell in self.cells for e in cell.trials()]


def presets() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.toml"))


def _cells(grid: dict[str, Any]) -> list[Cell]:
    """All combinations of the lists, each with all combinations of what is to be chosen."""
    choose = list(_combinations(grid.pop("choose", {})))
    return [Cell([_experiment(given | chosen) for chosen in choose]) for given in _combinations(grid)]


def _combinations(table: dict[str, Any]) -> list[dict[str, Any]]:
    values = [value if isinstance(value, list) else [value] for value in table.values()]
    return [dict(zip(table, combination)) for combination in product(*values)]


def _experiment(given: dict[str, Any]) -> Experiment:
    if extra := {name for name in given if "." not in name} - NAMES:
        raise ValueError(f"{min(extra)} is not known: choose from {', '.join(sorted(NAMES))}, or method.option")
    settings = {name: value for name, value in given.items() if "." in name}
    return Experiment(settings=settings, **{name: value for name, value in given.items() if name in NAMES})


def _match(e: Experiment, published: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next(({k: row[k] for k in QUOTED if k in row} for row in published if _fits(e, row)), None)


def _fits(e: Experiment, row: dict[str, Any]) -> bool:
    own = asdict(e) | dict(e.settings)
    return all(own.get(name) == value for name, value in row.items() if name not in QUOTED)


# -- what is kept ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A cell with its outcome: one record a seed."""

    experiment: Experiment  # with seed 0
    records: list[Record]
    published: dict[str, Any] | None = None
    tried: list[list[Any]] = field(default_factory=list)  # [what was set, ACC on held-out data or None]

    @property
    def runs(self) -> list[Results]:
        """The results of the seeds that did not diverge."""
        return [found for r in self.records if (found := results(r))]


def store(path: Path, plan: Plan, lines: list[Line], protocol: dict[str, Any]) -> None:
    """A file small enough for a repository: accuracies to four digits, and each field once where all cells share it."""
    own = [asdict(line.experiment) | {"settings": dict(line.experiment.settings)} for line in lines]
    base = {k: v for k, v in own[0].items() if all(e[k] == v for e in own) and k not in ("seed", "held_out")}
    head = {"about": plan.about, "plan": plan.name, "version": VERSION, "protocol": protocol, "base": base}
    cells = [json.dumps(_packed(line, e, base), ensure_ascii=False) for line, e in zip(lines, own)]
    text = json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}")
    write(path, text + ',\n "cells": [\n  ' + ",\n  ".join(cells) + "\n ]\n}\n")


def _packed(line: Line, own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    round4 = lambda values: None if values is None else np.round(values, 4).tolist()
    cell = {k: v for k, v in own.items() if k not in (*base, "seed", "held_out")}
    cell |= {"seeds": [r["experiment"]["seed"] for r in line.records]}
    cell |= {name: [round4(r[name]) for r in line.records] for name in ("R", "b")}
    cell |= {"seconds": [round(r["seconds"], 1) for r in line.records], "kept": line.records[0]["kept"]}
    cell |= {"machine": sorted({r["machine"] for r in line.records})}
    reasons = [r["diverged"] for r in line.records if "diverged" in r]
    cell |= {"diverged": reasons[0]} if reasons else {}
    cell |= {"watched": [r.get("watched") for r in line.records]} if own["watch"] else {}
    cell |= {"tried": line.tried} if line.tried else {}
    return cell | ({"published": line.published} if line.published else {})


def read(path: str | Path) -> list[Line]:
    """The lines of a file that `store` wrote; the experiments are built again, so that any of them can be rerun."""
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    return [_unpacked(found["base"], cell, found["version"]) for cell in found["cells"]]


def _unpacked(base: dict[str, Any], cell: dict[str, Any], version: int) -> Line:
    own = base | {k: v for k, v in cell.items() if k in (*NAMES, "settings")}
    e = Experiment(**own)
    records = []
    for k, seed in enumerate(cell["seeds"]):
        experiment = json.loads(replace(e, seed=seed).canonical())
        record = {"experiment": experiment, "version": version, "kept": cell["kept"], "machine": cell["machine"]}
        record |= {name: cell[name][k] for name in ("R", "b", "seconds")}
        record |= {"watched": cell["watched"][k]} if "watched" in cell else {}
        records.append(record | ({"diverged": cell["diverged"]} if cell["R"][k] is None else {}))
    return Line(e, records, cell.get("published"), cell.get("tried", []))


# -- from a plan to its outcome ----------------------------------------------------------------------------------------


def carry_out(plan: Plan, seeds: int, sweep: Callable[[list[Experiment]], list[Record]]) -> list[Line]:
    """Choose what is to be chosen, then run the seeds 0, 1, 2 ...; `sweep` turns experiments into records."""
    trials = iter(sweep(plan.trials()))
    lines = []
    for cell in plan.cells:
        made = [next(trials) for _ in cell.trials()]
        best, differ = cell.best(made), _differences(cell.candidates)
        tried = [[d, round(found.acc, 4) if (found := results(r)) else None] for d, r in zip(differ, made)]
        lines.append(Line(best, [], cell.published, tried))
    wanted = [[replace(line.experiment, seed=k) for k in range(seeds)] for line in lines]
    records = iter(sweep([e for each in wanted for e in each]))
    return [replace(line, records=[next(records) for _ in each]) for line, each in zip(lines, wanted)]


def _differences(candidates: Sequence[Experiment]) -> list[dict[str, Any]]:
    """What sets each of them apart from the others."""
    flat = [{k: v for k, v in asdict(e).items() if k != "settings"} | dict(e.settings) for e in candidates]
    return [{k: v for k, v in own.items() if any(other[k] != v for other in flat)} for own in flat]


def table(lines: list[Line]) -> Table:
    """A line each: ACC in percent, mean ± sd over the seeds, beside what was published."""
    shown = Table("scenario", "method", "set", "ACC", "published", "s", box=box.SIMPLE_HEAD, pad_edge=False)
    why = [f"{line.experiment.method}: {r['diverged']}" for line in lines for r in line.records if "diverged" in r]
    shown.caption = "\n".join(map(escape, dict.fromkeys(why)))
    for line in lines:
        e = line.experiment
        own = worded((name.split(".")[1], value) for name, value in e.settings)
        seconds = np.mean([r["seconds"] for r in line.records])
        shown.add_row(e.scenario, e.method, own, spread(line), quoted(line), f"{seconds:.1f}")
    return shown


def worded(settings: Iterable[tuple[str, Any]]) -> str:
    """`lam 100, samples 200`."""
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings)


def spread(line: Line) -> str:
    """ACC in percent; a mean over the seeds that survived would flatter."""
    if len(line.runs) < len(line.records):
        return "diverged"
    acc = np.array([100 * r.acc for r in line.runs])
    return f"{acc.mean():.2f}" + (f" ± {acc.std(ddof=1):.2f}" if len(acc) > 1 else "")


def quoted(line: Line) -> str:
    """What was published, in percent; not every paper tells an sd."""
    p = line.published or {}
    return " ± ".join(f"{p[name]:.2f}" for name in ("acc", "sd") if name in p)
