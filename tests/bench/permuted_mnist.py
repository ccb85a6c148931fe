"""Permuted MNIST, every method that fits: ACC, forgetting and CPU seconds as mean ± sd over 3 seeds.

    CL_TUTOR_DATA=FOLDER python tests/bench/permuted_mnist.py         # FOLDER holds MNIST/raw; the JSON is beside this
    CL_TUTOR_DATA=FOLDER python tests/bench/permuted_mnist.py --tune  # prints the grid on seed 100 and held-out data

5 tasks of the same 10,000 training images, drawn by the seed; the first 2,000 test images; one pass, batch 128, MLP
784-256-256-10 (its last layer has 50 units in Task-IL), SGD 0.02 with momentum 0.9. MER, whose steps momentum would
carry over, takes plain SGD 0.2, which goes as far in the long run. CPU seconds are those of a whole run, 30 evaluations
included. Results are written as they come, and a second run goes on where the first was stopped.
"""

import json
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cl_tutor import spec
from cl_tutor.data import Data, load
from cl_tutor.learn import Diverged, Learner
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted

FILE = Path(__file__).with_suffix(".json")
SETTINGS = ["er.slots=500", "der.slots=500", "der++.slots=500", "mer.slots=500", "a-gem.slots=500", "gem.per_task=100"]
SETTINGS += ["ewc.samples=100", "online-ewc.samples=100", "subspace-ewc.k=5", "subspace-ewc.samples=50"]
# The best of GRID on seed 100, by ACC on 2,000 training images that no run trains on; Online EWC takes the λ of EWC.
SETTINGS += ["l2.lam=0.01", "ewc.lam=100", "online-ewc.lam=100", "mas.lam=0.1", "si.lam=100", "lwf.alpha=1"]
SETTINGS += ["kfac-ewc.lam=1", "subspace-ewc.lam=1"]
GRID = ["l2.lam=0.001", "l2.lam=0.01", "l2.lam=0.1", "ewc.lam=10", "ewc.lam=100", "ewc.lam=300", "mas.lam=0.1"]
GRID += ["mas.lam=1", "si.lam=1", "si.lam=10", "si.lam=100", "lwf.alpha=0.1", "lwf.alpha=1", "lwf.alpha=4"]
GRID += ["kfac-ewc.lam=1", "kfac-ewc.lam=10", "subspace-ewc.lam=1"]
DOMAIN = "naive joint experts l2 ewc online-ewc mas si lwf kfac-ewc er der der++ a-gem gem generative mer supsup"
TASK = "naive ewc lwf er progressive packnet adapters supsup"
RUNS = [("domain", m) for m in [*DOMAIN.split(), "er+ewc", "subspace-ewc"]] + [("task", m) for m in TASK.split()]


def subset(data: Data, seed: int, held_out: bool) -> Data:
    """10,000 images to train on, and 2,000 others: of the training set to tune, of the test set to report."""
    order = torch.randperm(len(data.train[0]), generator=torch.Generator().manual_seed(seed))
    some = lambda pair, rows: (pair[0][rows], pair[1][rows])
    test = some(data.train, order[10000:12000]) if held_out else some(data.test, slice(2000))
    return data._replace(train=some(data.train, order[:10000]), test=test)


def one(data: Data, scenario: str, method: str, settings: list[str], seed: int, held_out: bool = False) -> dict:
    stream = permuted(subset(data, seed, held_out), 5, scenario, seed)
    sizes = (784, 256, 256, stream.units.shape[1])
    net, methods = spec.build(method, spec.parse(settings), partial(MLP, sizes), sizes, seed)
    sgd = partial(torch.optim.SGD, **({"lr": 0.2} if method == "mer" else {"lr": 0.02, "momentum": 0.9}))
    learner = Learner(net, stream, methods, batch_size=128, optimiser=sgd, seed=seed, device="cpu")
    start = time.process_time()
    try:
        results = spec.execute(method, learner)
    except Diverged as e:
        return {"diverged": str(e)}
    metrics = {name: round(value, 4) for name, value in results.metrics().items()}
    return metrics | {"cpu_seconds": round(time.process_time() - start, 2)}


def table(stored: dict) -> str:
    lines = ["| scenario | method | ACC | forgetting | CPU s |", "|---|---|---|---|---|"]
    for name, runs in stored.items():
        done = [run for run in runs.values() if "acc" in run]
        cells = [np.array([run[key] for run in done]) for key in ("acc", "forgetting", "cpu_seconds")]
        said = [f"{v.mean():.3f} ± {v.std(ddof=1):.3f}" for v in cells[:2]] if len(done) > 1 else ["diverged"] * 2
        lines.append(f"| {' | '.join([*name.split(), *said])} | {cells[2].mean() if len(done) else np.nan:.1f} |")
    return "\n".join(lines)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = load("mnist")
    if "--tune" in sys.argv:
        for setting in tqdm(GRID, unit="run"):
            tqdm.write(f"{setting} {one(data, 'domain', setting.split('.')[0], [*SETTINGS, setting], 100, True)}")
        return
    stored = json.loads(FILE.read_text(encoding="utf-8"))["runs"] if FILE.exists() else {}
    work = [(s, m, seed) for seed in range(3) for s, m in RUNS if str(seed) not in stored.get(f"{s} {m}", {})]
    for scenario, method, seed in tqdm(work, unit="run"):
        done = one(data, scenario, method, SETTINGS, seed)
        stored.setdefault(f"{scenario} {method}", {})[str(seed)] = done
        document = {"protocol": __doc__, "settings": SETTINGS, "torch": torch.__version__, "runs": stored}
        scratch = FILE.with_suffix(".tmp")
        scratch.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, FILE)
    print(table(stored))


if __name__ == "__main__":
    main()
