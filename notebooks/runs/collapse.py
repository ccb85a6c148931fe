"""CIFAR-10, then another data set: what is left of CIFAR-10?

    python notebooks/runs/collapse.py --cifar FOLDER --mnist FOLDER --seeds 1 --out notebooks/runs/collapse.json

FOLDER is train/CLASS/*.jpg beside test/CLASS/*.jpg; MNIST lies as torchvision lays it out. One thread.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from cl_tutor.data import Data, load
from cl_tutor.learn import Learner, train
from cl_tutor.nets import SmallCNN
from cl_tutor.results import Results
from cl_tutor.streams import sequence

PROTOCOL = {
    "data": "CIFAR-10 (JPEG copy), then MNIST in a frame of 32×32×3: the seed draws 10,000 training images of each, "
    "and every fifth test image is used",
    "network": "SmallCNN, Adam 1e-3 begun anew for each task, batches of 128, 3 epochs a task, no method",
    "scenarios": "domain: the same ten output units for both; task: ten each, and the task is told",
}


def drawn(data: Data, seed: int) -> Data:
    (x, y), (u, v) = data.train, data.test
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:10_000]
    return data._replace(train=(x[some], y[some]), test=(u[::5], v[::5]))


def framed(data: Data) -> Data:
    """28×28 and grey -> 32×32 and three times the same."""
    wide = lambda x: F.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    return data._replace(train=(wide(data.train[0]), data.train[1]), test=(wide(data.test[0]), data.test[1]))


def run(first: Data, second: Data, scenario: str, seed: int) -> Results:
    stream = sequence(drawn(first, seed), framed(drawn(second, seed)), scenario=scenario)
    net = SmallCNN(classes=stream.units.shape[1], seed=seed)
    return train(Learner(net, stream, [], 3, 128, partial(torch.optim.Adam, lr=1e-3), seed=seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("collapse.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    first, second = load(f"folder:{args.cifar}"), load("mnist", args.mnist)
    results: dict[str, list[dict]] = {"domain": [], "task": []}
    for seed in range(args.seeds):
        for scenario, found in results.items():
            one = run(first, second, scenario, seed)
            found.append({"seed": seed, "R": one.R.round(4).tolist(), "b": one.b.round(4).tolist()})
            args.out.write_text(json.dumps({"protocol": PROTOCOL, "results": results}) + "\n", encoding="utf-8")
            print(scenario, found[-1], flush=True)


if __name__ == "__main__":
    main()
