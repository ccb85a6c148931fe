"""What the reader did, in one JSON file on this machine: nothing leaves it, and `reset` empties it.

The file is `progress.json` in the folder that the variable CL_TUTOR_HOME names, or else in ~/.cl_tutor. It holds

    exercises  {"ewc/The penalty": "correct" or "incorrect"}, the best so far
    guesses    {"05: ACC of EWC": [said, measured]}
    recalls    [{"lesson": 5, "right": {"forgetting/capacity": true, ...}}], one entry for every round of questions
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

EMPTY: dict[str, Any] = {"exercises": {}, "guesses": {}, "recalls": []}


def path() -> Path:
    """Where the file is, whether or not it exists."""
    return Path(os.environ.get("CL_TUTOR_HOME") or "~/.cl_tutor").expanduser() / "progress.json"


def read() -> dict[str, Any]:
    """What is stored. A damaged file is set aside, beside the new one, and the reader begins again."""
    try:
        stored = json.loads(path().read_text(encoding="utf-8"))
        if stored.keys() != EMPTY.keys() or any(type(stored[key]) is not type(EMPTY[key]) for key in EMPTY):
            raise ValueError("other entries than exercises, guesses and recalls")
        return stored
    except FileNotFoundError:
        pass
    except (ValueError, AttributeError) as e:
        aside = path().with_suffix(".damaged.json")
        os.replace(path(), aside)
        warnings.warn(f"{path()} could not be read ({e}): it is now {aside.name}, and a new one begins.", stacklevel=2)
    return json.loads(json.dumps(EMPTY))


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
        remedy = "let the variable CL_TUTOR_HOME name a folder that can be written"
        warnings.warn(
            f"Your progress is not stored, {path()} cannot be written ({e.strerror}): {remedy}.", stacklevel=2
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
