"""For every exercise there is: the notebook's stub is "not attempted", the solution passes, every listed mutant fails.

Exercises are found by walking cl_tutor.exercises, their stubs by reading notebooks/*.ipynb. Then the harness itself.
"""

import ast
import importlib
import pkgutil
import re
from functools import cache

import numpy as np
import pytest
import refresh
import torch
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import v4

import cl_tutor.exercises
from cl_tutor.exercises import Exercise
from cl_tutor.exercises import scenarios_and_metrics as lesson_03
from cl_tutor.exercises.harness import difference, shown
from cl_tutor.results import Results

SERVES = {"harness", "progress", "reader", "teacher"}
MODULES = [m.name for m in pkgutil.iter_modules(cl_tutor.exercises.__path__) if m.name not in SERVES]
NOTEBOOKS = sorted(refresh.NOTEBOOKS.glob("*.ipynb"))


def exercises_of(module):
    held = vars(importlib.import_module(f"cl_tutor.exercises.{module}"))
    return {name: q for name, q in held.items() if isinstance(q, Exercise)}


EXERCISES = {f"{m}.{name}": q for m in MODULES for name, q in exercises_of(m).items()}
MUTANTS = {f"{name}: {mistake}": (q, mistake) for name, q in EXERCISES.items() for mistake in q.mutants}


def submit(q, f):
    """Hand in a function, or the value that it makes where the exercise asks for a value."""
    return q.check(f if q.cases else f())


# ---- every exercise ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", EXERCISES.values(), ids=EXERCISES)
def test_solution_passes(q):
    verdict = submit(q, q.reference)
    assert verdict, verdict


@pytest.mark.parametrize("q, mistake", MUTANTS.values(), ids=MUTANTS)
def test_mutant_fails_by_its_value(q, mistake):
    """A mutant looks healthy: it runs, and what it gives is wrong. A crash would prove nothing about the check."""
    verdict = submit(q, q.mutants[mistake])
    assert verdict.status == "incorrect" and "Raised" not in verdict.details, verdict
    assert "Expected" in verdict.details


@pytest.mark.parametrize("q", EXERCISES.values(), ids=EXERCISES)
def test_exercise_is_complete(q):
    assert len(q.mutants) >= 2 and len(q.hints) == 3 and all(len(h.split()) >= 5 for h in q.hints)
    assert len(set(q.hints)) == 3
    assert q.solution().source.startswith(("def ", "class ")), "a solution has a name that the stub can share"


# ---- every notebook ------------------------------------------------------------------------------------------------


def stubs(nb):
    """{"q1": (name of the stub, the code up to and with its definition)} of one notebook."""
    found, code = {}, []
    for cell in refresh.code_cells(nb):
        statements = ast.parse(TransformerManager().transform_cell(cell.source)).body
        defines = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        stub = lambda s: isinstance(s, ast.Assign) and isinstance(s.value, ast.Constant)  # answer = ...
        code += [s for s in statements if isinstance(s, defines) or stub(s)]
        found |= {q: (name, list(code)) for q, name in refresh.checks(cell.source)}
    return found


def imported(statements):
    """{"q1": "scenarios_and_metrics"}: the module that each imported exercise comes from."""
    pairs = [(s.module, a) for s in statements if isinstance(s, ast.ImportFrom) and s.module for a in s.names]
    prefix = "cl_tutor.exercises."
    return {a.asname or a.name: m.removeprefix(prefix) for m, a in pairs if m.startswith(prefix)}


def faults(nb, module, exercises):
    """What is wrong between a notebook and its exercises."""
    found = stubs(nb)
    wrong = [f"no cell checks {q}" for q in exercises if q not in found]
    for q, (name, statements) in found.items():
        if q not in exercises or imported(statements).get(q) != module:
            wrong.append(f"{q}.check: not imported from cl_tutor.exercises.{module}, or not there")
            continue
        space = {"torch": torch, "np": np}
        exec(compile(ast.Module(statements, []), "<stub>", "exec"), space)
        if name not in space:
            wrong.append(f"{q}.check({name}): {name} is not defined in a cell before")
        elif (verdict := exercises[q].check(space[name])).status != "not attempted":
            wrong.append(f"{q}: the stub {name} is {verdict}")
        elif exercises[q].cases and name != exercises[q].reference.__name__:
            wrong.append(f"{q}: the stub is {name}, the solution {exercises[q].reference.__name__}")
    return wrong


