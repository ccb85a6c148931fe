"""Lesson 91: every claim that the lessons test, with the interval that it names and the stored runs that bear on it.

A sentence and an interval are typed, a number never: `measure` reads it from notebooks/runs. The mutants are the habits
that turn luck into a finding: the spread of the seeds for the error of their mean, two standard errors whatever n is,
the best seed, seeds that are paired by their place in a list.
"""

from functools import partial
from itertools import product

import numpy as np
from scipy import stats

from ..claims import FAILS, HOLDS, OPEN, Claim, Place, minus
from .harness import Exercise
from .reader import Question
from .teacher import Step

# ---- what is read ----------------------------------------------------------------------------------------------------


def live(where, part, name, **interval):
    """A number that lesson NN measures live, over the seeds of runs/claims.json."""
    return Place(where, f"claims/{part}", lambda runs: runs["claims"]["results"][part][name], **interval)


def apart(where, part, a, b, **interval):
    """One such number minus another, seed by seed."""
    found = lambda runs: runs["claims"]["results"][part]
    return Place(where, f"claims/{part}", lambda runs: np.subtract(found(runs)[a], found(runs)[b]), **interval)


def gain(where, file, a, b, **interval):
    """ACC of the best cell that fits a, minus that of the best that fits b, seed by seed."""
    return Place(where, file, lambda runs: minus(runs.acc(file, **a), runs.acc(file, **b)), **interval)


def score(where, file, what, fields, **interval):
    """A number of each run's R."""
    return Place(where, file, lambda runs: [what(r) for r in runs.cells(file, **fields)[0][1].values()], **interval)


ADAM = {"optimiser": "adam"}
NO_IMAGES = ("naive", "l2", "ewc", "online-ewc", "si", "mas", "lwf")
SCENARIOS = {"task": "Task-IL", "domain": "Domain-IL", "class": "Class-IL"}
bwt, unseen = (lambda r: r.bwt), (lambda r: r.forgetting + r.bwt)
newest = lambda rows: np.array([np.diagonal(row["R"])[-3:].mean() for row in rows])  # when new, tasks 8 to 10
accs = lambda rows: np.array([np.nan if run is None else run["acc"] for run in rows])


def regained(runs):
    new = {name: newest(rows) for name, rows in runs["ewc_freeze"]["results"].items()}
    return (new["γ = 0.95"] - new["separate"]) / (new["naive"] - new["separate"])


def lambdas(runs, labels="exact"):
    """ACC (K, seeds) at each of K strengths, nan where the run diverged."""
    return np.array([accs(row) for row in runs["ewc_lambda"]["results"][labels].values()])


def best_lambda(runs):
    strengths = np.array(list(runs["ewc_lambda"]["results"]["exact"]), float)
    return np.log10(strengths)[np.nanargmax(lambdas(runs), 0)]


def best_lambda_mnist(scenario, runs):
    cells = runs.cells("ewc_lambda_mnist", scenario=scenario, labels="exact")
    acc = {np.log10(own["lam"]): found for own, found in cells}
    return [max((found[s].acc, lam) for lam, found in acc.items() if s in found)[1] for s in cells[0][1]]


def knee(file, naive_file, where, runs, share=0.95):
    """Slots a task at which ER has won `share` of the way from naive training to its largest memory, each seed."""
    naive = runs.acc(naive_file, method="naive", **where)
    er = {own["slots"]: found for own, found in runs.cells(file, method="er", **where)}
    slots, needed = sorted(er), []
    for seed in sorted(set.intersection({*naive}, *({*found} for found in er.values()))):
        height = np.maximum.accumulate([naive[seed], *(er[m][seed].acc for m in slots)])
        way = (height - height[0]) / (height[-1] - height[0])
        needed.append(float(np.exp(np.interp(share, way[1:], np.log(slots)))) / 5)
    return needed


def sharpness(family, flat, sharp, runs):
    """How much more the old loss rises from the sharper of two minima."""
    rise = lambda which: np.array(runs["flat_minima"][family][which])[:, 2]
    return rise(sharp) - rise(flat)


