"""Predictions and questions are kept, marked and drawn; the file of progress survives what can happen to a file."""

import json
import multiprocessing
import warnings

import numpy as np
import pytest
import refresh

from cl_tutor.exercises import LESSONS, Exercise, Guess, Question, progress, reader, recall, what_do_you_forget
from cl_tutor.exercises.forgetting import equal_epochs, q1, q2


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_TUTOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def right(round):
    return [q.answer for _, q in round.asked]


# ---- every lesson ----------------------------------------------------------------------------------------------------


def test_the_list_of_lessons_is_that_of_the_notebooks():
    assert [f"{k:02d}_{name}" for k, name in LESSONS.items()] == [
        p.stem for p in sorted(refresh.NOTEBOOKS.glob("*.ipynb"))
    ]


@pytest.mark.parametrize("lesson", LESSONS)
def test_questions_are_sound(lesson):
    questions = reader.module(lesson).questions
    assert len(questions) >= 4 and len({q.key for q in questions}) == len(questions)
    for q in questions:
        assert isinstance(q, Question) and q.text.strip().endswith("?") and q.answer in ("a", "b", "c")
        assert len(set(q.choices)) == 3 and len(q.why.split()) >= 6
    if len(questions) >= 4:
        assert len({q.answer for q in questions}) > 1, "always the same letter is right"


def test_the_right_answer_is_not_betrayed_by_its_length():
    questions = [q for k in LESSONS for q in reader.module(k).questions]
    longest = [q for q in questions if len(q.choices["abc".index(q.answer)]) == max(map(len, q.choices))]
    assert len(longest) <= 0.6 * len(questions), [q.key for q in longest]


# ---- questions from before -------------------------------------------------------------------------------------------


def test_recall_asks_three_different_questions_from_earlier_lessons_and_another_round_asks_others():
    for lesson in [k for k in LESSONS if k > 0]:
        round = recall(lesson)
        assert all(k < lesson for k, _ in round.asked) and len({(k, q.key) for k, q in round.asked}) == 3
        assert recall(lesson) == round
    rounds = {tuple(q.key for _, q in recall(3, n).asked) for n in range(1, 7)}
    assert len(rounds) > 1, "every round asks the same"


def test_a_notebook_run_again_with_its_answers_meets_the_same_questions_and_adds_nothing():
    """Run All on another day, or once the reasons are known: only the first try at a round is the reader's own."""
    before = recall(3)
    recall(3).check(*["b" if a != "b" else "c" for a in right(before)])
    stored = progress.read()["recalls"]
    assert recall(3) == before and set(stored[0]["right"].values()) == {False}
    assert "Correct" in repr(recall(3).check(*right(before))) and progress.read()["recalls"] == stored
    recall(3, 2).check(*right(recall(3, 2)))
    assert [r["round"] for r in progress.read()["recalls"]] == [1, 2]


def test_every_earlier_question_is_asked_in_the_long_run():
    """The draw is uniform over the pool: of 400 rounds each question is in 3/n, within 5 standard deviations."""
    pool = [q.key for k in LESSONS if k < 3 for q in reader.module(k).questions]
    counts = dict.fromkeys(pool, 0)
    for n in range(400):
        memory = reader.Reservoir(3, seed=300 + n)
        memory.add(reader.torch.arange(len(pool)))
        for i in memory.rows()[0].tolist():
            counts[pool[i]] += 1
    share = np.array(list(counts.values())) / 400
    p = 3 / len(pool)
    assert (abs(share - p) < 5 * np.sqrt(p * (1 - p) / 400)).all()


def test_answers_are_marked_with_the_reason():
    round = recall(2)
    good, wrong = right(round), ["b" if a != "b" else "c" for a in right(round)]
    assert repr(round.check(*good)).count("Correct") == 3
    marked = reader.Recall(2, round.asked).check(*wrong)
    assert repr(marked).count("Incorrect") == 3 and all(q.why in repr(marked) for _, q in round.asked)
    assert "Not attempted" in repr(round.check(..., "a", "a")) and 'role="status"' in marked._repr_markdown_()
    for text in (repr(round), round._repr_markdown_()):
        assert all(choice in text for _, q in round.asked for choice in q.choices)


@pytest.mark.parametrize(
    "answers, words",
    [(("a",), "3 questions, and 1 answers"), (("a", "b", "d"), "'d' is no answer"), (("a", 1, "b"), "1 is")],
)
def test_answers_that_are_none_are_refused(answers, words):
    with pytest.raises(ValueError, match=words):
        recall(2).check(*answers)


def test_lessons_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no lesson 77"):
        reader.module(77)
    for lesson in (0, 50, -1, "3"):
        with pytest.raises(ValueError, match="write recall"):
            recall(lesson)
    with pytest.raises(ValueError, match="Rounds are 1, 2, 3"):
        recall(3, 0)


# ---- predictions -----------------------------------------------------------------------------------------------------


def test_a_prediction_is_scored_and_kept():
    assert "off by 0.22" in repr(Guess("x", 0.5).score(np.float64(0.72)))
    assert "not as you said" in repr(Guess("y", "diagonal").score("full"))
    assert ": as you said" in repr(Guess("y", "full").score("full"))
    assert "You said −0.5, measured −17: off by 16" in repr(Guess("z", -0.5).score(-17.0))
    assert "You said er-lwf, measured online-ewc" in repr(Guess("z", "er-lwf").score("online-ewc"))
    progress.update(lambda stored: stored["guesses"].pop("z"))
    assert progress.read()["guesses"] == {"x": [0.5, 0.72], "y": ["full", "full"]}
    assert Guess("x", 0.5).marks == {0.5: "your guess"}


