"""The command `cl-tutor`: lab opens the course, run compares methods, data fetches data, doctor examines the machine.

Whatever can be known to be wrong is refused before any work is done, in one sentence and with exit code 2.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tqdm import tqdm

from . import _torchvision
from .data import Data, catalogue, default_root, digits, load
from .learn import Diverged, Learner, Method, train
from .methods.regularization import EWC
from .methods.replay import ER
from .nets import MLP, SmallCNN
from .results import Results
from .streams import Stream, Task, permuted, rotated, split

app = typer.Typer(help=__doc__.split("\n")[0], no_args_is_help=True, pretty_exceptions_show_locals=False)
out, err = Console(), Console(stderr=True)
METRICS = ("acc", "forgetting", "bwt", "fwt")


class Options(NamedTuple):
    lam: float
    slots: int
    seed: int


METHODS: dict[str, Callable[[Options], list[Method]]] = {
    "naive": lambda o: [],
    "ewc": lambda o: [EWC(o.lam, samples=200)],
    "er": lambda o: [ER(o.slots, seed=o.seed)],
    "joint": lambda o: [],  # naive, on the cumulative stream
}
STREAMS: dict[str, Callable[[Data, int, str, int], Stream]] = {
    "permuted": permuted,
    "rotated": lambda data, tasks, scenario, seed: rotated(data, tasks, scenario),
    "split": lambda data, tasks, scenario, seed: split(data, tasks, scenario),
}


@contextmanager
def refusals() -> Iterator[None]:
    """What the package says about bad input is the answer; nobody needs its traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as e:
        err.print(f"[bold red]Error:[/] {escape(str(e))}", soft_wrap=True)
        raise typer.Exit(2) from None


# -- run ---------------------------------------------------------------------------------------------------------------


@app.command()
def run(
    dataset: Annotated[str, typer.Option(help="See `cl-tutor data`; or folder:PATH.")] = "digits",
    stream: Annotated[str, typer.Option(help=", ".join(STREAMS) + ".")] = "permuted",
    scenario: Annotated[str, typer.Option(help="task, domain or class.")] = "domain",
    tasks: Annotated[int, typer.Option(min=2)] = 5,
    methods: Annotated[str, typer.Option(help=f"Any of {','.join(METHODS)}, with commas.")] = ",".join(METHODS),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data of each task.")] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate of plain SGD.")] = 0.1,
    lam: Annotated[float, typer.Option(help="EWC's λ.")] = 30.0,
    slots: Annotated[int, typer.Option(min=1, help="ER's memory, in samples.")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="Runs a method: seeds 0 ... N-1.")] = 3,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every run to this file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curves into this .png, .svg or .pdf.")] = None,
) -> None:
    """Compare methods on one stream: ACC, forgetting, BWT and FWT as mean ± sd over seeds."""
    experiment: dict[str, Any] = {"dataset": dataset, "stream": stream, "scenario": scenario, "tasks": tasks}
    experiment |= {"methods": methods, "epochs": epochs, "lr": lr, "lam": lam, "slots": slots, "seeds": seeds}
    with refusals():
        names = list(dict.fromkeys(name.strip().lower() for name in methods.split(",")))
        for what, chosen, table in (("method", names, METHODS), ("stream", [stream], STREAMS)):
            if unknown := [name for name in chosen if name not in table]:
                raise ValueError(f"There is no {what} {unknown[0]!r}: choose from {', '.join(table)}.")
        if not 0 < lr < math.inf:
            raise ValueError(f"--lr must be a positive number, not {lr:g}.")
        _writable(json_path)
        _writable(figure, (".png", ".svg", ".pdf"))
        for name in names:
            METHODS[name](Options(lam, slots, 0))
        data = load(dataset)
        net = _network(data, STREAMS[stream](data, tasks, scenario, 0), stream)
        experiment |= {"methods": names, "net": repr(net(0)), "optimiser": "SGD", "batch_size": Learner.batch_size}
    results: list[dict[str, Any]] = []
    finished: dict[str, list[Results]] = {}
    with tqdm(total=len(names) * seeds * tasks, unit="task", leave=False) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # EWC's warning returns as the sentence of the divergence
        for name in names:
            runs: list[tuple[Results, float]] = []
            entry: dict[str, Any] = {"method": name}
            for seed in range(seeds):
                bar.set_description(f"{name}, seed {seed}")
                own = STREAMS[stream](data, tasks, scenario, seed)
                learner = Learner(
                    net(seed),
                    own.cumulative() if name == "joint" else own,
                    [*METHODS[name](Options(lam, slots, seed)), Tick(bar)],
                    epochs=epochs,
                    optimiser=partial(torch.optim.SGD, lr=lr),
                    seed=seed,
                )
                start = time.perf_counter()
                try:
                    runs.append((train(learner), time.perf_counter() - start))
                except Diverged as e:  # a mean over the seeds that survived would flatter: the row says so instead
                    entry["diverged"] = f"seed {seed}, task {learner.seen} of {tasks}: {e}"
                    break
            entry |= {"seeds": list(range(len(runs)))}
            entry |= {key: [r.metrics()[key] for r, _ in runs] for key in METRICS}
            entry |= {"R": [r.R.tolist() for r, _ in runs], "seconds": [s for _, s in runs]}
            results.append(entry)
            if "diverged" not in entry:
                finished[name] = [r for r, _ in runs]
    _report(f"{data.name}, {stream}, {scenario}-IL, {tasks} tasks, {epochs} epochs each", seeds, results)
    with refusals():
        if json_path:
            text = json.dumps({"experiment": experiment, "results": results}, indent=1, allow_nan=False)
            json_path.write_text(text + "\n", encoding="utf-8")
        if figure and finished:
            from .plots import curves

            picture = curves(finished, task=None)
            picture.figure.savefig(figure, dpi=200)
            out.print(f"{figure}: {picture.alt}", markup=False, soft_wrap=True)
    if all("diverged" in entry for entry in results):
        raise typer.Exit(1)


