"""Make the notebooks ready to commit: `python tests/refresh.py [notebooks]` runs them in place and cleans them.

Two halves: `RULES`, what a committed notebook must be, as pure functions from a notebook to its faults (the tests use
the same ones), and `execute` and `clean`, which make it so. A maintainer's tool: no lesson imports it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.validator import iter_validate
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from cl_tutor.site import source_sha

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
CELL_SECONDS = 180

MAX_BYTES = 1_000_000
MAX_WORDS, MEDIAN_WORDS = 1500, (30, 60)  # a lesson; a prose cell
MAX_LINES, MAX_CELL_LINES, MEDIAN_CELL_LINES = 150, 25, 8  # a lesson; a code cell
MIN_ALT = 40  # characters: shorter than that says "a plot"

WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"
PNG_URL = 'src="data:image/png;base64,'  # in text/html, beside plotly's JSON
BASE64 = re.compile(r"[A-Za-z0-9+/]{200,}=*")
PROGRESS = re.compile(r"\d%\||\d(it/s|s/it)")

Rule = Callable[[NotebookNode], list[str]]


# ---- reading a notebook ------------------------------------------------------------------------------------------


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    return [c for c in nb.cells if c.cell_type == "code"]


def prose_cells(nb: NotebookNode) -> list[NotebookNode]:
    return [c for c in nb.cells if c.cell_type == "markdown"]


def outputs(nb: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """(number of the cell, from 0; one of its outputs)."""
    return ((i, o) for i, c in enumerate(nb.cells) for o in c.get("outputs", []))


def words(markdown: str) -> int:
    """Words that are read: a displayed equation counts nothing; a formula in the line or a link's text counts."""
    text = re.sub(r"<!--.*?-->|<[^>]+>|\$\$.*?\$\$|```.*?```|\]\([^)]*\)", " ", markdown, flags=re.S)
    text = re.sub(r"\$[^$]+\$|`[^`]+`", " x ", text)
    return len(re.findall(r"\w[\w'’.,-]*", text))


def code_lines(source: str) -> int:
    """Lines that are neither blank nor only a comment."""
    return sum(1 for line in source.splitlines() if line.strip() and not line.strip().startswith("#"))


def texts(output: NotebookNode) -> str:
    """Everything textual that an output holds, as the reader meets it; encoded pictures and arrays left out."""
    data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/") or k == "image/svg+xml"}
    trace = [output.get("evalue", ""), *output.get("traceback", [])]
    parts = [output.get("text", ""), *(v if isinstance(v, str) else json.dumps(v) for v in data.values()), *trace]
    return BASE64.sub("", "\n".join(parts))


def checks(source: str) -> list[tuple[str, str]]:
    """The checks in a cell: `q1.check(bwt)` gives [("q1", "bwt")]."""
    try:
        tree = ast.parse(TransformerManager().transform_cell(source))  # turns magics into Python
    except SyntaxError:
        return []  # the cell cannot have run: another rule says so
    methods = [
        (n.func, n.args) for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
    ]
    pairs = [(ast.unparse(f.value), ", ".join(map(ast.unparse, args))) for f, args in methods if f.attr == "check"]
    return [(name, answer) for name, answer in pairs if re.fullmatch(r"q\d+", name)]


# ---- what a committed notebook must be ---------------------------------------------------------------------------


def is_valid(nb: NotebookNode) -> list[str]:
    return [f"not a valid notebook: {e.message[:200]}" for e in iter_validate(nb)]


def is_executed_in_order(nb: NotebookNode) -> list[str]:
    counts = [c.execution_count for c in code_cells(nb)]
    want = list(range(1, len(counts) + 1))
    return [] if counts == want else [f"execution counts are {counts}, not 1 to {len(counts)}: run it from the top"]


def is_fresh(nb: NotebookNode) -> list[str]:
    stored = nb.metadata.get("cl_tutor", {}).get("source_sha")
    return [] if stored == source_sha(nb) else ["a cell was changed after the last execution: the outputs are stale"]


def is_clean(nb: NotebookNode) -> list[str]:
    dirty = nb != clean(nb)
    return ["holds what `clean` removes (timings, a kernel's version, progress bars, unstable ids)"] if dirty else []


def has_no_errors(nb: NotebookNode) -> list[str]:
    return [f"cell {i} ends in {o.ename}: {o.evalue}" for i, o in outputs(nb) if o.output_type == "error"]


def has_no_warnings(nb: NotebookNode) -> list[str]:
    streams = [(i, o.text) for i, o in outputs(nb) if o.output_type == "stream"]
    return [f"cell {i} warns: {m[0].strip()}" for i, t in streams if (m := re.search(r"(?i).*\b\w*warning\b.*", t))]


def has_no_widget_state(nb: NotebookNode) -> list[str]:
    views = [f"cell {i} holds a widget view" for i, o in outputs(nb) if WIDGET in o.get("data", {})]
    return views + ["the metadata hold widget state"] * ("widgets" in nb.metadata)


