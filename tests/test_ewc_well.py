"""The EWC well: its mathematics against the package's own EWC, its behaviour in Chromium with the network off."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import assert_bundle, assert_controls, assert_readable, run_node
from scipy.interpolate import CubicHermiteSpline

from cl_tutor.fisher import fisher_diagonal
from cl_tutor.methods.regularization import L2, Well, quadratic
from cl_tutor.widgets import EWCWell
from cl_tutor.widgets.ewc_well import example


def spline(rng):
    """Any loss with its slope: nodes, [values, slopes], and SciPy's curve through them."""
    at = np.linspace(-2, 3, 21)
    values, slopes = np.cumsum(rng.normal(size=21)), rng.normal(size=21)
    return at, [values.tolist(), slopes.tolist()], CubicHermiteSpline(at, values, slopes)


def walk(slope, state, proximal, steps=8):
    """SGD of torch on the package's penalty, or the package's proximal step after SGD."""
    theta = {"w": torch.tensor([state["anchor"]], dtype=torch.float64, requires_grad=True)}
    opt = torch.optim.SGD(theta.values(), lr=state["rate"])
    method = L2(state["lam"], proximal=proximal)  # only Ω would differ in EWC
    method.wells_ = [
        Well({"w": theta["w"].detach().clone()}, {"w": torch.tensor([state["stiffest"]], dtype=torch.float64)})
    ]
    learner, path = SimpleNamespace(opt=opt, params=theta, seen=0), [state["anchor"]]
    for _ in range(steps):
        opt.zero_grad()
        if not proximal:
            method.loss(learner, None).backward()
        new = torch.tensor([slope(theta["w"].item())], dtype=torch.float64)
        theta["w"].grad = new if theta["w"].grad is None else theta["w"].grad + new
        opt.step()
        method.after_step(learner, None)
        path.append(theta["w"].item())
    return path


def batch_means(g, B):
    """Squared means of all batches of B drawn with replacement, averaged."""
    return np.mean(
        [np.mean([g[i] for i in chosen], 0) ** 2 for chosen in itertools.product(range(len(g)), repeat=B)], 0
    )


def conventions(rng):
    """Each way to write a well: what λ must be so that penalty over loss is as with ours. By counting."""
    n, B, lam = 5, 3, 0.7
    g, delta = rng.normal(size=(n, 4)), rng.normal(size=4)
    g -= g.mean(0)  # at an optimum the gradients of the samples add up to zero
    fishers = {"mean": (g**2).mean(0), "sum": (g**2).sum(0), "batch": batch_means(g, B)}
    ours = lam * 0.5 * (fishers["mean"] * delta**2).sum()
    for half, (fisher, F), loss in itertools.product(("yes", "no"), fishers.items(), ("mean", "sum")):
        theirs = (0.5 if half == "yes" else 1) * (F * delta**2).sum()
        want = ours * (n if loss == "sum" else 1)  # beside a loss that is n times as large
        yield {"kind": {"half": half, "fisher": fisher, "loss": loss, "n": n, "B": B}, "ratio": want / theirs / lam}


def test_the_mathematics_in_javascript_equals_python(tmp_path):
    rng = np.random.default_rng(0)
    curves, walks, wells = [], [], []
    for lam in (1e-6, 0.3, 2.0, 9.0, 1e6):
        at, known, f = spline(rng)
        x = rng.uniform(-2, 3, 20)
        curves.append({"at": at.tolist(), "known": known, "x": x.tolist(), "loss": f(x).tolist(),
                       "slope": f(x, 1).tolist()})  # fmt: skip
        state = {"anchor": 0.4, "stiffest": rng.uniform(0.5, 3), "lam": lam, "rate": rng.uniform(0.01, 0.3)}
        ends = [f(at[0], 1), f(at[-1], 1)]
        slope = lambda v, f=f, ends=ends: float(f(v, 1) if -2 <= v <= 3 else ends[v > 0])
        paths = {name: walk(slope, state, name == "proximal") for name in ("explicit", "proximal")}
        walks.append({"at": at.tolist(), "known": known, "state": state} | paths)
        theta, F, anchor = (torch.tensor([v], dtype=torch.float64) for v in (x[0], state["stiffest"], 0.4))
        well = quadratic({"w": theta}, {"w": anchor}, {"w": F}).item()
        method = L2(lam)
        method.wells_ = [Well({}, {"w": F})]
        opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=state["rate"])
        stiffness = method.stiffness(SimpleNamespace(opt=opt))
        wells.append({"state": state, "x": float(x[0]), "energy": well, "stiffness": stiffness})
    names = list(conventions(rng))
    run_node("ewc_well", {"curves": curves, "walks": walks, "wells": wells, "names": names}, 5, tmp_path)


def test_the_example_is_an_optimum_with_the_package_s_fisher():
    old, _, params, fisher = example()
    leaf = {"w": params["w"].clone().requires_grad_()}
    old(leaf).backward()
    assert leaf["w"].grad.abs().max() < 1e-6
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=rng).double() * torch.tensor([2.0, 0.5]).double()
    log_prob = lambda p, x: torch.stack([-(x @ p["w"]), x @ p["w"]]).div(2).log_softmax(0)
    same = fisher_diagonal(log_prob, params, [(x, torch.zeros(60).long())])
    assert torch.allclose(same["w"], fisher["w"], atol=1e-12)


