"""Streams: what each scenario shares, hides and lets compete."""

import pytest
import torch

from cl_tutor.data import Data, digits
from cl_tutor.streams import Batch, permuted, rotated, sequence, split, toy


@pytest.fixture(scope="module")
def data():
    return digits()


def first(task, n=50, split="train"):
    return next(task.batches(n, split))


def test_permuted_shows_the_same_pixels_in_another_fixed_order(data):
    stream = permuted(data, tasks=3)
    a, b, c = (first(task).x.flatten(1) for task in stream.tasks)
    assert not torch.equal(a, b) and not torch.equal(b, c)
    assert torch.equal(a.sort(1).values, b.sort(1).values)
    assert torch.equal(first(stream.tasks[1]).x, first(stream.tasks[1]).x)
    order = (permuted(data, tasks=2, seed=1).tasks[1].view(torch.arange(64).view(1, 1, 8, 8))).flatten()
    assert not torch.equal(order, stream.tasks[1].view(torch.arange(64).view(1, 1, 8, 8)).flatten()), "the seed counts"


def test_train_and_test_go_through_the_same_view(data):
    task = permuted(data, tasks=2).tasks[1]
    pixels = lambda x: x.float().mean(0).flatten()
    plain, seen = data.test[0].float() / 255, torch.cat([b.x for b in task.batches(100, "test")])
    torch.testing.assert_close(pixels(task.view(plain)), pixels(seen))


def test_rotation_by_90_degrees_is_exact_and_the_ends_are_named(data):
    stream = rotated(data, tasks=2, degrees=90)
    upright, turned = (first(task).x for task in stream.tasks)
    torch.testing.assert_close(turned, torch.rot90(upright, -1, (2, 3)), atol=1 / 255, rtol=0)
    assert stream.tasks[1].train.x.dtype == torch.uint8


@pytest.mark.parametrize(
    ("scenario", "outputs", "known", "labels"),
    [("task", 10, True, {6, 7}), ("class", 10, False, {6, 7}), ("domain", 2, False, {0, 1})],
)
def test_split_under_three_scenarios(data, scenario, outputs, known, labels):
    stream = split(data, tasks=5, scenario=scenario)
    task = stream.tasks[3]
    assert stream.units.shape == (5, outputs) and stream.task_known is known
    assert set(task.train.y.tolist()) == labels == set(task.test.y.tolist())
    shown = task.train.x.sum()
    assert shown == data.train[0][torch.isin(data.train[1], torch.tensor([6, 7]))].sum(), (
        "the images of 6 and 7, whatever the label"
    )


def test_who_competes(data):
    t = torch.tensor([0, 1])
    task, domain, klass = (split(data, scenario=s) for s in ("task", "domain", "class"))
    units = lambda stream, seen: [row.nonzero()[:, 0].tolist() for row in stream.competing(t, seen)]
    assert units(task, 2) == [[0, 1], [2, 3]] == units(task, 5)
    assert units(domain, 2) == [[0, 1], [0, 1]]
    assert units(klass, 2) == [[0, 1, 2, 3]] * 2
    assert units(klass, 5) == [list(range(10))] * 2
    assert units(klass, 1) == [[0, 1], [0, 1, 2, 3]], "a task to come: the units up to its own, or no answer is right"
    assert units(klass, 0) == [[0, 1], [0, 1, 2, 3]]


def test_heads_are_the_softmaxes_in_use(data):
    assert split(data, scenario="task").heads(3).sum(1).tolist() == [2, 2, 2]
    assert split(data, scenario="class").heads(3).sum(1).tolist() == [6]
    assert split(data, scenario="domain").heads(3).sum(1).tolist() == [2]


def test_every_test_label_competes_at_any_time(data):
    for build in (permuted, rotated, split):
        for scenario in ("task", "domain", "class"):
            stream = build(data, tasks=5, scenario=scenario)
            for seen in (0, 1, 5):
                for task in stream.tasks:
                    b = first(task, 5, "test")
                    assert stream.competing(b.t, seen)[torch.arange(5), b.y].all()


