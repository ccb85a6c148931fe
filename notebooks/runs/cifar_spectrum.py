"""The Fisher spectrum of a small CNN on CIFAR-10, and which layer forgets first: the numbers that lesson 12 draws.

    python notebooks/runs/cifar_spectrum.py --data folder:PATH --seeds 2 --out notebooks/runs/cifar_spectrum.json

PATH holds train/CLASS/*.jpg and test/CLASS/*.jpg; `--data cifar10` takes torchvision's files under CL_TUTOR_DATA. One
thread throughout: on one machine the same call writes the same numbers. Some 10 minutes a seed on one idle core, one
minute on a GPU, which is used where there is one. With `--weights FOLDER` the trained networks are kept there, and an
interrupted run goes on from them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call

from cl_tutor.data import Data, load
from cl_tutor.learn import Learner, Method, fit
from cl_tutor.nets import SmallCNN
from cl_tutor.scores import Scores
from cl_tutor.streams import Stream, sequence, split
from cl_tutor.vectors import flat, unflat

TARGETS = (0.45, 0.60)  # test accuracies at which a network is looked at; and once more at the end
STEPS = (3, 10, 30, 100, 391)  # of task 2; 391 are one epoch
LAYERS = ("conv1", "conv2", "fc1", "fc2")
SGD = partial(torch.optim.SGD, momentum=0.9)

Weights = dict[str, Tensor]


def standardised(x: Tensor) -> Tensor:
    return (x.float() / 255 - 0.5) / 0.25


def prepared(stream: Stream) -> Stream:
    return replace(stream, tasks=[replace(task, view=standardised) for task in stream.tasks])


def mirrored(data: Data) -> Data:
    """Every training image, and its image in a mirror: worth two or three points of test accuracy to so small a net."""
    x, y = data.train
    return data._replace(train=(torch.cat([x, x.flip(-1)]), torch.cat([y, y])))


def copied(learner: Learner) -> Weights:
    return {n: p.detach().cpu().clone() for n, p in learner.params.items()}


class Milestones(Method):
    """The weights at the first look at which the test accuracy reached each target, and at the last step.

    A look is every `every` steps. The learning rate falls on a straight line, to 0 after the last step.
    """

    def __init__(self, last: int, every: int = 195) -> None:
        self.targets, self.last, self.every = list(TARGETS), last, every
        self.step, self.found = 0, []

    def after_step(self, learner: Learner, batch: object) -> None:
        self.step += 1
        learner.opt.param_groups[0]["lr"] = 0.05 * (1 - self.step / self.last)
        if self.step % self.every and self.step != self.last:
            return
        accuracy = learner.accuracy(learner.stream.tasks[0])
        print(f"  step {self.step}: test accuracy {accuracy:.3f}", flush=True)
        if self.step == self.last or (self.targets and accuracy >= self.targets[0]):
            self.targets = self.targets[1:]
            here = {"step": torch.tensor(self.step), "accuracy": torch.tensor(accuracy)}
            self.found.append(copied(learner) | here)


def checkpoints(data: Data, epochs: int, seed: int) -> list[Weights]:
    """The network at each milestone, with its step and its test accuracy as two further entries."""
    stream = prepared(sequence(mirrored(data), scenario="domain"))
    watch = Milestones(epochs * -(-len(stream.tasks[0].train.x) // 128))
    optimiser = partial(SGD, lr=0.05)
    learner = Learner(SmallCNN(seed=seed), stream, [watch], batch_size=128, optimiser=optimiser, seed=seed)
    learner.seen = 1
    fit(learner, stream.tasks[0], epochs)
    return watch.found


class Snapshots(Method):
    """The weights after so many steps."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        self.step, self.steps, self.found = 0, steps, []

    def after_step(self, learner: Learner, batch: object) -> None:
        self.step += 1
        if self.step in self.steps:
            self.found.append(copied(learner))


def first_task(data: Data, seed: int) -> list[Weights]:
    """The network after three epochs on the first five classes."""
    learner = pair(data, seed, "class")
    fit(learner, learner.stream.tasks[0], epochs=3)
    print(f"  task 1 learnt: test accuracy {learner.accuracy(learner.stream.tasks[0]):.3f}", flush=True)
    return [copied(learner)]


def second_task(data: Data, seed: int, scenario: str, start: Weights) -> list[Weights]:
    """One epoch on the other five classes: the weights at the start and at STEPS."""
    learner, watch = at(pair(data, seed, scenario), start), Snapshots(STEPS)
    learner.seen, learner.methods = 2, [watch]
    fit(learner, learner.stream.tasks[1])
    print(f"  after task 2, {scenario}-IL: {learner.accuracy(learner.stream.tasks[0]):.3f}", flush=True)
    return [start, *watch.found]


