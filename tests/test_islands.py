"""The explorables as the lessons store them: every island of a notebook in one page, and what it weighs there."""

from __future__ import annotations

import re

import pytest
import refresh
from browser import CONTROLS

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
