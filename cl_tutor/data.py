"""Data sets as tensors: the digits inside scikit-learn, torchvision's sets, a folder of images, your own arrays.

Pixels stay uint8 in memory, a quarter of what floats would take; `Task.batches` makes floats of one batch at a time.
Nothing here downloads unless `load(..., download=True)` or `cl-tutor data NAME` asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import _torchvision

Pair = tuple[np.ndarray, np.ndarray]
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


class Data(NamedTuple):
    """A training and a test set of one classification problem."""

    train: tuple[Tensor, Tensor]  # x (N, C, H, W) uint8, or float of any shape (N, ...); y (N,) int64
    test: tuple[Tensor, Tensor]
    classes: int
    name: str

    @classmethod
    def of(cls, train: Any, test: Any, name: str = "mine") -> Data:
        """Your own data: each argument a torch Dataset, or a pair (x, y) of arrays or tensors.

        >>> Data.of((np.zeros((4, 8, 8), "uint8"), [0, 1, 2, 1]), (np.zeros((1, 8, 8), "uint8"), [2])).classes
        3

        x (N, ...) is uint8 0 ... 255 or floating point; grey images (N, H, W) become (N, 1, H, W). y (N,) counts the
        classes from 0, each of them present in `train`. ValueError says what does not fit.
        """
        (x, y), (u, v) = _columns(train, f"{name}, train"), _columns(test, f"{name}, test")
        if x.shape[1:] != u.shape[1:] or x.dtype != u.dtype:
            a, b = (f"{tuple(part.shape[1:])} {part.dtype}".replace("torch.", "") for part in (x, u))
            raise ValueError(f"{name}: one sample is {a} in train but {b} in test: bring both to one shape and type.")
        classes = int(y.max()) + 1
        if missing := set(range(classes)) - set(y.tolist()):
            gap = f"no sample has the label {min(missing)}, though labels go up to {classes - 1}"
            raise ValueError(f"{name}, train: {gap}: number the classes 0, 1, 2 ... without gaps.")
        if int(v.max()) >= classes:
            raise ValueError(
                f"{name}, test: the label {int(v.max())} never occurs in train, whose last label is {classes - 1}."
            )
        return cls((x, y), (u, v), classes, name)


def digits() -> Data:
    """1,797 handwritten digits of 8x8 pixels (Alpaydin & Kaynak 1998), from scikit-learn: 1,397 train, 400 test."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    pixels = np.rint(x * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)  # 0 ... 16 -> 0 ... 255
    return Data.of(*_stratified(pixels, y, 400), name="digits")


class Source(NamedTuple):
    """A data set that torchvision knows: its class there, and the files that must lie under the root."""

    cls: str
    files: Sequence[str]
    mb: float  # megabytes to download
    licence: str
    source: str


def _idx(cls: str, *rest: Any) -> Source:  # MNIST and its kin share one layout
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return Source(cls, [f"{cls}/raw/{name}" for name in names], *rest)


