"""Every committed notebook obeys every rule of refresh.py, and every rule catches the notebook that breaks it."""

import re
import subprocess
import sys

import nbformat
import pytest
import refresh
import typer
from nbformat import v4

NOTEBOOKS = sorted(refresh.NOTEBOOKS.glob("*.ipynb"))

HEADER = """# What does a network forget?

A network that learns one task after another loses the first. Here you measure how much of it goes, and how fast.

**You will be able to** measure forgetting, draw it, and say where it comes from.

**Prerequisites** backpropagation. **Time** 20 minutes."""
PROSE = """Every step on the second task moves the weights that served the first one. To first order the old loss
changes by the inner product of the two gradients, times the learning rate, with the sign turned round:

$$\\Delta L_1 \\approx -\\eta\\, g_1 \\cdot g_2 \\tag{1}$$"""
ALT = "Figure: accuracy on task 1 falls from 0.95 to 0.40 while task 2 rises to 0.90."
at = lambda *names: "/".join(("", *names))  # a path, of which this file itself shall hold none
PNG = f"iVBORw0KGgo{at('tmp')}/AAAA"  # a picture's bytes may spell a path


def sound():
    """A notebook that every rule accepts, with one output of each kind that a lesson has."""
    plotly = {
        refresh.PLOTLY: {"data": [], "layout": {}},
        "text/html": "<div></div>",
        "image/png": PNG,
        "text/plain": ALT,
    }
    cells = [
        v4.new_markdown_cell(HEADER),
        v4.new_code_cell("import numpy as np\nnp.ones(2)", outputs=[v4.new_output("stream", text="residual 1e-16\n")]),
        v4.new_markdown_cell(PROSE),
        v4.new_code_cell("show(figure)", outputs=[v4.new_output("display_data", plotly)]),
        v4.new_code_cell("def bwt(R):\n    return ...\n\nq1.check(bwt)"),
        v4.new_code_cell("# q1.hint()\n# q1.solution()\nNone"),
    ]
    for n, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = n
    return sealed(v4.new_notebook(cells=cells))


def sealed(nb):
    """Cleaned and stamped, as after a refresh."""
    nb = refresh.clean(nb)
    nb.metadata["cl_tutor"] = {"source_sha": refresh.source_sha(nb)}
    return nb


def output(nb):
    return nb.cells[3].outputs[0]


def stream(text, name="stdout"):
    return lambda nb: nb.cells[1].outputs.append(v4.new_output("stream", text=text, name=name))


def test_a_twin_may_stand_in_the_html_beside_plotly():
    nb = sound()
    png = output(nb).data.pop("image/png")
    assert refresh.has_twins(nb)
    output(nb).data["text/html"] = f'<img alt="A line that falls." src="data:image/png;base64,{png}">'
    assert not refresh.has_twins(nb)


def source(i, text):
    return lambda nb: nb.cells[i].update(source=text)


def widget(nb):
    output(nb).data[refresh.WIDGET] = {"model_id": "1"}


