"""Tasks in order, and the three scenarios. A stream is tensors and one boolean table; nothing here trains.

The builders turn data sets into streams: `permuted`, `rotated`, `split`, `sequence`, and `toy` for two dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Data

SCENARIOS = ("task", "domain", "class")


class Batch(NamedTuple):
    x: Tensor  # (B, ...) inputs
    y: Tensor  # (B,)     the output unit that is right
    t: Tensor  # (B,)     task ids

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(column.to(device) for column in self))


def as_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Task:
    """One experience: a training set, a test set, and a view (a permutation, say) put on at batch time."""

    id: int
    train: Batch
    test: Batch
    view: Callable[[Tensor], Tensor] = as_is

    def batches(self, size: int, split: str = "train", rng: torch.Generator | None = None) -> Iterator[Batch]:
        """Batches of floats in [0, 1], shuffled by `rng`, or in the stored order without one."""
        if split not in ("train", "test"):
            raise ValueError(f"A task has the splits 'train' and 'test', not {split!r}.")
        x, y, t = self.train if split == "train" else self.test
        order = torch.arange(len(x)) if rng is None else torch.randperm(len(x), generator=rng)
        for k in order.split(size):
            yield Batch(unit_float(self.view(x[k])), y[k], t[k])


def unit_float(x: Tensor) -> Tensor:
    """uint8 pixels 0 ... 255 become floats 0 ... 1; floats pass."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


@dataclass(frozen=True)
class Stream:
    """Tasks in order. `units[t, c]`: output unit c belongs to task t. The three scenarios are two bits:

                        task id known at test      unknown
    units disjoint      Task-IL                    Class-IL
    units shared        (Task-IL, one head)        Domain-IL

    (van de Ven & Tolias 2019, table 1.)
    """

    tasks: Sequence[Task]
    units: Tensor  # (T, C) bool
    task_known: bool

    def __len__(self) -> int:
        return len(self.tasks)

    def competing(self, t: Tensor, seen: int) -> Tensor:
        """Which units compete for samples of tasks `t` (B,) once `seen` tasks have been met: (B, C) bool.

        A sample of a task that is still to come also lets the units up to its own compete: without them the question
        would have no right answer, and forward transfer no meaning.
        """
        if self.task_known:
            return self.units.to(t.device)[t]
        return self.met.to(t.device)[t.clamp(min=seen - 1)]

    @cached_property
    def met(self) -> Tensor:
        """met[k]: the units of tasks 0 ... k. (T, C) bool."""
        return self.units.cumsum(0).bool()

    def heads(self, seen: int) -> Tensor:
        """The softmaxes in use after `seen` tasks: one per task, or one for all. (H, C) bool."""
        heads = self.units[:seen] if self.task_known else self.units[:seen].any(0, keepdim=True)
        return heads.unique(dim=0)  # tasks that share their units share their head

    def cumulative(self) -> Stream:
        """The same stream without forgetting: task i trains on the data of tasks 0 ... i. Joint training as data.

        An epoch of task i then takes more steps than in the stream itself: say so beside a comparison.
        """
        joined = [Batch(task.view(task.train.x), task.train.y, task.train.t) for task in self.tasks]
        everything = Batch(*(torch.cat(column) for column in zip(*joined)))
        ends = torch.tensor([len(batch.x) for batch in joined]).cumsum(0).tolist()
        tasks = []
        for task, end in zip(self.tasks, ends):
            test = Batch(task.view(task.test.x), task.test.y, task.test.t)
            tasks.append(Task(task.id, Batch(*(column[:end] for column in everything)), test))
        return replace(self, tasks=tasks)


def assemble(parts: Sequence[Data], scenario: str, views: Sequence[Callable[[Tensor], Tensor]] | None = None) -> Stream:
    """One task per data set, its labels counted from 0; the scenario says whether their output units are shared."""
    if scenario not in SCENARIOS:
        raise ValueError(f"There is no scenario {scenario!r}: choose 'task', 'domain' or 'class'.")
    if not parts:
        raise ValueError("A stream needs at least one task: pass at least one data set, or tasks=1 or more.")
    shared = scenario == "domain"
    counts = [part.classes for part in parts]
    starts = [0] * len(parts) if shared else [sum(counts[:k]) for k in range(len(parts))]
    units = torch.zeros(len(parts), max(counts) if shared else sum(counts), dtype=torch.bool)
    tasks = []
    for k, (part, start) in enumerate(zip(parts, starts)):
        units[k, start : start + part.classes] = True
        batch = lambda xy, k=k, start=start: Batch(xy[0], xy[1] + start, torch.full_like(xy[1], k))
        tasks.append(Task(k, batch(part.train), batch(part.test), views[k] if views else as_is))
    return Stream(tasks, units, task_known=scenario == "task")


