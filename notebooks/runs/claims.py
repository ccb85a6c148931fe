"""What the lessons measure live, over more seeds: the numbers behind the claims that no other stored run can settle.

    python notebooks/runs/claims.py --seeds 5 --out notebooks/runs/claims.json

One function a protocol, `f(seed)` -> {name: number}; its docstring is the protocol, and goes into the file. The code is
that of the lesson named there, on the digits. One thread: some 45 s of CPU a seed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, hessian, jacrev, vmap

from cl_tutor import landscape
from cl_tutor.data import digits
from cl_tutor.learn import SGD, Learner, Method, fit, train
from cl_tutor.methods.architectures import PackNet, Progressive, SupSup
from cl_tutor.methods.meta import MER, meta_train, online, walks
from cl_tutor.methods.projection import AGEM, GEM
from cl_tutor.methods.replay import DER, ER
from cl_tutor.nets import MLP
from cl_tutor.scores import Scores
from cl_tutor.streams import Stream, permuted, rotated, split
from cl_tutor.vectors import flat

Numbers = dict[str, float]
WIDE = (64, 100, 100)


class Counted(Learner):
    """Counts gradients: everything that is differentiated goes through `loss`."""

    calls = 0

    def loss(self, batch, params=None):
        self.calls += 1
        return super().loss(batch, params)


def learner(stream: Stream, methods=(), seed=0, lr=0.2, sizes=WIDE, kind=Learner, net=None, **recipe) -> Learner:
    net = net or MLP((*sizes, stream.units.shape[1]), seed)
    recipe = {"epochs": 10, "batch_size": 32} | recipe
    return kind(net, stream, list[Method](methods), optimiser=partial(SGD, lr=lr), seed=seed, **recipe)


def weights(one: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in one.params.items()}


def lesson_01(seed: int) -> Numbers:
    """Permuted digits, 2 tasks, MLP 64-100-100-10, SGD 0.2, batches of 32: 10 epochs of task 1, then a walk on task 2
    of 220 steps of 0.003 (small) or 88 of 0.2 (usual), the gradient of task 1 over all its images before each step."""
    one, found = learner(permuted(digits(), tasks=2, seed=seed), seed=seed), {}
    old, new = one.stream.tasks
    one.seen = 1
    fit(one, old)
    one.seen, everything = 2, next(old.batches(2000))
    for name, lr, steps in (("small", 0.003, 220), ("usual", 0.2, 88)):
        theta, rng, log = weights(one), torch.Generator().manual_seed(seed), []
        endless = (batch for _ in range(steps) for batch in new.batches(32, rng=rng))
        for batch, _ in zip(endless, range(steps)):
            g1, loss = grad_and_value(lambda p: one.loss(everything, p))(theta)
            g2 = grad(lambda p, batch=batch: one.loss(batch, p))(theta)
            log.append((landscape.cosine(g1, g2), (flat(g1) @ flat(g2)).item(), loss.item()))
            theta = {n: p - lr * g2[n] for n, p in theta.items()}
        cos, dots, losses = np.array(log).T
        found[f"typical |cos| over that of random vectors, {name}"] = np.sqrt((cos**2).mean() * len(flat(theta)))
        found[f"share of conflicts, {name}"] = (cos < 0).mean()
        found[f"first-order change of the old loss, {name}"] = -lr * dots.sum()
        found[f"change of the old loss, {name}"] = one.loss(everything, theta).item() - losses[0]
    return found


def lesson_02(seed: int) -> Numbers:
    """Permuted digits, 2 tasks, MLP 64-100-100-10, SGD 0.2, batches of 32, 10 epochs a task: height of the old loss on
    the straight line from the end of task 1, above its chord, in 31 steps."""
    streams = {"naive": permuted(digits(), tasks=2, seed=seed)}
    streams["joint"] = streams["naive"].cumulative()
    ends, starts = {}, {}
    for name, stream in streams.items():
        one = learner(stream, seed=seed)
        one.seen = 1
        fit(one, stream.tasks[0])
        starts[name] = weights(one)
        one.seen = 2
        fit(one, stream.tasks[1])
        ends[name] = weights(one)
    control = learner(streams["naive"], seed=seed + 10)
    control.seen = 1
    fit(control, control.stream.tasks[0])
    ends["another start"] = weights(control)
    everything = next(streams["naive"].tasks[0].batches(2000))
    loss = lambda p: control.loss(everything, p)
    height = lambda end: landscape.barrier(landscape.line(loss, starts["naive"], end, 31)[1])
    return {f"barrier to {name}": height(end) for name, end in ends.items()}


def lesson_03(seed: int) -> Numbers:
    """MLP 64-100-100, SGD 0.05, batches of 32: digits turned by 0 to 20 degrees in five Domain-IL tasks, and permuted
    digits, five tasks, with ER of 200 images for 5 epochs a task, as Domain-IL and as Class-IL."""
    turned, run = rotated(digits(), degrees=20), lambda *a, **k: train(learner(*a, seed=seed, lr=0.05, **k))
    found = {f"BWT, turned, {e} epochs": run(turned, epochs=e).bwt for e in (1, 10)}
    er = run(turned, [ER(200)], epochs=1)
    found["F + BWT, turned, ER"] = er.forgetting + er.bwt
    acc = {s: run(permuted(digits(), scenario=s), [ER(200)], epochs=5).acc for s in ("domain", "class")}
    return found | {"Class-IL minus Domain-IL, permuted, ER": acc["class"] - acc["domain"]}


def lesson_04(seed: int) -> Numbers:
    """Digits of 4x4 pixels, 300 of them, 16-6-10 with tanh, 172 weights, at an optimum (BFGS) with weight decay 0.01 or
    0.001, and a linear softmax model at random weights: distance from Fisher to Hessian over the Hessian's norm."""
    pixels, labels = digits().train
    x = F.avg_pool2d(pixels.double() / 255, 2).flatten(1)[300 * seed % 1200 :][:300]
    y = labels[300 * seed % 1200 :][:300]

    def z(theta, x):
        W, b, U, c = theta.split([96, 6, 60, 10])
        return U.view(10, 6) @ torch.tanh(W.view(6, 16) @ x + b) + c

    def gap(z, theta):
        S, p = vmap(jacrev(lambda t, x: z(t, x).log_softmax(0)), (None, 0))(theta, x), every(z, theta).softmax(1)
        H = hessian(lambda t: F.cross_entropy(every(z, t), y))(theta)
        return ((torch.einsum("nci,nc,ncj->ij", S, p, S) / len(S) - H).norm() / H.norm()).item()

    every = lambda z, theta: vmap(z, (None, 0))(theta, x)
    start = torch.randn(172, generator=torch.Generator().manual_seed(seed)).double() / 2
    found = {"gap, linear": gap(lambda theta, x: theta[:160].view(10, 16) @ x + theta[160:170], start)}
    for alpha in (0.01, 0.001):
        best = landscape.descend(lambda t, a=alpha: F.cross_entropy(every(z, t), y) + a / 2 * t @ t, start)[-1]
        found[f"gap, decay {alpha}"] = gap(z, best)
    return found


