"""Nothing is forgotten, exactly; and what it costs is counted."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from cl_tutor.data import digits
from cl_tutor.learn import Learner, Method, fit, train
from cl_tutor.methods.architectures import Adapters, PackNet, Progressive, SupSup, by_task, largest
from cl_tutor.methods.generative import GenerativeReplay
from cl_tutor.methods.regularization import EWC
from cl_tutor.methods.replay import ER
from cl_tutor.nets import MLP
from cl_tutor.streams import Batch, permuted, split

MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
SIZES = (64, 30, 20, 10)
MAKE = {
    "Progressive": lambda: (Progressive(SIZES), []),
    "PackNet": lambda: (MLP(SIZES), [PackNet()]),
    "SupSup": lambda: (SupSup(SIZES), []),
    "Adapters": lambda: (Adapters(SIZES, width=4), []),
}


def split_stream(tasks=5):
    return split(digits(), tasks, "task")


def permuted_stream(tasks=3):
    """Task-IL with one head: shared units, the task id known."""
    return replace(permuted(digits(), tasks), task_known=True)


def learner(name_or_net, methods=(), stream=None, **options):
    net, methods = MAKE[name_or_net]() if isinstance(name_or_net, str) else (name_or_net, methods)
    options = {"batch_size": 32, "optimiser": MOMENTUM, **options}
    return Learner(net, stream or split_stream(), methods, **options)


class Watch(Method):
    """Keeps the logits on every finished task, and compares them, to the last bit, after every later task."""

    def __init__(self):
        self.x, self.old, self.compared = {}, {}, 0

    def after_task(self, learner, task):
        with torch.no_grad():
            for k, (x, t) in self.x.items():
                assert torch.equal(learner.scores(x, t), self.old[k])
                self.compared += 1
            x, _, t = next(task.batches(100, "test"))
            self.x[task.id], self.old[task.id] = (x, t), learner.scores(x, t)


def watched(name, stream, **options):
    run = learner(name, stream=stream, **options)
    run.methods.append(watch := Watch())  # behind PackNet, and past its check: it watches only
    return run, watch


@pytest.mark.parametrize("stream", [split_stream, permuted_stream])
@pytest.mark.parametrize("name", MAKE)
def test_nothing_is_forgotten_exactly(name, stream):
    """With momentum and weight decay, which move weights whose gradient is zero."""
    run, watch = watched(name, stream(), epochs=3)
    R = train(run).R
    T = len(R)
    assert all((R[j:, j] == R[j, j]).all() for j in range(T))
    assert watch.compared == T * (T - 1) // 2
    assert R.diagonal().mean() > (0.75 if name != "Adapters" else 0.5)  # and each task was learnt


def test_naive_forgets_in_the_same_setting():
    R = train(learner(MLP(SIZES), stream=permuted_stream())).R
    assert R[2, 0] < R[0, 0] - 0.1


@pytest.mark.parametrize("name", MAKE)
def test_one_seed_gives_one_run_whatever_was_drawn_before(name):
    torch.manual_seed(1)
    a = train(learner(name, stream=split_stream())).R
    torch.manual_seed(2)
    b = train(learner(name, stream=split_stream())).R
    assert (a == b).all()


@pytest.mark.parametrize("name", MAKE)
def test_a_batch_that_mixes_tasks_answers_each_row_under_its_own(name):
    run = learner(name)
    train(run)
    parts = [next(task.batches(20, "test")) for task in run.stream.tasks]
    mixed = Batch(*(torch.cat(column) for column in zip(*parts)))
    order = torch.randperm(len(mixed.x), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = torch.cat([run.scores(x, t) for x, _, t in parts])
        together = run.scores(mixed.x[order], mixed.t[order])
    torch.testing.assert_close(together, alone[order], rtol=1e-5, atol=1e-5)


def test_by_task_keeps_the_order_and_calls_each_task_once():
    calls = []
    t = torch.tensor([2, 0, 2, 1, 0])
    x = torch.arange(5.0)[:, None]
    out = by_task(x, t, lambda x, k: (calls.append(k), x * 10 + k)[1])
    assert out[:, 0].tolist() == [2, 10, 22, 31, 40] and calls == [0, 1, 2]


@pytest.mark.parametrize("scenario", ["domain", "class"])
@pytest.mark.parametrize("name", ["Progressive", "PackNet", "Adapters"])
def test_without_the_task_id_they_are_refused_with_the_remedy(name, scenario):
    with pytest.raises(ValueError, match=rf"{name} must be told .* scenario='task', or take SupSup"):
        learner(name, stream=split(digits(), 5, scenario))


@pytest.mark.parametrize("name", ["Progressive", "SupSup", "Adapters"])
@pytest.mark.parametrize("method", [EWC(), ER(), PackNet()])
def test_methods_with_nothing_to_guard_are_refused(name, method):
    net, _ = MAKE[name]()
    with pytest.raises(ValueError, match=rf"{type(method).__name__} has nothing to guard|both answer"):
        learner(net, [method])


# ---------------------------------------------------------------------------------------------------------- PackNet


class Positive(torch.nn.Module):
    """A network in which every weight gets a gradient: positive inputs, no ReLU."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(64, 25), torch.nn.Linear(25, 10)
        for p, seed in zip(self.parameters(), range(4)):
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(seed))

    def forward(self, x, t=None):
        return self.two(self.one(x.flatten(1) + 0.1).tanh())


