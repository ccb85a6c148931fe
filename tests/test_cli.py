"""`cl-tutor` as a reader uses it: what it prints, what it writes, and what it refuses before any work is done."""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cl_tutor import cli
from cl_tutor.data import digits
from cl_tutor.learn import Learner, train
from cl_tutor.nets import MLP
from cl_tutor.results import Results
from cl_tutor.streams import permuted

QUICK = ["run", "--tasks", "2", "--epochs", "1", "--seeds", "2"]


@pytest.fixture
def call(monkeypatch):
    """Run a command; the consoles are wide, so that no sentence is broken across lines."""

    def call(*args):
        for name in ("out", "err"):  # made anew, so that they write to the runner's streams
            monkeypatch.setattr(cli, name, cli.Console(stderr=name == "err", width=200))
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [str(a) for a in args])

    return call


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
    asked |= {"methods": ["naive", "er", "ewc", "joint"], "lr": 0.1, "lam": 7.0, "slots": 50, "seeds": 2}
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
        by_hand = Learner(MLP((64, 200, 10), seed=1), stream, optimiser=partial(torch.optim.SGD, lr=0.05), seed=1)
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
        (["--methods", "naive,foo"], "no method 'foo': choose from naive, ewc, er, joint"),
        (["--methods", ""], "no method ''"),
        (["--stream", "shuffled"], "no stream 'shuffled': choose from permuted"),
        (["--scenario", "online"], "no scenario 'online'"),
        (["--stream", "split", "--scenario", "class", "--tasks", "3"], "10 classes cannot be split into 3 equal tasks"),
        (["--dataset", "minst"], "no data set 'minst'"),
        (["--dataset", "kmnist"], "cl-tutor data kmnist"),
        (["--dataset", "folder:/no/such/folder"], "There is no folder"),
        (["--seeds", "0"], "--seeds"),
        (["--tasks", "1"], "--tasks"),
        (["--epochs", "0"], "--epochs"),
        (["--slots", "0"], "--slots"),
        (["--lr", "0"], "--lr must be a positive number, not 0"),
        (["--lr", "nan"], "--lr must be a positive number, not nan"),
        (["--lam", "-1"], "lam must be a finite number of 0 or more, not -1"),
        (["--json", "no/such/folder/r.json"], "cannot be written"),
        (["--json", "."], "cannot be written"),
        (["--figure", "curves.txt"], "ends in .png or .svg or .pdf"),
    ],
)
def test_refused_in_one_sentence_before_any_work(call, monkeypatch, tmp_path, args, message):
    monkeypatch.setattr(cli, "train", lambda learner: pytest.fail("work was done"))
    monkeypatch.setenv("CL_TUTOR_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert message in one_sentence(call("run", *args))
    assert not list(tmp_path.iterdir())


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
        assert json.loads((tmp_path / "r.json").read_text())["experiment"]["net"].startswith(net)


def test_the_figure_is_drawn_and_described(call, tmp_path):
    pytest.importorskip("cl_tutor.plots")
    result = call(*QUICK, "--methods", "naive,er", "--figure", tmp_path / "curves.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 500 and len(np.unique(np.asarray(image.convert("L")))) > 10
    assert re.search(r"curves\.png: .*naive from 0\.\d+", result.output)


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
