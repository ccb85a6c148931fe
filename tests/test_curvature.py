"""SubspaceEWC and K-FAC EWC against the full Fisher, on networks small enough to have one."""

from functools import partial

import pytest
import torch
from torch import nn

from cl_tutor.data import digits
from cl_tutor.learn import Learner, train
from cl_tutor.methods.curvature import KFACEWC, Layers, SubspaceEWC
from cl_tutor.methods.regularization import EWC, snapshot
from cl_tutor.nets import MLP, SmallCNN
from cl_tutor.streams import Batch, Stream, Task, permuted
from cl_tutor.vectors import flat, unflat

PLAIN = partial(torch.optim.SGD, lr=0.1)


def tiny(tasks=2, n=12):
    """Float64 clouds in Task-IL: two units a task, of four."""
    rng = torch.Generator().manual_seed(0)
    made = []
    for k in range(tasks):
        x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
        y = torch.randint(0, 2, (n,), generator=rng) + 2 * k
        made.append(Task(k, *[Batch(x, y, torch.full_like(y, k))] * 2))
    units = torch.arange(2 * tasks) // 2 == torch.arange(tasks)[:, None]
    return Stream(made, units, task_known=True)


def learner_with(*methods, tasks=2, net=None, **options):
    net = net or MLP((3, 4, 2 * tasks)).double()
    return Learner(net, tiny(tasks), methods, optimiser=PLAIN, device="cpu", **options)


def after_task_1(*methods, **options):
    """A learner that has met its first task only, and has then moved away from it."""
    learner = learner_with(*methods, **options)
    learner.seen = 1
    for method in methods:
        method.after_task(learner, learner.stream.tasks[0])
    moved = {n: p + torch.sin(torch.arange(p.numel())).view_as(p) for n, p in snapshot(learner.params).items()}
    return learner, moved


def full_fisher(learner, task, names=None):
    """F = 1/N Σ_n Σ_c p_c s s ᵀ by a loop, over the task's own units."""
    x, _, t = task.train
    names = names or list(learner.params)
    params, F = [learner.params[n] for n in names], 0
    for n in range(len(x)):
        logp = learner.logits(x[n : n + 1], t[n : n + 1])[0, learner.stream.units[t[n]]].log_softmax(0)
        for value in logp:
            s = torch.cat([g.flatten() for g in torch.autograd.grad(value, params, retain_graph=True)])
            F = F + value.exp().detach() * torch.outer(s, s) / len(x)
    return F


def size(x):
    return x.numel() if torch.is_tensor(x) else sum(map(size, x.values() if isinstance(x, dict) else x))


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


def quadratic_form(F, params, anchor):
    delta = flat(params) - flat(anchor)
    return 0.5 * delta @ F @ delta


@pytest.mark.parametrize("remainder", [True, False])
def test_all_directions_are_the_full_fisher(remainder):
    P = 36
    method = SubspaceEWC(lam=3.0, k=P, remainder=remainder)
    learner, moved = after_task_1(method)
    F = full_fisher(learner, learner.stream.tasks[0])
    assert len(F) == P
    close(method.penalty(moved), 3.0 * quadratic_form(F, moved, learner.params))
    H = torch.func.hessian(lambda v: method.penalty(unflat(v, moved)))(flat(moved))
    close(H, 3.0 * F)
    close(torch.tensor(method.max_omega()), torch.linalg.eigvalsh(F)[-1].float(), 1e-6)


@pytest.mark.parametrize("labels", ["exact", "sample", "empirical"])
def test_no_direction_and_the_remainder_are_diagonal_ewc(labels):
    subspace, diagonal = SubspaceEWC(3.0, k=0, labels=labels), EWC(3.0, labels=labels)
    _, moved = after_task_1(subspace, diagonal)
    close(subspace.penalty(moved), diagonal.penalty(moved))