def lesson_08(seed: int) -> Numbers:
    """Split digits, Class-IL, MLP 64-100-10, SGD 0.05, one epoch a task: DER's memory of 100 slots at the end, each row
    compared with every training image, pixel by pixel."""
    der = DER(100, 32, seed=seed)
    one = learner(split(digits()), [der], seed, 0.05, (64, 100), epochs=1)
    train(one)
    seen = torch.cat([batch.x for task in one.stream.tasks for batch in task.batches(2000)]).flatten(1)
    kept = der.memory_.rows()[0].flatten(1)
    return {"rows that are training images": (kept[:, None] == seen).all(2).any(1).float().mean().item()}


def lesson_09(seed: int) -> Numbers:
    """Permuted digits, 5 tasks, MLP 64-100-10, SGD 0.1, batches of 16, one epoch a task, 250 images kept; gradients
    are counted."""
    make = {"naive": [], "A-GEM": [AGEM(250, seed=seed)], "GEM": [GEM(50, seed=seed)], "ER": [ER(250, 16, seed=seed)]}
    recipe = {"lr": 0.1, "sizes": (64, 100), "kind": Counted, "epochs": 1, "batch_size": 16}
    ones = {name: learner(permuted(digits(), tasks=5), methods, seed, **recipe) for name, methods in make.items()}
    acc = {f"ACC, {name}": train(one).acc for name, one in ones.items()}
    return acc | {"gradients of GEM for one of A-GEM": ones["GEM"].calls / ones["A-GEM"].calls}