def test_cumulative_keeps_everything_and_each_tasks_own_view(data):
    stream = permuted(data, tasks=3)
    joint = stream.cumulative()
    n = len(data.train[0])
    assert [len(task.train.x) for task in joint.tasks] == [n, 2 * n, 3 * n]
    b = joint.tasks[2].train
    assert b.t.bincount().tolist() == [n, n, n]
    second = Batch(*(column[n : n + 7] for column in b))
    torch.testing.assert_close(second.x.float() / 255, first(stream.tasks[1], 7).x)
    torch.testing.assert_close(first(joint.tasks[1], 9, "test").x, first(stream.tasks[1], 9, "test").x)


def test_pixels_stay_bytes_until_the_batch(data):
    task = permuted(data).tasks[1]
    assert task.train.x.dtype == torch.uint8
    x = first(task).x
    assert x.dtype == torch.float32 and x.min() >= 0 and 0.9 < x.max() <= 1


def test_data_order_is_the_generators(data):
    task = permuted(data).tasks[0]
    order = lambda seed: torch.cat([b.y for b in task.batches(32, rng=torch.Generator().manual_seed(seed))])
    assert torch.equal(order(0), order(0)) and not torch.equal(order(0), order(1))
    assert torch.equal(order(0).sort().values, task.train.y.sort().values), "each sample once"


def test_sequence_of_different_data_sets():
    a = Data((torch.rand(8, 4), torch.arange(8) % 2), (torch.rand(4, 4), torch.arange(4) % 2), 2, "a")
    b = Data((torch.rand(6, 4), torch.arange(6) % 3), (torch.rand(3, 4), torch.arange(3)), 3, "b")
    assert sequence(a, b, scenario="class").units.int().tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]
    assert sequence(a, b, scenario="domain").units.int().tolist() == [[1, 1, 0], [1, 1, 1]]
    with pytest.raises(ValueError, match="resize them"):
        sequence(a, b._replace(train=(torch.rand(6, 5), b.train[1])))


def test_toy_tasks_pull_in_the_directions_asked_for():
    stream = toy((0.0, 90.0), samples=400)
    mean = lambda t: stream.tasks[t].train.x[1::2].mean(0) - stream.tasks[t].train.x[0::2].mean(0)
    assert mean(0)[0] > 1.6 > 0.4 > abs(mean(0)[1]) and mean(1)[1] > 1.6 > 0.4 > abs(mean(1)[0])


def test_toy_clouds_overlap_so_that_the_best_weights_are_finite():
    """Newton on the logistic loss of each task: it stops, at weights that can be drawn."""
    for task in toy().tasks:
        x, sign, w = task.train.x.double(), 2.0 * task.train.y - 1, torch.zeros(2).double()
        loss = lambda w, x=x, sign=sign: torch.nn.functional.softplus(-sign * (x @ w)).mean()
        for _ in range(30):
            w = w - torch.linalg.solve(torch.func.hessian(loss)(w), torch.func.grad(loss)(w))
        assert torch.func.grad(loss)(w).norm() < 1e-10 and w.norm() < 8


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda d: split(d, tasks=3), "10 classes cannot be split into 3"),
        (lambda d: permuted(d, tasks=0), "at least one task"),
        (lambda d: permuted(d, scenario="taskk"), "no scenario 'taskk'"),
        (lambda d: sequence(), "at least one task"),
        (lambda d: rotated(d._replace(train=(d.train[0].flatten(1), d.train[1]))), "Only images"),
    ],
)
def test_bad_streams_are_refused(data, build, says):
    with pytest.raises(ValueError, match=says):
        build(data)


def test_a_task_without_samples_is_refused():
    x, y = torch.zeros(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    with pytest.raises(ValueError, match="Task 1 would have no sample to train on, or none to test on"):
        split(Data((x, y), (x[:2], y[:2]), 4, "small"), tasks=2)


def test_bytes_and_floats_are_not_mixed():
    y = torch.tensor([0, 1])
    pixels, floats = (Data.of((x, y), (x, y)) for x in (torch.zeros(2, 4, dtype=torch.uint8), torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="give all in one dtype"):
        sequence(pixels, floats)


def test_a_task_has_two_splits():
    with pytest.raises(ValueError, match="the splits 'train' and 'test', not 'Train'"):
        next(permuted(digits(), 1).tasks[0].batches(5, "Train"))