class Tick(Method):
    """Moves the progress bar on by a task."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def after_task(self, learner: Learner, task: Task) -> None:
        self.bar.update()


def _writable(path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"A figure's name ends in {' or '.join(suffixes)}, but this is {path}.")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OSError(f"{path} cannot be written: name a file in a folder that exists and is yours to write in.")


def _network(data: Data, stream: Stream, kind: str) -> Callable[[int], torch.nn.Module]:
    """Colour images whose pixels keep their places go to a SmallCNN, everything else to one hidden layer of 200."""
    x, units = data.train[0], stream.units.shape[1]
    if kind != "permuted" and x.ndim == 4 and x.shape[1] == 3 and x.shape[2] == x.shape[3] >= 16:
        return lambda seed: SmallCNN(3, x.shape[2], units, seed=seed)
    return lambda seed: MLP((x[0].numel(), 200, units), seed=seed)


def _report(title: str, seeds: int, results: list[dict[str, Any]]) -> None:
    over = f"mean ± sd over {seeds} seeds" if seeds > 1 else "one seed"
    table = Table(
        Column("method", no_wrap=True),
        title=title,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=f"{over}. High ACC and low forgetting are good. s: seconds a run",
    )
    for heading in ("ACC", "forgetting", "BWT", "FWT", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in results:
        if "diverged" in entry:
            table.add_row(entry["method"], "diverged")
            continue
        spread = lambda v: f" ± {np.std(v, ddof=1):.3f}" if len(v) > 1 else ""
        cells = [f"{np.mean(entry[key]):.3f}{spread(entry[key])}" for key in METRICS]
        table.add_row(entry["method"], *cells, f"{np.mean(entry['seconds']):.1f}")
    out.print(table)
    for entry in results:
        if "diverged" in entry:
            out.print(f"{entry['method']} diverged, {entry['diverged']}", markup=False, soft_wrap=True)


# -- data --------------------------------------------------------------------------------------------------------------


@app.command("data")
def data_(
    name: Annotated[str | None, typer.Argument(help="The data set to fetch; none: list them all.")] = None,
) -> None:
    """List the data sets, or fetch one: `cl-tutor data mnist`."""
    if name is None:
        table = Table("data set", "present", "MB", "licence", "source", title=f"Data sets under {default_root()}")
        for row in catalogue():
            table.add_row(row.name, "yes" if row.present else "no", f"{row.mb:g}"[:5], row.licence, row.source)
        out.print(table)
        out.print("Fetch one with `cl-tutor data NAME`. Another place: set CL_TUTOR_DATA. Your own: folder:PATH.")
        return
    with refusals():
        d = load(name, download=True)
    (x, _), (u, _) = d.train, d.test
    shape = "x".join(map(str, x.shape[1:]))
    out.print(
        f"{d.name}: {len(x)} to train, {len(u)} to test, {d.classes} classes, one sample is {shape}.", highlight=False
    )


# -- lab ---------------------------------------------------------------------------------------------------------------


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    browser: Annotated[bool, typer.Option(help="Open a browser, or only print the address.")] = True,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on.")] = None,
) -> None:
    """Open the course in JupyterLab. Further arguments go to JupyterLab: `cl-tutor lab --ip 0.0.0.0`."""
    with refusals(), tempfile.TemporaryDirectory() as settings:
        folder = _course()
        # Defaults for this server alone, beneath the user's own settings: no news popup over the first figure.
        overrides = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
        (Path(settings) / "labconfig").mkdir()
        (Path(settings) / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(overrides))
        before = [p for p in [os.environ.get("JUPYTER_CONFIG_PATH")] if p]
        env = os.environ | {"JUPYTER_CONFIG_PATH": os.pathsep.join([settings, *before])}
        command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
        command += ["--LabApp.default_url=/lab/tree/00_forgetting.ipynb", *([] if browser else ["--no-browser"])]
        command += [] if port is None else [f"--port={port}"]
        with subprocess.Popen([*command, *context.args], env=env) as server:
            while server.poll() is None:
                try:
                    server.wait()
                except KeyboardInterrupt:  # JupyterLab got it too, and asks whether to stop
                    continue
    raise typer.Exit(server.returncode)


def _notebooks() -> Path:
    """The repository's notebooks, or else those in the installed package."""
    package = Path(__file__).resolve().parent
    places = [package.parent / "notebooks"] if (package.parent / "pyproject.toml").is_file() else []
    for place in [*places, package / "_notebooks"]:
        if place.is_dir():
            return place
    raise FileNotFoundError("The notebooks are missing from this installation: install cl-tutor again.")


