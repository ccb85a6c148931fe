"""Methods by name, as they are typed: `er+lwf` with `ewc.lam=10`. One table; the rest is read off the constructors.

`parse` reads settings, `build` makes the network and the methods of a name, `execute` trains them, `describe` tells.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import NoneType, UnionType
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from .learn import Learner, Method, threads, train
from .methods.architectures import Adapters, PackNet, Progressive, SupSup
from .methods.class_incremental import BiasCorrection, NearestMean, icarl
from .methods.curvature import KFACEWC, SubspaceEWC
from .methods.generative import GenerativeReplay
from .methods.memory import ClassBalanced, Herding, Memory, Reservoir
from .methods.meta import MER, OML, Pair, meta_train, walks
from .methods.projection import AGEM, GEM
from .methods.regularization import EWC, L2, MAS, SI, LwF
from .methods.replay import DER, ER
from .results import Results

Settings = dict[str, dict[str, Any]]  # method -> option -> value


def naive() -> list[Method]:
    """L(θ) = L_task(θ; B): nothing against forgetting, the floor. All scenarios. Keeps nothing."""
    return []


def joint() -> list[Method]:
    """L(θ) = L_tasks 1…i(θ; B): task i trains on all data so far, the ceiling. All scenarios. Keeps all data."""
    return []  # naive, on the cumulative stream


def experts() -> list[Method]:
    """L(θ_i) = L_task(θ_i; B): a new network for every task, and each asked about its own. All scenarios, but told the
    task at test time. Keeps P floats a task."""
    return []  # naive, on a stream for every task


def nearest_mean(slots: int = 200, seed: int = 0) -> list[Method]:
    return [ER(slots, alpha=0.0, seed=seed), NearestMean()]  # rows are kept, and none is trained on


nearest_mean.__doc__ = inspect.getdoc(NearestMean)


class Recipe(NamedTuple):
    """How a name becomes a method: what to call, and the course's defaults where they are not the constructor's."""

    family: str
    make: Callable[..., Any]  # -> a Method, a list of them, or a network that is one
    defaults: dict[str, Any] = {}
    idea: str = ""  # the sentence of the docstring that names this variant; else its first


METHODS = {
    "naive": Recipe("reference", naive),
    "joint": Recipe("reference", joint),
    "experts": Recipe("reference", experts),
    "l2": Recipe("regularisation", L2, {"lam": 0.1}),
    "ewc": Recipe("regularisation", EWC, {"lam": 10.0, "samples": 200}),
    "online-ewc": Recipe("regularisation", EWC, {"lam": 10.0, "samples": 200, "decay": 0.95}, "Online EWC"),
    "mas": Recipe("regularisation", MAS, {"lam": 0.1, "samples": 200}),
    "si": Recipe("regularisation", SI, {"lam": 0.1}),
    "lwf": Recipe("regularisation", LwF),
    "subspace-ewc": Recipe("curvature", SubspaceEWC, {"lam": 0.5, "samples": 200}),
    "kfac-ewc": Recipe("curvature", KFACEWC, {"lam": 0.5, "samples": 200}),
    "er": Recipe("replay", ER),
    "der": Recipe("replay", DER),
    "der++": Recipe("replay", DER, {"beta": 0.5}, "DER++"),
    "generative": Recipe("replay", GenerativeReplay),
    "a-gem": Recipe("projection", AGEM),
    "gem": Recipe("projection", GEM),
    "progressive": Recipe("architecture", Progressive),
    "packnet": Recipe("architecture", PackNet),
    "supsup": Recipe("architecture", SupSup),
    "adapters": Recipe("architecture", Adapters),
    "icarl": Recipe("class-incremental", icarl),
    "nearest-mean": Recipe("class-incremental", nearest_mean),
    "bias-correction": Recipe("class-incremental", BiasCorrection),
    "mer": Recipe("meta-learning", MER),
    "oml": Recipe("meta-learning", OML),
}
MEMORIES = {cls.__name__.lower(): cls for cls in (Reservoir, ClassBalanced, Herding)}


# -- from words to methods ---------------------------------------------------------------------------------------------


def names(spec: str) -> list[str]:
    """The parts of "er+lwf+ewc". The ++ of der++ is part of its name."""
    found = [name.strip() for name in re.split(r"(?<!\+)\+(?!\+)|(?<=\+\+)\+", spec.strip().lower())]
    for name in found:
        known(name)
    if len(set(found)) < len(found):
        raise ValueError(f"{spec!r} names a method twice: take each once.")
    if len(found) > 1 and (alone := [name for name in found if METHODS[name].family == "reference"]):
        raise ValueError(f"{alone[0]} is what methods are compared with, and stands alone: not in {spec!r}.")
    return found


def known(name: str) -> Recipe:
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}: choose from {', '.join(METHODS)}.")
    return METHODS[name]


def options(name: str) -> dict[str, inspect.Parameter]:
    """What --set can change: the constructor's arguments that are written in a word. The seed is that of the run."""
    recipe, found = known(name), {}
    for p in inspect.signature(recipe.make, eval_str=True).parameters.values():
        if p.name != "seed" and any(words(p.annotation)):
            found[p.name] = p.replace(default=recipe.defaults.get(p.name, p.default))
    return found


