"""Lesson 07: the distillation loss, a teacher that stays as it was, and one softmax for each old head.

The mutants are those of published code: T² left out, the divergence the wrong way round, a mean over batch and classes
at once, a teacher that is the student, one softmax over all units.
"""

import copy
from itertools import pairwise

import torch

from .harness import Exercise
from .reader import Question
from .teacher import Step


def distil(old, new, T):
    """T² KL(softmax(old/T) ‖ softmax(new/T)), the mean over a batch of logits (B, C)."""
    q = (old / T).softmax(1)
    log_q, log_p = (old / T).log_softmax(1), (new / T).log_softmax(1)
    return T**2 * (q * (log_q - log_p)).sum(1).mean()


def teacher(net):
    """A copy of the network that answers as it does now, for ever: own weights, eval mode, no gradients."""
    copied = copy.deepcopy(net).eval()
    return copied.requires_grad_(False)


def lwf(old, new, heads, T):
    """The distillation loss of several heads: the sum over the rows of heads (H, C), each with a softmax of its own."""
    return sum(distil(old[:, head], new[:, head], T) for head in heads)


def logits():
    rng = torch.Generator().manual_seed(11)
    for words, B, C, scale, T in [
        ("three classes, T = 1", 4, 3, 2.0, 1.0),
        ("three classes, T = 2", 4, 3, 2.0, 2.0),
        ("a sure teacher, T = 4", 6, 5, 8.0, 4.0),
    ]:
        old, new = scale * torch.randn(2, B, C, generator=rng, dtype=torch.float64)
        yield words, old, new, T


def value_and_slope(answer, old, new, *rest):
    """The loss, and its slope in the student's logits; zeros where they cannot feel it."""
    value = answer(old, new.requires_grad_(), *rest)
    if value is None or value is ...:
        return value
    felt = isinstance(value, torch.Tensor) and value.requires_grad
    return value, torch.autograd.grad(value, new)[0] if felt else torch.zeros_like(new)


def networks():
    rng = torch.Generator().manual_seed(12)
    for words, drop in [("a plain network", 0.0), ("dropout, handed over in training mode", 0.5)]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            layers = torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Dropout(drop), torch.nn.Linear(6, 2)
        yield words, torch.nn.Sequential(*layers).double().train(), torch.randn(4, 3, generator=rng).double()


def then_train(answer, net, x):
    """What the teacher says after the student has moved on, and whether anything of it would still learn."""
    old = answer(net)
    if old is None or old is ...:
        return old
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    return old(x).detach(), any(p.requires_grad for p in old.parameters()), net.training


def heads():
    rng = torch.Generator().manual_seed(13)
    pairs = torch.eye(3).repeat_interleave(2, 1).bool()  # three heads of two units each
    for words, H in [("two old heads of three", 2), ("one old head", 1)]:
        old, new = 2 * torch.randn(2, 5, 6, generator=rng, dtype=torch.float64)
        yield words, old, new, pairs[:H], 2.0


def _kl(q, p):
    return (q * (q.log() - p.log())).sum(1).mean()


q1 = Exercise(
    name="The distillation loss",
    reference=distil,
    cases=logits,
    ask=value_and_slope,
    mutants={
        "leaves out T²": lambda old, new, T: distil(old, new, T) / T**2,
        "has the divergence the wrong way round": lambda old, new, T: distil(new, old, T),
        "multiplies by T instead of T²": lambda old, new, T: distil(old, new, T) / T,
        "takes the mean over classes as well, as reduction='mean' does": lambda old, new, T: (
            distil(old, new, T) / old.shape[1]
        ),
        "softens the student alone": lambda old, new, T: T**2 * _kl(old.softmax(1), (new / T).softmax(1)),
        "softens the teacher alone": lambda old, new, T: T**2 * _kl((old / T).softmax(1), new.softmax(1)),
        "multiplies the logits by T": lambda old, new, T: T**2 * _kl((old * T).softmax(1), (new * T).softmax(1)),
        "adds up over the batch": lambda old, new, T: len(old) * distil(old, new, T),
        "matches the logits themselves": lambda old, new, T: 0.5 * (old - new).square().sum(1).mean(),
    },
    hints=(
        "Soften both, teacher and student, then measure how far the student's answers are from the teacher's, with the "
        "teacher's own probabilities as weights. T² gives back the size that softening takes away.",
        r"$T^2\,\mathrm{KL}(q\,\Vert\,p) = T^2\sum_c q_c\,(\log q_c - \log p_c)$ with $q = "
        r"\mathrm{softmax}(z^{\text{old}}"
        r"/T)$ and $p = \mathrm{softmax}(z/T)$; then the mean over the batch. `log_softmax` is safer than a log "
        r"of a softmax.",
        """
        ```python
        q = (old / T).softmax(1)
        log_q, log_p = ..., ...
        return T**2 * (...).sum(1).mean()
        ```
        """,
    ),
)