def penalties(name, runs):
    found = {n: np.array(row["runs"])[:, 0] for n, row in runs["digits_penalties"]["results"].items()}
    return found[name] - found["EWC"]


def museum(room, runs):
    """ACC that a bug costs, seed by seed."""
    acc = lambda which: np.array([np.mean(run["R"][-1]) for run in runs["bug_museum"]["rooms"][room][which]["runs"]])
    return acc("sound") - acc("bug")


def cifar(what, runs):
    return [what(run) for run in runs["cifar_spectrum"]["runs"]]


def left_over(scenario, runs):
    """Accuracy on the first data set after the second."""
    return [run["R"][1][0] for run in runs["collapse"]["results"][scenario]]


def moved(scenario, run):
    """What the output layer destroys when it moves on alone, over the worst of the others; ten steps of task 2."""
    left = np.array(run["forgetting"][scenario]["moved"])[2, :, 0]
    return left[:3].min() - left[3]


cifar_place = lambda where, what, **interval: Place(where, "cifar_spectrum", partial(cifar, what), **interval)
last = lambda how: lambda run: run["spectra"][-1][how]

# ---- the claims, by lesson -------------------------------------------------------------------------------------------

POSITIVE, DOMINATES = {"low": 0.0}, {"low": 0.02}
GRID = {"stream": "split", "scenario": "class"}
BUGS = {"1": "squared batch mean", "2": "anchor is a view", "3": "T² missing", "4": "SI's view", "5": "MAS of the mean",
        "6": "reservoir off by one", "7": "projection turned", "9": "frozen by gradient"}  # fmt: skip