# rule -> what a careless maintainer does to a sound notebook
DOCTORED = {
    refresh.is_valid: {
        "a cell without a source": lambda nb: nb.cells[1].pop("source"),
        "an unknown kind of cell": lambda nb: nb.cells[1].update(cell_type="magic"),
    },
    refresh.is_executed_in_order: {
        "not executed": lambda nb: nb.cells[1].update(execution_count=None),
        "a cell run twice": lambda nb: nb.cells[-1].update(execution_count=5),
        "two cells swapped": lambda nb: nb.cells.insert(1, nb.cells.pop(3)),
    },
    refresh.is_fresh: {
        "code edited after the run": source(1, "np.ones(3)"),
        "a cell removed": lambda nb: nb.cells.pop(),
        "never stamped": lambda nb: nb.metadata.pop("cl_tutor"),
    },
    refresh.is_clean: {
        "a minor version": lambda nb: nb.metadata.language_info.update(version="3.13.1"),
        "another kernel": lambda nb: nb.metadata.kernelspec.update(name="venv"),
        "timings": lambda nb: nb.cells[1].metadata.update(execution={"iopub.status.busy": "2026-01-01"}),
        "random ids": lambda nb: nb.cells[1].update(id="0a1b2c3d"),
        "a progress bar": stream("epoch:  40%|####      | 4/10 [00:01<00:02, 3.1it/s]", "stderr"),
    },
    refresh.is_small: {"a picture of 1 MB": lambda nb: output(nb).data.update({"image/png": "A" * 1_000_001})},
    refresh.has_no_errors: {
        "an error": lambda nb: nb.cells[1].outputs.append(v4.new_output("error", ename="NameError", evalue="R"))
    },
    refresh.has_no_warnings: {
        "on stderr": stream("x.py:1: UserWarning: lr is large\n", "stderr"),
        "on stdout": stream("WARNING: slow\n"),
    },
    refresh.has_no_widget_state: {
        "a view": widget,
        "state": lambda nb: nb.metadata.update(widgets={"application/vnd.jupyter.widget-state+json": {}}),
    },
    refresh.has_no_machine_path: {
        "in a stream": stream(f"saved to {at('home', 'ada')}/runs/r.json\n"),
        "in quotes": stream(f"PosixPath('{at('tmp', 'x')}')"),
        "of Windows": stream(r"C:\Users\ada\r.json"),
        "in HTML": lambda nb: output(nb).data.update({"text/html": f'<a href="file://{at("root", "x")}">x</a>'}),
        "in plotly's JSON": lambda nb: output(nb).data[refresh.PLOTLY].update(layout={"title": at("work", "run")}),
        "in the source": source(1, f"open('{at('Users', 'ada')}/x')"),
    },
    refresh.has_short_code: {
        "a cell of 26 lines": source(1, "x = 1\n" * 26),
        "151 lines": lambda nb: nb.cells.extend(v4.new_code_cell("x = 1\n" * 8) for _ in range(19)),
        "a median of 9": lambda nb: [c.update(source="x = 1\n" * 9) for c in refresh.code_cells(nb)],
    },
    refresh.has_short_prose: {
        "1501 words": lambda nb: nb.cells.extend(v4.new_markdown_cell("word " * 59) for _ in range(25)),
        "a wall of text": lambda nb: [c.update(source=c.source + " word" * 40) for c in refresh.prose_cells(nb)],
        "telegrams": lambda nb: [c.update(source="word " * 12) for c in refresh.prose_cells(nb)],
    },
    refresh.has_described_images: {
        "no alt text": lambda nb: output(nb).data.pop("text/plain"),
        "a repr": lambda nb: output(nb).data.update(
            {"text/plain": "<Figure size 640x480 with 1 Axes, as matplotlib says>"}
        ),
        "too short": lambda nb: output(nb).data.update({"text/plain": "Figure: accuracy over time"}),
    },
    refresh.has_twins: {"no PNG": lambda nb: output(nb).data.pop("image/png")},
    refresh.has_header: {
        "code first": lambda nb: nb.cells.pop(0),
        "no title": source(0, HEADER.replace("# What", "What")),
        "no question": source(0, HEADER.replace("?", ".")),
        "no objectives": source(0, HEADER.replace("You will be able to", "You")),
        "no prerequisites": source(0, HEADER.replace("Prerequisites", "Needs")),
        "no time": source(0, HEADER.replace("Time", "Sometimes at a time")),
    },
    refresh.has_numbered_equations: {
        "no tag": source(2, PROSE.replace("\\tag{1}", "")),
        "a tag used twice": source(0, HEADER + "\n\n$$a \\tag{1}$$"),
    },
    refresh.has_help_for_exercises: {
        "no help": source(5, "None"),
        "no solution": source(5, "# q1.hint()\nNone"),
        "help for another": source(5, "# q2.hint()\n# q2.solution()\nNone"),
        "too far away": lambda nb: nb.cells.insert(5, v4.new_markdown_cell("Think.")),
    },
}


