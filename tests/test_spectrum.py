"""The spectrum: its mathematics against cl_tutor.fisher, its behaviour in Chromium with the network off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor.fisher import layer_mass, power_iteration, predictions
from cl_tutor.nets import MLP
from cl_tutor.scores import Scores
from cl_tutor.vectors import flat, unflat
from cl_tutor.widgets import Spectrum

LAYERS = {"fc1.weight": torch.zeros(4, 2), "fc1.bias": torch.zeros(2), "head.weight": torch.zeros(5)}  # P = 15


def case(seed, K=6, k=4):
    """A Fisher of 15 weights with known directions: what the package reads off it."""
    rng = torch.Generator().manual_seed(seed)
    V = torch.linalg.qr(torch.randn(15, 15, generator=rng, dtype=torch.float64))[0]
    lam = torch.rand(15, generator=rng, dtype=torch.float64).sort(descending=True)[0] * 10
    F, delta = lambda X: V @ (lam[:, None] * (V.T @ X)), torch.randn(15, generator=rng, dtype=torch.float64)
    params = {n: p.double() for n, p in LAYERS.items()}
    top, axes = lam[:K], V[:, :K]
    told = predictions(unflat(delta, params), F, params, (lam[:k], V[:, :k]), {})[f"top {k}"]
    masses = [layer_mass(v[:, None], params) for v in axes.T]
    alike = {n: m / k for n, m in layer_mass(V[:, :k], params).items()}
    by_size = layer_mass(V[:, :k] * lam[:k].sqrt(), params)
    start = torch.rand(K, generator=rng, dtype=torch.float64) + 0.1
    small = lambda X: top[:, None] * X
    _, vector, history = power_iteration(small, start, tol=0.0, steps=13)
    vector = small(vector[:, None])[:, 0]  # the package returns v as it was before its last product
    before = power_iteration(small, start, tol=0.0, steps=12)[1]
    return {
        "values": top.tolist(), "trace": lam.sum().item(), "k": k, "share": (top[:k].sum() / lam.sum()).item(),
        "moved": (axes.T @ delta).square().tolist(), "foretold": told,
        "mass": {n: [m[n] for m in masses] for n in alike}, "alike": alike,
        "weighed": {n: m / lam[:k].sum().item() for n, m in by_size.items()},
        "start": start.tolist(), "history": history, "vector": before.tolist(),
    }  # fmt: skip


def test_the_mathematics_in_javascript_equals_python(tmp_path):
    run_node("spectrum", [case(seed) for seed in range(6)], 7, tmp_path)


@pytest.fixture(scope="module")
def network():
    """A small network, its scores and a movement of its weights."""
    net, rng = MLP((64, 12, 10), 0), torch.Generator().manual_seed(0)
    x = torch.rand(40, 1, 8, 8, generator=rng)
    batch = (x, torch.zeros(40).long(), torch.zeros(40).long())
    scores = Scores.of(net, lambda x, t: net(x).log_softmax(1), [batch])
    return scores, torch.randn(flat(scores.params).numel(), generator=rng) / 50


def test_a_network_s_scores_become_numbers_that_agree_with_the_package(network):
    scores, delta = network
    w = Spectrum.of(scores, 8, delta, rise=0.1)
    w.k = 6
    assert np.allclose(w.values, scores.top(8)[0], rtol=1e-4) and w.trace == pytest.approx(scores.trace())
    pairs = tuple(t[..., :6] for t in scores.top(8))
    told = predictions(unflat(delta, scores.params), scores.product, scores.diagonal(), pairs, {})
    assert w.foretold == pytest.approx(told["top 6"], rel=1e-4)
    assert w.rises["all of F"] == pytest.approx(told["full"], rel=1e-4) and w.rises["true rise"] == 0.1
    assert w.rises["its diagonal"] == pytest.approx(told["diagonal"], rel=1e-4)
    whole = layer_mass(pairs[1], scores.params)
    assert {n: sum(m[:6]) for n, m in w.mass.items()} == pytest.approx(whole, rel=1e-4)
    assert Spectrum.of(scores, 4).moved == []


def spectrum(**more):
    rng = np.random.default_rng(0)
    values = 12 / np.arange(1, 31) ** 1.5
    fc1 = rng.uniform(0.2, 0.6, 30)
    rises = {"all of F": 0.02, "its diagonal": 0.001, "true rise": 0.03}
    given = {"moved": (0.001 * rng.uniform(0, 1, 30)).tolist(), "rises": rises} | more
    return Spectrum(values.tolist(), 32.0, {"fc1": fc1.tolist(), "fc2": (1 - fc1).tolist()}, **given)


@pytest.mark.parametrize(
    "change, words",
    [({"values": [1.0, 2.0]}, "falling"), ({"values": [1.0]}, "two eigenvalues"), ({"trace": 1.0}, "trace.*1"),
     ({"mass": {"a": [0.5, 0.5]}}, "add up to 1"), ({"mass": {"a": [1.0]}}, "'a' needs"), ({"k": 3}, "k must.*3"),
     ({"moved": [1.0]}, "'moved' needs"), ({"rises": {"x": 1.0}}, "give moved")],
)  # fmt: skip
def test_nonsense_is_refused_by_name(change, words):
    good = {"values": [2.0, 1.0], "trace": 4.0, "mass": {"a": [1.0, 1.0]}, "k": 1}
    with pytest.raises(ValueError, match=words):
        Spectrum(**(good | change))


def test_one_bundle_and_a_picture_in_words():
    assert_bundle(spectrum(), spectrum())
    alt = spectrum(k=3).picture().alt
    assert f"hold {spectrum(k=3).share:.2f} of the trace" in alt and "true rise 0.03" in alt
    assert "foretell" not in spectrum(moved=(), rises=None).picture().alt


def cells(page):
    return page.locator(".clt-numbers td").all_inner_texts()


def test_the_slider_agrees_with_python(open_island):
    page, w = open_island(spectrum(), width=1280), spectrum()
    k = page.get_by_label("top k", exact=True)
    for key, now in (("ArrowRight", 6), ("End", 30), ("Home", 1)):
        k.press(key)
        w.k = now
        assert k.get_attribute("aria-valuetext") == f"{now} of 30"
        assert float(cells(page)[0]) == pytest.approx(w.share, abs=6e-4)
        mantissa, *e = cells(page)[1].split("·10")
        power = int("".join("-0123456789"["⁻⁰¹²³⁴⁵⁶⁷⁸⁹".index(c)] for c in e[0])) if e else 0
        assert float(mantissa) * 10.0**power == pytest.approx(w.foretold, rel=6e-3)


def test_mass_by_layer_can_be_weighted(open_island):
    page = open_island(spectrum())
    heights = lambda: page.locator("svg[aria-label='Layer mass'] rect[fill-opacity]").evaluate_all(
        "(all) => all.map((n) => +n.getAttribute('height'))"
    )
    before = heights()
    page.get_by_role("button", name="weighted by λ").press("Enter")
    assert heights() != before and sum(heights()) == pytest.approx(sum(before))


def test_power_iteration_goes_step_by_step_and_names_the_lie(open_island):
    page = open_island(spectrum())
    words = page.locator(".clt-translator .clt-two-lines")
    page.get_by_role("button", name="one product").press("Enter")
    assert words.inner_text().startswith("After 1 product λ")
    gap = page.get_by_label("gap λ₂/λ₁")
    gap.press("End")
    page.get_by_role("button", name="ten products").press("Enter")
    page.get_by_role("button", name="ten products").press("Enter")
    assert "After 21 products" in words.inner_text() and "would stop here" in words.inner_text()
    gap.press("Home")
    assert "λ is right" in words.inner_text()
    page.get_by_role("button", name="start again").press("Enter")
    assert "After 0 products" in words.inner_text()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("more", [{}, {"moved": (), "rises": None}])
def test_every_control_can_be_found_and_hit(open_island, width, more):
    assert_controls(open_island(spectrum(**more), width=width), "The Fisher spectrum")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(open_island, scheme):
    assert_readable(open_island(spectrum(), scheme=scheme))
