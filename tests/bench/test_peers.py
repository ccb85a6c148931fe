r"""Side by side with independent implementations, where they are installed: same data, same network, same seed.

    pip install -c constraints.txt pytest torch torchvision \
        avalanche-lib==0.6.0 curvlinops-for-pytorch nngeometry quadprog
    pytest -o addopts= -s tests/bench

Always with the constraints, and in an environment of their own: some of them would change torch.
"""

import time
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import CrossEntropyLoss

from cl_tutor import _torchvision
from cl_tutor.data import digits
from cl_tutor.fisher import fisher_diagonal, kfac
from cl_tutor.learn import Learner, train
from cl_tutor.methods.projection import AGEM, GEM, project
from cl_tutor.methods.regularization import EWC, LwF, log_prob
from cl_tutor.methods.replay import ER
from cl_tutor.nets import MLP
from cl_tutor.streams import Stream, Task, permuted, unit_float

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("default")


# -- the Fisher --------------------------------------------------------------------------------------------------------


@pytest.fixture
def problem():
    """A small network in float64 and 40 digits: (net, x, y)."""
    x, y = (column[:40] for column in digits().train)
    return MLP((64, 7, 10)).double(), x.double().flatten(1) / 255, y


def ours(net, x, y, **options):
    log = lambda params, x: torch.func.functional_call(net, params, (x[None],))[0].log_softmax(0)
    return fisher_diagonal(log, dict(net.named_parameters()), [(x, y)], **options)


def flat(params):
    return torch.cat([p.flatten() for p in params.values()])


def test_the_diagonal_is_that_of_curvlinops(problem):
    """The Fisher of a softmax is its generalised Gauss-Newton matrix; the empirical one has an operator of its own."""
    curvlinops = pytest.importorskip("curvlinops")
    net, x, y = problem
    for labels, operator in (("exact", curvlinops.GGNLinearOperator), ("empirical", curvlinops.EFLinearOperator)):
        F = operator(net, CrossEntropyLoss(), list(net.parameters()), [(x, y)])
        theirs = (F @ torch.eye(F.shape[1], dtype=x.dtype)).diagonal()
        torch.testing.assert_close(flat(ours(net, x, y, labels=labels)), theirs, rtol=1e-9, atol=1e-15)


def test_the_diagonal_is_that_of_nngeometry(problem):
    metrics = pytest.importorskip("nngeometry.metrics")
    from nngeometry.object import PMatDiag

    net, x, y = problem
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=10)
    torch.set_default_dtype(x.dtype)  # it makes some of its tensors without asking for theirs
    try:
        theirs = metrics.FIM(net, loader, PMatDiag, variant="classif_logits").get_diag()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(flat(ours(net, x, y)), theirs, rtol=1e-9, atol=1e-15)


def test_the_kronecker_factors_are_those_of_curvlinops(problem):
    """Their product, layer by layer: how a scale is shared between the two factors is free."""
    curvlinops = pytest.importorskip("curvlinops")
    net, x, y = problem
    F = curvlinops.KFACLinearOperator(
        net, CrossEntropyLoss(), list(net.parameters()), [(x, y)], fisher_type="type-2", separate_weight_and_bias=False
    )
    factors = kfac(net, lambda x: net(x).log_softmax(1), [(x, y)])
    # their blocks have W and b of a layer together, each row (W, b) as ours
    dense = F @ torch.eye(F.shape[1], dtype=x.dtype)
    start = 0
    for layer, (A, S) in factors.items():
        out, inputs = len(S), len(A) - 1
        block = dense[start : start + out * (inputs + 1)][:, start : start + out * (inputs + 1)]
        weight = torch.einsum("ij,kl->ikjl", S, A[:inputs, :inputs]).reshape(out * inputs, out * inputs)
        torch.testing.assert_close(block[: out * inputs, : out * inputs], weight, rtol=1e-8, atol=1e-14)
        torch.testing.assert_close(block[out * inputs :, out * inputs :], S * A[-1, -1], rtol=1e-8, atol=1e-14)
        start += out * (inputs + 1)
        assert layer in {"body.0", "head"}


