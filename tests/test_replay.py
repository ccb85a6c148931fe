"""ER, DER and DER++: what they add to the loss, when they look at the batch, and that the past stays."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cl_tutor.data import digits
from cl_tutor.learn import Learner, fit, train
from cl_tutor.methods.memory import ClassBalanced, Herding, Reservoir
from cl_tutor.methods.replay import DER, ER
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted, split, toy

DATA = digits()
STREAMS = {s: split(DATA, scenario=s) for s in ("task", "domain", "class")}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def learner_of(stream, *methods, epochs=1, lr=0.1, seed=0, device="cpu", hidden=30):
    net = MLP((64, hidden, stream.units.shape[1]), seed=seed)
    opt = partial(torch.optim.SGD, lr=lr)
    return Learner(net, stream, list(methods), epochs, 32, opt, seed=seed, device=device)


def run(stream, *methods, **settings):
    learner = learner_of(stream, *methods, **settings)
    results = train(learner)
    return learner, results


def same(a, b) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.net.parameters(), b.net.parameters()))


@pytest.mark.parametrize("scenario", STREAMS)
@pytest.mark.parametrize(
    "method",
    [ER(alpha=0.0), ER(alpha=0.0, memory=ClassBalanced), ER(alpha=0.0, memory=Herding), DER(alpha=0.0)],
    ids=repr,
)
def test_strength_zero_is_bitwise_the_naive_run(scenario, method):
    naive, r = run(STREAMS[scenario])
    other, s = run(STREAMS[scenario], type(method)(**vars_of(method)))
    assert same(naive, other) and r.R.tolist() == s.R.tolist() and r.losses == s.losses


def vars_of(method) -> dict:
    return {name: value for name, value in vars(method).items() if not name.endswith("_")}


@pytest.mark.parametrize("scenario", STREAMS)
def test_der_plus_plus_without_alpha_is_er_bit_for_bit(scenario):
    er, r = run(STREAMS[scenario], ER(50, size=16, alpha=0.7, seed=3))
    der, s = run(STREAMS[scenario], DER(50, size=16, alpha=0.0, beta=0.7, seed=3))
    assert same(er, der) and r.losses == s.losses
    assert not same(er, run(STREAMS[scenario], DER(50, size=16, alpha=0.1, beta=0.7, seed=3))[0])


class Spied(Reservoir):
    """A reservoir that writes down what is asked of it."""

    calls: list

    def add(self, *columns):
        self.calls.append(("add", columns[0].clone()))
        super().add(*columns)

    def sample(self, size):
        rows = super().sample(size)
        self.calls.append(("sample", rows[0].clone()))
        return rows


@pytest.mark.parametrize("method", [ER(30, size=8), DER(30, size=8, alpha=0.5, beta=0.5)], ids=repr)
def test_rows_are_drawn_before_the_batch_is_offered_and_draws_are_independent(method):
    stream = toy((0.0, 90.0))  # random floats: no row occurs twice
    method.memory_ = Spied(30)
    Spied.calls = calls = []
    train(Learner(MLP((2, 8, 2)), stream, [method], batch_size=20, device="cpu"))
    draws = 2 if isinstance(method, DER) else 1
    names = [name for name, _ in calls]
    assert names == ["add"] + (["sample"] * draws + ["add"]) * 19  # 20 steps, the first of them with an empty memory
    offered: set = set()
    for k, (name, x) in enumerate(calls):
        rows = {tuple(row) for row in x.tolist()}
        if name == "add":
            assert not rows & offered
            offered |= rows
        else:
            assert rows <= offered and len(rows) == 8
            if draws == 2 and calls[k - 1][0] == "sample" and len(offered) > 60:
                assert rows != {tuple(row) for row in calls[k - 1][1].tolist()}


def test_the_loss_is_that_of_the_paper():
    for stream in STREAMS.values():
        er, der = ER(20, size=9, alpha=0.3), DER(20, size=9, alpha=0.3, beta=0.6)
        learner = learner_of(stream, er, der)
        learner.seen = 2
        old = next(stream.tasks[0].batches(20))
        then = torch.randn(20, stream.units.shape[1])
        er.memory_.add(*old)
        der.memory_.add(*old, then)
        batch = next(stream.tasks[1].batches(8))

        x, y, t = twin(er.memory_).sample(9)
        logits = learner.net(x).masked_fill(~stream.competing(t, 2), -torch.inf)
        assert er.loss(learner, batch).item() == pytest.approx(0.3 * F.cross_entropy(logits, y).item(), rel=1e-5)

        draws = twin(der.memory_)
        x, _, t, z = draws.sample(9)
        x2, y2, t2, _ = draws.sample(9)
        logits = learner.net(x2).masked_fill(~stream.competing(t2, 2), -torch.inf)
        expected = 0.3 * (learner.net(x) - z).square().mean() + 0.6 * F.cross_entropy(logits, y2)
        assert der.loss(learner, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def twin(memory: Reservoir) -> Reservoir:
    """The same rows and the same draws to come."""
    other = Reservoir(memory.slots)
    other.columns, other.filled = memory.columns, memory.filled
    other.rng.set_state(memory.rng.get_state())
    return other


def test_each_row_is_asked_under_its_own_head():
    stream = STREAMS["task"]
    er = ER(20)
    learner = learner_of(stream, er)
    learner.seen = 3
    er.memory_.add(*next(stream.tasks[0].batches(20)))
    head = torch.autograd.grad(er.loss(learner, next(stream.tasks[2].batches(8))), learner.net.head.bias)[0]
    assert (head[:2] != 0).all() and (head[2:] == 0).all()


def test_stored_logits_are_those_of_the_network_before_the_step():
    der = DER(1000, size=8)
    learner = learner_of(STREAMS["class"], der)
    learner.seen = 1
    task = learner.stream.tasks[0]
    before = {}

    class Watch(ER):  # first in the list, it sees each batch in the loss, before anything has moved
        def loss(self, learner, batch):
            with torch.no_grad():
                before.update(zip(map(tuple, batch.x.flatten(1).tolist()), learner.logits(batch.x, batch.t)))
            return 0.0

    learner.methods.insert(0, Watch())
    fit(learner, task)
    x, _, _, z = der.memory_.rows()
    assert len(x) == len(task.train.y)
    assert torch.equal(z, torch.stack([before[tuple(row)] for row in x.flatten(1).tolist()]))
    with torch.no_grad():
        assert (z - learner.net(x)).abs().max() > 0.1  # at the end of training the logits are others


def test_dark_experience_stores_the_inputs():
    der = DER(40)
    learner, _ = run(STREAMS["class"], der)
    x, _, _, z = der.memory_.rows()
    assert x.shape == (40, 1, 8, 8) and z.shape == (40, 10)
    shown = {tuple(r) for task in learner.stream.tasks for r in next(task.batches(2000)).x.flatten(1).tolist()}
    assert {tuple(row) for row in x.flatten(1).tolist()} <= shown


def test_replay_forgets_less_than_naive_by_a_clear_margin():
    stream = permuted(DATA, tasks=3)
    settings = {"epochs": 6, "lr": 0.2, "hidden": 100}
    naive = run(stream, **settings)[1]
    for method in (
        ER(200),
        ER(200, memory=ClassBalanced),
        ER(200, memory=Herding),
        DER(200),
        DER(200, alpha=0.5, beta=0.5),
    ):
        r = run(stream, method, **settings)[1]
        assert r.forgetting < naive.forgetting - 0.2 and r.acc > naive.acc + 0.1, (method, r, naive)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scenario", STREAMS)
@pytest.mark.parametrize("make", [ER, partial(ER, memory=ClassBalanced), partial(ER, memory=Herding), DER])
def test_every_memory_lives_on_the_device_of_the_learner(device, scenario, make):
    method = make(20)
    stream = STREAMS[scenario]
    learner = learner_of(stream, method, device=device)
    for task in stream.tasks[:2]:
        learner.seen += 1
        fit(learner, task)
        method.after_task(learner, task)
    assert {column.device.type for column in method.memory_.rows()} == {device}
    assert set(method.memory_.rows()[2].tolist()) == {0, 1}


def test_the_repr_reads_as_it_was_written():
    for er in (ER(), ER(30, memory=ClassBalanced), ER(30, size=5, alpha=0.5, seed=2, memory=Herding)):
        assert repr(eval(repr(er))) == repr(er)
    assert "memory=Herding" in repr(ER(memory=Herding))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ER(0), "1 slot or more, not 0"),
        (lambda: ER(size=0), "size must be 1 or more, not 0"),
        (lambda: ER(alpha=-1.0), "alpha must be a finite number of 0 or more, not -1.0"),
        (lambda: DER(alpha=float("nan")), "alpha must be a finite number of 0 or more, not nan"),
        (lambda: DER(beta=-0.5), "beta must be a finite number of 0 or more, not -0.5"),
        (lambda: DER(slots=-3), "1 slot or more, not -3"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