def is_small(nb: NotebookNode) -> list[str]:
    size = len(nbformat.writes(nb).encode())
    return [f"{size / 1e6:.2f} MB, more than {MAX_BYTES / 1e6:.0f}"] * (size > MAX_BYTES)


def has_short_code(nb: NotebookNode) -> list[str]:
    lines = {i: code_lines(c.source) for i, c in enumerate(nb.cells) if c.cell_type == "code"}
    faults = [
        f"cell {i} has {n} lines of code, more than {MAX_CELL_LINES}" for i, n in lines.items() if n > MAX_CELL_LINES
    ]
    if lines and (middle := statistics.median(lines.values())) > MEDIAN_CELL_LINES:
        faults.append(f"the median code cell has {middle:g} lines, more than {MEDIAN_CELL_LINES}")
    total = sum(lines.values())
    return faults + [f"{total} lines of code, more than {MAX_LINES}"] * (total > MAX_LINES)


def has_short_prose(nb: NotebookNode) -> list[str]:
    counts = [words(c.source) for c in prose_cells(nb)]
    low, high = MEDIAN_WORDS
    prose = [n for n in counts if n > 10]  # a bare heading or equation is no prose
    faults = [f"{sum(counts)} words, more than {MAX_WORDS}"] * (sum(counts) > MAX_WORDS)
    if prose and not low <= (middle := statistics.median(prose)) <= high:
        faults.append(f"the median prose cell has {middle:g} words, not {low} to {high}")
    return faults


def has_described_images(nb: NotebookNode) -> list[str]:
    def alt(o: NotebookNode) -> str:
        plain = o.data.get("text/plain", "")
        return o.metadata.get("image/png", {}).get("alt", "") or plain.partition("Figure:")[2] * plain.startswith(
            "Figure:"
        )

    short = [i for i, o in outputs(nb) if "image/png" in o.get("data", {}) and len(alt(o).strip()) <= MIN_ALT]
    return [f"cell {i}: a picture whose alt text has {MIN_ALT} characters or fewer, or none" for i in short]


def has_twins(nb: NotebookNode) -> list[str]:
    bare = lambda data: PLOTLY in data and "image/png" not in data and PNG_URL not in str(data.get("text/html"))
    short = [i for i, c in enumerate(nb.cells) if any(bare(o.get("data", {})) for o in c.get("outputs", []))]
    return [f"cell {i}: a plotly figure without a PNG twin, blank where nothing runs" for i in short]


def has_no_machine_path(nb: NotebookNode) -> list[str]:
    path = re.compile(r"(?<![\w.])(/(?:tmp|work|home|root|Users|var/folders)/[\w.-]*|[A-Z]:\\+Users\b)")
    held = [(i, c.source) for i, c in enumerate(nb.cells)] + [(i, texts(o)) for i, o in outputs(nb)]
    return [f"cell {i} names a path of a machine, {m[0]}" for i, text in held if (m := path.search(text))]


def has_header(nb: NotebookNode) -> list[str]:
    if not nb.cells or nb.cells[0].cell_type != "markdown":
        return ["the first cell is not the header"]
    text = nb.cells[0].source
    parts = ("You will be able to", "Prerequisites", "Time")
    faults = [f"the header lacks “{p}”" for p in parts if not re.search(rf"\b{p}\b", text)]
    if not re.match(r"# \S", text):
        faults.append("the header lacks its # title")
    return faults + ["the header asks no question"] * ("?" not in text)


def has_numbered_equations(nb: NotebookNode) -> list[str]:
    tags: list[str] = []
    faults = []
    for i, cell in enumerate(nb.cells):
        for equation in re.findall(r"\$\$.*?\$\$", cell.source, re.S) * (cell.cell_type == "markdown"):
            found = re.findall(r"\\tag\*?\{([^}]*)\}", equation)
            faults += [] if found else [f"cell {i}: an equation without \\tag{{...}}"]
            faults += [f"cell {i}: \\tag{{{t}}} is taken" for t in found if t in tags]
            tags += found
    return faults


def has_help_for_exercises(nb: NotebookNode) -> list[str]:
    faults = []
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        near = cell.source + "".join(c.source for c in nb.cells[i + 1 : i + 2])
        wanted = [f"{q}.{help}" for q, _ in checks(cell.source) for help in ("hint", "solution")]
        faults += [f"cell {i}: neither it nor the next offers {w}()" for w in wanted if w not in near]
    return faults


RULES: tuple[Rule, ...] = (
    is_valid,
    is_executed_in_order,
    is_fresh,
    is_clean,
    is_small,
    has_no_errors,
    has_no_warnings,
    has_no_widget_state,
    has_no_machine_path,
    has_short_code,
    has_short_prose,
    has_described_images,
    has_twins,
    has_header,
    has_numbered_equations,
    has_help_for_exercises,
)


def faults(nb: NotebookNode) -> list[str]:
    return [fault for rule in RULES for fault in rule(nb)]