def test_packnet_frees_what_it_says_layer_by_layer():
    pack, free = PackNet(keep=0.3), {"one.weight": 1600, "two.weight": 250}
    run = learner(Positive(), [pack], permuted_stream(4))

    class Count(Method):
        def after_task(self, learner, task):
            for n in free:
                free[n] -= round(0.3 * free[n])
                assert int((pack.owner_[n] == 0).sum()) == free[n]
                assert (learner.params[n][pack.owner_[n] == 0] == 0).all()  # pruned is zero
            assert pack.free == sum(free.values()) / 1850
            assert all((pack.owner_[n] == 1).all() for n in ("one.bias", "two.bias"))

    run.methods.append(Count())
    train(run)
    assert abs(pack.free - 0.7**4) < 0.01


def test_packnet_keeps_the_largest_of_its_own_and_retrains_only_these():
    ends = []
    for retrain in (0, 1):
        pack = PackNet(keep=0.5, retrain=retrain)
        run = learner(Positive(), [pack], permuted_stream(2))
        run.seen = 1
        pack.before_task(run, run.stream.tasks[0])
        fit(run, run.stream.tasks[0])
        before = {n: p.detach().clone() for n, p in run.params.items()}
        pack.after_task(run, run.stream.tasks[0])
        ends.append({n: p.detach().clone() for n, p in run.params.items()})
    mine = {n: owner == 1 for n, owner in pack.owner_.items()}
    for n in ("one.weight", "two.weight"):
        assert before[n][mine[n]].abs().min() >= before[n][~mine[n]].abs().max()
        assert torch.equal(ends[0][n], before[n] * mine[n])  # pruned, and not retrained
        moved = ends[1][n] != ends[0][n]
        assert moved[mine[n]].float().mean() > 0.9 and not moved[~mine[n]].any()


def test_packnet_frozen_weights_are_bit_identical_and_free_ones_move():
    pack = PackNet()
    run = learner(MLP(SIZES), [pack], permuted_stream())
    owned = []

    class Look(Method):
        def after_task(self, learner, task):
            for owner, old in owned:
                assert all(torch.equal(learner.params[n][owner[n]], old[n][owner[n]]) for n in owner)
            owner = {n: (o > 0) & (o <= task.id + 1) for n, o in pack.owner_.items()}
            owned.append((owner, {n: p.detach().clone() for n, p in learner.params.items()}))

    run.methods.append(Look())
    train(run)
    assert len(owned) == 3
    assert any((owned[0][1][n] != owned[1][1][n]).any() for n in pack.owner_)


def test_packnet_leaves_the_heads_of_other_tasks_free():
    pack = PackNet()
    run = learner(MLP(SIZES), [pack])
    train(run)
    head = pack.owner_["head.weight"]
    for k in range(5):
        own, others = head[2 * k : 2 * k + 2], torch.cat([head[: 2 * k], head[2 * k + 2 :]])
        assert (own == k + 1).any() and not (others == k + 1).any()


