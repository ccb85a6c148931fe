"""Lesson 01: what one step does to another task's loss, and the angle between two gradients, layer by layer.

The mutants are mistakes that leave a healthy-looking number behind: a sign, a learning rate, a norm, the biases.
"""

import torch

from .harness import Exercise


def predicted_change(g1, g2, lr):
    """First-order change of task 1's loss when the weights take one step of size lr on task 2."""
    dot = sum((g1[name] * g2[name]).sum() for name in g1)
    return -lr * dot


def layer_cosines(a, b):
    """The cosine within each layer: `fc.weight` and `fc.bias` together are layer `fc`."""
    cosines = {}
    for layer in {name.rpartition(".")[0] for name in a}:
        u = torch.cat([a[name].flatten() for name in a if name.rpartition(".")[0] == layer])
        v = torch.cat([b[name].flatten() for name in a if name.rpartition(".")[0] == layer])
        cosines[layer] = u @ v / (u.norm() * v.norm())
    return cosines


def gradients():
    """Pairs of gradients of two layers, of which one has far more weights and the other the larger bias."""
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
    by_hand = [[[1.0, 2.0]], [2.0], [[0.5]], [1.0]], [[[2.0, -3.0]], [-1.0], [[4.0]], [3.0]]
    names = ("body.0.weight", "body.0.bias", "head.weight", "head.bias")
    a, b = ({n: torch.tensor(v, dtype=torch.float64) for n, v in zip(names, side)} for side in by_hand)
    yield "two layers, by hand", a, b
    for words, turn in [("two tasks at odds", -0.6), ("two tasks alike", 0.8)]:
        a = {"body.0.weight": draw(4, 3), "body.0.bias": draw(4), "head.weight": draw(2, 4), "head.bias": 3 * draw(2)}
        yield words, a, {n: turn * g + 0.5 * draw(*g.shape) for n, g in a.items()}


def gradients_and_rates():
    return [(words, a, b, lr) for (words, a, b), lr in zip(gradients(), (0.1, 0.02, 0.3))]


def _weights(g):
    return {name: value for name, value in g.items() if not name.endswith("bias")}


def _layer(g, layer):
    return torch.cat([value.flatten() for name, value in g.items() if name.rpartition(".")[0] == layer])


def _per_layer(rule):
    """Layer cosines with another rule: `rule(u, v)` for the vectors of one layer."""
    return lambda a, b: {k: rule(_layer(a, k), _layer(b, k)) for k in {n.rpartition(".")[0] for n in a}}


def _tensor_by_tensor(a, b):
    pairs = {n: a[n].flatten() @ b[n].flatten() / (a[n].norm() * b[n].norm()) for n in a}
    return {k: (pairs[f"{k}.weight"] + pairs[f"{k}.bias"]) / 2 for k in {n.rpartition(".")[0] for n in a}}


def _whole_norms(a, b):
    norm = lambda g: torch.cat([v.flatten() for v in g.values()]).norm()
    return {k: _layer(a, k) @ _layer(b, k) / (norm(a) * norm(b)) for k in {n.rpartition(".")[0] for n in a}}


q1 = Exercise(
    name="First-order prediction",
    reference=predicted_change,
    cases=gradients_and_rates,
    mutants={
        "has the sign the wrong way round": lambda g1, g2, lr: -predicted_change(g1, g2, lr),
        "forgets the learning rate": lambda g1, g2, lr: predicted_change(g1, g2, 1.0),
        "leaves the biases out": lambda g1, g2, lr: predicted_change(_weights(g1), _weights(g2), lr),
        "takes the cosine instead of the dot product": lambda g1, g2, lr: (
            predicted_change(g1, g2, lr) / (predicted_change(g1, g1, 1.0) * predicted_change(g2, g2, 1.0)).sqrt()
        ),
        "takes a mean over the entries of each tensor instead of their sum": lambda g1, g2, lr: (
            -lr * sum((g1[n] * g2[n]).mean() for n in g1)
        ),
        "asks what the step does to task 2 itself": lambda g1, g2, lr: predicted_change(g2, g2, lr),
    },
    hints=(
        "A step on task 2 moves every weight by −η times its own slope. How much does the old loss change for each "
        "unit by which that weight moves? Add up over all weights, biases included.",
        r"$\Delta L_1 \approx g_1 \cdot \Delta\theta$ with $\Delta\theta = -\eta\, g_2$, which is (1.2). The dot "
        "product runs over every entry of every tensor.",
        """
        ```python
        dot = sum((g1[name] * ...).sum() for name in g1)
        return ... * dot
        ```
        """,
    ),
)

q2 = Exercise(
    name="A cosine for each layer",
    reference=layer_cosines,
    cases=gradients,
    mutants={
        "leaves the biases out": lambda a, b: layer_cosines(_weights(a), _weights(b)),
        "does not divide by the norms": _per_layer(lambda u, v: u @ v),
        "divides by one norm only": _per_layer(lambda u, v: u @ v / v.norm()),
        "divides by the norms squared": _per_layer(lambda u, v: u @ v / (u @ u * (v @ v))),
        "has the sign the wrong way round": _per_layer(lambda u, v: -(u @ v) / (u.norm() * v.norm())),
        "takes the mean of the weight's cosine and the bias's": _tensor_by_tensor,
        "divides by the norms of the whole gradient, not of the layer": _whole_norms,
    },
    hints=(
        "Two tensors belong to each layer, and the layer's gradient is one vector that holds both. "
        "An angle between vectors does not care how long they are.",
        r"$\cos = \dfrac{u \cdot v}{\lVert u \rVert\, \lVert v \rVert}$, equation (1.3), where $u$ and $v$ hold the "
        'weight and the bias of one layer. `"fc.weight".rpartition(".")[0]` is `"fc"`.',
        """
        ```python
        cosines = {}
        for layer in {name.rpartition(".")[0] for name in a}:
            u = torch.cat([a[name].flatten() for name in a if name.rpartition(".")[0] == layer])
            v = ...
            cosines[layer] = ...
        return cosines
        ```
        """,
    ),
)

questions = ()
derivation = ()
notes = ""
