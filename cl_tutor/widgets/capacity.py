"""What no forgetting costs: the bills of PackNet, Progressive, Adapters and SupSup as tasks arrive."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import traitlets

from .. import plots
from ..methods.architectures import Bill
from .island import Island, module


def bills(sizes: Sequence[int], tasks: int, keep: float, width: int) -> dict[str, list[Bill]]:
    """What each task adds, without building a network: `bill()` of `cl_tutor.methods.architectures`, in closed form.

    PackNet as if every weight got a gradient: task k keeps the share `keep` of what is free in each layer.

    >>> bills((64, 30, 10), 1, 0.5, 8)["Progressive"]
    [Bill(parameters=2260, bits=72320)]
    """
    weights, tasks_ = [a * b for a, b in pairwise(sizes)], range(tasks)
    head, hidden, biases = sizes[-2] * sizes[-1] + sizes[-1], sizes[1:-1], sum(sizes[1:])
    trunk, free, packed = sum(weights) + biases - head, list(weights), []
    for k in tasks_:
        kept = [round(keep * n) for n in free]
        free = [n - m for n, m in zip(free, kept)]
        packed.append(sum(kept) + (0 if k else biases))  # biases are fixed after task 1
    columns = [sum(weights) + biases + k * sum(weights[1:]) for k in tasks_]
    adapters = [head + sum(2 * width * d + d + width for d in hidden) + (0 if k else trunk) for k in tasks_]
    return {
        "PackNet": [Bill(n, 32 * n + sum(weights)) for n in packed],
        "Progressive": [Bill(n, 32 * n) for n in columns],
        "Adapters": [Bill(n, 32 * n) for n in adapters],
        "SupSup": [Bill(0, sum(weights))] * tasks,
    }


class Capacity(Island):
    """Parameters and bits of four methods on networks of the same `sizes`, and what PackNet has left.

    `keep` is PackNet's share r, `width` that of the adapters' bottleneck; `tasks` have arrived so far.

    >>> Capacity(tasks=10).bills()["SupSup"][0].bits
    17400
    """

    _esm = module("capacity.js")
    sizes = traitlets.List(traitlets.Int(min=1), [64, 100, 100, 10], minlen=3).tag(sync=True)
    tasks = traitlets.Int(8, min=1, max=20).tag(sync=True)
    keep = traitlets.Float(0.5, min=0.05, max=1.0).tag(sync=True)
    width = traitlets.Int(8, min=1, max=64).tag(sync=True)
    count = traitlets.Enum(("bits", "parameters"), "bits").tag(sync=True)
    scale = traitlets.Enum(("linear", "log"), "linear").tag(sync=True)

    def bills(self) -> dict[str, list[Bill]]:
        return bills(self.sizes, self.tasks, self.keep, self.width)

    def picture(self) -> plots.Picture:
        one = sum(a * b + b for a, b in pairwise(self.sizes))
        unit = 32 * one if self.count == "bits" else one
        tasks = range(1, self.tasks + 1)
        series = {n: (tasks, [v / unit for v in accumulate(getattr(b, self.count) for b in of)])
                  for n, of in self.bills().items()}  # fmt: skip
        ylabel = f"{self.count}, in networks of {one:,} floats"
        return plots.lines(series, "tasks", ylabel, f"The bill for {self.tasks} tasks")