def lesson_10(seed: int) -> Numbers:
    """Permuted digits, the task told, SGD 0.2, batches of 32, 5 epochs a task: PackNet with half of what is free on
    eight tasks, MLP 64-40-40-10; PackNet, Progressive, SupSup (64-100-100-10) on four."""
    eight = replace(permuted(digits(), tasks=8, seed=seed), task_known=True)
    four = replace(eight, tasks=eight.tasks[:4], units=eight.units[:4])
    run = lambda stream, methods, net: train(learner(stream, methods, seed, epochs=5, net=net))
    with warnings.catch_warnings(action="ignore"):  # capacity runs out: that is the point
        R = run(eight, [PackNet(keep=0.5)], MLP((64, 40, 40, 10), seed)).R
    sizes = (*WIDE, 10)
    found = {"PackNet, task 8 minus task 1, each when new": R[7, 7] - R[0, 0]}
    found["PackNet, largest change of an old accuracy"] = np.abs(np.tril(R - R.diagonal())).max()
    nets = {"Progressive": Progressive(sizes, seed), "SupSup": SupSup(sizes, seed=seed), "PackNet": MLP(sizes, seed)}
    for name, net in nets.items():
        found[f"ACC, {name}"] = run(four, [PackNet()] if name == "PackNet" else [], net).acc
    grown, one = Progressive(sizes, seed), MLP(sizes)
    for _ in range(9):
        grown.extend()
    size = lambda net: sum(p.numel() for p in net.parameters())
    return found | {"weights of ten Progressive columns, in networks": size(grown) / size(one)}


def lesson_11(seed: int) -> Numbers:
    """Split digits, Class-IL, MLP 64-100-10, SGD 0.05, batches of 32, 10 epochs a task, no method: the share of test
    images answered rightly when the pair is told, and when it is not."""
    one = learner(split(digits()), (), seed, 0.05, (64, 100))
    naive = train(one)
    told = replace(one, stream=replace(one.stream, task_known=True))
    return {"told": float(np.mean([told.accuracy(task) for task in told.stream.tasks])), "not told": naive.acc}


@cache
def learnt(seed: int) -> Learner:
    one = learner(permuted(digits(), tasks=2, seed=seed), seed=seed)
    fit(one, one.stream.tasks[0])
    return one


def lesson_12(seed: int) -> Numbers:
    """Permuted digits, MLP 64-100-100-10, SGD 0.2, batches of 32, 10 epochs: the Fisher of 150 images at the end of
    task 1, and a walk of 44 steps of 0.02 on task 2."""
    one, rng = learnt(seed), torch.Generator().manual_seed(0)
    (old, new), found, theta = one.stream.tasks, {}, weights(one)
    batch, scored = next(old.batches(150, rng=rng)), lambda x, t: one.net(x).log_softmax(1)
    for how in ("exact", "empirical"):
        lam = Scores.of(one.net, scored, [batch], how).spectrum()
        lam = lam[lam > 1e-7 * lam[0]]
        found[f"share of the top 5 %, {how}"] = (lam[: round(0.05 * len(lam))].sum() / lam.sum()).item()
    scores = Scores.of(one.net, scored, [batch], "exact")
    top = scores.top(20)[1]
    found["mass of the first layer"] = (top[:6500].square().sum() / 20).item()  # its 64·100 weights and 100 biases
    for some in new.batches(32):
        g = landscape.gradient(lambda p, b=some: one.loss(b, p), theta)
        theta = {n: theta[n] - 0.02 * g[n] for n in theta}
    delta = flat(theta) - flat(weights(one))
    cross = (delta @ scores.product(delta[:, None])[:, 0]).item()
    return found | {"price of the walk over the diagonal's": cross / (flat(scores.diagonal()) @ delta**2).item()}


def lesson_12_layers(seed: int) -> Numbers:
    """Digits 0 to 4, then 5 to 9, MLP 64-100-100-10, SGD 0.05, batches of 32, 10 epochs and 1: what the old network
    loses on its digits if one layer alone is replaced by what task 2 made of it."""
    found = {}
    for scenario in ("class", "task"):
        one = learner(split(digits(), tasks=2, scenario=scenario), (), seed, 0.05)
        one.seen = 1
        fit(one, one.stream.tasks[0])
        old, one.seen = weights(one), 2
        before = one.accuracy(one.stream.tasks[0])
        fit(one, one.stream.tasks[1], epochs=1)
        new, lost = weights(one), {}
        for layer in ("body.0", "body.2", "head"):
            mixed = {n: (new if n.startswith(layer) else old)[n] for n in old}
            one.net.load_state_dict(mixed)
            lost[layer] = before - one.accuracy(one.stream.tasks[0])
        found[f"loss by the output layer, over the largest of the others, {scenario}"] = lost["head"] - max(
            lost["body.0"], lost["body.2"]
        )
    return found


