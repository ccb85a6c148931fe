"""A stream, a few slots, and five rules without their names: which of them is the reservoir?"""

from __future__ import annotations

import random

import numpy as np
import traitlets

from .. import plots
from .island import Island, module

RULES = ("reservoir", "early", "late", "always", "ring")


def inclusion(rule: str, slots: int, offers: int) -> np.ndarray:
    """P(offer i is kept at the end), i from 0: it enters with p_i, and each later offer k evicts it with p_k / M.

    "reservoir": p_k = M/(k+1) (Vitter 1985, algorithm R), so that all is M/n. "early" and "late" are off by one, M/k
    and M/(k+2). "always": p_k = 1. "ring" is no draw: the last M.
    """
    k = np.arange(offers)
    if rule == "ring":
        return (k >= offers - slots).astype(float)
    among = {"reservoir": k + 1, "early": k, "late": k + 2, "always": np.full(offers, slots)}[rule]
    enters = np.where(k < slots, 1.0, slots / np.maximum(among, 1))  # the first M fill the slots
    stays = np.where(k < slots, 1.0, 1 - enters / slots)
    return enters * np.append(np.cumprod(stays[:0:-1])[::-1], 1.0)


class ReservoirStream(Island):
    """Five rules lettered A to E are offered the same streams; the histogram shows what each keeps.

    >>> ReservoirStream(slots=5, offers=20).answer  # the letter of the true reservoir; another seed, another order
    'C'
    """

    _esm = module("reservoir_stream.js")
    slots = traitlets.Int().tag(sync=True)
    offers = traitlets.Int().tag(sync=True)
    rules: traitlets.List = traitlets.List().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)

    def __init__(self, slots: int = 5, offers: int = 20, seed: int = 0) -> None:
        if not 2 <= slots < offers <= 40:
            raise ValueError(f"A stream needs 2 slots or more, and up to 40 offers, more than slots: not {slots} slots "
                             f"and {offers} offers.")  # fmt: skip
        rules = random.Random(seed).sample(RULES, len(RULES))
        super().__init__(slots=slots, offers=offers, rules=rules, seed=seed)

    @property
    def answer(self) -> str:
        return "ABCDE"[self.rules.index("reservoir")]

    def picture(self) -> plots.Picture:
        place = list(range(1, self.offers + 1))
        chances = {
            letter: (place, inclusion(r, self.slots, self.offers).tolist()) for letter, r in zip("ABCDE", self.rules)
        }
        title = f"{self.slots} slots, {self.offers} offers: which rule is the reservoir?"
        return plots.lines(chances, "place in the stream", "chance of being kept", title, ylim=(-0.02, 1.02))