def pair(data: Data, seed: int, scenario: str) -> Learner:
    """A learner of two tasks, five classes each. While it learns task 1 both scenarios are the same."""
    learner = Learner(
        SmallCNN(seed=seed),
        prepared(split(data, 2, scenario)),
        batch_size=64,
        optimiser=partial(SGD, lr=0.03),
        seed=seed,
    )
    learner.seen = 1
    return learner


def kept(folder: Path | None, name: str, make: Any) -> list[Weights]:
    """What `make` returns, from the folder if it is there already."""
    if folder is None:
        return make()
    files = sorted(folder.glob(f"{name}-*.safetensors"))
    if not files:
        folder.mkdir(parents=True, exist_ok=True)
        for k, weights in enumerate(made := make()):
            save_file(weights, folder / f"{name}-{k:02d}.safetensors")
        return made
    return [load_file(file) for file in files]


def drawn(learner: Learner, part: str, count: int) -> Any:
    """`count` samples of task 1, the same at every call."""
    return next(learner.stream.tasks[0].batches(count, part, torch.Generator().manual_seed(0))).to(learner.device)


def at(learner: Learner, weights: Weights) -> Learner:
    """The learner with these weights."""
    learner.net.load_state_dict({n: weights[n] for n in learner.params})
    return learner


def scores_of(learner: Learner, labels: str, samples: int) -> Scores:
    x, y, t = drawn(learner, "train", samples)
    log_prob = lambda x, t: learner.mask(learner.logits(x, t), t).log_softmax(1)
    return Scores.of(learner.net, log_prob, list(zip(x.split(50), y.split(50), t.split(50))), labels)


def per_layer(learner: Learner, v: Tensor) -> list[float]:
    """The sum over the parameters of each layer."""
    sums = {n: float(p.sum()) for n, p in unflat(v.double(), learner.params).items()}
    return [rounded(sums[f"{layer}.weight"] + sums[f"{layer}.bias"]) for layer in LAYERS]


def rounded(x: Any, digits: int = 4) -> Any:
    """Numbers with so many digits; lists of them, too."""
    return [rounded(v) for v in x] if isinstance(x, list) else float(f"{float(x):.{digits}g}")


def spectrum(learner: Learner, labels: str, k: int = 20, samples: int = 1000, whole: int = 200) -> dict[str, Any]:
    """The top k eigenpairs over `samples` images; all eigenvalues over `whole` images, and over all with one label."""
    scores = scores_of(learner, labels, samples)
    values, vectors = scores.top(k)
    diagonal = flat(scores.diagonal()).double()
    found = {
        "samples": samples,
        "values": rounded(values.tolist()),
        "trace": rounded(diagonal.sum()),
        "share_top": rounded(values.sum() / diagonal.sum()),
        "stable_rank": rounded(diagonal.sum() / values[0]),
        "mass": per_layer(learner, vectors.square().sum(1)),
        "weighted_mass": per_layer(learner, vectors.square() @ values),
        "diagonal": per_layer(learner, diagonal),
    }
    counts = [whole, samples] if labels == "empirical" else [whole]
    return found | {f"whole_{n}": shares(scores_of(learner, labels, n).spectrum()) for n in counts}


def shares(values: Tensor) -> dict[str, Any]:
    """How unevenly all the eigenvalues share the trace."""
    values = values[values > 1e-7 * values[0]]
    five = max(1, round(0.05 * len(values)))
    running = values.cumsum(0) / values.sum()
    return {
        "nonzero": len(values),
        "five_percent": five,
        "share_five_percent": rounded(running[five - 1]),
        "share_20": rounded(running[19]),
        "directions_for_80_percent": int((running < 0.8).sum()) + 1,
        "participation_ratio": rounded(values.sum() ** 2 / values.square().sum()),
    }


