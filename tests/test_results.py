"""R and b -> ACC, forgetting, BWT, FWT, against sums written out with loops, and against each other."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.console import Console

from cl_tutor.results import Results

unit = st.floats(0, 1)
pairs = st.integers(2, 6).flatmap(
    lambda T: st.tuples(arrays(float, (T, T), elements=unit), arrays(float, T, elements=unit))
)


@given(pairs)
def test_the_four_numbers_are_the_papers_sums(Rb):
    R, b = Rb
    T, r = len(R), Results(R, b)
    assert r.acc == pytest.approx(sum(R[T - 1][j] for j in range(T)) / T)
    assert r.bwt == pytest.approx(sum(R[T - 1][j] - R[j][j] for j in range(T - 1)) / (T - 1), abs=1e-12)
    assert r.fwt == pytest.approx(sum(R[j - 1][j] - b[j] for j in range(1, T)) / (T - 1), abs=1e-12)
    worst = [max(R[i][j] for i in range(T - 1)) - R[T - 1][j] for j in range(T - 1)]
    assert r.forgetting == pytest.approx(sum(worst) / (T - 1), abs=1e-12)
    assert r.forgetting >= -r.bwt - 1e-12  # the best ever held is at least what was held on the first day


@given(pairs)
def test_json_gives_back_every_bit(Rb):
    r = Results(*Rb, losses=[[1.0, 0.5], []])
    again = Results.from_json(r.to_json())
    assert (again.R == r.R).all() and (again.b == r.b).all() and again.losses == r.losses


def test_save_and_load(tmp_path):
    r = Results([[0.5]], [0.1])
    r.save(tmp_path / "r.json")
    assert Results.load(tmp_path / "r.json").acc == 0.5
    json.loads((tmp_path / "r.json").read_text())


def test_transposed_R_is_not_the_same():
    R = np.array([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.5, 0.6, 0.9]])
    a, b = Results(R, np.full(3, 0.1)), Results(R.T, np.full(3, 0.1))
    assert a.bwt < 0 < b.fwt and a.bwt != b.bwt


def test_one_task_has_an_accuracy_and_nothing_else():
    m = Results([[0.7]], [0.1]).metrics()
    assert m["acc"] == 0.7 and all(np.isnan(m[k]) for k in ("forgetting", "bwt", "fwt"))


@pytest.mark.parametrize(
    ("R", "b", "says"),
    [
        ([[0.9, 0.1]], [0.1, 0.1], "square"),
        ([[0.9]], [0.1, 0.1], "one entry a task"),
        ([[90.0]], [0.1], "divide percentages by 100"),
        ([[float("nan")]], [0.1], "nan"),
        ([[0.9]], [-0.1], "b holds -0.1"),
        ([[0.9], [0.1, 0.2]], [0.1, 0.1], "equal length"),
        ([], [], "square"),
    ],
)
def test_bad_matrices_are_refused_with_one_sentence(R, b, says):
    with pytest.raises(ValueError, match=says) as e:
        Results(R, b)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"R": [[0.9]]}', "3"])
def test_json_that_is_no_result_is_refused(text):
    with pytest.raises(ValueError, match="Not a stored result"):
        Results.from_json(text)


def test_results_cannot_be_edited_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        Results([[0.9]], [0.1]).R[0, 0] = 1


def test_html_and_terminal_show_every_cell_and_the_four_numbers():
    r = Results([[0.912, 0.2], [0.7, 0.834]], [0.1, 0.155])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(r)
    for text in (r._repr_html_(), console.export_text()):
        assert all(f"{v:.3f}" in text for v in (0.912, 0.2, 0.7, 0.834, 0.1, 0.155, *r.metrics().values()))


def test_equal_accuracies_are_equal_results():
    a, b = Results([[0.5]], [0.1], [[1.0]]), Results([[0.5]], [0.1])
    assert a == b and a != Results([[0.6]], [0.1]) and a != 0.5
