"""Generative replay: dreams of the past, labelled by the network of the past, and no training sample anywhere."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cl_tutor.data import Data, digits
from cl_tutor.learn import Learner, Method, fit, train
from cl_tutor.methods.generative import VAE, GenerativeReplay
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted, sequence, split, toy

DATA = digits()
STREAMS = {s: split(DATA, scenario=s) for s in ("task", "domain", "class")}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def learner_of(stream, *methods, epochs=1, lr=0.1, device="cpu", hidden=30, seed=0):
    net = MLP((64, hidden, stream.units.shape[1]), seed=seed)
    opt = partial(torch.optim.SGD, lr=lr)
    return Learner(net, stream, list(methods), epochs, 32, opt, device=device, seed=seed)


def test_the_loss_is_the_negative_elbo_and_the_elbo_a_lower_bound_of_the_likelihood():
    torch.manual_seed(0)
    vae = VAE(6, 5, 1).double()
    x = torch.rand(3, 6, dtype=torch.float64).round()
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    step = 16 / 4000
    p = vae(grid)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid[:, 0])
    joint = prior + torch.stack([(row * p.log() + (1 - row) * (1 - p).log()).sum(1) for row in x])  # log p(x, z)
    evidence = joint.logsumexp(1) + torch.tensor(step).log()  # log p(x), by quadrature
    with torch.no_grad():
        mean, log_var = vae.encoder(x).chunk(2, dim=1)
        q = torch.distributions.Normal(mean, (log_var / 2).exp())
        log_q = q.log_prob(grid[:, 0].expand(3, -1))
        exact = (log_q.exp() * (joint - log_q) * step).sum(1)  # the ELBO, by quadrature
        noise = torch.randn(50, 3000, 1, dtype=torch.float64)
        drawn = torch.stack([vae.loss(x.repeat(1000, 1), part) for part in noise])
    assert (exact < evidence).all()
    assert -drawn.mean().item() == pytest.approx(exact.mean().item(), abs=4 * drawn.std().item() / 50**0.5)


def tensors(state, seen=None):
    """Every tensor that can be reached from an object."""
    seen = set() if seen is None else seen
    if id(state) in seen:
        return
    seen.add(id(state))
    if isinstance(state, Tensor):
        yield state
        if state.grad is not None:
            yield state.grad
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value, seen)
    elif isinstance(state, list | tuple | set):
        for value in state:
            yield from tensors(value, seen)
    elif isinstance(state, torch.optim.Optimizer):
        yield from tensors(dict(state.state), seen)
        yield from tensors(state.param_groups, seen)
    elif isinstance(state, nn.Module):
        yield from tensors(dict(state.named_parameters()), seen)
        yield from tensors(dict(state.named_buffers()), seen)
    elif hasattr(state, "__dict__"):
        yield from tensors(vars(state), seen)


def training_rows_in(method, stream) -> int:
    """How many training samples can be found, whole, among the rows of the method's tensors."""
    shown = {row.numpy().tobytes() for task in stream.tasks for row in next(task.batches(5000)).x.flatten(1)}
    width = stream.tasks[0].train.x[0].numel()
    rows = [t.detach().float().cpu().reshape(-1, width) for t in tensors(method) if t.numel() % width == 0]
    return sum(row.tobytes() in shown for row in torch.cat(rows).numpy())


def test_no_training_sample_is_stored():
    from cl_tutor.methods.replay import ER

    stream = permuted(DATA, tasks=2)
    method, er = GenerativeReplay(), ER(20)
    train(learner_of(stream, method, er))
    assert sum(t.numel() for t in tensors(method)) > 50_000  # the search looks into all of its networks
    assert training_rows_in(method, stream) == 0
    assert training_rows_in(er, stream) == 20  # and would find samples if there were any


def test_memory_does_not_grow_with_the_tasks():
    sizes = []
    for tasks in (2, 5):
        method = GenerativeReplay()
        stream = STREAMS["class"]
        train(learner_of(replace(stream, tasks=stream.tasks[:tasks]), method))
        sizes.append(sum(t.numel() for t in tensors({k: v for k, v in vars(method).items() if k.endswith("_")})))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("scenario", STREAMS)
def test_strength_zero_is_bitwise_the_naive_run(scenario):
    a, b = learner_of(STREAMS[scenario]), learner_of(STREAMS[scenario], GenerativeReplay(alpha=0.0))
    assert train(a).losses == train(b).losses
    assert all(torch.equal(p, q) for p, q in zip(a.net.parameters(), b.net.parameters()))


def test_one_seed_gives_one_run_and_another_seed_another():
    run = lambda seed: train(learner_of(STREAMS["class"], GenerativeReplay(seed=seed))).losses
    assert run(0) == run(0) != run(1)


