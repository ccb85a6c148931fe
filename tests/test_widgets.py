"""The R editor: its mathematics in node, its behaviour in Chromium with the network off, its output bundle."""

from __future__ import annotations

import re

import numpy as np
import pytest
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor import plots
from cl_tutor.results import Results
from cl_tutor.widgets import REditor


def results(seed: int, T: int = 4) -> Results:
    rng = np.random.default_rng(seed)
    return Results(rng.random((T, T)).round(2), rng.random(T).round(2))


def editor() -> REditor:
    return REditor({"forgets": results(0), "remembers": results(1), "three </script> tasks": results(2, 3)})


def test_the_kit_speaks_and_looks_as_the_figures_do(tmp_path):
    names = [["naive", "joint", "EWC", "ER"], ["gem", "a-gem", "lwf"], ["mine", "naive", "ewc"], ["x", "y", "z", "u"]]
    cases = [{"names": n, "markers": [look["marker"] for look in plots.styles(n).values()]} for n in names]
    run_node("kit", cases, 5, tmp_path)


def test_the_mathematics_in_javascript_equals_python(tmp_path):
    rng = np.random.default_rng(0)
    drawn = [Results(rng.random((T, T)), rng.random(T)) for T in [*range(2, 8)] * 5]
    run_node("r_editor", [{"R": r.R.tolist(), "b": r.b.tolist(), "metrics": r.metrics()} for r in drawn], 6, tmp_path)


def test_one_bundle_holds_the_view_the_island_and_the_picture():
    widget = editor()
    assert_bundle(widget, editor())
    assert f"{results(0).acc:.3f}" in widget.picture().alt


def test_python_sees_the_table_and_refuses_nonsense():
    widget = editor()
    assert np.allclose(widget.results.R, results(0).R)
    widget.R = [[0.9, 0.1], [0.4, 0.8]]
    widget.b = [0.1, 0.1]
    assert widget.results.bwt == pytest.approx(-0.5) and "BWT −0.500" in repr(widget)
    with pytest.raises(ValueError, match="at least one preset"):
        REditor({})
    with pytest.raises(TypeError, match=r"'a'.*ndarray"):
        REditor({"a": np.eye(2)})


# ------------------------------------------------------------------------------------------------------ in the browser


@pytest.fixture
def page(open_island):
    return open_island(editor())


NAMES = {"acc": "ACC", "forgetting": "forgetting", "bwt": "BWT", "fwt": "FWT"}


def readout(page) -> dict[str, float]:
    shown = {key: page.locator(".clt-meters button", has_text=name).locator("strong") for key, name in NAMES.items()}
    return {key: float(output.inner_text().replace("−", "-")) for key, output in shown.items()}


def assert_shows(page, expected: Results) -> None:
    assert readout(page) == pytest.approx(expected.metrics(), abs=0.0005 + 1e-9)


def edited(r: Results, i: int, j: int, value: float) -> Results:
    R, b = r.R.copy(), r.b.copy()
    (b if i < 0 else R[i])[j] = value
    return Results(R, b)


def test_a_cell_edited_by_keyboard_changes_the_numbers_as_in_python(page):
    assert_shows(page, results(0))
    cell = page.get_by_label("R: accuracy on task 2 after training on task 4", exact=True)
    cell.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("0.5")
    assert_shows(page, edited(results(0), 3, 1, 0.5))
    page.keyboard.press("ArrowUp")  # a step of 0.05
    assert_shows(page, edited(results(0), 3, 1, 0.55))
    page.get_by_label("b: accuracy on task 3 before training", exact=True).fill("1")
    assert_shows(page, edited(edited(results(0), 3, 1, 0.55), -1, 2, 1.0))
    assert page.get_by_role("button", name="forgets").first.get_attribute("aria-pressed") == "false"


def test_an_impossible_accuracy_is_named_and_not_taken(page):
    cell = page.get_by_label("R: accuracy on task 1 after training on task 1", exact=True)
    for wrong in ("1.5", "-0.1"):
        cell.fill(wrong)
        assert cell.get_attribute("aria-invalid") == "true"
        assert page.locator(".clt-says").inner_text() == "An accuracy lies between 0 and 1."
        assert_shows(page, results(0))
    cell.blur()
    assert cell.input_value() == f"{results(0).R[0, 0]:.2f}" and cell.get_attribute("aria-invalid") is None


def test_presets_load_even_with_another_number_of_tasks(page):
    for name, r in (("remembers", results(1)), ("three </script> tasks", results(2, 3)), ("forgets", results(0))):
        page.get_by_role("button", name=name, exact=True).press("Enter")
        assert_shows(page, r)
        assert page.locator("td").count() == r.R.size + r.b.size
        assert page.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "true"


def test_transposing_is_a_trap_that_says_so_and_can_be_undone(page):
    flip, r = page.get_by_role("button", name="transpose R"), results(0)
    flip.press("Space")
    assert_shows(page, Results(r.R.T, r.b))
    assert f"was {r.acc:.3f}" in page.locator(".clt-meters").inner_text() and page.get_by_role("status").inner_text()
    flip.press("Space")
    assert_shows(page, r)
    assert "was" not in page.locator(".clt-meters").inner_text()


@pytest.mark.parametrize("metric", NAMES)
def test_a_focused_metric_lights_the_cells_that_enter_it(page, metric):
    page.locator(".clt-meters button", has_text=NAMES[metric]).focus()
    r, T, total = results(0), 4, 0.0
    lit = page.locator("td[data-sign]")
    for k in range(lit.count()):
        label = lit.nth(k).locator("input").get_attribute("aria-label")
        numbers = [int(n) - 1 for n in re.findall(r"\d+", label)]
        value = r.b[numbers[0]] if label.startswith("b") else r.R[numbers[1], numbers[0]]
        total += value if lit.nth(k).get_attribute("data-sign") == "+" else -value
    assert total / (T if metric == "acc" else T - 1) == pytest.approx(r.metrics()[metric])
    assert f"{r.metrics()[metric]:.3f}".replace("-", "−") in page.locator(".clt-says").inner_text()
    page.locator(".clt-meters button", has_text=NAMES[metric]).press("Enter")
    assert page.locator(".clt-meters button[aria-pressed=true]").inner_text().startswith(NAMES[metric])


def test_every_control_has_a_name_of_its_own_and_room_for_a_finger(page):
    page.get_by_role("button", name="transpose R").click()
    assert_controls(page, "Accuracy matrix editor")
    assert page.locator("button, input").count() == 20 + 3 + 4 + 1
    tree = page.locator("body").aria_snapshot()
    for role in (
        'group "Presets"',
        'group "Metrics"',
        "spinbutton",
        "rowheader",
        "columnheader",
    ):
        assert role in tree


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(open_island, scheme):
    assert_readable(open_island(editor(), scheme=scheme))
