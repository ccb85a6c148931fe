"""What to keep of the past in a fixed number of slots.

A row is one sample in columns, in the order of a Batch: the input x, the label y, the task t, and what else is kept.
A memory has two occasions to choose: `add` is offered every batch of the stream, `update` sees a whole task at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory:
    """M slots, each for one row. Abstract: a subclass says which rows, in `add` or in `update`."""

    def __init__(self, slots: int, seed: int = 0):
        if slots != int(slots) or slots < 1:
            raise ValueError(f"A memory needs 1 slot or more, not {slots}.")
        self.slots, self.filled = slots, 0
        self.rng = torch.Generator().manual_seed(seed)
        self.columns: list[Tensor] = []

    def __len__(self) -> int:
        return self.filled

    def check(self, net: nn.Module) -> None:
        """Refuse, with a ValueError that says why, a network that this memory cannot work with."""

    def add(self, *columns: Tensor) -> None:
        """Offer a batch: columns with a common first dimension, such as x, y, t and logits."""

    def update(self, net: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
        """See a task (x, y, t) at its end, through the network that has learnt it."""

    def rows(self) -> list[Tensor]:
        """All that is kept, a column each."""
        return [column[: len(self)] for column in self.columns]

    def sample(self, size: int) -> list[Tensor]:
        """`size` different rows, or all if there are fewer."""
        k = torch.randperm(len(self), generator=self.rng)[:size]
        return [column[k.to(column.device)] for column in self.columns]

    def _put(self, slots: list[int], columns: Iterable[Tensor], rows: list[int]) -> None:
        """Write these rows of the columns into these slots; slots fill up in order, so that no gap is left."""
        columns = list(columns)
        if not self.columns:
            self.columns = [c.new_zeros(self.slots, *c.shape[1:]) for c in columns]
        for column, values in zip(self.columns, columns):
            column[slots] = values.detach()[rows]
        self.filled = max([self.filled, *(slot + 1 for slot in slots)])


class Reservoir(Memory):
    """A uniform sample, without replacement, of everything offered so far (Vitter 1985, algorithm R).

    Offer i, counted from 0, draws j uniform in {0 ... i}, i included, and takes slot j if there is one: so each of n
    offers is kept with probability M/n, whatever n turns out to be. Offered in several epochs, a sample counts anew
    each time, and may hold several slots. Memory: M rows of every column.
    """

    def __init__(self, slots: int, seed: int = 0):
        super().__init__(slots, seed)
        self.offered = 0

    def add(self, *columns: Tensor) -> None:
        offers = self.offered + torch.arange(len(columns[0]))
        drawn = (torch.rand(len(offers), generator=self.rng, dtype=torch.float64) * (offers + 1)).long()
        slot = torch.where(offers < self.slots, offers, drawn).tolist()  # the first M offers fill the slots
        last = {s: row for row, s in enumerate(slot) if s < self.slots}  # a later offer takes the slot of an earlier
        self._put(list(last), columns, list(last.values()))
        self.offered += len(offers)


class Balanced(Memory):
    """An equal share of the slots for every class. Abstract: a subclass gives each row a key, and the lowest keys stay.

    Slots that a small class cannot fill go to the others.
    """

    def __init__(self, slots: int, seed: int = 0):
        super().__init__(slots, seed)
        self.keys = torch.zeros(slots, dtype=torch.float64)

    def _offer(self, keys: Tensor, *columns: Tensor) -> None:
        n, y = len(self), columns[1].cpu()
        labels = torch.cat([self.rows()[1].cpu(), y]) if n else y  # rows are numbered: the kept, then the offered
        chosen = fair_share(labels.numpy(), torch.cat([self.keys[:n], keys]).numpy(), self.slots)
        enter = chosen[chosen >= n] - n
        free = np.setdiff1d(np.arange(self.slots), chosen[chosen < n])[: len(enter)]
        self._put(free.tolist(), columns, enter.tolist())
        self.keys[free] = keys[enter]


def fair_share(group: np.ndarray, key: np.ndarray, size: int) -> np.ndarray:
    """Which `size` of the rows (n,) stay: the lowest key of every group, then the second lowest of every group, ...

    >>> fair_share(np.array([0, 0, 0, 1]), np.array([0.3, 0.1, 0.2, 0.9]), 3)
    array([1, 2, 3])
    """
    order = np.lexsort((key, group))  # by group, and by key within a group
    rank = np.empty(len(key), dtype=int)
    rank[order] = np.arange(len(key)) - np.searchsorted(group[order], group[order])  # the place within the group
    return np.sort(np.lexsort((key, rank))[:size])


class ClassBalanced(Balanced):
    """The same number of slots for every class, and in them a uniform sample of the class's own offers.

    Each offer draws a key uniform in [0, 1), and each class keeps its lowest: a reservoir for every class, whose share
    shrinks as classes arrive. Same aim as class-balancing reservoir sampling (Chrysakis & Moens 2020), without its
    bookkeeping. Memory: M rows of every column, and M keys.
    """

    def add(self, *columns: Tensor) -> None:
        self._offer(torch.rand(len(columns[0]), generator=self.rng, dtype=torch.float64), *columns)


class Herding(Balanced):
    """Rows whose mean feature is that of their class: chosen at the end of a task, best first (Rebuffi et al. 2017).

    A row's key is its place in its list, so that lists are cut from their end as classes arrive (algorithm 5); tasks
    that share a class share its slots. Nothing of the current task is kept before its end. Needs a network with
    features(x). Memory: M rows x, y, t, and M keys.
    """

    def check(self, net: nn.Module) -> None:
        features_of(net)

    @torch.no_grad()
    def update(self, net: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
        features = features_of(net)
        seen = [(x, y, t, F.normalize(features(x))) for x, y, t in batches]
        x, y, t, f = (torch.cat(column) for column in zip(*seen))
        for c in y.unique():
            own = (y == c).nonzero()[:, 0]
            best = own[herd(f[own], self.slots)]
            self._offer(torch.arange(len(best), dtype=torch.float64), x[best], y[best], t[best])


def herd(f: Tensor, size: int) -> Tensor:
    """Rows p_1, p_2, ... of the features f (N, H) such that every beginning of the list has nearly the mean of all:

    p_k = argmin_x ‖μ − 1/k (f(x) + Σ_{j<k} f(p_j))‖, each row once (Rebuffi et al. 2017, algorithm 4).
    """
    mean, total = f.mean(0), torch.zeros_like(f[0])
    free, picked = torch.ones(len(f), dtype=torch.bool, device=f.device), []
    for k in range(1, min(size, len(f)) + 1):
        gap = (mean - (f + total) / k).norm(dim=1)
        best = gap.where(free, torch.inf).argmin()
        total, free[best] = total + f[best], False
        picked.append(best)
    return torch.stack(picked)


@runtime_checkable
class Featured(Protocol):
    """A network that shows its last hidden layer: features(x), (B, ...) -> (B, H)."""

    def features(self, x: Tensor) -> Tensor: ...


def features_of(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network's features(x), or a ValueError if it has none."""
    if not isinstance(net, Featured):
        raise ValueError(f"{type(net).__name__} has no features(x) to take means of: use a net with one, such as MLP.")
    return net.features