@pytest.mark.parametrize("scenario", STREAMS)
def test_the_term_is_the_cross_entropy_with_the_old_networks_probabilities(scenario):
    stream = STREAMS[scenario]
    method = GenerativeReplay(alpha=0.7, size=40)
    learner = learner_of(stream, method)
    for task in stream.tasks[:2]:
        learner.seen += 1
        method.before_task(learner, task)
        fit(learner, task)
        method.after_task(learner, task)
    learner.seen = 3
    batch = next(stream.tasks[2].batches(8))
    state = method.rng_.get_state()
    term = method.loss(learner, batch)

    method.rng_.set_state(state)
    x = method.dream(batch.x)
    t = torch.randint(2, (40,), generator=method.rng_)
    assert x.shape == (40, 1, 8, 8) and x.min() >= 0 and x.max() <= 1 and set(t.tolist()) == {0, 1}
    z = learner.net(x).detach()  # the weights are still the teacher's
    total = 0.0
    for row, task in zip(z, t):
        if scenario == "domain":
            old = new = row
        elif scenario == "task":  # the two units of its own task
            old = new = row[2 * task : 2 * task + 2]
        else:  # four old classes; six compete now
            old, new = row[:4], row[:6]
        total -= float((old.softmax(0) * new.log_softmax(0)[: len(old)]).sum())
    assert term.item() == pytest.approx(0.7 * total / 40, rel=1e-5)


def test_the_teacher_and_the_dreamer_are_of_the_last_task_and_stand_still():
    stream = STREAMS["class"]
    method = GenerativeReplay()

    class Watch(Method):
        def after_step(self, learner, batch):
            if learner.seen > 1:
                for copy, kept in ((method.teacher_, net), (method.dreamer_, vae)):
                    assert all(torch.equal(copy[n], kept[n]) for n in kept)
                assert not torch.equal(learner.net.head.bias, net["head.bias"])
                assert not torch.equal(method.vae_.decoder[0].bias, vae["decoder.0.bias"])

        def after_task(self, learner, task):
            net.update({n: p.detach().clone() for n, p in learner.params.items()})
            vae.update({n: p.detach().clone() for n, p in method.vae_.named_parameters()})

    net: dict = {}
    vae: dict = {}
    train(learner_of(stream, method, Watch()))


def test_the_generator_does_not_forget_the_first_task():
    stream = permuted(DATA, tasks=2)
    method = GenerativeReplay()
    learner = learner_of(stream, method, epochs=5)
    old, new = (next(task.batches(1000)).x.flatten(1) for task in stream.tasks)
    noise = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    bound = lambda x: method.vae_.loss(x, noise).item()
    untrained = bound(old)
    learner.seen = 1
    method.before_task(learner, stream.tasks[0])
    fit(learner, stream.tasks[0])
    method.after_task(learner, stream.tasks[0])
    first = bound(old)
    learner.seen = 2
    method.before_task(learner, stream.tasks[1])
    fit(learner, stream.tasks[1])
    assert first < untrained - 10 and bound(new) < untrained - 10
    both = bound(old)
    method.after_task(learner, stream.tasks[1])

    method.dreamer_ = {}  # without dreams of its own past it forgets
    method.before_task(learner, stream.tasks[1])
    fit(learner, stream.tasks[1], epochs=3)
    assert both - first < 0.5 * (bound(old) - first)


@pytest.mark.parametrize("scenario", ["permuted", "class"])
def test_it_forgets_less_than_naive(scenario):
    stream = permuted(DATA, tasks=3) if scenario == "permuted" else STREAMS["class"]
    settings = {"epochs": 6, "lr": 0.2 if scenario == "permuted" else 0.1, "hidden": 60}
    naive = train(learner_of(stream, **settings))
    dream = train(learner_of(stream, GenerativeReplay(), **settings))
    assert dream.forgetting < naive.forgetting - 0.15 and dream.acc > naive.acc + 0.1, (dream, naive)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scenario", STREAMS)
def test_runs_on_every_device_in_every_scenario(device, scenario):
    method = GenerativeReplay()
    learner = learner_of(STREAMS[scenario], method, device=device)
    for task in STREAMS[scenario].tasks[:2]:
        learner.seen += 1
        method.before_task(learner, task)
        fit(learner, task)
        method.after_task(learner, task)
    assert {t.device.type for t in method.vae_.parameters()} == {device}
    assert method.loss(learner, next(STREAMS[scenario].tasks[0].batches(8)).to(device)) > 0


def test_inputs_that_are_not_pixels_are_refused():
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], but inputs reach"):
        Learner(MLP((2, 4, 2)), toy(), [GenerativeReplay()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be 1 or more, not 0"),
        ({"alpha": -1.0}, "alpha must be a finite number of 0 or more, not -1.0"),
        ({"latent": 0}, "latent must be greater than 0, not 0"),
        ({"lr": float("nan")}, "lr must be greater than 0, not nan"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GenerativeReplay(**settings)


def test_inputs_of_later_tasks_are_looked_at_too():
    good, bad = (Data.of((x, y), (x, y)) for x, y in [(torch.rand(20, 4), torch.arange(20) % 2)] * 2)
    wide = bad._replace(train=(5 * bad.train[0], bad.train[1]))
    with pytest.raises(ValueError, match=r"dreams pixels in \[0, 1\], but inputs reach"):
        Learner(MLP((4, 2)), sequence(good, wide, scenario="domain"), [GenerativeReplay()])
