"""Do flat minima forget less? Sharpness where task 1 was learnt, and how far L₁ rises while task 2 is learnt from
there.

    python notebooks/runs/flat_minima.py --seeds 3 --out notebooks/runs/flat_minima.json

Three families: task 1 learnt at different rates; the same, stopped after 5 epochs; and one network, learnt at 0.2, in
other weights: the first layer times α, the second divided by it, which with ReLU is the same function (Dinh et al.
2017). Task 2 is learnt in one way. One thread.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch.func import grad, jvp

from cl_tutor.data import digits
from cl_tutor.landscape import Loss, flat
from cl_tutor.learn import SGD, Learner, fit
from cl_tutor.methods.regularization import snapshot
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted
from cl_tutor.vectors import Params

RATES = (0.4, 0.2, 0.1, 0.05)  # on task 1
ALPHAS = (0.5, 1.0, 2.0)  # of the network learnt at 0.2
PROTOCOL = {
    "data": "permuted digits, 2 tasks, Domain-IL; the permutations belong to the seed",
    "network": "MLP 64-100-100-10, SGD without momentum, batches of 32; 20 epochs of task 1 "
    "('short': 5), 10 of task 2 at rate 0.05",
    "row": "sharpness (largest eigenvalue of the Hessian of L₁, all training images), L₁, rise of L₁, fall of accuracy",
}


def sharpness(loss: Loss, params: Params, steps: int = 20) -> float:
    """The largest eigenvalue of the Hessian, by power iteration."""
    v = {n: torch.ones_like(p) for n, p in params.items()}
    for _ in range(steps):
        length = flat(v).norm()
        v = jvp(grad(loss), (params,), ({n: w / length for n, w in v.items()},))[1]
    return flat(v).norm().item()


def rescaled(params: Params, alpha: float) -> Params:
    """The same function: ReLU(αx) = α ReLU(x)."""
    factors = {"body.0.weight": alpha, "body.0.bias": alpha, "body.2.weight": 1 / alpha}
    return {n: p * factors.get(n, 1.0) for n, p in params.items()}


def trial(learner: Learner, start: Params) -> list[float]:
    """A row: what `start` is worth on task 1, and what is lost while task 2 is learnt from there."""
    old, new = learner.stream.tasks
    loss = partial(learner.loss, next(old.batches(2000)))
    learner.net.load_state_dict(dict(start))
    learner.seen, learner.epochs, learner.optimiser = 2, 10, partial(SGD, lr=0.05)
    before, accuracy, sharp = loss(start).item(), learner.accuracy(old), sharpness(loss, start)
    learner.rng.manual_seed(learner.seed)
    fit(learner, new)
    return [sharp, before, loss(snapshot(learner.params)).item() - before, accuracy - learner.accuracy(old)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("flat_minima.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[list[float]]]] = {"rates": {}, "short": {}, "alphas": {}}
    for seed in range(args.seeds):
        stream = permuted(digits(), tasks=2, seed=seed)
        build = partial(Learner, stream=stream, batch_size=32, seed=seed)
        for rate, (family, epochs) in product(RATES, {"rates": 20, "short": 5}.items()):
            learner = build(MLP((64, 100, 100, 10), seed), epochs=epochs, optimiser=partial(SGD, lr=rate))
            learner.seen = 1
            fit(learner, stream.tasks[0])
            start, copied = snapshot(learner.params), ALPHAS if (rate, family) == (0.2, "rates") else ()
            rows = {(family, rate): start} | {("alphas", a): rescaled(start, a) for a in copied}
            for (name, value), point in rows.items():
                row = [round(v, 4) for v in trial(learner, point)]
                found[name].setdefault(str(value), []).append(row)
                print(seed, name, value, *row, flush=True)
    args.out.write_text(json.dumps({"protocol": PROTOCOL, **found}, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
