"""`cl-tutor` as a reader uses it: what it prints, what it writes, and what it refuses before any work is done."""

import importlib
import json
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cl_tutor.methods
from cl_tutor import cli, spec
from cl_tutor.data import digits
from cl_tutor.learn import Learner, Method, train
from cl_tutor.methods.memory import ClassBalanced, Herding
from cl_tutor.methods.regularization import EWC, LwF
from cl_tutor.methods.replay import ER
from cl_tutor.nets import MLP
from cl_tutor.results import Results
from cl_tutor.streams import permuted

QUICK = ["run", "--tasks", "2", "--epochs", "1", "--seeds", "2", "--jobs", "1"]

CLASS_IL = ["--stream", "split", "--scenario", "class"]


@pytest.fixture
def call(monkeypatch):
    """Run a command; the consoles are wide, so that no sentence is broken across lines."""

    def call(*args):
        for name in ("out", "err"):  # made anew, so that they write to the runner's streams
            monkeypatch.setattr(cli, name, cli.Console(stderr=name == "err", width=200))
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [str(a) for a in args])

    return call


def learner(stream, methods=(), lr=0.2, seed=0, **options):
    """What `cl-tutor run` trains unless told otherwise, by hand."""
    sgd = partial(torch.optim.SGD, lr=lr)
    return Learner(MLP(seed=seed), stream, methods, batch_size=32, optimiser=sgd, seed=seed, **options)


def one_sentence(result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)
    return " ".join(result.output.split())


# -- run ---------------------------------------------------------------------------------------------------------------


def test_the_json_has_the_agreed_form_and_the_numbers_of_its_own_matrices(call, tmp_path):
    result = call(
        *QUICK, "--methods", "naive,ER,ewc,joint", "--lam", "7", "--slots", "50", "--json", tmp_path / "r.json"
    )
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert set(stored) == {"experiment", "results"}
    asked = {"dataset": "digits", "stream": "permuted", "scenario": "domain", "tasks": 2, "epochs": 1}
    asked |= {"methods": ["naive", "er", "ewc", "joint"], "lr": 0.2, "lam": 7.0, "slots": 50, "seeds": 2}
    assert asked.items() <= stored["experiment"].items()
    assert [entry["method"] for entry in stored["results"]] == asked["methods"]
    for entry in stored["results"]:
        assert set(entry) == {"method", "seeds", "acc", "forgetting", "bwt", "fwt", "R", "seconds"}
        assert entry["seeds"] == [0, 1] and all(len(v) == 2 for k, v in entry.items() if k != "method")
        assert np.array(entry["R"]).shape == (2, 2, 2)
        for seed in (0, 1):
            r = Results(entry["R"][seed], [0, 0])
            stated = [entry[key][seed] for key in ("acc", "forgetting", "bwt")]
            assert stated == pytest.approx([r.acc, r.forgetting, r.bwt])
        row = next(line for line in result.output.splitlines() if line.split()[:1] == [entry["method"]])
        mean, sd = np.mean(entry["acc"]), np.std(entry["acc"], ddof=1)
        assert f"{mean:.3f} ± {sd:.3f}" in row


def test_a_run_is_the_packages_own_run_and_joint_is_the_cumulative_stream(call, tmp_path):
    call(*QUICK, "--methods", "joint,naive", "--lr", "0.05", "--json", tmp_path / "r.json")
    joint, naive = json.loads((tmp_path / "r.json").read_text())["results"]
    for entry, stream in ((naive, permuted(digits(), 2, seed=1)), (joint, permuted(digits(), 2, seed=1).cumulative())):
        by_hand = learner(stream, lr=0.05, seed=1)
        assert np.array_equal(train(by_hand).R, entry["R"][1])  # bit for bit, progress bar and all


def test_options_reach_the_methods(call, tmp_path):
    def accs(*more):
        call(*QUICK, "--methods", "naive,ewc,er", "--epochs", "3", "--json", tmp_path / "r.json", *more)
        return [entry["R"] for entry in json.loads((tmp_path / "r.json").read_text())["results"]]

    naive, still, forgetful = accs("--lam", "0", "--slots", "1")
    assert still == naive  # strength 0 is the naive run, bit for bit
    naive_again, stiff, mindful = accs("--lam", "20", "--slots", "300")
    assert naive_again == naive and stiff != still and mindful != forgetful