def permuted(data: Data, tasks: int = 5, scenario: str = "domain", seed: int = 0) -> Stream:
    """Task 0 is the data; every later task shows the same pixels in another fixed order (Goodfellow et al. 2014)."""
    _at_least_one(tasks)
    pixels = data.train[0][0].numel()
    orders = [torch.arange(pixels)]
    orders += [
        torch.randperm(pixels, generator=torch.Generator().manual_seed(seed * 1000 + t)) for t in range(1, tasks)
    ]
    views = [lambda x, order=order: x.flatten(1)[:, order].view_as(x) for order in orders]
    return assemble([data] * tasks, scenario, views)


def rotated(data: Data, tasks: int = 5, scenario: str = "domain", degrees: float = 90.0) -> Stream:
    """Task k shows the images turned by k·degrees/(tasks−1): near tasks look alike (Lopez-Paz & Ranzato 2017)."""
    _at_least_one(tasks)
    if data.train[0].ndim != 4:
        shape = tuple(data.train[0].shape)
        raise ValueError(f"Only images (N, C, H, W) can be rotated, but x has the shape {shape}.")
    turns = [degrees * k / max(tasks - 1, 1) for k in range(tasks)]
    parts = [data._replace(train=_turn(data.train, a), test=_turn(data.test, a)) for a in turns]
    return assemble(parts, scenario)


def split(data: Data, tasks: int = 5, scenario: str = "class") -> Stream:
    """Split the classes in order: with 10 classes and 5 tasks, {0, 1}, then {2, 3} and so on (Zenke et al. 2017)."""
    _at_least_one(tasks)
    if data.classes % tasks:
        raise ValueError(f"{data.classes} classes cannot be split into {tasks} equal tasks: choose a divisor.")
    k = data.classes // tasks

    def part(t: int) -> Data:
        own = lambda xy: xy[1] // k == t
        if not (own(data.train).any() and own(data.test).any()):
            raise ValueError(f"Task {t} would have no sample to train on, or none to test on: choose fewer tasks.")
        take = lambda xy: (xy[0][own(xy)], xy[1][own(xy)] - t * k)
        return data._replace(train=take(data.train), test=take(data.test), classes=k)

    return assemble([part(t) for t in range(tasks)], scenario)


def sequence(*datas: Data, scenario: str = "task") -> Stream:
    """One data set after another. Your own: `sequence(Data.of(train, test), Data.of(train2, test2))`."""
    shapes = {tuple(data.train[0].shape[1:]) for data in datas}
    if len({data.train[0].dtype for data in datas}) > 1:
        raise ValueError("Some inputs are bytes from 0 to 255, others floats from 0 to 1: give all in one dtype.")
    if len(shapes) > 1:
        raise ValueError(
            f"One network reads all tasks, but their inputs have the shapes {sorted(shapes)}: resize them."
        )
    return assemble(datas, scenario)


def toy(angles: Sequence[float] = (0.0, 100.0), samples: int = 200, spread: float = 1.0, seed: int = 0) -> Stream:
    """Two clouds a task in the plane, on an axis at the given angle in degrees: small enough to draw every weight.

    Each cloud is an ellipse, twice as long as wide and turned by 45° against the task's axis, so that the basins of a
    `TwoWeights` are tilted ellipses too. With `spread` 1 the clouds overlap: the best weights are finite.
    """
    rng = torch.Generator().manual_seed(seed)

    def turn(degrees: float) -> Tensor:
        a = math.radians(degrees)
        return torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])  # rows: x @ turn

    def sample(angle: float) -> tuple[Tensor, Tensor]:
        y = torch.arange(samples) % 2
        noise = torch.randn(samples, 2, generator=rng) * torch.tensor([1.2, 0.6]) @ turn(45)
        x = (2.0 * y[:, None] - 1) * torch.tensor([1.0, 0.0]) + spread * noise
        return x @ turn(angle), y

    return assemble([Data(sample(a), sample(a), 2, f"toy {a:g}°") for a in angles], "domain")


def _turn(xy: tuple[Tensor, Tensor], degrees: float) -> tuple[Tensor, Tensor]:
    x, y = xy
    if degrees == 0:
        return xy
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), math.sin(a), 0.0], [-math.sin(a), math.cos(a), 0.0]])
    grid = F.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    turned = F.grid_sample(unit_float(x), grid, align_corners=False)
    return ((turned * 255).round().to(torch.uint8) if x.dtype == torch.uint8 else turned), y


def _at_least_one(tasks: int) -> None:
    if tasks < 1:
        raise ValueError(f"A stream needs at least one task, but tasks is {tasks}.")
