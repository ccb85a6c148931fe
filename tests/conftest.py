"""What all tests share: one torch thread, and MNIST where this machine has it."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # small networks run fastest on one thread, and workers share the cores
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["CL_TUTOR_HOME"] = tempfile.mkdtemp(prefix="cl-tutor-")  # nobody's own progress is read or written


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder that holds MNIST/raw, given by CL_TUTOR_SHARED or as ../shared/data beside the repository."""
    places = [
        Path(os.environ.get("CL_TUTOR_SHARED") or ROOT.parent / "shared" / "data"),
        ROOT.parent / "shared" / "data",
    ]
    for place in places:
        if (place / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return place
    pytest.skip(f"MNIST is not at {' or '.join(map(str, dict.fromkeys(places)))} (set CL_TUTOR_SHARED)")