@cache
def notebook_of(module):
    paths = [p for p in NOTEBOOKS if re.fullmatch(rf"\d\d_{module}", p.stem)]
    return paths[0] if paths else None


@pytest.mark.parametrize("module", MODULES)
def test_notebook_uses_its_exercises(module):
    if not notebook_of(module):
        pytest.skip(f"the lesson NN_{module}.ipynb is not written yet")
    assert faults(refresh.read(notebook_of(module)), module, exercises_of(module)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_checks_only_exercises_of_its_own_module(path):
    module = path.stem[3:]
    assert module in MODULES or not stubs(refresh.read(path)), f"cl_tutor/exercises/{module}.py is missing"


def lesson(*sources):
    header = "from cl_tutor.exercises.scenarios_and_metrics import q1, q2, q3"
    return v4.new_notebook(cells=[v4.new_code_cell(s) for s in (header, *sources)])


BWT = "def bwt(R):\n    return ...\n\nq1.check(bwt)"
FORGETTING = "def forgetting(R):\n    raise NotImplementedError\n\nq2.check(forgetting)"
FWT = "%matplotlib inline\ndef fwt(R, b):\n    before = ...\n    return (before - b[1:]).mean()\n\nq3.check(fwt)"


@pytest.mark.parametrize(
    "sources, fault",
    [
        ((BWT, FORGETTING, FWT), None),
        ((BWT, FORGETTING), "no cell checks q3"),
        ((BWT, FORGETTING, FWT, "q4.check(bwt)"), "q4.check: not imported"),
        ((BWT.replace("...", "R.mean()"), FORGETTING, FWT), "q1: the stub bwt is ✗ Incorrect"),
        ((BWT.replace("bwt", "answer"), FORGETTING, FWT), "the stub is answer, the solution bwt"),
        (("q1.check(bwt)", FORGETTING, FWT), "bwt is not defined"),
        (("from cl_tutor.exercises.harness import Exercise as q1", BWT, FORGETTING, FWT), "q1.check: not imported"),
    ],
)
def test_the_reading_of_notebooks_finds(sources, fault):
    found = faults(lesson(*sources), "scenarios_and_metrics", exercises_of("scenarios_and_metrics"))
    assert (found == []) if fault is None else any(fault in f for f in found), found


# ---- lesson 03 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, R, b", lesson_03.matrices_and_baselines())
def test_solutions_of_lesson_03_are_the_packages_numbers(words, R, b):
    r = Results(R, b)
    assert lesson_03.bwt(R) == pytest.approx(r.bwt, abs=1e-12)
    assert lesson_03.forgetting(R) == pytest.approx(r.forgetting, abs=1e-12)
    assert lesson_03.fwt(R, b) == pytest.approx(r.fwt, abs=1e-12)


def test_solutions_of_lesson_03_by_hand():
    R = np.array([[0.9, 0.2, 0.1], [1.0, 0.8, 0.3], [0.5, 0.6, 0.9]])
    assert lesson_03.bwt(R) == pytest.approx(((0.5 - 0.9) + (0.6 - 0.8)) / 2)
    assert lesson_03.forgetting(R) == pytest.approx(((1.0 - 0.5) + (0.8 - 0.6)) / 2)
    assert lesson_03.fwt(R, np.array([0.5, 0.1, 0.2])) == pytest.approx(((0.2 - 0.1) + (0.3 - 0.2)) / 2)


RIGHT = [(q, m) for q in exercises_of("scenarios_and_metrics").values() for m in q.mutants]


@pytest.mark.parametrize("q, mistake", RIGHT, ids=[f"{q.name}: {m}" for q, m in RIGHT])
def test_mutant_of_lesson_03_is_named(q, mistake):
    """It fails for the reason listed: of all mistakes, the verdict names this one and no other."""
    assert q.check(q.mutants[mistake]).details.get("Perhaps", "").endswith(mistake)


SYMMETRIC = np.array([[0.9, 0.3, 0.2], [0.3, 0.8, 0.1], [0.2, 0.1, 0.7]])
FALLING = np.array([[0.9, 0.3, 0.2], [0.8, 0.8, 0.1], [0.2, 0.1, 0.7]])  # best on the diagonal, worst at the end
KEPT = np.array([[0.5, 0.1, 0.1], [0.5, 0.6, 0.1], [0.5, 0.6, 0.7]])  # nothing is forgotten
EVEN, ZERO = np.full(3, 0.1), np.zeros(3)
HARMLESS = {  # where a mistake does not show, it must agree with the solution: it is that mistake and no other
    (lesson_03.q1, "divides by T"): (KEPT,),
    (lesson_03.q1, "reads R transposed"): (SYMMETRIC,),
    (lesson_03.q1, "has the sign"): (KEPT,),
    (lesson_03.q1, "starts from the best"): (FALLING,),
    (lesson_03.q1, "starts from the first row"): (np.array([[0.9, 0.8], [0.4, 0.7]]),),
    (lesson_03.q1, "looks one row back"): (np.array([[0.9, 0.8], [0.4, 0.7]]),),
    (lesson_03.q1, "adds the changes"): (np.array([[0.9, 0.8], [0.4, 0.7]]),),
    (lesson_03.q2, "divides by T"): (KEPT,),
    (lesson_03.q2, "reads R transposed"): (SYMMETRIC,),
    (lesson_03.q2, "has the sign"): (KEPT,),
    (lesson_03.q2, "takes the diagonal"): (FALLING,),
    (lesson_03.q2, "lets the maximum see"): (FALLING,),
    (lesson_03.q2, "takes the maximum over tasks"): (SYMMETRIC,),
    (lesson_03.q2, "skips the rows"): (FALLING,),
    (lesson_03.q2, "averages over all tasks"): (np.array([[0.9, 0.5], [0.9, 0.5]]),),
    (lesson_03.q3, "forgets b"): (FALLING, ZERO),
    (lesson_03.q3, "takes R[j, j]"): (np.array([[0.1, 0.6, 0.2], [0.1, 0.6, 0.4], [0.1, 0.6, 0.4]]), EVEN),
    (lesson_03.q3, "reads below"): (SYMMETRIC, EVEN),
    (lesson_03.q3, "divides by T"): (np.full((3, 3), 0.1), EVEN),
    (lesson_03.q3, "pairs task j"): (FALLING, EVEN),
    (lesson_03.q3, "has the sign"): (np.full((3, 3), 0.1), EVEN),
    (lesson_03.q3, "averages over all later"): (np.array([[0.9, 0.5], [0.4, 0.7]]), EVEN[:2]),
    (lesson_03.q3, "takes one number"): (FALLING, EVEN),
}


def test_mutants_of_lesson_03_agree_where_the_mistake_is_harmless():
    listed = {(q, mistake) for q, mistake in RIGHT}
    for (q, start), arguments in HARMLESS.items():
        (mistake,) = [m for m in q.mutants if m.startswith(start)]
        listed.remove((q, mistake))
        assert q.mutants[mistake](*arguments) == pytest.approx(q.reference(*arguments), abs=1e-12), (q, mistake)
    assert not listed, "every mutant has its harmless case"


# ---- the harness -----------------------------------------------------------------------------------------------------


def scale(x, by):
    return {"w": x * by, "b": (x.sum(), x.argmax())}


def twelve():
    return 12


Q = Exercise(
    "Scale",
    scale,
    {"adds": lambda x, by: {"w": x + by, "b": (x.sum(), x.argmax())}},
    ("Idea.", "$y = ax$", "    `x * ...`"),
    lambda: (("small", torch.tensor([1.0, 2.0, 4.0]), 3.0), ("large", torch.linspace(0, 1, 100), 2.0)),
)
NUMBER = Exercise("Twelve", twelve, {"has one too few": lambda: 11}, ("Count.", "$n$", "`...`"))


def raising(error):
    def answer(x, by):
        raise error

    return answer


def gap(x, by):
    y = ...
    return y * by


STUBS = [
    ...,
    None,
    raising(NotImplementedError),
    lambda x, by: ...,
    lambda x, by: None,
    gap,
    lambda x, by: {"w": x, "b": ...},
]


@pytest.mark.parametrize("stub", STUBS)
def test_a_stub_is_not_attempted(stub):
    verdict = Q.check(stub)
    assert verdict.status == "not attempted" and not verdict and "hint" in repr(verdict)


@pytest.mark.parametrize(
    "value, status", [(12, "correct"), (12.0, "correct"), (np.int64(12), "correct"), (11, "incorrect")]
)
def test_a_value(value, status):
    assert NUMBER.check(value).status == status
    assert NUMBER.check(...).status == "not attempted"
    assert NUMBER.check(11).details["Perhaps"].endswith("has one too few")


@pytest.mark.parametrize(
    "answer, said",
    [
        (
            raising(IndexError("index 5\nis out of bounds " + "x" * 999)),
            "Raised: IndexError: index 5 is out of bounds xxx",
        ),
        (lambda x: x, "Raised: TypeError"),
        (3.0, ".check(scale)"),
        (lambda x, by: scale(x, by) | {"w": x[:2]}, "at ['w']: shape (2,)"),
        (lambda x, by: scale(x, by) | {"w": (x * by).long()}, "at ['w']: whole numbers (dtype int64)"),
        (lambda x, by: {"w": x * by}, "a dict with the keys ['w', 'b']"),
        (lambda x, by: scale(x, by) | {"b": (x.sum() + 1, x.argmax())}, "at ['b'][0]: 8"),
        (lambda x, by: scale(x, by) | {"b": x.sum()}, "2 entries"),
        (lambda x, by: scale(x, by) | {"b": "none"}, "2 entries"),
        (
            lambda x, by: scale(x, by) | {"w": x * by + torch.tensor([0, 0, 0.5])},
            "Largest difference: at ['w']: 0.5 at [2]",
        ),
        (lambda x, by: scale(x, by) | {"w": x * by / 0}, "Largest difference: at ['w']: inf"),
        (lambda x, by: scale(x, by) | {"w": x * torch.nan}, "Largest difference: at ['w']: nan"),
        (lambda x, by: scale(x, 3.0), "Case: 2 of 2, large"),
        (lambda x, by: scale(x, by) if len(x) == 3 else None, "a NoneType"),
        (lambda x, by: {"w": x + by, "b": (x.sum(), x.argmax())}, "Perhaps: the same comes out of an answer that adds"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(answer, said):
    verdict = Q.check(answer)
    assert verdict.status == "incorrect" and not verdict
    assert said in repr(verdict) and len(repr(verdict)) < 900, verdict


def test_an_answer_that_edits_its_arguments_cannot_leak():
    def greedy(x, by):
        x *= by
        return {"w": x, "b": ((x / by).sum(), x.argmax())}

    cases = (("kept", torch.tensor([1.0, 2.0]), 3.0),)
    q = Exercise("Scale", scale, {}, ("", "", ""), cases)
    assert q.check(greedy) and q.check(greedy) and torch.equal(cases[0][1], torch.tensor([1.0, 2.0]))


def test_random_answers_meet_the_same_generator_and_leave_it_alone():
    q = Exercise("Noise", lambda n: torch.randn(n), {}, ("", "", ""), (("three", 3),))
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    assert q.check(lambda n: torch.empty(n).normal_())
    assert torch.equal(torch.rand(1), wanted)
    first = q.check(torch.zeros)
    torch.manual_seed(8)
    second = q.check(torch.zeros)
    assert first == second, "a verdict does not depend on when it is asked for"


def test_no_mistake_is_named_where_two_look_alike():
    mutants = {"adds x": lambda x: x + x + x, "triples x": lambda x: 3 * x}
    q = Exercise("Double", lambda x: 2 * x, mutants, ("", "", ""), (("one", 1.0),))
    assert "Perhaps" not in q.check(lambda x: x + 2).details


def test_ask_says_how_an_answer_is_asked():
    """A class, or a property of a function: here its gradient, which a detached loss does not have."""
    slope = lambda f, x: torch.autograd.grad(f(x.requires_grad_()), x)
    q = Exercise("Square", lambda x: (x**2).sum(), {}, ("", "", ""), (("two", torch.ones(2)),), ask=slope)
    assert q.check(lambda x: x @ x)
    assert "Raised" in q.check(lambda x: (x.detach() ** 2).sum()).details


@pytest.mark.parametrize(
    "got, expected, same",
    [
        (np.float32(0.1), 0.1, True),
        (torch.tensor(0.1, requires_grad=True), 0.1, True),
        (0, 0.0, True),
        (torch.tensor([0.1]), 0.1, False),
        (np.nan, np.nan, True),
        (np.nan, 1.0, False),
        (np.inf, np.inf, True),
        (True, 1.0, False),
        (np.array([True, False]), torch.tensor([True, False]), True),
        (np.array([True, True]), np.array([True, False]), False),
        ([0.1, 0.2], (0.1, 0.2), True),
        (np.array([0.1, 0.2]), [0.1, 0.2], True),
        ([0.1, 0.2], np.array([0.1, 0.2]), True),
        (np.array([3, 250], np.uint8), np.array([5, 250], np.uint8), False),
        ("b", "b", True),
        ("a", "b", False),
        (0.5, "b", False),
        ("0.5", 0.5, False),
        ({"a": 1}, {"a": 1}, True),
        ({"b": 1}, {"a": 1}, False),
        ((1, 2), (1, 2, 3), False),
        (1e-9, 0.0, True),
        (1e-6, 0.0, False),
    ],
)
def test_difference(got, expected, same):
    assert (difference(got, expected, rtol=1e-5, atol=1e-7) == {}) == same


def test_hints_go_from_idea_to_skeleton_and_end():
    q = Exercise("Scale", scale, {}, ("Idea.", "$y = ax$", "\n    `x * ...`\n    "))
    said = [repr(q.hint()) for _ in range(5)]
    assert said[0] == "Hint 1 of 3, the idea: Idea." and said[2] == "Hint 3 of 3, the skeleton: `x * ...`"
    assert "last one" in said[3] and "last one" in said[4]
    assert repr(q.hint(2)) == said[1] and 'role="status"' in q.hint(2)._repr_markdown_()
    for number in (0, 4, "idea"):
        with pytest.raises(ValueError, match="ask for 1"):
            q.hint(number)


def test_the_solution_is_its_source():
    assert repr(Q.solution()).startswith("def scale(x, by):\n    return")
    assert Q.solution()._repr_markdown_().startswith("```python\ndef scale")


@pytest.mark.parametrize("answer, symbol", [(scale, "✓"), (lambda x, by: x, "✗"), (..., "○")])
def test_a_verdict_says_it_in_words_symbol_and_role(answer, symbol):
    verdict = Q.check(answer)
    page = verdict._repr_html_()
    words = verdict.status.capitalize()
    assert repr(verdict).startswith(f"{symbol} {words}: Scale")
    assert 'role="status"' in page and f'<span aria-hidden="true">{symbol}</span> {words}' in page


def test_a_verdict_escapes_what_the_reader_wrote():
    page = Q.check(raising(ValueError("<script>alert(1)</script>")))._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_large_values_are_shown_small():
    assert shown(torch.zeros(100, 64)) == "float32 of shape (100, 64), from 0 to 0"
    assert len(shown({str(i): torch.zeros(99) for i in range(50)})) < 600
