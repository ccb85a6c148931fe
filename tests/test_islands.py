"""The explorables as the lessons store them: every island of a notebook in one page, and what it weighs there."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import refresh
from browser import CONTROLS
from examples import example

from cl_tutor import widgets
from cl_tutor.exercises import LESSONS

PAGE = 3_000_000  # bytes that a page of the site may weigh; half of it is left to the text, the formulas and figures


def islands(lesson: int) -> list[str]:
    nb = refresh.read(refresh.NOTEBOOKS / f"{lesson:02d}_{LESSONS[lesson]}.ipynb")
    data = [o["data"]["text/html"] for _, o in refresh.outputs(nb) if "text/html" in o.get("data", {})]
    return [html for html in map("".join, data) if 'class="clt-island"' in html]


PRESENT = [k for k, name in LESSONS.items() if (refresh.NOTEBOOKS / f"{k:02d}_{name}.ipynb").exists() and islands(k)]


@pytest.mark.parametrize("lesson", PRESENT)
def test_the_islands_of_a_lesson_leave_half_of_the_page_to_the_rest(lesson):
    assert sum(len(html.encode()) for html in islands(lesson)) < PAGE / 2


@pytest.mark.parametrize("lesson", PRESENT)
def test_all_islands_of_a_lesson_live_in_one_page_without_a_kernel(browser, tmp_path, lesson):
    stored = islands(lesson)
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{''.join(stored)}", encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: re.match("https?:", request.url) and faults.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("n => document.querySelectorAll('.clt').length === n", arg=len(stored))
    for frame in page.locator(".clt").all():
        assert frame.locator(CONTROLS).count() and frame.get_attribute("aria-label")
    assert faults == []
    context.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, the judge of what people without eyes or hands can use."""
    if shutil.which("npm") is None:
        pytest.skip("no npm: axe-core cannot be fetched")
    place = tmp_path_factory.mktemp("npm")
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(place),
        "axe-core@4.10.3",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot fetch axe-core: {done.stderr.strip()[-200:]}")
    return (place / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


NARROW = [320, 700]  # in a small phone and in two narrow columns tables are wider than their place


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", widgets.__all__)
def test_axe_finds_no_serious_fault_in_an_island(open_island, axe, name, scheme):
    page = open_island(example(name), width=NARROW[scheme == "dark"], scheme=scheme)
    page.evaluate(axe)
    faults = page.evaluate("async () => (await axe.run('.clt')).violations.map(v => [v.impact, v.id, v.nodes[0].html])")
    assert [fault for fault in faults if fault[0] in ("serious", "critical")] == []


@pytest.mark.parametrize("width", NARROW)
@pytest.mark.parametrize("name", widgets.__all__)
def test_only_what_has_a_name_and_answers_to_keys_scrolls_in_a_narrow_place(open_island, name, width):
    page = open_island(example(name), width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    boxes = page.evaluate_handle(
        """[...document.querySelectorAll('.clt *')].filter((n) =>
        n.scrollWidth > n.clientWidth && /auto|scroll/.test(getComputedStyle(n).overflowX))"""
    )
    for box in boxes.get_properties().values():
        assert box.get_attribute("tabindex") == "0" and box.get_attribute("aria-label")
        box.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("n => n.scrollLeft > 0", arg=box)