def lesson_13_mer(seed: int) -> Numbers:
    """Permuted digits, 4 tasks, MLP 64-100-100-10, batches of 32, 3 epochs a task, 200 images kept, two gradients a
    batch: MER at rate 0.4, keeping 0.6 of each way, and ER at rate 0.24."""
    found: dict[str, tuple[float, float]] = {}
    for name, method, lr in (("MER", MER(200, 32, steps=2, gamma=0.6), 0.4), ("ER", ER(200, 32), 0.24)):
        one = learner(permuted(digits(), tasks=4, seed=seed), [method], seed, lr, epochs=3)
        acc, old = train(one).acc, [next(task.batches(300)) for task in one.stream.tasks]
        slopes = [landscape.gradient(lambda p, b=b, one=one: one.loss(b, p), one.params) for b in old]
        found[name] = acc, float(np.mean([landscape.cosine(a, b) for a, b in combinations(slopes, 2)]))
    (a, cos_a), (b, cos_b) = found["MER"], found["ER"]
    return {"ACC, MER minus ER": a - b, "cosine of the tasks' gradients, MER minus ER": cos_a - cos_b}


def lesson_13_oml(seed: int) -> Numbers:
    """Digits 0 to 4 in four orientations, features of an MLP 64-100-100 by plain training (5 epochs, Adam) and then 40
    batches of 16 walks (OML), or as drawn (random); tested on one pass over five unseen classes of 30 images, at the
    best of five rates."""
    (x, y), *_ = digits()
    x, new, new_y = x[y < 5].float() / 255, x[y >= 5].float() / 255, y[y >= 5]
    x, y = torch.cat([x.rot90(k, (2, 3)) for k in range(4)]), torch.cat([y[y < 5] + 5 * k for k in range(4)])
    plain, nets = MLP((*WIDE, 20), seed), {name: MLP((*WIDE, 10), seed) for name in ("random", "plain", "OML")}
    opt, rng = torch.optim.Adam(plain.parameters(), 1e-3), torch.Generator().manual_seed(seed)
    for k in [k for _ in range(5) for k in torch.randperm(len(x), generator=rng).split(64)]:
        opt.zero_grad()
        F.cross_entropy(plain(x[k]), y[k]).backward()
        opt.step()
    for name in ("plain", "OML"):
        nets[name].body.load_state_dict(plain.body.state_dict())
    meta_train(nets["OML"], walks(x, y, 40, seed=seed))
    (seen, labels), (asked, _) = next(walks(new, new_y, 1, batch=16, shots=30, seed=123 + seed))

    @torch.no_grad()
    def after_walk(net: nn.Module, rate: float) -> float:
        head, W = partial(functional_call, net.head), {n: torch.zeros_like(p) for n, p in net.head.named_parameters()}
        one = lambda s, y, a: head(online(head, W, net.features(s), y, rate), net.features(a)).argmax(1)
        return vmap(one)(seen, labels, asked).eq(labels).float().mean().item()

    best = {name: max(after_walk(net, rate) for rate in (1e-5, 1e-4, 1e-3, 3e-3, 1e-2)) for name, net in nets.items()}
    gradients = 640 * (5 * 5 + 1) / 150  # before the stream, for each of its own
    over = {f"accuracy, OML minus {name}": best["OML"] - best[name] for name in ("plain", "random")}
    return over | {"gradients beforehand, for one": gradients}


PROTOCOLS = (lesson_01, lesson_02, lesson_03, lesson_04, lesson_08, lesson_09, lesson_10, lesson_11, lesson_12)
PROTOCOLS += (lesson_12_layers, lesson_13_mer, lesson_13_oml)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("claims.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    protocol, results = {}, {}
    for measure in PROTOCOLS:
        rows = [measure(seed) for seed in range(args.seeds)]
        protocol[measure.__name__] = " ".join(str(measure.__doc__).split())
        results[measure.__name__] = {name: [float(f"{row[name]:.5g}") for row in rows] for name in rows[0]}
        print(measure.__name__, json.dumps(results[measure.__name__], ensure_ascii=False), flush=True)
        text = json.dumps({"protocol": protocol, "results": results}, ensure_ascii=False, indent=1)
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
