"""What to keep of the past in a fixed number of slots."""

from __future__ import annotations

import torch
from torch import Tensor


class Reservoir:
    """A uniform sample, without replacement, of everything offered so far (Vitter 1985, algorithm R).

    Offer i, counted from 0, draws j uniform in {0 ... i}, i included, and takes slot j if there is one: so each of n
    offers is kept with probability M/n, whatever n turns out to be. Offered in several epochs, a sample counts anew
    each time, and may hold several slots. Memory: M rows of every column.
    """

    def __init__(self, slots: int, seed: int = 0):
        if slots < 1:
            raise ValueError(f"A memory needs 1 slot or more, not {slots}.")
        self.slots, self.offered = slots, 0
        self.rng = torch.Generator().manual_seed(seed)
        self.columns: list[Tensor] = []

    def __len__(self) -> int:
        return min(self.offered, self.slots)

    def add(self, *columns: Tensor) -> None:
        """Offer a batch: columns with a common first dimension, such as x, y, t and logits."""
        if not self.columns:
            self.columns = [c.new_zeros(self.slots, *c.shape[1:]) for c in columns]
        offers = self.offered + torch.arange(len(columns[0]))
        drawn = (torch.rand(len(offers), generator=self.rng, dtype=torch.float64) * (offers + 1)).long()
        slot = torch.where(offers < self.slots, offers, drawn).tolist()  # the first M offers fill the slots
        last = {s: row for row, s in enumerate(slot) if s < self.slots}  # a later offer takes the slot of an earlier
        for column, values in zip(self.columns, columns):
            column[list(last)] = values.detach()[list(last.values())]
        self.offered += len(offers)

    def sample(self, size: int) -> list[Tensor]:
        """`size` different rows, or all if there are fewer."""
        k = torch.randperm(len(self), generator=self.rng)[:size]
        return [column[k.to(column.device)] for column in self.columns]
