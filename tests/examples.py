"""One of every explorable: `example("BasinPlayer")`. Those that need data get some of the size that a lesson has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cl_tutor import widgets
from cl_tutor.results import Results

_RNG = np.random.default_rng(0)
_LINE, _WALK = np.linspace(0, 1, 61), np.cumsum(_RNG.normal(size=(3, 400, 2)), 1) / 60 + 0.5
_BOWLS = {f"L{k}": np.add.outer((_LINE - k / 3) ** 2, (_LINE - 0.5) ** 2) for k in (1, 2)}
_TRUE, _Z, _H = _RNG.integers(0, 10, 400), _RNG.normal(size=(400, 10)), _RNG.normal(size=(400, 20))
_SHARE = _RNG.random(60)
_SPLIT = np.kron(np.eye(5, dtype=bool), np.ones((1, 2), bool))  # the units of five tasks

_EXAMPLES: dict[str, Callable[[], Any]] = {
    "REditor": lambda: widgets.REditor({"a run": Results(_RNG.random((5, 5)), _RNG.random(5))}),
    "BasinPlayer": lambda: widgets.BasinPlayer(
        _LINE, _LINE, _BOWLS, dict(zip(("naive", "EWC", "ER"), _WALK)), None,
        {"accuracy on task 1": dict(zip(("naive", "EWC", "ER"), _RNG.random((3, 400))))},
    ),
    "ScenarioToggle": lambda: widgets.ScenarioToggle(_Z, _TRUE, _TRUE // 2, _SPLIT, _H, _RNG.normal(size=(10, 20))),
    "LambdaExplorer": lambda: widgets.LambdaExplorer.load(
        Path(__file__).parents[1] / "notebooks" / "runs" / "lambda_grid.json"
    ),
    "Spectrum": lambda: widgets.Spectrum(0.9 ** np.arange(60), 12.0, {"fc1": _SHARE, "fc2": 1 - _SHARE}),
}  # fmt: skip


def example(name: str) -> Any:
    return _EXAMPLES.get(name, getattr(widgets, name))()