# -- GEM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_is_the_quadratic_programme(margin):
    """min ½ vᵀGGᵀv + (G g)ᵀv over v ≥ γ by quadprog, as in the authors' code; and what each costs."""
    quadprog = pytest.importorskip("quadprog")
    rng = torch.Generator().manual_seed(0)
    seconds = np.zeros(2)
    for K, P in [(1, 5), (3, 50), (9, 1000), (19, 20000)] * 5:
        g, G = (torch.randn(n, P, generator=rng, dtype=torch.float64) for n in (1, K))
        G = G + 0.3 * torch.randn(1, P, generator=rng, dtype=torch.float64)
        g = (g[0] - G.mean(0)) if K > 1 else g[0] - G[0]
        start = time.process_time()
        mine = project(g, G, margin)
        middle = time.process_time()
        v = quadprog.solve_qp((G @ G.T).numpy(), -(G @ g).numpy(), np.eye(K), np.full(K, margin))[0]
        theirs = g + G.T @ torch.from_numpy(v)
        seconds += [middle - start, time.process_time() - middle]
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)
        assert (G @ mine).min() > -1e-8 * G.norm() * g.norm()
    print(f"\nproject / quadprog, CPU seconds: {seconds[0] / seconds[1]:.1f}")


# -- Avalanche ---------------------------------------------------------------------------------------------------------


class Ordered(Task):
    """A task whose batches come in the stored order, as they do there with shuffle=False."""

    def batches(self, size, split="train", rng=None):
        return super().batches(size, split)


def ordered(samples, tasks=3) -> Stream:
    stream = permuted(digits(), tasks)
    cut = lambda batch: type(batch)(*(column[:samples] for column in batch))
    return Stream([Ordered(t.id, cut(t.train), t.test, t.view) for t in stream.tasks], stream.units, stream.task_known)


@pytest.fixture
def avalanche():
    """theirs(name, stream, batch_size, epochs, seed, **options) -> (net, R, CPU seconds, strategy)."""
    _torchvision.datasets()  # where torchvision's operators do not fit torch, its import needs our shim
    pytest.importorskip("avalanche")
    from avalanche.benchmarks import tensors_benchmark
    from avalanche.training import supervised

    def theirs(name, stream, batch_size=32, epochs=1, shuffle=False, lr=0.1, seed=0, **options):
        torch.manual_seed(seed)
        pairs = [
            [(unit_float(t.view(b.x)), b.y) for t in stream.tasks for b in [getattr(t, s)]] for s in ("train", "test")
        ]
        benchmark = tensors_benchmark(*pairs, task_labels=[0] * len(stream.tasks))
        net = MLP(seed=seed)
        strategy = getattr(supervised, name)(
            model=net, optimizer=torch.optim.SGD(net.parameters(), lr=lr), criterion=CrossEntropyLoss(),
            train_mb_size=batch_size, train_epochs=epochs, evaluator=None, device="cpu", **options,
        )  # fmt: skip
        R, start = [], time.process_time()
        for experience in benchmark.train_stream:
            strategy.train(experience, shuffle=shuffle)
            with torch.no_grad():
                R.append([(net(x).argmax(1) == y).float().mean().item() for x, y in pairs[1]])
        return net, np.array(R), time.process_time() - start, strategy

    return theirs


def here(stream, methods=(), batch_size=32, epochs=1, lr=0.1, seed=0):
    sgd = partial(torch.optim.SGD, lr=lr)
    one = Learner(
        MLP(seed=seed), stream, methods, batch_size=batch_size, epochs=epochs, optimiser=sgd, seed=seed, device="cpu"
    )
    start = time.process_time()
    return one, train(one).R, time.process_time() - start


def same_weights(a, b, tol):
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tol, atol=tol)


