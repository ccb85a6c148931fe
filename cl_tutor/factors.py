"""What goes into each layer and what comes back out of the loss: all that the scores of a batch are made of.

The score of one sample is s = ∇_θ log p(y|x). A layer's part of it is an outer product (Goodfellow 2015; Grosse &
Martens 2016, eq. 8):

    linear        s = d aᵀ           a the input, d the gradient of log p(y|x) in the layer's output
    convolution   s = Σ_l d_l u_lᵀ   u_l the patch of the input under place l, d_l the gradient in the output there

One forward and one backward pass over a *batch* hand out a and d of all its samples, where the gradient of the batch
would have summed them up. `scores.py` makes the Fisher of them, `kfac` its Kronecker factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook

Batches = Iterable[tuple[Tensor, ...]]  # (x (B, ...), y (B,), further columns of the sample (B, ...))
LABELS = ("exact", "sample", "empirical")


def check_labels(labels: str) -> None:
    if labels not in LABELS:
        raise ValueError(f"labels must be 'exact', 'sample' or 'empirical', not {labels!r}.")


def some(count: int) -> int:
    if not count:
        raise ValueError("The Fisher is a mean over samples, and there is none: pass at least one batch.")
    return count


def one_label(prob: Tensor, y: Tensor, labels: str, rng: torch.Generator | None) -> Tensor:
    """A label (B,) for each sample: the data set's, or one drawn from prob (B, C)."""
    return y if labels == "empirical" else torch.multinomial(prob.cpu(), 1, generator=rng)[:, 0].to(prob.device)


def label_rows(prob: Tensor, y: Tensor, labels: str, rng: torch.Generator | None) -> Tensor:
    """w (B, K, C): row k of a sample in G is Σ_c w_kc ∇log p(c|x). One label: w is its one-hot vector, K = 1.

    The exact w = diag q, q = √p, has C rows. But Σ_c p_c ∇log p(c|x) = 0, so a rotation of the rows that takes q to the
    first axis leaves nothing in the first row: K = C − 1, C the units with p > 0. The rotation is Householder's
    reflection H = 1 − v vᵀ/(1 + q₀), v = q + e₀, with Hq = −e₀.
    """
    if labels != "exact":
        return F.one_hot(one_label(prob, y, labels, rng), prob.shape[1])[:, None].to(prob)
    possible = prob.sum(0).nonzero()[:, 0]  # units that do not compete have probability 0
    first, rest = possible[0], possible[1:] if len(possible) > 1 else possible  # one class alone: a row of zeros
    q, eye = prob.sqrt(), torch.eye(prob.shape[1]).to(prob)
    v = q + eye[first]
    H = eye - v[:, :, None] * v[:, None] / (1 + q[:, first, None, None])
    return (H * q[:, None])[:, rest]


@contextmanager
def samples_alone() -> Iterator[None]:
    """Refuse what leaves no score of a single sample: BatchNorm and dropout in train mode."""

    def check(layer: nn.Module, inputs: object) -> None:
        if layer.training and isinstance(layer, _BatchNorm | _DropoutNd):
            why = "mixes the samples of a batch" if isinstance(layer, _BatchNorm) else "draws another net each time"
            raise ValueError(f"{type(layer).__name__} in train mode {why}, so no sample has a score: call net.eval().")

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watched(layers: dict[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """The input and the output of each layer, filled in by one forward pass inside the block."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, ndim: int) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if inputs[0].ndim != ndim or name in seen:
                raise ValueError(f"The layer {name!r} must see one input a sample, but sees more than one.")
            seen[name] = (inputs[0].detach(), output)
            return output.clone()  # an in-place ReLU that follows must not reach what we keep

        return hook

    handles = [layer.register_forward_hook(watch(n, layer.weight.ndim)) for n, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class Factors(NamedTuple):
    """A layer's part of K rows of G for each of B samples: row k of sample n is Σ_l d_nkl u_nlᵀ over L places."""

    u: Tensor  # (B, in, L), L = 1 for a linear layer
    d: Tensor  # (B, K, out, L)


def factors(
    net: nn.Module,
    log_prob: Callable[..., Tensor],  # (x, further columns) -> log p(·|x) of a batch: (B, C)
    batches: Batches,
    labels: str = "exact",
    rng: torch.Generator | None = None,
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d),
) -> Iterator[dict[str, Factors]]:
    """For each batch the factors of every layer of these kinds that learns, by its name; labels as in `fisher.py`."""
    check_labels(labels)
    layers = {n: m for n, m in net.named_modules() if isinstance(m, kinds) and m.weight.requires_grad}
    for x, y, *rest in batches:
        with watched(layers) as seen, samples_alone(), torch.enable_grad():
            logp = log_prob(x, *rest)
        if idle := layers.keys() - seen.keys():
            raise ValueError(f"log_prob does not use the layer {min(idle)!r}: freeze it with requires_grad_(False).")
        outputs = [seen[n][1] for n in layers]
        back = lambda w: torch.autograd.grad(logp, outputs, w, retain_graph=True, materialize_grads=True)
        grads = zip(*[back(w) for w in label_rows(logp.detach().exp(), y, labels, rng).unbind(1)])  # by layer, K each
        d = [torch.stack(g, 1).flatten(3) if g[0].ndim > 2 else torch.stack(g, 1)[..., None] for g in grads]
        yield {n: Factors(patches(layers[n], seen[n][0]), d_n) for n, d_n in zip(layers, d)}


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """u (B, in, L): what the layer sees from each of its L places, in the order of its weights."""
    if isinstance(layer, nn.Linear):
        return x[..., None]
    if layer.groups > 1:
        raise ValueError("Convolutions in groups are not known here: use fisher_diagonal and fisher_product.")
    x = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode.replace("zeros", "constant"))
    for axis, size, stride, step in zip((2, 3), layer.kernel_size, layer.stride, layer.dilation):
        x = x.unfold(axis, step * (size - 1) + 1, stride)[..., ::step]  # a view: in the end (B, C, H', W', h, w)
    return x.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)
