"""Which λ? EWC on permuted digits, from far too weak to far too strong, with what the Fisher is made of varied.

    python notebooks/runs/ewc_lambda.py --seeds 4 --out notebooks/runs/ewc_lambda.json

Every run keeps [ACC, forgetting] or, where SGD diverged, null; and the trace and the largest entry of the first task's
Fisher, which no λ has touched. One thread.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path

import torch

from cl_tutor.data import digits
from cl_tutor.learn import Diverged, Learner, train
from cl_tutor.methods.regularization import EWC
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted
from cl_tutor.vectors import flat

LAMBDAS = [0.1, 1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10_000.0]
VARIANTS = {
    "exact": {"proximal": True},
    "empirical": {"proximal": True, "labels": "empirical"},
    "explicit": {},
}
PROTOCOL = {
    "data": "permuted digits, 3 tasks, Domain-IL; the permutations belong to the seed",
    "network": "MLP 64-100-100-10, SGD 0.2 without momentum, batches of 32, 5 epochs a task",
    "wells": "one a task, 100 samples, exact labels but where said otherwise; proximal but where it says explicit",
}


def run(arguments: dict, lam: float, seed: int) -> dict | None:
    """ACC, forgetting, tr F and max F of one run, or None if it diverged."""
    method = EWC(lam, samples=100, **arguments)
    net, stream = MLP((64, 100, 100, 10), seed), permuted(digits(), tasks=3, seed=seed)
    learner = Learner(net, stream, [method] if lam else [], 5, 32, partial(torch.optim.SGD, lr=0.2), seed)
    try:
        with warnings.catch_warnings(action="ignore"):  # the ceiling warns; here it is part of what is measured
            found = train(learner)
    except Diverged:
        return None
    row = {"acc": round(found.acc, 4), "forgetting": round(found.forgetting, 4)}
    if lam:
        F = flat(method.wells_[0].omega)
        row |= {"trace": round(F.sum().item(), 3), "max": round(F.max().item(), 4)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("ewc_lambda.json"))
    args = parser.parse_args()
    seeds = range(args.seeds)
    results = {"naive": {"0": [run({}, 0.0, seed) for seed in seeds]}}
    for name, arguments in VARIANTS.items():
        results[name] = {f"{lam:g}": [run(arguments, lam, seed) for seed in seeds] for lam in LAMBDAS}
        args.out.write_text(json.dumps({"protocol": PROTOCOL, "results": results}) + "\n", encoding="utf-8")
        print(name, flush=True)


if __name__ == "__main__":
    main()
