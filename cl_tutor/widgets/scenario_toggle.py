"""One network, one set of scores, three scenarios: which units compete decides what it seems to remember."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import traitlets

from .. import plots
from ..learn import Learner
from ..methods.memory import features_of
from ..methods.replay import DER, ER
from .island import Island, module


def right(rule: str, scores: np.ndarray, y: np.ndarray, t: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Which samples are answered rightly: (N,) bool. "task": the task's own units compete. "class": all do.

    "domain": all compete and the winner's place in its task is judged, as if the tasks' units were folded into one
    head by their maximum. Scores (N, C), right units y (N,), tasks t (N,), and the task of each unit, owner (C,).
    """
    place = np.array([(owner[:c] == task).sum() for c, task in enumerate(owner)])
    competing = (owner == t[:, None]) | (rule != "task")
    winner = np.where(competing, scores, -np.inf).argmax(1)
    return place[winner] == place[y] if rule == "domain" else winner == y


class ScenarioToggle(Island):
    """Logits (N, C) of one trained network, read as Task-, Domain- and Class-IL; and by the nearest mean, if given.

    `ScenarioToggle.of(learner)` takes them from a learner on a split stream: `learner = Learner(MLP(),
    split(digits()), [ER(200, alpha=0.0)])`, `train(learner)`. What ER keeps serves the nearest mean (Rebuffi et al.
    2017, eq. 2), trained on or not. By hand: y (N,) right units, t (N,) tasks, units (T, C) bool, features (N, H) and
    means (C, H), both of length 1; a row of zeros is a class of which nothing is known.
    """

    _esm = module("scenario_toggle.js")
    logits: traitlets.List = traitlets.List().tag(sync=True)
    y: traitlets.List = traitlets.List().tag(sync=True)
    t: traitlets.List = traitlets.List().tag(sync=True)
    owner: traitlets.List = traitlets.List().tag(sync=True)
    features: traitlets.List = traitlets.List().tag(sync=True)
    means: traitlets.List = traitlets.List().tag(sync=True)

    def __init__(self, logits: Any, y: Any, t: Any, units: Any, features: Any = None, means: Any = None) -> None:
        z, units = np.asarray(logits, float), np.asarray(units, bool)
        y, t = np.asarray(y, int), np.asarray(t, int)
        sizes = units.sum(1)
        if (units.sum(0) != 1).any() or len(set(sizes)) > 1 or len(units) < 2:
            raise ValueError("ScenarioToggle needs two tasks or more with as many units each, and none shared: a split "
                             f"stream. Here the tasks have {sizes.tolist()} of {units.shape[1]} units.")  # fmt: skip
        if z.shape != (len(y), units.shape[1]) or len(y) != len(t) or set(t) != set(range(len(units))):
            raise ValueError(f"Each sample needs a logit for each of {units.shape[1]} units, y and t, and each task a "
                             f"sample: the shapes are {z.shape}, {y.shape} and {t.shape}.")  # fmt: skip
        phi, mu = ([], []) if features is None else folded(np.asarray(features, float), np.asarray(means, float))
        owner = units.argmax(0)
        super().__init__(logits=z.round(3).tolist(), y=y.tolist(), t=t.tolist(), owner=owner.tolist(), features=phi,
                         means=mu)  # fmt: skip

    @classmethod
    @torch.no_grad()
    def of(cls, learner: Learner, samples: int = 80) -> ScenarioToggle:
        """Read a trained learner on `samples` test samples of each task that it has met."""
        if not learner.seen:
            raise ValueError("This learner has met no task yet: train(learner) first.")
        units = learner.stream.units[: learner.seen]
        C = int(units.any(0).sum())
        batches = [
            next(task.batches(samples, "test")).to(learner.device) for task in learner.stream.tasks[: learner.seen]
        ]
        x, y, t = (torch.cat(column) for column in zip(*batches))
        learner.net.eval()
        given = [learner.logits(x, t)[:, :C], y, t, units[:, :C]]
        memory = next((m.memory_ for m in learner.methods if isinstance(m, ER | DER)), None)
        if memory is not None:
            phi = lambda x: F.normalize(features_of(learner.net)(x))
            kept, label, *_ = memory.rows()
            given += [phi(x), F.normalize(F.one_hot(label, C).to(kept.dtype).T @ phi(kept))]
        return cls(*(a.cpu().numpy() for a in given))

    def picture(self) -> plots.Picture:
        scores, (y, t, owner) = {"": np.array(self.logits)}, map(np.array, (self.y, self.t, self.owner))
        tasks = np.arange(owner.max() + 1)
        by_task = lambda s, rule: [right(rule, s, y, t, owner)[t == k].mean() for k in tasks]
        names = {"task": "Task-IL", "domain": "Domain-IL", "class": "Class-IL"}
        series: dict[str, tuple[Any, Any]] = {
            name: (tasks + 1, by_task(scores[""], rule)) for rule, name in names.items()
        }
        if self.features:
            series["Class-IL, nearest mean"] = (tasks + 1, by_task(nearest(self.features, self.means), "class"))
        return plots.lines(series, "task", "accuracy", "The same scores, read in three ways", ylim=(-0.02, 1.02))


def nearest(features: list[list[float]], means: list[list[float] | None]) -> np.ndarray:
    """−‖φ − μ_c‖: (N, C); −∞ where there is no mean."""
    columns = [np.full(len(features), -np.inf) if m is None else -np.linalg.norm(np.subtract(features, m), axis=1)
               for m in means]  # fmt: skip
    return np.stack(columns, 1)


def folded(features: np.ndarray, means: np.ndarray) -> tuple[list[list[float]], list[list[float] | None]]:
    """The same distances in C + 1 coordinates: C in the plane of the means, and one for all that is off it."""
    if features.ndim != 2 or means.shape[1:] != features.shape[1:]:
        raise ValueError(f"features (N, H) and means (C, H) must agree in H: {features.shape} and {means.shape}.")
    Q, _ = np.linalg.qr(means.T)  # (H, min(C, H))
    inside = features @ Q
    off = np.sqrt(np.maximum(np.square(features).sum(1) - np.square(inside).sum(1), 0))
    known = [[*row, 0.0] if np.any(mean) else None for row, mean in zip((means @ Q).round(4).tolist(), means)]
    return np.column_stack([inside, off]).round(4).tolist(), known
