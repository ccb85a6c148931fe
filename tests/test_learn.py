"""The loop: what it promises to methods, and that without methods it is plain training."""

import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cl_tutor.data import digits
from cl_tutor.learn import Diverged, Learner, Method, fit, train
from cl_tutor.methods.regularization import EWC
from cl_tutor.nets import MLP, SmallCNN
from cl_tutor.streams import Stream, permuted, split, toy

OPT = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)


@pytest.fixture(scope="module")
def stream():
    s = permuted(digits(), tasks=3)
    return Stream(s.tasks, s.units, s.task_known)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_naive_is_a_hand_written_loop_bit_for_bit(stream):
    learner = Learner(MLP((64, 20, 10)), stream, epochs=2, batch_size=50, optimiser=OPT, seed=3)
    train(learner)
    net, rng = MLP((64, 20, 10)), torch.Generator().manual_seed(3)
    for task in stream.tasks:
        opt = OPT(net.parameters())
        for _ in range(2):
            for x, y, _ in task.batches(50, rng=rng):
                opt.zero_grad()
                F.cross_entropy(net(x), y).backward()
                opt.step()
    assert same(learner.net, net)


def test_one_seed_one_result_and_another_seed_another(stream):
    run = lambda seed: train(Learner(MLP((64, 20, 10)), stream, epochs=1, optimiser=OPT, seed=seed))
    a, b, c = run(0), run(0), run(1)
    assert (a.R == b.R).all() and a.losses == b.losses and a.losses != c.losses


class Spy(Method):
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def before_task(self, learner, task):
        self.calls.append((self.name, "before_task", task.id))

    def loss(self, learner, batch):
        self.calls.append((self.name, "loss", learner.net.training))
        return 0.0

    def edit_grads(self, learner, batch):
        self.calls.append((self.name, "edit_grads", next(learner.net.parameters()).grad is not None))

    def after_step(self, learner, batch):
        self.calls.append((self.name, "after_step", None))

    def after_task(self, learner, task):
        self.calls.append((self.name, "after_task", task.id))


def test_hooks_fire_in_the_order_of_the_list(stream):
    calls = []
    learner = Learner(MLP((64, 10)), stream, [Spy("a", calls), Spy("b", calls)], batch_size=2000)
    train(learner)
    one_task = ["before_task", "loss", "edit_grads", "after_step", "after_task"]
    expected = [(name, hook) for _ in stream.tasks for hook in one_task for name in "ab"]
    assert [(name, hook) for name, hook, _ in calls] == expected
    assert all(seen for _, hook, seen in calls if hook in ("loss", "edit_grads"))


class HalveGradient(Method):
    def edit_grads(self, learner, batch):
        for p in learner.params.values():
            p.grad.mul_(0.5)


class Double(Method):
    def loss(self, learner, batch):
        return learner.loss(batch)


def test_a_returned_term_is_added_and_an_edited_gradient_is_used(stream):
    plain = partial(torch.optim.SGD, lr=0.05)
    run = lambda methods, opt=plain: train(Learner(MLP((64, 10)), stream, methods, optimiser=opt)).losses
    halved = run([HalveGradient()])
    assert halved == run([], partial(torch.optim.SGD, lr=0.025))
    both = run([Double(), HalveGradient()])  # twice the loss, half the gradient: the same path
    assert [2 * a for a in run([])[0]] == pytest.approx(both[0], rel=1e-4)


def test_R_is_what_was_measured_after_each_task(stream):
    class Measure(Method):
        rows = []

        def after_task(self, learner, task):
            self.rows.append([learner.accuracy(other) for other in learner.stream.tasks])

    m = Measure()
    learner = Learner(MLP((64, 10)), stream, [m])
    b = [learner.accuracy(task) for task in stream.tasks]
    r = train(learner)
    assert r.R.tolist() == m.rows and r.b.tolist() == b


def test_accuracy_counts_hits_over_the_whole_test_set(stream):
    learner = Learner(MLP((64, 20, 10)), stream)
    fit(learner, stream.tasks[0])
    x, y, _ = next(stream.tasks[0].batches(10_000, "test"))
    assert learner.accuracy(stream.tasks[0]) == pytest.approx((learner.net(x).argmax(1) == y).float().mean().item())


def test_task_il_reads_only_the_tasks_own_units():
    stream = split(digits(), scenario="task")
    learner = Learner(MLP((64, 10)), stream)
    learner.seen = 5
    b = next(stream.tasks[2].batches(8))
    s = learner.scores(b.x, b.t)
    assert s[:, 4:6].isfinite().all() and s[:, :4].isinf().all() and s[:, 6:].isinf().all()


def test_a_method_answers_in_place_of_the_network(stream):
    class Three(Method):
        def predict(self, learner, x, t):
            return F.one_hot(torch.full((len(x),), 3), 10).float()

    learner = Learner(MLP((64, 10)), stream, [Three()])
    share = (stream.tasks[0].test.y == 3).float().mean().item()
    assert learner.accuracy(stream.tasks[0]) == pytest.approx(share)
    with pytest.raises(ValueError, match="Three and Three would both answer"):
        Learner(MLP((64, 10)), stream, [Three(), Three()])