def test_packnet_says_when_its_capacity_runs_out():
    stream = permuted_stream(4)
    with pytest.raises(ValueError, match=r"no free weight left for task 1: take keep < 1 or a wider network"):
        train(learner(Positive(), [PackNet(keep=1.0)], stream))
    with pytest.warns(UserWarning, match=r"begins task 2 with 4\.0% of the weights free") as seen:
        train(learner(Positive(), [PackNet(keep=0.8)], permuted_stream(3)))
    assert len(seen) == 1


def test_packnet_with_methods_of_strength_zero_is_packnet():
    nets = []
    for others in ([], [EWC(0.0, samples=20)], [ER(alpha=0.0)]):
        run = learner(MLP(SIZES), [*others, PackNet()], permuted_stream())
        train(run)
        nets.append(run.net)
    assert all(torch.equal(p, q) for net in nets[1:] for p, q in zip(nets[0].parameters(), net.parameters()))


def test_packnet_holds_against_methods_that_move_weights():
    run = learner(MLP(SIZES), [EWC(1e4, samples=20, proximal=True), PackNet()], permuted_stream())
    R = train(run).R
    assert all((R[j:, j] == R[j, j]).all() for j in range(3))
    with pytest.raises(ValueError, match="must be the last"):
        learner(MLP(SIZES), [PackNet(), EWC()])


def test_packnet_refuses_batchnorm_and_bad_numbers():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.BatchNorm1d(10))
    with pytest.raises(ValueError, match="running statistics of BatchNorm"):
        learner(net, [PackNet()])
    for bad in ({"keep": 0.0}, {"keep": 1.5}, {"retrain": -1}):
        with pytest.raises(ValueError, match="0 < keep ≤ 1 and retrain ≥ 0"):
            PackNet(**bad)


def test_largest_counts_exactly_also_with_ties():
    scores = torch.tensor([[1.0, 2.0, 2.0], [2.0, 0.0, 3.0]])
    assert [int(largest(scores, k).sum()) for k in range(7)] == list(range(7))
    assert largest(scores, 1).tolist() == [[False] * 3, [False, False, True]]


def test_packnet_bill_is_the_count():
    pack = PackNet()
    run = learner(MLP(SIZES), [pack], permuted_stream())
    train(run)
    weights = 64 * 30 + 30 * 20 + 20 * 10
    owners = torch.cat([o.flatten() for o in pack.owner_.values()])
    assert [b.parameters for b in pack.bill()] == [int((owners == k).sum()) for k in (1, 2, 3)]
    assert [b.bits for b in pack.bill()] == [32 * b.parameters + weights for b in pack.bill()]
    assert sum(b.parameters for b in pack.bill()) + int((owners == 0).sum()) == weights + 60
    assert PackNet().bill() == []


# ------------------------------------------------------------------------------------------ Progressive and Adapters


def grown(net, stream=None):
    run = learner(net, stream=stream)
    train(run)
    return run


def test_progressive_is_equation_1_by_hand():
    run = grown(Progressive(SIZES), permuted_stream())
    x = next(run.stream.tasks[2].batches(9, "test")).x.flatten(1)
    c0, c1, c2 = run.net.parts
    a0, a1, a2 = (c.W[0](x).relu() for c in (c0, c1, c2))  # layer 1: the input alone
    b0 = c0.W[1](a0).relu()
    b1 = (c1.W[1](a1) + a0 @ c1.U[0].weight.T).relu()
    lateral = a0 @ c2.U[0].weight[:, :30].T + a1 @ c2.U[0].weight[:, 30:].T  # Σ_{j<k} U^(k:j) h^(j)
    b2 = (c2.W[1](a2) + lateral).relu()
    z = c2.W[2](b2) + b0 @ c2.U[1].weight[:, :20].T + b1 @ c2.U[1].weight[:, 20:].T
    torch.testing.assert_close(run.net(x, torch.full((9,), 2)), z)
    assert [len(c.U) for c in run.net.parts] == [0, 2, 2]


@pytest.mark.parametrize("layer", [0, 1])
def test_progressive_uses_its_laterals(layer):
    run = grown(Progressive(SIZES), permuted_stream())
    x = next(run.stream.tasks[2].batches(50, "test")).x
    with torch.no_grad():
        ask = lambda: [run.net(x, torch.full((50,), k)) for k in range(3)]
        before = ask()
        run.net.parts[2].U[layer].weight.zero_()
        after = ask()
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert (before[2] - after[2]).abs().max() > 0.1