_CIFAR10 = [f"cifar-10-batches-py/{name}" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
_CIFAR100 = ["cifar-100-python/train", "cifar-100-python/test"]
SOURCES = {
    "mnist": _idx("MNIST", 12, "CC BY-SA 3.0", "LeCun & Cortes 1998"),
    "fashion-mnist": _idx("FashionMNIST", 31, "MIT", "Xiao et al. 2017"),
    "kmnist": _idx("KMNIST", 21, "CC BY-SA 4.0", "Clanuwat et al. 2018"),
    "cifar10": Source("CIFAR10", _CIFAR10, 170, "none stated; cite the source", "Krizhevsky 2009"),
    "cifar100": Source("CIFAR100", _CIFAR100, 169, "none stated; cite the source", "Krizhevsky 2009"),
    "svhn": Source("SVHN", ["train_32x32.mat", "test_32x32.mat"], 246, "non-commercial use only", "Netzer et al. 2011"),
}


class Entry(NamedTuple):
    """A row of the catalogue. `mb`: megabytes on disk where present, to download where not."""

    name: str
    present: bool
    mb: float
    licence: str
    source: str


def default_root() -> Path:
    """Where data sets are looked for: CL_TUTOR_DATA, or else ~/.cache/cl_tutor."""
    return Path(os.environ.get("CL_TUTOR_DATA") or "~/.cache/cl_tutor").expanduser()


def catalogue(root: str | Path | None = None) -> list[Entry]:
    """What there is, what of it lies under `root`, and its licence. Opens no file and imports no torchvision."""
    root = default_root() if root is None else Path(root).expanduser()
    rows = [Entry("digits", True, 0.1, "CC BY 4.0", "Alpaydin & Kaynak 1998, in scikit-learn")]
    for name, s in SOURCES.items():
        files = [root / file for file in s.files]
        present = all(file.is_file() for file in files)
        size = sum(file.stat().st_size for file in files) / 1e6 if present else s.mb
        rows.append(Entry(name, present, size, s.licence, s.source))
    return rows


def load(name: str = "digits", root: str | Path | None = None, download: bool = False) -> Data:
    """A data set by name: "digits", one of `SOURCES`, or "folder:PATH", see `folder`.

    `root` defaults to `default_root()`. With `download` a set that is absent is fetched, its checksums compared.
    (CIFAR's files are pickles: torchvision compares their checksums before it opens them.)
    """
    if name == "digits":
        return digits()
    if name.startswith("folder:"):
        return folder(name.removeprefix("folder:"))
    if name not in SOURCES:
        raise ValueError(f"There is no data set {name!r}: choose digits, {', '.join(SOURCES)}, or folder:PATH.")
    root, source = default_root() if root is None else Path(root).expanduser(), SOURCES[name]
    present = all((root / file).is_file() for file in source.files)
    if not present and not download:
        raise FileNotFoundError(
            f"{name} is not under {root}: fetch it once with `cl-tutor data {name}` ({source.mb:g} MB to download), "
            "or let the variable CL_TUTOR_DATA name the folder that holds it."
        )
    make = getattr(_torchvision.datasets(), source.cls)
    splits = [{"split": s} if name == "svhn" else {"train": s == "train"} for s in ("train", "test")]
    try:
        parts = [make(root, download=not present, **split) for split in splits]
    except Exception as e:  # torchvision raises what its readers raise, from EOFError to URLError
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        if present:
            remedy = f"delete them, then run `cl-tutor data {name}`"
            raise ValueError(f"The files of {name} under {root} are damaged ({reason}): {remedy}.") from e
        remedy = f"check the network and run `cl-tutor data {name}` again, or copy the files there yourself"
        raise ConnectionError(f"{name} could not be fetched into {root} ({reason}): {remedy}.") from e
    x = [torch.as_tensor(p.data) for p in parts]  # MNIST's kin (N, H, W), CIFAR (N, H, W, 3), SVHN (N, 3, H, W)
    x = [v.permute(0, 3, 1, 2).contiguous() for v in x] if name.startswith("cifar") else x
    y = [p.labels if name == "svhn" else p.targets for p in parts]
    return Data.of((x[0], y[0]), (x[1], y[1]), name)


def folder(path: str | Path) -> Data:
    """PATH/train/CLASS/*.jpg with PATH/test/CLASS/*.jpg; or PATH/CLASS/*.jpg, of which a seeded fifth becomes the test.

    Classes are the folders' names in order. All images have one size; grey ones beside colour ones become colour.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder {path}: name one that holds CLASS/*.jpg, or train/CLASS and test/CLASS."
        )
    halves = [half for half in (path / "train", path / "test") if half.is_dir() and _classes(half)] or [path]
    names = [_classes(half) for half in halves]
    if len(halves) == 1 and halves != [path]:
        raise ValueError(f"{path} has only {halves[0].name}/CLASS: add the other one of train and test.")
    if len(names[0]) < 2 or names[0] != names[-1]:
        found = " and ".join(", ".join(part[:9]) or "none" for part in names)
        raise ValueError(f"{path}: expected two or more class folders, the same in train and test, but found {found}.")
    files = [[(file, y) for y, name in enumerate(names[0]) for file in _images(half / name)] for half in halves]
    x = _decode([file for half in files for file, _ in half])
    y = np.array([label for half in files for _, label in half])
    if len(files) == 2:
        n = len(files[0])
        return Data.of((x[:n], y[:n]), (x[n:], y[n:]), path.name)
    if (counts := np.bincount(y)).min() < 2:
        lonely = path / names[0][counts.argmin()]
        raise ValueError(f"{lonely} holds one image, but a class needs one to train on and one to test.")
    return Data.of(*_stratified(x, y, max(len(counts), round(len(y) / 5))), path.name)


def _classes(path: Path) -> list[str]:
    return sorted(f.name for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images(path: Path) -> list[Path]:
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not files:
        raise ValueError(f"{path} holds no image: put files such as .jpg or .png there, or delete the folder.")
    return files


def _decode(files: list[Path]) -> np.ndarray:
    from PIL import Image

    arrays: list[np.ndarray] = []
    for file in tqdm(files, desc="decoding", unit=" images", disable=None, leave=False):
        try:
            with Image.open(file) as image:
                a = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
        except Exception as e:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
            raise ValueError(f"{file} cannot be read as an image ({e}): repair it or take it away.") from e
        arrays.append(a[None] if a.ndim == 2 else a.transpose(2, 0, 1))  # (C, H, W)
        (h, w), (height, width) = a.shape[:2], arrays[0].shape[1:]
        if (h, w) != (height, width):
            raise ValueError(f"{file} is {w}x{h} pixels, but {files[0]} is {width}x{height}: resize all to one size.")
    channels = max(len(a) for a in arrays)
    x = np.stack([np.broadcast_to(a, (channels, *a.shape[1:])) for a in arrays])
    return np.ascontiguousarray(x)  # the images' own order, channels last, would survive the stacking


def _stratified(x: np.ndarray, y: np.ndarray, test: int) -> tuple[Pair, Pair]:
    from sklearn.model_selection import train_test_split

    a, b = train_test_split(np.arange(len(y)), test_size=test, random_state=0, stratify=y)
    return (x[a], y[a]), (x[b], y[b])


def _columns(part: Any, name: str) -> tuple[Tensor, Tensor]:
    """x (N, ...) and y (N,) as tensors, or ValueError."""
    if not (isinstance(part, tuple | list) and len(part) == 2):
        part = _from_dataset(part, name)
    try:
        x, y = (v if isinstance(v, Tensor) else torch.from_numpy(np.array(v)) for v in part)
    except (TypeError, ValueError) as e:
        raise ValueError(f"{name}: x and y must be arrays of numbers ({e}).") from None
    if x.ndim < 2 or y.shape != x.shape[:1] or not len(x):
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(
            f"{name}: x must be (N, ...) and y (N,) with one N of 1 or more, but their shapes are {shapes}."
        )
    if x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        raise ValueError(f"{name}: x has its channels last, {tuple(x.shape)}: move axis 3 to axis 1.")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"{name}: x is {str(x.dtype)[6:]}: make pixels uint8 0 ... 255, anything else floating point.")
    if x.is_floating_point():
        if not x.isfinite().all():
            raise ValueError(f"{name}: x holds {x[~x.isfinite()][0].item()}: take such samples away, or fill them in.")
        x = x.float()
    if y.is_floating_point() or y.is_complex() or int(y.min()) < 0:
        bad = str(y.dtype)[6:] if y.is_floating_point() or y.is_complex() else int(y.min())
        raise ValueError(f"{name}: labels are whole numbers from 0, but y holds {bad}.")
    return x.unsqueeze(1) if x.ndim == 3 else x, y.long()


def _from_dataset(part: Any, name: str) -> tuple[Any, Any]:
    try:
        rows = [part[i] for i in tqdm(range(len(part)), desc=name, unit=" samples", disable=None, leave=False)]
        x, y = np.stack([np.asarray(x) for x, _ in rows]), [int(y) for _, y in rows]
    except (TypeError, ValueError) as e:
        want = "a pair (x, y) of arrays, or a torch Dataset of pairs (x, y) with x of one shape"
        raise ValueError(f"{name}: expected {want} ({e}).") from e
    picture = x.ndim == 4 and not isinstance(rows[0][0], np.ndarray | Tensor)  # Pillow has its channels last
    return x.transpose(0, 3, 1, 2) if picture else x, y
