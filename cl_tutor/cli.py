"""The command `cl-tutor`: lab opens the course, run compares methods, sweep runs tables of experiments, methods lists
them, data fetches data, doctor examines the machine.

Whatever can be known to be wrong is refused before any work is done, in one sentence and with exit code 2.
"""

from __future__ import annotations

import inspect
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
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from joblib import Parallel, cpu_count, delayed
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tqdm import tqdm

from . import _torchvision, plans, spec
from .data import Data, catalogue, default_root, digits, load
from .exercises import progress, reader, teacher
from .learn import Diverged, Learner, train
from .nets import MLP, SmallCNN
from .results import Results
from .stacked import sweep_stacked
from .streams import permuted
from .sweep import STREAMS, estimate, place_of, sweep

app = typer.Typer(help=__doc__.partition("\n\n")[0], no_args_is_help=True, pretty_exceptions_show_locals=False)
out, err = Console(), Console(stderr=True)
METRICS = ("acc", "forgetting", "bwt", "fwt")


@contextmanager
def refusals() -> Iterator[None]:
    """What the package says about bad input is the answer; nobody needs its traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as e:
        told = f"{e.filename}: {e.strerror}. Name another." if isinstance(e, OSError) and e.filename else str(e)
        err.print(f"[bold red]Error:[/] {escape(told)}", soft_wrap=True)
        raise typer.Exit(2) from None


# -- run ---------------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What every job of a comparison needs, in whatever process it runs."""

    data: Data
    stream: str
    scenario: str
    tasks: int
    settings: spec.Settings
    epochs: int
    lr: float
    batch_size: int

    def learner(self, method: str, seed: int) -> Learner:
        """The run of one method and seed before its first step, or ValueError if it cannot be."""
        stream = STREAMS[self.stream](self.data, self.tasks, self.scenario, seed)
        x, units = self.data.train[0], stream.units.shape[1]
        sizes = (x[0].numel(), 100, 100, units)
        # colour images whose pixels keep their places go to a SmallCNN
        picture = self.stream != "permuted" and x.ndim == 4 and x.shape[1] == 3 and x.shape[2] == x.shape[3] >= 16
        net = (lambda seed: SmallCNN(3, x.shape[2], units, seed=seed)) if picture else partial(MLP, sizes)
        own, methods = spec.build(method, self.settings, net, sizes, seed)
        return Learner(
            own,
            stream,
            methods,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimiser=partial(torch.optim.SGD, lr=self.lr),
            seed=seed,
        )


class Run(NamedTuple):
    """What came of it: results, or else a sentence about the divergence; and what the methods warned of."""

    method: str
    seed: int
    seconds: float  # of the CPU
    results: Results | None = None
    diverged: str = ""
    notes: list[str] = []


