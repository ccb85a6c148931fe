"""Ten bugs beside the sound methods: what would a curve of accuracies have told you?

    python notebooks/runs/bug_museum.py --seeds 3 --out notebooks/runs/bug_museum.json

Permuted digits, 4 tasks. Each method, sound or not, has its own option chosen by ACC on seed 100, as its author
would have
done; the numbers that are stored come from seeds 0, 1, ... One thread.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from cl_tutor.data import digits
from cl_tutor.exercises.bug_museum import PAIRS
from cl_tutor.learn import Diverged, Learner, train
from cl_tutor.nets import MLP
from cl_tutor.results import Results
from cl_tutor.streams import permuted

PROTOCOL = {
    "data": "permuted digits, 4 tasks, Domain-IL; for PackNet the task is told; the permutations belong to the seed",
    "network": "MLP 64-100-100-10, SGD 0.2 (PackNet: 0.05, momentum 0.9, one optimiser for all tasks), batches of 32, "
    "5 epochs a task",
    "choice": "each option by ACC on seed 100; runs are R of seeds 0, 1, ...",
}


@cache  # rooms share their sound methods
def run(make, option: str, value: float, seed: int) -> Results | None:
    """R of one run, or None if it diverged."""
    stream, method, made = permuted(digits(), tasks=4, seed=seed), make(**{option: value}), []
    sgd = partial(torch.optim.SGD, lr=0.2)
    if option == "keep":
        stream = replace(stream, task_known=True)
        sgd = lambda params: made[0] if made else made.append(torch.optim.SGD(params, 0.05, 0.9)) or made[0]
    learner = Learner(MLP(seed=seed), stream, [method], epochs=5, batch_size=32, optimiser=sgd, seed=seed)
    try:
        with warnings.catch_warnings(action="ignore"):
            return train(learner)
    except Diverged:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bug_museum.json"))
    args = parser.parse_args()
    rooms = {}
    for room, (*makers, option, values) in PAIRS.items():
        rooms[room] = {}
        for name, make in zip(("sound", "bug"), makers):
            acc = {v: r.acc if (r := run(make, option, v, 100)) else -1.0 for v in (values if len(values) > 1 else ())}
            best = max(acc, key=acc.get) if acc else values[0]
            found = [run(make, option, best, seed) for seed in range(args.seeds)]
            runs = [r and {"R": r.R.round(4).tolist(), "b": r.b.round(4).tolist()} for r in found]
            rooms[room][name] = {"chosen": {option: best}, "runs": runs}
            print(room, name, option, best, [r and round(r.acc, 3) for r in found], flush=True)
        args.out.write_text(json.dumps({"protocol": PROTOCOL, "rooms": rooms}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
