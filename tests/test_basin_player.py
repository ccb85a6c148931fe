"""The basin player: its data are the arrays that it was given; play, pause, scrub, speed, reduced motion."""

from __future__ import annotations

import numpy as np
import pytest
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor import plots
from cl_tutor.widgets import BasinPlayer

US, VS = np.linspace(-3, 4, 41), np.linspace(-3, 3, 31)
Z = {
    "old loss": np.add.outer(0.15 * (VS + 0.5) ** 2, 0.5 * (US + 1) ** 2),
    "new loss": np.add.outer(0.5 * (VS - 0.5) ** 2, 0.5 * (US - 2) ** 2),
}


def walk(n: int, pull: float) -> np.ndarray:
    s = np.linspace(0, 1, n)[:, None]
    return (1 - s) * [-2.5, 2.5] + s * [-1, -0.5] + pull * s**2 * [3, 1]


PATHS = {"naive": walk(401, 1.0), "EWC": walk(401, 0.5), "ER": walk(201, 0.3)}
ACC = {f"accuracy on task {k}": {n: np.exp(-np.abs(p[:, 0] - k)) for n, p in PATHS.items()} for k in (1, 2)}


def player(**more) -> BasinPlayer:
    return BasinPlayer(US, VS, Z, PATHS, {"θ₁*": (-1.0, -0.5)}, ACC, title="Two basins", **more)


def test_the_mathematics_in_javascript_equals_python(tmp_path):
    lines = player().data["surfaces"]["old loss"]
    case = {"x": US.tolist(), "y": VS.tolist(), "Z": Z["old loss"].tolist(), "lines": lines}
    run_node("basin_player", case | {"levels": plots._levels(Z["old loss"]).tolist()}, 5, tmp_path)


def test_bundle_picture_and_refusals():
    assert_bundle(player(), player())
    assert "EWC walks from (−2.50, 2.50) to (0.50, 0.00)" in repr(player())
    assert f"naive ends at {np.exp(-1.0):.3f}" in repr(player())
    assert len(player().island()) < 250_000 and len(player(frames=50).island()) < len(player().island())
    with pytest.raises(ValueError, match="at least one path"):
        BasinPlayer(US, VS, Z, {})
    with pytest.raises(ValueError, match=r"'acc' of 'EWC' has 3 values and needs 401"):
        BasinPlayer(US, VS, Z, PATHS, curves={"acc": {"EWC": [0, 1, 2]}})
    with pytest.raises(ValueError, match=r"'acc' of 'SI' .*needs a path of that name, of naive, EWC, ER"):
        BasinPlayer(US, VS, Z, PATHS, curves={"acc": {"SI": [0, 1, 2]}})
    with pytest.raises(ValueError, match="shape"):
        BasinPlayer(US, VS, Z["old loss"].T, PATHS)


# ------------------------------------------------------------------------------------------------------ in the browser


def step(page) -> int:
    return int(page.get_by_role("slider", name="step").get_attribute("aria-valuetext").split(" of ")[0])


def assert_shows(page, k: int) -> None:
    """At step k: the table holds the accuracies, and the marks stand on the paths."""
    assert step(page) == k
    rows = [[float(n) for n in row.locator("td").all_inner_texts()] for row in page.locator("tbody tr").all()]
    index = {name: min(k, len(p) - 1) for name, p in PATHS.items()}
    assert np.allclose(rows, [[of[name][index[name]] for of in ACC.values()] for name in PATHS], atol=0.0051)
    land = page.get_by_role("group", name="Two basins")
    frame = land.locator(".clt-ground").bounding_box()
    for name, path in PATHS.items():
        box = land.locator(f"[data-head='{name}']").bounding_box()
        u = US[0] + (box["x"] + box["width"] / 2 - frame["x"]) / frame["width"] * np.ptp(US)
        v = VS[-1] - (box["y"] + box["height"] / 2 - frame["y"]) / frame["height"] * np.ptp(VS)
        assert np.allclose([u, v], path[index[name]], atol=0.1), name


def test_scrubbing_moves_the_marks_and_the_accuracies_together(open_island):
    page = open_island(player())
    assert_shows(page, 400)  # all of it, until someone plays
    scrub = page.get_by_role("slider", name="step")
    steps = player().data["steps"]
    for k in (0, 40, 120):
        scrub.fill(str(k))
        assert_shows(page, steps[k])
    scrub.press("ArrowRight")
    assert_shows(page, steps[121])


def test_a_hand_on_the_slider_leaves_what_stands_still_alone(open_island):
    page = open_island(player())
    assert page.locator(".clt-still path").count() > 3  # rings and whole paths: to paint them takes longest
    page.evaluate(
        """() => { window.touched = 0; document.querySelectorAll('.clt-still').forEach((n) =>
        new MutationObserver((all) => { window.touched += all.length; })
          .observe(n, { subtree: true, childList: true, attributes: true })); }"""
    )
    heads = page.locator("[data-head]").first.get_attribute("d")
    page.get_by_role("slider", name="step").press("Home")
    assert page.locator("[data-head]").first.get_attribute("d") != heads
    assert page.evaluate("window.touched") == 0


def test_play_starts_over_pause_holds_and_speed_counts(open_island):
    page = open_island(player())
    page.get_by_role("button", name="play").press("Enter")
    page.wait_for_timeout(300)
    page.get_by_role("button", name="×4").press("Enter")
    page.wait_for_function("document.querySelector('input').value > 60")
    page.get_by_role("button", name="pause").press("Enter")
    held = step(page)
    assert 100 < held < 400
    assert_shows(page, held)
    page.wait_for_timeout(200)
    assert step(page) == held
    page.get_by_role("button", name="play").press("Enter")
    page.wait_for_function("document.querySelector('input').value == 199", timeout=10_000)
    page.get_by_role("button", name="play").wait_for()  # it has stopped by itself
    assert_shows(page, 400)


def test_with_reduced_motion_it_jumps_from_station_to_station(open_island):
    page = open_island(player(), motion="reduce")
    page.evaluate("""() => { window.seen = new Set();
      const input = document.querySelector('input');
      setInterval(() => window.seen.add(+input.value), 5); }""")
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('input').value >= 50", timeout=10_000)
    page.get_by_role("button", name="pause").click()
    assert set(page.evaluate("[...window.seen]")) <= {199, 0, 25, 50, 75}


def test_one_surface_without_curves_plays_too(open_island):
    page = open_island(BasinPlayer(US, VS, Z["old loss"], {"SGD": PATHS["ER"]}))
    page.get_by_role("slider", name="step").fill("10")
    assert page.locator("table").is_hidden() and page.locator("[data-head='SGD']").count() == 1


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_has_a_name_and_room(open_island, width):
    assert_controls(open_island(player(), width=width), "Basin player")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out(open_island, scheme):
    assert_readable(open_island(player(), scheme=scheme))
