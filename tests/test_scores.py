"""The fast road to the Fisher against brute force: one backward pass for each sample and class, in float64."""

import copy

import pytest
import torch
from torch import nn

from cl_tutor.factors import factors, kfac
from cl_tutor.fisher import fisher_diagonal, fisher_product
from cl_tutor.nets import MLP, SmallCNN, TwoWeights
from cl_tutor.scores import Scores, diagonal
from cl_tutor.vectors import flat


def odd_cnn():
    """Strides, paddings, a dilation, layers without bias, an in-place ReLU, one convolution with a single place."""
    return nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 3, padding="same", dilation=2, padding_mode="circular"),
        nn.Tanh(),
        nn.Conv2d(4, 3, (4, 7), bias=False),
        nn.Flatten(),
        nn.Linear(3, 5),
        nn.ReLU(),
        nn.Linear(5, 4, bias=False),
    )


def small_cnn():
    """SmallCNN with fewer channels: brute force needs the P×P matrix."""
    net = SmallCNN(channels=1, size=16, classes=4, hidden=5)
    net.conv1, net.conv2, net.fc1 = nn.Conv2d(1, 3, 5), nn.Conv2d(3, 4, 5), nn.Linear(4, 5)
    return net


NETS = {
    "mlp": (lambda: MLP((6, 5, 4)), (6,)),
    "cnn": (small_cnn, (1, 16, 16)),
    "odd": (odd_cnn, (2, 8, 8)),
    "bare": (lambda: nn.Linear(6, 4), (6,)),
}
ALL, OWN = torch.ones(4, dtype=torch.bool), torch.tensor([True, False, True, True])
ONE = torch.tensor([False, False, True, False])


def setup(name, n=7):
    torch.manual_seed(0)
    build, shape = NETS[name]
    return build().double(), torch.randn(n, *shape, dtype=torch.float64), torch.randint(2, 4, (n,))


def scorer(net, units=ALL):
    """log p of a batch, with −inf on units that do not compete, as `Learner.mask` has it."""
    return lambda x: net(x).masked_fill(~units, -torch.inf).log_softmax(1)


def halves(x, y):
    return [(x[:4], y[:4]), (x[4:], y[4:])]


def brute(net, x, y, labels="exact", units=ALL, seed=3):
    """G (R, P), a row √w ∇log p(c|x_n) for each sample and class of weight w > 0."""
    rng, G = torch.Generator().manual_seed(seed), []
    for xs, ys in halves(x, y):
        prob = scorer(net, units)(xs).exp().detach()
        drawn = torch.multinomial(prob, 1, generator=rng)[:, 0] if labels == "sample" else ys
        for n in range(len(xs)):
            logp = scorer(net, units)(xs[n : n + 1])[0]
            for c in units.nonzero()[:, 0] if labels == "exact" else [drawn[n]]:
                grads = torch.autograd.grad(logp[c], list(net.parameters()), retain_graph=True)
                G.append((prob[n, c].sqrt() if labels == "exact" else 1) * torch.cat([g.flatten() for g in grads]))
    return torch.stack(G)


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


@pytest.mark.parametrize("units", [ALL, OWN, ONE], ids=["all units", "own units", "one unit"])
@pytest.mark.parametrize("labels", ["exact", "sample", "empirical"])
@pytest.mark.parametrize("name", NETS)
def test_everything_is_the_loop_over_samples_and_classes(name, labels, units):
    net, x, y = setup(name)
    y = torch.full_like(y, 2) if units is ONE else y
    G = brute(net, x, y, labels, units)
    truth = G.T @ G / len(x)
    ask = lambda: (net, scorer(net, units), halves(x, y), labels, torch.Generator().manual_seed(3))
    scores = Scores.of(*ask())
    close(flat(diagonal(*ask())), truth.diag())
    close(flat(scores.diagonal()), truth.diag())
    assert list(scores.diagonal()) == [n for n, _ in net.named_parameters()]
    close(scores.trace(), truth.trace().item())
    V = torch.randn(len(truth), 3, dtype=torch.float64)
    close(scores.product(V), truth @ V)
    close(V.T @ scores.product(V), (V.T @ scores.product(V)).T)
    found, expected = scores.spectrum(), torch.linalg.eigvalsh(truth).flip(0)
    size = min(len(found), len(expected))
    close(found[:size], expected[:size].clamp(min=0))
    close(found.sum().item(), truth.trace().item())