@pytest.mark.parametrize("stream, scenario", [("rotated", "domain"), ("split", "class"), ("split", "task")])
def test_every_stream_runs(call, stream, scenario):
    result = call(*QUICK, "--stream", stream, "--scenario", scenario, "--methods", "er", "--seeds", "1")
    assert result.exit_code == 0 and f"{stream}, {scenario}-IL, 2 tasks" in result.output
    assert "one seed" in result.output and "±" not in result.output  # one seed has no spread


@pytest.mark.parametrize(
    "args, message",
    [
        (["--methods", "naive,foo"], "no method 'foo': choose from naive, joint, experts, l2, ewc, "),
        (["--methods", ""], "no method ''"),
        (["--methods", "er+"], "no method ''"),
        (["--methods", "er+ewc+er"], "'er+ewc+er' names a method twice"),
        (["--methods", "er+joint"], "joint is what methods are compared with, and stands alone"),
        (["--methods", "er,packnet"], "PackNet must be told at test time which task a sample is from"),
        (["--methods", "packnet+er", "--scenario", "task"], "PackNet must be the last of the methods"),
        (["--methods", "progressive+supsup", "--scenario", "task"], "names 2 networks"),
        (["--methods", "progressive+er", "--scenario", "task"], "so that ER has nothing to guard"),
        ([*CLASS_IL, "--methods", "icarl+bias-correction"], "NearestMean and BiasCorrection would both answer"),
        (["--methods", "bias-correction"], "it needs Class-IL"),
        ([*CLASS_IL, "--methods", "oml"], "Walks over 5 classes need as many"),
        (["--set", "ewc"], "--set ewc: write method.option=value, such as ewc.lam=10"),
        (["--set", "foo.lam=1"], "no method 'foo'"),
        (["--set", "gem.margin=1"], "gem.margin is set, but gem is not among the methods"),
        (["--set", "er.slot=3"], "--set er.slot=3: the options of er are slots, size, alpha, memory."),
        (["--set", "er.seed=3"], "the options of er are slots, size, alpha, memory."),
        (["--set", "naive.lam=3"], "the options of naive are none"),
        (["--set", "er.slots=2.5"], "slots is a whole number, not '2.5'"),
        (["--set", "er.memory=all"], "memory is reservoir or classbalanced or herding, not 'all'"),
        (["--set", "ewc.lam=ten"], "lam is a number, not 'ten'"),
        (["--set", "ewc.lam=nan"], "lam must be a finite number of 0 or more, not nan"),
        (["--set", "ewc.decay=lots"], "decay is none or a number, not 'lots'"),
        (["--set", "ewc.proximal=maybe"], "proximal is true or false, not 'maybe'"),
        (["--set", "ewc.labels=mine"], "labels must be 'exact', 'sample' or 'empirical'"),
        (["--stream", "shuffled"], "no stream 'shuffled': choose from permuted"),
        (["--scenario", "online"], "no scenario 'online'"),
        (["--stream", "split", "--scenario", "class", "--tasks", "3"], "10 classes cannot be split into 3 equal tasks"),
        (["--dataset", "minst"], "no data set 'minst'"),
        (["--dataset", "kmnist"], "cl-tutor data kmnist"),
        (["--dataset", "folder:/no/such/folder"], "There is no folder"),
        (["--seeds", "0"], "--seeds"),
        (["--tasks", "1"], "--tasks"),
        (["--epochs", "0"], "--epochs"),
        (["--slots", "0"], "A memory needs 1 slot or more, not 0"),
        (["--jobs", "0"], "--jobs"),
        (["--batch-size", "0"], "--batch-size"),
        (["--lr", "0"], "--lr must be a positive number, not 0"),
        (["--lr", "nan"], "--lr must be a positive number, not nan"),
        (["--methods", "naive", "--lam", "5"], "ewc.lam is set, but ewc is not among the methods"),
        (["--lam", "5", "--set", "ewc.lam=7"], "ewc.lam is set twice: keep one of them"),
        (["--lam", "-1"], "lam must be a finite number of 0 or more, not -1"),
        (["--json", "no/such/folder/r.json"], "cannot be written"),
        (["--json", "."], "cannot be written"),
        (["--figure", "curves.txt"], "ends in .png or .svg or .pdf"),
    ],
)
def test_refused_in_one_sentence_before_any_work(call, monkeypatch, tmp_path, args, message):
    monkeypatch.setattr(spec, "train", lambda learner: pytest.fail("work was done"))
    monkeypatch.setenv("CL_TUTOR_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert message in one_sentence(call("run", *args))
    assert not list(tmp_path.iterdir())


def test_what_is_typed_is_what_runs(call, tmp_path):
    """A list of methods, with options, equals the same list by hand: bit for bit."""
    flags = ["--set", "ewc.lam=3", "--set", "er.slots=50", "--set", "er.memory=herding", "--set", "ewc.labels=sample"]
    call(*QUICK, "--methods", "ER + lwf+ewc", *flags, "--json", tmp_path / "r.json")
    (entry,) = json.loads((tmp_path / "r.json").read_text())["results"]
    methods = [ER(50, seed=1, memory=Herding), LwF(), EWC(3.0, samples=200, labels="sample", seed=1)]
    assert entry["method"] == "er+lwf+ewc"
    assert entry["R"][1] == train(learner(permuted(digits(), 2, seed=1), methods, seed=1)).R.tolist()


def test_options_become_values_of_their_types():
    typed = [
        "ewc.decay=none",
        "online-ewc.decay=0",
        "ewc.proximal=TRUE",
        " er.memory = ClassBalanced ",
        "gem.margin=1e-1",
    ]
    assert spec.parse(typed) == {
        "ewc": {"decay": None, "proximal": True},
        "online-ewc": {"decay": 0.0},
        "er": {"memory": ClassBalanced},
        "gem": {"margin": 0.1},
    }
    assert spec.names("er+der+++EWC+der") == ["er", "der++", "ewc", "der"]  # the ++ belongs to the name


QUICKER = {"samples": 20, "k": 2, "slots": 50, "size": 16}


@pytest.mark.parametrize("name", spec.METHODS)
def test_every_method_runs_by_its_name_where_it_fits(call, tmp_path, name):
    """In the first scenario whose checks it passes; and it is not naive training in disguise."""
    options = [f"--set={name}.{k}={v}" for k, v in QUICKER.items() if k in spec.options(name)]
    for scenario in (["--scenario", "domain"], ["--scenario", "task"], CLASS_IL):
        more = [*scenario, "--seeds", 1, "--methods", f"{name},naive", *options, "--json", tmp_path / "r.json"]
        if (result := call(*QUICK, *more)).exit_code == 0:
            break
    assert result.exit_code == 0, result.output
    own, *naive = json.loads((tmp_path / "r.json").read_text())["results"]
    assert own["seeds"] == [0] and own["seconds"][0] > 0, result.output
    assert name == "naive" or own["R"] != naive[0]["R"]


def test_every_class_of_methods_has_a_name():
    """What the table builds is every final class in `cl_tutor.methods`."""
    for module in pkgutil.iter_modules(cl_tutor.methods.__path__):
        importlib.import_module(f"cl_tutor.methods.{module.name}")
    built = set()
    for name in spec.METHODS:
        net, methods = spec.build(name, {}, partial(MLP, (64, 20, 10)), (64, 20, 10), 0)
        built |= {type(m) for m in [*methods, *([net] if isinstance(net, Method) else [])]}
    ours = lambda cls: [c for c in cls.__subclasses__() if c.__module__.startswith("cl_tutor.methods.")]
    below = lambda cls: [leaf for child in ours(cls) for leaf in below(child)] or [cls]
    assert built == set(below(Method))


def test_experts_are_networks_that_met_one_task(call, tmp_path):
    assert call(*QUICK, "--methods", "experts", "--json", tmp_path / "r.json").exit_code == 0
    (entry,) = json.loads((tmp_path / "r.json").read_text())["results"]
    for seed in (0, 1):
        stream, R = permuted(digits(), 2, seed=seed), np.array(entry["R"][seed])
        second = train(learner(replace(stream, tasks=stream.tasks[1:], task_known=True), seed=seed))
        assert R[1, 1] == second.R[0, 0] and R[0, 1] == second.b[0]  # before its expert is trained, there is none
        assert R[0, 0] == R[1, 0] and entry["forgetting"][seed] == 0


def test_help_says_its_sentence_to_the_end_and_names_every_command(call):
    told = call("--help").output
    assert "doctor examines the machine." in " ".join(told.split())
    listed = re.findall(r"^│ (\w+)", told, re.MULTILINE)
    assert {command.name or command.callback.__name__ for command in cli.app.registered_commands} <= set(listed)


def test_the_results_do_not_depend_on_the_number_of_processes(call, tmp_path):
    def results(jobs):
        flags = ["--methods", "er,ewc,a-gem+si", "--set", "ewc.lam=1e6", "--json", tmp_path / "r.json"]
        result = call(*QUICK, *flags, "--jobs", jobs)
        assert re.search(rf"6 runs in \d+ s on {'one core' if jobs == 1 else '2 cores'}\.", result.output)
        return [
            {k: v for k, v in e.items() if k != "seconds"}
            for e in json.loads((tmp_path / "r.json").read_text())["results"]
        ]

    serial = results(1)
    assert "diverged" in serial[1] and len(serial[2]["R"]) == 2
    assert results(2) == serial  # bit for bit, and in the same order


def test_the_bar_moves_with_every_finished_run_and_one_core_needs_no_process(call, monkeypatch):
    seen = []

    class Bar(cli.tqdm):
        def update(self, n=1):
            seen.append((self.total, n, len(trained)))

    real, trained = spec.train, []
    monkeypatch.setattr(cli, "tqdm", Bar)
    monkeypatch.setattr(spec, "train", lambda learner: trained.append(learner) or real(learner))  # in this process
    assert call(*QUICK, "--methods", "naive,er").exit_code == 0
    assert seen == [(4, 1, 1), (4, 1, 2), (4, 1, 3), (4, 1, 4)]


def test_a_warning_is_told_once_a_method_beside_the_table(call, monkeypatch):
    real = spec.train
    warn = partial(warnings.warn, "Capacity runs out.", stacklevel=2)
    monkeypatch.setattr(spec, "train", lambda learner: warn() or real(learner))
    result = call(*QUICK, "--methods", "naive,er")
    assert result.exit_code == 0 and result.output.count("Capacity runs out.") == 2  # of four runs
    assert re.search(r"^naive: Capacity runs out\.$", result.output, re.M)


def test_a_divergence_is_a_row_that_says_so_and_the_others_still_run(call, tmp_path):
    result = call(*QUICK, "--methods", "ewc,naive", "--lam", "1e6", "--json", tmp_path / "r.json")
    assert result.exit_code == 0 and "nan" not in result.output.lower()
    assert re.search(r"ewc\s+diverged", result.output) and re.search(r"naive\s+0\.\d{3} ± ", result.output)
    assert re.search(r"ewc diverged, seed 0, task 2 of 2: .*λ", result.output)
    ewc, naive = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)["results"]
    assert "λ" in ewc["diverged"] and ewc["seeds"] == ewc["acc"] == ewc["R"] == []
    assert "diverged" not in naive and len(naive["acc"]) == 2


