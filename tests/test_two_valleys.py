"""Two valleys: the same steps by autograd and the package's methods; the claim about the diagonal; the browser."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch
import traitlets
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor.methods.curvature import Axes, SubspaceEWC
from cl_tutor.methods.projection import project_mean
from cl_tutor.methods.regularization import EWC, L2, Well
from cl_tutor.widgets import TwoValleys
from cl_tutor.widgets.two_valleys import METHODS

WORDS = ("−g₁", "−g₂", "θ₁*", "θ₂*", "start")  # of the arrows; of the places
NAMES = ("theta1", "theta2", "start", "angle", "kappa", "lam")


def drawn(seed: int) -> TwoValleys:
    rng = np.random.default_rng(seed)
    places = {name: rng.uniform(-2, 2, 2).round(2).tolist() for name in NAMES[:3]}
    return TwoValleys(**places, angle=rng.uniform(0, 180), kappa=10 ** rng.uniform(0, 2), lam=10 ** rng.uniform(-1, 1))


def by_autograd(w: TwoValleys) -> dict[str, np.ndarray]:
    """All paths again, by the package's own penalties and projection; Ω from the eigenpairs of a turned H₁."""
    point = lambda p: torch.tensor(p, dtype=torch.float64)
    a = point(np.deg2rad(w.angle))
    turn = torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])
    H = turn @ torch.diag(point([w.kappa**-0.5, w.kappa**0.5])) @ turn.T
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(H))
    loss1 = lambda p: 0.5 * (p["θ"] - point(w.theta1)) @ H @ (p["θ"] - point(w.theta1))
    loss2 = lambda p: 0.5 * (p["θ"] - point(w.theta2)).square().sum()

    def slope(loss, theta):
        leaf = theta.clone().requires_grad_()
        return torch.autograd.grad(loss({"θ": leaf}), leaf)[0]

    def steps(theta, rule):
        path = [theta]
        for _ in range(1000):
            path.append(path[-1] - 0.01 * rule(path[-1]))
        return path

    first = steps(point(w.start), lambda theta: slope(loss1, theta))
    anchor = {"θ": first[-1]}
    guards = {
        "L2": (L2(w.lam), Well(anchor, {"θ": torch.ones(2, dtype=torch.float64)})),
        "EWC": (EWC(w.lam), Well(anchor, {"θ": H.diagonal()})),
        "rank 1": (SubspaceEWC(w.lam, k=1, remainder=False), Axes(anchor, values[:1], vectors[:, :1], {})),
        "full Fisher": (SubspaceEWC(w.lam, k=2), Axes(anchor, values, vectors, {})),
    }
    rules = {"naive": lambda theta: slope(loss2, theta)}
    for name, (guard, well) in guards.items():
        guard.wells_ = [well]
        rules[name] = lambda theta, guard=guard: slope(lambda p: loss2(p) + guard.penalty(p), theta)
    rules["A-GEM"] = lambda theta: project_mean(slope(loss2, theta), slope(loss1, theta))
    rules["ER"] = lambda theta: slope(lambda p: loss1(p) + loss2(p), theta)
    return {name: torch.stack(first[:-1] + steps(first[-1], rule)).numpy() for name, rule in rules.items()}


def test_the_steps_are_those_of_the_packages_methods():
    w = drawn(1)
    paths = by_autograd(w)
    assert list(paths) == list(METHODS)
    for method, path in paths.items():
        assert np.abs(w.walk(method) - path).max() < 1e-9, method
    assert len({path[-1].round(3).tobytes() for path in paths.values()}) == 7  # no two methods end together


def test_the_mathematics_in_javascript_equals_python(tmp_path):
    at, cases = [0, 1, 999, 1000, 1001, 1050, 1500, 2000], []
    for w in [TwoValleys(), *map(drawn, range(1, 8))]:
        state = {name: getattr(w, name) for name in NAMES}
        for method in METHODS:
            path = w.walk(method)
            case = {"at": at, "points": path[at].tolist(), "losses": w.losses(path[-1])}
            cases.append({"state": state, "method": method} | case)
    run_node("two_valleys", cases, 6, tmp_path)


def test_at_45_degrees_the_diagonal_fails_and_rank_1_wins():
    rng = np.random.default_rng(0)
    ends = TwoValleys().ends()
    assert ends["rank 1"][0] < 0.9 * ends["EWC"][0] and ends["rank 1"][1] < 0.75 * ends["EWC"][1]  # better at both
    best = sum(ends["ER"])  # all of task 1 replayed: the minimum of L₁ + L₂
    assert sum(ends["rank 1"]) < 1.05 * best and sum(ends["full Fisher"]) < 1.01 * best
    assert sum(ends["EWC"]) > 1.35 * best
    for _ in range(8):  # wherever the second task lies
        theta2 = rng.uniform(-2, 2, 2).tolist()
        ends = TwoValleys(theta2=theta2, start=[-1.1, 0.0]).ends()
        assert sum(ends["rank 1"]) < sum(ends["EWC"])
    along = TwoValleys(angle=0).ends()
    assert np.allclose(along["EWC"], along["full Fisher"], atol=1e-9)  # nothing is lost where the axes are the weights'
    assert sum(along["EWC"]) < sum(along["rank 1"])


def test_at_45_degrees_the_diagonal_is_l2_with_another_strength():
    ewc = TwoValleys(lam=1.0)
    m = ewc.hessian()[0, 0]
    assert np.allclose(ewc.walk("EWC"), TwoValleys(lam=m).walk("L2"), atol=1e-12)


