"""MER is its own inner loop plus interpolation; OML's gradient is the derivative, and its features interfere less."""

from dataclasses import replace
from functools import partial
from itertools import combinations, permutations

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad

from cl_tutor.data import digits
from cl_tutor.learn import Learner, fit, train
from cl_tutor.methods.memory import Reservoir
from cl_tutor.methods.meta import MER, OML, meta_train, oml_loss, online, reptile, walks
from cl_tutor.methods.regularization import SI
from cl_tutor.nets import MLP, SmallCNN
from cl_tutor.streams import Batch, permuted, split

SIZES = (64, 30, 10)
PLAIN = partial(torch.optim.SGD, lr=0.1)
MOMENTUM = partial(torch.optim.SGD, lr=0.03, momentum=0.9, weight_decay=1e-3)


def learner(methods=(), stream=None, optimiser=PLAIN, **options):
    return Learner(MLP(SIZES), stream or permuted(digits(), 2), methods, batch_size=32, optimiser=optimiser, **options)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


# -------------------------------------------------------------------------------------------------------------- MER


@pytest.mark.parametrize("optimiser", [PLAIN, MOMENTUM])
@pytest.mark.parametrize(("trajectories", "steps"), [(1, 1), (1, 3), (2, 2)])
def test_mer_with_interpolation_1_is_its_inner_loop_bit_for_bit(trajectories, steps, optimiser):
    ours = learner([MER(20, 8, trajectories, steps, beta=1.0, gamma=1.0)], optimiser=optimiser)
    train(ours)
    run = learner(optimiser=optimiser)  # by hand: the stream's batch, then draws from the memory
    memory = Reservoir(20)
    for task in run.stream.tasks:
        run.seen += 1
        opt = optimiser(list(run.params.values()))

        def step(batch, opt=opt):
            opt.zero_grad()
            run.loss(batch).backward()
            opt.step()

        for batch in task.batches(32, rng=run.rng):
            for _ in range(trajectories):
                step(batch)
                for _ in range(steps - 1 if len(memory) else 0):
                    step(Batch(*memory.sample(8)))
            memory.add(*batch)
    assert same(ours.net, run.net)


def test_mer_with_one_step_and_no_interpolation_is_naive():
    ours, naive = learner([MER(steps=1, gamma=1.0)]), learner()
    assert (train(ours).R == train(naive).R).all() and same(ours.net, naive.net)


def test_mer_interpolates_within_and_across():
    """β and γ by hand, for two trajectories of two steps from one state."""
    run, mer = learner(), MER(20, 8, trajectories=2, steps=2, beta=0.5, gamma=0.25)
    mer.memory_.add(*next(run.stream.tasks[1].batches(16)))
    run.seen, run.opt = 2, PLAIN(list(run.params.values()))
    batch = next(run.stream.tasks[0].batches(32))
    draws = Reservoir(20)
    draws.add(*next(run.stream.tasks[1].batches(16)))
    theta = {n: p.detach().clone() for n, p in run.params.items()}

    def step(theta, batch):
        g = grad(lambda theta: run.loss(batch, theta))(theta)
        return {n: theta[n] - 0.1 * g[n] for n in theta}

    mix = lambda a, b, rate: {n: a[n] + rate * (b[n] - a[n]) for n in a}
    expected = theta
    for _ in range(2):
        end = step(step(expected, batch), Batch(*draws.sample(8)))
        expected = mix(expected, end, 0.5)
    expected = mix(theta, expected, 0.25)
    mer.edit_grads(run, batch)  # then the loop's own step
    run.loss(batch).backward()
    run.opt.step()
    mer.after_step(run, batch)
    torch.testing.assert_close(dict(run.params), expected, rtol=1e-4, atol=1e-6)


def test_reptile_is_exact_at_both_ends():
    rng = torch.Generator().manual_seed(0)
    start, end = ({"w": torch.randn(1000, generator=rng)} for _ in range(2))
    for rate, goal in ((0.0, start), (1.0, end)):
        params = {"w": end["w"].clone()}
        reptile(params, start, rate)
        assert torch.equal(params["w"], goal["w"])


def test_the_steps_of_mer_align_gradients():
    """Averaged over the order: θ_k − θ_0 = −α Σ g_i + α²/2 Σ_{i<j} ∇(g_i·g_j) + O(α³), in float64."""
    rng = torch.Generator().manual_seed(0)
    data = [(torch.randn(4, 3, generator=rng).double(), torch.randint(2, (4,), generator=rng)) for _ in range(3)]
    theta = torch.randn(6, generator=rng).double()
    loss = lambda theta, x, y: F.cross_entropy((x @ theta.view(3, 2)).tanh(), y)
    g = lambda theta, k: grad(loss)(theta, *data[k])
    first = sum(g(theta, k) for k in range(3))
    second = sum(grad(lambda theta, i=i, j=j: g(theta, i) @ g(theta, j))(theta) for i, j in combinations(range(3), 2))

    def residual(alpha):
        ends = []
        for order in permutations(range(3)):
            t = theta
            for k in order:
                t = t - alpha * g(t, k)
            ends.append(t)
        move = torch.stack(ends).mean(0) - theta
        return (move - (-alpha * first + alpha**2 / 2 * second)).norm() / alpha**2, second.norm()

    big, size = residual(1e-2)
    small, _ = residual(1e-3)
    assert small < 1e-2 * size and 8 < big / small < 12  # what is left falls like α³


