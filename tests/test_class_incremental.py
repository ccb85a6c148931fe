"""Nearest mean and bias correction answer fairly where the network shouts its newest classes; iCaRL is a list."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

from cl_tutor.data import digits
from cl_tutor.learn import Learner, train
from cl_tutor.methods.class_incremental import BiasCorrection, NearestMean, correct, icarl
from cl_tutor.methods.memory import ClassBalanced, Herding
from cl_tutor.methods.regularization import LwF
from cl_tutor.methods.replay import DER, ER
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted, split

DATA = digits()
STREAMS = {s: split(DATA, scenario=s) for s in ("task", "domain", "class")}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def learner_of(stream, *methods, epochs=6, seed=0, device="cpu", hidden=60):
    net = MLP((64, hidden, hidden, stream.units.shape[1]), seed=seed)
    opt = partial(torch.optim.SGD, lr=0.1)
    return Learner(net, stream, list(methods), epochs, 32, opt, seed=seed, device=device)


def accuracies(learner) -> np.ndarray:
    return np.array([learner.accuracy(task) for task in learner.stream.tasks])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_nearest_mean_repairs_the_recency_bias_of_a_naive_network_without_retraining(seed):
    learner = learner_of(STREAMS["class"], ER(200, alpha=0.0, memory=ClassBalanced), seed=seed)
    train(learner)
    weights = [p.clone() for p in learner.net.parameters()]
    biased = accuracies(learner)
    assert biased[:4].max() < 0.05 and biased[4] > 0.8  # it says 8 or 9 to everything
    learner.methods.append(NearestMean())
    fair = accuracies(learner)
    assert fair[:4].min() > 0.2 and fair[:4].mean() > 0.5 and fair.mean() > biased.mean() + 0.25
    assert all(torch.equal(p, q) for p, q in zip(weights, learner.net.parameters()))


@pytest.mark.parametrize("seed", [0, 1])
def test_bias_correction_repairs_it_too_and_also_that_of_a_network_with_dark_replay(seed):
    for others, gain in ([], 0.12), ([DER(200)], 0.15):
        correction = BiasCorrection(100)
        learner = learner_of(STREAMS["class"], *others, correction, seed=seed)
        train(learner)
        fair = accuracies(learner)
        learner.methods.remove(correction)
        biased = accuracies(learner)
        assert fair[:4].mean() > biased[:4].mean() + 0.25 and fair.mean() > biased.mean() + gain, (fair, biased)


def test_bias_correction_leaves_the_weights_and_the_data_order_as_they_are():
    a, b = learner_of(STREAMS["class"], epochs=1), learner_of(STREAMS["class"], BiasCorrection(), epochs=1)
    assert train(a).losses == train(b).losses
    assert all(torch.equal(p, q) for p, q in zip(a.net.parameters(), b.net.parameters()))


def test_the_means_and_the_answers_are_those_of_the_equation():
    er = ER(60, alpha=0.0)
    learner = learner_of(STREAMS["class"], er, NearestMean(), epochs=1)
    train(learner)
    x, y, _ = er.memory_.rows()
    unit = lambda v: v / v.norm(dim=-1, keepdim=True)
    batch = next(STREAMS["class"].tasks[2].batches(30, "test"))
    with torch.no_grad():
        scores = learner.scores(batch.x, batch.t)
        for c in range(10):
            mean = unit(unit(learner.net.features(x[y == c])).mean(0))
            wanted = -(unit(learner.net.features(batch.x)) - mean).norm(dim=1)
            torch.testing.assert_close(scores[:, c], wanted, atol=1e-4, rtol=1e-4)


def test_a_class_of_which_nothing_is_kept_is_never_the_answer():
    er = ER(20, alpha=0.0)
    learner = learner_of(STREAMS["class"], er, NearestMean())
    learner.seen = 2
    assert learner.methods[1].predict(learner, torch.rand(4, 64), torch.zeros(4).long()) is None  # nothing at all yet
    batch = next(STREAMS["class"].tasks[0].batches(20))
    er.memory_.add(*batch)
    scores = learner.scores(batch.x, batch.t)
    assert torch.isfinite(scores[:, :2]).all() and (scores[:, 2:] == -torch.inf).all()


def test_the_means_follow_the_features():
    er = ER(50, alpha=0.0)
    learner = learner_of(STREAMS["class"], er, NearestMean(), epochs=1)
    train(learner)
    before = accuracies(learner)
    with torch.no_grad():
        for module in learner.net.body[::2]:  # scramble the hidden units: features move, distances do not
            order = torch.randperm(module.out_features, generator=torch.Generator().manual_seed(0))
            if module is learner.net.body[2]:
                module.weight.copy_(module.weight[order])
                module.bias.copy_(module.bias[order])
    assert np.allclose(accuracies(learner), before, atol=0.02)


@pytest.mark.parametrize("memory", [ER, DER])
def test_it_reads_the_memory_of_whichever_method_keeps_rows(memory):
    learner = learner_of(STREAMS["class"], NearestMean(), memory(100), epochs=4)
    assert train(learner).acc > 0.6


def test_herded_means_classify_better_than_random_ones_at_equal_slots_on_real_features():
    gains = []
    for seed in range(5):
        accs = []
        for memory in (Herding, ClassBalanced):
            learner = learner_of(STREAMS["class"], ER(20, alpha=0.0, seed=seed, memory=memory), seed=seed, epochs=4)
            train(learner)
            learner.methods.append(NearestMean())
            accs.append(accuracies(learner).mean())
        gains.append(accs[0] - accs[1])
    assert np.mean(gains) > 0.02, gains


def test_icarl_is_a_list_of_three_and_beats_naive_and_distillation():
    methods = icarl(100, T=3.0, seed=2)
    assert repr(methods) == (
        "[ER(slots=100, size=64, alpha=1.0, seed=2, memory=Herding), LwF(alpha=1.0, T=3.0), NearestMean()]"
    )
    ours = train(learner_of(STREAMS["class"], *methods)).acc
    naive = train(learner_of(STREAMS["class"])).acc
    lwf = train(learner_of(STREAMS["class"], LwF())).acc
    assert ours > 0.7 and ours > max(naive, lwf) + 0.3


def test_correct_gives_each_task_its_own_pair():
    units = STREAMS["class"].units
    z, pairs = torch.randn(7, 10), torch.randn(5, 2)
    wanted = torch.stack([pairs[c // 2, 0] * z[:, c] + pairs[c // 2, 1] for c in range(10)], 1)
    torch.testing.assert_close(correct(z, pairs, units), wanted)


def test_the_pairs_minimise_the_cross_entropy_of_rows_that_were_never_replayed():
    correction = BiasCorrection(100)
    learner = learner_of(STREAMS["class"], correction, epochs=2)
    train(learner)
    x, y, _ = correction.memory_.rows()
    assert y.bincount().tolist() == [10] * 10
    z, units = learner.net(x).detach().double(), learner.stream.units

    def objective(p):
        pairs = torch.tensor(p).view(5, 2)
        start = torch.tensor([1.0, 0.0])
        return (F.cross_entropy(correct(z, pairs, units), y) + 5e-4 * (pairs - start).square().sum()).item()

    reference = minimize(objective, np.array([1.0, 0.0] * 5))
    assert objective(correction.pairs_.double().flatten().numpy()) == pytest.approx(reference.fun, rel=1e-3)
    uncorrected = F.cross_entropy(z, y).item()
    found = F.cross_entropy(correct(z, correction.pairs_.double(), units), y).item()
    assert found < 0.7 * uncorrected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scenario", STREAMS)
@pytest.mark.parametrize("make", [icarl, lambda: [ER(50), BiasCorrection(20)], lambda: [DER(50), NearestMean()]])
def test_runs_on_every_device_in_every_scenario_it_suits(device, scenario, make):
    methods = make()
    if scenario != "class" and isinstance(methods[-1], BiasCorrection):
        with pytest.raises(ValueError, match="needs Class-IL"):
            learner_of(STREAMS[scenario], *methods)
        return
    learner = learner_of(STREAMS[scenario], *methods, epochs=1, device=device)
    results = train(learner)
    batch = next(learner.stream.tasks[0].batches(50, "test")).to(device)
    plain = learner.mask(learner.logits(batch.x, batch.t), batch.t)
    assert not torch.equal(plain, learner.scores(batch.x, batch.t)) and results.R[0, 0] > 0.6


def test_what_cannot_be_served_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="nothing is kept: add ER"):
        learner_of(STREAMS["class"], NearestMean())
    with pytest.raises(ValueError, match="Linear has no features"):
        Learner(nn.Linear(64, 10), STREAMS["class"], [ER(10), NearestMean()])
    with pytest.raises(ValueError, match="needs Class-IL"):
        learner_of(permuted(DATA, tasks=2), BiasCorrection())
    with pytest.raises(ValueError, match="would both answer"):
        learner_of(STREAMS["class"], ER(10), NearestMean(), BiasCorrection())
    with pytest.raises(ValueError, match="1 slot or more, not 0"):
        BiasCorrection(0)
    with pytest.raises(ValueError, match="1 slot or more, not 0"):
        icarl(0)
