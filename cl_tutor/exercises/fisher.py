"""Lesson 04: the curvature of a softmax, and the diagonal Fisher sample by sample.

The mutants of the Fisher are those of published code: the square of a batch mean, the square of a sum of gradients, the
labels of the data set, classes that all count alike, dropout left on. Each runs, and each looks like importance.
"""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.func import hessian, jacrev, vmap

from .harness import Exercise
from .reader import Question
from .teacher import Step


def logit_curvature(z):
    """Second derivatives (C, C) of the cross-entropy −log softmax(z)_y by the logits z (C,). No y is needed."""
    p = z.softmax(0)
    return torch.diag(p) - torch.outer(p, p)


def fisher(net, x, y):
    """diag F over the images x, one tensor for each of net.parameters(); y are their labels in the data set."""
    net.eval()  # or dropout would hide a part of the network from every score
    weights = list(net.parameters())
    total = [torch.zeros_like(w) for w in weights]
    for image in x:
        log_p = net(image[None]).log_softmax(1)[0]
        for c, p in enumerate(log_p.exp().tolist()):
            score = torch.autograd.grad(log_p[c], weights, retain_graph=True)
            total = [f + p * s**2 / len(x) for f, s in zip(total, score)]
    return total


def logits():
    real = lambda *z: torch.tensor(z, dtype=torch.float64)
    yield "two classes", real(0.3, -0.5)
    yield "four classes", real(2.0, -1.0, 0.5, 0.0)
    yield "a network that is almost sure", real(0.0, 6.0, -1.0)


def networks():
    """Linear, with a hidden layer, and with dropout, handed over in training mode; float64, labels often surprising."""
    rng = torch.Generator().manual_seed(4)
    for words, sizes, drop in [("a linear network", (3, 2), 0.0), ("one hidden layer", (3, 4, 3), 0.0),
                               ("dropout, left in training mode", (3, 6, 3), 0.5)]:  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        between = (torch.nn.Tanh(), torch.nn.Dropout(drop)) if drop else (torch.nn.Tanh(),)
        net = torch.nn.Sequential(*[m for k, layer in enumerate(layers) for m in (*(between if k else ()), layer)])
        x = 2 * torch.randn(5, 3, generator=rng, dtype=torch.float64)
        yield words, net.double().train(), x, torch.arange(5) % sizes[-1]


def _scores(net, x):
    """Labels on one side, everything on the other: log p (N, C), and the scores of sample n and class c."""
    net = copy.deepcopy(net).eval()
    log_p = net(x).log_softmax(1)
    weights = list(net.parameters())
    return log_p.exp().detach(), lambda n, c: torch.autograd.grad(log_p[n, c], weights, retain_graph=True)


def _weighted(rule):
    """Σ_n Σ_c of rule(p, score) / N, another weight or another power than the right one."""

    def mutant(net, x, y):
        p, score = _scores(net, x)
        parts = [[rule(q, s) / len(x) for s in score(n, c)] for n, row in enumerate(p) for c, q in enumerate(row)]
        return [sum(layer) for layer in zip(*parts)]

    return mutant


def _labelled(pick):
    """One label a sample, `pick(p (N, C), y)`, as if the network had drawn it."""

    def mutant(net, x, y):
        p, score = _scores(net, x)
        parts = [[s**2 / len(x) for s in score(n, c)] for n, c in enumerate(pick(p, y))]
        return [sum(layer) for layer in zip(*parts)]

    return mutant


def _batch(reduction):
    """The gradient of the whole batch's loss, squared."""

    def mutant(net, x, y):
        net = copy.deepcopy(net).eval()
        loss = F.cross_entropy(net(x), y, reduction=reduction)
        return [g**2 for g in torch.autograd.grad(loss, list(net.parameters()))]

    return mutant


def _dropout_on(net, x, y):
    net.eval = lambda: net  # whoever forgets it
    return fisher(net, x, y)


