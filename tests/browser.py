"""What the tests of all explorables share: node for their mathematics, Chromium without a network for the rest.

The fixtures `browser` and `open_island` are in conftest.py. A test of one explorable, in a file of its own:

    def test_the_mathematics_equals_python(tmp_path):
        run_node("my_widget", cases, passed=5, tmp_path)            # tests/widgets/my_widget.test.mjs

    @pytest.mark.parametrize("width", [400, 1280])
    def test_every_control_can_be_found_and_hit(open_island, width):
        assert_controls(open_island(MyWidget(), width=width), "Name of the frame")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out(open_island, scheme):
        assert_readable(open_island(MyWidget(), scheme=scheme))
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGS = ["--no-sandbox", "--disable-gpu"] + [
    f"--disable-{x}" for x in ("background-networking", "component-update", "sync")
]
CONTROLS = "button, input, select, [role=slider], [tabindex='0']:not([role=group])"  # a group is a table that scrolls


def run_node(name: str, cases: Any, passed: int, tmp_path: Path) -> None:
    """tests/widgets/NAME.test.mjs on cases computed here; `passed` tests must run, or it fails."""
    if shutil.which("node") is None:
        pytest.skip("no node")
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    env = os.environ | {"CLT_CASES": str(tmp_path / "cases.json")}
    command = ["node", "--test", str(HERE / "widgets" / f"{name}.test.mjs")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and re.search(rf"# pass {passed}\b", done.stdout), done.stdout


def write_island(widget: Any, folder: Path) -> str:
    """The island alone in a page on disk: its address."""
    page = folder / f"{type(widget).__name__}.html"
    viewport = "<meta name=viewport content='width=device-width'>"
    page.write_text(f"<!doctype html><meta charset=utf-8>{viewport}{widget.island()}", encoding="utf-8")
    return page.as_uri()


def assert_bundle(widget: Any, twin: Any) -> None:
    """One output holds the live view, the island and the picture; `twin` was made in the same way."""
    data, about = widget._repr_mimebundle_()
    alt = widget.picture().alt
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "image/png", "text/plain"} <= set(data)
    assert data["text/plain"] == f"{type(widget).__name__}: {alt}" and about["image/png"]["alt"] == alt
    assert len(alt) > 60, f"The picture says too little: {alt}"
    assert data["text/html"] == twin.island()  # no id, no address: the same widget prints the same bytes
    assert html.unescape(re.search(r'<img alt="([^"]*)"', data["text/html"])[1]) == alt  # where no script may run
    assert "</script>" not in data["text/html"].split("<script>")[1].removesuffix("</script>")
    code = data["text/html"].replace("http://www.w3.org/2000/svg", "")  # a name, which nobody fetches
    assert not re.search(r"https?://|\bimport\s*[{*\"']|\brequire\(", code)


def assert_controls(page: Any, frame: str) -> None:
    """Every control has a name of its own and is 44 pixels high; nothing is wider than the page."""
    controls = page.locator(f":is({CONTROLS}):visible")
    names = controls.evaluate_all("(all) => all.map((n) => (n.ariaLabel || n.innerText || '').trim())")
    assert names and all(names) and len(names) == len(set(names)), names
    for name, control in zip(names, controls.all()):
        assert control.bounding_box()["height"] >= 43.9, name
    for handle in page.locator("[role=slider]:visible").all():
        assert handle.get_attribute("aria-valuetext"), handle.get_attribute("aria-label")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert f'group "{frame}"' in page.locator("body").aria_snapshot()


def assert_readable(page: Any) -> None:
    """All words have the contrast of WCAG AA, 4.5 : 1, against what lies behind their box."""
    texts = page.evaluate(_TEXTS)
    assert texts
    for words, colour, layers, opacity in texts:
        back = np.ones(3)
        for layer in reversed(layers):
            rgb, alpha = _rgb(layer)
            back = alpha * rgb + (1 - alpha) * back
        rgb, alpha = _rgb(colour)
        front = alpha * opacity * rgb + (1 - alpha * opacity) * back
        assert (ratio := contrast(front, back)) >= 4.5, f"{words!r}: {ratio:.2f}, {colour} on {layers}"


# every element with words of its own that can be seen: words, colour, the backgrounds behind it, opacity
_TEXTS = """() => [...document.querySelectorAll('.clt *')].flatMap((n) => {
  const words = [...n.childNodes].filter((c) => c.nodeType === 3).map((c) => c.data.trim()).join(' ').trim();
  const value = n.tagName === 'INPUT' && n.type !== 'range' ? n.value : '';
  if (!(words || value) || n.closest('.clt-hidden, style') || !n.checkVisibility()) return [];
  const style = getComputedStyle(n), layers = [];
  let opacity = 1;
  for (let m = n; m instanceof Element; m = m.parentNode) {
    const s = getComputedStyle(m);
    opacity *= +s.opacity;
    if (!(m instanceof SVGElement)) layers.push(s.backgroundColor);
  }
  return [[words || value, n instanceof SVGElement ? style.fill : style.color, layers, opacity]];
})"""


def _rgb(css: str) -> tuple[np.ndarray, float]:
    """CSS's rgb(r, g, b), rgba(...) or color(srgb r g b / a) -> channels from 0 to 1, and alpha."""
    numbers = [float(n) for n in re.findall(r"[\d.]+(?:e-?\d+)?", css.split("srgb")[-1])]
    scale = 1 if "srgb" in css else 255
    return np.array(numbers[:3]) / scale, numbers[3] if len(numbers) > 3 else 1.0


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """WCAG 2's ratio of two colours, from 1 to 21."""

    def luminance(rgb: np.ndarray) -> float:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
