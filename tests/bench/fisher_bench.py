"""What a Fisher costs, as ratios to one batched forward and backward pass over the same samples: the table of issue 4.

    python tests/bench/fisher_bench.py --data folder:PATH --out tests/bench/fisher_bench.json

PATH holds CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg; without --data the pixels are random. Peers (BackPACK,
nngeometry, curvlinops) are measured where they can be imported. Each row runs in a process of its own: the floor and
the row by turns, CPU seconds of one thread, the median of the ratios; the peak of the process's memory over that after
the floor; the error against our code in float64, which the tests hold to brute force. Not a test: it asserts nothing.

What limits our column. The exact diagonal takes nine passes back and nine rows a sample: of its 2.4 s, 0.85 are matrix
products for the convolutions' rows and 0.45 the passes back through the second convolution, both at the rate of a large
matrix product on that core (47 GFLOP/s). That alone is 3.3 x floor; patches, pooling and copies take the rest. Images
that lie in memory with the channels last make the floor cheaper and our products dearer: 1.8 and 7.2 in place of 1.6
and 6.3. `data.folder` gave such images once. With them rounding also turned a ReLU here and there, an error of 1e-5.
On a GPU: `fisher_gpu.py`.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from cl_tutor.data import load
from cl_tutor.fisher import fisher_diagonal, fisher_product, top_by_lanczos
from cl_tutor.nets import SmallCNN
from cl_tutor.scores import Scores, diagonal
from cl_tutor.vectors import flat

K = 20


def split(x, y, size=50):
    return list(zip(x.split(size), y.split(size)))


def floor(net, x, y):
    for xs, ys in split(x, y):
        torch.autograd.grad(F.cross_entropy(net(xs), ys), list(net.parameters()))


def of_batch(net):
    return lambda x: net(x).log_softmax(1)


def of_sample(net):
    return lambda p, x: torch.func.functional_call(net, p, (x[None],))[0].log_softmax(0)


def loop(net, x, y, labels):
    total = [torch.zeros_like(p) for p in net.parameters()]
    for xs, ys in zip(x, y):
        logp = net(xs[None])[0].log_softmax(0)
        for c in range(10) if labels == "exact" else [ys]:
            weight = logp[c].exp().detach() if labels == "exact" else 1.0
            for t, g in zip(total, torch.autograd.grad(logp[c], list(net.parameters()), retain_graph=True)):
                t += weight * g.square()
    return torch.cat([t.flatten() for t in total]) / len(x)


def ours(net, x, y, labels):
    return flat(diagonal(net, of_batch(net), split(x, y), labels))


def general(net, x, y, labels):
    return flat(fisher_diagonal(of_sample(net), dict(net.named_parameters()), split(x, y), labels))


def sequential(net):
    """SmallCNN as the nn.Sequential that BackPACK asks for."""
    pool, relu = lambda: nn.MaxPool2d(2), nn.ReLU
    return nn.Sequential(net.conv1, relu(), pool(), net.conv2, relu(), pool(), nn.Flatten(), net.fc1, relu(), net.fc2)


def backpack(net, x, y, labels):
    from backpack import backpack as context
    from backpack import extend
    from backpack.extensions import DiagGGNExact, SumGradSquared

    model, loss = extend(sequential(net)), extend(nn.CrossEntropyLoss(reduction="sum"))
    extension = DiagGGNExact() if labels == "exact" else SumGradSquared()
    total = 0
    for xs, ys in split(x, y):
        with context(extension):
            loss(model(xs), ys).backward()
        total = total + torch.cat([getattr(p, extension.savefield).flatten() for p in model.parameters()])
        model.zero_grad()
    return total / len(x)


def nngeometry(net, x, y, labels):
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatDiag
    from torch.utils.data import DataLoader, TensorDataset

    data = DataLoader(TensorDataset(x, y), batch_size=50)
    if labels == "exact":
        return FIM(net, data, PMatDiag, variant="classif_logits", device="cpu").get_diag()
    own = lambda x, y: net(x).log_softmax(1).gather(1, y[:, None])
    return FIM(net, data, PMatDiag, variant="regression", function=own, device="cpu").get_diag()


def ours_top(net, x, y, labels):
    return Scores.of(net, of_batch(net), split(x, y), labels).top(K)[0]


def general_top(net, x, y, labels):
    params = {n: p.detach() for n, p in net.named_parameters()}
    start = torch.randn(flat(params).numel(), generator=torch.Generator().manual_seed(0)).to(x)
    return top_by_lanczos(fisher_product(of_sample(net), params, split(x, y), labels), start, K, tol=1e-4)[0]


def curvlinops(net, x, y, labels):
    from curvlinops import EFLinearOperator, GGNLinearOperator
    from scipy.sparse.linalg import eigsh

    kind = GGNLinearOperator if labels == "exact" else EFLinearOperator
    operator = kind(net, nn.CrossEntropyLoss(), list(net.parameters()), split(x, y), check_deterministic=False)
    return torch.as_tensor(eigsh(operator.to_scipy(), K, tol=1e-4, return_eigenvectors=False)[::-1].copy())


ROWS = {
    f"{what} {labels}": {"ours": fast, "naive loop": naive, "vmap": slow, **peers}
    for labels in ("empirical", "exact")
    for what, fast, naive, slow, peers in (
        ("diagonal", ours, loop, general, {"BackPACK": backpack, "nngeometry": nngeometry}),
        ("top-20", ours_top, None, general_top, {"curvlinops": curvlinops}),
    )
}


def prepare(path, source, N, epochs, hidden):
    """A SmallCNN trained a little, and N of its training samples."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if source:
        data = load(source)
        x, y = data.train
        test = (data.test[0].float() / 255, data.test[1])
    else:
        x, y, test = torch.randint(256, (N, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (N,)), None
    net = SmallCNN(hidden=hidden)
    opt = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(epochs if source else 1):
        for i in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            F.cross_entropy(net(x[i].float() / 255), y[i]).backward()
            opt.step()
    with torch.no_grad():
        right = torch.cat([net(u).argmax(1) for u in test[0].split(500)]) == test[1] if test else torch.tensor([0.1])
    i = torch.randperm(len(x))[:N]
    torch.save({"net": net.state_dict(), "x": x[i].float() / 255, "y": y[i], "hidden": hidden}, path)
    return float(right.float().mean())


def measure(path, row, who, reps):
    """One row in this process, printed as JSON."""
    torch.set_num_threads(1)
    stored = torch.load(path)
    net, x, y = SmallCNN(hidden=stored["hidden"]), stored["x"], stored["y"]
    net.load_state_dict(stored["net"])
    method, labels = ROWS[row][who], row.split()[1]
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = {"floor": [], "row": []}
    floor(net, x, y)
    before, extra = peak(), 0.0
    for _ in range(reps):
        if sum(seconds["row"]) > 20:  # what takes so long needs no median
            break
        for name, run in (("floor", lambda: floor(net, x, y)), ("row", lambda: method(net, x, y, labels))):
            start = time.thread_time()
            result = run()
            seconds[name].append(time.thread_time() - start)
            if name == "row":
                found, extra = result, extra or peak() - before  # of the first run: later ones find the heap in pieces
    report = {
        "floor_s": statistics.median(seconds["floor"]),
        "ratio": statistics.median(row / one for row, one in zip(seconds["row"], seconds["floor"])),
        "extra_mb": extra,
    }
    if who != "ours" or len(x) <= 1000:
        reference = (ours if row.startswith("diagonal") else ours_top)(net.double(), x.double(), y, labels)
        error = (found.detach().double() - reference).abs()
        relative = error.norm() / reference.norm() if row.startswith("diagonal") else (error / reference).max()
        report["error"] = float(relative)
    print(json.dumps(report))


def table(path, jobs, reps):
    results = []
    for row, who in jobs:
        command = [sys.executable, __file__, "--measure", str(path), row, who, "--reps", str(reps)]
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if run.returncode:
            print(f"{row:20s} {who:12s} not measured: {run.stderr.strip().splitlines()[-1][:80]}", flush=True)
            continue
        r = {"row": row, "who": who, **json.loads(run.stdout.strip().splitlines()[-1])}
        results.append(r)
        error = f"error {r['error']:.0e}" if "error" in r else ""
        ratio, extra = f"{r['ratio']:7.2f} x floor ({r['floor_s']:.2f} s)", f"{r['extra_mb']:6.0f} MB extra"
        print(f"{row:20s} {who:12s} {ratio}  {extra}  {error}", flush=True)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder:PATH; random pixels without it")
    parser.add_argument("--out", type=Path, help="where to store the table as JSON")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--who", default="", help="and columns whose name contains this")
    parser.add_argument("--large", action="store_true", help="N = 5,000; and with 10^6 parameters: ours alone")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(*args.measure, args.reps)
    report = {"data": "CIFAR-10 (JPEG copy)" if args.data else "random", "machine": platform.processor()}
    report["torch"], report["unit"] = torch.__version__, "CPU seconds of one thread; medians"
    sizes = [("N = 1,000, P = 49,742", 1000, 44)]
    if args.large:
        sizes = [("N = 5,000, P = 49,742", 5000, 44), ("N = 5,000, P = 10^6", 5000, 1215)]
    with tempfile.TemporaryDirectory() as folder:
        for title, N, hidden in sizes:
            path = Path(folder) / f"{N}-{hidden}.pt"
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a child inherits its parent's peak of memory
                accuracy = pool.submit(prepare, path, args.data, N, args.epochs, hidden).result()
            print(f"{title}, {report['data']}, test accuracy {accuracy:.3f}", flush=True)
            jobs = [(row, who) for row, columns in ROWS.items() for who, method in columns.items() if method]
            jobs = [(row, who) for row, who in jobs if args.only in row and args.who in who]
            if args.large:
                jobs = [(row, who) for row, who in jobs if who == "ours"]
            report[title] = {"accuracy": accuracy, "rows": table(path, jobs, args.reps)}
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
