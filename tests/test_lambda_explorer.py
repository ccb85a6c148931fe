"""LambdaExplorer: its numbers against the stored runs, a run of one's own, and what a reader can do with it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor.plans import read
from cl_tutor.results import Results
from cl_tutor.sweep import Experiment, run
from cl_tutor.widgets import LambdaExplorer

BASE = {"data": "digits", "samples": 200, "stream": "split", "tasks": 5, "net": "20", "epochs": 1, "batch_size": 32,
        "optimiser": "sgd", "lr": 0.1, "momentum": 0.0, "watch": 0}  # fmt: skip
LAMBDAS, SLOTS = [0.1, 1.0, 10.0, 100.0], [10, 50]


@lru_cache
def text() -> str:
    """A file such as a sweep stores: invented accuracies of three seeds; at λ = 10 one diverged, at 100 all."""
    rng = np.random.default_rng(0)
    cells = []

    def cell(scenario: str, method: str, settings: dict, lost: int = 0) -> None:
        R = [None if k < lost else rng.random((5, 5)).round(4).tolist() for k in range(3)]
        b = [None if r is None else [0.5] * 5 for r in R]
        own = {"scenario": scenario, "method": method, "settings": settings, "seeds": [0, 1, 2], "R": R, "b": b,
               "seconds": [1.0] * 3, "kept": {"numbers": 0, "weights": 1}, "machine": ["any"]}  # fmt: skip
        cells.append(own | ({"diverged": "task 2 of 5: too steep."} if lost else {}))

    for scenario in ("task", "class"):
        for name in ("naive", "joint"):
            cell(scenario, name, {})
        for lam, lost in zip(LAMBDAS[::-1], (3, 1, 0, 0)):  # the order of the file is not that of the slider
            cell(scenario, "ewc", {"ewc.lam": lam}, lost)
        for slots in SLOTS:
            cell(scenario, "er", {"er.slots": slots})
    return json.dumps({"about": "", "plan": "", "version": 1, "protocol": {}, "base": BASE, "cells": cells})


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "grid.json").write_text(text())
    return tmp_path / "grid.json"


@pytest.fixture
def explorer(path) -> LambdaExplorer:
    return LambdaExplorer.load(path)


def runs(path: Path, scenario: str, method: str, value: float) -> list[Results]:
    (line,) = [line for line in read(path) if line.experiment.scenario == scenario
               and line.experiment.method == method and value in dict(line.experiment.settings).values()]  # fmt: skip
    return line.runs


def test_the_means_and_bands_in_javascript_are_those_of_the_runs(explorer, path, tmp_path):
    def moments(values: list[float]) -> tuple[float, float]:
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    cases, rng = [], np.random.default_rng(1)
    scored = lambda r: {"acc": r.acc, "forgetting": r.forgetting}
    for T in range(2, 12):
        drawn = [[Results(rng.random((T, T)), rng.random(T)) for _ in range(n)] for n in rng.integers(1, 6, 8)]
        points = [
            {key: [scored(r)[key] for r in rs] for key in ("acc", "forgetting")} | {"seeds": len(rs)} for rs in drawn
        ]
        expected = {key: [moments(p[key]) for p in points] for key in ("acc", "forgetting")}
        cases.append({"points": points, **expected, "best": int(np.argmax([m for m, _ in expected["acc"]]))})
    run_node("lambda_explorer", cases, 5, tmp_path)


def test_the_grid_holds_the_runs_of_the_file_in_order(explorer, path):
    task, classes = explorer.grid
    assert [p["name"] for p in explorer.grid] == ["split digits, Task-IL", "split digits, Class-IL"]
    ewc, er = classes["methods"]
    assert (ewc["name"], ewc["option"], ewc["values"]) == ("EWC", "ewc.lam", LAMBDAS) and er["values"] == SLOTS
    for m, method in ((ewc, "ewc"), (er, "er")):
        for value, point in zip(m["values"], m["points"]):
            found = runs(path, "class", method, value)
            assert point["acc"] == pytest.approx([r.acc for r in found], abs=1e-5)
            assert point["forgetting"] == pytest.approx([r.forgetting for r in found], abs=1e-5)
            if found:
                assert np.allclose(point["R"], np.mean([r.R for r in found], 0), atol=6e-4)
    assert [len(p["acc"]) for p in ewc["points"]] == [3, 3, 2, 0]
    assert [p["why"] for p in ewc["points"]] == ["", "", *["task 2 of 5: too steep."] * 2]
    assert set(task["references"]) == {"naive", "joint"} and len(task["references"]["joint"]["acc"]) == 3


def test_one_bundle_holds_the_view_the_island_and_the_picture(path):
    assert_bundle(LambdaExplorer.load(path), LambdaExplorer.load(path))
    assert "naive ACC" in LambdaExplorer.load(path).picture().alt


def test_the_picture_shows_the_protocol_in_which_there_is_most_to_see():
    assert (
        "Class-IL" in LambdaExplorer.load(Path(__file__).parents[1] / "notebooks/runs/lambda_grid.json").picture().alt
    )


def wish(value: float, asked: int = 1, **other) -> dict:
    return {"protocol": "split digits, Task-IL", "method": "EWC", "option": "ewc.lam", "value": value, "seed": 7,
            "asked": asked, **other}  # fmt: skip


def test_a_run_of_ones_own_is_the_run_that_a_sweep_would_make(explorer):
    told = []
    explorer.observe(lambda change: told.append(change["new"]), "progress")
    explorer.wanted = wish(3)
    expected = run(replace(Experiment(**BASE, scenario="task", method="ewc", settings={"ewc.lam": 3}), seed=7))
    r = Results(expected["R"], expected["b"])
    (mine,) = explorer.trained
    assert mine["acc"] == pytest.approx([r.acc], abs=1e-5) and mine["value"] == 3 and mine["seed"] == 7
    assert told == ["training: the run is set up …", *(f"training: task {k} of 5 …" for k in range(1, 6)),
                    f"done: ACC {r.acc:.3f}, forgetting {r.forgetting:.3f}"]  # fmt: skip
    explorer.wanted = wish(3, asked=2)
    assert explorer.trained == [mine, mine | {"asked": 2}]  # the first is kept, and the same seed gives the same run


def test_a_diverged_run_and_an_error_are_said(explorer):
    explorer.wanted = wish(1e9)
    assert re.match(r"diverged in task [2-5]: EWC will diverge: λ", explorer.progress) and not explorer.trained
    explorer.wanted = wish(2.5, 2, method="ER", option="er.slots")
    assert explorer.progress.startswith("not trained (ValueError): --set er.slots=2.5: slots is a whole number")
    explorer.wanted = wish(0, 3, method="ER", option="er.slots")
    assert explorer.progress == "not trained (ValueError): A memory needs 1 slot or more, not 0."
    assert not explorer.trained


def test_any_other_file_is_refused_in_one_sentence(tmp_path):
    def refuse(content: str, words: str) -> None:
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=rf"bad\.json holds no grid \(.*{words}.*makes one\.$"):
            LambdaExplorer.load(tmp_path / "bad.json")

    refuse("[1", "JSONDecodeError")
    refuse('{"R": [[1]]}', "KeyError: 'cells'")
    refuse("[]", "TypeError")
    found = json.loads(text())
    refuse(json.dumps(found | {"cells": found["cells"][:2]}), "nothing to slide over")
    two = [c | {"settings": {"ewc.lam": lam, "ewc.samples": n}} for c, (lam, n) in
           zip([c for c in found["cells"] if c["method"] == "ewc"], [(1, 10), (2, 20)])]  # fmt: skip
    refuse(json.dumps(found | {"cells": two}), "one setting must vary")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        LambdaExplorer.load(tmp_path / "nowhere.json")


# ------------------------------------------------------------------------------------------------------ in the browser


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).press("Enter")


def test_the_slider_stops_at_what_was_run_and_says_what_came_of_it(open_island, explorer, path):
    page = open_island(explorer)
    knob = page.get_by_role("slider", name="grid point")
    assert page.locator("p", has_text="ACC on the test images is highest: an optimist’s choice").is_visible()
    press(page, "split digits, Class-IL")
    knob.press("Home")
    for lam in LAMBDAS[:2]:
        assert knob.get_attribute("aria-valuetext") == f"λ = {lam:g}"
        accs = [r.acc for r in runs(path, "class", "ewc", lam)]
        assert page.get_by_text(f"λ = {lam:g}: ACC {np.mean(accs):.3f} ± {np.std(accs, ddof=1):.3f}").first.is_visible()
        mean = np.mean([r.R for r in runs(path, "class", "ewc", lam)], 0)
        shown = page.locator("td").all_inner_texts()
        assert np.allclose([float(x) for x in shown], mean.flatten(), atol=0.0056)
        knob.press("ArrowRight")
    knob.press("End")
    assert page.locator("p", has_text="no number, for every run diverged (task 2 of 5: too steep.)").is_visible()
    assert not page.locator("table").is_visible()
    press(page, "ER")
    assert re.match(r"slots = (10|50)$", knob.get_attribute("aria-valuetext"))
    assert page.locator("p", has_text="The slider stops at the 2 values of slots").is_visible()


def test_without_a_kernel_the_button_says_what_it_needs(open_island, explorer):
    page = open_island(explorer)
    page.get_by_role("button", name="train EWC").press("Enter")
    assert page.locator("p", has_text="This page has no kernel").is_visible()


class Live:
    """The island as if a kernel were there: what the view asks for and what comes back pass through `window`."""

    def __init__(self, widget: LambdaExplorer) -> None:
        self.html = widget.island()

    def island(self) -> str:
        new = "widget_manager: {}, save_changes() { window.asked = state.wanted; window.model = model; }"
        assert self.html.count("save_changes() {}") == 1
        return self.html.replace("save_changes() {}", new)


def test_with_a_kernel_a_run_is_asked_for_awaited_and_drawn(open_island, explorer):
    page = open_island(Live(explorer))
    page.get_by_role("spinbutton", name="value to train").fill("3")
    button = page.get_by_role("button", name="train EWC with λ = 3 now")
    button.press("Enter")
    asked = page.evaluate("window.asked")
    assert asked == wish(3, seed=3)
    assert button.is_disabled() and page.locator("p", has_text="Sent to the kernel: about 1 s").is_visible()
    tell = lambda words: page.evaluate("(words) => window.model.set('progress', words)", words)
    tell("training: task 1 of 5 …")
    assert button.is_disabled() and page.locator("p", has_text="task 1 of 5").is_visible()
    explorer.wanted = asked
    page.evaluate("(runs) => window.model.set('trained', runs)", explorer.trained)
    tell(explorer.progress)
    assert button.is_enabled() and page.locator("p", has_text="done: ACC").is_visible()
    item = page.locator("li").inner_text()
    assert item.startswith(f"λ = 3, seed 3: ACC {explorer.trained[0]['acc'][0]:.3f}") and "the band" in item
    button.press("Enter")
    assert page.evaluate("window.asked") == wish(3, seed=4, asked=2)
    tell("diverged in task 2: too steep")
    assert button.is_enabled() and page.locator("p", has_text="diverged in task 2").is_visible()


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_can_be_found_and_hit(open_island, explorer, width):
    assert_controls(open_island(explorer, width=width), "Strength and memory explorer")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(open_island, explorer, scheme):
    assert_readable(open_island(explorer, scheme=scheme))
