"""Every method, two tasks of real digits, in each scenario that it serves: it does something, and that something helps.

The identities that show *what* a method computes stand in the files of its family. Here one question is put to all of
them: at the end of task 2, does the learner answer task 1 better than the naive one, which met the same batches?
OML trains its features before the stream begins, and has this test in `test_meta.py`.
"""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F

from cl_tutor import spec
from cl_tutor.data import digits
from cl_tutor.learn import Learner
from cl_tutor.nets import MLP
from cl_tutor.streams import permuted, split

QUICK = {"samples": 50, "k": 5, "slots": 100, "size": 32}
NEVER_FORGETS = {"experts", "progressive", "packnet", "supsup", "adapters"}  # where the task is known: bit for bit
REFUSES = {
    "task": {"bias-correction"},
    "domain": {"progressive", "packnet", "adapters", "bias-correction"},
    "class": {"progressive", "packnet", "adapters"},
}
# In Class-IL a regulariser alone saves nothing, nor do the logits that DER kept; SupSup cannot tell the tasks apart
# there; and means of features are no cross-entropy in Task-IL. These must act, and need not help.
REGULARISERS = {"l2", "ewc", "online-ewc", "mas", "si", "lwf", "subspace-ewc", "kfac-ewc"}
IN_VAIN = {(name, "class") for name in REGULARISERS | {"der", "supsup"}} | {("nearest-mean", "task")}


def learner(name, scenario):
    if scenario == "class":
        stream = split(digits(), 5, scenario)
        stream = replace(stream, tasks=stream.tasks[:2], units=stream.units[:2, :4])
    else:  # two pairs of digits with a head each would disturb each other too little
        stream = permuted(digits(), 2, scenario)
    sizes = (64, 50, stream.units.shape[1])
    settings = {name: {k: v for k, v in QUICK.items() if k in spec.options(name)}}
    if name == "si":
        settings = {name: {"lam": 1.0}}  # its path through one short task is short
    net, methods = spec.build(name, settings, partial(MLP, sizes), sizes, 0)
    return Learner(net, stream, methods, epochs=5, batch_size=32, optimiser=partial(torch.optim.SGD, lr=0.1))


@cache
def old_task(name, scenario):
    """R, and at the end the answers (N, C) to the test set of task 1, and their cross-entropy."""
    own = learner(name, scenario)
    results = spec.execute(name, own)
    own.net.eval()
    x, y, t = next(own.stream.tasks[0].batches(1000, "test"))
    with torch.no_grad():
        scores = own.scores(x, t)
    return results.R, scores, F.cross_entropy(scores, y).item()


@pytest.mark.parametrize("scenario", REFUSES)
@pytest.mark.parametrize("name", sorted(spec.METHODS.keys() - {"naive", "oml"}))
def test_task_1_is_answered_better_than_by_the_naive_learner(name, scenario):
    if name in REFUSES[scenario]:
        with pytest.raises(ValueError, match=r"^[^\n]{40,}$"):
            learner(name, scenario)
        return
    R, scores, loss = old_task(name, scenario)
    naive_R, naive_scores, naive_loss = old_task("naive", scenario)
    if name in NEVER_FORGETS and scenario == "task":
        assert R[1, 0] == R[0, 0] > 0.7
        return
    if name == "experts":  # their learner holds the first network; the others are gone
        assert R[1, 0] == R[0, 0] > naive_R[1, 0]
    else:
        assert not torch.equal(scores, naive_scores), "naive in disguise"
    if (name, scenario) not in IN_VAIN:
        better = R[1, 0] > naive_R[1, 0] + 0.03 or loss < 0.97 * naive_loss
        assert better, (R[1, 0], loss, naive_R[1, 0], naive_loss)
