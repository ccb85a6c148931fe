"""Experiments as values, and many of them at once: on every core, on a cluster, and never the same one twice.

An `Experiment` says all that a run depends on. Its canonical form, with VERSION, names the file of its result: a sweep
that was interrupted goes on where it stopped, and two sweeps share what they have in common. What a file of many
experiments means is in `plans`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config
from torch import Tensor
from tqdm.auto import tqdm

from . import spec
from .checkpoint import pack
from .data import Data, load
from .learn import Diverged, Learner, Method
from .nets import MLP, SmallCNN
from .results import Results
from .streams import Batch, Stream, permuted, rotated, split

# Raise it by hand when a change of code changes results. A hash of the code would throw hours of results away for a
# renamed variable; a test recomputes a sample of what is stored, and tells when this number was forgotten.
VERSION = 1

STREAMS: dict[str, Callable[[Data, int, str, int], Stream]] = {
    "permuted": permuted,
    "rotated": lambda data, tasks, scenario, seed: rotated(data, tasks, scenario),
    "split": lambda data, tasks, scenario, seed: split(data, tasks, scenario),
}
OPTIMISERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
Record = dict[str, Any]  # what came of an experiment, as it is written


@dataclass(frozen=True)
class Experiment:
    """One run: a method by name, what it trains on, and how.

    >>> Experiment("ewc", {"ewc.lam": 3}).settings
    (('ewc.lam', 3.0),)

    Equal experiments are written alike, whatever was left to the defaults or typed as a whole number.
    """

    method: str = "naive"  # er+lwf is both at once; see `cl-tutor methods`
    settings: Any = ()  # pairs (method.option, value), or a dict of them
    data: str = "digits"
    samples: int = 0  # training images that the seed draws; 0: all
    stream: str = "permuted"
    scenario: str = "domain"
    tasks: int = 5
    net: str = "100-100"  # widths of an MLP's hidden layers, or cnn
    epochs: int = 1
    batch_size: int = 32
    optimiser: str = "sgd"
    lr: float = 0.2
    momentum: float = 0.0  # of sgd
    seed: int = 0
    held_out: bool = False  # test on a tenth of the training set, which is then not trained on
    watch: int = 0  # measure the accuracy on the first task after every so many steps; 0: never

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and type(value) is int:
                put(field.name, float(value))
            elif field.type in ("int", "str", "bool", "float") and type(value).__name__ != field.type:
                raise ValueError(f"{field.name} must be of type {field.type}, not {value!r}.")
        put("method", "+".join(spec.names(self.method)))
        pairs = dict(self.settings)
        read = spec.parse(f"{name}={str(value).lower()}" for name, value in pairs.items())
        if idle := set(read) - set(spec.names(self.method)):
            raise ValueError(f"{min(idle)}.{min(read[min(idle)])} is set, but the method is {self.method}.")
        word = lambda value: value.__name__.lower() if isinstance(value, type) else value
        put("settings", tuple(sorted((f"{m}.{o}", word(v)) for m, found in read.items() for o, v in found.items())))
        for name, known in (("stream", STREAMS), ("optimiser", OPTIMISERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"There is no {name} {getattr(self, name)!r}: choose from {', '.join(known)}.")
        if not re.fullmatch("cnn|[0-9]+(-[0-9]+)*", self.net):
            raise ValueError(f"net must be cnn or widths such as 100-100, not {self.net!r}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a finite number above 0, not {self.lr:g}.")
        if not 0 <= self.momentum < 1 or (self.momentum and self.optimiser != "sgd"):
            raise ValueError(f"momentum must lie in [0, 1), and be 0 but for sgd, not {self.momentum:g}.")
        if min(self.samples, self.watch) < 0:
            raise ValueError(f"samples and watch must be 0 or more, not {min(self.samples, self.watch)}.")

    def canonical(self) -> str:
        """One line of JSON: every field, in the order of the alphabet."""
        return json.dumps(asdict(self) | {"settings": dict(self.settings)}, sort_keys=True)

    @property
    def key(self) -> str:
        """The name of the result's file."""
        return sha256(f"{VERSION} {self.canonical()}".encode()).hexdigest()[:20]

    def learner(self, device: str = "cpu") -> Learner:
        """The run before its first step, or ValueError if it cannot be."""
        drawn = self.samples or self.held_out or self.stream == "permuted"  # else all seeds share one stream
        about = (self.data, self.samples, self.held_out, self.stream, self.tasks, self.scenario)
        stream = _stream(*about, self.seed if drawn else 0)
        x, units = stream.tasks[0].train.x, stream.units.shape[1]
        widths = () if self.net == "cnn" else map(int, self.net.split("-"))
        sizes = (x[0].numel(), *widths, units)
        cnn = lambda seed: SmallCNN(x.shape[1], x.shape[2], units, seed=seed)
        settings = spec.parse(f"{name}={str(value).lower()}" for name, value in self.settings)
        net, methods = spec.build(
            self.method, settings, cnn if self.net == "cnn" else partial(MLP, sizes), sizes, self.seed
        )
        momentum = {"momentum": self.momentum} if self.momentum else {}
        return Learner(
            net,
            stream,
            methods + ([Watch(self.watch)] if self.watch else []),
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimiser=partial(OPTIMISERS[self.optimiser], lr=self.lr, **momentum),
            seed=self.seed,
            device=device,
        )


