"""A-GEM and GEM: the projection is the quadratic programme's, and old losses do not rise to first order."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cl_tutor.data import digits
from cl_tutor.learn import Learner, Method, fit, train
from cl_tutor.methods.projection import AGEM, GEM, gradient, project, project_mean, read_grads, write_grads
from cl_tutor.nets import MLP
from cl_tutor.streams import Batch, Stream, permuted, split

DATA = digits()
STREAMS = {s: split(DATA, scenario=s) for s in ("task", "domain", "class")}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def random_problem(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A gradient and 1 to 8 old ones, in 3 to 30 dimensions: more rows than dimensions happens too."""
    rng = torch.Generator().manual_seed(seed)
    rows, width = (int(torch.randint(a, b, (), generator=rng)) for a, b in ((1, 9), (3, 31)))
    g = torch.randn(width, dtype=torch.float64, generator=rng)
    return g, torch.randn(rows, width, dtype=torch.float64, generator=rng) - 0.3 * g


def slsqp(g: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
    """min ½‖x − g‖² with G x ≥ 0 by SciPy's sequential quadratic programming, in the P unknowns of the primal."""
    g, G = g.numpy(), G.numpy()
    constraint = {"type": "ineq", "fun": lambda x: G @ x, "jac": lambda x: G}
    answer = minimize(
        lambda x: 0.5 * ((x - g) ** 2).sum(), g, jac=lambda x: x - g, constraints=[constraint], options={"ftol": 1e-14}
    )
    return torch.tensor(answer.x)


@pytest.mark.parametrize("seed", range(40))
def test_project_solves_the_quadratic_programme(seed):
    g, G = random_problem(seed)
    p = project(g, G)
    torch.testing.assert_close(p, slsqp(g, G), atol=1e-5, rtol=1e-5)
    assert (G @ p).min() >= -1e-12 * g.norm() * G.norm()
    torch.testing.assert_close(project(p, G), p, atol=1e-12, rtol=0)  # idempotent


@pytest.mark.parametrize("seed", range(20))
def test_the_margin_is_a_lower_bound_on_every_multiplier(seed):
    g, G = random_problem(seed)
    gamma = 0.5
    if (G @ g >= 0).all():
        assert project(g, G, gamma) is g  # the margin matters only once a constraint is broken
        return
    # the dual of the authors' code: min ½ vᵀGGᵀv + (Gg)ᵀv with v ≥ γ
    K, q = (G @ G.T).numpy(), (G @ g).numpy()
    v = minimize(
        lambda v: 0.5 * v @ K @ v + q @ v,
        np.full(len(G), gamma),
        jac=lambda v: K @ v + q,
        bounds=[(gamma, None)] * len(G),
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    ).x
    torch.testing.assert_close(project(g, G, gamma), g + G.T @ torch.tensor(v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_agem_is_gem_with_one_row(seed):
    g, G = random_problem(seed)
    one, many = project_mean(g, G[0]), project(g, G[:1])
    torch.testing.assert_close(one, many, atol=1e-13, rtol=1e-13)
    dot = g @ G[0]
    expected = g - dot / G[0].square().sum() * G[0] if dot < 0 else g
    torch.testing.assert_close(one, expected, atol=1e-13, rtol=1e-13)


def test_where_no_constraint_is_broken_nothing_changes_by_a_bit():
    g = torch.randn(50)
    G = torch.stack([g + 0.1 * torch.randn(50), g * 0])  # an acute angle, and a right one
    assert project(g, G) is g and project(g, G, margin=0.5) is g and project_mean(g, G[0]) is g


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-25])
def test_zero_rows_duplicates_and_lengths_do_not_matter(size):
    g, G = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.2]])
    wanted = project(g, G)
    assert torch.isfinite(wanted).all() and (G @ wanted).min() > -1e-6
    variants = (
        torch.cat([G, torch.zeros(2, 3)]),
        torch.cat([G, G, G]),
        torch.cat([G, G[:1] + G[1:]]),  # a combination of the others
        torch.cat([G * size, G]),
        G * size,
    )
    for rows in variants:
        torch.testing.assert_close(project(g, rows), wanted)
        torch.testing.assert_close(project(g, rows.flip(0)), wanted)
    torch.testing.assert_close(project(g * size, G), wanted * size, atol=0, rtol=1e-5)
    torch.testing.assert_close(project_mean(g, G[0] * size), project_mean(g, G[0]))
    tiny = torch.tensor([[-1e-200, 0.0]], dtype=torch.float64)  # its square is 0
    assert project(-tiny[0] / 1e-200, tiny).tolist() == [1, 0]
    assert project(g, torch.zeros(3, 3)) is g and project_mean(g, torch.zeros(3)) is g