CLAIMS = (
    Claim("capacity", 0, "metrics", "Order, not capacity, is the problem: trained jointly, the same network holds "
        "all tasks", (
        gain("permuted digits, joint − naive", "lambda_grid", {"stream": "permuted", "method": "joint"},
            {"stream": "permuted", "method": "naive"}, low=0.1),
        gain("Split MNIST, Domain-IL, joint − naive", "split_mnist", {"scenario": "domain", "method": "joint"},
            {"scenario": "domain", "method": "naive"} | ADAM, low=0.1))),
    Claim("to-chance", 0, "metrics", "CIFAR-10, then another data set: accuracy on CIFAR-10 falls to barely above "
        "chance (below twice chance)", tuple(
        Place(f"CIFAR-10, then MNIST, {SCENARIOS[s]}", "collapse", partial(left_over, s), high=0.2)
        for s in ("domain", "task"))),
    Claim("orthogonal", 1, "gradients", "Gradients of unrelated tasks are nearly orthogonal, as random vectors are",
        tuple(live(f"typical \\|cos\\| over that of random vectors, {s} steps", "lesson_01",
            f"typical |cos| over that of random vectors, {s}", high=3) for s in ("small", "usual"))),
    Claim("conflicts-many", 1, "gradients", "The share of negative products is large all the same",
        tuple(live(f"share of conflicts, {s} steps", "lesson_01", f"share of conflicts, {s}", low=0.25)
            for s in ("small", "usual"))),
    Claim("conflicts-ruin", 1, "gradients", "These conflicts add up to the loss of the old task",
        tuple(live(f"first-order change of the old loss, {s} steps", "lesson_01",
            f"first-order change of the old loss, {s}", **POSITIVE) for s in ("small", "usual"))),
    Claim("basins", 2, "basins", "The old and the new solution lie in different basins, with a ridge between",
        tuple(live(f"height of the ridge to {end}", "lesson_02", f"barrier to {end}", low=0.1)
            for end in ("naive", "joint", "another start"))),
    Claim("flat", 2, "basins", "Flat minima forget less", (
        Place("rise from the sharper − the flatter, two learning rates", "flat_minima",
            partial(sharpness, "rates", "0.4", "0.05"), **POSITIVE),
        Place("the same, after five epochs in place of twenty", "flat_minima",
            partial(sharpness, "short", "0.4", "0.05"), **POSITIVE),
        Place("the same, two copies of one function", "flat_minima",
            partial(sharpness, "alphas", "2.0", "0.5"), **POSITIVE))),
    Claim("bwt-is-forgetting", 3, "metrics", "Negative BWT is forgetting", (
        score("Split MNIST, Class-IL, F + BWT", "split_mnist", unseen, GRID | {"method": "naive"} | ADAM,
            low=-0.01, high=0.01),
        live("digits turned by 20°, ER, F + BWT", "lesson_03", "F + BWT, turned, ER", low=-0.01, high=0.01))),
    Claim("bwt-rare", 3, "metrics", "Positive BWT is rare", (
        score("Split MNIST, Class-IL", "split_mnist", bwt, GRID | {"method": "naive"} | ADAM, high=0.0),
        score("Permuted MNIST", "permuted_mnist", bwt, {"method": "naive"}, high=0.0),
        live("digits turned by 20°, ten epochs", "lesson_03", "BWT, turned, 10 epochs", high=0.0),
        live("digits turned by 20°, one epoch", "lesson_03", "BWT, turned, 1 epochs", high=0.0))),
    Claim("class-hardest", 3, "Class-IL", "Class-IL is the hardest setting", (
        gain("Split MNIST, ER, Class-IL − Domain-IL", "split_mnist", {"scenario": "class", "method": "er"},
            {"scenario": "domain", "method": "er"}, high=0.0),
        gain("split digits, ER of 200, Class-IL − Domain-IL", "lambda_grid", GRID | {"method": "er", "slots": 200},
            {"stream": "split", "scenario": "domain", "method": "er", "slots": 200}, high=0.0),
        live("permuted digits, ER of 200, Class-IL − Domain-IL", "lesson_03", "Class-IL minus Domain-IL, permuted, ER",
            high=0.0))),
    Claim("fisher-hessian", 4, "Fisher", "At a local optimum the Fisher equals the Hessian (to 5 %)", (
        live("linear softmax", "lesson_04", "gap, linear", high=0.05),
        live("172 weights, close fit", "lesson_04", "gap, decay 0.001", high=0.05),
        live("172 weights, loose fit", "lesson_04", "gap, decay 0.01", high=0.05))),
    Claim("bayes-lambda", 5, "penalties", "For tasks of equal size λ = 1 is best, as Bayes says", (
        Place("ACC of the best λ − that of λ = 1", "ewc_lambda",
            lambda runs: np.nanmax(lambdas(runs), 0) - lambdas(runs)[1], high=0.02),)),
    Claim("lambda-range", 5, "penalties", "The best λ lies between 10² and 10⁴ (as log₁₀)", (
        Place("permuted digits", "ewc_lambda", best_lambda, low=2, high=4),
        *(Place(f"Split MNIST, {SCENARIOS[s]}", "ewc_lambda_mnist", partial(best_lambda_mnist, s), low=2, high=4)
            for s in ("task", "domain")))),
    Claim("empirical", 5, "penalties", "The empirical Fisher is slightly stronger than the exact one", (
        Place("permuted digits, each seed at its best λ", "ewc_lambda",
            lambda runs: np.nanmax(lambdas(runs, "empirical"), 0) - np.nanmax(lambdas(runs), 0), **POSITIVE),
        *(gain(f"split digits, {SCENARIOS[s]}, each seed at its best λ", "ewc_labels", {"scenario": s,
            "labels": "empirical"}, {"scenario": s, "labels": "exact"}, **POSITIVE) for s in ("task", "domain")),
        *(gain(f"Split MNIST, {SCENARIOS[s]}, each seed at its best λ ≤ 10⁹", "ewc_lambda_mnist", {"scenario": s,
            "labels": "empirical"}, {"scenario": s, "labels": "exact"}, **POSITIVE) for s in ("task", "domain")))),
    Claim("freeze", 6, "penalties", "After many tasks EWC freezes the network", (
        Place("tasks 8 to 10 when new, naive − EWC", "ewc_freeze", lambda runs: newest(
            runs["ewc_freeze"]["results"]["naive"]) - newest(runs["ewc_freeze"]["results"]["separate"]), low=0.2),)),
    Claim("gamma", 6, "penalties", "γ ≈ 0.95 cures the freeze", (
        Place("share of what was lost that is regained", "ewc_freeze", regained, low=0.5),
        gain("Permuted MNIST, 20 tasks, γ = 0.95 − γ = 1", "gamma", {"decay": 0.95, "lam": 3.0},
            {"decay": 1.0, "lam": 3.0}, **POSITIVE))),
    Claim("no-memory", 7, "Class-IL", "With no memory EWC and LwF still substantially beat naive training",
        tuple(gain(f"Split MNIST, {words}, {m} − naive", "split_mnist", {"scenario": s, "method": m.lower()},
            {"scenario": s, "method": "naive"} | ADAM, **DOMINATES)
            for s, words in SCENARIOS.items() for m in ("EWC", "LwF"))),
    Claim("replay", 8, "replay", "Replay of 200 a task beats every regulariser in Class-IL", (
        gain("Split MNIST, 220 a task − the best without images", "split_mnist", GRID | {"method": "er"},
            GRID | {"method": NO_IMAGES}, **POSITIVE),
        gain("split digits, 200 a task − the best without images", "lambda_grid", GRID | {"method": "er",
            "slots": 1000}, GRID | {"method": NO_IMAGES}, **POSITIVE))),
    Claim("saturates", 8, "replay", "The buffer's curve saturates at 200 to 500 a task", (
        Place("Split MNIST, Class-IL: slots a task for 95 %", "buffers",
            partial(knee, "buffers", "combinations", {"scenario": "class"}), low=200, high=500),
        *(Place(f"{words}: slots a task for 95 %", "lambda_grid", partial(knee, "lambda_grid", "lambda_grid", where),
            low=200, high=500) for words, where in (("split digits, Class-IL", GRID),
            ("permuted digits", {"stream": "permuted", "scenario": "domain"}))))),
    Claim("dark", 8, "replay", "Dark experience stores only logits, not inputs", (
        live("rows that are training images, pixel by pixel", "lesson_08", "rows that are training images",
            high=0.01),)),
    Claim("dreams", 8, "replay", "Dreamt images are worth more than any anchor of the weights", (
        gain("Split MNIST, Class-IL, generative − the best anchor", "split_mnist", GRID | {"method": "generative"},
            GRID | {"method": NO_IMAGES}, **POSITIVE),)),
    Claim("agem-cost", 9, "projection", "A-GEM is a thousand times cheaper than GEM", (
        live("gradients of GEM for one of A-GEM, five tasks", "lesson_09", "gradients of GEM for one of A-GEM",
            low=500),)),
    Claim("agem-accuracy", 9, "projection", "A-GEM is almost as accurate as GEM", (
        apart("permuted digits, A-GEM − GEM", "lesson_09", "ACC, A-GEM", "ACC, GEM", low=-0.02),
        *(gain(f"Split MNIST, {words}, A-GEM − GEM", "ledger", where | {"method": "a-gem"}, where | {"method": "gem"},
            low=-0.02) for words, where in (("Task-IL", {"stream": "split", "scenario": "task"}),
            ("Class-IL", GRID))))),
    Claim("zero-forgetting", 10, "architectures", "What is masked forgets exactly nothing", (
        live("PackNet: largest change of an old accuracy", "lesson_10", "PackNet, largest change of an old accuracy",
            low=-1e-12, high=1e-12),)),
    Claim("collapse", 10, "architectures", "After enough tasks, PackNet's performance collapses", (
        live("task 8 − task 1, each when new", "lesson_10", "PackNet, task 8 minus task 1, each when new",
            high=-0.2),)),
    Claim("linear-growth", 10, "architectures", "A Progressive Network's parameters grow linearly", (
        live("ten tasks, in networks", "lesson_10", "weights of ten Progressive columns, in networks", low=9,
            high=11),)),
    Claim("supsup", 10, "architectures", "A mask over random weights rivals trained networks",
        tuple(apart(f"permuted digits, SupSup − {m}", "lesson_10", "ACC, SupSup", f"ACC, {m}", low=-0.05)
            for m in ("PackNet", "Progressive"))),
    Claim("retention", 11, "Class-IL", "Even with perfect retention on each task, Class-IL fails", (
        apart("split digits, told the pair − not told", "lesson_11", "told", "not told", low=0.5),)),
    Claim("ewc-zero", 11, "Class-IL", "EWC gives 0 % on the old tasks of Class-IL", (
        score("Split MNIST, tasks 1 to 4 at the end", "split_mnist", lambda r: r.R[-1, :-1].mean(),
            GRID | {"method": "ewc"}, low=-0.01, high=0.01),
        score("split digits, λ = 1", "lambda_grid", lambda r: r.R[-1, :-1].mean(), GRID | {"method": "ewc",
            "lam": 1.0}, low=-0.01, high=0.01))),
    Claim("five-percent", 12, "Fisher", "The top 5 % of directions hold 80 % of the trace (of those above 0)", (
        *(live(f"digits, {how} labels", "lesson_12", f"share of the top 5 %, {how}", low=0.8)
            for how in ("exact", "empirical")),
        *(cifar_place(f"CIFAR-10, {how} labels", lambda run, how=how: last(how)(run)["whole_200"]["share_five_percent"],
            low=0.8) for how in ("exact", "empirical")))),
    Claim("twenty", 12, "Fisher", "λ₂₀ ≈ 0.08 on CIFAR-10: twenty directions are nearly all", (
        cifar_place("CIFAR-10, λ₂₀", lambda run: last("exact")(run)["values"][19], low=0.04, high=0.16),)),
    Claim("layers", 12, "Fisher", "The first layer holds little of the steep directions' mass", (
        live("digits, of three layers", "lesson_12", "mass of the first layer", high=0.25),
        cifar_place("CIFAR-10, conv1 of four layers", lambda run: last("exact")(run)["mass"][0] / 20, high=0.25))),
    Claim("output-first", 12, "Fisher", "Forgetting hits the output layer first", (
        *(live(f"digits, {SCENARIOS[s]}, loss over that by other layers", "lesson_12_layers",
            f"loss by the output layer, over the largest of the others, {s}", **POSITIVE) for s in ("class", "task")),
        *(cifar_place(f"CIFAR-10, {SCENARIOS[s]}, ten steps", partial(moved, s), **POSITIVE)
            for s in ("class", "task")))),
    Claim("diagonal", 12, "Fisher", "The diagonal keeps roughly the right mass", (
        live("price of SGD's way, over the diagonal's", "lesson_12", "price of the walk over the diagonal's", low=0.5,
            high=2),)),
    Claim("top-k", 12, "penalties", "A penalty on the top k directions is sharper than EWC", (
        Place("permuted digits, top 20 − EWC", "digits_penalties", partial(penalties, "top 20"), **POSITIVE),)),
    Claim("kfac", 12, "penalties", "A penalty by K-FAC is sharper than EWC", (
        Place("permuted digits, K-FAC − EWC", "digits_penalties", partial(penalties, "K-FAC"), **POSITIVE),)),
    Claim("mer-aligns", 13, "meta-learning", "Reptile over replay aligns the gradients of tasks", (
        live("cosine, MER − ER", "lesson_13_mer", "cosine of the tasks' gradients, MER minus ER", **POSITIVE),)),
    Claim("mer-forgets", 13, "meta-learning", "Reptile over replay ends higher than replay with as many gradients", (
        live("ACC, MER − ER", "lesson_13_mer", "ACC, MER minus ER", **POSITIVE),)),
    Claim("oml-powerful", 13, "meta-learning", "Learning to learn is powerful", tuple(
        live(f"five new classes, OML − {name} features", "lesson_13_oml", f"accuracy, OML minus {name}", **POSITIVE)
        for name in ("plain", "random"))),
    Claim("oml-costly", 13, "meta-learning", "Learning to learn is costly", (
        live("gradients beforehand, for each of the stream", "lesson_13_oml", "gradients beforehand, for one",
            low=10),)),
    Claim("some-lambda", 14, "Class-IL", "With some λ EWC is well above its weakest λ, in every scenario",
        tuple(gain(f"Split MNIST, {words}, the best λ − λ = 10⁻³", "ewc_lambda_mnist", {"scenario": s,
            "labels": "exact"}, {"scenario": s, "labels": "exact", "lam": 0.001}, **DOMINATES)
            for s, words in SCENARIOS.items())),
    Claim("joint", 14, "Class-IL", "Joint training is the ceiling",
        tuple(gain(f"Split MNIST, {words}, joint − the best other", "split_mnist", {"scenario": s, "method": "joint"},
            {"scenario": s, "method": (*NO_IMAGES, "er", "gem", "generative")}, **POSITIVE)
            for s, words in SCENARIOS.items())),
    Claim("equal-memory", 14, "replay", "With equal memory, replay beats EWC", tuple(
        gain(f"Split MNIST, {words}, ER − EWC", "ledger", where | {"method": "er", "slots": 1140},
            where | {"method": "ewc"}, **POSITIVE) for words, where in (("Class-IL", GRID),
            ("Task-IL", {"stream": "split", "scenario": "task"})))),
    Claim("combine", 14, "replay", "Combine, don't choose: replay with LwF, EWC or DER beats replay", tuple(
        gain(f"Split MNIST, Class-IL, {m} − er, {words}", file, {"method": m}, {"method": "er"}, **POSITIVE)
        for file, words in (("combinations", "less tuned"), ("combinations_wide", "α = 4 offered to both"))
        for m in ("er+lwf", "er+ewc", "er+der+ewc"))),
    Claim("bugs-show", 90, "bugs", "A bug shows in the accuracy (by 0.02 or more)", tuple(
        Place(f"room {room}, {words}", "bug_museum", partial(museum, room), **DOMINATES)
        for room, words in BUGS.items())),
)  # fmt: skip