q2 = Exercise(
    name="A teacher that stays",
    reference=teacher,
    cases=networks,
    ask=then_train,
    mutants={
        "returns the network itself": lambda net: net,
        "copies the shell and shares the weights": lambda net: _shared(net).eval().requires_grad_(False),
        "leaves the copy in training mode, dropout and all": lambda net: copy.deepcopy(net).requires_grad_(False),
        "leaves the copy able to learn": lambda net: copy.deepcopy(net).eval(),
        "puts the student into eval mode as well": lambda net: copy.deepcopy(net.eval()).requires_grad_(False),
    },
    hints=(
        "Three things can go wrong: it moves with the student, it answers at random because dropout is on, or it "
        "learns. "
        "The student itself must stay in training mode.",
        "`copy.deepcopy(net)` has weights of its own; `.eval()` and `.requires_grad_(False)` act on the copy.",
        """
        ```python
        copied = ...
        return copied.requires_grad_(...)
        ```
        """,
    ),
)


def _shared(net):
    """Another module around the very same parameters."""
    return torch.nn.Sequential(*net.children())


q3 = Exercise(
    name="One softmax for each old head",
    reference=lwf,
    cases=heads,
    ask=value_and_slope,
    mutants={
        "takes one softmax over all units, new ones included": lambda old, new, heads, T: distil(old, new, T),
        "takes one softmax over all old units": lambda old, new, heads, T: distil(
            old[:, heads.any(0)], new[:, heads.any(0)], T
        ),
        "protects the last old head alone": lambda old, new, heads, T: lwf(old, new, heads[-1:], T),
        "takes the mean over the heads": lambda old, new, heads, T: lwf(old, new, heads, T) / len(heads),
        "sets the other units to zero instead of leaving them out": lambda old, new, heads, T: sum(
            distil(old * head, new * head, T) for head in heads
        ),
    },
    hints=(
        "In Task-IL the units of one head compete with each other and with no others. So every old head is a "
        "classifier "
        "of its own: one distillation loss each, added up.",
        "A row of `heads` says which units belong together: `old[:, head]` are that head's logits, (B, units of it).",
        """
        ```python
        return sum(distil(..., ..., T) for head in heads)
        ```
        """,
    ),
)

questions = (
    Question(
        "what is kept",
        "What does LwF keep of an old task?",
        ("Its images.", "A copy of the network.", "The Fisher of each weight."),
        "b",
        "The old network answers the new images, and its answers are the targets: no old data, no importance.",
    ),
    Question(
        "t squared",
        "You raise T from 1 to 10 and leave out the T². The gradient of the distillation term becomes, roughly?",
        ("A hundred times smaller.", "Ten times larger.", "Neither: softening changes its shape alone."),
        "a",
        "Its gradient goes like 1/T² for large T, so that α would have to grow by T² to mean the same.",
    ),
    Question(
        "limit",
        "What does T²·KL turn into as T grows without bound?",
        (
            "The cross-entropy with the teacher's most likely class.",
            "Zero, since everything becomes uniform.",
            "A squared distance between centred logits.",
        ),
        "c",
        "To first order in 1/T a softmax is linear, so the loss is 1/(2C) times the squared distance of centred "
        "logits.",
    ),
    Question(
        "where",
        "EWC and LwF agree to second order in the movement, if ... ?",
        (
            "T is large and λ small.",
            "LwF sees the old task's images and EWC has the whole Fisher.",
            "both are used in Class-IL, with one head for all tasks.",
        ),
        "b",
        "KL(old ‖ new) on the old inputs is ½ δᵀFδ plus higher orders. LwF has only the new task's inputs to ask at.",
    ),
    Question(
        "class-il",
        "In Class-IL on split digits, with no memory, EWC ends at about the naive accuracy. Why?",
        (
            "Its Fisher is measured with too few samples.",
            "The old classes never appear beside the new ones, and nothing keeps their logits comparable.",
            "Its λ is always beyond the ceiling there.",
        ),
        "b",
        "It protects weights, yet every new image still pushes all old logits down, with no old image to push back.",
    ),
)


# ---- the derivation --------------------------------------------------------------------------------------------------


def _pair(B=4, C=5, scale=1.0):
    old, new = scale * torch.randn(2, B, C).double()
    return old, new


def _slope():
    """Autograd's slope of (7.2) in the student's logits against T (p − q)/B."""
    old, new = _pair()
    slope = torch.func.grad(lambda z: distil(old, z, 3.0))(new)
    return float((slope - 3.0 * ((new / 3).softmax(1) - (old / 3).softmax(1)) / len(old)).abs().max())


