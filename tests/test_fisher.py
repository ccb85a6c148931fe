"""The Fisher against brute force: loops over samples and classes with plain autograd, in float64."""

import pytest
import torch
from torch import nn

from cl_tutor.fisher import fisher_diagonal, fisher_product, kfac, top_eigenpairs
from cl_tutor.nets import MLP, SmallCNN
from cl_tutor.vectors import flat, unflat

NETS = {
    "mlp": (lambda: MLP((6, 5, 4)), (6,)),
    "cnn": (lambda: SmallCNN(channels=1, size=16, classes=4, hidden=5), (1, 16, 16)),
}
ALL, OWN = torch.ones(4, dtype=torch.bool), torch.tensor([True, False, True, True])


def setup(name="mlp", n=7, seed=0):
    build, shape = NETS[name]
    net, rng = build().double(), torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=rng, dtype=torch.float64)
    return net, x, torch.randint(2, 4, (n,), generator=rng)  # labels among the units of OWN


def scorer(net, units=ALL):
    """log p of one sample, with −inf on units that do not compete, as `Learner.mask` has it."""
    logits = lambda p, x: torch.func.functional_call(net, p, (x[None],))[0]
    return lambda p, x: logits(p, x).masked_fill(~units, -torch.inf).log_softmax(0)


def scores(net, x, units=ALL):
    """[n][c] -> (p(c|x_n), ∂ log p(c|x_n)/∂θ (P,)): one backward pass each."""
    table = []
    for row in x:
        logp = net(row[None])[0, units].log_softmax(0)
        grads = [torch.autograd.grad(value, list(net.parameters()), retain_graph=True) for value in logp]
        table.append([(value.exp().detach(), torch.cat([g.flatten() for g in gs])) for value, gs in zip(logp, grads)])
    return table


def full_fisher(net, x, units=ALL):
    return sum(p * torch.outer(s, s) for row in scores(net, x, units) for p, s in row) / len(x)


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


@pytest.mark.parametrize("units", [ALL, OWN], ids=["all units", "own units"])
@pytest.mark.parametrize("name", NETS)
def test_diagonal_is_the_loop_over_samples_and_classes(name, units):
    net, x, y = setup(name)
    params, table = dict(net.named_parameters()), scores(net, x, units)
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    exact = sum(p * s.square() for row in table for p, s in row) / len(x)
    close(flat(fisher_diagonal(scorer(net, units), params, batches)), exact)

    place = units.cumsum(0) - 1  # the column of a unit among those that compete
    empirical = sum(row[place[c]][1].square() for row, c in zip(table, y)) / len(x)
    close(flat(fisher_diagonal(scorer(net, units), params, batches, "empirical")), empirical)

    prob = torch.zeros(len(x), 4, dtype=torch.float64)
    prob[:, units] = torch.stack([torch.stack([p for p, _ in row]) for row in table])
    rng = torch.Generator().manual_seed(3)
    drawn = torch.cat([torch.multinomial(part, 1, generator=rng)[:, 0] for part in (prob[:4], prob[4:])])
    sampled = sum(row[place[c]][1].square() for row, c in zip(table, drawn)) / len(x)
    rng = torch.Generator().manual_seed(3)
    close(flat(fisher_diagonal(scorer(net, units), params, batches, "sample", rng)), sampled)


def test_the_mean_of_sampled_fishers_is_the_exact_one():
    net, x, y = setup()
    params, rng = dict(net.named_parameters()), torch.Generator().manual_seed(0)
    exact = flat(fisher_diagonal(scorer(net), params, [(x, y)]))
    draws = [flat(fisher_diagonal(scorer(net), params, [(x, y)], "sample", rng)) for _ in range(512)]
    error = lambda n: ((torch.stack(draws[:n]).mean(0) - exact).norm() / exact.norm()).item()
    assert error(512) < 0.05 and error(512) < error(8) / 2