# ---- the exercises ---------------------------------------------------------------------------------------------------


def judge(values, low, high):
    """The verdict: does the mean ± t·s/√n lie inside (low, high), outside, or across a border?"""
    n = len(values)
    if n < 3:
        return "open"
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    inside = min(np.mean(values) - low, high - np.mean(values))
    return "holds" if inside > half else "does not hold" if inside < -half else "open"


def _judge(half=None, centre=np.mean, few=3):
    """The rule with another half-width or another centre, or with a verdict for fewer seeds."""

    def wrong(values, low, high):
        n = len(values)
        if n < few:
            return OPEN
        h = (half or (lambda v: stats.t.ppf(0.975, n - 1) * np.std(v, ddof=1) / np.sqrt(n)))(values)
        inside = min(centre(values) - low, high - centre(values))
        return HOLDS if inside > h else FAILS if inside < -h else OPEN

    return wrong


def _three(mean, s):
    return [mean - s, mean, mean + s]  # their standard deviation is s, and t·s/√3 is 2.48 s


def gains(a, b):
    """a − b over the seeds that both have, in the order of the seeds; a and b are {seed: ACC}."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def by_luck(p, m):
    """The chance that at least one of m verdicts is wrong, if each is wrong with probability p, independently."""
    return 1 - (1 - p) ** m


q1 = Exercise(
    name="The rule",
    reference=judge,
    cases=(
        ("far above the border", _three(0.20, 0.01), 0.1, np.inf),
        ("above it, but within the half-width", _three(0.115, 0.01), 0.1, np.inf),
        ("2.2 sd above the border", _three(0.122, 0.01), 0.1, np.inf),
        ("3 sd above the border", _three(0.13, 0.01), 0.1, np.inf),
        ("below it", _three(-0.2, 0.01), 0.0, np.inf),
        ("one seed of three is splendid", [0.0, 0.02, 0.9], 0.5, np.inf),
        ("two seeds that agree", [0.30, 0.31], 0.1, np.inf),
        ("between two borders", [2.9, 3.0, 3.0, 3.1], 2.0, 4.0),
        ("beyond the upper one", [7.0, 7.5, 9.0, 8.0, 7.2], 2.0, 4.0),
    ),
    mutants={
        "takes the spread of the seeds for the error of their mean": _judge(
            lambda v: stats.t.ppf(0.975, len(v) - 1) * np.std(v, ddof=1)
        ),
        "takes two standard errors, however few the seeds": _judge(lambda v: 2 * np.std(v, ddof=1) / np.sqrt(len(v))),
        "takes the standard deviation with n instead of n − 1": _judge(
            lambda v: stats.t.ppf(0.975, len(v) - 1) * np.std(v) / np.sqrt(len(v))
        ),
        "looks at the mean alone": _judge(lambda v: 0.0),
        "lets the best seed speak for all": _judge(centre=np.max),
        "gives two seeds a verdict": _judge(few=2),
        "knows only a lower border": lambda values, low, high: judge(values, low, np.inf),
    },
    hints=(
        "How far inside the interval is the mean, counted from the nearer border? Compare that with the half-width.",
        r"$\bar d \pm t_{n-1}\, s/\sqrt n$, equation (91.2): `stats.t.ppf(0.975, n - 1)`, and $s$ with $n - 1$.",
        """
        ```python
        if n < 3: return "open"
        half = stats.t.ppf(0.975, n - 1) * ...
        inside = min(np.mean(values) - low, ...)
        return "holds" if inside > half else ...
        ```
        """,
    ),
)

q2 = Exercise(
    name="Gains within seeds",
    reference=gains,
    cases=(
        ("the same seeds", {0: 0.8, 1: 0.7, 2: 0.9}, {0: 0.75, 1: 0.66, 2: 0.83}),
        ("in another order", {0: 0.8, 1: 0.7, 2: 0.9}, {2: 0.83, 0: 0.75, 1: 0.66}),
        ("one run of b diverged", {0: 0.8, 1: 0.7, 2: 0.9, 3: 0.6}, {0: 0.75, 2: 0.83, 3: 0.59}),
    ),
    mutants={
        "pairs the runs by their place in the list": lambda a, b: [x - y for x, y in zip(a.values(), b.values())],
        "subtracts the mean of b from every seed": lambda a, b: [a[s] - np.mean([*b.values()]) for s in sorted(a)],
        "counts a run that diverged as accuracy 0": lambda a, b: [a[s] - b.get(s, 0.0) for s in sorted(a)],
    },
    hints=(
        "A seed is a name, not a place in a list. Which names do both dictionaries have?",
        r"$d_i = a_i - b_i$ for every seed $i$ in both: `a.keys() & b.keys()`.",
        """
        ```python
        return [... for seed in sorted(a.keys() & b.keys())]
        ```
        """,
    ),
)

q3 = Exercise(
    name="At least one by luck",
    reference=by_luck,
    cases=(("one verdict", 0.05, 1), ("twenty", 0.05, 20), ("a whole ledger", 0.025, 80), ("one seed in ten", 0.1, 10)),
    mutants={
        "adds the chances up": lambda p, m: m * p,
        "asks that all of them are wrong": lambda p, m: p**m,
        "asks that none is": lambda p, m: (1 - p) ** m,
    },
    hints=(
        "The chance that none of them is wrong is easier.",
        r"$1 - (1 - p)^m$, equation (91.3).",
        """
        ```python
        return 1 - ... ** m
        ```
        """,
    ),
)

questions = (
    Question(
        "error of a mean",
        "Five seeds have a standard deviation of 0.04. How far is their mean typically from that of all seeds?",
        ("about 0.04", "about 0.018, since the error is the deviation over the root of five", "about 0.008"),
        "b",
        "Var of a mean is the variance over n: 0.04 / √5 is 0.018.",
    ),
    Question(
        "two standard errors",
        "With three seeds, how often does the mean ± two standard errors cover the truth?",
        ("about four times in five", "19 times in 20, which is what two standard errors are for", "always"),
        "a",
        "With so few seeds the deviation itself is uncertain: Student's factor for 95 % is 4.3, not 2.",
    ),
    Question(
        "no difference seen",
        "A difference is 0.005 ± 0.012 over four seeds. What may you write?",
        (
            "that both methods are equally good",
            "that the first is slightly better",
            "that four seeds cannot tell them apart",
        ),
        "c",
        "Open is not equal: to claim equality, the interval would have to lie within a band that was named before.",
    ),
    Question(
        "twenty tables",
        "Twenty comparisons of equal methods are each judged at 5 %. How likely is at least one 'finding'?",
        ("5 %, the level of the test", "64 %", "it cannot be said"),
        "b",
        "1 − 0.95²⁰ = 0.64: name the claim before you look, and count how many you looked at.",
    ),
    Question(
        "test images",
        "An accuracy of 0.90 comes from 400 test images. What would another 400 images change by chance alone?",
        ("nothing, for the network is the same", "about 0.005", "about 0.015, one standard deviation"),
        "c",
        "√(0.9 · 0.1 / 400) = 0.015, and more seeds on the same images do not make it smaller.",
    ),
)


def _unbiased():
    """All samples of three from a small population, each as likely: the mean of s², and the variance of the mean."""
    everybody = np.array([0.1, 0.4, 0.35, 0.8, 0.2])
    draws = np.array([*product(everybody, repeat=3)])
    return float(abs(draws.var(1, ddof=1).mean() - everybody.var()) + abs(draws.mean(1).var() - everybody.var() / 3))


def _student():
    """With two degrees of freedom Student's law has a closed form: ±c covers with probability c/√(2 + c²)."""
    c = np.sqrt(2 * 0.95**2 / (1 - 0.95**2))
    return float(stats.t.ppf(0.975, 2) - c)