@pytest.mark.parametrize("rule", refresh.RULES, ids=lambda r: r.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebook(path, rule):
    assert rule(refresh.read(path)) == [], "repair the notebook, then run `python tests/refresh.py`"


def test_rules_accept_a_sound_notebook():
    assert refresh.faults(sound()) == []


@pytest.mark.parametrize(
    "rule, change", [(r, c) for r, d in DOCTORED.items() for c in d], ids=lambda x: getattr(x, "__name__", x)
)
def test_rule_catches(rule, change):
    nb = sound()
    DOCTORED[rule][change](nb)
    assert rule(nb) != []


def test_every_rule_has_a_doctored_notebook():
    assert set(DOCTORED) == set(refresh.RULES)


def test_alt_text_may_stand_in_the_metadata():
    nb = sound()
    output(nb).data["text/plain"] = "<Figure size 640x480>"
    output(nb).metadata["image/png"] = {"alt": ALT}
    assert refresh.has_described_images(nb) == []


@pytest.mark.parametrize(
    "markdown, count",
    [
        ("one two three", 3),
        ("$$x + y = z \\tag{1}$$", 0),
        ("the loss $L_1(\\theta)$ falls", 4),
        ("see [here](https://a.b/c d)", 2),
    ],
)
def test_words(markdown, count):
    assert refresh.words(markdown) == count


def test_code_lines_skip_comments_and_blanks():
    assert refresh.code_lines("# why\n\nx = 1\n    # because\ny = 2  # then\n") == 2


def test_checks_are_found_beside_magics():
    assert refresh.checks("%matplotlib inline\n!ls\nv = q2.check(bwt)\nresults.check(x)") == [("q2", "bwt")]


def test_clean_keeps_what_reads_without_a_kernel():
    """Views go, and a bare widget's repr with them; island, plotly JSON, picture and alt text stay."""
    nb = sound()
    kept = dict(output(nb).data)
    widget(nb)
    nb.cells[1].outputs = [v4.new_output("display_data", {refresh.WIDGET: {}, "text/plain": "HBox(children=())"})]
    cleaned = refresh.clean(nb)
    assert cleaned.cells[3].outputs[0].data == kept and cleaned.cells[1].outputs == []
    assert refresh.clean(cleaned) == cleaned, "cleaning twice is cleaning once"
    assert refresh.WIDGET in output(nb).data, "the notebook handed in is left alone"


def test_clean_drops_a_progress_bar_but_not_the_warning_inside_it():
    nb = sound()
    stream("a:  0%|  | 0/9\ra: 50%|# | 4/9 [00:01, 4.0it/s]\nx.py:3: UserWarning: odd\ra: 100%|##| 9/9\n", "stderr")(nb)
    cleaned = refresh.clean(nb)
    assert cleaned.cells[1].outputs[1].text == "x.py:3: UserWarning: odd\n"
    assert refresh.has_no_warnings(cleaned) != []


def test_clean_makes_paths_inside_the_course_relative():
    nb = sound()
    stream(f"saved {refresh.ROOT / 'notebooks' / 'runs' / 'r.json'}\n")(nb)
    assert refresh.clean(nb).cells[1].outputs[1].text == "saved notebooks/runs/r.json\n"


def test_ids_follow_from_the_sources():
    """Two builds of the same cells give the same file; equal cells still get ids of their own."""
    build = lambda: refresh.clean(v4.new_notebook(cells=[v4.new_code_cell(s) for s in ("x", "x", "y")]))
    assert nbformat.writes(build()) == nbformat.writes(build())
    assert len({c.id for c in build().cells}) == 3


# ---- end to end: two small kernels ---------------------------------------------------------------------------------


def run(*arguments):
    command = [sys.executable, refresh.__file__, *map(str, arguments)]
    done = subprocess.run(command, cwd=refresh.ROOT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def check(path, capsys):
    with pytest.raises(typer.Exit) as ended:
        refresh.main([path], check=True)
    return ended.value.exit_code, capsys.readouterr().out


def test_refresh_executes_in_place(tmp_path, capsys):
    """A draft goes in; what comes out obeys every rule, without its widget views. An edit afterwards is noticed."""
    draft = sound()
    draft.cells[1].source = (
        "import os\nfrom cl_tutor.exercises.scenarios_and_metrics import q1\n\n"
        "os.environ['OMP_NUM_THREADS'], os.path.basename(os.getcwd())"
    )
    draft.cells[3].source = (
        "from IPython.display import display\n"
        "view = {'application/vnd.jupyter.widget-view+json': {'model_id': '1'}}\n"
        "display(view | {'text/html': '<p>island</p>'}, raw=True)"
    )
    for cell in refresh.code_cells(draft):
        cell.update(outputs=[], execution_count=None)
    path = tmp_path / "03_x.ipynb"
    nbformat.write(draft, path)
    assert refresh.faults(draft) != []

    code, said = run(path)
    nb = refresh.read(path)
    assert code == 0 and refresh.faults(nb) == [] and "03_x" in said, said
    assert nb.cells[1].outputs[0].data["text/plain"] == f"('1', '{tmp_path.name}')", "one thread, beside the notebook"
    assert nb.cells[3].outputs[0].data == {"text/html": "<p>island</p>"}, "the view is gone, the island stays"
    assert "Not attempted" in nb.cells[4].outputs[0].data["text/plain"], "the untouched notebook runs through"

    code, said = check(path, capsys)
    assert code == 0 and "03_x" in said
    nb.cells[1].source += "\n1 + 1"
    nbformat.write(nb, path)
    code, said = check(path, capsys)
    assert code == 1 and "03_x.ipynb: a cell was changed after the last execution" in said


def test_refresh_names_the_cell_that_fails_and_keeps_the_file(tmp_path):
    draft = sound()
    draft.cells[1].source = "x = 0\n1 / x"
    path = tmp_path / "bad.ipynb"
    nbformat.write(draft, path)
    before = path.read_bytes()
    code, said = run(path)
    assert code == 1 and "bad.ipynb stopped at cell 1, which begins “x = 0”, with ZeroDivisionError" in said, said
    assert "Traceback" not in said and path.read_bytes() == before


@pytest.mark.parametrize(
    "name, content, sentence", [("gone", None, "There is no notebook"), ("text", "hello", "cannot be read")]
)
def test_refresh_refuses_what_is_no_notebook(tmp_path, name, content, sentence):
    path = tmp_path / f"{name}.ipynb"
    if content:
        path.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        refresh.read(path)


def test_refresh_says_so_where_there_is_nothing_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(refresh, "NOTEBOOKS", tmp_path)
    with pytest.raises(typer.Exit) as ended:
        refresh.main()
    assert ended.value.exit_code == 1 and "There are no notebooks in" in capsys.readouterr().out


# ---- notation --------------------------------------------------------------------------------------------------------

GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi varphi chi psi"
)
GREEK += " omega Gamma Delta Theta Lambda Sigma Phi Psi Omega nabla ell"


def letters(markdown):
    """The Greek and the single Latin letters in the mathematics of a text; words in \\text and the like are none."""
    found = set()
    for formula in re.findall(
        r"\$\$(.*?)\$\$|(?<![\\$])\$([^$\n]+)\$", re.sub(r"```.*?```|`[^`]*`", "", markdown, flags=re.S), re.S
    ):
        tex = re.sub(
            r"\\(text\w*|mathrm|mathsf|operatorname\*?|tag\*?|label|begin|end|color)\s*\{[^{}]*\}",
            " ",
            "".join(formula),
        )
        tex = re.sub(r"\\math(bb|cal|bf|frak)\s*\{?([A-Za-z])\}?", r" \2 ", tex)
        found |= {c for c in re.findall(r"\\([A-Za-z]+)", tex) if c in GREEK.split()}
        found |= set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", tex)))
    return found


def notation():
    """{letter: the first lesson that may use it}"""
    rows = re.findall(
        r"^\| (.+?) \| .+ \| (\d\d) \|$", (refresh.NOTEBOOKS / "NOTATION.md").read_text(encoding="utf-8"), re.M
    )
    return {letter: int(lesson) for symbols, lesson in reversed(rows) for letter in letters(symbols)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_symbol_is_used_before_the_table_of_notation_has_it(path):
    known = notation()
    used = {letter for c in refresh.prose_cells(refresh.read(path)) for letter in letters(c.source)}
    early = {
        letter: known.get(letter, "not in NOTATION.md")
        for letter in used
        if known.get(letter, 100) > int(path.stem[:2])
    }
    assert not early


def test_letters_are_found_in_mathematics_alone():
    text = (
        r"I am $\theta_1^* + \mathcal{L}(x)\text{ if so}$ and `$y$` $$\operatorname{tr} F = \sum_k \lambda_k "
        r"\tag{1.a}$$" + r" a cost of \$5 Z"
    )
    assert letters(text) == {"theta", "L", "x", "F", "k", "lambda"}