@app.command()
def run(
    dataset: Annotated[str, typer.Option(help="See `cl-tutor data`; or folder:PATH.")] = "digits",
    stream: Annotated[str, typer.Option(help=", ".join(STREAMS) + ".")] = "permuted",
    scenario: Annotated[str, typer.Option(help="task, domain or class.")] = "domain",
    tasks: Annotated[int, typer.Option(min=2)] = 5,
    methods: Annotated[
        str, typer.Option(help="With commas, see `cl-tutor methods`; er+lwf+ewc is all three at once.")
    ] = "naive,ewc,er,joint",
    settings: Annotated[
        list[str], typer.Option("--set", help="Change a default, any number of times: --set ewc.lam=10.")
    ] = [],  # noqa: B006
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data of each task.")] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate of plain SGD.")] = 0.2,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 32,
    lam: Annotated[float | None, typer.Option(help="EWC's λ, short for --set ewc.lam.")] = None,
    slots: Annotated[int | None, typer.Option(help="ER's memory in samples, short for --set er.slots.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs a method: seeds 0 ... N-1.")] = 3,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. All cores, if not given.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every run to this file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curves into this .png, .svg or .pdf.")] = None,
) -> None:
    """Compare methods on one stream: ACC, forgetting, BWT and FWT as mean ± sd over seeds."""
    start = time.perf_counter()
    experiment: dict[str, Any] = {"dataset": dataset, "stream": stream, "scenario": scenario, "tasks": tasks}
    with refusals():
        _writable(json_path)
        _writable(figure, (".png", ".svg", ".pdf"))
        if stream not in STREAMS:
            raise ValueError(f"There is no stream {stream!r}: choose from {', '.join(STREAMS)}.")
        if not 0 < lr < math.inf:
            raise ValueError(f"--lr must be a positive number, not {lr:g}.")
        chosen = list(dict.fromkeys("+".join(spec.names(method)) for method in methods.split(",")))
        short = {"ewc.lam": lam, "er.slots": slots}
        wanted = spec.parse([*settings, *(f"{name}={value}" for name, value in short.items() if value is not None)])
        if idle := set(wanted) - {name for method in chosen for name in spec.names(method)}:
            raise ValueError(f"{min(idle)}.{min(wanted[min(idle)])} is set, but {min(idle)} is not among the methods.")
        plan = Plan(load(dataset), stream, scenario, tasks, wanted, epochs, lr, batch_size)
        nets = {method: repr(spec.check(plan.learner(method, 0)).net) for method in chosen}
    experiment |= {"methods": chosen, "set": settings, "epochs": epochs, "lr": lr, "lam": lam, "slots": slots}
    experiment |= {"batch_size": batch_size, "seeds": seeds, "optimiser": "SGD", "nets": nets}
    cores = min(jobs or cpu_count(), len(chosen) * seeds)
    runs = _execute(plan, chosen, seeds, cores)
    results = [_entry(method, runs) for method in chosen]
    _report(f"{plan.data.name}, {stream}, {scenario}-IL, {tasks} tasks, {epochs} epochs each", seeds, results)
    for method, notes in {run.method: run.notes for run in runs[::-1] if run.notes and not run.diverged}.items():
        out.print(f"{method}: {notes[0]}", markup=False, soft_wrap=True)
    of_cores = f"{cores} cores" if cores > 1 else "one core"
    out.print(f"{len(runs)} runs in {time.perf_counter() - start:.0f} s on {of_cores}.", highlight=False)
    with refusals():
        if json_path:
            text = json.dumps({"experiment": experiment, "results": results}, indent=1, allow_nan=False)
            json_path.write_text(text + "\n", encoding="utf-8")
        if figure:
            _draw(figure, runs, [entry["method"] for entry in results if "diverged" not in entry])
    if all("diverged" in entry for entry in results):
        raise typer.Exit(1)


def _job(plan: Plan, method: str, seed: int) -> Run:
    learner = plan.learner(method, seed)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            results, reason = spec.execute(method, learner), ""
        except Diverged as e:
            results, reason = None, str(e)
    seconds, notes = time.process_time() - start, [str(w.message) for w in caught]
    if results is None:  # the warning that went before it says more
        reason = f"seed {seed}, task {learner.seen} of {plan.tasks}: {notes[0] if notes else reason}"
    return Run(method, seed, seconds, results, reason, notes)


def _execute(plan: Plan, methods: list[str], seeds: int, cores: int) -> list[Run]:
    """Every (method, seed) in another process, as cores become free; on one core, one after another in this one."""
    work = (delayed(_job)(plan, method, seed) for method in methods for seed in range(seeds))
    runs = []
    with tqdm(total=len(methods) * seeds, unit="run", leave=False) as bar:
        for done in Parallel(n_jobs=cores, return_as="generator_unordered")(work):
            runs.append(done)
            bar.set_description(f"{done.method}, seed {done.seed}", refresh=False)
            bar.update()
    return sorted(runs, key=lambda r: (methods.index(r.method), r.seed))


def _entry(method: str, runs: list[Run]) -> dict[str, Any]:
    """A method in the JSON: an entry for every seed that came to its end, and what became of the first that did not."""
    own = [r for r in runs if r.method == method]
    done = [(r, r.results) for r in own if r.results]
    entry: dict[str, Any] = {"method": method, "seeds": [r.seed for r, _ in done]}
    entry |= {key: [results.metrics()[key] for _, results in done] for key in METRICS}
    entry |= {"R": [results.R.tolist() for _, results in done], "seconds": [r.seconds for r, _ in done]}
    reasons = [r.diverged for r in own if r.diverged]
    return entry | ({"diverged": reasons[0]} if reasons else {})