@pytest.mark.parametrize("dense", [True, False], ids=["Gram matrix", "Lanczos"])
@pytest.mark.parametrize("labels", ["exact", "empirical"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_top_pairs_are_those_of_the_fisher(name, labels, dense, monkeypatch):
    monkeypatch.setattr("cl_tutor.scores.DENSE", 2000 if dense else 0)
    net, x, y = setup(name, n=12)
    scores = Scores.of(net, scorer(net), halves(x, y), labels)
    G = brute(net, x, y, labels)
    truth = torch.linalg.eigvalsh(G.T @ G / len(x)).flip(0)
    values, vectors = scores.top(5)
    close(values, truth[:5])
    close(vectors.T @ vectors, torch.eye(5, dtype=torch.float64))
    close(scores.product(vectors), vectors * values, 1e-8)
    again = scores.top(5)
    assert torch.equal(values, again[0]) and torch.equal(vectors, again[1])
    with pytest.raises(ValueError, match="k must lie between 1 and"):
        scores.top(1000)


def test_both_roads_lead_to_the_same_fisher():
    net, x, y = setup("cnn")
    one = lambda p, x: torch.func.functional_call(net, p, (x[None],))[0].log_softmax(0)
    params = {n: p.detach() for n, p in net.named_parameters()}
    V = torch.randn(flat(params).numel(), 2, dtype=torch.float64)
    for labels in ("exact", "sample", "empirical"):  # the same generator draws the same labels on both
        rng = lambda: torch.Generator().manual_seed(5)
        scores = Scores.of(net, scorer(net), halves(x, y), labels, rng())
        close(flat(scores.diagonal()), flat(fisher_diagonal(one, params, halves(x, y), labels, rng())))
        product = fisher_product(one, params, halves(x, y), labels, rng())
        close(scores.product(V), product(V))
        close(scores.product(V), scores.product(V), 0)  # labels are drawn once


def test_the_exact_fisher_needs_one_row_less_than_classes():
    net, x, y = setup("mlp")
    rows = lambda units: Scores.of(net, scorer(net, units), halves(x, y)).gram().shape[0]
    assert rows(ALL) == 7 * 3 and rows(OWN) == 7 * 2
    assert rows(torch.tensor([True, False, False, True])) == 7


def test_batches_may_differ_in_the_units_that_compete():
    net, x, y = setup("mlp")
    log_prob = lambda x, units: net(x).masked_fill(~units, -torch.inf).log_softmax(1)
    units = torch.stack([ALL, OWN, OWN, OWN, torch.tensor([True, False, True, False]), *[ALL[:4] & OWN] * 2])
    G = torch.cat([brute(net, x[n : n + 1].repeat(5, 1), y[:5], "exact", units[n])[: units[n].sum()] for n in range(7)])
    columns = (x, y, units)
    for sizes in ([7], [1, 3, 3]):
        batches = list(zip(*(c.split(sizes) for c in columns)))
        scores = Scores.of(net, log_prob, batches)
        close(flat(scores.diagonal()), G.square().sum(0) / 7)
        close(scores.gram().trace(), G.square().sum() / 7)


def test_many_samples_come_in_few_rows_at_a_time(monkeypatch):
    net, x, y = setup("cnn")
    whole = Scores.of(net, scorer(net), [(x, y)])
    monkeypatch.setattr("cl_tutor.factors.ROWS", 6)  # two samples of three rows
    pieces = Scores.of(net, scorer(net), [(x, y)])
    assert len(whole.parts) == 1 and len(pieces.parts) == 4
    close(pieces.gram(), whole.gram())


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_float32_is_good_to_five_digits(labels):
    net, x, y = setup("cnn", n=30)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)  # confident answers: probabilities close to 0 and 1
    G = brute(net, x, y, labels)
    truth, single = G.square().sum(0) / len(x), copy.deepcopy(net).float()
    scores = Scores.of(single, scorer(single), halves(x.float(), y), labels)
    assert (flat(scores.diagonal()) - truth).norm() <= 1e-5 * truth.norm()
    values = torch.linalg.eigvalsh(G @ G.T / len(x)).flip(0)[:10]
    assert ((scores.top(10)[0] - values) / values).abs().max() <= 1e-5


def test_frozen_parameters_have_no_column():
    net, x, y = setup("cnn")
    full = diagonal(net, scorer(net), halves(x, y))
    net.conv1.requires_grad_(False)
    net.fc1.bias.requires_grad_(False)
    some = diagonal(net, scorer(net), halves(x, y))
    assert set(full) - set(some) == {"conv1.weight", "conv1.bias", "fc1.bias"}
    for n, f in some.items():
        close(f, full[n])


def test_the_network_is_left_as_it_was():
    net, x, y = setup("cnn")
    for mode in (True, False):
        net.train(mode)
        Scores.of(net, scorer(net), halves(x, y)).top(2)
        assert all(m.training == mode for m in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())
    with torch.no_grad():  # a caller need not know that gradients are taken
        assert not any(f.requires_grad for f in diagonal(net, scorer(net), halves(x, y)).values())


@pytest.mark.parametrize("noise", [nn.BatchNorm1d(5), nn.Dropout(0.5)], ids=["BatchNorm", "dropout"])
def test_what_leaves_no_score_of_a_sample_is_refused_on_both_roads(noise):
    net = nn.Sequential(nn.Linear(6, 5), noise, nn.Linear(5, 4)).double()
    x, y = setup("mlp")[1:]
    params = {n: p.detach() for n, p in net.named_parameters()}
    one = lambda p, x: torch.func.functional_call(net, p, (x[None],))[0].log_softmax(0)
    before = copy.deepcopy(net.state_dict())
    for ask in (
        lambda: Scores.of(net, scorer(net), halves(x, y)),
        lambda: fisher_diagonal(one, params, halves(x, y)),
        lambda: fisher_product(one, params, halves(x, y)),
        lambda: kfac(net, scorer(net), halves(x, y)),
    ):
        with pytest.raises(ValueError, match=r"in train mode .* call net.eval\(\)"):
            ask()
    assert all(torch.equal(before[n], v) for n, v in net.state_dict().items())  # running statistics too
    net.eval()
    assert fisher_diagonal(one, params, halves(x, y)).keys() == params.keys()
    net[1].requires_grad_(False)
    close(
        flat(diagonal(net, scorer(net), halves(x, y))),
        flat(fisher_diagonal(one, {n: p for n, p in net.named_parameters() if p.requires_grad}, halves(x, y))),
    )


def test_it_says_what_it_does_not_know():
    x, y = setup("mlp")[1:]
    image, tied = torch.randn(7, 2, 8, 8).double(), nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).double()
    tied[2].weight = tied[0].weight
    normed = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)).double()
    twice = nn.Linear(6, 6).double()
    idle = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(6, 4)}).double()
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten()).double()
    for net, log_prob, x_, message in [
        (tied, scorer(tied, ALL[:1]), x, "'2.weight' is shared"),
        (normed, scorer(normed), x, "'1.bias' is .* of no linear layer"),
        (twice, lambda x: twice(twice(x)).log_softmax(1), x, "sees more than one"),
        (idle, lambda x: idle["a"](x).log_softmax(1), x, "does not use the layer 'b'"),
        (grouped, lambda x: grouped(x).log_softmax(1), image, "groups"),
    ]:
        with pytest.raises(ValueError, match=message):
            Scores.of(net, log_prob, halves(x_, y))
    plane = TwoWeights().double()
    with pytest.raises(ValueError, match=r"'theta' is .* of no linear layer"):
        Scores.of(plane, lambda x: plane(x).log_softmax(1), [(x[:, :2], y)])
    net, x, y = setup("mlp")
    with pytest.raises(ValueError, match="'exact', 'sample' or 'empirical', not 'mc'"):
        Scores.of(net, scorer(net), halves(x, y), "mc")
    for ask in (diagonal, lambda *args: Scores.of(*args).trace(), lambda *args: Scores.of(*args).top(1)):
        with pytest.raises(ValueError, match="at least one batch"):
            ask(net, scorer(net), [])


def test_kfac_of_a_convolution_is_exact_at_one_place_and_has_the_right_trace_anywhere():
    net, x, y = setup("odd", n=1)
    found = kfac(net, scorer(net), [(x, y)], kinds=(nn.Linear, nn.Conv2d))
    assert list(found) == ["0", "2", "4", "6", "8"]
    A, S = found["4"]  # one sample, one place: the Kronecker product is the Fisher
    G = brute(net, torch.cat([x] * 5), torch.cat([y] * 5))[:4]
    sizes = [p.numel() for p in net.parameters()]
    start = sum(sizes[:3])
    block = G[:, start : start + sizes[3]]
    close(torch.kron(S, A), block.T @ block)
    net, x, y = setup("odd")
    A, S = kfac(net, scorer(net), halves(x, y), kinds=(nn.Linear, nn.Conv2d))["2"]
    u, d = zip(*(part["2"] for part in factors(net, scorer(net), halves(x, y))))
    u, d = torch.cat(u), torch.cat(d)
    assert A.shape == (28, 28) and S.shape == (4, 4)
    close(A.trace(), (u.square().sum() + u.shape[0] * u.shape[2]) / 7)  # patches, and a 1 at each place
    close(S.trace(), d.square().sum() / 7 / u.shape[2])