def test_when_everything_diverges_the_exit_code_says_so(call):
    result = call(*QUICK, "--methods", "naive", "--lr", "1e9")
    assert result.exit_code == 1 and "naive diverged" in result.output


def test_colour_folders_meet_the_convolutional_network(call, tmp_path):
    rng = np.random.default_rng(0)
    for c in range(4):
        (tmp_path / "x" / f"class{c}").mkdir(parents=True)
        for k in range(5):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"x/class{c}/{k}.png")
    flags = ["--dataset", f"folder:{tmp_path / 'x'}", "--methods", "naive", "--json", tmp_path / "r.json"]
    for stream, net in (("split", "SmallCNN"), ("permuted", "MLP")):
        assert call(*QUICK, *flags, "--stream", stream).exit_code == 0
        assert json.loads((tmp_path / "r.json").read_text())["experiment"]["nets"]["naive"].startswith(net)


def test_the_figure_is_drawn_and_described(call, tmp_path):
    pytest.importorskip("cl_tutor.plots")
    result = call(*QUICK, "--methods", "naive,er", "--figure", tmp_path / "curves.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 500 and len(np.unique(np.asarray(image.convert("L")))) > 10
    assert re.search(r"curves\.png: .*naive from 0\.\d+", result.output)


# -- methods -----------------------------------------------------------------------------------------------------------


def test_the_table_of_methods_is_read_off_their_docstrings(call):
    listed = call("methods").output
    for name, recipe in spec.METHODS.items():
        assert re.search(rf"^ {re.escape(name)} +\S", listed, re.M) and recipe.family in listed, name
        row, text = spec.describe(name), " ".join((recipe.make.__doc__ or "").split())
        for cell in row:
            assert cell and cell in text and cell.endswith((".", ".)")), (name, row)
        assert re.search(r"\d{4}|[=½]|L\(θ", row.idea), (name, row.idea)  # a source, or an equation
        assert re.search("-IL|scenario", row.suits), (name, row.suits)
    assert spec.describe("ewc").idea.startswith("L(θ) + λ Σ_k ½ Σ_i F_k,i") and "eq. 3" in spec.describe("ewc").idea
    assert "DER++" in spec.describe("der++").idea and "Online EWC" in spec.describe("online-ewc").idea


@pytest.mark.parametrize("name", spec.METHODS)
def test_a_method_tells_its_options_as_they_can_be_typed(call, name):
    """Each printed line is accepted by --set, and says the value that runs without it."""
    result = call("methods", name)
    assert result.exit_code == 0 and spec.describe(name).idea.split()[0] in result.output
    lines = re.findall(r"^--set (.*)$", result.output, re.M)
    assert len(lines) == len(spec.options(name))
    said = spec.parse(lines).get(name, {})
    assert said == {option: p.default for option, p in spec.options(name).items()}
    build = lambda settings: repr(spec.build(name, settings, partial(MLP, (64, 20, 10)), (64, 20, 10), 0))
    assert build({name: said}) == build({})


def test_an_unknown_method_has_no_story(call):
    assert "no method 'foo'" in one_sentence(call("methods", "foo"))


# -- data --------------------------------------------------------------------------------------------------------------


def test_data_lists_what_is_there(call, monkeypatch, tmp_path):
    monkeypatch.setenv("CL_TUTOR_DATA", str(tmp_path))
    result = call("data")
    assert result.exit_code == 0 and str(tmp_path) in result.output
    rows = {line.split("│")[1].strip(): line for line in result.output.splitlines() if line.startswith("│")}
    assert "yes" in rows["digits"] and "no " in rows["mnist"] and "CC BY-SA 3.0" in rows["mnist"]


def test_data_fetches_one(call, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "load", lambda name, download: asked.append((name, download)) or digits())
    result = call("data", "mnist")
    assert asked == [("mnist", True)] and "1397 to train, 400 to test, 10 classes, one sample is 1x8x8" in result.output


def test_data_offline_and_unknown(call, monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setenv("CL_TUTOR_DATA", str(tmp_path))
    assert "could not be fetched" in one_sentence(call("data", "mnist"))
    assert "no data set 'minst'" in one_sentence(call("data", "minst"))


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_fit(call):
    result = call("doctor")
    assert result.exit_code == 0, result.output
    assert "BROKEN" not in result.output and re.search(r"training .* accuracy 0\.\d\d on the digits", result.output)


@pytest.mark.parametrize(
    "what, spoil, code",
    [
        ("anywidget", ("version", lambda name: importlib.import_module("no_such_module")), 1),
        ("training", ("train", lambda learner: Results([[0.1]], [0.1])), 1),
        ("torchvision", ("_torchvision", None), 0),
    ],
)
def test_doctor_names_what_is_broken_and_the_remedy(call, monkeypatch, what, spoil, code):
    monkeypatch.setattr(cli, *spoil)
    result = call("doctor")
    row = next(line for line in result.output.splitlines() if f"│ {what}" in line)
    assert ("BROKEN" if code else "note") in row and "install line" in row
    assert result.exit_code == code


# -- lab ---------------------------------------------------------------------------------------------------------------


def test_lab_serves_the_course_without_the_news_popup():
    """A real server: the first notebook, the settings as the browser gets them, and an argument passed on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "cl_tutor.cli", "lab", "--no-browser", "--port", str(port)]
    command += ["--IdentityProvider.token=secret", "--ServerApp.port_retries=0", "--allow-root"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def get(path):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": "token secret"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.read().decode(), answer.url

    try:
        for _ in range(240):  # it answers as soon as it can; a dead server ends the wait at once
            assert server.poll() is None, "the server stopped"
            try:
                get("/api")
                break
            except OSError:
                time.sleep(0.5)
        settings = json.loads(get("/lab/api/settings/@jupyterlab/apputils-extension:notification")[0])
        defaults = {k: v["default"] for k, v in settings["schema"]["properties"].items() if "default" in v}
        assert defaults["fetchNews"] == "false" and defaults["checkForUpdates"] is False
        assert get("/")[1].endswith("/lab/tree/00_forgetting.ipynb")
        served = {item["name"] for item in json.loads(get("/api/contents")[0])["content"]}
        assert served >= {path.name for path in cli._notebooks().glob("*.ipynb")}
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """The package as a wheel lays it out: notebooks inside, no repository around."""
    packaged = tmp_path / "site" / "cl_tutor" / "_notebooks"
    (packaged / "runs").mkdir(parents=True)
    (packaged / "00_forgetting.ipynb").write_text("ours")
    (packaged / "runs" / "a.json").write_text("ours")
    monkeypatch.setattr(cli, "__file__", str(packaged.parent / "cli.py"))
    (tmp_path / "reader").mkdir()
    monkeypatch.chdir(tmp_path / "reader")
    return tmp_path / "reader" / "cl-tutor-notebooks"


def test_an_installed_course_is_copied_once_and_never_over_the_readers_work(installed):
    assert cli._course() == installed
    assert (installed / "runs" / "a.json").read_text() == "ours"
    (installed / "00_forgetting.ipynb").write_text("mine")
    (installed / "runs" / "a.json").unlink()
    cli._course()
    assert (installed / "00_forgetting.ipynb").read_text() == "mine"  # kept
    assert (installed / "runs" / "a.json").read_text() == "ours"  # restored


def test_lab_without_notebooks_says_so(call, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "cl_tutor" / "cli.py"))
    assert "notebooks are missing" in one_sentence(call("lab"))


def test_lab_leaves_the_users_settings_alone_and_returns_jupyters_exit_code(call, monkeypatch, tmp_path):
    script = "import os, sys; print(os.environ['JUPYTER_CONFIG_PATH']); sys.exit(7)"
    real, seen = subprocess.Popen, {}

    def popen(command, env):
        seen.update(command=command, env=env)
        return real([sys.executable, "-c", script], stdout=subprocess.DEVNULL)

    monkeypatch.setattr(cli.subprocess, "Popen", lambda command, env: popen(command, env))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path))
    monkeypatch.setattr(cli, "_course", lambda: tmp_path)
    assert call("lab", "--no-browser", "--ip", "0.0.0.0").exit_code == 7
    ours, *theirs = seen["env"]["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert theirs == [str(tmp_path)] and not list(tmp_path.iterdir())  # theirs still counts; nothing was written there
    assert not os.path.exists(ours)  # ours is gone with the server
    assert seen["command"][-2:] == ["--ip", "0.0.0.0"] and "--no-browser" in seen["command"]