def test_in_between_are_the_top_pairs_and_what_they_leave_of_the_diagonal():
    method = SubspaceEWC(k=4)
    learner, moved = after_task_1(method)
    F = full_fisher(learner, learner.stream.tasks[0])
    values, vectors = torch.linalg.eigh(F)
    top = vectors[:, -4:] * values[-4:] @ vectors[:, -4:].T
    rest = (F - top).diag().diag()
    assert values[-4] > 1e-4 and rest.diag().max() > 1e-6  # four real directions, and something left
    close(method.penalty(moved), quadratic_form(top + rest, moved, learner.params), 1e-6)
    method = SubspaceEWC(k=4, remainder=False)
    learner, moved = after_task_1(method)
    close(method.penalty(moved), quadratic_form(top, moved, learner.params), 1e-6)


def test_sampled_labels_are_the_same_for_directions_and_remainder():
    """Else the trace of V Λ Vᵀ + rest is that of no Fisher at all."""
    subspace, diagonal = SubspaceEWC(k=3, labels="sample"), EWC(labels="sample")
    after_task_1(subspace, diagonal)
    trace = subspace.wells_[0].values.sum() + flat(subspace.wells_[0].rest).sum()
    assert trace == pytest.approx(flat(diagonal.wells_[0].omega).sum().item(), rel=1e-6)


def test_kfac_penalty_is_exact_for_one_sample():
    method = KFACEWC(3.0, samples=1)
    learner, moved = after_task_1(method)
    task = learner.stream.tasks[0]
    first = next(task.batches(1, rng=torch.Generator().manual_seed(0)))  # the sample that the method draws
    for layer in ("body.0", "head"):
        names = [f"{layer}.weight", f"{layer}.bias"]
        F = full_fisher(learner, Task(0, first, first), names)
        part = {n: moved[n] if n in names else p for n, p in snapshot(learner.params).items()}
        only = {n: moved[n] for n in names}
        close(method.penalty(part), 3.0 * quadratic_form(F, only, {n: learner.params[n] for n in names}))
    both = method.penalty(moved)
    close(both, sum(method.penalty({**snapshot(learner.params), **{n: moved[n] for n in moved if n.startswith(layer)}})
                    for layer in ("body.0", "head")))  # fmt: skip  # layers are independent


def test_kfac_is_exact_for_one_layer_with_one_answer():
    """p(·|x) the same for all x: then a aᵀ and g gᵀ are uncorrelated, and many samples do no harm."""
    net = MLP((3, 4)).double()
    with torch.no_grad():
        net.head.weight.zero_()
    method = KFACEWC()
    learner, moved = after_task_1(method, net=net)
    F = full_fisher(learner, learner.stream.tasks[0])
    close(method.penalty(moved), quadratic_form(F, moved, learner.params))
    close(torch.tensor(method.max_omega()), torch.linalg.eigvalsh(F)[-1].float(), 1e-6)
    H = torch.func.hessian(lambda v: method.penalty(unflat(v, moved)))(flat(moved))
    close(H, F)


def test_parameters_outside_linear_layers_keep_their_diagonal():
    x = torch.rand(6, 1, 16, 16)
    y = torch.arange(6) % 2
    task = Task(0, *[Batch(x, y, torch.zeros_like(y))] * 2)
    stream = Stream([task], torch.ones(1, 2, dtype=torch.bool), False)
    method, diagonal = KFACEWC(), EWC()
    net = SmallCNN(channels=1, size=16, classes=2, hidden=4)
    learner = Learner(net, stream, [method, diagonal], optimiser=PLAIN, device="cpu")
    learner.seen = 1
    for m in learner.methods:
        m.after_task(learner, task)
    (well,) = method.wells_
    assert set(well.factors) == {"fc1", "fc2"}
    assert set(well.rest) == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"}
    for n, f in well.rest.items():
        torch.testing.assert_close(f, diagonal.wells_[0].omega[n])
    moved = {n: p + (0.1 if n.startswith("conv") else 0.0) for n, p in snapshot(learner.params).items()}
    torch.testing.assert_close(method.penalty(moved), diagonal.penalty(moved))
    assert method.max_omega() > 0