def test_progressive_bill_grows_faster_than_linearly():
    run = grown(Progressive(SIZES), permuted_stream(4))
    plain = 64 * 30 + 30 + 30 * 20 + 20 + 20 * 10 + 10
    assert [b.parameters for b in run.net.bill()] == [plain + k * (30 * 20 + 20 * 10) for k in range(4)]
    assert sum(b.bits for b in run.net.bill()) == 32 * sum(p.numel() for p in run.net.parameters())


def test_old_columns_are_frozen_and_only_the_newest_trains():
    run = learner(Progressive(SIZES), stream=permuted_stream())
    counts = []

    class Look(Method):
        def before_task(self, learner, task):
            counts.append(sum(p.numel() for p in learner.params.values()))

    run.methods.append(Look())
    train(run)
    assert counts == [b.parameters for b in run.net.bill()]


def test_adapters_freeze_the_trunk_after_task_1():
    run = learner(Adapters(SIZES, width=4), stream=permuted_stream())
    trunks = [[p.clone() for p in run.net.trunk.parameters()]]

    class Look(Method):
        def after_task(self, learner, task):
            trunks.append([p.detach().clone() for p in learner.net.trunk.parameters()])

    run.methods.append(Look())
    train(run)
    assert any(not torch.equal(p, q) for p, q in zip(trunks[0], trunks[1]))
    assert all(torch.equal(p, q) for later in trunks[2:] for p, q in zip(trunks[1], later))
    part = sum(2 * 4 * d + d + 4 for d in (30, 20)) + 20 * 10 + 10
    trunk = 64 * 30 + 30 + 30 * 20 + 20
    assert [b.parameters for b in run.net.bill()] == [part + trunk, part, part]
    assert sum(b.parameters for b in run.net.bill()) == sum(p.numel() for p in run.net.parameters())


def test_an_adapter_begins_as_the_identity_and_then_helps():
    net = Adapters(SIZES, width=4)
    x = torch.rand(5, 64)
    h = net.trunk[1](net.trunk[0](x).relu()).relu()
    torch.testing.assert_close(net(x), net.parts[0][2](h))
    run = grown(net, permuted_stream())
    x, y, t = next(run.stream.tasks[2].batches(400, "test"))
    with torch.no_grad():
        accuracy = lambda: run.net(x, t).argmax(1).eq(y).float().mean()
        before = accuracy()
        for adapter in run.net.parts[2][:2]:
            adapter.U.weight.zero_(), adapter.U.bias.zero_()
        assert accuracy() < before - 0.1


def test_growth_works_in_double_precision():
    for net in (Progressive(SIZES).double(), Adapters(SIZES).double()):
        net.extend()
        net.parts[-1].to(next(net.parameters()))
        assert net(torch.rand(2, 64, dtype=torch.double), torch.ones(2, dtype=torch.long)).dtype == torch.double


@pytest.mark.parametrize("make", [Progressive, Adapters])
def test_a_network_that_has_grown_is_not_used_again(make):
    run = grown(make(SIZES), permuted_stream(2))
    with pytest.raises(ValueError, match="has grown 2 parts already: build a new one"):
        learner(run.net)


@pytest.mark.parametrize("make", [Progressive, Adapters, SupSup])
def test_bad_sizes_are_refused(make):
    for sizes in ((64,), (64, 0, 10)):
        with pytest.raises(ValueError, match="sizes needs an input and an output width"):
            make(sizes)
    with pytest.raises(ValueError, match="width ≥ 1 and a hidden layer"):
        Adapters((64, 10))
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\)"):
        SupSup(keep=1.0)


# ----------------------------------------------------------------------------------------------------------- SupSup


