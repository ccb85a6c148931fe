"""Each lesson in a real JupyterLab: all cells run, every check says correct, every control moves its picture.

It opens the lecturer's copies, whose solutions are filled in: nbval runs the readers' copies, and to run each a third
time would prove nothing more. One server for all lessons; Chromium reaches nothing but this machine. It costs what the
lessons themselves cost, and waits for what it sees, never for a time: a slow machine takes longer and passes.
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
import refresh
from browser import CHROMIUM, CONTROLS

from cl_tutor.exercises import teacher

LESSONS = sorted(refresh.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
TOKEN = secrets.token_hex()  # without one the server refuses to stop a kernel
RUN = 900_000  # ms for all cells of a lesson
MOVE = 60_000  # ms for the page to answer
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"

# What a control shall change: drawings, tables and sentences, without the controls' own looks and numbers.
PICTURE = """(root) => {
  const copy = root.cloneNode(true), drawn = [...root.querySelectorAll('canvas')].map((c) => c.toDataURL());
  const typed = [...root.querySelectorAll('td input')].filter((n) => n !== document.activeElement).map((n) => n.value);
  copy.querySelectorAll('style, [role=status], .clt-slider, .clt-field, .clt-handle, td input').forEach((n) =>
  n.remove());
  copy.querySelectorAll('*').forEach((n) => {
    for (const a of [...n.attributes]) if (/^(aria-|class|tabindex|disabled)/.test(a.name)) n.removeAttribute(a.name);
  });
  return copy.innerHTML + drawn + typed;
}"""

# Has the picture changed since it was noted? Asked at each frame that the browser draws, 30 times.
CHANGED = f"""async (root) => {{
  for (let k = 0; k < 30; k++) {{
    if (({PICTURE})(root) !== root.before) return true;
    await new Promise((drawn) => requestAnimationFrame(drawn));
  }}
  return false;
}}"""

# anywidget stops listening to the kernel where a module takes more than 2 s to load: on a busy machine no fault.
PATIENCE = "const own = AbortSignal.timeout; AbortSignal.timeout = (ms) => own.call(AbortSignal, 100 * ms);"

# A control, by its number, or by its name where it was drawn anew; and how the keyboard uses each kind.
CONTROL = """(root, [controls, k, name]) => root.controls[k].isConnected ? root.controls[k]
  : [...root.querySelectorAll(controls)].find((n) => (n.ariaLabel || n.textContent).trim() === name)"""

KEYS = {
    "range": ("ArrowRight", "Home", "End"),
    "number": ("ArrowUp", "ArrowDown"),
    "slider": ("Shift+ArrowRight", "Shift+ArrowUp", "Shift+ArrowLeft", "Shift+ArrowDown"),
    "BUTTON": ("Enter",),
    "SELECT": ("ArrowDown", "ArrowUp"),
    "checkbox": ("Space",),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that knows nobody's settings, and stops with the tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    pytest.importorskip("playwright.sync_api")
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(refresh.NOTEBOOKS, home / "notebooks")
    for path in LESSONS:
        nbformat.write(lecturers(path), home / "notebooks" / path.name)
    quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(quiet))
    own = {f"JUPYTER_{what}_DIR": str(home / what.lower()) for what in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{what}_DIR": str(home / what.lower()) for what in ("SETTINGS", "WORKSPACES")}
    own |= {"IPYTHONDIR": str(home / "ipython"), "CL_TUTOR_HOME": str(home / "progress"), "OMP_NUM_THREADS": "1"}
    own["PYTHONPATH"] = os.pathsep.join([str(refresh.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += [
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={home / 'notebooks'}",
    ]
    address = f"http://127.0.0.1:{port}"
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log) as server,
    ):
        try:
            wait_for_server(address, server, home / "log")
            yield address
        finally:
            server.terminate()  # and with it its kernels
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


def lecturers(path):
    """The lesson with its solutions, and without outputs: an old one proves nothing."""
    return nbformat.from_dict(teacher.lecturers_copy(refresh.read(path), int(path.stem[:2])))


def wait_for_server(address, server, log, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            ask(f"{address}/api")
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def ask(url, method="GET"):
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


@pytest.fixture
def lesson(browser, lab):
    """`lesson(path)` -> its page in JupyterLab. Errors in the page and requests to elsewhere fail the test."""
    context, errors = browser.new_context(viewport={"width": 1280, "height": 900}), []
    local = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")
    page = context.new_page()
    page.add_init_script(PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: request.url.startswith(local) or errors.append(request.url))

    def show(path):
        page.goto(f"{lab}/doc/tree/{path.name}?token={TOKEN}", timeout=2 * MOVE)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=2 * MOVE)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=2 * MOVE)
        return page

    yield show
    context.close()
    for session in json.loads(ask(f"{lab}/api/sessions")):
        ask(f"{lab}/api/sessions/{session['id']}", "DELETE")  # a kernel holds some hundred MB
    assert not errors


def run_all(page, cells):
    """Run > Run All Cells, until all code cells have their numbers and the kernel is idle, or one has failed."""
    page.wait_for_function(
        f"() => document.querySelectorAll('.jp-Notebook .jp-CodeCell').length >= {cells}", timeout=MOVE
    )
    begun = r"() => [...document.querySelectorAll('.jp-InputPrompt')].some((n) => /[*\d]/.test(n.textContent))"
    for _ in range(20):  # JupyterLab drops the command, silently, while the kernel is still being connected
        page.locator(".jp-Notebook .jp-Cell").first.click()  # the menu acts on what has the focus
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        try:
            page.wait_for_function(begun, polling=200, timeout=10_000)
            break
        except Exception as error:
            if type(error).__name__ != "TimeoutError":
                raise
    page.wait_for_function(
        r"""(cells) => document.querySelector('[data-mime-type="application/vnd.jupyter.error"]')
          || [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]
            .filter((n) => /\d/.test(n.textContent)).length >= cells""",
        arg=cells,
        polling=500,
        timeout=RUN,
    )
    page.wait_for_selector(IDLE, timeout=RUN)


def explorables(path):
    """The names that the lesson imports from cl_tutor.widgets: each shall be seen."""
    sources = (c.source for c in refresh.code_cells(refresh.read(path)))
    tree = ast.parse("\n".join(source for source in sources if not source.startswith("%")))
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "cl_tutor.widgets"]
    return {alias.name for n in imports for alias in n.names}


def move_every_control(page, root):
    """Twice through all controls: what has nothing to do at first (the choice that is taken, a reset) has it then."""
    root.scroll_into_view_if_needed()  # JupyterLab leaves out what is far from the eye
    names = root.evaluate(
        """(root, controls) => {
          root.controls = [...root.querySelectorAll(controls)].filter((n) => n.checkVisibility());
          return root.controls.map((n) => (n.ariaLabel || n.textContent).trim());
        }""",
        CONTROLS,
    )
    assert names and all(names) and len(set(names)) == len(names), names
    still = list(enumerate(names))
    for _ in range(2):
        still = [(k, name) for k, name in still if not moves(page, root, k, name)]
    assert not still, f"the picture did not change: {still}"


def moves(page, root, k, name):
    """Use a control by keyboard in every way that it has, until the picture changes. False if it never does."""
    control = root.evaluate_handle(CONTROL, [CONTROLS, k, name]).as_element()
    if control is None or not control.is_visible() or not control.is_enabled():
        return False
    root.evaluate(f"(root) => {{ root.before = ({PICTURE})(root); }}")
    control.focus()
    kind = control.evaluate("(n) => n.tagName === 'INPUT' ? n.type : n.getAttribute('role') || n.tagName")
    for key in KEYS[kind]:
        page.keyboard.press(key)
        if root.evaluate(CHANGED):
            return True
    if page.locator(IDLE).count() == 0:  # the kernel answers
        page.wait_for_selector(IDLE, timeout=RUN)
        return root.evaluate(CHANGED)
    return False


def assert_sound(page):
    """No cell has failed or warned, and no widget is missing."""
    for kind in ("error", "stderr"):
        told = page.locator(f"[data-mime-type='application/vnd.jupyter.{kind}']").all_inner_texts()
        assert not told, told[0][-1500:]
    text = page.locator(".jp-Notebook").inner_text()
    assert not (lost := re.search(r"Error (displaying|creating) widget.*|[Mm]odel not found.*", text)), lost[0]


def assert_solved(page, path):
    """Every exercise has been handed in, and found correct."""
    cells = refresh.code_cells(lecturers(path))
    shown = page.locator(".jp-Notebook .jp-CodeCell .jp-Cell-outputWrapper").all_text_contents()
    said = {name for cell, text in zip(cells, shown, strict=True) for name, _ in refresh.checks(cell.source)
            if text.count("✓ Correct") == len(refresh.checks(cell.source))}  # fmt: skip
    assert said == {name for cell in cells for name, _ in refresh.checks(cell.source)} != set()


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_and_its_explorables_move(lesson, path):
    page = lesson(path)
    run_all(page, len(refresh.code_cells(refresh.read(path))))
    assert_sound(page)
    assert_solved(page, path)
    roots = page.locator(".jp-OutputArea-output .clt")
    wanted = explorables(path)
    if wanted:  # the views of a lesson may still be loading their modules
        page.wait_for_function(f"() => document.querySelectorAll('.jp-OutputArea-output .clt').length >= {len(wanted)}",
                               timeout=MOVE)  # fmt: skip
    assert page.locator(".clt-island").count() == 0  # with a kernel the live view alone
    for k in range(roots.count()):
        move_every_control(page, roots.nth(k))
    page.wait_for_selector(IDLE, timeout=RUN)
    assert_sound(page)