q1 = Exercise(
    name="The curvature of a softmax",
    reference=logit_curvature,
    cases=logits,
    mutants={
        "has the sign of the second term the wrong way round": lambda z: (
            torch.diag(z.softmax(0)) + torch.outer(z.softmax(0), z.softmax(0))
        ),
        "has every sign the wrong way round": lambda z: -logit_curvature(z),
        "keeps the diagonal only": lambda z: torch.diag(z.softmax(0) * (1 - z.softmax(0))),
        "forgets that raising one logit lowers every other probability": lambda z: torch.diag(z.softmax(0)),
        "leaves the logits as they are, without a softmax": lambda z: torch.diag(z) - torch.outer(z, z),
    },
    hints=(
        "Differentiate twice. The cross-entropy's first derivative by the logits is p minus the one-hot label: the "
        "label is a constant in it, and the second derivative no longer knows it.",
        r"$\dfrac{\partial p_c}{\partial z_d} = p_c\,(\mathbf 1[c = d] - p_d)$: a diagonal, minus an outer product.",
        """
        ```python
        p = z.softmax(0)
        return torch.diag(...) - torch.outer(..., ...)
        ```
        """,
    ),
)

q2 = Exercise(
    name="The diagonal Fisher, sample by sample",
    reference=fisher,
    cases=networks,
    mutants={
        "lets the labels of the data set in": _labelled(lambda p, y: y.tolist()),
        "squares the gradient of the batch mean": _batch("mean"),
        "adds the gradients up and squares their sum": _batch("sum"),
        "forgets to weigh the classes by p": _weighted(lambda p, s: s**2),
        "weighs the score by p before it is squared": _weighted(lambda p, s: (p * s) ** 2),
        "takes the most likely class only": _labelled(lambda p, y: p.argmax(1).tolist()),
        "adds up over the samples instead of taking their mean": lambda net, x, y: [
            len(x) * f for f in fisher(net, x, y)
        ],
        "leaves dropout on": _dropout_on,
        "forgets the square": _weighted(lambda p, s: p * s),
    },
    hints=(
        "Two loops: over the images and the classes. For each pair one gradient of log p, squared *there and then*, "
        "and weighed by how much the network itself believes in that class. What are the labels for? And is the "
        "network in the right mode?",
        r"$F_{ii} = \frac1N \sum_n \sum_c p(c\mid x_n)\, s_i(x_n, c)^2$, equation (4.6). `net.eval()` switches dropout "
        "off; `image[None]` is a batch of one.",
        """
        ```python
        net.eval()
        weights = list(net.parameters())
        total = [torch.zeros_like(w) for w in weights]
        for image in x:
            log_p = net(image[None]).log_softmax(1)[0]
            for c, p in enumerate(log_p.exp().tolist()):
                score = torch.autograd.grad(..., weights, retain_graph=True)
                total = [f + ... for f, s in zip(total, score)]
        return total
        ```
        """,
    ),
)

questions = (
    Question(
        "whose_labels",
        "For the Fisher, who says which label a training image has?",
        (
            "The data set: the Fisher asks how the loss of the true label curves.",
            "The network: every label counts, weighed by its own p(y|x).",
            "The network, by its most likely class; the other classes do not count.",
        ),
        "b",
        "F is the mean over y drawn from the model. With the data set's labels it is the empirical Fisher, which fades "
        "as the fit becomes perfect.",
    ),
    Question(
        "squares_first",
        "What is left of the exact trace if the gradient of a mini-batch of 32 is squared once for all of it?",
        (
            "About a thirty-second part.",
            "All of it on average, but with more noise.",
            "About thirty-two times as much.",
        ),
        "a",
        "Scores of different images pull in all directions and cancel in the mean: what survives is about 1/B.",
    ),
    Question(
        "when_equal",
        "When is the Fisher exactly the Hessian of the cross-entropy, whatever the weights and the labels?",
        (
            "At every local optimum of a network that was trained to the end, as slopes vanish there.",
            "Never: the Hessian depends on the labels, the Fisher does not.",
            "Where the logits are linear in the weights.",
        ),
        "c",
        "H = G + rest, and the rest holds second derivatives of the logits. It vanishes where these do; at an "
        "optimum it "
        "is merely small where the fit is close.",
    ),
    Question(
        "accuracy_is_blind",
        "EWC runs with a Fisher thirty times too small and a well tuned λ. What gives the mistake away?",
        (
            "The accuracy on the old tasks, which stays lower.",
            "The trace of F, and a λ that fits nobody else's.",
            "Nothing at all: the two are the same method.",
        ),
        "b",
        "Only the product λF is felt, so tuning hides the scale. It shows as soon as λ, the batch size or the "
        "fit changes.",
    ),
    Question(
        "zero_diagonal",
        "A weight has F_ii = 0. What may it do?",
        (
            "Move a little: no answer changes, to second order.",
            "Nothing: at zero it carries no signal and must be kept.",
            "Move, but only together with its neighbours.",
        ),
        "a",
        "F is the curvature of the KL between the answers before and after. No curvature, no change to second order.",
    ),
)