def centred(old, new):
    """1/(2C) ‖(new − mean new) − (old − mean old)‖², the mean over the batch: the limit of `distil`."""
    gap = (new - new.mean(1, keepdim=True)) - (old - old.mean(1, keepdim=True))
    return gap.square().sum(1).mean() / (2 * old.shape[1])


def _limit():
    """Extrapolate T²·KL from T, 2T, 4T, 8T to 1/T = 0, and compare with the centred logits."""
    old, new = _pair()
    row = [distil(old, new, T) for T in (250.0, 500.0, 1000.0, 2000.0)]
    for k in (1, 2, 3):  # Richardson: each pass removes one more power of 1/T
        row = [(2**k * b - a) / (2**k - 1) for a, b in pairwise(row)]
    return float(row[0] - centred(old, new))


def _metric():
    """KL(q ‖ p) against ½ δᵀ(diag q − q qᵀ)δ: the error is of third order, so halving δ divides it by eight."""
    old, step = torch.randn(5).double(), torch.randn(5).double()
    q = old.softmax(0)
    metric = q.diag() - q.outer(q)
    error = lambda h: (
        distil(old[None], (old + h * step)[None], 1.0) / h**2 - 0.5 * step @ metric @ step
    )  # of order h: two halvings remove the terms in h and h²
    a, b, c = (error(0.04 / 2**k) for k in range(3))
    return float((a - 6 * b + 8 * c) / 3)


def _symmetric():
    """To second order the divergence is the same in both directions: the difference, over h², vanishes like h."""
    old, step = torch.randn(1, 5).double(), torch.randn(1, 5).double()
    gap = lambda h: (distil(old, old + h * step, 1.0) - distil(old + h * step, old, 1.0)) / h**2
    a, b, c = (gap(0.04 / 2**k) for k in range(3))
    return float((a - 6 * b + 8 * c) / 3)


derivation = (
    Step(
        "7.3",
        r"""Let $q = \sigma(z^{\text{old}}/T)$ and $p = \sigma(z/T)$. Of $\mathrm{KL}(q\Vert p) = \sum_c q_c(\log
        q_c-\log p_c)$ only $\log p$ depends on $z$, and $\partial\log p_c/\partial z_d = ([c=d]-p_d)/T$. So
        $\partial\,T^2\mathrm{KL}/\partial z_c = T\,(p_c-q_c)$: the cross-entropy's gradient with soft labels,
        times $T$. The check compares with autograd, for a batch mean.""",
        _slope,
    ),
    Step(
        "7.4",
        r"""Expand in $1/T$: $p_c = \frac1C\bigl(1+\frac{z_c-\bar z}{T}\bigr)+O(T^{-2})$ with $\bar z$ the mean
        logit. Then $T(p_c-q_c) \to \frac1C\bigl[(z_c-\bar z)-(z_c^{\text{old}}-\bar z^{\text{old}})\bigr]$, the
        gradient of $\frac1{2C}\lVert\cdot\rVert^2$ of that bracket. The error is of order $1/T$; the check
        extrapolates it away.""",
        _limit,
        1e-6,
    ),
    Step(
        "7.5",
        r"""For a small change $\delta z$ of the logits, at $T=1$: the slope of $\mathrm{KL}(q\Vert\cdot)$ vanishes
        at $q$ and its second derivative is the softmax's curvature of lesson 04, so $\mathrm{KL} \approx
        \frac12\,\delta z^\top(\operatorname{diag} q-qq^\top)\,\delta z$. With $\delta z = J\delta$ and the mean
        over inputs this is $\frac12\,\delta^\top F\delta$: EWC's energy, with the whole Fisher.""",
        _metric,
        1e-6,
    ),
    Step(
        "7.5, the other way round",
        r"""$\mathrm{KL}(p\Vert q)$ has the same second derivative at $p=q$, so near the teacher the two directions
        cannot be told apart: their difference is of third order. Far away they differ, and so do the networks that
        they train: $\mathrm{KL}(q\Vert p)$ punishes a student that misses what the teacher believes in. The
        check divides the difference by $h^2$ and lets $h \to 0$.""",
        _symmetric,
        1e-6,
    ),
)

notes = """
Fifty minutes; Run All takes under a minute. Begin with the question of the title, on the blackboard: two networks
with very different weights may give the same answers, so why hold on to weights? Let the class find the catch:
answers to which questions? LwF asks with the new task's images, because it has no others.

The exercise on T² pays off when the class plots gradient sizes over T with and without it. Somebody will say that
the mean over classes (a default in a popular library) is "only a constant": so it is, one that depends on the
number of classes.

Misconceptions: that a higher T makes the teacher "less sure" and so weaker (T² gives the strength back, what
changes is which logits count); that LwF needs the old labels; that results in Task-IL carry over to Class-IL. Let
everyone commit to a number for Class-IL before the table of section 5 appears; the usual guess is far too high.
"""