def _writable(path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"A figure's name ends in {' or '.join(suffixes)}, but this is {path}.")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OSError(f"{path} cannot be written: name a file in a folder that exists and is yours to write in.")


def _report(title: str, seeds: int, results: list[dict[str, Any]]) -> None:
    over = f"mean ± sd over {seeds} seeds" if seeds > 1 else "one seed"
    table = Table(
        Column("method", no_wrap=True),
        title=title,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=f"{over}. High ACC and low forgetting are good. s: CPU seconds a run",
    )
    for heading in ("ACC", "forgetting", "BWT", "FWT", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in results:
        if "diverged" in entry:  # a mean over the seeds that survived would flatter
            table.add_row(entry["method"], "diverged")
            continue
        spread = lambda v: f" ± {np.std(v, ddof=1):.3f}" if len(v) > 1 else ""
        cells = [f"{np.mean(entry[key]):.3f}{spread(entry[key])}" for key in METRICS]
        table.add_row(entry["method"], *cells, f"{np.mean(entry['seconds']):.1f}")
    out.print(table)
    for entry in results:
        if "diverged" in entry:
            out.print(f"{entry['method']} diverged, {entry['diverged']}", markup=False, soft_wrap=True)


def _draw(path: Path, runs: list[Run], methods: list[str]) -> None:
    if methods:
        from .plots import curves

        picture = curves({m: [r.results for r in runs if r.method == m and r.results] for m in methods}, task=None)
        picture.figure.savefig(path, dpi=200)
        out.print(f"{path}: {picture.alt}", markup=False, soft_wrap=True)


# -- sweep -------------------------------------------------------------------------------------------------------------


@app.command(name="sweep")
def sweep_(
    file: Annotated[Path | None, typer.Argument(help="A TOML file of experiments.", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(help=", ".join(plans.presets()) + ".")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=plans.TRIAL, help="Runs a line: seeds 0 ... N-1. Default: the file's.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. All cores, if not given.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler, tcp://HOST:PORT, in place of --jobs.")
    ] = None,
    stack: Annotated[
        bool, typer.Option("--stack", help="Small networks 20 at a time as one: faster; last digits may differ.")
    ] = False,
    cache: Annotated[Path, typer.Option(help="Where the result of each run is kept.")] = Path("cl-tutor-sweeps"),
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the outcome to this file.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell how many runs, how long, how much memory.")
    ] = False,
) -> None:
    """Run many experiments, and go on where an earlier sweep was interrupted: FILE.toml, or --preset NAME."""
    with refusals():
        _writable(json_path)
        if (file is None) == (preset is None):
            raise ValueError("Name either a TOML file or --preset NAME.")
        if stack and scheduler:
            raise ValueError("--stack runs on this machine: leave out --scheduler.")
        plan = plans.Plan.preset(preset) if preset else plans.Plan.read(file or Path())
        seeds = seeds or plan.seeds
        everything = plan.trials() + [replace(cell.candidates[0], seed=k) for cell in plan.cells for k in range(seeds)]
        for e in tqdm(dict.fromkeys(replace(e, seed=0) for e in everything), desc="checking", leave=False):
            spec.check(e.learner())  # before any work
        left = [e for e in everything if not place_of(e, cache).exists()]
        stored = f", {len(everything) - len(left)} of them are there already" * (len(left) < len(everything))
        out.print(f"{plan.about} {len(everything)} runs{stored}.", soft_wrap=True, markup=False, highlight=False)
        cores = jobs or cpu_count()
        if dry_run:
            hours, gigabytes = estimate(left)
            text = (
                f"About {hours:.1f} hours of CPU, {hours / cores:.1f} on {cores} cores, {gigabytes:.1f} GB a process."
            )
            out.print(text + " With --stack it takes less." * stack, highlight=False)
            return
        alone = partial(sweep, cache=cache, jobs=cores, scheduler=scheduler)
        run_all = partial(sweep_stacked, cache=cache, jobs=cores) if stack else alone
        lines = plans.carry_out(plan, seeds, run_all)
        out.print(plans.table(lines))
        if json_path:
            plans.store(
                json_path, plan, lines, {"command": f"cl-tutor sweep {f'--preset {preset}' if preset else file}"}
            )
        if not any(line.runs for line in lines):
            raise typer.Exit(1)