@torch.no_grad()
def forgetting(learner: Learner, states: list[Weights], samples: int = 2000) -> dict[str, Any]:
    """Along task 2: what task 1 loses if one layer alone moves, and gets back if one layer alone is re-set."""
    states = [{n: w.to(learner.device) for n, w in state.items()} for state in states]
    old, x_y_t = states[0], drawn(learner, "test", samples)
    learner.seen = 1  # the Fisher of task 1, over its own five units
    deltas = [flat({n: w[n] - old[n] for n in old}) for w in states]
    parts = torch.stack([flat({n: (d if n.startswith(layer) else 0 * d) for n, d in unflat(delta, old).items()})
                         for delta in deltas for layer in LAYERS], 1)  # fmt: skip
    images = scores_of(at(learner, old), "exact", 500).product(parts)
    predicted = (0.5 * (parts * images).sum(0)).view(-1, len(LAYERS))
    learner.seen = 2

    def tested(weights: Weights) -> tuple[float, float]:
        x, y, t = x_y_t
        z = learner.mask(torch.cat([functional_call(learner.net, weights, (b,)) for b in x.split(500)]), t)
        return rounded(z.argmax(1).eq(y).float().mean()), rounded(F.cross_entropy(z, y))

    mix = lambda base, other, layer: {n: (other if n.startswith(layer) else base)[n] for n in old}
    return {
        "whole": [tested(new) for new in states],
        "moved": [[tested(mix(old, new, layer)) for layer in LAYERS] for new in states],
        "re_set": [[tested(mix(new, old, layer)) for layer in LAYERS] for new in states],
        "predicted": rounded(predicted.tolist()),
        "distance": [[rounded(flat({n: new[n] - old[n] for n in old if n.startswith(layer)}).norm())
                      for layer in LAYERS] for new in states],
    }  # fmt: skip


def study(data: Data, epochs: int, seed: int, folder: Path | None) -> dict[str, Any]:
    """Everything about one seed."""
    whole = Learner(SmallCNN(seed=seed), prepared(sequence(data, scenario="domain")))
    whole.seen = 1
    spectra = []
    for w in kept(folder, f"spectrum-{seed}", partial(checkpoints, data, epochs, seed)):
        print(f"seed {seed}, test accuracy {float(w['accuracy']):.3f}: spectra", flush=True)
        both = {labels: spectrum(at(whole, w), labels) for labels in ("exact", "empirical")}
        spectra.append({"step": int(w["step"]), "accuracy": rounded(w["accuracy"])} | both)
    found: dict[str, Any] = {"seed": seed, "spectra": spectra, "forgetting": {}}
    (start,) = kept(folder, f"first-{seed}", partial(first_task, data, seed))
    for scenario in ("class", "task"):
        states = kept(folder, f"{scenario}-{seed}", partial(second_task, data, seed, scenario, start))
        print(f"seed {seed}, {scenario}-IL: forgetting layer by layer", flush=True)
        found["forgetting"][scenario] = forgetting(pair(data, seed, scenario), states)
    return found


def protocol() -> dict[str, Any]:
    """What a reader must know to believe the numbers, or to find others."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "one CPU thread"
    return {
        "data": "CIFAR-10, pixels (x/255 - 0.5)/0.25",
        "network": "SmallCNN: conv 5x5 (3, 16), pool, conv 5x5 (16, 32), pool, fc (800, 44), fc (44, 10); ReLU",
        "training": "images and mirror images; SGD, momentum 0.9, batches of 128, lr from 0.05 to 0 on a straight line",
        "looks": "10,000 test images every 195 steps; spectra at the first look that reaches a target, and at the end",
        "targets": TARGETS,
        "layers": LAYERS,
        "parameters": {layer: sum(p.numel() for p in getattr(SmallCNN(), layer).parameters()) for layer in LAYERS},
        "fisher": "a mean over training images (one seeded draw); exact: over all classes; empirical: data labels",
        "mass": "sum over the top 20 eigenvectors of v' P_layer v, so that the layers add up to 20",
        "tasks": "SGD, momentum 0.9, lr 0.03, batches of 64",
        "forgetting": "classes 0-4 for 3 epochs, then 5-9 for 1; [accuracy, loss] on 2,000 test images of classes 0-4",
        "moved": "the old network, one layer taken from the new one; re_set: the new one, one layer taken from the old",
        "predicted": "half d'Fd with d the movement of one layer, F exact at the end of task 1 over 500 images",
        "steps": [0, *STEPS],
        "versions": f"cl_tutor {git.stdout.decode().strip() or 'unknown'}, torch {torch.__version__}, {device}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="cifar10, or folder:PATH")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6, help="over the images and their mirror images")
    parser.add_argument("--out", type=Path, default=Path("cifar_spectrum.json"))
    parser.add_argument("--weights", type=Path, help="a folder that keeps the trained networks")
    args = parser.parse_args()
    write(load(args.data), args.epochs, args.seeds, args.out, args.weights)


def write(data: Data, epochs: int, seeds: int, out: Path, weights: Path | None) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa are too few for small eigenvalues
    runs = [study(data, epochs, seed, weights) for seed in range(seeds)]
    name = "CIFAR-10 (JPEG copy)" if data.name != "cifar10" else "CIFAR-10"
    text = json.dumps({"protocol": {"name": name, "epochs": epochs} | protocol(), "runs": runs})
    out.write_text(text + "\n", encoding="utf-8")
    print(f"{out}: {len(text):,} characters")


if __name__ == "__main__":
    main()
