"""The whole framework in one file: Method (an idea), Learner (the state), fit, meet and train (the loop).

Continual learning is one sum and two edits. For each batch B of task i

    L(θ) = L_task(θ; B) + Σ_m m.loss(θ; B)      every method may add a term
    g    = ∇L(θ);  g ← m.edit_grads(g)          every method may bend the gradient
    θ    ← step(θ, g);  m.after_step()          every method may look at what happened

Nothing else in `cl_tutor` trains a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from . import checkpoint
from .results import Results
from .streams import Batch, Stream, Task
from .vectors import Params

SGD = partial(torch.optim.SGD, lr=0.1)


class Diverged(FloatingPointError):
    """The loss is no longer a finite number. The message says by what, and what to change."""


class Method:
    """One idea against forgetting. Every hook is optional; all defaults do nothing.

    Constructor arguments are hyper-parameters, and make the repr; learned state ends in an underscore. Of the learner,
    `loss` changes nothing, and `edit_grads` nothing but `p.grad`. Every method owns its generator, so that adding one
    leaves the order of the data as it was. What it remembers is of one stream: a new learner takes new methods.
    """

    served_ = False  # has it met a task?

    def check(self, learner: Learner) -> None:
        """Refuse, with a ValueError that says why, a learner that this method cannot serve."""

    def before_task(self, learner: Learner, task: Task) -> None: ...

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        """A term to add to the loss of this batch."""
        return 0.0

    def edit_grads(self, learner: Learner, batch: Batch) -> None:
        """Replace `p.grad`, before the optimiser reads it."""

    def after_step(self, learner: Learner, batch: Batch) -> None: ...

    def after_task(self, learner: Learner, task: Task) -> None: ...

    def predict(self, learner: Learner, x: Tensor, t: Tensor) -> Tensor | None:
        """Scores (B, C) that take the place of the network's own logits."""
        return None


