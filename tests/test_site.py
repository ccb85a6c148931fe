"""The site, built once and opened from disk in Chromium with every outside request forbidden."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import refresh
from typer.testing import CliRunner

from cl_tutor import cli, site
from cl_tutor.exercises import LESSONS, reader

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGS = ["--no-sandbox", "--disable-gpu"] + [
    f"--disable-{x}" for x in ("background-networking", "component-update", "sync")
]
LESSON_PAGES = [f"lessons/{k:02d}_{name}.html" for k, name in LESSONS.items()]
PAGES = [
    "index.html",
    "lecturers.html",
    "results.html",
    "glossary.html",
    "notation.html",
    "references.html",
    "reference.html",
]


@pytest.fixture(scope="module")
def npm(tmp_path_factory):
    """MathJax for the site and axe-core to judge it, fetched once."""
    if shutil.which("npm") is None:
        pytest.skip("no npm: MathJax cannot be fetched")
    place = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(place)]
    done = subprocess.run([*command, site.MATHJAX, "axe-core@4.10.3"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot fetch: {done.stderr.strip()[-200:]}")
    return place / "node_modules"


@pytest.fixture(scope="module")
def built(npm, tmp_path_factory):
    if importlib.util.find_spec("sphinx_book_theme") is None:
        pytest.skip("the extra site is not installed")
    target = tmp_path_factory.mktemp("site") / "site"
    site.build(ROOT, target, npm / "mathjax" / "es5" / "tex-mml-svg.js")
    return target


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield b
        b.close()


@pytest.fixture
def page(browser):
    """A page that notes whatever it asks for outside, and every error."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.outside, page.errors = [], []
    note = lambda request: page.outside.append(request.url)
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else note(r))
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    yield page
    page.close()


@pytest.mark.parametrize("name", [*PAGES, *LESSON_PAGES])
def test_a_page_opens_from_disk_and_is_sound(built, npm, page, name):
    """Nothing from outside, no error, no bare TeX, no picture without words, no serious fault that axe-core finds."""
    path = built / name
    assert path.stat().st_size < 3e6
    page.goto(path.as_uri())
    page.wait_for_timeout(300)
    formulas = re.findall(r'class="math', path.read_text(encoding="utf-8"))
    if formulas:
        page.wait_for_function("n => document.querySelectorAll('mjx-container').length >= n", arg=len(formulas))
    text = page.inner_text("article")
    assert not re.search(r"\\(theta|tag|frac|sum)|\$\$", text)
    assert "LESSONS_" not in text
    missing = "() => [...document.querySelectorAll('article img')].filter(i => !i.alt || !i.naturalWidth).length"
    assert page.evaluate(missing) == 0
    page.evaluate((npm / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    faults = page.evaluate("async () => (await axe.run()).violations.map(v => [v.impact, v.id, v.nodes[0].html])")
    assert [v for v in faults if v[0] in ("serious", "critical")] == []
    assert page.outside == [] and page.errors == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_its_solutions_folded_and_leads_on(built, page, lesson):
    page.goto((built / f"lessons/{lesson:02d}_{LESSONS[lesson]}.html").as_uri())
    folds = page.locator("details")
    solutions = [d for d in folds.all() if d.locator("summary").inner_text() == "Solution"]
    exercises = {q for c in refresh.code_cells(notebook(lesson)) for q, _ in refresh.checks(c.source)}
    assert len(solutions) == len(exercises) > 0
    code = solutions[0].locator("pre")
    assert not code.is_visible()
    solutions[0].locator("summary").click()
    assert code.is_visible() and re.match(r"(def|class) ", code.inner_text())
    assert "cl-tutor lab" in page.inner_text("article")
    order = list(LESSONS)
    if lesson != order[-1]:
        after = order[order.index(lesson) + 1]
        assert f"{after:02d}_{LESSONS[after]}" in page.locator("a.right-next").get_attribute("href")


def notebook(lesson):
    return refresh.read(refresh.NOTEBOOKS / f"{lesson:02d}_{LESSONS[lesson]}.ipynb")


def test_an_animation_is_scrubbed_without_a_kernel(built, page):
    page.goto((built / "lessons/02_loss_basins.html").as_uri())
    player = page.get_by_role("group", name="Basin player", exact=True)
    player.scroll_into_view_if_needed()
    scrub = player.locator("input[type=range]").first
    before = player.screenshot()
    scrub.press("End")
    page.wait_for_timeout(300)
    assert player.screenshot() != before
    assert page.outside == []


def test_the_slider_of_a_plotly_animation_moves_without_a_kernel(built, page):
    page.goto((built / "lessons/02_loss_basins.html").as_uri())
    plot = page.locator(".js-plotly-plot", has=page.locator(".slider-group"))
    plot.scroll_into_view_if_needed()
    before = plot.screenshot()
    box = plot.locator(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
    for _ in range(100):  # the first frames may take a slow machine a while
        if plot.screenshot() != before:
            break
        page.wait_for_timeout(100)
    assert plot.screenshot() != before
    assert page.outside == []


def test_an_explorable_answers_the_keyboard(built, page):
    page.goto((built / "lessons/03_scenarios_and_metrics.html").as_uri())
    editor = page.get_by_role("group", name="Accuracy matrix editor", exact=True)
    cell = editor.locator("tr:last-child input").first
    cell.scroll_into_view_if_needed()
    before = editor.inner_text()
    cell.fill("0.01")
    cell.press("Enter")
    assert editor.inner_text() != before


def test_search_finds_a_word_from_a_lesson(built, page):
    page.goto((built / "search.html").as_uri() + "?q=catastrophic")
    page.locator("ul.search li a").first.wait_for()
    assert "Forgetting" in page.inner_text("ul.search")
    assert page.outside == []


def test_the_landing_page_lists_every_lesson_with_its_question(built):
    text = (built / "index.html").read_text(encoding="utf-8")
    for name in LESSON_PAGES:
        assert f'href="{name}"' in text
    assert "What happens to a network that learns one thing after another?" in text


def test_a_folder_that_is_no_site_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files than a site"):
        site.build(ROOT, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_cannot_be_built_is_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="in a clone of the repository"):
        site.build(tmp_path, tmp_path / "site")
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(cli.app, ["site", "--out", str(tmp_path / "site")])
    assert result.exit_code == 2 and "install Node.js, or give --mathjax FILE" in " ".join(result.output.split())
    assert not (tmp_path / "site").exists()


def test_notebooks_with_stale_outputs_are_executed_for_the_site(tmp_path):
    header = "# 00 · Tiny\n\n**Question.** Two?\n\n**Time.** 5 minutes."
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": header},
             {"cell_type": "code", "id": "b", "metadata": {}, "source": ["one = 1\n", "one + one"],
              "outputs": [], "execution_count": None}]  # fmt: skip
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path = tmp_path / "00_forgetting.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    row = site._lesson(path, 0, tmp_path)
    made = json.loads((tmp_path / "lessons" / path.name).read_text())
    assert made["cells"][-1]["outputs"][0]["data"]["text/plain"] == ["2"]
    assert row == "| [00 · Tiny](lessons/00_forgetting.ipynb) | Two? | 5 |"


def test_the_reference_has_every_public_method():
    text = site.reference()
    for name in ("EWC", "Online", "fisher_diagonal", "Reservoir", "train", "Results"):
        assert name in text
    assert reader.LESSONS and "cl_tutor.exercises" not in text