def test_agem_keeps_the_mean_but_breaks_a_task_that_gem_protects():
    g = torch.tensor([1.0, -2.0])
    G = torch.tensor([[-1.0, 0.2], [0.0, 3.0]])  # two old tasks
    mean = project_mean(g, G.mean(0))
    assert G.mean(0) @ mean >= -1e-6  # the mean does not rise
    assert G[0] @ mean < -0.3  # the first task's loss does
    assert (G @ project(g, G)).min() >= -1e-6


def learner_of(stream, *methods, lr=0.1, epochs=1, device="cpu", hidden=30, dtype=torch.float32):
    net = MLP((64, hidden, stream.units.shape[1])).to(dtype)
    return Learner(net, stream, list(methods), epochs, 32, partial(torch.optim.SGD, lr=lr), device=device)


def in_double(stream: Stream) -> Stream:
    cast = lambda batch: Batch(batch.x.double() / 255, batch.y, batch.t)
    return replace(stream, tasks=[replace(k, train=cast(k.train), test=cast(k.test)) for k in stream.tasks])


def before_a_step(stream, tasks, *methods, **settings):
    """A learner that has met the first tasks, at the beginning of the next."""
    learner = learner_of(stream, *methods, **settings)
    for task in stream.tasks[:tasks]:
        learner.seen += 1
        fit(learner, task)
        for m in methods:
            m.after_task(learner, task)
    learner.seen += 1
    return learner


def backward(learner, batch):
    learner.net.zero_grad()
    learner.loss(batch).backward()
    return read_grads(learner).clone()


def angle(g, others):
    """The smallest cosine of g with the others."""
    return torch.cosine_similarity(torch.stack(others), g[None]).min().item()


class Watch(Method):
    """Last in the list, notes the smallest cosine of the bent gradient with the gradients of the given memories."""

    def __init__(self, memories):
        self.memories, self.lowest, self.mean = memories, [], []

    def edit_grads(self, learner, batch):
        past = self.memories[: learner.seen - 1]
        if past:
            G, g = [gradient(learner, rows) for rows in past], read_grads(learner)
            self.lowest.append(angle(g, G))
            self.mean.append(angle(g, [sum(G)]))


def test_in_a_run_gem_keeps_every_constraint_and_agem_only_the_mean():
    stream = permuted(DATA, tasks=3)
    gem = GEM(30)
    watch = Watch(gem.memories_)
    train(learner_of(stream, gem, watch))
    assert len(watch.lowest) > 80 and min(watch.lowest) > -1e-5

    rows = gem.memories_

    class SameRows(AGEM):  # A-GEM on the very rows that GEM kept
        def after_task(self, learner, task):
            self.memory_.add(*rows[task.id])

    agem, watch = SameRows(60, size=60), Watch(rows)
    train(learner_of(stream, agem, watch))
    assert min(watch.mean) > -1e-5
    assert min(watch.lowest) < -0.05  # one task pays while the mean is kept

    watch = Watch(rows)
    train(learner_of(stream, watch))
    assert min(watch.mean) < -0.05  # and without either, both


