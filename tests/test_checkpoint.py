"""A resumed run equals the uninterrupted one bit for bit, and a file that does not fit is refused."""

import importlib
import json
import os
import pkgutil
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import cl_tutor.methods
from cl_tutor.data import digits
from cl_tutor.learn import Learner, Method, meet, train
from cl_tutor.methods.architectures import PackNet, Progressive, SupSup
from cl_tutor.methods.memory import Reservoir
from cl_tutor.methods.regularization import EWC, Well
from cl_tutor.methods.replay import ER
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted, split

MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)


def learner(net=None, methods=(), stream=None, **options):
    stream = stream or split(digits(), 5, "task")
    return Learner(net or MLP((64, 20, 10)), stream, methods, optimiser=MOMENTUM, **{"batch_size": 32, **options})


def after(tasks, learner):
    """The learner once it has met so many tasks."""
    with torch.random.fork_rng():
        for task in learner.stream.tasks[learner.seen : tasks]:
            meet(learner, task)
    return learner


@dataclass
class Collector(Method):
    """Every kind of state that a method may have."""

    def __post_init__(self):
        self.rng_ = torch.Generator().manual_seed(7)
        self.kept_ = {0: [torch.zeros(0), None, 1.5, True, "a", float("inf")], "b": (1, (2, torch.tensor(3)))}
        self.wells_, self.memory_, self.net_ = [], Reservoir(5), torch.nn.Linear(2, 2)
        torch.nn.init.zeros_(self.net_.weight), torch.nn.init.zeros_(self.net_.bias)
        self.memories_, self.half_ = [], torch.ones(2, 3).t()  # not contiguous
        self.same_ = self.half_  # shares its storage with another

    def loss(self, learner, batch):
        self.seen_ = torch.rand(3, generator=self.rng_)
        return 0.0 * float(self.net_.weight.detach().sum()) + float(torch.rand((), generator=self.rng_))

    def after_step(self, learner, batch):
        self.memory_.add(batch.y)
        with torch.no_grad():
            self.net_.weight += torch.rand(2, 2, generator=self.rng_)

    def after_task(self, learner, task):
        self.wells_.append(Well({"w": self.seen_.double()}, {"w": self.seen_ > 0.5}))
        self.memories_.append(Reservoir(3, seed=learner.seen))
        self.memories_[-1].add(torch.arange(9))


def leaves(cls):
    """The classes that others do not build upon: a class is abstract or final."""
    below = [leaf for child in cls.__subclasses__() for leaf in leaves(child)]
    return below or [cls]


for module in pkgutil.iter_modules(cl_tutor.methods.__path__):
    importlib.import_module(f"cl_tutor.methods.{module.name}")
EVERY = {c.__name__: c for c in leaves(Method) if c.__module__.startswith("cl_tutor.methods.")}
SMALL = {"samples": 50, "slots": 50, "size": 16}


def any_learner(cls):
    """A learner with this method, in the first scenario that it serves; if it refuses to be alone, beside ER."""
    for scenario, others in product(("task", "class", "domain"), ([], [ER(50)])):
        stream = split(digits(), 5, scenario)
        outputs = stream.units.shape[1]
        try:
            if issubclass(cls, torch.nn.Module):
                return learner(cls((64, 20, outputs)), stream=stream)
            small = {f.name: SMALL[f.name] for f in fields(cls) if f.name in SMALL}
            return learner(MLP((64, 20, outputs)), [*others, cls(**small)], stream=stream)
        except ValueError as e:
            reason = e
    raise reason


RUNS = {
    **{name: partial(any_learner, cls) for name, cls in EVERY.items()},
    "naive": lambda: learner(),
    "Online EWC": lambda: learner(methods=[EWC(1.0, decay=0.9, samples=50, proximal=True)]),
    "ER and EWC": lambda: learner(methods=[ER(50, size=16), EWC(1.0, samples=50)]),
    "ER, EWC and PackNet": lambda: learner(methods=[ER(50, size=16), EWC(1.0, samples=50), PackNet()]),
    "SupSup, task unknown": lambda: learner(SupSup((64, 40, 10)), stream=permuted(digits(), 4)),
    "every kind of state": lambda: learner(methods=[Collector()]),
}


