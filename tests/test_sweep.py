"""Sweeps: an experiment is a value, its result is kept, and nothing that goes wrong on the way changes a number."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from cl_tutor import cli, evidence, plans, stacked, sweep
from cl_tutor.plans import Cell, Line, Plan
from cl_tutor.sweep import Experiment, recall, results, run

RUNS = Path(__file__).parents[1] / "notebooks" / "runs"
QUICK = Experiment(stream="split", scenario="class", tasks=2, net="8", lr=0.1)
BOTH = [replace(QUICK, seed=k) for k in range(2)]
PUBLISHED = {"split-mnist": 30, "split-mnist-long": 22, "permuted-mnist": 19, "fisher-variants": 5}  # lines quoted
MEMORY = ("er", "der++", "icarl")  # those that keep images
STORED = [p for p in sorted(RUNS.glob("*.json")) if '"plan"' in p.read_text(encoding="utf-8")[:400]]


def numbers(record):
    return record["R"], record["b"]


# -- a value -----------------------------------------------------------------------------------------------------------


def test_equal_experiments_are_written_alike_and_others_are_not():
    a = Experiment("EWC", {"ewc.samples": 5, "ewc.lam": 3}, lr=1)
    assert a == Experiment("ewc", (("ewc.lam", 3.0), ("ewc.samples", "5")), lr=1.0)
    assert a.canonical() == json.dumps(json.loads(a.canonical()), sort_keys=True) and hash(a) is not None
    assert len({a.key, replace(a, seed=1).key, replace(a, settings={}).key, replace(a, held_out=True).key}) == 4


def test_the_version_of_the_code_is_part_of_the_key(monkeypatch):
    before = QUICK.key
    monkeypatch.setattr(sweep, "VERSION", sweep.VERSION + 1)
    assert QUICK.key != before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "ewk"}, "no method 'ewk'"),
        ({"settings": {"ewc.lam": 1}}, "ewc.lam is set, but the method is naive"),
        ({"stream": "spilt"}, "no stream 'spilt'"),
        ({"optimiser": "lion"}, "no optimiser 'lion'"),
        ({"net": "big"}, "net must be cnn or widths"),
        ({"epochs": 1.5}, "epochs must be of type int"),
        ({"method": 3}, "method must be of type str, not 3"),
        ({"net": "10²"}, "net must be cnn or widths"),
        ({"lr": -1.0}, "lr must be a finite number above 0, not -1"),
        ({"lr": float("nan")}, "lr must be a finite number above 0, not nan"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"momentum": 0.9, "optimiser": "adam"}, "and be 0 but for sgd, not 0.9"),
        ({"samples": -5}, "samples and watch must be 0 or more, not -5"),
        ({"watch": -1}, "samples and watch must be 0 or more, not -1"),
    ],
)
def test_what_cannot_be_is_refused_at_once(given, said):
    with pytest.raises(ValueError, match=said):
        Experiment(**given)


def test_more_samples_than_there_are_are_refused():
    with pytest.raises(ValueError, match="samples is 5000, but digits has 1397 to train on"):
        replace(QUICK, samples=5000).learner()


def test_held_out_data_is_never_trained_on_and_never_the_test_set():
    own, held = (replace(QUICK, held_out=h).learner().stream.tasks for h in (False, True))
    rows = lambda x: {tuple(row) for row in x.flatten(1).tolist()}
    for whole, part in zip(own, held):
        assert rows(part.test.x) < rows(whole.train.x)
        assert not rows(part.test.x) & rows(part.train.x)  # no two digits are the same image
        assert not rows(part.test.x) & rows(whole.test.x)


# -- many --------------------------------------------------------------------------------------------------------------


def test_a_second_sweep_reads_and_an_interrupted_one_goes_on(tmp_path, monkeypatch):
    first = sweep.sweep(BOTH, tmp_path, jobs=1, progress=False)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".json"]  # nothing half-written is left
    (tmp_path / f"{BOTH[1].key}.json").unlink()
    ran = []
    monkeypatch.setattr(sweep, "run", lambda e, device: ran.append(e) or run(e, device))
    again = sweep.sweep(BOTH, tmp_path, jobs=1, progress=False)
    assert ran == BOTH[1:] and [numbers(r) for r in again] == [numbers(r) for r in first]


def test_ctrl_c_costs_only_the_run_under_way(tmp_path):
    code = "import signal, sys; from dataclasses import replace; from cl_tutor.sweep import *\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
    code += "e = Experiment(stream='split', scenario='class', tasks=2, net='8', lr=0.1, epochs=30)\n"
    code += "sweep([replace(e, seed=k) for k in range(500)], sys.argv[1], jobs=1, progress=False)"
    cache = tmp_path / "cache"
    with subprocess.Popen([sys.executable, "-c", code, cache], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(cache.glob("*.json"))) < 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    left = list(cache.iterdir())
    assert 2 <= len(left) < 500 and all(p.suffix == ".json" for p in left)
    wanted = [replace(QUICK, epochs=30, seed=k) for k in range(2)]
    before = {e: (cache / f"{e.key}.json").stat().st_mtime_ns for e in wanted}
    found = sweep.sweep(wanted, cache, jobs=1, progress=False)
    assert all((cache / f"{e.key}.json").stat().st_mtime_ns == at for e, at in before.items())  # read, not run again
    assert numbers(found[0]) == numbers(run(wanted[0]))


DAMAGES = {
    "nothing": lambda r: "",
    "half": lambda r: "{",
    "no fields": lambda r: '{"experiment": {}}',
    "another seed": lambda r: json.dumps(r | {"experiment": r["experiment"] | {"seed": 9}}),
    "another version": lambda r: json.dumps(r | {"version": 0}),
    "no R and no reason": lambda r: json.dumps(r | {"R": None}),
    "no seconds": lambda r: json.dumps({k: v for k, v in r.items() if k != "seconds"}),
    "seconds in words": lambda r: json.dumps(r | {"seconds": "x"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_with_a_warning_and_its_run_is_repeated(tmp_path, damage):
    (first,) = sweep.sweep([QUICK], tmp_path, jobs=1, progress=False)
    path = tmp_path / f"{QUICK.key}.json"
    path.write_text(DAMAGES[damage](first))
    with pytest.warns(UserWarning, match="is damaged"):
        (again,) = sweep.sweep([QUICK], tmp_path, jobs=1, progress=False)
    assert numbers(again) == numbers(first) and path.with_suffix(".damaged").exists() and recall(QUICK, tmp_path)


def test_what_was_set_aside_before_is_kept_and_a_folder_is_set_aside_too(tmp_path):
    path = tmp_path / f"{QUICK.key}.json"
    path.with_suffix(".damaged").write_text("an earlier one")
    path.mkdir()
    with pytest.warns(UserWarning, match=r"it is now .*\.1\.damaged"):
        assert recall(QUICK, tmp_path) is None
    assert path.with_suffix(".damaged").read_text() == "an earlier one" and path.with_suffix(".1.damaged").is_dir()


def test_where_nothing_can_be_written_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "run", lambda *args: pytest.fail("it ran"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        sweep.sweep([QUICK], tmp_path / "file", jobs=1, progress=False)
    monkeypatch.setattr(sweep.os, "access", lambda *args: False)
    with pytest.raises(PermissionError, match="name another folder"):
        sweep.sweep([QUICK], tmp_path, jobs=1, progress=False)


def test_an_address_that_is_none_is_refused_and_one_that_is_not_needed_is_not_asked(tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match="address is tcp://HOST:PORT, not 'nonsense'"):
        sweep.sweep([QUICK], tmp_path, scheduler="nonsense", progress=False)
    done = sweep.sweep([QUICK], tmp_path, jobs=1, progress=False)
    assert sweep.sweep([QUICK], tmp_path, scheduler="tcp://127.0.0.1:1", progress=False) == done


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("distributed")

    def silent(*args, **options):
        raise OSError("timed out")

    monkeypatch.setattr(sweep, "parallel_config", silent)
    with pytest.raises(ConnectionError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1: start one"):
        sweep._backend("tcp://127.0.0.1:1")


def test_a_diverged_run_is_a_result_that_says_so(tmp_path):
    wild = replace(QUICK, method="ewc", settings={"ewc.lam": 1e7, "ewc.samples": 5})
    (record,) = sweep.sweep([wild], tmp_path, jobs=1, progress=False)
    assert results(record) is None and "λ" in record["diverged"]
    assert recall(wild, tmp_path) == record  # and is not tried again


def test_two_processes_share_a_cache_and_agree_with_one(tmp_path):
    code = "import sys; from dataclasses import replace; from cl_tutor.sweep import *\n"
    code += "e = Experiment(stream='split', scenario='class', tasks=2, net='8', lr=0.1)\n"
    code += "sweep([replace(e, seed=k) for k in range(4)], sys.argv[1], jobs=1, progress=False)"
    twice = [subprocess.Popen([sys.executable, "-W", "error::UserWarning", "-c", code, tmp_path]) for _ in range(2)]
    assert [p.wait(120) for p in twice] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 4
    assert numbers(recall(BOTH[1], tmp_path)) == numbers(run(BOTH[1]))


def test_a_cluster_that_loses_a_worker_gives_what_one_process_gives(tmp_path):
    pytest.importorskip("distributed")
    wanted = [replace(QUICK, epochs=20, seed=k) for k in range(8)]
    serial = sweep.sweep(wanted, tmp_path / "serial", jobs=1, progress=False)
    env = os.environ | {"PYTHONPATH": str(RUNS.parents[1]), "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s"}
    start = lambda *words: subprocess.Popen([sys.executable, "-m", *words], env=env, stderr=subprocess.DEVNULL)
    place = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(place), "--no-dashboard"]
    made = [start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *options)]
    try:
        while not place.exists():
            time.sleep(0.1)
        worker = ["distributed.cli.dask_worker", *options, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"]
        made += [start(*worker) for _ in range(2)]
        address = json.loads(place.read_text())["address"]
        with ThreadPoolExecutor(1) as pool:
            cache = tmp_path / "cluster"
            found = pool.submit(sweep.sweep, wanted, cache, scheduler=address, progress=False)
            while not found.done() and not list(cache.glob("*.json")):
                time.sleep(0.05)
            made[1].send_signal(signal.SIGKILL)
            assert [numbers(r) for r in found.result(240)] == [numbers(r) for r in serial]
    finally:
        for process in made:
            process.kill()
            process.wait()


# -- as one ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_stacked_runs_are_the_separate_ones(scenario):
    base = replace(QUICK, scenario=scenario, tasks=5, net="12-10", optimiser="adam", lr=1e-3, epochs=2)
    how = {"naive": {}, "l2": {}, "ewc": {"ewc.lam": 30, "ewc.samples": 20}, "si": {"si.lam": 30}, "er+lwf": {}}
    how |= {"online-ewc": {"online-ewc.samples": 20}, "mas": {"mas.samples": 20}, "der++": {"der++.slots": 50}}
    wanted = [replace(base, method=m, settings=s, seed=k) for k, (m, s) in enumerate(how.items())]
    assert all(map(stacked.fits, wanted))
    (group,) = stacked.groups(wanted, 20)
    together = stacked.run_many(group)
    for e, record in zip(group, together):
        np.testing.assert_allclose(record["R"], run(e)["R"], atol=0.03, err_msg=e.method)  # a test set has 80 digits


def test_stacked_weights_are_the_separate_ones_to_1e_5():
    e = replace(QUICK, method="ewc", settings={"ewc.lam": 30, "ewc.samples": 20}, net="12-10")
    wanted = [e, replace(e, seed=1), replace(e, settings={"ewc.lam": 3, "ewc.samples": 20})]
    stack = stacked.Stack(wanted, "cpu")
    for stack.seen in (1, 2):
        stack.fit(stack.seen - 1, e.epochs, e.batch_size)
        stack.consolidate(stack.seen - 1)
    for r, one in enumerate(wanted):
        learner = one.learner()
        sweep.spec.execute(one.method, learner)
        for name, p in learner.params.items():
            torch.testing.assert_close(stack.params[name][r], p, rtol=0, atol=1e-5)


def test_a_stacked_sweep_fills_the_cache_of_the_plain_one(tmp_path):
    wanted = [replace(QUICK, net="12-10", seed=k) for k in range(3)] + [replace(QUICK, stream="rotated")]
    kept = sweep.sweep(wanted[:1], tmp_path, jobs=1, progress=False)
    found = stacked.sweep_stacked(wanted, tmp_path, jobs=1, progress=False, most=2)
    assert [r["machine"].rpartition(", ")[2] for r in found[1:3]] == ["2 runs as one"] * 2
    assert found[0] == kept[0]  # what is there is not done again
    assert numbers(found[3]) == numbers(run(wanted[3]))  # and what does not fit runs alone
    assert sweep.sweep(wanted, tmp_path, jobs=1, progress=False) == found


def test_a_stack_needs_no_scheduler():
    told = CliRunner().invoke(cli.app, ["sweep", "--preset", "lwf", "--stack", "--scheduler", "tcp://127.0.0.1:1"])
    assert told.exit_code and "leave out --scheduler" in told.output


# -- files -------------------------------------------------------------------------------------------------------------


def test_every_preset_parses_and_speaks_of_real_methods():
    for name in plans.presets():
        plan = Plan.preset(name)
        assert plan.cells and plan.about.endswith(".")
        published = sum(cell.published is not None for cell in plan.cells)
        assert published == PUBLISHED.get(name, 0), name


def test_the_choice_is_made_on_held_out_data_with_a_seed_that_is_not_reported():
    cell = Cell([replace(QUICK, lr=lr) for lr in (0.1, 0.2, 0.3)])
    assert all(e.held_out and e.seed == plans.TRIAL for e in cell.trials())
    made = [{"R": None, "b": None}, {"R": [[0.7]], "b": [0.5]}, {"R": [[0.6]], "b": [0.5]}]
    assert cell.best(made) == cell.candidates[1] and Cell([QUICK]).trials() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about = 'x'", "'grid' is a required property"),
        ("[[grid]]\nmethod = 'naive'", "'about' is a required property"),
        ("about = 'x'\ngrid = []", r"grid: \[\] should be non-empty"),
        ("about = 'x'\n[grid]\nmethod = 'naive'", "grid: .* is not of type 'array'"),
        ("about = 'x'\ncommon = 3\n[[grid]]\nmethod = 'naive'", "common: 3 is not of type 'object'"),
        ("about = 'x'\nseeds = 'many'\n[[grid]]\nmethod = 'naive'", "seeds: 'many' is not of type"),
        ("about = 'x'\nseeds = 101\n[[grid]]\nmethod = 'naive'", "seeds: 101 is greater"),  # 100 is the trials' seed
        ("about = 'x'\nauthor = 'y'\n[[grid]]\nmethod = 'naive'", "'author' was unexpected"),
        ("about = 'x'\npublished = [3]\n[[grid]]\nmethod = 'naive'", r"published\[0\]: 3 is not"),
        ("about = 'x'\npublished = [{acc = '97'}]\n[[grid]]\nmethod = 'naive'", "acc: '97' is not of type 'number'"),
        (
            "about = 'x'\npublished = [{methd = 'naive', acc = 1}]\n[[grid]]\nmethod = 'naive'",
            "no line of the table fits",
        ),
        ("about = 'x'\n[[grid]]\nlr = []", r"lr: \[\] should be non-empty"),
        ("about = 'x'\n[[grid]]\nchoose = 3", "choose: 3 is not of type 'object'"),
        ("about = 'x'\n[[grid]]\nchoose = {lr = []}", r"choose.lr: \[\] should be non-empty"),
        ("about = 'x'\n[[grid]]\nmethod = 3", "method must be of type str, not 3"),
        ("about = 'x'\n[[grid]]\nmehtod = 'naive'", "mehtod is not known"),
        ("about = 'x'\n[[grid]]\nmethod = 'ewk'", "no method 'ewk'"),
        ("about = ", "Invalid value"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, text, said):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        Plan.read(tmp_path / "a.toml")


def test_no_seed_of_a_table_is_that_of_the_trials():
    assert json.loads(plans.SCHEMA.read_text())["properties"]["seeds"]["maximum"] == plans.TRIAL  # seeds 0 ... 99


def test_what_is_stored_is_read_back(tmp_path):
    lines = [Line(QUICK, [run(e) for e in BOTH], {"acc": 1.0, "sd": 2.0}, [[{"lr": 0.1}, 0.5]])]
    plans.store(tmp_path / "a.json", Plan("a", "b", []), lines, {})
    (line,) = plans.read(tmp_path / "a.json")
    assert (line.experiment, line.published, line.tried) == (QUICK, lines[0].published, lines[0].tried)
    for old, new in zip(lines[0].runs, line.runs):
        np.testing.assert_allclose(new.R, old.R, atol=5.1e-5)


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_a_stored_file_is_small_and_made_by_this_code(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 500_000 and found["version"] == sweep.VERSION and found["protocol"]["command"]
    assert all(line.records for line in plans.read(path))


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_what_a_stored_file_lacks_of_its_preset_is_said(path):
    found, lines = json.loads(path.read_text(encoding="utf-8")), plans.read(path)
    plan, own = Plan.preset(found["plan"]), {line.experiment for line in lines}
    lacks = sum(not own & set(cell.candidates) for cell in plan.cells)
    few = min(len(line.records) for line in lines) < plan.seeds
    assert bool(found["protocol"].get("missing")) is bool(lacks or few), (lacks, few)


def test_a_stored_sample_is_found_again():
    """On another CPU and another torch, 30 of these runs came out the same to the four stored digits. Some may not."""
    lines = [line for line in plans.read(RUNS / "lambda_grid.json") if line.experiment.stream == "split"]
    rng = np.random.default_rng(int(os.environ.get("CL_TUTOR_SAMPLE", "0")))
    for k in rng.choice(len(lines), 4, replace=False):
        stored = lines[k].records[0]
        e, own = lines[k].experiment, results(stored)
        new = results(run(replace(e, seed=stored["experiment"]["seed"])))
        assert (new is None) == (own is None), e
        if own:
            assert abs(new.acc - own.acc) < 0.02 and np.abs(new.R[0] - own.R[0]).max() < 0.02, e


def test_a_stored_sample_on_mnist_is_found_again(shared_data, monkeypatch):
    """One short run of Split MNIST, where MNIST is: stored by a stack of runs, and here alone."""
    monkeypatch.setenv("CL_TUTOR_DATA", str(shared_data))
    lines = plans.read(RUNS / "lwf.json")
    rng = np.random.default_rng(int(os.environ.get("CL_TUTOR_SAMPLE", "0")))
    line = lines[rng.integers(len(lines))]
    stored = line.records[0]
    new, own = results(run(replace(line.experiment, seed=stored["experiment"]["seed"]))), results(stored)
    assert abs(new.acc - own.acc) < 0.02 and np.abs(new.R[0] - own.R[0]).max() < 0.02, line.experiment


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    return evidence.page(RUNS, place), place


def test_the_page_shows_every_table_as_a_figure_beside_what_was_published(shown):
    text, place = shown
    assert len(list(place.glob("*.svg"))) == text.count("![") == len(STORED) - 1  # one grid is for an explorable
    assert text.count("\n## ") == len(STORED)  # and the collapse is no sweep, and has no figure
    assert "Hsu et al. (2018)" in text and "Buzzega et al. (2020)" in text
    assert min(len(line) for line in text.splitlines() if line.startswith("![")) > 80  # alt text
    (line,) = (x for x in text.splitlines() if x.startswith("| task | er | er.size 128, er.slots 1100 |"))
    assert "99.28 ± 0.21" in line and "99.40 ± 0.08" in line  # read off the stored runs, and off the paper
    assert "ACC against γ. domain-IL, λ 3: best 76.1 at 1, last 76.1; domain-IL, λ 30: best 71.0 at 0.5" in text
    assert "nan" not in text and "None" not in text


def test_every_cell_more_than_two_standard_errors_from_the_paper_is_explained(shown):
    lines = plans.read(RUNS / "split_mnist.json")
    told = evidence.apart(lines, "split-mnist").splitlines()[2:]
    assert all(len(line.runs) == 5 for line in lines) and "All lines\nhave five seeds" in shown[0]
    assert all(row in shown[0] for row in told) and len(told) == 20
    (ewc,) = (row for row in told if row.startswith("| domain | ewc |"))
    assert "+12.08 | 1.59" in ewc  # 70.93 − 58.85; √(3.05²/5 + 2.59²/10), by hand
    assert not any(row.startswith("| task | er |") for row in told)  # 0.12 away, of 0.10
    at = {}  # the two numbers that explain it are the stored ones
    for line in plans.read(RUNS / "ewc_lambda_mnist.json"):
        at[line.experiment.scenario, *dict(line.experiment.settings).values()] = plans.spread(line).split()[0]
    assert at["task", "exact", 100.0, 200] in ewc and at["domain", "exact", 10.0, 200] in ewc


def test_combinations_are_compared_seed_by_seed(shown):
    lines = plans.read(RUNS / "combinations.json")
    a, b = ([np.mean(r["R"][-1]) for r in line.records] for line in lines[3:6:2])
    found = stats.ttest_rel(b, a)  # another's t: er+lwf beside er
    (row,) = (x for x in evidence.paired(lines).splitlines() if x.startswith("| er+lwf | er |"))
    assert (
        row in shown[0]
        and f"{100 * (np.mean(b) - np.mean(a)):+.2f} ± " in row
        and f"| {found.statistic:+.1f} | 10 |" in row
    )


def test_what_the_page_says_of_buffers_is_so():
    at = {
        (m, v): line for line in plans.read(RUNS / "buffers.json") for m, v in line.experiment.settings if "slots" in m
    }
    gain = {n: evidence.difference(at["der++.slots", n], at["er.slots", n]) for m, n in at if m == "er.slots"}
    assert all(d.mean() > 3 and d.mean() > 2 * d.std(ddof=1) / len(d) ** 0.5 for d in (gain[50], gain[100]))
    assert all(abs(d.mean()) < 0.5 for n, d in gain.items() if n >= 1000) and len(gain) == 8
    er = {n: np.mean([r.acc for r in line.runs]) for (m, n), line in at.items() if m == "er.slots"}
    assert (
        round(100 * er[500], 1) == 83.2 and "at 1 it reaches 83.2" in evidence.WORDS["explained"]["combinations-wide"]
    )
    assert (er[500] - 0.2) / (er[25000] - 0.2) > 0.9  # of the way from one task in five: 100 images a task


def test_what_the_page_says_of_gamma_is_so():
    at = {
        tuple(dict(e.settings).values())[:2]: line for line in plans.read(RUNS / "gamma.json") if (e := line.experiment)
    }
    cost = {g: evidence.difference(at[1.0, 3.0], at[g, 3.0]) for g in (0.0, 0.5, 0.8, 0.95)}
    assert all(cost[g].min() > 3 and cost[g].mean() > 6 for g in (0.0, 0.5, 0.8))
    half = 2.776 * cost[0.95].std(ddof=1) / 5**0.5  # Student's 95 % for five seeds
    assert len(cost[0.95]) == 5 and 1 <= cost[0.95].mean() <= 1.5 and cost[0.95].mean() > half
    fell = {(g, lam) for (g, lam), line in at.items() if plans.spread(line) == "diverged"}
    assert fell == {(0.8, 30), (0.95, 30), (1.0, 30)} and len(at) == 10
    assert all(not line.runs for key, line in at.items() if key in fell)  # all five seeds


def test_what_the_page_says_of_lambda_is_so():
    at, kinds = {}, ("exact", "sample", "empirical")
    for line in plans.read(RUNS / "ewc_lambda_mnist.json"):
        labels, lam, _ = dict(line.experiment.settings).values()
        at[line.experiment.scenario, labels, lam] = line
    assert len(at) == 3 * 3 * 13 and all(len(line.runs) == 5 for line in at.values())
    mean = {key: 100 * np.mean([r.acc for r in line.runs]) for key, line in at.items()}
    assert max(acc for (scenario, *_), acc in mean.items() if scenario == "class") < 20.25
    best = {(s, kind): max((lam for a, b, lam in at if (a, b) == (s, kind)), key=lambda lam: mean[s, kind, lam])
            for s in ("task", "domain") for kind in kinds}  # fmt: skip
    gap, t = {}, {}
    for s, kind in ((s, kind) for s in ("task", "domain") for kind in kinds[1:]):
        d = evidence.difference(at[s, "exact", best[s, "exact"]], at[s, kind, best[s, kind]])
        gap[s, kind], t[s, kind] = d.mean(), d.mean() / d.std(ddof=1) * 5**0.5
        assert mean["domain", kind, 1e7] < mean["domain", "exact", 1e5] < mean["domain", kind, 1e9]
        assert best["domain", kind] == 1e9 and mean[s, "exact", best[s, "exact"]] > mean[s, "exact", 1e-3] + 5
    assert best["task", "exact"] == 1e5 and best["domain", "exact"] == 1e8
    assert all(gap["task", k] == pytest.approx(1 / 3, abs=0.05) for k in kinds[1:])
    assert all(gap["domain", k] == pytest.approx(4, abs=0.6) for k in kinds[1:])
    assert {key for key in t if t[key] > 2.776} == {("task", "empirical")} and t["task", "empirical"] < 3
    again = json.loads((RUNS / "ewc_lambda_mnist.json").read_text(encoding="utf-8"))["protocol"]["again"]
    moved = [np.array(again[k]) - [100 * r.acc for r in at["domain", k, 1e9].runs] for k in kinds[1:]]
    assert 4.5 < np.abs(moved).max() < 5.5 and np.mean(moved) == pytest.approx(0.5, abs=0.05)


def test_what_the_page_says_of_lwf_is_so():
    at = {(e.scenario, *dict(e.settings).values()): 100 * np.mean([r.acc for r in line.runs])
          for line in plans.read(RUNS / "lwf.json") if (e := line.experiment)}  # fmt: skip
    soft = {(s, alpha): at[s, 4, alpha] - at[s, 1, alpha] for s, T, alpha in at if T == 1}
    assert soft.pop(("domain", 1)) == pytest.approx(7, abs=0.5) and max(map(abs, soft.values())) < 3
    strength = [max(row) - min(row) for T in (1, 2, 4) if (row := [at["domain", T, alpha] for alpha in (0.1, 1, 10)])]
    assert min(strength) > 9 > max(map(abs, soft.values()))


def test_what_the_page_says_of_permuted_mnist_is_so(shown):
    lines, likely = plans.read(RUNS / "permuted_mnist.json"), evidence.WORDS["likely"]["permuted-mnist"]
    told = [row.split(" | ")[1] for row in evidence.apart(lines, "permuted-mnist").splitlines()[2:]]
    assert set(told) == set(likely)  # a reason for each of them, and for no other
    by_name = {evidence._full(line, lines): line for line in lines}
    tried = {s["lr"]: f"{100 * acc:.1f}" for s, acc in by_name["naive (sgd)"].tried}
    assert f"reached {tried[0.1]} with 0.1 and {tried[0.2]} with 0.2" in likely["naive (sgd)"]
    tried = {s["der.alpha"]: acc for s, acc in by_name["der, 5120"].tried if s["lr"] == 0.2}
    assert round(100 * (tried[1.0] - tried[0.5]), 1) == 0.1
    higher = [s["si.lam"] for s, acc in by_name["si"].tried if s["lr"] == 0.1 and acc is None]
    assert higher == [1, 3, 10] and "strengths above ours diverge" in likely["si"]
    gain = {m: evidence.difference(by_name[f"{m}, {b}"], by_name[f"{m}, {a}"]).mean()
            for m, a, b in [("er", 200, 5120), ("der", 200, 5120), ("der++", 200, 5120), ("a-gem", 200, 5120),
                            ("gem", 10, 256)]}  # fmt: skip
    assert gain.pop("a-gem") < 7 < min(gain.values())
    assert 3 < evidence.difference(by_name["joint"], by_name["der++, 5120"]).mean() < 4
    stream = replace(by_name["joint"].experiment, data="digits").learner().stream
    images = [sum(len(task.train.y) for task in each.tasks) for each in (stream.cumulative(), stream)]
    assert images[0] / images[1] == 10.5 and "ten times the steps" in likely["joint"]


def test_what_the_page_says_of_cifar10_is_so():
    acc = {(e.scenario, e.method): 100 * line.runs[0].acc
           for line in plans.read(RUNS / "split_cifar10.json") if (e := line.experiment)}  # fmt: skip
    task, klass = ({m: a for (s, m), a in acc.items() if s == scenario} for scenario in ("task", "class"))
    assert min(task.values()) == task["naive"] < task["ewc"] - 5 and task["lwf"] < min(task[m] for m in MEMORY)
    assert max(task, key=task.get) == max(klass, key=klass.get) == "joint"
    assert max(abs(klass[m] - klass["naive"]) for m in ("ewc", "lwf")) < 1
    way = [(klass[m] - klass["naive"]) / (klass["joint"] - klass["naive"]) for m in MEMORY]
    assert min(way) > 0.48 and max(way) < 0.7


def test_what_the_page_says_of_the_long_runs_is_so(shown):
    acc = {(e.scenario, e.method): 100 * line.runs[0].acc
           for line in plans.read(RUNS / "split_mnist_long.json") if (e := line.experiment)}  # fmt: skip
    task, klass = ({m: a for (s, m), a in acc.items() if s == scenario} for scenario in ("task", "class"))
    assert min(task[m] for m in task if m != "naive") > task["joint"] - 0.5 and len(task) == 7
    assert {m for m, a in klass.items() if a > 20.5} == {"generative", "icarl", "joint"} and len(klass) == 8
    assert min(klass[m] for m in ("generative", "icarl")) > 80
    said = {(line.experiment.scenario, line.experiment.method): plans.quoted(line)
            for line in plans.read(RUNS / "split_mnist_long.json")}  # fmt: skip
    assert said["class", "lwf"] == "23.85" and said["task", "ewc"] == "98.64" and "98.64" in shown[0]
    gaps = {key: a - float(said[key]) for key, a in acc.items()}
    far = {key for key, gap in gaps.items() if abs(gap) > 2}
    assert far == {("task", "naive"), ("class", "lwf"), ("domain", "lwf"), ("class", "generative")}
    assert gaps["task", "naive"] > 0 < gaps["domain", "lwf"] and gaps["class", "lwf"] < 0 > gaps["class", "generative"]


def test_what_the_page_says_of_the_fishers_labels_is_so():
    lines = plans.read(RUNS / "fisher_variants.json")
    at = {(o["online-ewc.labels"], o["online-ewc.samples"]): line
          for line in lines if (o := {k: v for k, v in line.experiment.settings}) and len(o) > 1}  # fmt: skip
    acc = {key: 100 * line.runs[0].acc for key, line in at.items()}
    others = acc["sample", 5000], acc["empirical", 5000]
    assert others[0] < min(acc["exact", 500], acc["exact", 5000]) < max(acc.values()) < others[0] + 0.5
    assert at["sample", 5000].records[0]["R"] == at["empirical", 5000].records[0]["R"]
    assert at["sample", 5000].tried == at["empirical", 5000].tried
    assert len({evidence._full(line, lines) for line in lines}) == len(lines) == 5  # a row of the figure each
    tried = {k: {s["online-ewc.lam"]: a for s, a in line.tried} for k, line in at.items()}
    assert max(tried["exact", 5000], key=tried["exact", 5000].get) == 1e5
    assert 100 * (tried["sample", 5000][1e7] - tried["sample", 5000][1e5]) == pytest.approx(8, abs=0.6)


def test_what_the_page_says_of_the_collapse_is_so(shown):
    for found in json.loads((RUNS / "collapse.json").read_text(encoding="utf-8"))["results"].values():
        R = 100 * np.array([run["R"] for run in found])  # (seeds, after, on)
        then, now = (f"{R[:, k, 0].mean():.1f} ± {R[:, k, 0].std(ddof=1):.1f} %" for k in (0, 1))
        assert f"{then} to {now}" in shown[0].replace("\n", " ") and len(R) == 3
        assert R[:, 1, 0].max() < 20 and R[:, 1, 1].mean() == pytest.approx(94, abs=1)


def test_what_the_page_says_of_labels_is_so():
    best = {}
    for line in plans.read(RUNS / "ewc_labels.json"):
        own, acc = dict(line.experiment.settings), 100 * np.mean([r.acc for r in line.runs])
        key = line.experiment.scenario, own["ewc.labels"]
        best[key] = max(best.get(key, (0, 0)), (acc, own["ewc.lam"]))
    for scenario in ("task", "domain", "class"):
        acc, lam = zip(*(best[scenario, labels] for labels in ("exact", "sample", "empirical")))
        assert max(acc) - min(acc) < 0.5 and (scenario == "class" or lam[2] > lam[0])
    assert max(acc) < 20.5  # Class-IL


def test_what_the_page_says_of_the_two_races_is_so():
    gains = {}
    for name in ("combinations", "combinations_wide"):
        lines = {line.experiment.method: line for line in plans.read(RUNS / f"{name}.json")}
        gains[name] = [evidence.difference(lines[m], lines["er"]).mean() for m in ("er+lwf", "er+ewc", "er+der+ewc")]
    low, *_, high = sorted(gains["combinations_wide"])
    assert max(gains["combinations"]) < 0 < low
    assert f"by {low:.1f} to {high:.1f} points" in evidence.WORDS["explained"]["combinations-wide"]


def test_the_ledger_says_what_a_method_costs(shown):
    (row,) = (x for x in shown[0].splitlines() if x.startswith("| class | er | er.slots 1140 |"))
    numbers = 1140 * (784 + 2)  # pixels, label, task
    assert f"{numbers:,}" in row and f"{4 * numbers:,} | 1140 |" in row and "a batch of memory" in row
    assert any(x.startswith("| class | ewc | 3,584,400 | 1140 | +") for x in shown[0].splitlines())


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(monkeypatch, tmp_path):
    def call(*args):
        for name in ("out", "err"):
            monkeypatch.setattr(cli, name, cli.Console(stderr=name == "err", width=200))
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["sweep", *map(str, args), "--cache", tmp_path / "c"])

    return call


FILE = """about = "Two methods."
seeds = 2
[common]
stream = "split"
tasks = 2
net = "8"
[[grid]]
method = "naive"
[[grid]]
method = "er"
choose = { "er.slots" = [10, 20] }
"""


def test_a_sweep_from_a_file_chooses_reports_and_stores(call, tmp_path):
    (tmp_path / "two.toml").write_text(FILE)
    done = call(tmp_path / "two.toml", "--jobs", 1, "--json", tmp_path / "two.json")
    assert done.exit_code == 0, done.output
    assert "6 runs" in done.output and " ± " in done.output and len(list((tmp_path / "c").iterdir())) == 6
    naive, er = plans.read(tmp_path / "two.json")
    assert len(naive.records) == len(er.records) == 2 and len(er.tried) == 2


def test_a_dry_run_counts_and_runs_nothing(call, tmp_path):
    (tmp_path / "two.toml").write_text(FILE)
    done = call(tmp_path / "two.toml", "--dry-run", "--seeds", 3)
    assert done.exit_code == 0 and "8 runs" in done.output and "hours of CPU" in done.output, done.output
    assert not (tmp_path / "c").exists()
    assert "With --stack it takes less." in call(tmp_path / "two.toml", "--dry-run", "--seeds", 1, "--stack").output


def test_a_dry_run_leaves_out_what_is_there(call, tmp_path):
    (tmp_path / "two.toml").write_text(FILE)
    call(tmp_path / "two.toml", "--jobs", 1, "--seeds", 1)
    told = " ".join(call(tmp_path / "two.toml", "--dry-run").output.split())
    assert "6 runs, 4 of them are there already." in told and "About 0.0 hours" in told


def test_a_sweep_in_which_all_diverged_says_why_and_fails(call, tmp_path):
    wild = '[[grid]]\nmethod = "ewc"\n"ewc.lam" = 1e9\n"ewc.samples" = 5\n'
    (tmp_path / "two.toml").write_text(FILE.partition("[[grid]]")[0] + wild)
    done = call(tmp_path / "two.toml", "--jobs", 1, "--seeds", 1)
    assert done.exit_code == 1 and "ewc: task 2 of 2: EWC will diverge: λ" in " ".join(done.output.split())


def test_what_a_task_costs_once_is_not_taken_for_a_cost_of_steps(monkeypatch):
    e = Experiment("ewc", stream="split", scenario="class", epochs=50)
    steps = sum(-(-len(t.train.x) // e.batch_size) for t in e.learner().stream.tasks) * e.epochs
    monkeypatch.setattr(sweep, "_seconds", lambda _, epochs: 2 * (epochs * sweep.BATCHES * 0.01 + 7))  # 7 s a task
    assert sweep.estimate([e])[0] * 3600 == pytest.approx(steps * 0.01 + 5 * 7)


def test_the_cost_of_a_method_that_keeps_something_for_each_task_can_be_told():
    hours, size = sweep.estimate([Experiment("bias-correction", stream="split", scenario="class")])
    assert 0 < hours < 1 and 0.4 <= size < 1


@pytest.mark.parametrize("args", [[], ["x.toml", "--preset", "split-mnist"], ["--preset", "nothing"], ["absent.toml"]])
def test_the_command_refuses_what_is_no_plan(call, args):
    done = call(*args)
    assert done.exit_code == 2 and "Error:" in done.output