def test_a_network_of_ones_own_is_cut_along_its_stiffest_weight():
    params = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3.0])}
    fisher = {"a": torch.tensor([[0.5, 4.0]]), "b": torch.tensor([1.0])}
    old = lambda p: (p["a"][0, 1] - 2) ** 2 * 2 + p["a"][0, 0] + p["b"][0]
    w = EWCWell(old, lambda p: p["a"].sum(), params, fisher, reach=2, rate=0.1)
    assert (w.anchor, w.stiffest, w.trace, w.ceiling) == pytest.approx((2, 4, 5.5, 5))
    assert (w.at[0], w.at[-1]) == pytest.approx((1, 3)) and w.old[0][0] == pytest.approx(6)
    assert np.allclose(w.old[1], 4 * (np.array(w.at) - 2), atol=1e-5) and np.allclose(w.new[1], 1)
    assert params["a"].tolist() == [[1.0, 2.0]]  # left alone


@pytest.mark.parametrize(
    "bad, words",
    [({"lam": 1e7}, "lam must lie.*10000000"), ({"lam": float("nan")}, "nan"), ({"rate": 0.0}, "rate.*0"),
     ({"samples": 0}, "samples.*0"), ({"old": lambda p: 0}, "together")],
)  # fmt: skip
def test_nonsense_is_refused_by_name(bad, words):
    with pytest.raises(ValueError, match=words):
        EWCWell(**bad)


def test_a_fisher_of_zeros_has_no_stiffest_weight():
    zero = {"w": torch.zeros(2)}
    with pytest.raises(ValueError, match="largest entry of fisher"):
        EWCWell(lambda p: p["w"].sum(), lambda p: p["w"].sum(), zero, zero)


def test_one_bundle_and_a_picture_that_says_where_divergence_lies():
    assert_bundle(EWCWell(), EWCWell())
    w = EWCWell(lam=50.0)
    assert "beyond 2/(η·max F) = 20.7" in w.picture().alt and "below" in EWCWell(lam=1.0).picture().alt


def test_dragging_is_warned_of_the_ceiling_before_it_is_reached(open_island):
    page = open_island(EWCWell(lam=0.01), width=1280)
    grip, says = page.get_by_role("slider", name="λ", exact=True), page.locator(".clt-verdict")
    box, line = grip.bounding_box(), page.locator("path[stroke='var(--vermillion)'][stroke-width='3']").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    heard = []
    for from_line in (-150, -40, -15, -6, -2, 5, 60):  # pixels
        at = line["x"] + from_line
        page.mouse.move(at, y)
        heard.append((at < line["x"], says.get_attribute("data-alarm"), says.inner_text()))
    page.mouse.up()
    assert {alarm for _, alarm, _ in heard} == {"", "close", "beyond"}
    first = next(k for k, (_, alarm, _) in enumerate(heard) if alarm == "close")
    assert heard[first][0] and all(alarm != "beyond" for before, alarm, _ in heard if before)
    assert "Close to divergence" in heard[first][2] and heard[-1][2].count("Divergence: λ is")


def test_the_keyboard_moves_lambda_and_the_picture(open_island):
    page = open_island(EWCWell(lam=1.0))
    grip = page.get_by_role("slider", name="λ", exact=True)
    curves = lambda: page.locator(".clt-plot path").evaluate_all("(all) => all.map((n) => n.getAttribute('d')).join()")
    grip.focus()
    before, seen = curves(), float(grip.get_attribute("aria-valuenow"))
    page.keyboard.press("ArrowRight")  # a tenth of a decade
    assert float(grip.get_attribute("aria-valuenow")) == pytest.approx(seen * 10**0.1, rel=1e-3)
    page.keyboard.press("Shift+ArrowRight")
    assert float(grip.get_attribute("aria-valuenow")) == pytest.approx(seen * 10**1.1, rel=1e-3)
    assert curves() != before and "λ = 12.6" in page.locator(".clt-verdict").inner_text()
    page.get_by_label("learning rate η").press("ArrowRight")
    assert "Close to divergence" in page.locator(".clt-verdict").inner_text()
    assert page.get_by_role("meter").get_attribute("aria-valuetext").startswith("λ·tr F = 2.89")


def test_the_translator_goes_both_ways(open_island):
    page = open_island(EWCWell(lam=2.0, samples=500))
    theirs, ours = page.get_by_label("their λ"), page.get_by_label("our λ")
    number = lambda field: float(field.input_value())
    assert number(theirs) == pytest.approx(2 / 500)
    page.get_by_role("group", name="the ½").get_by_role("button", name="without").press("Enter")
    assert number(theirs) == pytest.approx(1 / 500)
    page.get_by_role("button", name="batch mean, squared").press("Enter")
    assert number(theirs) == 32 and "at an optimum" in page.locator(".clt-translator").inner_text()
    page.get_by_label("batch size B").fill("10")
    assert number(theirs) == 10
    theirs.fill("40")
    assert number(ours) == 8 and "λ = 8.00" in page.locator(".clt-verdict").inner_text()
    ours.fill("0.5")
    assert number(theirs) == 2.5


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_can_be_found_and_hit(open_island, width):
    assert_controls(open_island(EWCWell(), width=width), "The EWC well")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("lam", [1.0, 15.0, 100.0])
def test_text_stands_out(open_island, scheme, lam):
    assert_readable(open_island(EWCWell(lam=lam), scheme=scheme))
