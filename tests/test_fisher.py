"""The Fisher against brute force: loops over samples and classes with plain autograd, in float64."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from cl_tutor.fisher import (
    fisher_diagonal,
    fisher_product,
    kfac,
    layer_mass,
    overlap,
    participation_ratio,
    power_iteration,
    predictions,
    stable_rank,
    top_by_lanczos,
    top_eigenpairs,
)
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


def known(spectrum):
    """A symmetric operator with this spectrum, its eigenvectors, and a vector to start from."""
    rng = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(40, 40, generator=rng, dtype=torch.float64))[0]
    return lambda V: Q * spectrum @ (Q.T @ V), Q, torch.randn(40, generator=rng, dtype=torch.float64)


def test_lanczos_is_the_third_opinion():
    spectrum = 1.1 ** -torch.arange(40, dtype=torch.float64)
    product, Q, start = known(spectrum)
    values, vectors = top_by_lanczos(product, start, 6, tol=1e-12)
    close(values, spectrum[:6])
    close(overlap(vectors, Q[:, :6]), 1.0)
    assert torch.equal(values, top_by_lanczos(product, start, 6, tol=1e-12)[0])  # the start is given, so no chance
    with pytest.raises(ValueError, match="k must lie between 1 and 39"):
        top_by_lanczos(product, start, 40)


def test_power_iteration_converges_with_the_ratio_of_the_eigenvalues():
    spectrum = torch.cat([torch.tensor([1.0, 0.5, 0.25]), torch.full((37,), 0.01)]).double()
    product, Q, start = known(spectrum)
    value, vector, history = power_iteration(product, start, tol=1e-10)
    close(float(value), 1.0)
    close(abs(float(vector @ Q[:, 0])), 1.0)
    assert [float(value), history[-1][1] <= 1e-10] == [history[-1][0], True]
    residuals = [r for _, r in history]
    assert abs(residuals[12] / residuals[11] - 0.5) < 0.01  # λ₂/λ₁ a step
    quotients = [q for q, _ in history]
    assert all(a <= b + 1e-12 for a, b in pairwise(quotients))  # rises to λ₁ from below
    for j in (1, 2):  # deflation
        value, vector, _ = power_iteration(product, start, Q[:, :j], tol=1e-10)
        close(float(value), float(spectrum[j]))
        close(abs(float(vector @ Q[:, j])), 1.0)
    crawl, _, start = known(torch.cat([torch.tensor([1.0, 0.999]), torch.full((38,), 0.01)]).double())
    assert len(power_iteration(crawl, start, tol=1e-10)[2]) == 100  # no gap, no convergence


def test_what_a_spectrum_and_its_vectors_say():
    values = torch.tensor([4.0, 4.0, 0.0, 0.0])
    assert participation_ratio(values) == 2 and stable_rank(values) == 2
    assert (
        participation_ratio(torch.tensor([3.0, 1.0])) == pytest.approx(1.6)
        and stable_rank(torch.tensor([4.0, 1.0])) == 1.25
    )
    eye = torch.eye(6)
    assert overlap(eye[:, :2], eye[:, :2] @ torch.tensor([[0.6, -0.8], [0.8, 0.6]])) == pytest.approx(1)
    assert overlap(eye[:, :2], eye[:, 1:3]) == 0.5 and overlap(eye[:, :2], eye[:, 2:4]) == 0
    params = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(1), "b.bias": torch.zeros(1)}
    assert layer_mass(eye[:, 3:], params) == {"a": 2.0, "b": 1.0}


@pytest.mark.parametrize("name", ["mlp", "one sample"])
def test_predictions_are_quadratic_forms(name):
    net, x, y = setup(n=1 if name == "one sample" else 7)
    params = {n: p.detach() for n, p in net.named_parameters()}
    F, rng = full_fisher(net, x), torch.Generator().manual_seed(0)
    delta = {n: torch.randn(p.shape, generator=rng, dtype=p.dtype) for n, p in params.items()}
    v, diagonal = flat(delta), fisher_diagonal(scorer(net), params, [(x, y)])
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(F))
    layers = factors(net, x, y)
    found = predictions(delta, lambda V: F @ V, diagonal, (values[:3], vectors[:, :3]), layers)
    assert list(found) == ["full", "diagonal", "top 3", "K-FAC"]
    close(found["full"], float(0.5 * v @ F @ v))
    close(found["diagonal"], float(0.5 * v @ (F.diag() * v)))
    close(found["top 3"], float(0.5 * v @ (vectors[:, :3] * values[:3]) @ (vectors[:, :3].T @ v)))
    by_layer = {}
    for layer, (A, S) in layers.items():
        d = torch.cat([delta[f"{layer}.weight"], delta[f"{layer}.bias"][:, None]], 1).flatten()
        by_layer[layer] = float(0.5 * d @ torch.kron(S, A) @ d)
    close(found["K-FAC"], sum(by_layer.values()))
    only_body = predictions(delta, lambda V: F @ V, diagonal, (values, vectors), {"body.0": layers["body.0"]})
    head = sum(float(0.5 * (diagonal[n] * d.square()).sum()) for n, d in delta.items() if n.startswith("head"))
    close(only_body["K-FAC"], by_layer["body.0"] + head)  # the diagonal stands in
    close(only_body[f"top {len(values)}"], found["full"])


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


def test_no_steps_are_refused():
    start = torch.eye(3)
    for look in (
        lambda: top_eigenpairs(lambda V: V, start, 1, steps=0),
        lambda: power_iteration(lambda V: V, start[0], steps=0),
    ):
        with pytest.raises(ValueError, match="steps must be 1 or more, not 0"):
            look()
