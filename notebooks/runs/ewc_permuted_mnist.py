"""Lesson 05's EWC on a short Permuted MNIST: which λ does it want, and which does plain SGD bear?

    python notebooks/runs/ewc_permuted_mnist.py --mnist FOLDER --seeds 5 --out notebooks/runs/ewc_permuted_mnist.json

Every run keeps its mean accuracy after the last task or, where SGD diverged, null. One thread.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path

import torch

from cl_tutor.data import Data, load
from cl_tutor.learn import Diverged, Learner, train
from cl_tutor.methods.regularization import EWC
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted

LAMBDAS = {"explicit": [0.0, 10.0, 30.0, 100.0], "proximal": [1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10_000.0]}
PROTOCOL = {
    "data": "Permuted MNIST, 3 tasks of the first 10,000 training images, Domain-IL; the permutations belong to the "
    "seed",
    "network": "MLP 784-100-100-10, SGD 0.2 without momentum, batches of 32, one epoch a task",
    "wells": "one a task, 100 samples, exact labels; explicit or proximal; λ = 0 is the naive run",
}


def run(data: Data, lam: float, proximal: bool, seed: int) -> float | None:
    """ACC of one run, or None if it diverged."""
    methods = [EWC(lam, samples=100, proximal=proximal)] if lam else []
    net, sgd = MLP((784, 100, 100, 10), seed), partial(torch.optim.SGD, lr=0.2)
    learner = Learner(net, permuted(data, 3, seed=seed), methods, 1, 32, sgd, seed)
    try:
        with warnings.catch_warnings(action="ignore"):  # the ceiling warns; here it is part of what is measured
            return round(train(learner).acc, 4)
    except Diverged:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("ewc_permuted_mnist.json"))
    args = parser.parse_args()
    mnist, results = load("mnist", args.mnist), {}
    mnist = mnist._replace(train=tuple(part[:10_000] for part in mnist.train))
    for name, lambdas in LAMBDAS.items():
        for lam in lambdas:
            accs = [run(mnist, lam, name == "proximal", seed) for seed in range(args.seeds)]
            results.setdefault(name, {})[f"{lam:g}"] = accs
            args.out.write_text(json.dumps({"protocol": PROTOCOL, "results": results}) + "\n", encoding="utf-8")
            print(name, lam, accs, flush=True)


if __name__ == "__main__":
    main()