def words(kind: Any) -> tuple[dict[str, Any], type | None]:
    """How a value of an annotated type is written: words that stand for a value, and a type that reads all others."""
    kinds = kind.__args__ if isinstance(kind, UnionType) else (kind,)
    fixed: dict[str, Any] = MEMORIES if kind == type[Memory] else {}
    fixed = {"true": True, "false": False} if kind is bool else fixed
    reader = next((k for k in (int, float, str) if k in kinds), None)
    return fixed | ({"none": None} if reader and NoneType in kinds else {}), reader


def parse(settings: Iterable[str]) -> Settings:
    """["ewc.lam=3", "er.memory=herding"] -> {"ewc": {"lam": 3.0}, "er": {"memory": Herding}}, or ValueError."""
    found: Settings = {}
    for text in settings:
        if not (match := re.fullmatch(r"\s*([^.=\s]+)\.(\w+)\s*=\s*(.*?)\s*", text)):
            raise ValueError(f"--set {text}: write method.option=value, such as ewc.lam=10.")
        name, option, value = match[1].lower(), match[2], match[3]
        if option not in (allowed := options(name)):
            raise ValueError(f"--set {text}: the options of {name} are {', '.join(allowed) or 'none'}.")
        fixed, reader = words(allowed[option].annotation)
        try:
            new = fixed[value.lower()] if value.lower() in fixed or not reader else reader(value)
        except (KeyError, ValueError):
            meant = [*fixed, *([{int: "a whole number", float: "a number"}[reader]] if reader else [])]
            raise ValueError(f"--set {text}: {option} is {' or '.join(meant)}, not {value!r}.") from None
        if option in found.setdefault(name, {}):
            raise ValueError(f"{name}.{option} is set twice: keep one of them.")
        found[name][option] = new
    return found


def build(
    spec: str, settings: Settings, net: Callable[[int], nn.Module], sizes: tuple[int, ...], seed: int
) -> tuple[nn.Module, list[Method]]:
    """The network and the methods of "er+lwf": a method that is a network takes the place of `net(seed)`."""
    made: list[Any] = []
    for name in names(spec):
        recipe = METHODS[name]
        takes = inspect.signature(recipe.make).parameters
        given = {k: v for k, v in {"sizes": sizes, "seed": seed}.items() if k in takes}
        new = recipe.make(**recipe.defaults | given | settings.get(name, {}))
        made += new if isinstance(new, list) else [new]
    nets = [m for m in made if isinstance(m, nn.Module)]
    if len(nets) > 1:
        raise ValueError(f"{spec!r} names {len(nets)} networks, and there is room for one: keep one of them.")
    return nets[0] if nets else net(seed), [m for m in made if not isinstance(m, nn.Module)]


# -- from methods to results -------------------------------------------------------------------------------------------


def check(learner: Learner) -> Learner:
    """Refuse, with a ValueError, what only `execute` would find out. The rest is refused as the learner is built."""
    if meta(learner):
        next(_walks(learner))
    return learner


def execute(method: str, learner: Learner) -> Results:
    """Train as the name of the method says: most of them are lists of methods, and three change the stream instead."""
    with threads(learner.threads):
        if meta(learner):
            meta_train(learner.net, _walks(learner))
    if method == "experts":
        return _experts(learner)
    if method == "joint":
        learner.stream = learner.stream.cumulative()
    return train(learner)


def meta(learner: Learner) -> bool:
    return any(isinstance(m, OML) for m in learner.methods)


def _walks(learner: Learner) -> Iterator[tuple[Pair, Pair]]:
    """OML's features are learnt before the stream begins: here on the training data of its first task."""
    task = learner.stream.tasks[0]
    x, y, _ = next(task.batches(len(task.train.x))).to(learner.device)
    return walks(x, y, 100, seed=learner.seed)


def _experts(learner: Learner) -> Results:
    """One network a task, trained on it alone and asked about it alone: what every task gives by itself."""
    tasks, alone = learner.stream.tasks, []
    for task in tasks:
        learner.seen += 1
        own = replace(learner.stream, tasks=[task], task_known=True)
        alone.append(train(replace(learner, net=copy.deepcopy(learner.net), stream=own)))
    before, after = np.array([r.b[0] for r in alone]), np.array([r.R[0, 0] for r in alone])
    return Results(np.where(np.tri(len(tasks), dtype=bool), after, before), before, [r.losses[0] for r in alone])


# -- from methods to words ---------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A method in a table."""

    idea: str  # or its equation
    suits: str  # scenarios, and what it needs
    memory: str


def describe(name: str) -> Row:
    """The sentences of the docstring that say what a method does, where it fits and what it keeps."""
    recipe = known(name)
    text = " ".join((inspect.getdoc(recipe.make) or "").split(">>>")[0].split())
    sentences = re.split(r"(?:(?<=\.)(?<!al\.)(?<!\.\.)|(?<=\.\))) (?=\D)", text)  # "et al. (2017)" and "1 ... k" go on
    first = lambda pattern: next((s for s in sentences if re.search(pattern, s)), "")
    suits = first(r"^(Suits|All scenarios|Every scenario|Task-IL)")
    memory = first(r"^(Memory|Keeps|Stores no)|slots ×")
    return Row(first(re.escape(recipe.idea)), suits.removeprefix("Suits "), memory.removeprefix("Memory: "))
