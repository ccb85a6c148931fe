"""Every derivation holds, and every lesson runs with its solutions filled in."""

import re
from pathlib import Path

import nbformat
import pytest
import refresh
from browser import CHROMIUM

from cl_tutor.exercises import LESSONS, reader, teacher

notebook = lambda lesson: refresh.read(refresh.NOTEBOOKS / f"{lesson:02d}_{LESSONS[lesson]}.ipynb")


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_step_of_the_derivation_holds(lesson):
    steps = reader.module(lesson).derivation
    text = teacher.sheet(lesson)
    assert len(steps) >= 3 and len({s.tag for s in steps}) == len(steps)
    assert text.count("Residual on a small case") == len(steps)
    for step in steps:
        assert len(step.text.split()) >= 10 and "$" in step.text
        assert step.tol <= 1e-6, f"({step.tag}): a tolerance that proves nothing"


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_steps_number_equations_of_the_lesson(lesson):
    tags = set(re.findall(r"\\tag\{([^}]*)\}", "\n".join(c.source for c in refresh.prose_cells(notebook(lesson)))))
    known = [s.tag for s in reader.module(lesson).derivation if re.match(r"[\d.]+", s.tag)[0].rstrip(".") in tags]
    assert len(known) >= 2, f"steps {[s.tag for s in reader.module(lesson).derivation]}, equations {sorted(tags)}"


def test_a_step_that_does_not_hold_stops_the_sheet(monkeypatch):
    wrong = teacher.Step("0.1", "two is three: $2 = 3$", lambda: 1.0)
    nan = teacher.Step("0.1", "nothing is known: $2 = 3$", lambda: float("nan"))
    for step in (wrong, nan):
        monkeypatch.setattr(reader.module(0), "derivation", (step,))
        with pytest.raises(ArithmeticError, match=r"Step \(0.1\) of lesson 0"):
            teacher.sheet(0)


@pytest.mark.skipif(CHROMIUM is not None, reason="test_lab.py runs the lecturer's copies, in JupyterLab")
@pytest.mark.parametrize("lesson", LESSONS)
def test_the_lecturers_copy_runs_and_every_check_says_correct(lesson, tmp_path):
    nb = nbformat.from_dict(teacher.lecturers_copy(notebook(lesson), lesson))
    nb = refresh.execute(nb, refresh.NOTEBOOKS, f"lecturer {lesson:02d}")
    said = [(name, refresh.texts(o)) for c in refresh.code_cells(nb) for name, _ in refresh.checks(c.source)
            for o in c.outputs if "data" in o]  # fmt: skip
    wanted = {name for c in refresh.code_cells(notebook(lesson)) for name, _ in refresh.checks(c.source)}
    assert {name for name, text in said if "✓ Correct" in text} == wanted != set()


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_lecturers_copy_has_notes_under_its_header(lesson):
    nb = nbformat.from_dict(teacher.lecturers_copy(notebook(lesson), lesson))
    nbformat.validate(nb)
    assert nb.cells[1].source.startswith("> **For the lecturer**") and len(reader.module(lesson).notes.split()) >= 40


def test_a_check_without_a_stub_is_found():
    cell = nbformat.v4.new_code_cell("def sgd(net, batches, lr):\n    return []\n\n\nq1.check(sgd)")
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# x"), cell])
    with pytest.raises(ValueError, match=r"q1.check\(sgd\) has no stub"):
        teacher.lecturers_copy(nb, 0)


def test_the_readers_notebook_stays_as_it_is():
    nb = notebook(0)
    before = nbformat.writes(nb)
    teacher.lecturers_copy(nb, 0)
    assert nbformat.writes(nb) == before and Path(refresh.NOTEBOOKS).is_dir()
