"""Reservoir: every offer has the same chance. ClassBalanced: every class has its share. Herding: the mean is kept."""

import inspect
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import nn

from cl_tutor.data import digits
from cl_tutor.learn import Learner, train
from cl_tutor.methods import memory as module
from cl_tutor.methods.memory import ClassBalanced, Herding, Reservoir, fair_share, herd
from cl_tutor.methods.replay import ER
from cl_tutor.nets import MLP
from cl_tutor.streams import split

OFFERS, SLOTS = 20, 5


def mutant(old: str, new: str) -> type[Reservoir]:
    """The class with one expression of its source replaced."""
    source = textwrap.dedent(inspect.getsource(Reservoir))
    assert source.count(old) == 1
    scope = dict(vars(module))
    exec("from __future__ import annotations\n" + source.replace(old, new), scope)
    return scope["Reservoir"]


def p_uniform(make, batch: int, runs: int) -> float:
    """The p-value of 'each of n offers is kept with probability M/n', over many seeds."""
    kept = np.zeros(OFFERS)
    for seed in range(runs):
        memory = make(SLOTS, seed)
        for x in torch.arange(OFFERS).split(batch):
            memory.add(x)
        (x,) = memory.rows()
        assert len(x.unique()) == SLOTS  # without replacement
        kept[x.numpy()] += 1
    p = SLOTS / OFFERS
    # the counts of one run sum to M, which takes one degree of freedom and the factor (n − 1)/n
    statistic = ((kept - runs * p) ** 2).sum() / (runs * p * (1 - p)) * (OFFERS - 1) / OFFERS
    return chi2.sf(statistic, OFFERS - 1)


@pytest.mark.parametrize(("batch", "runs"), [(OFFERS, 4000), (3, 1500), (1, 500)])
def test_reservoir_keeps_every_offer_with_the_same_probability(batch, runs):
    assert p_uniform(Reservoir, batch, runs) > 1e-3


@pytest.mark.parametrize(
    ("new", "batch", "runs"),
    [
        ("offers", OFFERS, 4000),  # j in {0 ... i−1}: A-GEM's published code
        ("(offers + 2)", OFFERS, 4000),  # j in {0 ... i+1}: MER's
        ("(self.offered + 1)", 3, 1500),  # a whole batch against the count before it: a survey's
    ],
)
def test_the_same_check_rejects_the_published_reservoirs_that_are_off_by_one(new, batch, runs):
    assert p_uniform(mutant("(offers + 1)", new), batch, runs) < 1e-6


@pytest.mark.parametrize("Memory", [Reservoir, ClassBalanced])
def test_columns_stay_together_and_what_comes_back_is_a_copy(Memory):
    memory = Memory(7)
    for k in range(6):
        x = torch.arange(10 * k, 10 * k + 10)
        memory.add(x.float()[:, None], x % 3, x % 2, -x)
        assert len(memory) == 7
    x, y, t, z = memory.sample(100)
    assert len(x) == len(x.unique()) == 7
    assert torch.equal(y, x[:, 0].long() % 3) and torch.equal(t, x[:, 0].long() % 2) and torch.equal(z, -x[:, 0].long())
    x.zero_()
    assert memory.rows()[0].count_nonzero() >= 6
    assert len(memory.sample(4)[0]) == 4


@pytest.mark.parametrize("Memory", [Reservoir, ClassBalanced])
def test_one_seed_gives_one_memory(Memory):
    def kept(seed):
        memory = Memory(10, seed)
        for x in torch.arange(200).split(16):
            memory.add(x, x % 4, x * 0)
        return memory.sample(8)[0].tolist()

    assert kept(1) == kept(1) != kept(2)


def test_a_memory_needs_a_slot():
    for Memory in (Reservoir, ClassBalanced, Herding):
        with pytest.raises(ValueError, match="1 slot or more, not 0"):
            Memory(0)


def test_class_balanced_covers_and_balances_every_class_of_an_unbalanced_sorted_stream():
    y = torch.arange(8).repeat_interleave(torch.tensor([1000, 500, 3, 200, 50, 900, 30, 10]))
    balanced, reservoir = ClassBalanced(80), Reservoir(80)
    for batch in torch.arange(len(y)).split(32):
        balanced.add(batch, y[batch], y[batch] * 0)
        reservoir.add(batch, y[batch], y[batch] * 0)
        counts = balanced.rows()[1].bincount()
        share = counts[counts > 0].max()  # a class with less than the share holds every sample it ever had
        offered = y[: int(batch[-1]) + 1].bincount()
        assert (counts >= torch.minimum(offered, share - 1)).all()
    assert sorted(counts.tolist()) == [3, 10, 11, 11, 11, 11, 11, 12]  # what a small class leaves goes to the others
    assert reservoir.rows()[1].bincount(minlength=8).min() <= 1  # a uniform sample does not cover