def test_no_prediction_is_no_error_and_not_kept():
    guess = Guess("x", ...)
    assert guess.value is None and guess.marks == {} and "None was made; measured: 0.7" in repr(guess.score(0.7))
    assert progress.read() == progress.EMPTY
    for value in ([0.5], True, float("nan"), "inf", np.ones(1)):
        with pytest.raises(TypeError, match="a number or a word"):
            Guess("x", value)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), "0.5", " 0.5 "])
def test_a_number_is_a_number_however_it_is_written(value):
    assert Guess("x", value).marks == {0.5: "your guess"}
    Guess("x", value).score(0.72)
    assert progress.read()["guesses"] == {"x": [0.5, 0.72]}


def test_a_word_has_no_place_on_an_axis():
    assert Guess("x", "diagonal").marks == {}
    assert "not as you said" in repr(Guess("x", "a lot").score(0.3))


# ---- the file --------------------------------------------------------------------------------------------------------


def test_exercises_are_noted_once_tried_and_correct_stays_correct(home):
    q2.check(lambda tasks, epochs: ...)
    assert progress.read() == progress.EMPTY
    q2.check(lambda tasks, epochs: 0.0)
    assert progress.read()["exercises"] == {f"forgetting/{q2.name}": "incorrect"}
    q2.check(equal_epochs)
    q2.check(lambda tasks, epochs: 0.0)
    assert progress.read()["exercises"] == {f"forgetting/{q2.name}": "correct"}
    assert [p.name for p in home.iterdir()] == ["progress.json"]
    Exercise("mine", lambda: 1, {}, ("", "", "")).check(1)
    assert len(progress.read()["exercises"]) == 1, "only the course's own exercises are kept"


def stored(**entries):
    return json.dumps(progress.EMPTY | entries)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", "\x00", "[" * 100_000, stored(guesses=[]), stored(exercises={"a": ["correct"]}),
     stored(guesses={"x": 0.5}), stored(recalls=[{}]), stored(recalls=[{"lesson": "3", "round": 1, "right": {}}])],
)  # fmt: skip
def test_a_damaged_file_is_set_aside(home, text):
    home.mkdir()
    progress.path().write_text(text)
    with pytest.warns(UserWarning, match=r"could not be read .* it is now progress.damaged.json"):
        Guess("x", 0.5).score(0.6)
    assert progress.path().with_suffix(".damaged.json").read_text() == text
    assert progress.read()["guesses"] == {"x": [0.5, 0.6]}


def test_where_nothing_can_be_written_the_lesson_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CL_TUTOR_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="CL_TUTOR_HOME"):
        assert q2.check(equal_epochs)
        assert "off by" in repr(Guess("x", 0.5).score(0.6))
        assert recall(3).check(*right(recall(3)))
        assert "Nothing yet" in repr(what_do_you_forget())


def write_many(k):
    for n in range(10):
        progress.exercise("forgetting", f"{k}-{n}", "correct")


def test_two_notebooks_at_once_leave_a_whole_file(home):
    """Of two writers in the same instant one may lose its line; the file is never torn."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(write_many, range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 10 <= len(progress.read()["exercises"]) <= 20
    assert [p.name for p in home.iterdir()] == ["progress.json"]


def test_reset(home):
    Guess("x", 0.5).score(0.6)
    progress.reset()
    progress.reset()
    assert not progress.path().exists() and progress.read() == progress.EMPTY


# ---- what do you forget? ---------------------------------------------------------------------------------------------


def test_the_readers_own_matrix():
    assert reader.knowledge() is None and "Nothing yet" in repr(what_do_you_forget())
    questions = {k: [f"{LESSONS[k]}/{q.key}" for q in reader.module(k).questions] for k in (0, 1, 2)}
    progress.path().parent.mkdir()
    stored = {
        "exercises": {f"forgetting/{q.name}": "correct" for q in (q1, q2)} | {"interference/x": "correct"},
        "guesses": {},
        "recalls": [
            {"lesson": 2, "round": 1, "right": {questions[0][0]: True, questions[0][1]: False, questions[1][0]: True}},
            {"lesson": 3, "round": 1, "right": {questions[0][0]: False, questions[2][0]: True, questions[2][1]: True}},
        ],
    }
    progress.path().write_text(json.dumps(stored))
    met, results = reader.knowledge()
    # lesson 1 has no known exercise and no round of questions, so it was not met; 0 falls from 1 to 1/2 to 0
    assert met == [0, 2, 3]
    assert results.R.tolist() == [[1, 0, 0], [0.5, 0, 0], [0, 1, 0]]
    assert results.forgetting == pytest.approx((1 - 0 + 0 - 1) / 2)
    alt = what_do_you_forget().alt
    assert "After lesson 02: 0.50" in alt and "What do you forget?" in alt


def test_progress_is_in_the_file_of_the_reader_alone(home):
    json.loads(json.dumps(progress.read()))
    Guess("x", 0.5).score(0.6)
    assert json.loads((home / "progress.json").read_text())["guesses"] == {"x": [0.5, 0.6]}
