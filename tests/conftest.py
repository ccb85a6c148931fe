"""What all tests share: one torch thread, MNIST where this machine has it, and a browser for the explorables."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from browser import ARGS, CHROMIUM, write_island

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # small networks run fastest on one thread, and workers share the cores
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["CL_TUTOR_HOME"] = tempfile.mkdtemp(prefix="cl-tutor-")  # nobody's own progress is read or written


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder that holds MNIST/raw, given by CL_TUTOR_SHARED or as ../shared/data beside the repository."""
    places = [
        Path(os.environ.get("CL_TUTOR_SHARED") or ROOT.parent / "shared" / "data"),
        ROOT.parent / "shared" / "data",
    ]
    for place in places:
        if (place / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return place
    pytest.skip(f"MNIST is not at {' or '.join(map(str, dict.fromkeys(places)))} (set CL_TUTOR_SHARED)")


@pytest.fixture(scope="module")  # not longer: while it lives, no other test of this process can run an event loop
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_island(browser, tmp_path):
    """`open_island(widget, width=400, scheme="light", motion="no-preference")`: the widget alone in a page, with no
    kernel and no network. An error in the page, or a request to the outside, fails the test."""
    contexts, errors = [], []

    def show(widget, width=400, scheme="light", motion="no-preference"):
        size = {"width": width, "height": 900}
        context = browser.new_context(offline=True, viewport=size, color_scheme=scheme, reduced_motion=motion)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith("http") and errors.append(request.url))
        page.goto(write_island(widget, tmp_path))
        page.wait_for_selector(".clt")
        return page

    yield show
    for context in contexts:
        context.close()
    assert not errors