def test_the_square_of_a_batch_mean_is_another_thing():
    net, x, y = setup(n=64)
    params = dict(net.named_parameters())
    log_prob, rng = scorer(net), torch.Generator().manual_seed(0)
    exact = flat(fisher_diagonal(log_prob, params, [(x, y)])).sum()
    sampled = flat(fisher_diagonal(log_prob, params, [(x, y)], "sample", rng)).sum()
    drawn = torch.multinomial(net(x).softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    mean = torch.autograd.grad(nn.functional.cross_entropy(net(x), drawn), list(net.parameters()))
    assert 0.8 < sampled / exact < 1.25
    assert sum(g.square().sum() for g in mean) / exact < 0.1  # about 1/B


def test_it_answers_bad_input():
    net, x, y = setup()
    params = dict(net.named_parameters())
    for ask in (fisher_diagonal, fisher_product):
        with pytest.raises(ValueError, match="'exact', 'sample' or 'empirical', not 'mc'"):
            ask(scorer(net), params, [(x, y)], "mc")
        with pytest.raises(ValueError, match="at least one batch"):
            ask(scorer(net), params, [])
    with pytest.raises(ValueError, match="k = 5 eigenpairs need a start"):
        top_eigenpairs(lambda V: V, torch.randn(6, 3), 5)


def test_flatten_and_unflatten_are_inverse():
    params = dict(setup("cnn")[0].named_parameters())
    back = unflat(flat(params), params)
    assert list(back) == list(params) and all(torch.equal(back[n], p) for n, p in params.items())


@pytest.mark.parametrize("units", [ALL, OWN], ids=["all units", "own units"])
def test_the_product_is_the_fisher_and_the_fisher_is_the_ggn(units):
    net, x, y = setup()
    params = {n: p.detach() for n, p in net.named_parameters()}
    P = flat(params).numel()
    eye = torch.eye(P, dtype=torch.float64)
    F = fisher_product(scorer(net, units), params, [(x[:4], y[:4]), (x[4:], y[4:])])(eye)
    close(F, full_fisher(net, x, units))
    logits = lambda v, row: torch.func.functional_call(net, unflat(v, params), (row[None],))[0, units]
    ggn = 0
    for row in x:
        J, p = torch.func.jacrev(logits)(flat(params), row), logits(flat(params), row).softmax(0)
        ggn = ggn + J.T @ (p.diag() - torch.outer(p, p)) @ J / len(x)
    close(F, ggn)
    close(F.diag(), flat(fisher_diagonal(scorer(net, units), params, [(x, y)])))
    assert torch.linalg.matrix_rank(F) <= len(x) * (units.sum() - 1)  # one score less than classes a sample


@pytest.mark.parametrize("labels", ["sample", "empirical"])
def test_the_product_with_one_label_a_sample(labels):
    net, x, y = setup()
    params = {n: p.detach() for n, p in net.named_parameters()}
    eye = torch.eye(flat(params).numel(), dtype=torch.float64)
    F = fisher_product(scorer(net), params, [(x, y)], labels, torch.Generator().manual_seed(1))
    close(F(eye), F(eye), 0)  # labels are drawn once
    again = fisher_diagonal(scorer(net), params, [(x, y)], labels, torch.Generator().manual_seed(1))
    close(F(eye).diag(), flat(again))
    assert torch.linalg.matrix_rank(F(eye)) == len(x)


def test_eigenpairs_of_a_known_matrix():
    rng = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(40, 40, generator=rng, dtype=torch.float64))[0]
    spectrum = 2.0 ** -torch.arange(40, dtype=torch.float64)
    F = Q * spectrum @ Q.T
    start = torch.randn(40, 8, generator=rng, dtype=torch.float64)
    values, vectors = top_eigenpairs(lambda V: F @ V, start, 5, tol=1e-12)
    close(values, spectrum[:5])
    close((vectors.T @ Q[:, :5]).abs(), torch.eye(5, dtype=torch.float64), 1e-6)
    whole, _ = top_eigenpairs(lambda V: F @ V, torch.eye(40, dtype=torch.float64), 40, steps=1)
    close(whole, spectrum)
    with pytest.warns(UserWarning, match="After 1 steps"):
        top_eigenpairs(lambda V: F @ V, start, 5, tol=1e-12, steps=1)
    values, vectors = top_eigenpairs(lambda V: F @ V, start, 0)
    assert values.shape == (0,) and vectors.shape == (40, 0)


