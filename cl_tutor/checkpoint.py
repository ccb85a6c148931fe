"""A learner between two tasks as one file: tensors in safetensors, everything else as JSON in its header. No pickle.

What is kept: the network, every attribute of a method that ends in an underscore, the generator that shuffles, and what
was measured. The optimiser is not: it starts afresh with every task.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from .learn import Learner

MEASURED = ("seen", "rows", "losses", "baseline")


def save(learner: Learner, path: str | Path) -> None:
    """Write the file at once or not at all: after a crash the one that was there before is whole."""
    if len(learner.rows) != learner.seen:
        raise ValueError(f"A learner is saved between tasks, and task {learner.seen - 1} was interrupted halfway.")
    tensors: dict[str, Tensor] = {}
    tree = {
        "about": about(learner),
        "measured": {name: getattr(learner, name) for name in MEASURED},
        "rng": pack(learner.rng, tensors),
        "net": pack(learner.net, tensors),
        "methods": [pack({n: v for n, v in vars(m).items() if n.endswith("_")}, tensors) for m in learner.methods],
    }
    text, path = json.dumps(tree), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        save_file(tensors, new := Path(folder) / "new", metadata={"json": text, "sha256": digest(text, tensors)})
        os.replace(new, path)


def load(learner: Learner, path: str | Path) -> Learner:
    """Bring a new learner, built with the same arguments, to where the saved one was."""
    if learner.seen:
        raise ValueError(f"This learner has met {learner.seen} tasks already: load into a new one.")
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except SafetensorError as e:
        raise ValueError(f"{path} is damaged, or is not a saved learner ({e}).") from None
    if header.get("sha256") != digest(header.get("json", ""), tensors):
        raise ValueError(f"{path} is damaged, or is not a saved learner: it does not match its checksum.")
    tree = json.loads(header["json"])
    for name, here in about(learner).items():
        if (there := tree["about"][name]) != here:
            raise ValueError(f"{path} is of another {name}: it was saved with {there}, and this learner has {here}.")
    for grower in (m for m in learner.methods if m is learner.net):  # let it grow as it did, then fill it
        for task in learner.stream.tasks[: tree["measured"]["seen"]]:
            learner.seen += 1
            grower.before_task(learner, task)
    unpack(tree["net"], learner.net, tensors, learner)
    for m, packed in zip(learner.methods, tree["methods"]):
        vars(m).update(unpack(packed, vars(m), tensors, m, learner.device))
    learner.rng = unpack(tree["rng"], None, tensors, learner)
    vars(learner).update(tree["measured"])
    return learner


def about(learner: Learner) -> dict[str, str]:
    """What must be the same when the file is loaded, for people to read."""
    stream, sample = learner.stream, hashlib.sha256()
    for task in stream.tasks:
        for column in next(task.batches(100, "test")):
            sample.update(column.contiguous().numpy().tobytes())
    about = {
        "network": repr(learner.net),
        "stream": f"{len(stream)} tasks, task id {'' if stream.task_known else 'un'}known, output units "
        f"{stream.units.int().tolist()}, samples {sample.hexdigest()[:8]}",
        "list of methods": repr(learner.methods),
        "schedule": f"epochs={learner.epochs}, batch_size={learner.batch_size}, seed={learner.seed}",
    }
    return {name: re.sub(r" at 0x\w+", "", " ".join(text.split())) for name, text in about.items()}


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON; its tensors are put aside under a key."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[key := str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return {"tensor": key, "cpu": value.device.type == "cpu"}
    if isinstance(value, torch.Generator):
        return {"generator": pack(value.get_state(), tensors)}
    if isinstance(value, list):
        return [pack(v, tensors) for v in value]
    if isinstance(value, dict):
        return {"dict": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(v, tensors) for v in value], "class": type(value).__name__}
    if isinstance(value, nn.Module):
        return {"module": pack(dict(value.state_dict()), tensors)}
    if callable(value) or not isinstance(getattr(value, "__dict__", None), dict):
        raise TypeError(f"A {type(value).__name__} cannot be saved: keep tensors, numbers, lists, tuples and dicts.")
    return {"object": pack(vars(value), tensors), "class": type(value).__name__}


def unpack(value: Any, old: Any, tensors: dict[str, Tensor], owner: Any, device: str = "cpu") -> Any:
    """The inverse of `pack`. `old` is what stands in this place now: modules and objects are filled, not built anew.

    Where nothing stands yet, a class is looked up by name in the files of the owner's classes, and nowhere else.
    """
    again = lambda v, old=None: unpack(v, old, tensors, owner, device)
    match value:
        case list():
            return [again(v) for v in value]
        case {"tensor": key, "cpu": cpu}:
            return tensors[key] if cpu else tensors[key].to(device)
        case {"generator": state}:
            return torch.Generator().set_state(again(state))
        case {"dict": items}:
            return {again(k): again(v, old.get(k) if isinstance(old, dict) else None) for k, v in items}
        case {"tuple": items, "class": name}:
            return tuple(again(items)) if name == "tuple" else named(name, owner)(*again(items))
        case {"module": state}:
            old.load_state_dict(again(state))
            return old
        case {"object": state, "class": name}:
            new = old if type(old).__name__ == name else object.__new__(named(name, owner))
            vars(new).update(again(state, vars(new)))
            return new
    return value


def named(name: str, owner: Any) -> type:
    for c in type(owner).__mro__:
        if isinstance(found := vars(sys.modules[c.__module__]).get(name), type):
            return found
    raise ValueError(
        f"{type(owner).__name__} kept a {name}, and its file knows no class of that name: import it there."
    )


def digest(text: str, tensors: dict[str, Tensor]) -> str:
    h = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        h.update(key.encode() + tensors[key].numpy().tobytes())
    return h.hexdigest()
