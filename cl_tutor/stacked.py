"""Many runs as one: R networks of one shape, each with its own seed, order of data and strengths, in one loop.

On a CPU it pays where the networks are small and the batches too: Python's share of a step is then paid once for all of
them (`tests/bench/test_cost.py` measures how much). Images of MNIST in batches of 128 gain little.

θ gets a leading axis R, `vmap` carries the network over it, and the optimisers work element by element: R runs in one
loop are R runs, up to the order in which a matrix product adds up. What a method keeps (Ω, a reservoir) is asked of the
very object that a separate run would use.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from joblib import Parallel, delayed
from torch import Tensor
from torch.func import functional_call, vmap
from tqdm.auto import tqdm

from . import spec
from .methods.regularization import SI, LwF, Quadratic, Well
from .methods.replay import DER, ER
from .streams import unit_float
from .sweep import VERSION, Experiment, Record, keep, machine, recall, sweep, writable

KNOWN = set(["naive", "joint", "l2", "ewc", "online-ewc", "si", "mas", "lwf", "er", "der", "der++"])


def fits(e: Experiment) -> bool:
    """Can this run be one of many?"""
    return e.net != "cnn" and e.stream == "split" and not (e.watch or e.samples) and set(spec.names(e.method)) <= KNOWN


def sweep_stacked(
    experiments: Iterable[Experiment], cache: str | Path, jobs: int = -1, progress: bool = True, most: int = 20
) -> list[Record]:
    """What `sweep` gives, the runs that `fit` up to `most` at a time as one, in `jobs` processes.

    An accuracy may differ from a separate run's by a sample or two; a record's `machine` says how many ran as one.
    """
    writable(cache)
    wanted = list(experiments)
    missing = [e for e in dict.fromkeys(wanted) if fits(e) and not recall(e, cache)]
    work = list(groups(missing, most))
    with tqdm(total=len(missing), unit="run", disable=not progress or not work) as bar:
        for made in Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(run_many)(group) for group in work):
            for record in made:
                keep(record, cache)
            bar.update(len(made))
    return sweep(wanted, cache, jobs, progress=progress)


def groups(experiments: Sequence[Experiment], most: int) -> Iterator[list[Experiment]]:
    """Those that differ in nothing but method, strengths and seed."""
    alike = defaultdict(list)
    for e in experiments:
        method = "joint" if e.method == "joint" else "naive"  # joint's stream is another one
        alike[replace(e, method=method, settings={}, seed=e.held_out * e.seed)].append(e)
    for group in alike.values():
        yield from (group[k : k + most] for k in range(0, len(group), most))


class Stack:
    """The learners of R experiments, and their weights in one: params[name] is (R, ...)."""

    def __init__(self, experiments: Sequence[Experiment], device: str):
        self.experiments, self.device = experiments, device
        self.learners = [e.learner(device) for e in experiments]
        first = self.learners[0]
        if experiments[0].method == "joint":
            cumulative = first.stream.cumulative()
            for one in self.learners:
                one.stream = cumulative
        self.stream, self.net = first.stream, first.net
        self.params = {
            n: torch.stack([one.params[n].detach() for one in self.learners]).requires_grad_() for n in first.params
        }
        x = [task.train.x.flatten(1) for task in self.stream.tasks]
        self.x, self.y = torch.cat(x).to(device), torch.cat([task.train.y for task in self.stream.tasks]).to(device)
        self.t = torch.cat([task.train.t for task in self.stream.tasks]).to(device)
        self.start = torch.tensor([0, *(len(part) for part in x)]).cumsum(0).tolist()
        self.wells: list[tuple[list[int] | slice, dict[str, Tensor], dict[str, Tensor]]] = []  # (which, anchor, λΩ)
        self.strength = lambda kind, name: torch.tensor([getattr(m, name) for _, m in kind], device=device)
        self.quadratic, self.lwf, self.er, self.der = (self.those(kind) for kind in (Quadratic, LwF, ER, DER))
        self.si = self.those(SI)
        self.rows: list[list[list[float]]] = []
        self.fell: dict[int, str] = {}
        self.seen = 0  # tasks met so far

    def those(self, kind: type) -> list[tuple[int, Any]]:
        return [(r, m) for r, one in enumerate(self.learners) for m in one.methods if isinstance(m, kind)]

    def logits(self, params: dict[str, Tensor], x: Tensor, shared: bool = False) -> Tensor:
        """(R, B, D) -> (R, B, C); or x (B, D), the same for all."""
        return vmap(lambda p, x: functional_call(self.net, p, (x,)), in_dims=(0, None if shared else 0))(params, x)

    def some(self, which: list[int]) -> dict[str, Tensor]:
        if len(which) == len(self.learners):
            return self.params
        rows = torch.tensor(which, device=self.device)
        return {n: p.index_select(0, rows) for n, p in self.params.items()}  # p[rows] has a slow backward

    def cross_entropy(self, z: Tensor, y: Tensor, t: Tensor, weight: Tensor) -> Tensor:
        """z (R, B, C), y, t and weight (R, B) -> (R,)."""
        competing = self.stream.competing(t.flatten(), self.seen).view(z.shape)
        logp = z.masked_fill(~competing, -torch.inf).log_softmax(-1)
        return -(logp.gather(2, y[..., None])[..., 0] * weight).sum(1)

    def drawn(self, kind: list[tuple[int, Any]]) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Rows of the memories: places in the data (R, S), the weight of each (R, S), and all columns."""
        columns = [m.memory_.sample(m.size) for _, m in kind]
        most = max(len(c[0]) for c in columns)
        places, weight = torch.zeros(len(kind), most, dtype=torch.long), torch.zeros(len(kind), most)
        for k, (place, *_) in enumerate(columns):
            places[k, : len(place)] = place
            weight[k, : len(place)] = 1 / len(place)
        return places.to(self.device), weight.to(self.device), columns

    def fit(self, i: int, epochs: int, size: int) -> None:
        opt = self.learners[0].optimiser(cast(list[torch.nn.Parameter], list(self.params.values())))
        n = self.start[i + 1] - self.start[i]
        si = [r for r, _ in self.si]
        begin = [{n: p[r].detach().clone() for n, p in self.params.items()} for r in si]
        path = {n: torch.zeros_like(p[si]) for n, p in self.params.items()} if si else {}
        for _ in range(epochs):
            orders = torch.stack([torch.randperm(n, generator=one.rng) for one in self.learners]) + self.start[i]
            there = orders.to(self.device)
            for here, at in zip(orders.split(size, 1), there.split(size, 1)):
                x, y, t = unit_float(self.x[at]), self.y[at], self.t[at]
                z = self.logits(self.params, x)
                loss = self.cross_entropy(z, y, t, torch.full(y.shape, 1 / y.shape[1], device=self.device)).sum()
                loss = loss + self.distil(x) + self.replay(self.er, "alpha") + self.dark()
                opt.zero_grad()
                loss.backward()
                with torch.no_grad():
                    if si:
                        before = {n: p[si] for n, p in self.params.items()}
                        grads = {n: slope(p)[si] for n, p in self.params.items()}
                    for which, anchor, omega in self.wells:
                        for n_, p in self.params.items():
                            slope(p)[which] += omega[n_] * (p[which] - anchor[n_])
                    for r, m in self.der:
                        m.memory_.add(here[r], z[r].detach())
                    opt.step()
                    for n_ in path:
                        path[n_] -= grads[n_] * (self.params[n_][si] - before[n_])
                for r, m in self.er:
                    m.memory_.add(here[r])
        for k, (_, m) in enumerate(self.si):
            m.start_, m.path_ = begin[k], {n_: w[k] for n_, w in path.items()}

    def distil(self, x: Tensor) -> Tensor | float:
        if not self.lwf or self.seen == 1:
            return 0.0
        which = [r for r, _ in self.lwf]
        T, alpha = self.strength(self.lwf, "T")[:, None, None], self.strength(self.lwf, "alpha")
        own = x if len(which) == len(x) else x[which]
        new = self.logits(self.some(which), own)
        with torch.no_grad():
            old = self.logits(self.teacher, own)
        total: Tensor | float = 0.0
        for head in self.stream.heads(self.seen - 1).to(self.device):
            p, q = ((z[..., head] / T).log_softmax(-1) for z in (old, new))
            total = total + (alpha * T[:, 0, 0] ** 2 * (p.exp() * (p - q)).sum(-1).mean(-1)).sum()
        return total

    def replay(self, kind: list[tuple[int, Any]], name: str) -> Tensor | float:
        kind = [(r, m) for r, m in kind if getattr(m, name) and len(m.memory_)]
        if not kind:
            return 0.0
        at, weight, _ = self.drawn(kind)
        z = self.logits(self.some([r for r, _ in kind]), unit_float(self.x[at]))
        return (self.strength(kind, name) * self.cross_entropy(z, self.y[at], self.t[at], weight)).sum()

    def dark(self) -> Tensor | float:
        kind = [(r, m) for r, m in self.der if m.alpha and len(m.memory_)]
        if not kind:
            return 0.0
        at, weight, columns = self.drawn(kind)
        then = torch.zeros(*at.shape, columns[0][1].shape[1], device=self.device)
        for k, (_, z) in enumerate(columns):
            then[k, : len(z)] = z
        now = self.logits(self.some([r for r, _ in kind]), unit_float(self.x[at]))
        miss = ((now - then).square().mean(-1) * weight).sum(1)
        return (self.strength(kind, "alpha") * miss).sum() + self.replay(self.der, "beta")

    @torch.no_grad()
    def consolidate(self, i: int) -> None:
        """What each method keeps of the finished task, by its own rule, at its own weights."""
        if self.lwf:
            self.teacher = {n: p.detach()[[r for r, _ in self.lwf]].clone() for n, p in self.params.items()}
        kept: dict[int, Well] = {}
        for r, m in self.quadratic:
            one = self.learners[r]
            one.seen = self.seen
            for n, p in one.params.items():
                p.copy_(self.params[n][r])
            kept[r] = m.well(one, self.stream.tasks[i])
            m.wells_.append(kept[r])
        if not self.quadratic or self.seen == len(self.stream):
            return
        which = [r for r, _ in self.quadratic]
        if self.wells:  # one well that adds up takes the place of the last
            add_up = torch.tensor([float(m.decay is None) for _, m in self.quadratic], device=self.device)
            for _, _, omega in self.wells:
                for w in omega.values():
                    w *= add_up.view(-1, *[1] * (w.ndim - 1))
        anchor = {n: torch.stack([kept[r].anchor[n] for r in which]) for n in self.params}
        omega = {n: torch.stack([m.lam * kept[r].omega[n] for r, m in self.quadratic]) for n in self.params}
        self.wells.append((slice(None) if len(which) == len(self.learners) else which, anchor, omega))
        for _, m in self.quadratic:  # the weights of wells that do not add up are in the stack now
            if m.decay is None:
                m.wells_.clear()

    @torch.no_grad()
    def accuracies(self) -> list[list[float]]:
        """(R, tasks)"""
        found = []
        for task in self.stream.tasks:
            hits = torch.zeros(len(self.learners), device=self.device)
            for x, y, t in task.batches(1000, "test"):
                z = self.logits(self.params, x.flatten(1).to(self.device), shared=True)
                rivals = ~self.stream.competing(t.to(self.device), self.seen)
                hits += z.masked_fill(rivals, -torch.inf).argmax(-1).eq(y.to(self.device)).sum(1)
            found.append((hits / len(task.test.y)).tolist())
        return [list(row) for row in zip(*found)]


