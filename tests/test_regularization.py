"""L2, EWC, Online EWC, MAS, SI and LwF against their equations, and against doing nothing."""

import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cl_tutor.data import Data, digits
from cl_tutor.learn import Diverged, Learner, Method, fit, train
from cl_tutor.methods.curvature import KFACEWC, SubspaceEWC
from cl_tutor.methods.regularization import EWC, L2, MAS, SI, LwF, Quadratic, Well, distil, quadratic, snapshot
from cl_tutor.methods.replay import ER
from cl_tutor.nets import MLP, TwoWeights
from cl_tutor.streams import Batch, Stream, Task, permuted, split, toy
from cl_tutor.vectors import flat, unflat

SGD = torch.optim.SGD
ROUGH = partial(SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
PLAIN = partial(SGD, lr=0.1)
SCENARIOS = ("task", "domain", "class")


def small(scenario, tasks=3, n=300):
    """`tasks` pairs of digits, n training samples in all."""
    data = digits()
    x, y = data.train
    stream = split(Data((x[:n], y[:n]), data.test, 10, "digits"), 5, scenario)
    units = stream.units[:tasks]
    return Stream(stream.tasks[:tasks], units[:, units.any(0)], stream.task_known)


def learn(stream, methods=(), optimiser=ROUGH, epochs=1, batch_size=32, net=None, hidden=12):
    net = net or MLP((64, hidden, stream.units.shape[1]))
    learner = Learner(net, stream, methods, epochs=epochs, batch_size=batch_size, optimiser=optimiser, device="cpu")
    train(learner)
    return learner


def weights(learner):
    return flat(snapshot(learner.params))


def tiny(tasks=2, n=12, classes=3, seed=0):
    """Float64 clouds in 4 dimensions; task k has its own labels."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for k in range(tasks):
        x = torch.randn(n, 4, generator=rng, dtype=torch.float64)
        y = torch.randint(0, classes, (n,), generator=rng)
        batch = Batch(x, y, torch.full_like(y, k))
        made.append(Task(k, batch, batch))
    return Stream(made, torch.ones(tasks, classes, dtype=torch.bool), task_known=False)


def tiny_learner(methods, tasks=2, optimiser=PLAIN, **options):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()  # smooth: no kinks in the loss
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(torch.sin(torch.arange(p.numel()) * 1.7 + k).view_as(p))
    return Learner(Plain(net), tiny(tasks), methods, optimiser=optimiser, device="cpu", **options)


class Plain(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t=None):
        return self.net(x)


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


# ---------------------------------------------------------------------------------------------- all methods

METHODS = {
    "L2": lambda s: L2(s),
    "EWC": lambda s: EWC(s, samples=20),
    "Online EWC": lambda s: EWC(0.03 * s, decay=0.9, normalise=True, samples=20),
    "proximal EWC": lambda s: EWC(s, proximal=True, samples=20),
    "MAS": lambda s: MAS(s, samples=20),
    "SI": lambda s: SI(s),
    "proximal SI": lambda s: SI(s, proximal=True),
    "LwF": lambda s: LwF(s),
    "SubspaceEWC": lambda s: SubspaceEWC(s, k=3, samples=20),
    "KFACEWC": lambda s: KFACEWC(s, samples=20),
}


@pytest.fixture(scope="module")
def naive():
    return {scenario: weights(learn(small(scenario))) for scenario in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", METHODS)
def test_strength_zero_is_naive_bit_for_bit_and_another_is_not(name, scenario, naive):
    assert torch.equal(weights(learn(small(scenario), [METHODS[name](0.0)])), naive[scenario])
    guarded = weights(learn(small(scenario), [METHODS[name](1.0)]))
    assert guarded.isfinite().all() and not torch.equal(guarded, naive[scenario])


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", [name for name in METHODS if "proximal" not in name])
def test_a_first_step_on_task_2_is_already_penalised(name, scenario):
    method, stream = METHODS[name](1.0), small(scenario)
    net = MLP((64, 12, stream.units.shape[1]))
    learner = Learner(net, stream, [method], optimiser=partial(SGD, lr=0.3), device="cpu")
    first, second, _ = stream.tasks
    learner.seen = 1
    method.before_task(learner, first)
    fit(learner, first)
    assert method.loss(learner, next(first.batches(8))) == 0.0  # nothing to hold on to yet
    method.after_task(learner, first)
    learner.seen = 2
    method.before_task(learner, second)
    batch = next(second.batches(8))
    penalty = lambda: method.loss(learner, batch).item()
    assert abs(penalty()) < 1e-8  # at θ* nothing has moved
    fit(learner, Task(1, batch, second.test))
    assert penalty() > 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_it_forgets_less_than_naive(name):
    """How far task 1's loss rises while task 2 is learnt, in Domain-IL, where the two want other answers."""
    strong = {
        "L2": 3.0,
        "EWC": 30.0,
        "proximal EWC": 30.0,
        "MAS": 10.0,
        "SI": 50.0,
        "proximal SI": 50.0,
        "Online EWC": 10.0,
    }

    def rise(*methods):
        learner = Learner(MLP((64, 12, 2)), small("domain", 2), methods, 10, 32, PLAIN, device="cpu")
        test = Task(0, *[learner.stream.tasks[0].test] * 2)
        losses = []

        class Watch(Method):
            def after_task(self, learner, task):
                losses.append(learner.loss(next(test.batches(1000))).item())

        learner.methods.append(Watch())
        train(learner)
        return losses[1] - losses[0]

    assert rise() > 0.05 and rise(METHODS[name](strong.get(name, 3.0))) < 0.7 * rise()


# ------------------------------------------------------------------------------------------ the common well


def test_the_hessian_of_the_penalty_is_lambda_omega():
    rng = torch.Generator().manual_seed(0)
    method = L2(lam=3.0)
    draw = lambda: {"w": torch.rand(2, 2, generator=rng).double(), "b": torch.rand(2, generator=rng).double()}
    method.wells_ = [Well(draw(), draw()), Well(draw(), draw())]
    theta = draw()
    H = torch.func.hessian(lambda v: method.penalty(unflat(v, theta)))(flat(theta))
    close(H, 3.0 * sum(flat(well.omega) for well in method.wells_).diag())
    one, two = method.wells_
    expected = sum((w.omega[n] * (theta[n] - w.anchor[n]) ** 2).sum() / 2 for w in (one, two) for n in theta)
    close(method.penalty(theta), 3.0 * expected)
    close(quadratic(theta, *one), quadratic(theta, one.anchor, one.omega), 0)


@pytest.mark.parametrize("make", [partial(EWC, samples=20), partial(MAS, samples=20), SI, L2])
def test_online_is_separate_while_one_task_is_old(make):
    run = lambda tasks, decay: weights(learn(small("domain", tasks), [make(lam=1.0, decay=decay)]))
    assert torch.equal(run(2, None), run(2, 0.5))
    assert not torch.equal(run(3, None), run(3, 0.5))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_decay_fades_old_importance(gamma):
    kept = []

    class Spy(EWC):
        def importance(self, learner, task):
            kept.append(super().importance(learner, task))
            return kept[-1]

    method = Spy(1.0, decay=gamma)
    learner = tiny_learner([method], tasks=3)
    train(learner)
    (well,) = method.wells_
    first, second, third = map(flat, kept)
    close(flat(well.omega), gamma**2 * first + gamma * second + third)
    close(flat(well.anchor), weights(learner), 0)


def test_how_many_wells_and_how_many_floats():
    P = flat(tiny_learner([]).params).numel()
    size = lambda x: x.numel() if torch.is_tensor(x) else sum(map(size, x.values() if isinstance(x, dict) else x))
    floats = {}
    methods = L2(), EWC(), EWC(decay=0.9), MAS(), SI(), LwF()
    for method in methods:
        train(tiny_learner([method], tasks=3))
        floats[repr(method)] = size(method.teacher_) if isinstance(method, LwF) else size(method.wells_)
    assert list(floats.values()) == [6 * P, 6 * P, 2 * P, 2 * P, 2 * P, P]
    si = methods[4]
    assert sum(size(getattr(si, name)) for name in ("start_", "path_", "before_", "grad_")) == 4 * P


def test_an_anchor_is_a_copy():
    method = L2()
    learner = tiny_learner([method], tasks=1)
    train(learner)
    before = flat(method.wells_[0].anchor).clone()
    with torch.no_grad():
        for p in learner.params.values():
            p.add_(1.0)
    close(flat(method.wells_[0].anchor), before, 0)


@pytest.mark.parametrize("lam", [10.0**k for k in range(-2, 9)])
@pytest.mark.parametrize("make", [partial(EWC, samples=20), SI])
def test_proximal_is_stable_at_every_strength(make, lam):
    method = make(lam=lam, proximal=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner = learn(small("domain"), [method], PLAIN, epochs=5)
    assert weights(learner).isfinite().all()
    if lam == 1e8:  # the stiff weights stay where they were
        well = method.wells_[0]
        stiff = flat(well.omega) > 1e-4
        assert (weights(learner) - flat(well.anchor))[stiff].abs().max() < 1e-2


def test_proximal_is_the_explicit_step_to_first_order():
    def gap(lr):
        ends = []
        for proximal in (False, True):
            method = L2(1.0, proximal=proximal)
            learner = tiny_learner([method], optimiser=partial(SGD, lr=lr), batch_size=12)
            first, second = learner.stream.tasks
            learner.seen = 1
            method.after_task(learner, first)
            with torch.no_grad():
                for p in learner.params.values():
                    p.add_(0.3)  # away from the anchor
            learner.seen = 2
            fit(learner, second)
            ends.append(weights(learner))
        return (ends[0] - ends[1]).norm()

    assert gap(1e-3) > 1e-9 and gap(1e-3) / gap(5e-4) == pytest.approx(4.0, rel=0.05)  # the error is O((ηλΩ)²)


def test_the_proximal_step_minimises_what_it_should():
    """θ⁺ = argmin ½‖u − θ‖²/η + λ ½ Σ Ω (u − θ*)² over all wells: its gradient vanishes."""
    method = L2(7.0, proximal=True)
    learner = tiny_learner([method])
    rng = torch.Generator().manual_seed(0)
    draw = lambda: {n: torch.rand(p.shape, generator=rng).double() for n, p in learner.params.items()}
    method.wells_ = [Well(draw(), draw()), Well(draw(), draw())]
    learner.opt = learner.optimiser(list(learner.params.values()))
    theta = snapshot(learner.params)
    method.after_step(learner, None)
    for n, u in snapshot(learner.params).items():
        pull = sum(well.omega[n] * (u - well.anchor[n]) for well in method.wells_)
        close((u - theta[n]) / 0.1 + 7.0 * pull, torch.zeros_like(u))


@pytest.mark.parametrize(
    "make", [partial(EWC, samples=50), partial(SubspaceEWC, k=3, samples=50), partial(KFACEWC, samples=50)]
)
def test_the_warning_comes_before_the_divergence_and_names_the_product(make):
    with pytest.warns(UserWarning) as told, pytest.raises(Diverged) as error:
        learn(small("domain"), [make(lam=1e7)], PLAIN, epochs=30)
    for text in (str(told[0].message), str(error.value)):
        assert "λ·η·max Ω = 1e+07 · 0.1 ·" in text and "SGD is stable below 2" in text
    assert "will diverge" in str(told[0].message) and "penalty is no longer finite" in str(error.value)
    assert ("proximal=True" in str(error.value)) == isinstance(make(), Quadratic)


def test_below_the_ceiling_no_warning():
    quiet = EWC(lam=1.0, samples=50)
    learner = learn(small("domain"), [quiet], PLAIN)
    ceiling = 2 / (0.1 * quiet.max_omega())
    close(learner.methods[0].stiffness(learner), 1.0 / ceiling)
    batch = next(learner.stream.tasks[0].batches(8))
    for factor, loud in ((0.9, False), (1.1, True)):
        quiet.lam, quiet.warned_ = factor * ceiling, 0
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            quiet.after_step(learner, batch)
            quiet.after_step(learner, batch)
        assert len(told) == loud  # once a task
    learner.opt = torch.optim.Adam(learner.params.values())
    assert quiet.stiffness(learner) == 0.0


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_the_ceiling_is_where_sgd_stops_to_contract(options):
    """On the well alone: θ − θ* shrinks just below, grows just above."""
    learner = tiny_learner([method := L2()], optimiser=partial(SGD, lr=0.1, **options))
    method.wells_ = [
        Well(snapshot(learner.params), {n: torch.ones_like(p) for n, p in snapshot(learner.params).items()})
    ]
    for factor in (0.95, 1.05):
        opt = learner.opt = learner.optimiser(list(learner.params.values()))
        method.lam = 1.0
        method.lam = factor / method.stiffness(learner)
        with torch.no_grad():
            for n, p in learner.params.items():
                p.copy_(method.wells_[0].anchor[n] + 1.0)
        for _ in range(300):
            opt.zero_grad()
            method.penalty(learner.params).backward()
            opt.step()
        far = (weights(learner) - flat(method.wells_[0].anchor)).abs().max()
        assert (far < 1e-3) if factor < 1 else (far > 1e3)


def test_a_run_that_diverges_by_itself_is_not_blamed_on_lambda():
    method = L2(1e-6)
    learner = tiny_learner([method])
    train(learner)
    with torch.no_grad():
        next(iter(learner.params.values())).fill_(torch.nan)
    with pytest.raises(Diverged, match="not by λ alone"):
        method.loss(learner, None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *[(partial(m, -1.0), "0 or more, not -1") for m in (L2, EWC, MAS, SI, LwF, SubspaceEWC, KFACEWC)],
        *[(partial(m, float("nan")), "not nan") for m in (L2, EWC, MAS, SI, LwF, SubspaceEWC, KFACEWC)],
        *[(partial(m, float("inf")), "not inf") for m in (L2, EWC, MAS, SI, LwF, SubspaceEWC, KFACEWC)],
        (partial(EWC, decay=1.5), "decay must lie in"),
        (partial(EWC, labels="mc"), "not 'mc'"),
        *[
            (partial(m, samples=0), "samples must be a whole number of 1 or more, not 0")
            for m in (EWC, MAS, SubspaceEWC, KFACEWC)
        ],
        (partial(MAS, inputs=torch.zeros(0, 4)), "inputs is empty"),
        (partial(SI, xi=0.0), "xi must be"),
        (partial(LwF, T=0.0), "T, the temperature"),
    ],
)
def test_bad_hyper_parameters_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# ----------------------------------------------------------------------------------------------------- EWC


class Dropout(nn.Module):
    """A network whose train mode is another function than its eval mode."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.drop, self.b = nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 6)

    def forward(self, x, t=None):
        return self.b(self.drop(self.a(x.flatten(1)).tanh()))


def test_ewc_takes_the_exact_fisher_of_the_own_units_in_eval_mode():
    method = EWC(samples=10)
    learner = Learner(Dropout().double(), small("task"), [method], device="cpu")
    task, learner.seen = learner.stream.tasks[1], 2
    learner.net.train()
    x = next(task.batches(10, rng=torch.Generator().manual_seed(0))).x
    task = Task(1, Batch(x.double(), *(column[:10] for column in task.train[1:])), task.test)
    method.after_task(learner, task)
    net, truth = learner.net.eval(), 0
    for row in x.double():
        logp = net(row[None])[0, 2:4].log_softmax(0)  # the units of task 1
        for value in logp:
            grads = torch.autograd.grad(value, list(net.parameters()), retain_graph=True)
            truth = truth + value.exp() * torch.cat([g.flatten() for g in grads]).square() / 10
    close(flat(method.wells_[0].omega), truth.detach())
    assert not method.wells_[0].omega["b.weight"][[0, 1, 4, 5]].any()  # other heads are free


def test_normalised_fishers_have_mean_one_whatever_their_scale():
    method = EWC(0.01, samples=20, normalise=True)
    learner = learn(small("domain"), [method])
    for well in method.wells_:
        assert flat(well.omega).mean() == pytest.approx(1.0, rel=1e-4)
    method.normalise = False
    task = learner.stream.tasks[-1]
    raw = flat(method.importance(learner, task))
    torch.testing.assert_close(raw / raw.mean(), flat(method.wells_[-1].omega))
    with torch.no_grad():  # one unit can say nothing: F = 0
        for p in learner.params.values():
            p.zero_()
    only = Stream(learner.stream.tasks, torch.tensor([[True, False]] * 3), False)
    method.normalise, learner.stream = True, only
    assert not flat(method.importance(learner, task)).any()


def test_ewc_forgets_less_on_permuted_digits():
    stream = permuted(digits(), tasks=3)
    run = lambda *methods: train(
        Learner(
            MLP((64, 100, 100, 10)),
            stream,
            methods,
            epochs=8,
            batch_size=32,
            optimiser=partial(SGD, lr=0.2),
            device="cpu",
        )
    )
    naive, ewc = run(), run(EWC(3.0, samples=200))
    assert naive.forgetting > 0.25 and ewc.forgetting < 0.7 * naive.forgetting, (naive, ewc)
    assert ewc.acc > naive.acc + 0.08, (naive, ewc)


# ----------------------------------------------------------------------------------------------------- MAS


def brute_mas(net, x, units):
    total, mean = 0, 0
    for row in x:
        energy = 0.5 * net(row[None])[0, units].square().sum()
        g = torch.cat([g.flatten() for g in torch.autograd.grad(energy, list(net.parameters()))])
        total, mean = total + g.abs() / len(x), mean + g / len(x)
    return total, mean.abs()


def test_mas_is_the_mean_of_absolute_gradients_of_the_own_logits():
    method = MAS(samples=10)
    learner = Learner(Dropout().double(), small("task"), [method], device="cpu")
    task, learner.seen = learner.stream.tasks[1], 2
    x = next(task.batches(10)).x.double() - 0.5  # so that gradients differ in sign
    task = Task(1, Batch(x, *(column[:10] for column in task.train[1:])), task.test)
    learner.net.train()
    method.after_task(learner, task)
    right, wrong = brute_mas(learner.net.eval(), x, torch.tensor([2, 3]))
    omega = flat(method.wells_[0].omega)
    close(omega, right)
    assert (omega - wrong).norm() > 0.1 * omega.norm()  # signs cancel in |mean gradient|
    assert not method.wells_[0].omega["b.weight"][[0, 1, 4, 5]].any()


def test_mas_needs_no_labels_and_takes_other_inputs():
    learner = tiny_learner([])
    task, learner.seen = learner.stream.tasks[0], 1
    x, y, t = task.train
    labelled = flat(MAS().importance(learner, task))
    nonsense = Task(0, Batch(x, torch.full_like(y, -7), t), task.test)
    close(flat(MAS().importance(learner, nonsense)), labelled, 0)
    close(flat(MAS(inputs=x).importance(learner, learner.stream.tasks[1])), labelled)
    other = torch.randn(90, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close(flat(MAS(inputs=other).importance(learner, task)), brute_mas(learner.net, other, slice(None))[0])
    assert "inputs" not in repr(MAS(inputs=other)) and MAS(inputs=other) == MAS()


# ------------------------------------------------------------------------------------------------------ SI


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_path_integrals_sum_to_the_loss_drop(momentum):
    def error(steps):  # the same way in more and shorter steps
        si = SI()
        lr = 4.0 * (1 - momentum) / steps
        learner = tiny_learner([si], 1, partial(SGD, lr=lr, momentum=momentum), epochs=steps, batch_size=12)
        (task,) = learner.stream.tasks
        learner.seen = 1
        start = learner.loss(task.train).item()
        si.before_task(learner, task)
        fit(learner, task)
        drop = start - learner.loss(task.train).item()
        return abs(flat(si.path_).sum().item() - drop) / drop

    coarse, fine = error(200), error(400)
    assert fine < 0.02 and coarse / fine == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("proximal", [False, True])
def test_si_takes_its_own_pull_out_of_the_gradient_and_leaves_others_in(proximal):
    seen = []

    class Spy(SI):
        def edit_grads(self, learner, batch):
            super().edit_grads(learner, batch)
            if self.wells_:
                loss = learner.loss(batch) + learner.methods[1].loss(learner, batch)
                truth = torch.autograd.grad(loss, list(learner.params.values()))
                seen.append((flat(self.grad_), torch.cat([g.flatten() for g in truth])))
                self.own = self.penalty(learner.params).item()

    si = Spy(lam=5.0, proximal=proximal)
    learner = tiny_learner([si, L2(0.5)], optimiser=partial(SGD, lr=0.1, momentum=0.5), epochs=3, batch_size=4)
    train(learner)
    assert si.own > 1e-4  # there was a pull to take out
    for mine, truth in seen:
        close(mine, truth)


@pytest.mark.parametrize("proximal", [False, True])
def test_si_takes_the_displacement_as_it_was(proximal):
    """With momentum, weight decay and the proximal pull: none of them is in p.grad, all of them move the weights."""

    class Spy(SI):
        def before_task(self, learner, task):
            super().before_task(learner, task)
            self.walked = torch.zeros_like(flat(self.path_))

        def edit_grads(self, learner, batch):
            super().edit_grads(learner, batch)
            self.here, self.slope = weights(learner), flat(self.grad_).clone()

        def after_step(self, learner, batch):
            super().after_step(learner, batch)
            self.walked -= self.slope * (weights(learner) - self.here)

    si = Spy(lam=2.0, proximal=proximal)
    learner = tiny_learner([si], optimiser=partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1), epochs=4, batch_size=4)
    train(learner)
    close(flat(si.path_), si.walked)
    assert si.walked.abs().max() > 1e-3


def test_si_omega_is_positive_part_over_distance_plus_xi():
    si = SI(xi=0.5)
    learner = tiny_learner([si], tasks=1)
    learner.seen = 1
    (task,) = learner.stream.tasks
    si.before_task(learner, task)
    fit(learner, task)
    rng = torch.Generator().manual_seed(0)
    si.path_ = {n: torch.randn(p.shape, generator=rng).double() for n, p in si.path_.items()}
    omega, path = flat(si.importance(learner, task)), flat(si.path_)
    moved = weights(learner) - flat(si.start_)
    assert moved.abs().max() > 1e-3 and (path < 0).any()
    close(omega, path.clamp(min=0) / (moved**2 + 0.5))


def test_si_sums_omega_over_tasks_and_starts_each_afresh():
    si = SI()
    learner = tiny_learner([si], tasks=2)
    first, second = learner.stream.tasks
    parts = []
    for k, task in enumerate((first, second)):
        learner.seen = k + 1
        si.before_task(learner, task)
        assert not flat(si.path_).any()
        close(flat(si.start_), weights(learner), 0)
        fit(learner, task)
        parts.append(flat(si.importance(learner, task)))
        si.after_task(learner, task)
    (well,) = si.wells_
    close(flat(well.omega), sum(parts))
    assert all(part.max() > 0 for part in parts)


# ----------------------------------------------------------------------------------------------------- LwF


def test_distil_is_its_equation_and_knows_its_direction():
    rng = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 5, 4, generator=rng, dtype=torch.float64)
    T = 3.0
    p, q = (old / T).softmax(1), (new / T).softmax(1)
    close(distil(old, new, T), T**2 * (p * (p / q).log()).sum(1).mean())
    assert abs(distil(old, new, T) - distil(new, old, T)) > 1e-4
    close(distil(old, old + 7.0, T), torch.zeros((), dtype=torch.float64))  # a softmax does not see a shift
    single = new[:, :1].clone().requires_grad_()
    value = distil(old[:, :1], single, T)
    value.backward()
    assert value == 0 and not single.grad.any()


def test_hot_distillation_is_logit_matching():
    rng = torch.Generator().manual_seed(0)
    old, new = 2 * torch.randn(2, 6, 5, generator=rng, dtype=torch.float64)
    gap = (new - new.mean(1, keepdim=True)) - (old - old.mean(1, keepdim=True))
    limit = gap.square().sum(1).mean() / (2 * 5)
    residual = [abs(distil(old, new, T) / limit - 1).item() for T in (10.0, 100.0, 1000.0)]
    assert residual[2] < 1e-3 and residual[0] > 5 * residual[1] > 25 * residual[2]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lwf_has_one_softmax_for_each_old_head(scenario):
    lwf = LwF(alpha=0.7, T=2.0)
    stream = small(scenario)
    learner = Learner(MLP((64, 12, stream.units.shape[1])), stream, [lwf], optimiser=ROUGH, device="cpu")
    for task in learner.stream.tasks[:2]:
        learner.seen += 1
        fit(learner, task)
        lwf.after_task(learner, task)
    learner.seen = 3
    with torch.no_grad():
        for p in learner.params.values():
            p.add_(0.05 * torch.sin(torch.arange(p.numel())).view_as(p))
    batch = next(learner.stream.tasks[2].batches(16))
    new, old = learner.logits(batch.x, batch.t), learner.frozen(batch.x, batch.t, lwf.teacher_)
    heads = {"task": [[0, 1], [2, 3]], "domain": [[0, 1]], "class": [[0, 1, 2, 3]]}[scenario]
    expected = 0.7 * sum(distil(old[:, head], new[:, head], 2.0) for head in heads)
    torch.testing.assert_close(lwf.loss(learner, batch), expected)
    assert expected > 0


class Normed(nn.Module):
    """Dropout and BatchNorm: both must stand still in the teacher."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.drop, self.b = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6)

    def forward(self, x, t=None):
        return self.b(self.drop(self.norm(self.a(x.flatten(1)))))


def test_the_teacher_does_not_move_and_is_in_eval_mode():
    lwf = LwF()
    learner = Learner(Normed(), small("task"), [lwf], optimiser=ROUGH, device="cpu")
    first, second, _ = learner.stream.tasks
    learner.seen = 1
    fit(learner, first)
    lwf.after_task(learner, first)
    batch = next(second.batches(16))
    expected = learner.net.eval()(batch.x).detach()  # what the network says at the end of task 1
    learner.seen = 2
    fit(learner, second)
    assert learner.net.training
    assert torch.equal(learner.frozen(batch.x, batch.t, lwf.teacher_), expected)
    assert learner.net.training  # and the student is as it was
    assert not torch.equal(learner.net.eval()(batch.x), expected)


@pytest.mark.parametrize(
    "how", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.8, "dampening": 0.5}]
)
def test_where_it_comes_to_rest_the_proximal_pull_balances_the_slope(how):
    """∇L = −λ(θ − θ*), as for the explicit penalty, whatever momentum makes of a step."""
    stream = toy(samples=50)
    full = partial(Learner, batch_size=50, epochs=600, device="cpu", optimiser=partial(torch.optim.SGD, lr=0.1, **how))
    learner = full(TwoWeights(), stream, [l2 := L2(0.1, proximal=True)])
    train(learner)
    (anchor, *_), theta = l2.wells_[0].anchor.values(), learner.net.theta
    (slope,) = torch.autograd.grad(learner.loss(next(stream.tasks[1].batches(50))), theta)
    torch.testing.assert_close(slope, -0.1 * (theta.detach() - anchor), rtol=1e-3, atol=1e-5)


