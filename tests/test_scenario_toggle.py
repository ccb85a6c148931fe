"""ScenarioToggle: its readings against Stream.competing, NearestMean and BiasCorrection, and what a reader can do."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor.data import digits
from cl_tutor.learn import Learner, train
from cl_tutor.methods.class_incremental import NearestMean, correct, identity
from cl_tutor.methods.replay import ER
from cl_tutor.nets import MLP
from cl_tutor.streams import Stream, assemble, split
from cl_tutor.widgets import ScenarioToggle
from cl_tutor.widgets.scenario_toggle import folded, nearest, right

RULES = ("task", "domain", "class")


@pytest.fixture(scope="module")
def learner() -> Learner:
    """A naive run whose memory is kept and never trained on."""
    sgd = partial(torch.optim.SGD, lr=0.05)
    naive = Learner(MLP((64, 30, 10)), split(digits()), [ER(100, alpha=0.0)], 3, 32, sgd)
    train(naive)
    return naive


@pytest.fixture(scope="module")
def toggle(learner) -> ScenarioToggle:
    return ScenarioToggle.of(learner, samples=30)


def package(rule: str, scores: np.ndarray, y: np.ndarray, t: np.ndarray, stream: Stream) -> np.ndarray:
    """The same reading by the package: the mask of `competing`; for Domain-IL the folded head's own stream."""
    z, y, t = torch.tensor(scores), torch.tensor(y), torch.tensor(t)
    T, C = stream.units.shape
    if rule == "domain":
        z, y = z.view(len(z), T, C // T).amax(1), y % (C // T)
        stream = assemble([digits()._replace(classes=C // T)] * T, "domain")
    else:
        stream = Stream(stream.tasks, stream.units, task_known=rule == "task")
    return z.masked_fill(~stream.competing(t, seen=T), -torch.inf).argmax(1).eq(y).numpy()


def arrays(toggle: ScenarioToggle) -> tuple[np.ndarray, ...]:
    return tuple(np.array(a) for a in (toggle.logits, toggle.y, toggle.t, toggle.owner))


def test_the_readings_in_javascript_are_those_of_the_package(toggle, learner, tmp_path):
    z, y, t, owner = arrays(toggle)
    cases = []

    def add(scores: np.ndarray, **given) -> None:
        ok = {rule: package(rule, scores, y, t, learner.stream) for rule in RULES}
        by_task = {rule: [v[t == k].mean() for k in range(5)] for rule, v in ok.items()}
        shown = np.where(np.isfinite(scores), scores, -1e9).tolist()
        cases.append({"y": y.tolist(), "t": t.tolist(), "owner": owner.tolist(), "scores": shown, **given,
                      "right": {rule: v.tolist() for rule, v in ok.items()}, "accuracies": by_task})  # fmt: skip

    for delta in (0.0, 0.7, 3.0, 8.1):
        pairs = identity(5).double()
        pairs[4, 1] = -delta
        scores = correct(torch.tensor(z), pairs, learner.stream.units).numpy()
        add(scores, logits=z.tolist(), delta=delta)
    add(nearest(toggle.features, toggle.means), features=toggle.features, means=toggle.means)
    missing = [*toggle.means[:3], None, *toggle.means[4:]]
    add(nearest(toggle.features, missing), features=toggle.features, means=missing)
    run_node("scenario_toggle", cases, 5, tmp_path)


def test_python_reads_as_the_package_does(toggle, learner):
    z, y, t, owner = arrays(toggle)
    for scores in (z, nearest(toggle.features, toggle.means), np.random.default_rng(0).normal(size=z.shape)):
        for rule in RULES:
            assert (right(rule, scores, y, t, owner) == package(rule, scores, y, t, learner.stream)).all()


def test_the_folded_features_have_the_distances_of_nearest_mean(toggle, learner):
    batches = [next(task.batches(30, "test")) for task in learner.stream.tasks]
    x, _, t = (torch.cat(column) for column in zip(*batches))
    own = NearestMean().predict(learner, x, t).detach().numpy()
    assert nearest(toggle.features, toggle.means) == pytest.approx(own, abs=3e-3)  # rounded to 4 digits
    assert (nearest(toggle.features, toggle.means).argmax(1) == own.argmax(1)).mean() > 0.98
    rng = np.random.default_rng(1)
    phi, mu = rng.normal(size=(7, 40)), rng.normal(size=(4, 40))
    mu[2] = 0
    assert nearest(*folded(phi, mu))[:, [0, 1, 3]] == pytest.approx(
        -np.linalg.norm(phi[:, None] - mu[[0, 1, 3]], axis=2), abs=1e-3
    )
    assert folded(phi, mu)[1][2] is None


def test_of_reads_what_the_learner_would_answer(learner):
    toggle = ScenarioToggle.of(learner, samples=1000)
    z, y, t, owner = arrays(toggle)
    found = [right("class", z, y, t, owner)[t == k].mean() for k in range(5)]
    assert found == pytest.approx([learner.accuracy(task) for task in learner.stream.tasks], abs=0.02)
    early = Learner(MLP(), split(digits()), seed=1)
    with pytest.raises(ValueError, match=r"no task yet: train\(learner\)"):
        ScenarioToggle.of(early)
    early.seen = 2
    assert len(ScenarioToggle.of(early, 10).owner) == 4 and not ScenarioToggle.of(early, 10).features


def test_nonsense_is_refused():
    z, y, t = np.zeros((4, 4)), [0, 1, 2, 3], [0, 0, 1, 1]
    units = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
    ScenarioToggle(z, y, t, units)
    with pytest.raises(ValueError, match=r"none shared.*\[4, 4\] of 4"):
        ScenarioToggle(z, y, t, np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"each task a sample.*\(4, 4\)"):
        ScenarioToggle(z, y, [0, 0, 0, 0], units)
    with pytest.raises(ValueError, match="agree in H"):
        ScenarioToggle(z, y, t, units, np.zeros((4, 3)), np.zeros((4, 2)))


def test_one_bundle_holds_the_view_the_island_and_the_picture(toggle, learner):
    assert_bundle(toggle, ScenarioToggle.of(learner, samples=30))
    assert "Class-IL, nearest mean from" in toggle.picture().alt
    assert len(ScenarioToggle.of(learner).island()) < 200_000


# ------------------------------------------------------------------------------------------------------ in the browser


def shown(page) -> dict[str, float]:
    names = {"task": "Task-IL", "domain": "Domain-IL", "class": "Class-IL"}
    return {rule: float(page.get_by_role("button", name=name).locator("strong").inner_text())
            for rule, name in names.items()}  # fmt: skip


def expected(scores: np.ndarray, toggle: ScenarioToggle) -> dict[str, float]:
    _, y, t, owner = arrays(toggle)
    return {rule: right(rule, scores, y, t, owner).mean() for rule in RULES}


def test_the_numbers_follow_the_way_of_answering_and_the_slider(open_island, toggle):
    page, (z, _, _, owner) = open_island(toggle), arrays(toggle)
    assert shown(page) == pytest.approx(expected(z, toggle), abs=0.0051)
    quiet = page.get_by_role("slider", name="taken from units 8, 9")
    quiet.fill("2")
    assert shown(page) == pytest.approx(expected(z - 2 * (owner == 4), toggle), abs=0.0051)
    quiet.press("ArrowRight")
    assert quiet.get_attribute("aria-valuetext") == "δ = 2.1"
    page.get_by_role("button", name="nearest mean").press("Enter")
    assert shown(page) == pytest.approx(expected(nearest(toggle.features, toggle.means), toggle), abs=0.0051)
    assert not quiet.is_visible()


def test_the_next_disputed_image_is_judged_differently(open_island, toggle):
    page, (z, y, t, owner) = open_island(toggle), arrays(toggle)
    judged = np.stack([right(rule, z, y, t, owner) for rule in RULES])
    disputed = np.flatnonzero(judged.any(0) & ~judged.all(0))
    first = disputed[disputed > 0][0]
    page.get_by_role("button", name="next image").press("Enter")
    assert page.get_by_role("slider", name="image", exact=True).input_value() == str(first + 1)
    for rule, ok in zip(("Task-IL", "Domain-IL", "Class-IL"), judged[:, first]):
        page.get_by_role("button", name=rule).press("Enter")
        assert ("Right." in page.locator("p", has_text="★").inner_text()) == ok


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_can_be_found_and_hit(open_island, toggle, width):
    assert_controls(open_island(toggle, width=width), "Scenario toggle")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(open_island, toggle, scheme):
    assert_readable(open_island(toggle, scheme=scheme))