def run_many(experiments: Sequence[Experiment], device: str = "cpu") -> list[Record]:
    """What `sweep.run` says of each of them."""
    start = time.perf_counter()
    stack = Stack(experiments, device)
    b = stack.accuracies()
    for i in range(len(stack.stream)):
        stack.seen += 1
        stack.fit(i, experiments[0].epochs, experiments[0].batch_size)
        stack.consolidate(i)
        stack.rows.append(stack.accuracies())
        finite = torch.stack([p.detach().flatten(1).isfinite().all(1) for p in stack.params.values()]).all(0).tolist()
        for r in (r for r, ok in enumerate(finite) if not ok):
            stack.fell.setdefault(r, f"task {stack.seen} of {len(stack.stream)}: the weights are no longer finite")
    seconds = (time.perf_counter() - start) / len(experiments)
    where, records = f"{machine(device)}, {len(experiments)} runs as one", []
    for r, e in enumerate(experiments):
        record = {"experiment": json.loads(e.canonical()), "version": VERSION, "R": [row[r] for row in stack.rows]}
        record |= {"b": b[r], "seconds": round(seconds, 3), "kept": None, "notes": [], "machine": where}
        records.append(record | ({"R": None, "b": None, "diverged": stack.fell[r]} if r in stack.fell else {}))
    return records


def slope(p: Tensor) -> Tensor:
    """∂L/∂p, which is there after backward."""
    return cast(Tensor, p.grad)