# ---- making it so ------------------------------------------------------------------------------------------------


def clean(nb: NotebookNode) -> NotebookNode:
    """A copy without widget views and state, timings, progress bars and versions; its ids follow from its sources."""
    nb = nbformat.from_dict(json.loads(json.dumps(nb)))
    nb.nbformat, nb.nbformat_minor = 4, 5
    for key in ("widgets", "signature", "trusted"):
        nb.metadata.pop(key, None)
    nb.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata.language_info = {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    }
    taken: dict[str, int] = {}
    for cell in nb.cells:
        sha = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        taken[sha] = taken.get(sha, 0) + 1
        cell.id = sha if taken[sha] == 1 else f"{sha}-{taken[sha]}"
        for key in ("execution", "ExecuteTime", "trusted"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _clean_output(output))]
    return nb


def _clean_output(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        if PROGRESS.search(output.text):  # a warning between two states of the bar must stay
            states = re.split(r"[\r\n]+", output.text)
            output.text = "".join(f"{s}\n" for s in states if s.strip() and not PROGRESS.search(s))
        output.text = _relative(output.text)
        return output if output.text else None
    data = output.get("data", {})
    if WIDGET in data:
        del data[WIDGET]
        if data.keys() <= {"text/plain"} and not data.get("text/plain", "").startswith("Figure:"):
            return None  # what is left is a repr such as HBox(children=(...))
    if isinstance(data.get("text/plain"), str):
        data["text/plain"] = _relative(data["text/plain"])
    return output


def _relative(text: str) -> str:
    """Paths inside the course lose their beginning; `has_no_machine_path` finds the others."""
    return text.replace(f"{ROOT}{os.sep}", "")


def execute(nb: NotebookNode, folder: Path, name: str = "notebook") -> NotebookNode:
    """Run all cells in a fresh kernel that starts in `folder`, on one thread, with this checkout's cl_tutor."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    for cell in code_cells(nb):
        cell.update(outputs=[], execution_count=None)
    with tqdm(total=len(nb.cells), desc=name, unit="cell", leave=False, file=sys.stderr) as bar:
        client = NotebookClient(
            nb,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            store_widget_state=False,
            record_timing=False,
            on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n),
        )
        with tempfile.TemporaryDirectory() as home:  # the outputs are those of a reader who has done nothing yet
            client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CL_TUTOR_HOME": home})
    nb.metadata["cl_tutor"] = {"source_sha": source_sha(nb)}
    return clean(nb)


def read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise ValueError(f"There is no notebook {path}.") from None
    except (OSError, nbformat.reader.NotJSONError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} cannot be read as a notebook: {str(e).splitlines()[0][:80]}") from None


def refresh(path: Path) -> float:
    """Run one notebook in place and return the seconds. If a cell fails, the file stays as it was and the ValueError
    names the cell."""
    nb = read(path)
    start = time.perf_counter()
    try:
        nb = execute(nb, path.resolve().parent, path.stem)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        raise ValueError(f"{path.name} {_failure(nb, e)} The file was left as it was.") from None
    path.write_text(nbformat.writes(nb) + "\n", encoding="utf-8")
    return time.perf_counter() - start


def _failure(nb: NotebookNode, error: Exception) -> str:
    if isinstance(error, CellExecutionError):
        *_, (i, _) = ((i, o) for i, o in outputs(nb) if o.output_type == "error")
        line = nb.cells[i].source.strip().splitlines()[0]
        return f"stopped at cell {i}, which begins “{line}”, with {error.ename}: {error.evalue}."
    if isinstance(error, CellTimeoutError):
        return f"has a cell that ran for more than {CELL_SECONDS} s: cache its result, or make it smaller."
    return "lost its kernel, perhaps for want of memory."


def main(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Default: all in notebooks/.")] = None,
    check: Annotated[bool, typer.Option(help="Run nothing, only say what is wrong with the files.")] = False,
) -> None:
    """Run the notebooks in place, clean them, and say what still keeps them from being committed."""
    table = Table("notebook", "seconds", "kB", "words", "code lines", "faults")
    complaints: list[str] = []
    paths = notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        complaints.append(f"There are no notebooks in {NOTEBOOKS}: name some, or run this in a clone of the course.")
    for path in paths:
        try:
            seconds = "–" if check else f"{refresh(path):.1f}"
            nb = read(path)
        except ValueError as e:
            complaints.append(str(e))
            continue
        found = faults(nb)
        complaints += [f"{path.name}: {fault}." for fault in found]
        prose, code = sum(words(c.source) for c in prose_cells(nb)), sum(code_lines(c.source) for c in code_cells(nb))
        table.add_row(path.stem, seconds, f"{path.stat().st_size / 1e3:.0f}", str(prose), str(code), str(len(found)))
    out = Console(soft_wrap=True)
    out.print(table)
    for complaint in complaints:
        out.print(complaint, markup=False, highlight=False)
    raise typer.Exit(1 if complaints else 0)


if __name__ == "__main__":
    typer.run(main)