def test_supsup_weights_are_signed_constants_and_never_change():
    net = SupSup(SIZES, keep=0.4)
    before = [w.clone() for w in net.weights]
    run = grown(net, permuted_stream())
    assert all(torch.equal(w, v) for w, v in zip(before, run.net.weights))
    for w in before:
        torch.testing.assert_close(w.abs(), torch.full_like(w, (2 / (0.4 * w.shape[1])) ** 0.5))
        assert 0.4 < (w > 0).float().mean() < 0.6
    masks = run.net.masks_
    assert all(int(m.sum()) == round(0.4 * m.numel()) for task in masks for m in task)
    agree = (masks[0][0] == masks[1][0]).float().mean()  # by chance 0.4² + 0.6² = 0.52
    assert 0.4 < agree < 0.8


def test_supsup_gradient_goes_straight_through():
    net = SupSup((6, 5, 3)).double()
    x = torch.rand(4, 6, dtype=torch.double)
    masks = [net.select(s).double().requires_grad_() for s in net.scores]
    by_mask = torch.autograd.grad(net.mixture(x, [masks], x.new_ones(4, 1)).square().sum(), masks)
    z = net(x)
    by_score = torch.autograd.grad(z.square().sum(), list(net.scores))
    assert all(torch.equal(a, b) for a, b in zip(by_mask, by_score))
    h = (x @ (net.weights[0] * masks[0]).T).relu()
    torch.testing.assert_close(z, h @ (net.weights[1] * masks[1]).T)


def test_supsup_learning_matters():
    run = learner(SupSup(SIZES), stream=permuted_stream(1), epochs=3)
    result = train(run)
    assert result.b[0] < 0.3 and result.R[0, 0] > 0.75


def test_supsup_entropy_gradient_is_the_derivative():
    net, rng = SupSup((6, 8, 4)).double(), torch.Generator().manual_seed(0)
    net.masks_ = [[torch.rand(w.shape, generator=rng) < 0.5 for w in net.weights] for _ in range(3)]
    x = torch.rand(20, 6, generator=rng, dtype=torch.double)

    def entropy(alpha):
        p = net.mixture(x, net.masks_, alpha).softmax(1)
        return -(p * p.log()).sum(1)

    alpha, e = torch.full((20, 3), 1 / 3, dtype=torch.double), 1e-6 * torch.eye(3, dtype=torch.double)
    with torch.no_grad():
        slope = torch.stack([(entropy(alpha + e[k]) - entropy(alpha - e[k])) / 2e-6 for k in range(3)], 1)
        assert torch.equal(net.infer(x), slope.argmin(1))  # also under no_grad, as in `accuracy`
    assert len(net.infer(x).unique()) > 1


def test_supsup_infers_the_task_from_one_sample():
    """Permuted digits, 3 tasks: chance is 1/3, and six runs with other settings gave 0.62 to 0.74."""
    faster = partial(MOMENTUM, lr=0.1)
    run = learner(SupSup((64, 200, 200, 10)), stream=permuted(digits(), 3), epochs=3, optimiser=faster)
    R = train(run).R
    tasks = [next(task.batches(400, "test")) for task in run.stream.tasks]
    mixed = Batch(*(torch.cat(column) for column in zip(*tasks)))  # each sample on its own: a batch may mix tasks
    with torch.no_grad():
        right = [run.net.infer(x).eq(t).float().mean().item() for x, _, t in tasks]
        assert abs(run.net.infer(mixed.x).eq(mixed.t).float().mean().item() - sum(right) / 3) < 0.01
    assert min(right) > 0.45 and sum(right) / 3 > 0.55
    assert R[2].mean() > 0.55


def test_supsup_bill_is_one_bit_a_weight():
    run = grown(SupSup(SIZES), permuted_stream())
    assert [tuple(b) for b in run.net.bill()] == [(0, 64 * 30 + 30 * 20 + 20 * 10)] * 3


@pytest.mark.parametrize("other", [lambda: EWC(1.0, samples=20), lambda: GenerativeReplay(size=8), lambda: ER(20)])
def test_packnet_retrains_without_the_others(other):
    class Count(Method):
        steps = 0

        def after_step(self, learner, batch):
            self.steps += 1

    count = Count()
    learner = Learner(MLP((64, 20, 10)), split(digits(), scenario="task"), [count, other(), PackNet()], batch_size=100)
    steps = sum(-(-len(task.train.x) // 100) for task in learner.stream.tasks)
    train(learner)
    assert count.steps == steps and len(learner.methods) == 3