def test_within_a_class_every_offer_has_the_same_chance_however_late_other_classes_come():
    y = torch.tensor([0] * 12 + [1] * 6 + [0] * 6)
    runs, kept = 1000, np.zeros(len(y))
    for seed in range(runs):
        memory = ClassBalanced(6, seed)
        for i in torch.arange(len(y)).split(3):
            memory.add(i, y[i], y[i] * 0)
        kept[memory.rows()[0].numpy()] += 1
    for c, n in ((0, 18), (1, 6)):
        p, counts = 3 / n, kept[y.numpy() == c]
        assert counts.sum() == 3 * runs
        assert chi2.sf(((counts - runs * p) ** 2).sum() / (runs * p * (1 - p)) * (n - 1) / n, n - 1) > 1e-3


def test_small_batches_keep_what_one_large_batch_keeps():
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(5, (300,), generator=rng)
    kept = []
    for size in (300, 7, 1):
        memory = ClassBalanced(23)
        for i in torch.arange(300).split(size):
            memory.add(i, y[i], y[i])
        kept.append(sorted(memory.rows()[0].tolist()))
    assert kept[0] == kept[1] == kept[2]


def test_fair_share_takes_the_lowest_keys_in_turn():
    group = np.array([0, 0, 0, 0, 1, 2, 2])
    key = np.array([0.4, 0.3, 0.2, 0.1, 0.9, 0.8, 0.7])
    assert fair_share(group, key, 3).tolist() == [3, 4, 6]
    assert fair_share(group, key, 5).tolist() == [2, 3, 4, 5, 6]
    assert fair_share(group, key, 6).tolist() == [1, 2, 3, 4, 5, 6]
    assert fair_share(group, key, 99).tolist() == list(range(7))


def test_herding_is_algorithm_4_by_brute_force():
    f = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    picked: list[int] = []
    for k in range(1, 13):
        gap = lambda j, k=k: float((f.mean(0) - f[[*picked, j]].sum(0) / k).norm())
        picked.append(min(set(range(12)) - set(picked), key=gap))
    assert herd(f, 12).tolist() == picked and herd(f, 5).tolist() == picked[:5]


def test_herded_rows_have_the_class_mean_better_than_random_rows_on_the_features_of_real_digits():
    net = MLP((64, 100, 100, 10))
    stream = split(digits(), tasks=1)
    train(Learner(net, stream, epochs=5, batch_size=32, device="cpu"))
    batch = next(stream.tasks[0].batches(2000))
    with torch.no_grad():
        features = F.normalize(net.features(batch.x))
    for slots in (2, 5, 10, 20):
        ratios = []
        for c in range(10):
            f = features[batch.y == c]
            gap = lambda rows, f=f: float((f[rows].mean(0) - f.mean(0)).norm())
            rng = torch.Generator().manual_seed(c)
            random = np.mean([gap(torch.randperm(len(f), generator=rng)[:slots]) for _ in range(10)])
            ratios.append(gap(herd(f, slots)) / random)
        assert np.mean(ratios) < 0.5 and max(ratios) < 0.9, (slots, ratios)


def test_herding_in_a_run_keeps_the_best_of_every_class_and_cuts_lists_from_the_end():
    herding = ER(21, memory=Herding)
    learner = Learner(MLP((64, 30, 10)), split(digits()), [herding], epochs=2, batch_size=32, device="cpu")
    lists = []
    for task in learner.stream.tasks:
        learner.seen += 1
        before = herding.memory_.rows()
        for batch in task.batches(32):
            herding.after_step(learner, batch)
        assert all(torch.equal(a, b) for a, b in zip(before, herding.memory_.rows()))  # nothing before the end
        herding.after_task(learner, task)
        _, y, _ = herding.memory_.rows()
        counts = y.bincount()
        assert len(counts) == 2 * learner.seen and counts.max() - counts.min() <= 1 and len(y) == 21
        lists.append(herding.memory_.rows())
    batch = next(learner.stream.tasks[0].batches(2000))
    rows = batch.x[batch.y == 0]
    with torch.no_grad():
        order = herd(F.normalize(learner.net.features(rows)), 10)  # the net was not trained: its features stand still
    for x, y, _ in lists:
        share = rows[order[: int((y == 0).sum())]]
        assert {tuple(row) for row in x[y == 0].flatten(1).tolist()} == {tuple(r) for r in share.flatten(1).tolist()}


def test_herding_gives_the_tasks_of_domain_il_equal_parts_of_a_class():
    from cl_tutor.streams import permuted

    er = ER(40, memory=Herding)
    train(Learner(MLP((64, 20, 10)), permuted(digits(), tasks=2), [er], device="cpu"))
    _, y, t = er.memory_.rows()
    assert (torch.stack([t, y]).unique(dim=1, return_counts=True)[1] == 2).all() and len(y) == 40


def test_herding_refuses_a_network_without_features():
    with pytest.raises(ValueError, match="Linear has no features"):
        Learner(nn.Linear(64, 10), split(digits()), [ER(10, memory=Herding)])