def test_a_linear_layer_without_bias_and_a_fixed_one():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 4)).double()
    net[2].requires_grad_(False)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, t=None):
            return self.net(x)

    method = KFACEWC()
    learner, moved = after_task_1(method, net=Net())
    assert set(method.wells_[0].factors) == {"net.0"} and not method.wells_[0].rest
    A, S = method.wells_[0].factors["net.0"]
    close(method.penalty(moved), quadratic_form(torch.kron(S, A), moved, learner.params))


def test_memory_is_what_the_docstrings_say():
    P = 36
    for k, remainder, floats in ((5, True, 5 * P + 5 + 2 * P), (5, False, 5 * P + 5 + P)):
        method = SubspaceEWC(k=k, remainder=remainder)
        train(learner_with(method, epochs=1))
        assert size(method.wells_) == 2 * floats  # two tasks
    method = KFACEWC()
    train(learner_with(method, epochs=1))
    assert size(method.wells_) == 2 * (P + (4**2 + 4**2) + (5**2 + 4**2))


@pytest.mark.parametrize("method", [SubspaceEWC(k=3, samples=5), KFACEWC(samples=5)])
def test_wells_add_up_over_tasks_and_the_anchors_are_copies(method):
    learner = learner_with(method)
    train(learner)
    assert len(method.wells_) == 2
    here = snapshot(learner.params)
    assert method.energy(here, method.wells_[1]) == 0 < method.energy(here, method.wells_[0])
    close(method.penalty(here), method.energy(here, method.wells_[0]))
    with torch.no_grad():
        for p in learner.params.values():
            p.zero_()
    assert method.energy(here, method.wells_[1]) == 0


def test_dropout_is_off_while_they_look():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4)).double()

        def forward(self, x, t=None):
            return self.layers(x)

    kfac, subspace = KFACEWC(), SubspaceEWC(k=16)
    learner, _ = after_task_1(kfac, subspace, net=Net())
    x = learner.stream.tasks[0].train.x
    a = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    close(kfac.wells_[0].factors["layers.1"].A, a.T @ a / len(x))
    learner.net.eval()
    assert subspace.wells_[0].values.sum() == pytest.approx(
        full_fisher(learner, learner.stream.tasks[0]).trace().item(), rel=1e-8
    )


def test_bad_k_is_refused():
    for make in (lambda: SubspaceEWC(k=-1), lambda: SubspaceEWC(k=0, remainder=False)):
        with pytest.raises(ValueError, match="k must be 0 or more"):
            make()
    with pytest.raises(ValueError, match="k = 37 directions, but the network has only 36 parameters"):
        learner_with(SubspaceEWC(k=37))


def test_more_of_the_fisher_forgets_less_on_permuted_digits():
    """At one λ, on the same stream: the diagonal is the weakest of three."""
    stream = permuted(digits(), tasks=2)

    def old(*methods):
        net = MLP((64, 30, 10))
        learner = Learner(net, stream, methods, epochs=6, batch_size=32, optimiser=PLAIN, device="cpu")
        return train(learner).R[-1, 0]

    diagonal = old(EWC(2.0, samples=200))
    assert old(SubspaceEWC(2.0, k=20, samples=200)) > diagonal + 0.03
    assert old(KFACEWC(2.0, samples=200)) > diagonal + 0.03


def test_layers_is_plain_data():
    method = KFACEWC(samples=3)
    after_task_1(method)
    (well,) = method.wells_
    assert isinstance(well, Layers) and all(torch.is_tensor(p) for p in well.anchor.values())
    assert not any(p.requires_grad for factors in well.factors.values() for p in factors)


def test_without_axes_the_ceiling_is_that_of_ewc():
    methods = SubspaceEWC(k=0, samples=30), EWC(samples=30)
    learner = learner_with()
    learner.seen = 1
    for method in methods:
        method.after_task(learner, learner.stream.tasks[0])
    assert methods[0].max_omega() == pytest.approx(methods[1].max_omega(), rel=1e-5) != 0