def _at_least_one():
    """Every outcome of five verdicts, right or wrong, with its probability."""
    p = 0.05
    odds = {outcome: np.prod([p if wrong else 1 - p for wrong in outcome]) for outcome in product((0, 1), repeat=5)}
    return float(sum(odds[o] for o in odds if any(o)) - by_luck(p, 5))


def _binomial():
    p, N = 0.9, 400
    k = np.arange(N + 1)
    law = stats.binom.pmf(k, N, p)
    return float(law @ (k / N) ** 2 - (law @ (k / N)) ** 2 - p * (1 - p) / N)


derivation = (
    Step(
        "91.1",
        r"Seeds are draws $d_1, \dots, d_n$ from one law with mean $\mu$ and variance $\sigma^2$. Their mean has "
        r"the variance $\sigma^2/n$, since covariances of independent draws are 0. About $\bar d$ instead of $\mu$ the "
        r"squares add up to $(n-1)\,\sigma^2$ on average, because $\sum_i (d_i - \mu)^2 = \sum_i (d_i - \bar d)^2 + "
        r"n\,(\bar d - \mu)^2$; so $s^2$ divides by $n - 1$. Residual: all samples of three from a population of five.",
        _unbiased,
    ),
    Step(
        "91.2",
        r"If the law is normal, $(\bar d - \mu)\,/\,(s/\sqrt n)$ follows Student's $t$ with $n - 1$ degrees of "
        r"freedom. "
        r"With two of them $\Pr(|t| < c) = c/\sqrt{2 + c^2}$, which is 0.95 at $c = 4.30$, and only 0.82 at $c = 2$. "
        r"Residual: the closed form against SciPy's quantile.",
        _student,
    ),
    Step(
        "91.3",
        r"If each of $m$ verdicts is wrong with probability $p$, and independently, then none is with probability "
        r"$(1-p)^m$. Residual: the sum over all $2^5$ outcomes of five verdicts.",
        _at_least_one,
    ),
    Step(
        "91.4",
        r"A test image is answered rightly with probability $p$. The share of right answers among $N$ has the variance "
        r"$p(1-p)/N$, for one answer has $p - p^2$. Residual: the second moment of the binomial law, summed.",
        _binomial,
    ),
)

notes = """
35 minutes, or an evening's discussion. Let each student bring one sentence from a paper that they believe, write
down the interval that it claims before looking, and find the protocol in the table. The page is meant to be argued
with: an interval is a choice, and several would turn another way with a milder one (ask for which). Misconceptions:
that "open" means "equal"; that two standard errors are 95 % whatever the number of seeds; that a hundred runs on
the same 400 images are a hundred pieces of evidence about the world. Ask also what the rule cannot see: how widely
each side was tuned, and that all seeds share one data set and one test set.
"""
