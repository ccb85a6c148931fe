"""The course as pages that need neither a kernel nor a network: `cl-tutor site`.

The notebooks are copied beside the pages in docs/, with hints and solutions folded below each exercise, and Sphinx
turns
all of it into one folder. A notebook whose stored outputs belong to its cells is taken as it is; any other is executed
first. plotly.js comes from the installed package and MathJax from npm, both when the site is built.
"""

from __future__ import annotations

import hashlib
import html
import importlib
import inspect
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import evidence
from .exercises.harness import STEPS, Exercise
from .exercises.reader import LESSONS, module, recall

MATHJAX = "mathjax@3.2.2"
PLOTLY = "application/vnd.plotly.v1+json"
LAB = "To write and run the code of this lesson, open it in JupyterLab with `cl-tutor lab`. On this page all that is "
LAB += "drawn can be looked at, and what has handles can be dragged."


def build(source: Path, target: Path, mathjax: Path | None = None) -> None:
    """Make the site of the clone at `source` in the folder `target`, which is replaced.

    `mathjax` is a copy of MathJax 3's tex-mml-svg.js; without one npm fetches it.
    """
    if not (source / "docs" / "conf.py").is_file():
        raise FileNotFoundError(
            f"The site's pages are not in {source / 'docs'}: build it in a clone of the repository."
        )
    if not _is_ours(target):
        raise FileExistsError(f"{target} holds other files than a site: name a folder that is empty or does not exist.")
    with tempfile.TemporaryDirectory() as place:
        pages = Path(place) / "pages"
        shutil.copytree(source / "docs", pages)
        (pages / "_static").mkdir(exist_ok=True)
        shutil.copyfile(mathjax or _mathjax(Path(place)), pages / "_static" / "mathjax.js")
        plotly = importlib.import_module("plotly.offline")
        (pages / "_static" / "plotly.js").write_text(plotly.get_plotlyjs(), encoding="utf-8")
        shutil.copytree(source / ".github", pages / "_static" / "pictures", ignore=shutil.ignore_patterns("*.y*ml"))
        rows = [_lesson(source / "notebooks" / f"{k:02d}_{name}.ipynb", k, pages) for k, name in LESSONS.items()]
        shutil.copyfile(source / "notebooks" / "NOTATION.md", pages / "notation.md")
        table = "\n".join(["| lesson | the question | minutes |", "|---|---|---|", *rows])
        contents = "\n".join(f"lessons/{k:02d}_{name}" for k, name in LESSONS.items())
        for page in pages.glob("*.md"):
            text = page.read_text(encoding="utf-8").replace("LESSONS_TABLE", table).replace("LESSONS_TREE", contents)
            page.write_text(text, encoding="utf-8")
        (pages / "reference.md").write_text(reference(), encoding="utf-8")
        results = evidence.page(source / "notebooks" / "runs", pages / "_static")
        (pages / "results.md").write_text(results, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            str(pages),
            f"{place}/html",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ChildProcessError(f"Sphinx did not build the site: {(done.stdout + done.stderr).strip()[-2000:]}")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(place) / "html", target, ignore=shutil.ignore_patterns(".*", "*macros.html", "_sources"))


def _is_ours(target: Path) -> bool:
    """May this folder be replaced? If it is absent, empty, or a site that was built before."""
    return not target.exists() or (
        target.is_dir() and (not any(target.iterdir()) or (target / "searchindex.js").is_file())
    )


def _mathjax(place: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("MathJax comes from npm, which is not here: install Node.js, or give --mathjax FILE.")
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(place / "npm"), MATHJAX]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(
            f"npm could not fetch {MATHJAX} (give --mathjax FILE instead): {done.stderr.strip()[-300:]}"
        )
    return place / "npm" / "node_modules" / "mathjax" / "es5" / "tex-mml-svg.js"


# ---- lessons ---------------------------------------------------------------------------------------------------------


