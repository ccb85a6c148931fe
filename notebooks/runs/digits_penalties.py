"""What a well is worth: EWC with the diagonal, with the top k directions, with K-FAC, each with its own best λ and η.

    python notebooks/runs/digits_penalties.py --seeds 3 --out notebooks/runs/digits_penalties.json

Permuted digits, 3 tasks. λ and the step size η are chosen by the mean accuracy (ACC) of seed 0, which then leaves the
game; the numbers that count come from the seeds after it. A run that diverges is stored as null. One thread.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path

import torch

from cl_tutor.data import digits
from cl_tutor.learn import Diverged, Learner, Method, train
from cl_tutor.methods.curvature import KFACEWC, SubspaceEWC
from cl_tutor.methods.regularization import EWC
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted

METHODS = {
    "EWC": partial(EWC, samples=200),
    "top 20": partial(SubspaceEWC, k=20, samples=200),
    "K-FAC": partial(KFACEWC, samples=200),
}
LAMBDAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
RATES = (0.2, 0.05)
PROTOCOL = {
    "data": "permuted digits, 3 tasks, Domain-IL; the permutations belong to the seed",
    "network": "MLP 64-100-100-10, SGD without momentum, batches of 32, 10 epochs a task",
    "wells": "one a task, exact labels, 200 samples",
    "choice": "(λ, η) with the best ACC on seed 0; 'runs' are later seeds, with [ACC, forgetting] of each",
}


def run(methods: list[Method], rate: float, seed: int) -> list[float] | None:
    """ACC and forgetting of one run, or None if it diverged."""
    net, stream = MLP((64, 100, 100, 10), seed), permuted(digits(), tasks=3, seed=seed)
    optimiser = partial(torch.optim.SGD, lr=rate)
    try:
        with warnings.catch_warnings(action="ignore"):  # the ceiling warns; here it is part of what is measured
            found = train(Learner(net, stream, methods, epochs=10, batch_size=32, optimiser=optimiser, seed=seed))
    except Diverged:
        return None
    return [round(found.acc, 4), round(found.forgetting, 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("digits_penalties.json"))
    args = parser.parse_args()
    results = {"naive": {"chosen": [0, 0.2], "runs": [run([], 0.2, 1 + k) for k in range(args.seeds)]}}
    for name, make in METHODS.items():
        grid = []
        for rate in RATES:
            for lam in LAMBDAS:
                grid.append([lam, rate, run([make(lam=lam)], rate, 0)])
                print(name, *grid[-1], flush=True)
                if grid[-1][2] is None:
                    break  # a larger λ diverges, too
        lam, rate, _ = max(grid, key=lambda row: row[2][0] if row[2] else 0)
        runs = [run([make(lam=lam)], rate, 1 + k) for k in range(args.seeds)]
        results[name] = {"chosen": [lam, rate], "runs": runs, "grid": grid}
        print(name, results[name]["chosen"], runs, flush=True)
        args.out.write_text(json.dumps({"protocol": PROTOCOL, "results": results}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
