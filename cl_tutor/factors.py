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

from .vectors import Params

Batches = Iterable[tuple[Tensor, ...]]  # (x (B, ...), y (B,), further columns of the sample (B, ...))
Layer = nn.Linear | nn.Conv2d
LABELS = ("exact", "sample", "empirical")
ROWS = 128  # scores at a time: what is made of them should not leave the processor's cache


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
def watched(layers: dict[str, Layer]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
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
    kinds: tuple[type[Layer], ...] = (nn.Linear, nn.Conv2d),
) -> Iterator[dict[str, Factors]]:
    """For some samples at a time the factors of every layer of these kinds that learns, by the layer's name.

    Labels as for `fisher_diagonal`; sampled ones are the same as there if batches and rng are. The mode of the network
    stays as it is. Memory: the gradients in the layers' outputs, K for each sample of a batch; patches for few samples.
    """
    check_labels(labels)
    layers = {n: m for n, m in net.named_modules() if isinstance(m, kinds) and m.weight.requires_grad}
    if not layers:
        yield {}
        return
    for x, y, *rest in batches:
        with watched(layers) as seen, samples_alone(), torch.enable_grad():
            logp = log_prob(x, *rest)
        if idle := layers.keys() - seen.keys():
            raise ValueError(f"log_prob does not use the layer {min(idle)!r}: freeze it with requires_grad_(False).")
        outputs = [seen[n][1] for n in layers]
        weights = label_rows(logp.detach().exp(), y, labels, rng).unbind(1)  # K times (B, C)
        grads = [torch.autograd.grad(logp, outputs, w, retain_graph=True, materialize_grads=True) for w in weights]
        few = max(1, ROWS // len(grads))
        for part in (slice(i, i + few) for i in range(0, len(x), few)):
            u = [patches(layers[n], seen[n][0][part]) for n in layers]
            d = [torch.stack([g[part] for g in layer], 1) for layer in zip(*grads)]  # (B, K, out, and H', W' if any)
            d = [g.flatten(3) if g.ndim > 3 else g[..., None] for g in d]
            yield {n: Factors(*pair) for n, pair in zip(layers, zip(u, d))}


def patches(layer: Layer, x: Tensor) -> Tensor:
    """u (B, in, L): what the layer sees from each of its L places, in the order of its weights."""
    if isinstance(layer, nn.Linear):
        return x[..., None]
    if layer.groups > 1:
        raise ValueError("Convolutions in groups are not known here: use fisher_diagonal and fisher_product.")
    x = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode.replace("zeros", "constant"))
    for axis, size, stride, step in zip((2, 3), layer.kernel_size, layer.stride, layer.dilation):
        x = x.unfold(axis, step * (size - 1) + 1, stride)[..., ::step]  # a view: in the end (B, C, H', W', h, w)
    return x.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)


class Kronecker(NamedTuple):
    """The Fisher of one linear layer as A ⊗ S: all of it that K-FAC keeps."""

    A: Tensor  # (in + 1, in + 1) E[a aᵀ], a the layer's input with a 1 for the bias; (in, in) without bias
    S: Tensor  # (out, out)       E[g gᵀ], g the gradient of log p(y|x) with respect to the layer's output

    def energy(self, delta: Params, layer: str) -> Tensor:
        """½ δᵀ(A ⊗ S)δ = ½ tr(S D A Dᵀ), where D = [W, b] are the layer's own in δ: a scalar."""
        place = f"{layer}." if layer else ""
        own = (delta[n] for n in (f"{place}weight", f"{place}bias") if n in delta)
        D = torch.cat([d.flatten(1) if d.ndim > 1 else d[:, None] for d in own], 1)
        return 0.5 * ((self.S @ D @ self.A) * D).sum()


def kfac(
    net: nn.Module,
    log_prob: Callable[..., Tensor],  # (x, further columns) -> log p(·|x) of a batch: (B, C)
    batches: Batches,
    labels: str = "exact",
    rng: torch.Generator | None = None,
    kinds: tuple[type[Layer], ...] = (nn.Linear,),
) -> dict[str, Kronecker]:
    """F_layer = E[a aᵀ ⊗ g gᵀ] ≈ E[a aᵀ] ⊗ E[g gᵀ] for every linear layer, by its name (Martens & Grosse 2015, eq. 1).

    Exact where a aᵀ and g gᵀ are uncorrelated over the samples: with one sample; or where p(·|x) is the same for all x
    in a single layer. `kinds=(nn.Linear, nn.Conv2d)` adds convolutions: E[Σ_l u_l u_lᵀ] ⊗ E[1/L Σ_l g_l g_lᵀ] over the
    L places, as if these were uncorrelated (Grosse & Martens 2016, eq. 25 ff.). Memory: Σ (in + 1)² + out² floats.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    batches = list(batches)
    count = some(sum(len(x) for x, *_ in batches))
    for part in factors(net, log_prob, batches, labels, rng, kinds):
        for name, (u, d) in part.items():
            a = u if net.get_submodule(name).bias is None else F.pad(u, (0, 0, 0, 1), value=1.0)
            new = torch.einsum("bil,bjl->ij", a, a), torch.einsum("bkil,bkjl->ij", d, d) / a.shape[2]
            sums[name] = (sums[name][0] + new[0], sums[name][1] + new[1]) if name in sums else new
    return {n: Kronecker(A / count, S / count) for n, (A, S) in sums.items()}
