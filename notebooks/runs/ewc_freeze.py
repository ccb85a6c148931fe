"""Does EWC freeze after many tasks, and does γ cure it? Ten permuted tasks: separate wells, and one well with a γ.

    python notebooks/runs/ewc_freeze.py --seeds 3 --out notebooks/runs/ewc_freeze.json

Every run keeps its R, and the trace of Ω, all wells together, after each task. Proximal steps: no λ diverges. One
thread.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from cl_tutor.data import digits
from cl_tutor.learn import Learner, meet
from cl_tutor.methods.regularization import EWC
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted

LAMBDA = 100.0
DECAYS = {"separate": None, "γ = 1": 1.0, "γ = 0.95": 0.95, "γ = 0.5": 0.5, "γ = 0.1": 0.1}
PROTOCOL = {
    "data": "permuted digits, 10 tasks, Domain-IL; the permutations belong to the seed",
    "network": "MLP 64-100-100-10, SGD 0.2 without momentum, batches of 32, 5 epochs a task",
    "wells": "λ = 100, 50 samples, exact labels, proximal",
}


def run(methods: list[EWC], seed: int) -> dict:
    """R (10, 10) and the trace of Ω after each task."""
    net, stream = MLP((64, 100, 100, 10), seed), permuted(digits(), tasks=10, seed=seed)
    learner = Learner(net, stream, methods, 5, 32, partial(torch.optim.SGD, lr=0.2), seed=seed)
    traces = []
    for task in stream.tasks:
        meet(learner, task)
        traces.append(sum(float(w.sum()) for m in methods for well in m.wells_ for w in well.omega.values()))
    return {"R": [[round(a, 4) for a in row] for row in learner.rows], "trace": [round(t, 2) for t in traces]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("ewc_freeze.json"))
    args = parser.parse_args()
    results = {"naive": [run([], seed) for seed in range(args.seeds)]}
    for name, decay in DECAYS.items():
        make = partial(EWC, LAMBDA, samples=50, decay=decay, proximal=True)
        results[name] = [run([make()], seed) for seed in range(args.seeds)]
        args.out.write_text(json.dumps({"protocol": PROTOCOL, "results": results}) + "\n", encoding="utf-8")
        print(name, flush=True)


if __name__ == "__main__":
    main()
