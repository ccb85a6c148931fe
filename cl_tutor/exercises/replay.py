"""Lesson 08: the reservoir, a step of experience replay, and the loss of DER++.

A reservoir is judged by its law, not by its draws: `outcomes` walks through every way the dice can fall. The mutants of
the draw are published bugs; each of them trains, and most leave a healthy accuracy behind.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from ..methods.memory import Reservoir
from ..methods.replay import DER, ER
from ..nets import MLP
from ..streams import Batch, toy
from .harness import Exercise
from .reader import Question
from .teacher import Step


def reservoir(offers, M, draw):
    """The M offers kept of a stream; draw(k) gives a whole number from {0, ..., k−1}, each equally likely."""
    kept = []
    for i, offer in enumerate(offers):
        if i < M:
            kept.append(offer)
        elif (j := draw(i + 1)) < M:
            kept[j] = offer
    return kept


def er_step(loss, opt, batch, memory, size, alpha):
    """One step on L(B) + α L(B_M), B_M being `size` kept rows; only then is the batch offered to the memory."""
    total = loss(batch)
    if len(memory):
        total = total + alpha * loss(Batch(*memory.sample(size)))
    opt.zero_grad()
    total.backward()
    opt.step()
    memory.add(*batch)


def derpp_loss(net, batch, first, second, alpha, beta):
    """L(B) + α‖f(x') − z'‖²/C + β L(x'', y''), where first = (x', z') and second = (x'', y''); means over rows."""
    (x1, z1), (x2, y2) = first, second
    new = F.cross_entropy(net(batch.x), batch.y)
    return new + alpha * F.mse_loss(net(x1), z1) + beta * F.cross_entropy(net(x2), y2)


# ---- every way the dice can fall -------------------------------------------------------------------------------------


class Dice:
    """draw(k) gives a whole number from {0, ..., k−1}: here the numbers of a script, then zeros."""

    def __init__(self, script: Sequence[int] = ()):
        self.script = list(script)
        self.thrown: list[tuple[int, int]] = []

    def __call__(self, k: int) -> int:
        if int(k) != k or k < 1:
            raise ValueError(f"draw(k) needs a whole number k of 1 or more, not {k!r}.")
        n = len(self.thrown)
        self.thrown.append((self.script[n] if n < len(self.script) else 0, int(k)))
        return self.thrown[-1][0]

    def __repr__(self) -> str:
        return "a die with the sides 0 … k−1"


def outcomes(sample: Callable, n: int, M: int) -> Any:
    """{what is kept: its probability}, exactly: `sample(range(n), M, draw)` is run once for every way the draws can go.

    >>> outcomes(lambda offers, M, draw: [offers[draw(len(offers))]], 2, 1)
    {(0,): 0.5, (1,): 0.5}
    """
    law: dict[tuple[int, ...], float] = {}
    script: list[int] = []
    for _ in range(100_000):
        dice = Dice(script)
        kept = sample(range(n), M, dice)
        if kept is None or kept is ...:
            return kept
        share = 1.0
        for _, sides in dice.thrown:
            share /= sides
        key = tuple(sorted(kept))
        law[key] = law.get(key, 0.0) + share
        left = next((d for d in range(len(dice.thrown) - 1, -1, -1) if dice.thrown[d][0] + 1 < dice.thrown[d][1]), None)
        if left is None:  # the last die showed its last side
            return dict(sorted(law.items()))
        script = [side for side, _ in dice.thrown[:left]] + [dice.thrown[left][0] + 1]
    raise ValueError(f"More than 100,000 ways to draw from {n} offers: draw at most once an offer, or take fewer.")


def inclusion(law: dict[tuple[int, ...], float], n: int) -> list[float]:
    """The probability that each of the n offers is kept."""
    return [sum(share for kept, share in law.items() if i in kept) for i in range(n)]


# ---- cases -----------------------------------------------------------------------------------------------------------


def streams():
    yield "5 offers, 2 slots", range(5), 2, Dice()
    yield "3 offers, 1 slot", range(3), 1, Dice()
    yield "6 offers, 3 slots", range(6), 3, Dice()
    yield "2 offers, 4 slots", range(2), 4, Dice()


def _ask_reservoir(answer, offers, M, draw):
    """The law: first how likely each offer is kept, which says most about a mistake, then every possible memory."""
    law = outcomes(answer, len(offers), M)
    return {"chance of offer": inclusion(law, len(offers)), "memory": law} if isinstance(law, dict) else law


class Words:
    """Stands for something that a verdict would otherwise print at length."""

    def __init__(self, words: str, it: Any):
        self.words, self.it = words, it

    def __repr__(self) -> str:
        return self.words


def replays():
    """A small network in float64, three batches, a reservoir, and how strongly it is replayed."""
    rng = torch.Generator().manual_seed(0)
    for words, alpha in [("α = 1", 1.0), ("α = 0.3", 0.3)]:
        draw = lambda t, n=6: Batch(torch.randn(n, 3, generator=rng).double(), torch.arange(n) % 2, torch.full((n,), t))
        net = Words("cross-entropy of an MLP", MLP((3, 4, 2), seed=1).double())
        batches = Words("three batches, in three steps", [draw(0), draw(0), draw(1)])
        yield words, net, "SGD, rate 0.3", batches, Words("a reservoir of 5 slots", Reservoir(5, seed=1)), 4, alpha


def _ask_er(answer, net, opt, batches, memory, size, alpha):
    """The weights after three steps, and what the memory then holds."""
    net, memory = net.it, memory.it
    opt = torch.optim.SGD(net.parameters(), lr=0.3)
    for batch in batches.it:
        done = answer(lambda b: F.cross_entropy(net(b.x), b.y), opt, batch, memory, size, alpha)
        if done is ...:
            return done
    return torch.cat([p.detach().flatten() for p in net.parameters()]), memory.rows() if len(memory) else []


def dark_rows():
    """A network, a batch, and two draws from a memory; 3 units, and draws of other sizes than the batch."""
    rng = torch.Generator().manual_seed(1)
    x = lambda n: torch.randn(n, 4, generator=rng).double()
    y = lambda n: torch.randint(3, (n,), generator=rng)
    for words, alpha, beta in [("DER++", 0.5, 0.7), ("DER: β = 0", 2.0, 0.0), ("ER: α = 0", 0.0, 1.0)]:
        batch = Batch(x(5), y(5), torch.zeros(5, dtype=torch.long))
        first, second = (x(4), 3 * torch.randn(4, 3, generator=rng).double()), (x(4), y(4))
        yield words, MLP((4, 5, 3), seed=2).double(), batch, first, second, alpha, beta


def _ask_derpp(answer, net, batch, first, second, alpha, beta):
    """The loss and its gradient: a target that moves along has the same value and another slope."""
    loss = answer(net, batch, first, second, alpha, beta)
    if loss is None or loss is ...:
        return loss
    slopes = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return loss, torch.cat([g.flatten() for g in slopes])


# ---- mistakes --------------------------------------------------------------------------------------------------------


def _draws_from(sides):
    """A reservoir whose offer i draws from {0, ..., sides(i, M) − 1}."""

    def wrong(offers, M, draw):
        kept = []
        for i, offer in enumerate(offers):
            if i < M:
                kept.append(offer)
            elif (j := draw(sides(i, M))) < M:
                kept[j] = offer
        return kept

    return wrong


def _fair_coin(offers, M, draw):
    kept = list(offers)[:M]
    for offer in list(offers)[M:]:
        if draw(2):
            kept[draw(M)] = offer
    return kept


def _offers_first(loss, opt, batch, memory, size, alpha):
    old = len(memory)
    memory.add(*batch)
    total = loss(batch)
    if old:
        total = total + alpha * loss(Batch(*memory.sample(size)))
    opt.zero_grad()
    total.backward()
    opt.step()


def _er(combine, clear=True, keep=True):
    """A step of replay with another way to combine L(B) and L(B_M)."""

    def wrong(loss, opt, batch, memory, size, alpha):
        total = loss(batch)
        if len(memory):
            total = combine(total, loss, batch, Batch(*memory.sample(size)), alpha)
        if clear:
            opt.zero_grad()
        total.backward()
        opt.step()
        if keep:
            memory.add(*batch)

    return wrong


def _joined(total, loss, batch, old, alpha):
    return loss(Batch(*(torch.cat(pair) for pair in zip(batch, old))))


def _derpp(dark, swap=False):
    def wrong(net, batch, first, second, alpha, beta):
        if swap:
            alpha, beta = beta, alpha
        (x1, z1), (x2, y2) = first, second
        return F.cross_entropy(net(batch.x), batch.y) + alpha * dark(net(x1), z1) + beta * F.cross_entropy(net(x2), y2)

    return wrong


q1 = Exercise(
    name="The reservoir",
    reference=reservoir,
    cases=streams,
    ask=_ask_reservoir,
    rtol=1e-9,
    mutants={
        "lets offer i draw from {0, ..., i−1}, one too few: A-GEM's published code": _draws_from(lambda i, M: i),
        "lets offer i draw from {0, ..., i+1}, one too many: MER's published code": _draws_from(lambda i, M: i + 2),
        "always replaces one of the M kept": _draws_from(lambda i, M: M),
        "keeps the first M and never replaces": lambda offers, M, draw: list(offers)[:M],
        "keeps the last M": lambda offers, M, draw: list(offers)[-M:],
        "flips a fair coin for every newcomer, however long the stream": _fair_coin,
    },
    hints=(
        "The first M offers find a free slot. Later, offer i (counted from 0) is one of i + 1 that have come by: it "
        "deserves a slot with probability M/(i + 1), and it does not matter whose.",
        r"$j$ uniform in $\{0, \dots, i\}$, the newcomer's own number included: `draw(i + 1)`. Where $j < M$ the "
        "newcomer takes slot $j$, otherwise it is let go. That is (8.1).",
        """
        ```python
        kept = []
        for i, offer in enumerate(offers):
            if i < M:
                kept.append(offer)
            else:
                j = draw(...)
                ...
        return kept
        ```
        """,
    ),
)

q2 = Exercise(
    name="A step of experience replay",
    reference=er_step,
    cases=replays,
    ask=_ask_er,
    mutants={
        "offers the batch before it draws, so that the 'past' is the present": _offers_first,
        "takes the mean of the two losses instead of the sum": _er(lambda L, loss, b, old, a: (L + a * loss(old)) / 2),
        "joins both batches into one, so that α is gone and rows are counted": _er(_joined),
        "puts α on the new batch": _er(lambda L, loss, b, old, a: a * L + loss(old)),
        "trains on the kept rows alone": _er(lambda L, loss, b, old, a: a * loss(old)),
        "keeps the gradient of the step before": _er(lambda L, loss, b, old, a: L + a * loss(old), clear=False),
        "never writes anything into the memory": _er(lambda L, loss, b, old, a: L + a * loss(old), keep=False),
    },
    hints=(
        "Four things in this order: the loss of the new batch; the loss of rows drawn from the memory, if it holds "
        "any; one step on their sum; and then the batch is offered to the memory.",
        r"$L(B) + \alpha\,L(B_M)$, equation (8.4). `memory.sample(size)` gives the columns of a `Batch`, and "
        "`memory.add(*batch)` offers one.",
        """
        ```python
        total = loss(batch)
        if len(memory):
            total = total + alpha * loss(Batch(*...))
        opt.zero_grad()
        total.backward()
        opt.step()
        ...
        ```
        """,
    ),
)

q3 = Exercise(
    name="The loss of DER++",
    reference=derpp_loss,
    cases=dark_rows,
    ask=_ask_derpp,
    mutants={
        "compares probabilities instead of logits": _derpp(lambda z, old: F.mse_loss(z.softmax(1), old.softmax(1))),
        "adds up the squares instead of averaging them": _derpp(lambda z, old: F.mse_loss(z, old, reduction="sum")),
        "averages over rows alone, so that α depends on the number of classes": _derpp(
            lambda z, old: (z - old).square().sum(1).mean()
        ),
        "takes the length of the difference instead of its square": _derpp(lambda z, old: (z - old).norm()),
        "asks the present network for the old logits, a term that is always 0": _derpp(lambda z, old: 0 * z.sum()),
        "swaps α and β": _derpp(F.mse_loss, swap=True),
        "distils with a softmax: KL instead of the distance": _derpp(
            lambda z, old: F.kl_div(z.log_softmax(1), old.softmax(1), reduction="batchmean")
        ),
    },
    hints=(
        "Three terms: the new batch under its labels; on the first draw, answer as you once did; on the second draw, "
        "the labels again.",
        r"$L(B) + \alpha\,\frac1C\lVert f(x';\theta) - z'\rVert^2 + \beta\,L(x'', y'')$, equation (8.6), with means "
        "over rows. `F.mse_loss` is a mean over rows and units, `F.cross_entropy` one over rows.",
        """
        ```python
        (x1, z1), (x2, y2) = first, second
        new = F.cross_entropy(net(batch.x), batch.y)
        return new + alpha * F.mse_loss(...) + beta * ...
        ```
        """,
    ),
)

questions = (
    Question(
        "chance",
        "A reservoir of 100 slots has seen 5,000 samples. How likely is it that the very first one is still there?",
        ("Practically zero: it was in danger 4,900 times.", "2 %, like any other.", "1 %, for later ones push it out."),
        "b",
        "Every offer, early or late, is kept with probability M/n = 100/5,000.",
    ),
    Question(
        "order",
        "Why does replay draw from its memory before it offers the new batch to it?",
        (
            "Because a reservoir's law holds only while nothing is being offered to it.",
            "To save one pass through the network.",
            "Because the batch might otherwise be rehearsed as if it were past.",
        ),
        "c",
        "A row that has just been offered is no memory yet: it would count twice in the same step.",
    ),
    Question(
        "dark",
        "What does one row of DER's memory hold?",
        (
            "The input, label, task, and the logits given then.",
            "The logits that were given then, and nothing of the input.",
            "The gradient of the loss on that sample.",
        ),
        "a",
        "Its loss compares f(x') with z', and to ask the network about x' again one has to own x'.",
    ),
    Question(
        "saturation",
        "Where does accuracy stop rising as a replay buffer grows?",
        (
            "At 200 to 500 samples a task, on every benchmark.",
            "At a size that depends on the data, and must be measured.",
            "Never: it rises in proportion to the buffer.",
        ),
        "b",
        "On split digits 20 to 60 images a task were enough; a task there has only 279.",
    ),
)


# ---- the derivation --------------------------------------------------------------------------------------------------


def _inclusion_residual():
    return max(abs(p - 3 / 7) for p in inclusion(outcomes(reservoir, 7, 3), 7))


def _induction_residual():
    M = 5
    worst = 0.0
    for n in range(M, 200):
        stays = M / n * (1 - M / (n + 1) * (1 / M))
        worst = max(worst, abs(stays - M / (n + 1)))
    return worst


def _unbiased_residual():
    losses = torch.randn(6).double()
    law = outcomes(reservoir, 6, 2)
    return sum(p * losses[list(kept)].mean() for kept, p in law.items()) - losses.mean()


def _er_is_derpp_residual():
    from ..learn import Learner, fit

    weights = []
    for method in (ER(20, size=8, alpha=0.7, seed=3), DER(20, size=8, alpha=0.0, beta=0.7, seed=3)):
        learner = Learner(MLP((2, 5, 2), seed=0), toy(samples=60), [method], batch_size=10, device="cpu")
        learner.seen = 1
        fit(learner, learner.stream.tasks[0])
        weights.append(torch.cat([p.detach().flatten() for p in learner.net.parameters()]).double())
    return (weights[0] - weights[1]).abs().max()


def distillation(z: torch.Tensor, old: torch.Tensor, T: float) -> torch.Tensor:
    """T² KL(σ(z'/T) ‖ σ(z/T)) in the exact form (8.7), for one row of logits z and the old ones z'."""
    a, b = old / T, z / T
    return T**2 * (b.logsumexp(0) - a.logsumexp(0) - a.softmax(0) @ (b - a))


def _bregman_residual():
    z, old = torch.randn(2, 6).double()
    p, q = (old / 3).softmax(0), (z / 3).softmax(0)
    return distillation(z, old, 3.0) - 9 * (p * (p / q).log()).sum()


def limit(at: Callable[[float], torch.Tensor], start: float = 20.0, halvings: int = 6) -> torch.Tensor:
    """lim at(T) for T -> ∞, from finite T: the powers of 1/T are removed one by one (Richardson)."""
    row = [at(start * 2**k) for k in range(halvings)]
    for power in range(1, halvings):
        row = [(2**power * b - a) / (2**power - 1) for a, b in pairwise(row)]
    return row[0]


def _limit_residual():
    z, old = torch.randn(2, 6).double()
    return limit(lambda T: distillation(z, old, T)) - (z - old).var(correction=0) / 2


def _split_residual():
    z, old = torch.randn(2, 6).double()
    d = z - old
    return d.square().mean() - (d.var(correction=0) + d.mean().square())


derivation = (
    Step(
        "8.2",
        r"""
        Claim: after $n \ge M$ offers each of them is in the memory with probability $M/n$. For $n = M$ it is true: all
        are kept. The residual does not use the proof. It runs the algorithm once for *every* way in which its draws
        can fall, 7 offers into 3 slots, adds up the probabilities, and compares with $3/7$.
        """,
        _inclusion_residual,
    ),
    Step(
        "8.3",
        r"""
        The step from $n$ to $n+1$. The newcomer draws $j$ uniform in $\{0, \dots, n\}$, so it gets a slot with
        probability $M/(n+1)$. One that was kept, with probability $M/n$ by assumption, is pushed out only if $j$ is
        its own slot, one value of $n+1$: $\frac{M}{n}\left(1 - \frac{1}{n+1}\right) = \frac{M}{n+1}$. Here for $M = 5$
        and all $n$ up to 200.
        """,
        _induction_residual,
        1e-15,
    ),
    Step(
        "8.5",
        r"""
        Let $L(x_n)$ be fixed numbers. The mean over the kept rows is $\frac1M\sum_n [n \text{ kept}]\,L(x_n)$, and the
        expectation of the bracket is $M/N$ by (8.2). So $\mathbb{E}\,L(B_M) = \frac1N\sum_n L(x_n)$: on average the
        memory asks what joint training asks, (0.2). On average: one small memory may still be unlucky.
        """,
        _unbiased_residual,
    ),
    Step(
        "8.6",
        r"""
        DER++ with $\alpha = 0$ is ER: the logit term is gone, and what remains is $L(B) + \beta L(B_M)$, which is (8.4)
        with $\beta$ for $\alpha$. Two runs of the package, ER and DER, end at the same weights, bit for bit.
        """,
        _er_is_derpp_residual,
        0.0,
    ),
    Step(
        "8.7",
        r"""
        Write $a = z'/T$ and $b = z/T$. Since $\log\sigma_c(b) = b_c - \log\sum_k e^{b_k}$ and the probabilities add up
        to 1, $\mathrm{KL}(\sigma(a)\Vert\sigma(b)) = \log\sum_c e^{b_c} - \log\sum_c e^{a_c} - \sigma(a)\cdot(b - a)$:
        how far log-sum-exp at $b$ lies above its tangent at $a$. Checked against the definition, with $T = 3$.
        """,
        _bregman_residual,
    ),
    Step(
        "8.8",
        r"""
        Taylor: that gap is $\frac12 (b-a)^\top H (b-a)$ and higher orders, with
        $H = \mathrm{diag}(p) - pp^\top$ at $p = \sigma(a)$. As $T \to \infty$ all $p_c \to 1/C$, and
        $b - a = d/T$ with $d = z - z'$. The $T^2$ in front cancels:
        $\frac12\bigl(\frac1C\sum d_c^2 - (\frac1C\sum d_c)^2\bigr)$, half the variance of $d$ over the units. The
        residual removes the powers of $1/T$ from finite temperatures.
        """,
        _limit_residual,
        1e-8,
    ),
    Step(
        "8.9",
        r"""
        A mean square is a variance plus a squared mean: $\frac1C\lVert d\rVert^2 = 2 \cdot (8.8) + \bar d^{\,2}$. So
        DER's loss is twice the hot limit of distillation, plus one thing that a softmax cannot see: a shift $\bar d$
        that all units share.
        """,
        _split_residual,
    ),
)

notes = """
45 minutes; with the derivation of (8.2) on the board, 60. Let the class play the reservoir first: ten students walk by,
two chairs, one fair die with as many sides as people so far; after two rounds somebody guesses M/n. The proof is then
one line. Ask for predictions of the buffer curve before section 3: most guess hundreds of images, and about one a class
wins back half of the loss.

Misconceptions: that a reservoir favours the recent (it favours nobody); that old samples must be replayed as often as
new ones; that "dark" experience hides the inputs. The exact enumeration in `outcomes` is worth ten minutes of its
own: a
test of a random algorithm without randomness. (8.8) needs lesson 07's temperature. If time is short, leave out
section 5.
"""