@pytest.mark.parametrize(
    "name, theirs_options, our_method, batch_size",
    [
        ("Naive", {}, lambda: [], 32),
        # no T² there, so that their α is our α T²
        ("LwF", {"alpha": 4.0, "temperature": 2.0}, lambda: [LwF(1.0, T=2.0)], 32),
        # no ½ there; with batches of 1 the square of the batch's mean gradient is that of the sample's
        ("EWC", {"ewc_lambda": 5.0}, lambda: [EWC(10.0, labels="empirical", samples=10**6)], 1),
    ],
)
def test_the_same_run_to_the_last_weight(avalanche, name, theirs_options, our_method, batch_size):
    """In the same order of the data, with each library's constants translated, both end in the same weights."""
    stream, lr = ordered(320 if batch_size > 1 else 60), 0.1 if batch_size > 1 else 0.01
    net, R, seconds, _ = avalanche(name, stream, batch_size, lr=lr, **theirs_options)
    learner, ours_R, our_seconds = here(stream, our_method(), batch_size, lr=lr)
    same_weights(net, learner.net, 1e-4)
    assert np.abs(R - ours_R).max() < 0.006
    if name != "Naive":  # and the method did something
        naive = here(stream, [], batch_size, lr=lr)[0]
        with pytest.raises(AssertionError):
            same_weights(naive.net, learner.net, 1e-4)
    print(f"\n{name}: Avalanche / ours, CPU seconds: {seconds / our_seconds:.1f}")


def test_their_fisher_is_the_square_of_a_mean(avalanche):
    """Why its EWC wants so large a λ: importances from batches of B are squared batch means, a small part of F."""
    stream = ordered(1280, tasks=1)
    net, _, _, strategy = avalanche("EWC", stream, 32, epochs=5, ewc_lambda=1.0)
    importances = next(p for p in strategy.plugins if type(p).__name__ == "EWCPlugin").importances[0]
    learner = Learner(net, stream, device="cpu")
    learner.seen = 1
    batches = list(stream.tasks[0].batches(100))
    trace = lambda labels: flat(fisher_diagonal(log_prob(learner), learner.params, batches, labels)).sum().item()
    theirs = sum(data.data.sum().item() for data in importances.values())
    exact, empirical = trace("exact"), trace("empirical")
    print(f"\ntrace / exact: empirical {empirical / exact:.3f}, Avalanche at batches of 32 {theirs / exact:.3f}")
    assert theirs < 0.5 * empirical


@pytest.mark.parametrize(
    "name, options, method",
    [
        ("Replay", {"mem_size": 200}, lambda seed: [ER(200, size=32, seed=seed)]),
        ("AGEM", {"patterns_per_exp": 66, "sample_size": 64}, lambda seed: [AGEM(200, seed=seed)]),
        ("GEM", {"patterns_per_exp": 50, "memory_strength": 0.0}, lambda seed: [GEM(50, seed=seed)]),
    ],
)
def test_the_same_accuracy_where_draws_differ(avalanche, name, options, method):
    """Memories draw at random, and so does the order: means of three seeds, and within 0.1.

    Replay: they take one mean over the batch and the memory's rows, ER the sum of two, so that its step is twice as
    long: it gets half the learning rate.
    """
    rows = []
    for seed in range(3):
        stream, lr = permuted(digits(), 3, seed=seed), 0.1
        _, R, seconds, _ = avalanche(
            name, stream, 32, 5, shuffle=True, lr=2 * lr if name == "Replay" else lr, seed=seed, **options
        )
        _, our_R, our_seconds = here(stream, method(seed), 32, 5, lr=lr, seed=seed)
        rows.append((R[-1].mean(), our_R[-1].mean(), seconds / our_seconds))
    theirs, ours_, ratio = np.mean(rows, axis=0)
    sd = np.std(rows, axis=0, ddof=1)
    print(
        f"\n{name}: ACC Avalanche {theirs:.3f} ± {sd[0]:.3f}, ours {ours_:.3f} ± {sd[1]:.3f}; CPU seconds {ratio:.1f}"
    )
    assert abs(theirs - ours_) < 0.1