def test_mer_forgets_less_than_naive_on_permuted_digits():
    options = {"stream": permuted(digits(), 3), "epochs": 5, "optimiser": partial(torch.optim.SGD, lr=0.2)}
    naive, mer = train(learner(**options)), train(learner([MER()], **options))
    assert mer.acc > naive.acc + 0.05 and mer.forgetting < naive.forgetting / 2


def test_mer_leaves_the_gradient_to_the_loop_and_composes():
    run = learner([MER(gamma=1.0, steps=1), OML()], stream=permuted(digits(), 1))
    before = run.net.body[0].weight.clone()
    train(run)
    assert torch.equal(run.net.body[0].weight, before)


def test_mer_refuses_bad_numbers():
    with pytest.raises(ValueError, match=r"steps of 1 or more.*steps=0"):
        MER(steps=0)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], not beta=1.5"):
        MER(beta=1.5)


# -------------------------------------------------------------------------------------------------------------- OML


def tiny():
    """φ: 3 -> 4 with tanh, g: 4 -> 2, in float64, with a walk of four samples and five others."""
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.double)
    phi = lambda theta, x: (x @ theta["A"]).tanh()
    g = lambda W, h: h @ W["B"] + W["b"]
    theta, W = {"A": draw(3, 4)}, {"B": draw(4, 2), "b": draw(2)}
    pair = lambda n: (draw(n, 3), torch.randint(2, (n,), generator=rng))
    return phi, g, theta, W, pair(4), pair(5)


def test_online_is_sgd_one_sample_at_a_time():
    phi, g, theta, W, (x, y), _ = tiny()
    h, net = phi(theta, x), torch.nn.Linear(4, 2).double()
    with torch.no_grad():
        net.weight.copy_(W["B"].T), net.bias.copy_(W["b"])
    opt = torch.optim.SGD(net.parameters(), lr=0.3)
    for k in range(4):
        opt.zero_grad()
        F.cross_entropy(net(h[k : k + 1]), y[k : k + 1]).backward()
        opt.step()
    ours = online(g, W, h, y, 0.3)
    torch.testing.assert_close(ours, {"B": net.weight.T.detach(), "b": net.bias.detach()})


@pytest.mark.parametrize("name", ["theta", "W"])
def test_omls_meta_gradient_is_the_derivative(name):
    """Through the walk, second derivatives included: central differences in float64."""
    phi, g, theta, W, walk, rest = tiny()
    parts = {"theta": theta, "W": W}
    f = lambda part: oml_loss(phi, g, **{**parts, name: part}, walk=walk, rest=rest, lr=0.3)
    ours, e = grad(f)(parts[name]), 1e-6
    for n, p in parts[name].items():
        for i in range(p.numel()):
            d = torch.zeros(p.numel(), dtype=torch.double)
            d[i] = e
            up, down = ({**parts[name], n: p + s * d.view_as(p)} for s in (1, -1))
            slope = (f(up) - f(down)) / (2 * e)
            torch.testing.assert_close(ours[n].flatten()[i], slope, rtol=1e-6, atol=1e-8)


def test_the_meta_gradient_goes_through_the_walk():
    """A first-order shortcut, with the walk's result held fixed, is another gradient."""
    phi, g, theta, W, walk, rest = tiny()
    learnt = online(g, W, phi(theta, walk[0]), walk[1], 0.3)
    shortcut = grad(lambda theta: F.cross_entropy(g(learnt, phi(theta, rest[0])), rest[1]))(theta)["A"]
    whole = grad(lambda theta: oml_loss(phi, g, theta, W, walk, rest, 0.3))(theta)["A"]
    assert (whole - shortcut).norm() > 0.1 * whole.norm()


def test_walks_are_sorted_by_class_relabelled_and_disjoint():
    y = torch.arange(300) % 6 * 7
    x = torch.arange(300.0)
    (walk, rest), again = (next(iter(walks(x, y, 1, batch=4, classes=3, shots=5))) for _ in range(2))
    assert torch.equal(walk[0], again[0][0])  # one seed, one walk
    assert walk[1].tolist() == rest[1].tolist() == [[0] * 5 + [1] * 5 + [2] * 5] * 4
    classes = [[tuple(y[rows.long()].unique().tolist()) for rows in one.split(5)] for one in walk[0]]
    assert all(len(set(c)) == 3 and all(len(k) == 1 for k in c) for c in classes) and len(set(map(tuple, classes))) > 1
    for a, b in zip(walk[0], rest[0]):
        assert len(set(a.tolist()) | set(b.tolist())) == 30  # 15 and 15 different samples
        assert torch.equal(y[a.long()], y[b.long()])
    with pytest.raises(ValueError, match="need as many, each of at least 2·shots = 200 samples"):
        next(walks(x, y, 1, shots=100))