def _small():
    """Three weights in, two tanh units, three classes, in float64: z(θ, x), θ (15,), images (4, 3), labels (4,)."""
    rng = torch.Generator().manual_seed(7)
    theta, x = torch.randn(15, generator=rng).double(), torch.randn(4, 3, generator=rng).double()

    def z(theta, x):
        W, U, c = theta.split([6, 6, 3])
        return U.view(3, 2) @ torch.tanh(W.view(2, 3) @ x) + c

    return z, theta, x, torch.tensor([0, 1, 2, 1])


def _parts():
    """The scores (N, C, P) and the probabilities (N, C) of the small case, and its Fisher (P, P)."""
    z, theta, x, _ = _small()
    log_p = lambda theta, x: z(theta, x).log_softmax(0)
    S, p = vmap(jacrev(log_p), (None, 0))(theta, x), vmap(log_p, (None, 0))(theta, x).exp()
    return S, p, torch.einsum("nci,nc,ncj->ij", S, p, S) / len(x)


def _mean_score():
    S, p, _ = _parts()
    return torch.einsum("nc,nci->ni", p, S).abs().max()


def _curvature_of_kl():
    z, theta, x, _ = _small()
    _, p, F_ = _parts()
    log_p = lambda theta: torch.stack([z(theta, row) for row in x]).log_softmax(1)
    KL = lambda there: (p * (p.log() - log_p(there))).sum(1).mean()
    return (hessian(KL)(theta) - F_).abs().max()


def _gauss_newton():
    z, theta, x, _ = _small()
    J = vmap(jacrev(z), (None, 0))(theta, x)
    curvature = torch.stack([logit_curvature(z(theta, row)) for row in x])
    return torch.einsum("nci,ncd,ndj->ij", J, curvature, J) / len(x)


def _hessian_splits():
    z, theta, x, y = _small()
    logits = lambda theta: torch.stack([z(theta, row) for row in x])
    off = logits(theta).softmax(1) - F.one_hot(y, 3)
    rest = hessian(lambda theta: (off * logits(theta)).sum() / len(x))(theta)
    return (hessian(lambda theta: F.cross_entropy(logits(theta), y))(theta) - _gauss_newton() - rest).abs().max()


def _fisher_is_gauss_newton():
    return (_parts()[2] - _gauss_newton()).abs().max()


def _batch_mean():
    """The mean over every pair of labels that the model may draw for a batch of two."""
    S, p, _ = _parts()
    pairs = [(c, d) for c in range(3) for d in range(3)]
    mean = sum(p[0, c] * p[1, d] * ((S[0, c] + S[1, d]) / 2).square() for c, d in pairs)
    truth = torch.einsum("nc,nci->i", p[:2], S[:2].square()) / 2
    return (mean - truth / 2).abs().max()