def test_with_one_past_task_both_methods_make_the_same_step():
    stream = in_double(STREAMS["domain"])
    learner = before_a_step(stream, 1, dtype=torch.float64)
    gem, agem = GEM(50), AGEM(50, size=50)
    gem.after_task(learner, stream.tasks[0])
    agem.memory_.add(*gem.memories_[0])
    batch = next(stream.tasks[1].batches(32))
    steps = []
    for method in (gem, agem):
        g = backward(learner, batch)
        method.edit_grads(learner, batch)
        steps.append(read_grads(learner))
        assert not torch.allclose(steps[-1], g)
    torch.testing.assert_close(*steps, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("make", [AGEM, GEM])
def test_a_step_that_harms_nobody_is_left_as_it_is_bit_for_bit(make):
    method = make(40)
    learner = before_a_step(STREAMS["domain"], 1, method)
    old = next(STREAMS["domain"].tasks[0].batches(300))  # its gradient points the way of the memory's
    g = backward(learner, old)
    method.edit_grads(learner, old)
    assert torch.equal(read_grads(learner), g)


@pytest.mark.parametrize("make", [AGEM, GEM])
@pytest.mark.parametrize("scenario", STREAMS)
def test_with_no_past_the_run_is_bitwise_the_naive_one(make, scenario):
    one = replace(STREAMS[scenario], tasks=STREAMS[scenario].tasks[:1])
    a, b = learner_of(one), learner_of(one, make())
    assert train(a).losses == train(b).losses
    assert all(torch.equal(p, q) for p, q in zip(a.net.parameters(), b.net.parameters()))


def test_memory_gradients_go_past_p_grad_and_each_row_is_asked_under_its_own_head():
    stream = STREAMS["task"]
    learner = before_a_step(stream, 1)
    backward(learner, next(stream.tasks[1].batches(32)))
    before = {n: p.grad.clone() for n, p in learner.params.items()}
    g = gradient(learner, next(stream.tasks[0].batches(40)))
    assert all(torch.equal(p.grad, before[n]) for n, p in learner.params.items())
    head = g[-10:]  # the bias of the output layer comes last
    assert (head[:2] != 0).all() and (head[2:] == 0).all()
    expected = backward(learner, next(stream.tasks[0].batches(40)))
    torch.testing.assert_close(g, expected)


def test_a_weight_without_a_gradient_counts_as_zero():
    learner = learner_of(STREAMS["domain"])
    learner.net.unused = torch.nn.Parameter(torch.ones(3))
    learner.seen = 1
    batch = next(STREAMS["domain"].tasks[0].batches(8))
    g = backward(learner, batch)
    names = list(learner.params)
    assert len(g) == sum(p.numel() for p in learner.params.values()) == len(gradient(learner, batch))
    assert names[0] == "unused" and (g[:3] == 0).all()
    write_grads(learner, g)
    assert torch.equal(read_grads(learner), g)


@pytest.mark.parametrize("make", [AGEM, GEM])
def test_the_reference_holds_past_tasks_and_never_the_current_one(make):
    method = make(30)
    learner = learner_of(STREAMS["class"], method)

    class Look(Method):
        def edit_grads(self, learner, batch):
            rows = [method.memory_.rows()] if make is AGEM else method.memories_
            kept = {int(t) for _, _, ts in filter(None, rows) for t in ts}
            assert kept == set(range(learner.seen - 1))

    learner.methods.append(Look())
    train(learner)


@pytest.mark.parametrize("make", [partial(AGEM, size=200), GEM])
def test_with_plain_sgd_the_old_loss_does_not_rise_to_first_order(make):
    stream = in_double(permuted(DATA, tasks=3))
    method = make()
    learner = before_a_step(stream, 2, method, epochs=5, lr=0.2, dtype=torch.float64)
    past = [Batch(*method.memory_.rows())] if isinstance(method, AGEM) else method.memories_
    fit(learner, stream.tasks[2], epochs=1)  # some way into the third task, where the past is in danger
    batches = stream.tasks[2].batches(32, rng=torch.Generator().manual_seed(0))
    batch = min(batches, key=lambda b: angle(backward(learner, b), [gradient(learner, rows) for rows in past]))

    def rise(g, eta):
        """(old loss after the step − before) / η, the worst of the memories. Tends to −g·g_k as η -> 0."""
        moved, parts = {}, g.split([p.numel() for p in learner.params.values()])
        for (n, p), part in zip(learner.params.items(), parts):
            moved[n] = p.detach() - eta * part.view_as(p)
        with torch.no_grad():
            return max((learner.loss(rows, moved) - learner.loss(rows)).item() / eta for rows in past)

    g = backward(learner, batch)
    method.edit_grads(learner, batch)
    bent = read_grads(learner)
    etas = (1e-3, 1e-4, 1e-5)
    unbent, rises = [rise(g, eta) for eta in etas], [rise(bent, eta) for eta in etas]
    assert min(unbent) > 0.05  # without the projection the old loss rises in proportion to η
    assert rises[-1] < 1e-3 * unbent[-1]  # with it, what remains is of second order:
    assert rises[-1] < 0.2 * rises[0] or rises[-1] <= 0


def test_projection_forgets_less_than_naive():
    stream = permuted(DATA, tasks=3)
    settings = {"epochs": 4, "lr": 0.2, "hidden": 40}
    naive = train(learner_of(stream, **settings))
    for method in (AGEM(200), GEM(50), GEM(50, margin=0.5)):
        r = train(learner_of(stream, method, **settings))
        assert r.forgetting < naive.forgetting - 0.1 and r.acc > naive.acc + 0.05, (method, r, naive)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scenario", STREAMS)
@pytest.mark.parametrize("make", [AGEM, GEM, partial(GEM, margin=0.5)])
def test_runs_on_every_device_in_every_scenario_and_bends_something(device, scenario, make):
    method = make(20)
    stream = STREAMS[scenario]
    bent = []

    class Before(Method):
        def edit_grads(self, learner, batch):
            self.g = read_grads(learner)

    class After(Method):
        def edit_grads(self, learner, batch):
            bent.append(not torch.equal(before.g, read_grads(learner)))

    before = Before()
    train(learner_of(replace(stream, tasks=stream.tasks[:2]), before, method, After(), device=device, epochs=3))
    assert not any(bent[: len(bent) // 3]) and any(bent)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AGEM(0), "1 slot or more, not 0"),
        (lambda: AGEM(size=0), "size must be 1 or more, not 0"),
        (lambda: GEM(0), "per_task must be 1 or more, not 0"),
        (lambda: GEM(margin=-0.1), "margin must be a finite number of 0 or more, not -0.1"),
        (lambda: GEM(margin=float("inf")), "margin must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
