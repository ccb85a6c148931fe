"""The R editor: its mathematics in node, its behaviour in Chromium with the network off, its output bundle."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cl_tutor import plots
from cl_tutor.results import Results
from cl_tutor.widgets import REditor

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGS = ["--no-sandbox", "--disable-gpu"] + [
    f"--disable-{x}" for x in ("background-networking", "component-update", "sync")
]


def results(seed: int, T: int = 4) -> Results:
    rng = np.random.default_rng(seed)
    return Results(rng.random((T, T)).round(2), rng.random(T).round(2))


def editor() -> REditor:
    return REditor({"forgets": results(0), "remembers": results(1), "three </script> tasks": results(2, 3)})


def run_node(name: str, cases: list, passed: int, tmp_path: Path) -> None:
    """tests/widgets/NAME.test.mjs on cases computed here; `passed` tests must run, or it fails."""
    if shutil.which("node") is None:
        pytest.skip("no node")
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    env = os.environ | {"CLT_CASES": str(tmp_path / "cases.json")}
    command = ["node", "--test", str(HERE / "widgets" / f"{name}.test.mjs")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and re.search(rf"# pass {passed}\b", done.stdout), done.stdout


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
    data, metadata = widget._repr_mimebundle_()
    alt = widget.picture().alt
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "image/png", "text/plain"} <= set(data)
    assert (
        data["text/plain"] == f"REditor: {alt}"
        and metadata["image/png"]["alt"] == alt
        and f"{results(0).acc:.3f}" in alt
    )
    assert data["text/html"] == editor().island()  # no id, no address: the same widget prints the same bytes
    assert html.unescape(re.search(r'<img alt="([^"]*)"', data["text/html"])[1]) == alt  # where no script may run
    assert "</script>" not in data["text/html"].split("<script>")[1].removesuffix("</script>")
    code = data["text/html"].replace("http://www.w3.org/2000/svg", "")  # a name, which nobody fetches
    assert not re.search(r"https?://|\bimport\s*[{*\"']|\brequire\(", code)


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


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """The island in a page of its own, 400 pixels wide, with no network; an error in the page fails the test."""
    (tmp_path / "island.html").write_text(f"<!doctype html><meta charset=utf-8>{editor().island()}", encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 400, "height": 900})
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and errors.append(request.url))
    page.goto((tmp_path / "island.html").as_uri())
    page.wait_for_selector(".clt")
    yield page
    context.close()
    assert not errors


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
    controls = page.evaluate(
        "[...document.querySelectorAll('button, input')].map((n) => [n.tagName, n.ariaLabel || n.innerText])"
    )
    names = [name for _, name in controls]
    assert len(names) == len(set(names)) == 20 + 3 + 4 + 1 and all(name.strip() for name in names)
    for box in page.locator("button, input").all():
        assert box.bounding_box()["height"] >= 44
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    tree = page.locator("body").aria_snapshot()
    for role in (
        'group "Accuracy matrix editor"',
        'group "Presets"',
        'group "Metrics"',
        "spinbutton",
        "rowheader",
        "columnheader",
    ):
        assert role in tree


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(50)
    style = "(n) => { const s = getComputedStyle(n); return [s.color, s.backgroundColor]; }"
    for selector in (
        ".clt",
        'input[aria-label^="b: accuracy on task 1"]',
        'input[aria-label="R: accuracy on task 1 after training on task 1"]',
    ):
        colours = page.locator(selector).first.evaluate(style)
        one, other = (_luminance(colour) for colour in colours)
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) >= 4.5, (selector, colours)  # WCAG AA


def _luminance(css: str) -> float:
    numbers = [float(n) for n in re.findall(r"[\d.]+", css.split("srgb")[-1])[:3]]
    channels = np.array(numbers) if "srgb" in css else np.array(numbers) / 255
    return float(
        np.dot(
            [0.2126, 0.7152, 0.0722],
            np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4),
        )
    )