def test_proximal_is_for_sgd():
    adam = partial(torch.optim.Adam, lr=1e-3)
    with pytest.raises(ValueError, match="take SGD, or proximal=False"):
        Learner(TwoWeights(), toy(), [EWC(proximal=True)], optimiser=adam)


@pytest.mark.parametrize(("decay", "end"), [(1.0, 4.0), (None, 3.5)])
def test_wells_that_add_up_are_laplace_and_wells_of_their_own_count_twice(decay, end):
    """Three tasks ½(θ − m)², m = 0, 3, 9, whose Fisher is 1: the joint optimum is 4 (Huszár 2018)."""
    l2, one = L2(1.0, decay=decay), torch.ones(1)
    for m in (0.0, 3.0, 9.0):

        def slope(theta, m=m):
            theta = theta.clone().requires_grad_()
            loss = 0.5 * (theta - m).square().sum() + l2.penalty({"w": theta})
            return torch.autograd.grad(loss, theta)[0]

        theta = -slope(0 * one) / (slope(one) - slope(0 * one))  # the root of a straight line
        l2.after_task(SimpleNamespace(net=nn.Identity(), params={"w": theta}), None)
    torch.testing.assert_close(theta, end * one)


def test_samples_and_slots_are_whole_numbers():
    for make in (lambda: EWC(samples=50.5), lambda: ER(20.5)):
        with pytest.raises(ValueError, match=r"not (50|20)\.5"):
            make()