def _course() -> Path:
    """Where the reader works: in the repository's notebooks, or in a copy whose files are never overwritten."""
    source = _notebooks()
    if source.name != "_notebooks":
        return source
    mine = Path("cl-tutor-notebooks").resolve()
    for file in (file for file in source.rglob("*") if file.is_file()):
        target = mine / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(file, target)
    out.print(f"Your notebooks are in {mine}: change them as you like, they are never overwritten.", soft_wrap=True)
    return mine


# -- doctor ------------------------------------------------------------------------------------------------------------


@app.command()
def doctor() -> None:
    """Examine this machine, and say what to do about what is missing. Exit code 1 if the course cannot run."""
    install = "run the install line of the README again"
    device = lambda: torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, enough for every lesson"
    checks: list[tuple[str, bool, Callable[[], str], str]] = [  # name, essential?, what is found or an error, remedy
        ("Python", True, platform.python_version, ""),
        ("torch", True, lambda: torch.__version__, install),
        ("torchvision", False, _torchvision_state, f"the digits work without it; for other data sets {install}"),
        ("cores", False, lambda: f"{os.cpu_count()}; a run uses one thread", ""),
        ("device", False, device, "check the driver; the CPU is enough"),
        ("data sets", False, lambda: ", ".join(row.name for row in catalogue() if row.present), ""),
        ("JupyterLab", True, lambda: version("jupyterlab"), install),
        ("anywidget", True, lambda: version("anywidget"), f"the explorables need it: {install}"),
        ("notebooks", True, lambda: str(_notebooks()), install),
        ("training", True, _training, f"{install}, in a fresh environment"),
    ]
    table, broken = Table("what", "state", "found", "remedy"), False
    for name, essential, check, remedy in checks:
        try:
            table.add_row(name, "[green]ok[/]", escape(check()), "")
        except Exception as e:  # whatever an unhealthy machine raises is a finding
            state = "[bold red]BROKEN[/]" if essential else "[yellow]note[/]"
            table.add_row(name, state, escape(str(e) or type(e).__name__), remedy)
            broken |= essential
    out.print(table)
    raise typer.Exit(1 if broken else 0)


def _torchvision_state() -> str:
    state = _torchvision.state()
    if state == "absent":
        raise RuntimeError("absent")
    cured = "its compiled operators do not fit this torch, and are not needed: data sets and transforms work"
    return f"{version('torchvision')}, {state}" + (f" ({cured})" if state == "shimmed" else "")


def _training() -> str:
    """A short real run: one task of digits, about two seconds."""
    start = time.perf_counter()
    result = train(Learner(MLP(), permuted(digits(), 1), epochs=15))
    if result.acc < 0.85:  # 0.95 on every machine tried
        raise RuntimeError(f"accuracy {result.acc:.2f} after 15 epochs on the digits, expected 0.9 or more")
    return f"accuracy {result.acc:.2f} on the digits in {time.perf_counter() - start:.1f} s"


if __name__ == "__main__":
    app()
