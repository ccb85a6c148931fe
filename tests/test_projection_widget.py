"""The projection explorable: equal to the package's A-GEM and GEM; keys, drag, words, room, light and dark."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import traitlets
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor.methods.projection import project, project_mean
from cl_tutor.widgets import Projection

THREE = dict(g_new=[1.2, -1.0], g_refs=[[0.4, 1.4], [1.4, 0.6], [-1.2, 0.9]], method="GEM")


def test_the_mathematics_in_javascript_equals_python(tmp_path):
    rng, cases = np.random.default_rng(0), []
    for k in range(90):
        g, refs = rng.normal(size=2), rng.normal(size=(1 + k % 3, 2))
        for method in ("A-GEM", "GEM"):
            w = Projection(g_new=g.tolist(), g_refs=refs.tolist(), method=method)
            case = {"g": w.g_new, "refs": w.g_refs, "method": method}
            cases.append(case | {"tilde": w.g_tilde.tolist(), "changes": w.changes()})
    assert sum(np.allclose(c["tilde"], c["g"]) for c in cases) < 0.7 * len(cases)  # most of them have work to do
    run_node("projection", cases, 5, tmp_path)


def test_python_asks_the_package():
    w = Projection(**THREE)
    g, G = torch.tensor(w.g_new, dtype=torch.float64), torch.tensor(w.g_refs, dtype=torch.float64)
    assert torch.equal(w.g_tilde, project(g, G))
    assert w.changes()[-1] == pytest.approx(-0.1 * float(w.g_tilde @ g))
    w.method = "A-GEM"
    assert torch.equal(w.g_tilde, project_mean(g, G.mean(0)))


def test_agem_may_let_one_task_pay_where_gem_does_not():
    assert max(Projection(method="A-GEM").changes()[:-1]) > 0.05
    assert max(Projection(method="GEM").changes()[:-1]) < 1e-9


def test_bundle_picture_and_refusals():
    assert_bundle(Projection(**THREE), Projection(**THREE))
    assert "old losses change by +0.066, −0.156 and the new one by −0.306" in repr(Projection())
    for wrong in ({"g_new": [1.0]}, {"g_refs": []}, {"g_refs": [[1.0, 1.0]] * 4}, {"method": "EWC"}):
        with pytest.raises(traitlets.TraitError):
            Projection(**wrong)


# ------------------------------------------------------------------------------------------------------ in the browser


def assert_shows(page, w: Projection) -> None:
    number = lambda words: float(words.replace("−", "-").replace("+", ""))
    rows = [[number(n) for n in row.locator("td").all_inner_texts()] for row in page.locator("tbody tr").all()]
    plain = [-0.1 * float(np.dot(w.g_new, g)) for g in [*w.g_refs, w.g_new]]
    assert np.allclose(rows, np.transpose([plain, w.changes()]), atol=0.00051)


def test_keys_move_the_gradients_and_the_numbers_follow_as_in_python(open_island):
    page = open_island(Projection(method="GEM"))
    assert_shows(page, Projection(method="GEM"))
    page.get_by_role("slider", name="gradient of the new task").press("Shift+ArrowLeft")  # a tenth of the axis
    page.get_by_role("slider", name="gradient of old task 2").press("ArrowDown")
    moved = dict(g_new=[1.02, -0.9], g_refs=[[0.4, 1.4], [1.4, 0.552]])
    assert_shows(page, Projection(**moved, method="GEM"))
    page.get_by_role("button", name="A-GEM", exact=True).press("Enter")
    assert_shows(page, Projection(**moved))
    page.get_by_role("button", name="3", exact=True).press("Enter")
    moved["g_refs"].append([-1.2, 0.9])
    assert_shows(page, Projection(**moved))
    page.get_by_role("button", name="1", exact=True).press("Enter")
    assert_shows(page, Projection(g_new=moved["g_new"], g_refs=moved["g_refs"][:1]))


def test_a_dragged_gradient_is_projected(open_island):
    page = open_island(Projection(g_refs=[[0.0, 1.2]]), width=1280)
    handle = page.get_by_role("slider", name="gradient of the new task")
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 200, steps=4)  # up, over the border: from conflict to agreement
    assert "nothing is changed" in page.locator(".clt-note").inner_text()
    page.mouse.move(x, y + 20, steps=4)
    page.mouse.up()
    assert "raises the loss of task 1" in page.locator(".clt-note").inner_text()
    assert page.locator("tbody tr").first.locator("td").nth(1).inner_text() == "0.000"
    assert handle.get_attribute("aria-valuetext").startswith("angle −")


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_has_a_name_and_room(open_island, width):
    assert_controls(open_island(Projection(**THREE), width=width), "Gradient projection")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out(open_island, scheme):
    assert_readable(open_island(Projection(**THREE), scheme=scheme))
