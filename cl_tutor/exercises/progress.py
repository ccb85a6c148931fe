"""What the reader did, in one JSON file on this machine: nothing leaves it, and `reset` empties it.

The file is `progress.json` in the folder that the variable CL_TUTOR_HOME names, or else in ~/.cl_tutor. It holds

    exercises  {"ewc/The penalty": "correct" or "incorrect"}, the best so far
    guesses    {"05: ACC of EWC": [said, measured]}
    recalls    [{"lesson": 5, "round": 1, "right": {"forgetting/capacity": true, ...}}], the first try at each round
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

EMPTY: dict[str, Any] = {"exercises": {}, "guesses": {}, "recalls": []}
REMEDY = "let the variable CL_TUTOR_HOME name a folder that can be written"


def path() -> Path:
    """Where the file is, whether or not it exists."""
    return Path(os.environ.get("CL_TUTOR_HOME") or "~/.cl_tutor").expanduser() / "progress.json"


def read() -> dict[str, Any]:
    """What is stored. A damaged file is set aside, beside the new one, and the reader begins again."""
    try:
        stored = json.loads(path().read_text(encoding="utf-8"))
        _check(stored)
        return stored
    except FileNotFoundError:
        pass
    except (ValueError, RecursionError) as e:
        aside = path().with_suffix(".damaged.json")
        with suppress(OSError):
            os.replace(path(), aside)
        warnings.warn(f"{path()} could not be read ({e}): it is now {aside.name}, and a new one begins.", stacklevel=2)
    except OSError as e:
        warnings.warn(f"Your progress cannot be read from {path()} ({e.strerror}): {REMEDY}.", stacklevel=2)
    return json.loads(json.dumps(EMPTY))


def _check(stored: Any) -> None:
    """A ValueError unless this is what `update` writes: whoever reads the file relies on it."""
    pair = lambda v: isinstance(v, list) and len(v) == 2
    fields = {"lesson": int, "round": int, "right": dict}
    is_round = lambda r: isinstance(r, dict) and {k: type(v) for k, v in r.items()} == fields
    if not isinstance(stored, dict) or stored.keys() != EMPTY.keys():
        raise ValueError("other entries than exercises, guesses and recalls")
    exercises, guesses, recalls = (stored[key] for key in EMPTY)
    if not (isinstance(exercises, dict) and set(map(str, exercises.values())) <= {"correct", "incorrect"}):
        raise ValueError("an exercise that is neither correct nor incorrect")
    if not (isinstance(guesses, dict) and all(map(pair, guesses.values()))):
        raise ValueError("a prediction that is not a pair")
    if not (isinstance(recalls, list) and all(map(is_round, recalls))):
        raise ValueError("a round of questions without its lesson, round and marks")


def update(change: Callable[[dict[str, Any]], None]) -> None:
    """Read, change, and write at once or not at all. Where nothing can be written a warning says so, once a process."""
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        stored = read()
        change(stored)
        with NamedTemporaryFile("w", dir=path().parent, suffix=".part", delete=False, encoding="utf-8") as file:
            json.dump(stored, file, indent=1)
        os.replace(file.name, path())
    except OSError as e:
        warnings.warn(
            f"Your progress is not stored, {path()} cannot be written ({e.strerror}): {REMEDY}.", stacklevel=2
        )


def reset() -> None:
    """Forget everything: the file is deleted."""
    path().unlink(missing_ok=True)


def exercise(module: str, name: str, status: str) -> None:
    """Note how an attempt ended; what was correct once stays correct."""

    def note(stored: dict[str, Any]) -> None:
        key = f"{module}/{name}"
        if stored["exercises"].get(key) != "correct":
            stored["exercises"][key] = status

    update(note)
