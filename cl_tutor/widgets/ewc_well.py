"""The EWC well and λ with units: where its quadratic stands for the old loss, and where its step no longer holds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
import traitlets
from torch.func import grad_and_value

from .. import plots
from ..landscape import Loss, descend
from ..vectors import Params
from .island import Island, module

LAMBDAS = (1e-6, 1e6)


class EWCWell(Island):
    """L_new(θ) + λ ½ F (θ − θ*)² along the stiffest weight, all others held at θ*; λ over twelve decades.

    Without arguments a logistic regression of two weights. With a network of your own: `old` and `new`, its two losses
    as functions of its parameters (means over samples, like F), θ* = `params`, and `fisher` = diag F there. `rate` is
    η. The slice reaches `reach`/√F to both sides of θ*. `samples` and `batch`: n and B of the translator.

    >>> well = EWCWell(rate=0.5)
    >>> f"SGD bears λ < {well.ceiling:.1f}"
    'SGD bears λ < 20.7'
    """

    _esm = module("ewc_well.js")
    at: traitlets.List = traitlets.List().tag(sync=True)  # places on the slice
    old: traitlets.List = traitlets.List().tag(sync=True)  # [losses, slopes] there
    new: traitlets.List = traitlets.List().tag(sync=True)
    anchor, stiffest, trace = (traitlets.Float().tag(sync=True) for _ in range(3))  # θ*_i, F_i = max F, tr F
    lam, rate = traitlets.Float().tag(sync=True), traitlets.Float().tag(sync=True)
    samples, batch = traitlets.Int().tag(sync=True), traitlets.Int().tag(sync=True)

    def __init__(
        self, old: Loss | None = None, new: Loss | None = None, params: Params | None = None,
        fisher: Params | None = None, *, lam: float = 1.0, rate: float = 0.5, reach: float = 2.2, samples: int = 1000,
        batch: int = 32,
    ) -> None:  # fmt: skip
        given = [x is not None for x in (old, new, params, fisher)]
        if any(given) != all(given):
            raise ValueError("EWCWell needs old, new, params and fisher together, or none of them for its own example.")
        if not LAMBDAS[0] <= lam <= LAMBDAS[1]:
            raise ValueError(f"lam must lie between {LAMBDAS[0]:g} and {LAMBDAS[1]:g}, not {lam}.")
        for name, value in {"rate": rate, "reach": reach, "samples": samples, "batch": batch}.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, not {value}.")
        if old is None or new is None or params is None or fisher is None:
            old, new, params, fisher = example()
        weights_of = params
        name = max(fisher, key=lambda n: float(fisher[n].max()))  # where the stiffest weight lives
        index, stiffest = int(fisher[name].argmax()), float(fisher[name].max())
        if not 0 < stiffest < float("inf"):
            raise ValueError(f"The largest entry of fisher must be a finite number above 0, not {stiffest}.")
        weights = weights_of[name].detach()
        here = (torch.arange(weights.numel(), device=weights.device) == index).view_as(weights)
        anchor = float(weights.flatten()[index])
        at = anchor + reach / stiffest**0.5 * np.linspace(-1, 1, 97)

        def curve(loss: Loss) -> list[list[float]]:
            cut = grad_and_value(lambda s: loss({**weights_of, name: torch.where(here, s, weights)}))
            slopes, values = zip(*(map(float, cut(weights.new_tensor(s))) for s in at))
            return [list(values), list(slopes)]

        super().__init__(
            at=at.tolist(), old=curve(old), new=curve(new), anchor=anchor, stiffest=stiffest,
            trace=float(sum(f.sum() for f in fisher.values())), lam=lam, rate=rate, samples=samples, batch=batch,
        )  # fmt: skip

    @property
    def ceiling(self) -> float:
        """2/(η·max F): SGD multiplies θ − θ* by 1 − ηλF, and beyond this λ that is below −1."""
        return 2 / (self.rate * self.stiffest)

    def picture(self) -> plots.Picture:
        s, middle = np.array(self.at), int(np.argmin(np.abs(np.array(self.at) - self.anchor)))
        old, new = np.array(self.old[0]), np.array(self.new[0])
        well = 0.5 * self.stiffest * (s - self.anchor) ** 2
        series = {"old loss": (s, old), "old loss, quadratic": (s, old[middle] + well), "new loss": (s, new)}
        total, top = new + self.lam * well, 1.05 * max(old.max(), new.max())
        low, side = s[total.argmin()], "below" if self.lam < self.ceiling else "beyond"
        series[f"new + {self.lam:.3g} · well"] = (s, np.where(total < top, total, np.nan))
        drawn = plots.lines(series, "the stiffest weight", "loss", "The EWC well", marks={self.anchor: "θ*"})
        alt = (
            f"The EWC well along the stiffest weight: the old loss, its quadratic at θ* = {self.anchor:.3g}, the new "
            f"loss, and the new loss with λ = {self.lam:.3g} wells, which is lowest at {low:.3g}. λ·tr F = "
            f"{self.lam * self.trace:.3g}; λ is {side} 2/(η·max F) = {self.ceiling:.3g}, where explicit SGD diverges."
        )
        return replace(drawn, alt=alt)


@cache
def example() -> tuple[Loss, Loss, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Two tasks for a logistic regression of two weights: their losses, θ* of the first, and diag F = E[p(1−p)x²]."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=rng).double() * torch.tensor([2.0, 0.5]).double()
    coin = torch.rand(60, generator=rng).double()

    def task(truth: list[float]) -> Loss:
        y = (coin < torch.sigmoid(x @ torch.tensor(truth).double())).double()
        return lambda params: F.binary_cross_entropy_with_logits(x @ params["w"], y)

    old, new = task([1.2, -1.0]), task([-0.6, 1.0])
    w = descend(lambda w: old({"w": w}), torch.zeros(2).double(), tol=1e-8)[-1]
    p = torch.sigmoid(x @ w)
    return old, new, {"w": w}, {"w": (x.square() * (p * (1 - p))[:, None]).mean(0)}
