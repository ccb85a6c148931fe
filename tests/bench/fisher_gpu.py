"""The rows of the Fisher benchmark on a GPU: seconds, share of the memory's bandwidth, error against float64 on the
CPU.

    python tests/bench/fisher_gpu.py [--out tests/bench/fisher_gpu.json]

No data set is needed: ten noisy patterns of 3×32×32, and a SmallCNN trained on them for a moment. The limit is what a
large copy reaches on the same card. The bytes that must move, at least: for the diagonal the factors of every layer and
the rows of the convolutions, each written once and read once; for a product all of G, read twice; for the top 20 the
same for each product that Lanczos asks for. Convolutions run in float32 and once more in TF32, cuDNN's default, whose
ten bits of mantissa no Fisher of this accuracy survives. `--device cpu --quick` tries the script itself.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from cl_tutor import factors, scores
from cl_tutor.nets import SmallCNN
from cl_tutor.scores import Scores, diagonal
from cl_tutor.vectors import flat

K = 20
TOLERANCE = 1e-5
LABELS = ("empirical", "exact")


def problem(N, device):
    """A network that is fairly sure of itself, and N samples."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(10, (N,), generator=rng)
    x = torch.rand(10, 3, 32, 32, generator=rng)[y] * 0.3 + torch.rand(N, 3, 32, 32, generator=rng) * 0.7
    net, (x, y) = SmallCNN().to(device), (x.to(device), y.to(device))
    opt = torch.optim.Adam(net.parameters(), 1e-3)
    for step in range(40):
        batch = torch.arange(64) + 64 * step
        opt.zero_grad()
        F.cross_entropy(net(x[batch % N]), y[batch % N]).backward()
        opt.step()
    return net, x, y


def of_batch(net):
    return lambda x: net(x).log_softmax(1)


def pieces(x, y, size):
    return list(zip(x.split(size), y.split(size)))


def floor(net, x, y, size):
    for xs, ys in pieces(x, y, size):
        torch.autograd.grad(F.cross_entropy(net(xs), ys), list(net.parameters()))


def seconds(run, device, reps=5):
    """The median of a few runs, each waited for; one before them does not count."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(reps + 1):
        wait()
        start = time.perf_counter()
        result = run()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), result


def bandwidth(device):
    """Bytes a second that a large copy reads and writes."""
    a = torch.empty(2**28 if device == "cuda" else 2**24, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / seconds(lambda: b.copy_(a), device)[0]


def bytes_of(found):
    """All of G as it is held."""
    return sum(t.nbytes for part in found.parts for block in part.values() for t in block)


def bytes_of_factors(net, x, y, labels):
    """Inputs, patches, gradients of the outputs, and the rows of the convolutions, written once and read once."""
    total = 0
    for layers in factors.factors(net, of_batch(net), [(x[:50], y[:50])], labels):
        for u, d in layers.values():
            rows = d.shape[0] * d.shape[1] * d.shape[2] * u.shape[1] * d.element_size() if u.shape[2] > 1 else 0
            total += 2 * (u.nbytes + d.nbytes + rows)
    return total * len(x) / 50


def counted(found, k):
    """The top k, and how many products that took; the Gram matrix counts as none."""
    calls, times = [], Scores.times
    scores.Scores.times = lambda self, V: calls.append(1) or times(self, V)
    try:
        return found.top(k), len(calls)
    finally:
        scores.Scores.times = times


def measure(net, x, y, size, device, note):
    """Every row for one N and one way to cut it."""
    note("floor", seconds(lambda: floor(net, x, y, size), device)[0])
    for labels in LABELS:
        moved, ask = bytes_of_factors(net, x, y, labels), (net, of_batch(net), pieces(x, y, size), labels)
        note(f"diagonal {labels}", seconds(lambda ask=ask: flat(diagonal(*ask)), device)[0], moved)
        s, held = seconds(lambda ask=ask: Scores.of(*ask), device, 3)
        note(f"G held {labels}", s, moved, held_gb=round(bytes_of(held) / 1e9, 3))
        v = torch.randn(flat(held.params).numel(), 1, device=device)
        note(f"product {labels}", seconds(lambda G=held, v=v: G.product(v), device)[0], 2 * bytes_of(held))
        s, (_, products) = seconds(lambda G=held: counted(G, K), device, 1)
        note(f"top-{K} {labels}", s, 2 * bytes_of(held) * products or None, products=products)


def close(a, b):
    """Relative error of a vector, and the largest one of its entries."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    return float((a - b).norm() / b.norm()), float(((a - b) / b).abs().max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="where to store the table as JSON")
    parser.add_argument("--quick", action="store_true", help="few samples: does the script run?")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here: --device cpu --quick tries the script itself.")
    torch.set_num_threads(8)  # for the reference
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    peak = bandwidth(args.device)
    report = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "copy_bytes_per_s": peak,
        "rows": [],
    }
    print(f"{report['device']}, torch {torch.__version__}: a large copy moves {peak / 1e12:.2f} TB/s", flush=True)

    def note(N, how, row, s, moved=None, **more):
        share = {} if moved is None else {"bytes": moved, "share_of_bandwidth": moved / s / peak}
        report["rows"].append({"N": N, "how": how, "row": row, "seconds": s, **share, **more})
        words = "" if moved is None else f"  {moved / 1e9:8.2f} GB  {share['share_of_bandwidth']:6.1%} of the limit"
        print(f"N {N:5} {how:22} {row:24} {s * 1e3:9.2f} ms{words}  {more or ''}", flush=True)

    sizes = (40, 80) if args.quick else (1000, 5000)
    for N in sizes:
        for size, rows in ((50, 128), (1000, 9000)):
            factors.ROWS = rows
            measure(*problem(N, args.device), size, args.device, partial(note, N, f"batches {size}, rows {rows}"))

    print("\nagainst float64 on the CPU: diagonal (whole vector), top 20 (worst value)", flush=True)
    net, x, y = problem(max(50, sizes[0] // 2), args.device)
    twin, X, Y = SmallCNN().double(), x.cpu().double(), y.cpu()
    twin.load_state_dict({n: p.cpu().double() for n, p in net.state_dict().items()})
    report["errors"] = []
    for labels in LABELS:
        factors.ROWS = 128
        truth = Scores.of(twin, of_batch(twin), pieces(X, Y, 50), labels)
        diag, values = flat(truth.diagonal()), truth.top(K)[0]
        for tf32 in (False, True):
            torch.backends.cudnn.allow_tf32 = tf32
            mine = Scores.of(net, of_batch(net), pieces(x, y, 50), labels)
            error = {"diagonal": close(flat(mine.diagonal()), diag)[0], "top": close(mine.top(K)[0], values)[1]}
            fine = max(error.values()) <= TOLERANCE
            report["errors"].append({"labels": labels, "tf32": tf32, **error, "within_1e-5": fine})
            print(f"{labels:10} TF32 {tf32!s:5}  diagonal {error['diagonal']:.1e}  top {error['top']:.1e}  "
                  f"{'within' if fine else 'NOT within'} {TOLERANCE:.0e}", flush=True)  # fmt: skip
        torch.backends.cudnn.allow_tf32 = False
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