derivation = (
    Step(
        "4.2",
        r"""
        The score is $s(x,y) = \nabla_\theta \log p(y\mid x;\theta) = \nabla p / p$. Draw $y$ from the model, so that
        each $y$ counts $p(y\mid x)$. The $p$ in front cancels the $p$ below, and a sum of probabilities is 1 wherever
        the weights are:

        $$\mathbb E_{y\sim p}\, s = \sum_y p\,\frac{\nabla p}{p} = \nabla \sum_y p = \nabla 1 = 0.$$

        With labels from anywhere else the mean is not zero: then it is minus the gradient of the loss.
        """,
        _mean_score,
    ),
    Step(
        "4.4",
        r"""
        Let $K(\delta) = \frac1N\sum_n \mathrm{KL}(p_\theta \Vert p_{\theta+\delta}) = \frac1N\sum_n \mathbb E_y[\log
        p_\theta - \log p_{\theta+\delta}]$, the expectation under $p_\theta$, which does not move with $\delta$. The
        slope at 0 is $-\mathbb E\, s = 0$ by (4.2). The curvature is $-\mathbb E\,\nabla^2\log p$. Differentiate
        $\nabla\log p = \nabla p/p$ once more: $\nabla^2 \log p = \nabla^2 p / p - s s^\top$. The first term has the
        mean
        $\sum_y \nabla^2 p = \nabla^2 1 = 0$, so

        $$\nabla^2 K(0) = \mathbb E[s s^\top] = F, \qquad K(\delta) = \tfrac12\,\delta^\top F \delta +
        O(\lVert\delta\rVert^3).$$
        """,
        _curvature_of_kl,
    ),
    Step(
        "4.5",
        r"""
        Let $\ell(z) = -\log\sigma(z)_y$ be the loss of one image as a function of its logits $z(\theta)$. The chain
        rule,
        twice: $\nabla^2_\theta\,\ell = J^\top (\nabla^2_z \ell) J + \sum_c (\partial\ell/\partial z_c)\,\nabla^2_\theta
        z_c$. Here $\partial\ell/\partial z_c = p_c - \mathbf 1[c = y]$, and one more derivative gives $\Lambda_{cd}
        = p_c
        (\mathbf 1[c=d] - p_d)$: the label was a constant and is gone. Take the mean over the images:

        $$H = \frac1N\sum_n J_n^\top\Lambda_n J_n + \frac1N\sum_n\sum_c (p_c - \mathbf 1[c=y_n])\,\nabla^2 z_c.$$
        """,
        _hessian_splits,
    ),
    Step(
        "4.5, F = G",
        r"""
        The score is $s(x,y) = J^\top (e_y - p)$, with $e_y$ the one-hot label. So $\mathbb E_y[s s^\top] = J^\top\,
        \mathbb E_y[(e_y - p)(e_y - p)^\top]\, J$, and the middle is the covariance of a one-hot vector drawn from $p$:
        $\operatorname{diag} p - p p^\top = \Lambda$. So

        $$F = \frac1N\sum_n J_n^\top \Lambda_n J_n = G,$$

        at any weights, for any data. If the logits are linear in $\theta$, $\nabla^2 z_c = 0$, and $F = G = H$.
        """,
        _fisher_is_gauss_newton,
    ),
    Step(
        "4.7",
        r"""
        For a batch of $B$ images with labels drawn from the model, the scores $g_n$ are independent and each has the
        mean 0. In $(\frac1B\sum_n g_n)^2$ the $B(B-1)$ cross terms therefore vanish on average, and what is left is

        $$\mathbb E\Big(\frac1B\sum_n g_n\Big)^2 = \frac1{B^2}\sum_n \mathbb E\, g_n^2 = \frac1B\,F_{ii}.$$

        (With the data set's labels the means are not zero, and the square of the batch's gradient comes on top.) The
        residual goes through all nine pairs of labels of two images.
        """,
        _batch_mean,
    ),
)

notes = """
**Time.** 45 minutes: 10 for the score and the KL, 10 for the Hessian, 15 for the four estimators, 10 for the λ
experiment. Hand out `cl-tutor sheet 4`; step (4.4) is worth a blackboard, because it shows why the *square* of a
first derivative is a curvature.

**In class.** Collect three predictions by a show of hands before the cells run: the gap between F and H, the share
of the trace that the data set's labels keep, and the accuracy that a wrong Fisher costs. The last one nearly
everybody gets wrong: it costs nothing. Let that sink in, then ask what in a paper would have told (the trace; the
λ).

**Misconceptions.** "The Fisher is the Hessian": it is the Gauss-Newton matrix. "The labels are in the data": they
are drawn from the model, and section 4 shows what happens otherwise. "The mean of squares and the square of the
mean differ by noise": they differ by a factor of about the batch size. "A larger F_ii means a larger weight": it
means that the answers move when the weight does.

**If time is short**, skip section 6 and the number of labels; if there is more, let pairs try batch sizes of 8 and
128 in `BatchMean` and predict the meter first.
"""
