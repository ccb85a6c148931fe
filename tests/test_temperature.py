"""The temperature: its mathematics against the package's LwF and torch's gradients, its behaviour in Chromium."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor.methods.regularization import distil
from cl_tutor.widgets import Temperature


def case(rng, T, shared):
    C, extra = int(rng.integers(2, 7)), int(rng.integers(1, 4))
    old = torch.tensor(rng.normal(0, 4, (1, C)))
    z = torch.tensor(rng.normal(0, 4, (1, C + extra)), requires_grad=True)
    label, alpha = C + int(rng.integers(extra)), float(rng.uniform(0, 10))
    loss = distil(old, z[:, :C], T)
    (pull,) = torch.autograd.grad(alpha * loss, z)
    first = 0 if shared else C
    (push,) = torch.autograd.grad(F.cross_entropy(z[:, first:], torch.tensor([label - first])), z)
    d = (z[:, :C] - old).detach()
    return {
        "old": old[0].tolist(), "z": z[0].tolist(), "T": T, "label": label, "alpha": alpha, "shared": shared,
        "teacher": (old / T).softmax(1)[0].tolist(), "distil": loss.item(), "pull": pull[0].tolist(),
        "push": push[0].tolist(), "limit": ((d - d.mean()) ** 2).sum().item() / (2 * C),
    }  # fmt: skip


def test_the_mathematics_in_javascript_equals_python(tmp_path):
    rng = np.random.default_rng(0)
    cases = [case(rng, float(T), shared) for T in (0.5, 1, 2, 4, 7.3, 20) for shared in (True, False)]
    run_node("temperature", cases, 7, tmp_path)


def test_the_limit_is_half_the_variance_of_the_differences():
    w = Temperature()
    d = np.array(w.student[:5]) - np.array(w.teacher)
    assert w.limit == pytest.approx(((d - d.mean()) ** 2).sum() / (2 * 5))
    assert [w.at(T) - w.limit for T in (1e3, 2e3)] == pytest.approx([0, 0], abs=5e-3)
    w.T = 20.0
    assert w.distillation == w.at(20)


@pytest.mark.parametrize(
    "bad, words",
    [({"T": 0.1}, "T must lie.*0.1"), ({"alpha": 11.0}, "alpha must lie.*11"), ({"label": 2}, "label.*5 to 6, not 2"),
     ({"teacher": [1.0]}, "2 old classes"), ({"student": [1.0] * 5}, "a new one"), ({"names": ["a"]}, "1 names"),
     ({"student": [float("nan")] * 7}, "finite")],
)  # fmt: skip
def test_nonsense_is_refused_by_name(bad, words):
    with pytest.raises(ValueError, match=words):
        Temperature(**bad)


def test_one_bundle_and_a_picture_in_words():
    assert_bundle(Temperature(), Temperature())
    assert "dog 0.39" in Temperature(T=4.0).picture().alt and "1.94" in Temperature().picture().alt


def cells(page):
    return [float(text.replace("−", "-")) for text in page.locator(".clt-numbers td").all_inner_texts()]


def test_the_temperature_slider_agrees_with_python(open_island):
    page = open_island(Temperature())
    T = page.get_by_label("temperature T")
    for key, value in (("Home", 0.5), ("End", 20.0)):
        T.press(key)
        w = Temperature(T=value)
        assert T.get_attribute("aria-valuetext") == f"{value:.1f}"
        assert cells(page)[:3] == pytest.approx([w.distillation / value**2, w.distillation, w.limit], abs=6e-4)
    pull = cells(page)[3]
    page.get_by_label("weight α").press("End")
    assert cells(page)[3] == pytest.approx(10 * pull, rel=0.01)


def test_a_logit_is_dragged_and_put_back(open_island):
    page = open_island(Temperature(), width=1280)
    grip = page.get_by_role("slider", name="student’s logit for dog")
    box, before = grip.bounding_box(), cells(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 40)
    page.mouse.up()
    moved = float(grip.get_attribute("aria-valuenow"))
    w = Temperature()
    w.student = [moved, *w.student[1:]]
    assert moved > 2 and cells(page)[1:3] == pytest.approx([w.distillation, w.limit], abs=6e-4)
    grip.press("ArrowUp")
    assert float(grip.get_attribute("aria-valuenow")) == pytest.approx(moved + 0.1, abs=1e-3)
    page.get_by_role("button", name="put the student’s logits back").press("Enter")
    assert cells(page) == before


def test_the_scenario_changes_whom_the_cross_entropy_pushes(open_island):
    page = open_island(Temperature(alpha=0.0))
    bars = page.locator("svg[aria-label='Gradient by class'] rect[fill='var(--purple)']")
    heights = lambda: bars.evaluate_all("(all) => all.map((n) => +n.getAttribute('height'))")
    assert min(heights()) > 0 and "dog falls" in page.locator(".clt-two-lines").inner_text()
    page.get_by_role("button", name="the new units (Task-IL)").press("Enter")
    assert max(heights()[:5]) == 0 and min(heights()[5:]) > 0
    assert "dog stays" in page.locator(".clt-two-lines").inner_text()


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_can_be_found_and_hit(open_island, width):
    assert_controls(open_island(Temperature(), width=width), "Temperature")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(open_island, scheme):
    assert_readable(open_island(Temperature(), scheme=scheme))