def test_a_method_may_refuse_a_learner(stream):
    class Picky(Method):
        def check(self, learner):
            raise ValueError("Picky needs another stream.")

    with pytest.raises(ValueError, match="Picky needs"):
        Learner(MLP((64, 10)), stream, [Picky()])


def test_a_diverging_run_stops_with_a_sentence(stream):
    with pytest.raises(Diverged, match="lower the learning rate"):
        train(Learner(MLP((64, 20, 10)), stream, epochs=5, optimiser=partial(torch.optim.SGD, lr=1e30)))


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"threads": 0}, {"epochs": 1.5}])
def test_bad_arguments_are_refused(stream, bad):
    with pytest.raises(ValueError, match=r"must be a whole number of 1 or more, not (0|1\.5)\."):
        Learner(MLP((64, 10)), stream, **bad)


def test_the_callers_thread_count_is_put_back(stream):
    before = torch.get_num_threads()
    train(Learner(MLP((64, 10)), stream, threads=2 if before == 1 else 1))
    assert torch.get_num_threads() == before


def test_the_package_asks_for_one_thread_so_that_a_loop_by_hand_adds_up_in_the_same_order():
    code = "import torch; torch.set_num_threads(4); import cl_tutor; print(torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_joint_training_forgets_nothing_where_naive_forgets_much():
    stream = permuted(digits(), tasks=3)
    opt = partial(torch.optim.SGD, lr=0.2)
    run = lambda s: train(Learner(MLP((64, 100, 100, 10)), s, epochs=8, batch_size=32, optimiser=opt))
    naive, joint = run(stream), run(stream.cumulative())
    assert naive.forgetting > 0.2 and joint.forgetting < 0.03 and joint.acc > 0.9


def test_the_toy_trains_two_weights():
    from cl_tutor.nets import TwoWeights

    stream = toy()
    learner = Learner(TwoWeights(), stream, epochs=50, batch_size=200, optimiser=partial(torch.optim.SGD, lr=1.0))
    r = train(learner)
    assert r.R[0, 0] > 0.75 and sum(p.numel() for p in learner.net.parameters()) == 2


def test_networks_have_the_sizes_they_claim_and_their_own_seed():
    count = lambda net: sum(p.numel() for p in net.parameters())
    assert count(SmallCNN()) == 49_742
    assert SmallCNN()(torch.rand(2, 3, 32, 32)).shape == (2, 10) == SmallCNN(1, 28)(torch.rand(2, 1, 28, 28)).shape
    assert MLP((64, 30, 10)).features(torch.rand(5, 1, 8, 8)).shape == (5, 30)
    torch.manual_seed(1)
    a, after = MLP((64, 10)), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "building a network draws nothing from the caller's generator"
    assert same(a, MLP((64, 10))) and not same(a, MLP((64, 10), seed=1))


@pytest.mark.parametrize(
    ("build", "says"), [(lambda: MLP((64,)), "sizes needs"), (lambda: SmallCNN(1, 8), "use an MLP")]
)
def test_impossible_networks_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_a_method_serves_one_learner(stream):
    ewc = EWC(1.0, samples=20)
    one, other = (Learner(MLP((64, 10)), stream, [ewc], batch_size=500) for _ in range(2))
    train(one)
    with pytest.raises(ValueError, match="This EWC has served another learner, and remembers it: build a new one"):
        train(other)


def test_a_measurement_that_was_interrupted_before_the_first_task_may_be_begun_again(stream, monkeypatch):
    learner = Learner(MLP((64, 10)), stream, [EWC(1.0, samples=20)], batch_size=500)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "accuracy", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        train(learner)
    assert train(learner).acc > 0


def test_a_learner_that_broke_off_is_not_taken_for_one_between_tasks(stream):
    class Break(Method):
        def after_task(self, learner, task):
            if learner.seen == 2:
                raise KeyboardInterrupt

    learner = Learner(MLP((64, 10)), stream, [Break()], batch_size=500)
    with pytest.raises(KeyboardInterrupt):
        train(learner)
    with pytest.raises(ValueError, match="broke off within task 1: build a new one, or load a saved one"):
        train(learner)


@pytest.mark.parametrize("methods", [EWC(), [EWC], ["ewc"]])
def test_methods_are_a_list_of_methods(stream, methods):
    with pytest.raises(ValueError, match=r"methods is a list of methods, such as \[EWC\(1.0\)\], not"):
        Learner(MLP((64, 10)), stream, methods)


@pytest.mark.parametrize("outputs", [1, 4])
def test_a_network_with_other_outputs_than_the_stream_is_refused(outputs):
    learner = Learner(MLP((64, outputs)), split(digits(), tasks=5, scenario="class"))
    with pytest.raises(ValueError, match=f"The network has {outputs} outputs, and the stream 10 units"):
        train(learner)


def test_measuring_leaves_the_mode_as_it_was(stream):
    learner = Learner(MLP((64, 10)), stream)
    for mode in (True, False):
        learner.net.train(mode)
        learner.accuracy(stream.tasks[0])
        assert learner.net.training is mode
    train(learner)
    assert not learner.net.training  # what comes after training looks, and does not train