@dataclass
class Learner:
    """A network, the methods that guard it, and how much of the stream it has seen.

    `optimiser` takes the parameters: `partial(torch.optim.Adam, lr=1e-3)`. It starts afresh with every task.
    """

    net: nn.Module
    stream: Stream
    methods: Sequence[Method] = ()
    epochs: int = 1
    batch_size: int = 64
    optimiser: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = SGD
    seed: int = 0
    device: str = "auto"  # "auto": the GPU if there is one
    threads: int = 1  # on the CPU: small networks run fastest on one
    progress: bool = False
    seen: int = field(default=0, init=False)  # tasks met so far
    rows: list[list[float]] = field(default_factory=list, init=False)  # of R
    losses: list[list[float]] = field(default_factory=list, init=False)
    baseline: list[float] = field(default_factory=list, init=False)  # b, for forward transfer
    opt: torch.optim.Optimizer = field(init=False, repr=False)  # the optimiser of the current task

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads"):
            if (n := getattr(self, name)) != int(n) or n < 1:
                raise ValueError(f"{name} must be a whole number of 1 or more, not {n!r}.")
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.net.to(self.device)
        self.rng = torch.Generator().manual_seed(self.seed)
        if not isinstance(self.methods, list | tuple) or not all(isinstance(m, Method) for m in self.methods):
            raise ValueError(f"methods is a list of methods, such as [EWC(1.0)], not {self.methods!r}.")
        self.methods = [*([self.net] if isinstance(self.net, Method) else []), *self.methods]
        answering = [type(m).__name__ for m in self.methods if type(m).predict is not Method.predict]
        if len(answering) > 1:
            raise ValueError(f"{' and '.join(answering)} would both answer in place of the network: keep one of them.")
        for m in self.methods:
            m.check(self)

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {n: p for n, p in self.net.named_parameters() if p.requires_grad}

    def logits(self, x: Tensor, t: Tensor, params: Params | None = None) -> Tensor:
        """f(x; θ): raw logits (B, C) of all units. The task id reaches the network in Task-IL only."""
        args = (x, t if self.stream.task_known else None)
        return self.net(*args) if params is None else functional_call(self.net, dict(params), args)

    def mask(self, z: Tensor, t: Tensor) -> Tensor:
        """−inf on the units that do not compete for these samples."""
        if z.shape[1] != (units := self.stream.units.shape[1]):
            raise ValueError(f"The network has {z.shape[1]} outputs, and the stream {units} units: make them equal.")
        return z.masked_fill(~self.stream.competing(t, self.seen), -torch.inf)

    def loss(self, batch: Batch, params: Params | None = None) -> Tensor:
        """The cross-entropy of a batch, at θ or at other parameters."""
        return F.cross_entropy(self.mask(self.logits(batch.x, batch.t, params), batch.t), batch.y)

    @torch.no_grad()
    def frozen(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """What a teacher says: the logits at kept parameters, in eval mode, without a graph."""
        with evaluating(self.net):
            return self.logits(x, t, params)

    def scores(self, x: Tensor, t: Tensor) -> Tensor:
        """What the learner answers with: the rule of the first method that has one, else the logits."""
        rules = (m.predict(self, x, t) for m in self.methods)
        own = next((s for s in rules if s is not None), None)
        return self.mask(self.logits(x, t) if own is None else own, t)

    @torch.no_grad()
    def accuracy(self, task: Task) -> float:
        """The share of test samples whose highest score is the right unit."""
        batches = (batch.to(self.device) for batch in task.batches(1000, "test"))
        with evaluating(self.net):
            hits = sum(self.scores(x, t).argmax(1).eq(y).sum().item() for x, y, t in batches)
        return hits / len(task.test.y)

    def save(self, path: str | Path) -> None:
        """Write the state between two tasks to one file, without pickle: `Learner(...).load(path)` goes on from it."""
        checkpoint.save(self, path)

    def load(self, path: str | Path) -> Learner:
        """Take up the state of a learner that was built with the same arguments. Returns self."""
        return checkpoint.load(self, path)


def fit(learner: Learner, task: Task, epochs: int | None = None) -> list[float]:
    """Train on one task, calling every hook of every method. Returns the loss of each step."""
    learner.opt = opt = learner.optimiser(list(learner.params.values()))
    losses = []
    for _ in range(learner.epochs if epochs is None else epochs):
        learner.net.train()
        for batch in task.batches(learner.batch_size, rng=learner.rng):
            batch = batch.to(learner.device)
            loss = learner.loss(batch)
            for m in learner.methods:
                loss = loss + m.loss(learner, batch)
            losses.append(finite(loss))
            opt.zero_grad()
            loss.backward()
            for m in learner.methods:
                m.edit_grads(learner, batch)
            opt.step()
            for m in learner.methods:
                m.after_step(learner, batch)
    return losses


def meet(learner: Learner, task: Task) -> None:
    """Train on the next task, then measure the accuracy on all of them: a row of R."""
    everything = learner.stream.tasks
    with threads(learner.threads):
        if not learner.seen:
            learner.baseline = [learner.accuracy(other) for other in everything]
        ready(learner)
        learner.seen += 1
        for m in learner.methods:
            m.before_task(learner, task)
        learner.losses.append(fit(learner, task))
        for m in learner.methods:
            m.after_task(learner, task)
        learner.net.eval()  # what follows looks, and does not train
        learner.rows.append([learner.accuracy(other) for other in everything])


def train(learner: Learner) -> Results:
    """Meet the tasks one by one, from the first that the learner has not met."""
    for task in tqdm(learner.stream.tasks[learner.seen :], desc="tasks", disable=not learner.progress):
        meet(learner, task)
    return Results(np.array(learner.rows), np.array(learner.baseline), learner.losses)


def ready(learner: Learner) -> None:
    """Refuse a learner that broke off within a task, and methods that remember another learner."""
    if len(learner.rows) < learner.seen:
        raise ValueError(
            f"This learner broke off within task {learner.seen - 1}: build a new one, or load a saved one."
        )
    for m in learner.methods if not learner.seen else ():
        if m.served_:
            raise ValueError(f"This {type(m).__name__} has served another learner, and remembers it: build a new one.")
        m.served_ = True


def finite(loss: Tensor) -> float:
    """The loss as a number, or an error that says what to change."""
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(f"The loss became {value}: lower the learning rate, or the strength of the methods.")
    return value


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """In eval mode, then in the mode it was in."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Run with n CPU threads, then put back the caller's setting."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
