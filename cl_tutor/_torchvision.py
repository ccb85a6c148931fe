"""Open torchvision, and cure the one illness that keeps thousands of people from it.

Where torch is a CPU build and torchvision is not, torchvision's compiled operators cannot load, and the import dies
with `operator torchvision::nms does not exist`. Its data sets and transforms use none of them. So, only after
that very symptom, we declare the two missing schemas and import once more. To call `nms` then still fails, and nothing
in this course does. A healthy torchvision is left as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

_schemas: torch.library.Library | None = None  # kept alive: its schemas vanish with it


def datasets() -> ModuleType:
    """`torchvision.datasets`. ImportError, with the remedy, where torchvision is not installed."""
    global _schemas
    try:
        import torchvision.datasets
    except RuntimeError as e:
        if _schemas is not None or "torchvision::nms" not in str(e):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # the half of it that the failed import left behind
        _schemas = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.datasets
    except ModuleNotFoundError as e:
        if e.name != "torchvision":
            raise
        raise ImportError(
            "torchvision is not installed: run `pip install -c constraints.txt torchvision`, or use the digits."
        ) from None
    return torchvision.datasets


def state() -> str:
    """ "real", "shimmed" (opened through the cure above) or "absent"."""
    try:
        datasets()
    except ImportError:
        return "absent"
    return "real" if _schemas is None else "shimmed"
