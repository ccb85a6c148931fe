"""An explorable that needs no kernel: beside the live widget stands a copy that one inline script runs in any page.

A widget's module only asks its model for get, set, on, off, save_changes: a host of a dozen lines is enough. Where no
script may run (an untrusted notebook, GitHub), the picture and its alt text are what remains.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anywidget

from ..plots import Picture

# No ids and no counters: the same widget always prints the same bytes, and two copies in one page do not meet.
_HOST = """<div class="clt-island">%(fallback)s</div>
<script>(async () => {
  const el = document.currentScript.previousElementSibling, state = %(state)s, heard = {};
  const model = {
    get: (key) => state[key],
    set(key, value) { state[key] = value; (heard["change:" + key] || []).forEach((f) => f()); },
    on(event, f) { (heard[event] ||= []).push(f); },
    off(event, f) { heard[event] = (heard[event] || []).filter((g) => g !== f); },
    save_changes() {}, send() {},
  };
  const url = URL.createObjectURL(new Blob([%(esm)s], { type: "text/javascript" }));
  const widget = (await import(url)).default;
  URL.revokeObjectURL(url);
  const box = document.createElement("div"), style = document.createElement("style");
  style.textContent = %(css)s;
  el.replaceChildren(style, box);
  await widget.initialize?.({ model });
  await widget.render({ model, el: box });
})();</script>"""


_STATIC = Path(__file__).parent / "static"


def module(name: str) -> str:
    """The source of an explorable: what all share (kit.js), then its own file. One module, for neither may import."""
    return "\n".join((_STATIC / part).read_text(encoding="utf-8") for part in ("kit.js", name))


class Island(anywidget.AnyWidget):
    """An anywidget whose output also holds its island, and the PNG of `picture()`: the widget as it now stands.

    A subclass sets `_esm = module("its_own.js")`, declares its state as synced traits, and draws its `picture()`.
    """

    _css = _STATIC / "clt.css"

    def picture(self) -> Picture:
        """What a reader sees where nothing can run; every explorable draws its own."""
        raise NotImplementedError

    def island(self) -> str:
        """The whole explorable as HTML for any page: state, style and module inline, nothing fetched."""
        return self._host(self.picture()._repr_mimebundle_()[0]["text/html"])

    def _host(self, fallback: str) -> str:
        state = {key: value for key, value in self.get_state().items() if key in self._own_traits()}
        parts = {"state": state, "esm": str(self._esm), "css": str(self._css)}
        return _HOST % {"fallback": fallback, **{key: _script(value) for key, value in parts.items()}}

    @classmethod
    def _own_traits(cls) -> set[str]:
        names = set(cls.class_trait_names(sync=True)) - set(anywidget.AnyWidget.class_trait_names())
        return {name for name in names if not name.startswith("_")}  # anywidget adds module and style as traits

    def __repr__(self) -> str:  # anywidget's own holds an address, which changes on every run
        return f"{type(self).__name__}: {self.picture().alt}"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        live, about = super()._repr_mimebundle_(**kwargs) or ({}, {})
        still, alt = self.picture()._repr_mimebundle_()
        return still | live | {"text/html": self._host(still["text/html"])}, about | alt


def _script(value: Any) -> str:
    """JSON that may stand inside <script>: no tag and no comment can open or close in it."""
    return json.dumps(value).replace("<", "\\u003c")