def test_bundle_picture_and_refusals():
    assert_bundle(TwoValleys(), TwoValleys())
    assert "rank 1 ends at L₁ = 0.41, L₂ = 0.84" in repr(TwoValleys())
    for wrong in ({"kappa": 0.5}, {"theta1": [1.0]}, {"methods": ["SI"]}, {"step": 3000}):
        with pytest.raises(traitlets.TraitError):
            TwoValleys(**wrong)


# ------------------------------------------------------------------------------------------------------ in the browser


def shown(page) -> dict[str, list[float]]:
    rows = page.locator(".clt-numbers tbody tr").all()
    number = lambda words: float(words.replace("−", "-"))
    return {row.locator("th").inner_text(): [number(n) for n in row.locator("td").all_inner_texts()] for row in rows}


def assert_shows(page, w: TwoValleys, tolerance: float = 0.0051) -> None:
    names, ends = {"EWC": "EWC (diagonal)", "ER": "replay (ER)"}, w.ends()
    table = shown(page)
    assert len(table) == len(w.methods) + 1
    for method in w.methods:
        expected = [*ends[method], sum(ends[method])]
        assert table[names.get(method, method)] == pytest.approx(expected, abs=tolerance), method


def test_keys_move_every_handle_and_the_numbers_follow_as_in_python(open_island):
    page = open_island(TwoValleys())
    assert_shows(page, TwoValleys())
    page.get_by_role("slider", name="optimum of task 2").press("ArrowRight")
    page.get_by_role("slider", name="optimum of task 1").press("Shift+ArrowUp")
    page.get_by_role("slider", name="start of training").press("ArrowDown")
    moved = dict(theta1=[-1.1, 0.6], theta2=[1.16, 0.0], start=[-1.6, 1.14])
    assert_shows(page, TwoValleys(**moved))
    tip = page.get_by_role("slider", name="end of the valley")
    tip.press("ArrowRight")
    tip.press("ArrowUp")
    assert tip.get_attribute("aria-valuetext") == "angle 44°, κ 27.5"
    assert_shows(page, TwoValleys(**moved, angle=44, kappa=27.5))
    page.get_by_role("slider", name="angle", exact=True).fill("0")
    page.get_by_role("slider", name="strength λ").fill("-1")
    assert_shows(page, TwoValleys(**moved, angle=0, kappa=27.5, lam=0.1))
    page.get_by_role("button", name="reset").press("Enter")
    assert_shows(page, TwoValleys())


def test_a_dragged_optimum_changes_the_paths(open_island):
    page = open_island(TwoValleys(), width=1280)
    handle = page.get_by_role("slider", name="optimum of task 2")
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y - 30, steps=3)
    page.mouse.up()
    theta2 = [float(n) for n in handle.get_attribute("aria-valuetext").replace("−", "-").strip("()").split(",")]
    assert theta2[0] < 0.9 and theta2[1] > 0.3
    assert_shows(page, TwoValleys(theta2=theta2), tolerance=0.05)  # the words round to 0.01


def test_methods_are_switched_on_and_off_and_the_step_moves_all_marks(open_island):
    page = open_island(TwoValleys(methods=["naive"]))
    ring = page.get_by_role("group", name="Methods")
    nearest = page.locator("p", has_text="comes nearest to the best for both")
    assert not nearest.count()  # of one method
    for name in ("A-GEM", "L2", "replay (ER)"):
        ring.get_by_role("button", name=name).press("Space")
    assert_shows(page, TwoValleys(methods=["naive", "L2", "A-GEM", "ER"]))
    assert "At this step replay (ER) comes nearest" in nearest.inner_text()
    ring.get_by_role("button", name="naive").press("Space")
    assert "naive" not in shown(page) and ring.get_by_role("button", name="A-GEM", pressed=True).count() == 1
    page.get_by_role("slider", name="step", exact=True).fill("1000")
    losses = TwoValleys().losses(TwoValleys().walk("naive")[1000])
    assert shown(page)["L2"] == shown(page)["A-GEM"] == pytest.approx([*losses, sum(losses)], abs=0.0051)
    for name in ("A-GEM", "L2", "replay (ER)"):
        ring.get_by_role("button", name=name).press("Space")
    assert list(shown(page)) == ["best for both ▲"]  # nothing on: still a picture, and no error


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_has_a_name_and_room(open_island, width):
    assert_controls(open_island(TwoValleys(methods=list(METHODS)), width=width), "Two valleys")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out(open_island, scheme):
    assert_readable(open_island(TwoValleys(methods=list(METHODS)), scheme=scheme))


def test_the_arrows_words_keep_clear_of_the_optima_on_a_narrow_screen(open_island):
    page = open_island(TwoValleys(methods=["naive"]), width=400)
    for step in (500, 520, 560, 640, 1000):
        page.get_by_role("slider", name="step", exact=True).fill(str(step))
        box = {w: page.locator("svg text", has_text=re.compile(f"^{re.escape(w)}$")) for w in WORDS}
        box = {w: found.bounding_box() for w, found in box.items() if found.count()}
        for arrow, name in product((w for w in box if w in WORDS[:2]), WORDS[2:]):
            a, b = box[arrow], box[name]
            beside = a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
            above = a["y"] + a["height"] <= b["y"] + 3 or b["y"] + b["height"] <= a["y"] + 3  # boxes have leading
            assert beside or above, f"step {step}: {arrow} on {name}"