def source_sha(notebook: dict[str, Any]) -> str:
    """A fingerprint of all sources: the outputs of a notebook belong to them and to nothing else."""
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def _lesson(path: Path, lesson: int, pages: Path) -> str:
    """Write a lesson's page into `pages` and return its row of the table of contents."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if notebook["metadata"].get("cl_tutor", {}).get("source_sha") != source_sha(notebook):
        notebook = _executed(notebook, path.parent)
    header = "".join(notebook["cells"][0]["source"])
    (pages / "lessons").mkdir(exist_ok=True)
    text = json.dumps(folded(notebook, lesson)).replace("](NOTATION.md", "](../notation.md")
    (pages / "lessons" / path.name).write_text(text, encoding="utf-8")
    said = [re.search(pattern, header) for pattern in (r"\*\*Question\.\*\* (.+)", r"\*\*Time\.\*\* (\d+) minutes")]
    question, minutes = (found[1] if found else "" for found in said)
    title = header.splitlines()[0].lstrip("# ")
    return f"| [{title}](lessons/{path.name}) | {question} | {minutes} |"


def _executed(notebook: dict[str, Any], folder: Path) -> dict[str, Any]:
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.reads(json.dumps(notebook), as_version=4)  # which joins the lines of a cell
    NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return json.loads(nbformat.writes(nb))


def folded(notebook: dict[str, Any], lesson: int) -> dict[str, Any]:
    """The notebook with a hint how to open it, and, below each check, hints and solution folded away."""
    cells = [notebook["cells"][0], _markdown("lab", f":::{{tip}}\n{LAB}\n:::"), *notebook["cells"][1:]]
    out = []
    for cell in cells:
        out.append(cell)
        if cell["cell_type"] == "code":
            cell["outputs"] = [_playable(output) for output in cell["outputs"]]
            source = "".join(cell["source"])
            for q in re.findall(r"^[^#\n]*\b(q\d+)\.check\(", source, re.M):
                out.append(_markdown(q, _help(getattr(module(lesson), q))))
            if re.search(r"^recall\(\d+\)\.check\(", source, re.M):
                out.append(_markdown("recall", _answers(lesson)))
    return notebook | {"cells": out}


def _playable(output: dict[str, Any]) -> dict[str, Any]:
    """A plotly figure as HTML that draws itself with the site's plotly.js; the picture that stood for it goes."""
    data = output.get("data", {})
    if PLOTLY not in data:
        return output
    words = "".join(data["text/plain"]).removeprefix("Figure: ")
    drawn = importlib.import_module("plotly.io").to_html(data[PLOTLY], full_html=False, include_plotlyjs=False,
                                                         validate=False, auto_play=False)  # fmt: skip
    group = f'<div role="group" aria-label="{html.escape(words)}">{drawn}</div>'
    return output | {"data": {"text/html": group, "text/plain": words}}


def _markdown(name: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": f"site-{name}", "metadata": {}, "source": text}


def _fold(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _help(q: Exercise) -> str:
    hints = [_fold(f"Hint {n}: {step}", q.hint(n).text) for n, step in enumerate(STEPS, 1)]
    return "\n\n".join([*hints, _fold("Solution", q.solution()._repr_markdown_())])


def _answers(lesson: int) -> str:
    lines = [f"{n}. **{q.answer}**: {q.why}" for n, (_, q) in enumerate(recall(lesson).asked, 1)]
    return _fold("Answers", "\n".join(lines))


# ---- the reference ---------------------------------------------------------------------------------------------------


def reference() -> str:
    """Every public function and class of the package with its docstring, as it stands in the source."""
    import cl_tutor

    parts = ["# Reference\n\nEvery docstring begins with the idea or its equation and ends with the source."]
    names = [m.name for m in pkgutil.walk_packages(cl_tutor.__path__, "cl_tutor.")]
    for name in names:
        if any(part.startswith("_") for part in name.split(".")) or name.startswith("cl_tutor.exercises"):
            continue
        m = importlib.import_module(name)
        parts.append(f"## {name}\n\n" + _literal(inspect.getdoc(m) or ""))
        own = [v for k, v in vars(m).items() if not k.startswith("_") and getattr(v, "__module__", "") == name]
        for thing in own:
            if inspect.isclass(thing) or inspect.isfunction(thing):
                parts.append(
                    f"### {thing.__name__}\n\n" + _literal(_signature(thing) + "\n\n" + (inspect.getdoc(thing) or ""))
                )
    return "\n\n".join(parts) + "\n"


def _signature(thing: Any) -> str:
    try:
        return f"{thing.__name__}{inspect.signature(thing)}".replace("cl_tutor.", "")
    except (TypeError, ValueError):
        return thing.__name__


def _literal(text: str) -> str:
    return f"```text\n{text.strip()}\n```"