def test_eigenpairs_of_a_fisher():
    net, x, y = setup(n=20)
    params = {n: p.detach() for n, p in net.named_parameters()}
    start = torch.randn(59, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, vectors = top_eigenpairs(fisher_product(scorer(net), params, [(x, y)]), start, 6, tol=1e-9)
    truth, basis = torch.linalg.eigh(full_fisher(net, x))
    close(values, truth.flip(0)[:6], 1e-8)
    assert (vectors.T @ basis.flip(1)[:, :6]).square().sum() > 6 - 1e-6  # the same subspace


def blocks(net, x):
    """The full Fisher of each linear layer, ordered as [W, b] row by row."""
    F, start, result = full_fisher(net, x), 0, {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            rows, cols = layer.weight.shape
            index = start + torch.arange(rows * cols).view(rows, cols)
            bias = start + rows * cols + torch.arange(rows if layer.bias is not None else 0)
            index = torch.cat([index, bias[:, None]], 1) if len(bias) else index
            result[name] = F[index.flatten()][:, index.flatten()]
            start += rows * cols + len(bias)
    return result


def factors(net, x, y, labels="exact", rng=None):
    return kfac(net, lambda x: net(x).log_softmax(1), [(x[:4], y[:4]), (x[4:], y[4:])][: 1 + (len(x) > 4)], labels, rng)


def test_kfac_is_exact_for_one_sample():
    net, x, y = setup(n=1)
    found, truth = factors(net, x, y), blocks(net, x)
    assert list(found) == ["body.0", "head"]
    for name, (A, S) in found.items():
        close(torch.kron(S, A), truth[name])


@pytest.mark.parametrize("bias", [True, False])
def test_kfac_is_exact_for_one_layer_whose_answer_is_always_the_same(bias):
    net, (_, x, y) = nn.Linear(6, 4, bias=bias).double(), setup()
    with torch.no_grad():
        net.weight.zero_()  # p(·|x) = softmax(b) for every x: inputs and gradients are independent
    (A, S), F = factors(net, x, y)[""], blocks(net, x)[""]
    assert A.shape == (6 + bias, 6 + bias) and S.shape == (4, 4)
    close(torch.kron(S, A), F)
    with torch.no_grad():
        net.weight.normal_(generator=torch.Generator().manual_seed(0))
    (A, S), F = factors(net, x, y)[""], blocks(net, x)[""]
    assert (torch.kron(S, A) - F).norm() > 0.02 * F.norm()  # in general an approximation


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_kfac_factors_are_the_two_second_moments(labels):
    net, x, y = setup()
    net = nn.Sequential(net.body[0], nn.ReLU(inplace=True), net.head)  # in place: must not reach what the hooks keep
    found = factors(net, x, y, labels)
    h = net[0](x).detach().requires_grad_()
    z = net[2](h.relu())
    logp = z.log_softmax(1)
    A, S = 0, [0, 0]
    for n in range(len(x)):
        a = torch.cat([x[n], torch.ones(1, dtype=torch.float64)])
        A = A + torch.outer(a, a) / len(x)
        for c in range(4):
            weight = logp[n, c].exp().detach() if labels == "exact" else float(y[n] == c)
            for k, g in enumerate(torch.autograd.grad(logp[n, c], (h, z), retain_graph=True)):
                S[k] = S[k] + weight * torch.outer(g[n], g[n]) / len(x)
    close(found["0"].A, A)
    close(found["0"].S, S[0])
    close(found["2"].S, S[1])


def test_kfac_refuses_shared_layers_and_leaves_no_hook():
    layer = nn.Linear(3, 3).double()
    net = nn.Sequential(layer, nn.Tanh(), layer)
    x = torch.randn(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="sees more than one"):
        kfac(net, lambda x: net(x).log_softmax(1), [(x, torch.zeros(2, dtype=torch.long))])
    assert not layer._forward_hooks