def test_oml_freezes_the_representation_only():
    for net, prediction in ((MLP(SIZES), "head"), (SmallCNN(1, 28, 10), "fc2")):
        data = digits() if prediction == "head" else None
        if data is None:
            x = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
            data = digits()._replace(train=(x, torch.arange(40) % 10), test=(x, torch.arange(40) % 10))
        run = Learner(net, permuted(data, 2), [OML(prediction)])
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        train(run)
        moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
        assert moved == {f"{prediction}.weight", f"{prediction}.bias"}
    with pytest.raises(ValueError, match=r"no linear layer 'last' to learn online: prediction is one of body.0, head"):
        learner([OML("last")])


def learn_online(net, classes, lr):
    """One class after another, one sample at a time, once, all units competing: the mean accuracy at the end."""
    stream = split(digits(), 10, "class")
    stream = replace(stream, units=torch.ones_like(stream.units))
    run = Learner(net, stream, [OML()], batch_size=1, optimiser=partial(torch.optim.SGD, lr=lr))
    tasks = [stream.tasks[c] for c in classes]
    for task in tasks:
        run.seen += 1
        run.methods[0].before_task(run, task)
        fit(run, replace(task, train=Batch(*(column[:30] for column in task.train))))
    return sum(run.accuracy(task) for task in tasks) / len(tasks)


@torch.no_grad()
def after_walks(net, x, y, lr):
    """The same on 16 walks of 5 classes × 30 samples, classes and order drawn anew: the mean accuracy."""
    (walk, labels), (rest, _) = next(walks(x, y, 1, batch=16, shots=30, seed=123))
    g, W = partial(functional_call, net.head), {n: torch.zeros_like(p) for n, p in net.head.named_parameters()}
    one = lambda walk, labels, rest: g(online(g, W, net.features(walk), labels, lr), net.features(rest)).argmax(1)
    return torch.vmap(one)(walk, labels, rest).eq(labels).float().mean().item()


def test_oml_features_interfere_less_than_those_they_started_from():
    """Plain: trained to classify digits 0-4 in four orientations, 20 classes. OML: the same, then meta-trained on walks
    over these. Both then learn 5-9 online, class by class; chance is 0.2.

    What does not hold: meta-trained from scratch on so few classes, OML beats random features at learning rates of 0.01
    and more only. As the rate falls to 0 online learning becomes a nearest-mean rule, in which nothing can interfere,
    and random features do as well. So each representation gets its best rate here.
    """
    (x, y), *_ = digits()
    new_x, new_y = x[y >= 5].float() / 255, y[y >= 5]
    x, y = x[y < 5].float() / 255, y[y < 5]
    x, y = torch.cat([x.rot90(k, (2, 3)) for k in range(4)]), torch.cat([y + 5 * k for k in range(4)])
    classifier, nets = MLP((64, 100, 100, 20)), {name: MLP((64, 100, 100, 10)) for name in ("random", "plain", "oml")}
    opt, rng = torch.optim.Adam(classifier.parameters(), 1e-3), torch.Generator().manual_seed(0)
    for _ in range(5):
        for k in torch.randperm(len(x), generator=rng).split(64):
            opt.zero_grad()
            F.cross_entropy(classifier(x[k]), y[k]).backward()
            opt.step()
    for name in ("plain", "oml"):
        nets[name].body.load_state_dict(classifier.body.state_dict())
        torch.nn.init.zeros_(nets[name].head.weight), torch.nn.init.zeros_(nets[name].head.bias)
    losses = meta_train(nets["oml"], walks(x, y, 40))
    assert sum(losses[-5:]) / 5 < 1.2 < 1.6 < losses[0]  # log 5 = 1.6 is knowing nothing
    rates = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2)
    best = {name: max(after_walks(net, new_x, new_y, lr) for lr in rates) for name, net in nets.items()}
    assert best["oml"] > best["plain"] + 0.03 and best["oml"] > best["random"] + 0.03
    assert learn_online(nets["oml"], [5, 6, 7, 8, 9], 3e-3) > learn_online(nets["plain"], [5, 6, 7, 8, 9], 3e-3) + 0.1


def test_meta_train_leaves_the_head_at_zero_and_moves_the_rest():
    net = MLP(SIZES)
    before = [p.detach().clone() for p in net.body.parameters()]
    (x, y), *_ = digits()
    meta_train(net, walks(x.float() / 255, y, 2, batch=2, classes=2, shots=2))
    assert not net.head.weight.any() and not net.head.bias.any()
    assert not any(torch.equal(p, q) for p, q in zip(before, net.body.parameters()))


def test_si_composes_with_oml_in_either_order():
    for methods in ([SI(), OML()], [OML(), SI()]):
        assert train(learner(methods)).acc > 0.1
