"""Capacity: its closed forms are the bills of the package's methods; keys, words, room, light and dark."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import traitlets
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor.methods.architectures import Adapters, PackNet, Progressive, SupSup
from cl_tutor.nets import MLP
from cl_tutor.widgets import Capacity
from cl_tutor.widgets.capacity import bills


def packed(sizes: tuple[int, ...], tasks: int, keep: float) -> PackNet:
    """PackNet after `tasks` tasks in which every weight got a gradient."""
    method, net = PackNet(keep=keep), MLP(sizes)
    learner = SimpleNamespace(params=dict(net.named_parameters()), seen=0)
    method.owner_ = {n: torch.zeros_like(p, dtype=torch.int16) for n, p in learner.params.items()}
    method.trained_ = {n: torch.ones_like(p, dtype=torch.bool) for n, p in learner.params.items()}
    for k in range(1, tasks + 1):
        learner.seen = k
        method.prune(learner)
    return method


@pytest.mark.parametrize("sizes, keep", [((6, 5, 4, 3), 0.5), ((7, 9, 3), 0.3), ((5, 5, 5, 5, 5), 0.7)])
def test_the_closed_forms_are_what_the_methods_count(sizes, keep):
    tasks, width = 4, 3
    mine = bills(sizes, tasks, keep, width)
    grown = Progressive(sizes), Adapters(sizes, width)
    for net in grown:
        for _ in range(tasks - 1):
            net.extend()
    masks = SupSup(sizes)
    for _ in range(tasks):
        masks.after_task(None, None)
    pack = packed(sizes, tasks, keep)
    found = dict(zip(mine, [pack.bill(), *(net.bill() for net in grown), masks.bill()]))
    assert found == mine
    weights = sum(a * b for a, b in pairwise(sizes))
    owned = sum(bill.parameters for bill in mine["PackNet"]) - sum(sizes[1:])
    assert pack.free == pytest.approx(1 - owned / weights)


def test_the_mathematics_in_javascript_equals_python(tmp_path):
    rng, cases = np.random.default_rng(0), []
    for _ in range(60):
        sizes = rng.integers(1, 60, rng.integers(3, 7)).tolist()
        state = dict(sizes=sizes, tasks=int(rng.integers(1, 21)), width=int(rng.integers(1, 65)))
        state["keep"] = float(rng.choice([0.5, 0.25, round(rng.uniform(0.05, 1), 2)]))  # halves, to be rounded to even
        cases.append({"state": state, "bills": bills(**state)})
    run_node("capacity", cases, 6, tmp_path)


def test_bundle_picture_and_refusals():
    assert_bundle(Capacity(), Capacity())
    assert "Progressive from 1.000 at 1 to 25.490 at 8" in repr(Capacity())
    assert "PackNet from 0.506 at 1 to 0.99" in repr(Capacity(count="parameters"))
    for wrong in ({"sizes": [64, 10]}, {"tasks": 0}, {"keep": 0.0}, {"width": 100}, {"count": "bytes"}):
        with pytest.raises(traitlets.TraitError):
            Capacity(**wrong)


# ------------------------------------------------------------------------------------------------------ in the browser


def assert_shows(page, w: Capacity) -> None:
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()
    }
    one = sum(a * b + b for a, b in pairwise(w.sizes))
    totals = {name: [sum(part) for part in zip(*of)] for name, of in w.bills().items()}
    totals |= {"one network": [one, 32 * one], "a network a task": [w.tasks * one, 32 * w.tasks * one]}
    assert set(rows) == set(totals)
    for name, (n, bits) in totals.items():
        shown = [float(words.replace(",", "")) for words in rows[name]]
        assert shown[0] == n and shown[1:] == pytest.approx([bits / 1000, bits / (32 * one)], abs=0.51), name


def test_sliders_change_the_bill_as_in_python(open_island):
    page = open_island(Capacity())
    assert_shows(page, Capacity())
    at = lambda name: page.get_by_role("slider", name=name, exact=True)
    at("tasks").press("ArrowRight")
    at("kept share").fill("0.3")
    at("adapters").fill("16")
    assert_shows(page, Capacity(tasks=9, keep=0.3, width=16))
    at("layers").fill("200")
    at("depth").fill("3")
    assert_shows(page, Capacity(tasks=9, keep=0.3, width=16, sizes=[64, 200, 200, 200, 10]))
    at("kept share").fill("1")
    assert "owns none" in page.locator(".clt-note").inner_text()


@pytest.mark.parametrize("count", ["bits", "parameters"])
def test_a_line_ends_where_its_bill_says(open_island, count):
    page = open_island(Capacity(count=count, scale="log"))
    frame = page.get_by_role("group", name="The bill as tasks arrive").locator(".clt-ground").bounding_box()
    marks = [m.bounding_box() for m in page.locator("svg[aria-label='The bill as tasks arrive'] .clt-mark").all()]
    totals = [sum(getattr(bill, count) for bill in of) for of in Capacity().bills().values()]
    unit = 17610 * (32 if count == "bits" else 1)
    for total, box in zip(totals, marks):
        if total:  # SupSup has no parameters, and a logarithm no place for it
            up = 1 - (box["y"] + box["height"] / 2 - frame["y"]) / frame["height"]
            assert 0.01 * 10 ** (4 * up) == pytest.approx(total / unit, rel=0.1)
    page.get_by_role("button", name="linear").press("Enter")
    assert "30" in page.locator(".clt-axes").first.text_content()


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_has_a_name_and_room(open_island, width):
    page = open_island(Capacity(), width=width)
    assert_controls(page, "Capacity")
    assert page.evaluate("[...document.querySelectorAll('.clt-scroll')].every((n) => n.scrollWidth <= n.clientWidth)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out(open_island, scheme):
    assert_readable(open_island(Capacity(), scheme=scheme))