def test_every_method_is_among_them():
    assert {"EWC", "ER", "PackNet", "Progressive", "Adapters", "SupSup", "MER", "OML"} <= set(RUNS)


def equal(a, b):
    """Equal to the last bit, however deep, with the same types."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return equal(list(a), list(b)) and all(map(equal, a.values(), b.values()))
    if isinstance(a, torch.nn.Module):
        return equal(dict(a.state_dict()), dict(b.state_dict()))
    return equal(vars(a), vars(b)) if hasattr(a, "__dict__") else a == b


def state(m):
    return {name: value for name, value in vars(m).items() if name.endswith("_")}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_equals_the_uninterrupted_one(name, tmp_path):
    whole, half = RUNS[name](), after(2, RUNS[name]())
    results = train(whole)
    half.save(tmp_path / "two tasks")
    loaded = RUNS[name]().load(tmp_path / "two tasks")
    assert all(equal(state(a), state(b)) for a, b in zip(half.methods, loaded.methods))  # right after loading
    assert [n for n, _ in half.net.named_parameters()] == [n for n, _ in loaded.net.named_parameters()]
    again = train(loaded)
    assert equal(dict(whole.net.state_dict()), dict(loaded.net.state_dict()))
    assert all(equal(state(a), state(b)) for a, b in zip(whole.methods, loaded.methods))
    assert (results.R == again.R).all() and (results.b == again.b).all() and results.losses == again.losses
    assert equal(whole.rng, loaded.rng)


def test_the_state_matters_where_a_method_has_one(tmp_path):
    """The comparison can fail: without the state of its methods a resumed run is another run."""
    whole, half = RUNS["ER and EWC"](), after(2, RUNS["ER and EWC"]())
    half.save(tmp_path / "f")
    loaded = RUNS["ER and EWC"]().load(tmp_path / "f")
    loaded.methods[1].wells_ = []
    train(whole), train(loaded)
    assert not equal(dict(whole.net.state_dict()), dict(loaded.net.state_dict()))


def test_before_the_first_task_and_after_the_last(tmp_path):
    learner().save(tmp_path / "new")
    fresh = learner().load(tmp_path / "new")
    assert fresh.seen == 0 and equal(train(fresh).R.tolist(), train(learner()).R.tolist())
    fresh.save(tmp_path / "done")
    assert train(learner().load(tmp_path / "done")).R.tolist() == fresh.rows


def test_it_is_one_file_without_pickle(tmp_path):
    after(2, RUNS["Progressive"]()).save(tmp_path / "deep" / "run")
    assert os.listdir(tmp_path / "deep") == ["run"]  # no temporary file is left
    with safe_open(tmp_path / "deep" / "run", "pt") as file:
        tree = json.loads(file.metadata()["json"])
    assert tree["measured"]["seen"] == 2 and "Progressive(sizes=(64, 20, 10)" in tree["about"]["network"]


@pytest.mark.parametrize("where", ["cl_tutor.checkpoint.save_file", "os.replace"])
def test_a_crash_while_writing_leaves_the_old_file(where, tmp_path, monkeypatch):
    run = after(1, learner())
    run.save(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()

    def crash(_, path, **options):
        Path(path).with_name("half").write_bytes(b"half") if where != "os.replace" else None
        raise OSError("disk full")

    monkeypatch.setattr(where, crash)
    with pytest.raises(OSError, match="disk full"):
        after(2, run).save(tmp_path / "f")
    assert os.listdir(tmp_path) == ["f"] and (tmp_path / "f").read_bytes() == before


@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_every_damaged_byte_is_noticed(part, tmp_path):
    after(1, learner()).save(tmp_path / "f")
    content = bytearray((tmp_path / "f").read_bytes())
    content[int(part * len(content))] ^= 1
    (tmp_path / "f").write_bytes(content)
    fresh = learner()
    with pytest.raises(ValueError, match="is damaged, or is not a saved learner"):
        fresh.load(tmp_path / "f")
    assert fresh.seen == 0 and equal(dict(fresh.net.state_dict()), dict(learner().net.state_dict()))


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    after(1, learner()).save(tmp_path / "f")
    (tmp_path / "cut").write_bytes((tmp_path / "f").read_bytes()[:-100])
    (tmp_path / "text").write_text("hello")
    save_file({"w": torch.zeros(3)}, tmp_path / "weights")
    for name in ("cut", "text", "weights"):
        with pytest.raises(ValueError, match="is damaged, or is not a saved learner"):
            learner().load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        learner().load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda: learner(MLP((64, 21, 10)), [EWC(1.0)]), "another network: .*out_features=20,.*out_features=21,"),
        (lambda: learner(Progressive((64, 20, 10))), r"another network: .*MLP.*Progressive\(sizes"),
        (lambda: learner(methods=[EWC(2.0)]), r"another list of methods: .*lam=1.0.*lam=2.0"),
        (lambda: learner(), "another list of methods: .*EWC.*has \\[\\]"),
        (lambda: learner(methods=[EWC(1.0), ER()]), "another list of methods: .*ER"),
        (lambda: learner(methods=[EWC(1.0)], stream=split(digits(), 5, "class")), "another stream: .*known.*unknown"),
        (lambda: learner(methods=[EWC(1.0)], stream=split(digits(), 2, "task")), "another stream: .*5 tasks.*2 tasks"),
        (lambda: learner(methods=[EWC(1.0)], batch_size=64), "another schedule: .*batch_size=32.*batch_size=64"),
        (lambda: learner(methods=[EWC(1.0)], seed=1), "another schedule: .*seed=0.*seed=1"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(other, what, tmp_path):
    after(1, learner(methods=[EWC(1.0)])).save(tmp_path / "f")
    with pytest.raises(ValueError, match=what):
        other().load(tmp_path / "f")


def test_streams_that_differ_in_the_permutation_only(tmp_path):
    learner(stream=permuted(digits(), 3, seed=0)).save(tmp_path / "f")
    learner(stream=permuted(digits(), 3, seed=0)).load(tmp_path / "f")
    with pytest.raises(ValueError, match="another stream"):
        learner(stream=permuted(digits(), 3, seed=1)).load(tmp_path / "f")


def test_a_learner_in_the_middle_of_something(tmp_path):
    run = after(1, learner())
    run.save(tmp_path / "f")
    with pytest.raises(ValueError, match="met 1 tasks already"):
        run.load(tmp_path / "f")
    run.seen = 2
    with pytest.raises(ValueError, match="task 1 was interrupted"):
        run.save(tmp_path / "f")


@pytest.mark.parametrize("value", [{1, 2}, lambda: 0, torch.float32, object()])
def test_state_that_cannot_be_saved_is_refused(value, tmp_path):
    odd = Collector()
    odd.odd_ = [value]
    with pytest.raises(TypeError, match="cannot be saved: keep tensors"):
        learner(methods=[odd]).save(tmp_path / "f")
    assert not os.listdir(tmp_path)


def test_a_class_comes_from_the_methods_own_file_only(tmp_path):
    """A file cannot make us build any class it likes."""

    class Hidden:
        pass

    odd = Collector()
    odd.odd_ = Hidden()
    learner(methods=[odd]).save(tmp_path / "f")
    with pytest.raises(ValueError, match=r"kept a Hidden, .* knows no class of that name"):
        learner(methods=[Collector()]).load(tmp_path / "f")