@lru_cache(maxsize=2)
def _stream(data: str, samples: int, held_out: bool, stream: str, tasks: int, scenario: str, seed: int) -> Stream:
    return STREAMS[stream](_data(data, samples, held_out, seed), tasks, scenario, seed)


def _data(name: str, samples: int, held_out: bool, seed: int) -> Data:
    """The data of a run; with `held_out` its test set is a tenth of the training set, and the other nine train."""
    data = _loaded(name)
    x, y = data.train
    if samples > len(x):
        raise ValueError(f"samples is {samples}, but {name} has {len(x)} to train on.")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) if samples or held_out else None
    if order is None:
        return data
    if held_out:
        order, test = order[len(x) // 10 :], order[: len(x) // 10]
        data = data._replace(test=(x[test], y[test]))
    order = order[: samples or len(order)]
    return data._replace(train=(x[order], y[order]))


_loaded = lru_cache(maxsize=2)(load)  # once a process


class Watch(Method):
    """The accuracy on the first task after every `steps` steps: what falls, and recovers, between two rows of R."""

    def __init__(self, steps: int):
        self.steps, self.count = steps, 0
        self.seen: list[float] = []

    def after_step(self, learner: Learner, batch: Batch) -> None:
        self.count += 1
        if self.count % self.steps == 0:
            self.seen.append(round(learner.accuracy(learner.stream.tasks[0]), 4))


# -- one ---------------------------------------------------------------------------------------------------------------


def run(experiment: Experiment, device: str = "cpu") -> Record:
    """Train, and tell what came of it. A run that diverges is a result, too: `diverged` then says why."""
    learner = experiment.learner(device)
    record: Record = {"experiment": json.loads(experiment.canonical()), "version": VERSION, "R": None, "b": None}
    start, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            found = spec.execute(experiment.method, learner)
            record |= {"R": found.R.tolist(), "b": found.b.tolist()}
        except Diverged as e:  # the warning that went before it says more
            record["diverged"] = f"task {learner.seen} of {experiment.tasks}: {caught[0].message if caught else e}"
    record["seconds"] = round(time.process_time() - cpu if device == "cpu" else time.perf_counter() - start, 3)
    record["kept"] = kept(learner)
    if watches := [m for m in learner.methods if isinstance(m, Watch)]:
        record["watched"] = watches[0].seen
    return record | {"notes": [str(w.message) for w in caught][:1], "machine": machine(device)}


def results(record: Record) -> Results | None:
    """The accuracies of a record; None if the run diverged."""
    return None if record["R"] is None else Results(record["R"], record["b"])


def kept(learner: Learner) -> dict[str, int]:
    """What stays in memory between tasks: numbers (4 bytes each) beside the network, and the network's own."""
    tensors: dict[str, Tensor] = {}
    for m in learner.methods:
        if m is not learner.net:
            pack({n: v for n, v in vars(m).items() if n.endswith("_")}, tensors)
    numbers = sum(v.numel() for v in tensors.values() if v.dtype != torch.uint8)  # generators are bytes
    return {"numbers": numbers, "weights": sum(v.numel() for v in learner.net.state_dict().values())}


def machine(device: str) -> str:
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU {platform.machine()}"
    return f"{where}, torch {torch.__version__}"


def estimate(experiments: Iterable[Experiment]) -> tuple[float, float]:
    """Hours of CPU of all of them, and gigabytes of one process: each kind of run is tried on very few batches.

    A Fisher or a generator of more samples than these batches hold counts too little.
    """
    kinds: dict[Experiment, list[Experiment]] = {}
    for e in experiments:
        kinds.setdefault(replace(e, settings=(), seed=0, held_out=False), []).append(e)
    hours, size = 0.0, 0.0
    for same in kinds.values():
        full = same[-1].learner()
        short, long = (_seconds(same[-1], epochs) for epochs in (1, 3))
        a_step = max(long - short, 0.0) / (2 * BATCHES * len(SHORT))
        steps = full.epochs * sum(math.ceil(len(t.train.x) / full.batch_size) for t in full.stream.tasks)
        grown = (len(full.stream) + 1) / 2 if same[-1].method == "joint" else 1
        a_task = max(short / len(SHORT) - BATCHES * a_step, 0.0)
        hours += len(same) * (a_step * steps * grown + a_task * len(full.stream)) / 3600
        size = max(size, sum(t.train.x.nbytes for t in full.stream.tasks) * grown)
    return hours, 0.4 + size / 1e9  # Python with torch takes about 0.4 GB


SHORT, BATCHES = (0, 1), 4  # the tasks of a trial run, and their batches


def _seconds(experiment: Experiment, epochs: int) -> float:
    """CPU seconds of so many epochs of two tasks, cut to very few batches."""
    learner = replace(experiment, epochs=epochs).learner()
    some = lambda batch, n: Batch(*(column[:n] for column in batch))
    n, tasks = BATCHES * learner.batch_size, learner.stream.tasks[: len(SHORT)]
    cut = [replace(t, train=some(t.train, n), test=some(t.test, 500)) for t in tasks]
    learner.stream = replace(learner.stream, tasks=cut, units=learner.stream.units[: len(SHORT)])
    for method in learner.methods:
        method.check(learner)  # what a method makes for each task, it makes for these two
    start = time.process_time()
    with warnings.catch_warnings(action="ignore"), suppress(Diverged):
        spec.execute("naive" if experiment.method in ("joint", "experts") else experiment.method, learner)
    return time.process_time() - start


# -- many --------------------------------------------------------------------------------------------------------------


def sweep(
    experiments: Iterable[Experiment],
    cache: str | Path,
    jobs: int = -1,
    device: str = "cpu",
    scheduler: str | None = None,
    progress: bool = True,
) -> list[Record]:
    """The records of all experiments, in their order. What is in the folder `cache` is read, all else is run.

    `jobs` processes on this machine, -1 for all cores; or on the workers of a Dask `scheduler` ("tcp://host:8786").
    The result of each run is written as soon as it is there, so that an interruption costs only the runs under way.
    """
    writable(cache)
    wanted = list(experiments)
    records = {e: found for e in dict.fromkeys(wanted) if (found := recall(e, cache))}
    work = [e for e in dict.fromkeys(wanted) if e not in records]
    with (
        _backend(scheduler if work else None),
        tqdm(total=len(work), unit="run", disable=not progress or not work) as bar,
    ):
        for e, record in Parallel(n_jobs=None if scheduler else jobs, return_as="generator_unordered")(
            delayed(_job)(e, str(cache), device) for e in work
        ):
            keep(record, cache)
            records[e] = record
            bar.set_description(f"{e.method}, seed {e.seed}", refresh=False)
            bar.update()
    return [records[e] for e in wanted]


def _job(experiment: Experiment, cache: str, device: str) -> tuple[Experiment, Record]:
    return experiment, recall(experiment, cache) or run(experiment, device)  # another sweep may just have done it


def _backend(scheduler: str | None) -> Any:
    if scheduler is None:
        return nullcontext()
    try:
        import distributed  # noqa: F401

        if not re.fullmatch(r"\w+://\S+:\d+", scheduler):
            raise ValueError(f"A scheduler's address is tcp://HOST:PORT, not {scheduler!r}.")
        return parallel_config(backend="dask", scheduler_host=scheduler)
    except ImportError:
        raise ImportError("A scheduler needs Dask: pip install 'cl-tutor[cluster]'.") from None
    except OSError:
        known = "start one with `dask scheduler`, or leave out --scheduler"
        raise ConnectionError(f"No Dask scheduler answers at {scheduler}: {known}.") from None


def keep(record: Record, cache: str | Path) -> None:
    """Write it where `recall` looks."""
    write(place_of(Experiment(**record["experiment"]), cache), json.dumps(record) + "\n")


def writable(cache: str | Path) -> None:
    """Make the folder, or say before any work that it cannot be written."""
    Path(cache).mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        raise PermissionError(f"The results cannot be written into {cache}: name another folder.")


def place_of(experiment: Experiment, cache: str | Path) -> Path:
    """The file of its result."""
    return Path(cache) / f"{experiment.key}.json"


def recall(experiment: Experiment, cache: str | Path) -> Record | None:
    """The stored record, or None. A damaged file is set aside, with a warning."""
    path = place_of(experiment, cache)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if (record["version"], record["experiment"]) != (VERSION, json.loads(experiment.canonical())):
            raise ValueError("it is of another experiment")
        if (results(record) is None) is not ("diverged" in record):
            raise ValueError("it has no R, and does not say why")
        if missing := {"seconds", "kept", "machine"} - set(record):
            raise ValueError(f"{min(missing)} is missing")
        float(record["seconds"])
        return record
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, IsADirectoryError) as e:
        aside = (path.with_suffix(f".{k}.damaged" if k else ".damaged") for k in count())
        path.replace(new := next(p for p in aside if not p.exists()))
        warnings.warn(f"{path} is damaged ({e}): it is now {new.name}, and its run is repeated.", stacklevel=3)
        return None


def write(path: Path, text: str) -> None:
    """At once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file, new = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
    with os.fdopen(file, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(new, 0o644)  # a temporary file is for its owner alone
    os.replace(new, path)