# -- methods -----------------------------------------------------------------------------------------------------------


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Tell all about this one; none: list them all.")] = None,
) -> None:
    """List the methods that `cl-tutor run` knows, or tell all about one: `cl-tutor methods ewc`."""
    if name is None:
        table = Table("method", "idea or equation", "suits", "memory", box=box.SIMPLE_HEAD, pad_edge=False)
        for family, group in groupby(spec.METHODS.items(), lambda item: item[1].family):
            table.add_section()
            table.add_row(f"[bold]{family}[/]")
            for method, _ in group:
                table.add_row(method, *map(escape, spec.describe(method)))
        out.print(table)
        out.print("Options, and the whole story: `cl-tutor methods NAME`. P: the number of parameters.")
        return
    with refusals():
        recipe, options = spec.known(name := name.lower()), spec.options(name)
    out.print(inspect.getdoc(recipe.make), markup=False, highlight=False, soft_wrap=True)
    defaults = {
        option: p.default.__name__.lower() if isinstance(p.default, type) else p.default
        for option, p in options.items()
    }
    for option, value in defaults.items():
        out.print(f"--set {name}.{option}={str(value).lower()}", markup=False, highlight=False)


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


# -- learning and teaching ---------------------------------------------------------------------------------------------


@app.command(name="progress")
def progress_(reset: Annotated[bool, typer.Option("--reset", help="Forget all of it.")] = False) -> None:
    """What do you forget? Your answers and predictions so far, which never leave this machine."""
    with refusals():
        if reset:
            progress.reset()
            out.print(f"Your progress is empty: {progress.path()} is deleted.", soft_wrap=True)
            return
        stored = progress.read()
        if (known := reader.knowledge()) is None:
            out.print("You have answered nothing yet: `cl-tutor lab` opens the course.")
        else:
            met, results = known
            names = ", ".join(f"task {j} is lesson {k:02d}" for j, k in enumerate(met, 1))
            out.print(results, f"Here {names}.", soft_wrap=True)
        for about, (said, measured) in stored["guesses"].items():
            out.print(f"{about}: you said {said}, measured {measured}", soft_wrap=True, markup=False)
        out.print(f"Stored in {progress.path()}; --reset deletes it.", soft_wrap=True, markup=False)


Lesson = Annotated[int, typer.Argument(min=0, help="The lesson's number, such as 5.", show_default=False)]


@app.command()
def sheet(lesson: Lesson) -> None:
    """Print the derivation of a lesson as Markdown, each step checked now: `cl-tutor sheet 5 > derivation.md`."""
    with refusals():
        typer.echo(teacher.sheet(lesson), nl=False)


@app.command()
def lecturer(
    lessons: Annotated[
        list[int] | None, typer.Argument(help="Their numbers; default: all.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the copies go.")] = Path("lecturer"),
) -> None:
    """Write the lecturer's copy of lessons: every solution filled in, with notes for teaching."""
    with refusals():
        folder.mkdir(parents=True, exist_ok=True)
        for k in lessons or reader.LESSONS:
            reader.module(k)  # refuses a lesson that does not exist
            name = f"{k:02d}_{reader.LESSONS[k]}.ipynb"
            copy = teacher.lecturers_copy(json.loads((_notebooks() / name).read_text(encoding="utf-8")), k)
            (folder / name).write_text(json.dumps(copy, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            out.print(str(folder / name), soft_wrap=True, markup=False, highlight=False)


@app.command(name="site")
def site_(
    target: Annotated[
        Path, typer.Option("--out", help="The folder to write; an earlier site in it is replaced.")
    ] = Path("site"),
    mathjax: Annotated[Path | None, typer.Option(help="A copy of MathJax 3's tex-mml-svg.js; default: npm's.")] = None,
) -> None:
    """Build the course as pages that need no kernel and no network."""
    from . import site

    with refusals():
        site.build(_notebooks().parent, target, mathjax)
        out.print(f"Open {target / 'index.html'} in a browser: no server is needed.", soft_wrap=True, highlight=False)


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
