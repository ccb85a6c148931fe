"""All scores of a network as one matrix that is never formed: the fast road to its Fisher.

G has one row √w ∇_θ log p(y|x_n) for each sample n and label y of weight w, so that F = GᵀG/N. Its blocks, one for each
parameter, follow from the factors of each layer (`factors.py`), and everything else from three operations on a block:
G V, Gᵀc and GGᵀ. For networks of linear layers and convolutions; `fisher.py` has the definitions and the slower road
for any other network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from .factors import factors, some
from .vectors import Params, flat

DENSE = 2000  # up to so many rows, GGᵀ costs less than the products of a Lanczos run


class Outer(NamedTuple):
    """Rows d aᵀ of G, kept as factors: the weights of a linear layer; a bias, whose a is 1."""

    a: Tensor  # (B, in)
    d: Tensor  # (B, K, out)

    def squares(self) -> Tensor:
        """Σ_rows (d aᵀ)², the squares by element: (out·in,)."""
        return (self.d.square().sum(1).T @ self.a.square()).flatten()

    def times(self, V: Tensor) -> Tensor:
        """G V for V (out·in, k): (B, K, k)."""
        return self.d @ torch.einsum("bi,oik->bok", self.a, V.view(self.d.shape[2], self.a.shape[1], -1))

    def transposed(self, c: Tensor) -> Tensor:
        """Gᵀc for c (B, K, k): (out·in, k)."""
        return torch.einsum("bi,bok->oik", self.a, self.d.mT @ c).flatten(0, 1)

    def rows(self) -> Outer:
        """The same with a sample for each row: K = 1."""
        return Outer(self.a.repeat_interleave(self.d.shape[1], 0), self.d.flatten(0, 1)[:, None])

    @staticmethod
    def gram(blocks: Iterable[Outer]) -> Tensor:
        """GGᵀ of the blocks one below the other, (d·d')(a·a') for each pair of rows: (R, R)."""
        a, d = map(torch.cat, zip(*(block.rows() for block in blocks)))
        return (a @ a.T).mul_(d[:, 0] @ d[:, 0].T)


class Rows(NamedTuple):
    """Rows of G as they are: the weights of a convolution, of which there are fewer than places. Methods as above."""

    g: Tensor  # (B, K, out·in)

    def squares(self) -> Tensor:
        return sum(few.square().sum(0) for few in self.g.flatten(0, 1).split(32))  # few: what fits the cache

    def times(self, V: Tensor) -> Tensor:
        return self.g @ V

    def transposed(self, c: Tensor) -> Tensor:
        return self.g.flatten(0, 1).T @ c.flatten(0, 1)

    @staticmethod
    def gram(blocks: Iterable[Rows]) -> Tensor:
        g = torch.cat([block.g.flatten(0, 1) for block in blocks])
        return g @ g.T


Part = dict[str, Outer | Rows]  # the rows of some samples, parameter by parameter


def parts(net: nn.Module, *args: Any, **kwargs: Any) -> Iterator[Part]:
    """G from top to bottom, some samples at a time, columns in the order of the parameters. Arguments of `factors`."""
    names, learnt = dict(net.named_parameters()).keys(), learnable(net).keys()
    for layers in factors(net, *args, **kwargs):
        part: Part = {}
        for layer, (u, d) in layers.items():
            place = f"{layer}." if layer else ""  # the network may be a bare layer
            linear = u.shape[2] == 1
            g = Outer(u[..., 0], d[..., 0]) if linear else Rows(torch.einsum("bkol,bil->bkoi", d, u).flatten(2))
            part[f"{place}weight"] = g
            if net.get_submodule(layer).bias is not None:
                part[f"{place}bias"] = Outer(u.new_ones(len(u), 1), d.sum(3))
        if other := (learnt - part.keys()) | (part.keys() - names):  # a weight that two layers share has but one name
            why = "is shared, or of no linear layer or convolution"
            raise ValueError(f"{min(other)!r} {why}: use fisher_diagonal and fisher_product, which know any network.")
        yield {n: part[n] for n in learnt}


def learnable(net: nn.Module) -> Params:
    return {n: p.detach() for n, p in net.named_parameters() if p.requires_grad}


def diagonal(net: nn.Module, *args: Any, **kwargs: Any) -> Params:
    """diag F as `fisher_diagonal` has it, one batch after the other. Arguments and memory of `factors`."""
    return Scores(parts(net, *args, **kwargs), learnable(net)).diagonal()


@dataclass
class Scores:
    """The matrix G (R, P) of all scores, held in its factors, and what F = GᵀG/N follows from it.

    >>> net = nn.Linear(3, 2)
    >>> scores = Scores.of(net, lambda x: net(x).log_softmax(1), [(torch.ones(5, 3), torch.zeros(5).long())])
    >>> values, vectors = scores.top(1)
    >>> scores.product(vectors).shape
    torch.Size([8, 1])

    R = N with one label a sample, N·(C − 1) with exact ones, C the units that compete. Memory: for each row the
    parameters of the convolutions and the outputs of the linear layers, for each sample the inputs of the latter.
    """

    parts: Iterable[Part]
    params: Params  # θ

    @classmethod
    def of(cls, net: nn.Module, *args: Any, **kwargs: Any) -> Scores:
        """Arguments of `factors`: (net, log_prob, batches, labels="exact", rng=None). Sampled labels are drawn once."""
        found = list(parts(net, *args, **kwargs))
        some(len(found))
        return cls(found, learnable(net))

    def shapes(self) -> list[tuple[int, int]]:
        """(B, K) of each part."""
        blocks = [next(iter(part.values())) for part in self.parts]
        return [(len(block[0]), block[-1].shape[1]) for block in blocks]

    def samples(self) -> int:
        return sum(B for B, _ in self.shapes())

    def times(self, V: Tensor) -> Tensor:
        """G V for columns V (P, k): (R, k)."""
        pieces = V.split([p.numel() for p in self.params.values()])
        rows = ([block.times(v) for block, v in zip(part.values(), pieces)] for part in self.parts)
        return torch.cat([torch.stack(by_parameter).sum(0).flatten(0, 1) for by_parameter in rows])

    def transposed(self, c: Tensor) -> Tensor:
        """Gᵀc for c (R, k): (P, k)."""
        total = c.new_zeros(flat(self.params).numel(), c.shape[1])
        pieces = total.split([p.numel() for p in self.params.values()])
        shapes = self.shapes()
        for part, shape, row in zip(self.parts, shapes, c.split([B * K for B, K in shapes])):
            for block, piece in zip(part.values(), pieces):
                piece += block.transposed(row.unflatten(0, shape))
        return total

    def product(self, V: Tensor) -> Tensor:
        """F V for columns V (P, k)."""
        return self.transposed(self.times(V)) / self.samples()

    def gram(self) -> Tensor:
        """GGᵀ/N (R, R) in float64: its eigenvalues are those of F, less zeros."""
        columns = zip(*(part.values() for part in self.parts))  # a parameter's blocks, batch by batch
        return sum(type(blocks[0]).gram(blocks).double() for blocks in columns) / self.samples()

    def diagonal(self) -> Params:
        """diag F, parameter by parameter."""
        total, count = {n: torch.zeros_like(p).flatten() for n, p in self.params.items()}, 0
        for part in self.parts:
            count += len(next(iter(part.values()))[0])
            for n, block in part.items():
                total[n] += block.squares()
        return {n: f.view_as(self.params[n]) / some(count) for n, f in total.items()}

    def trace(self) -> float:
        return float(flat(self.diagonal()).sum())

    def spectrum(self) -> Tensor:
        """All eigenvalues that may differ from 0, falling: (R,). Memory: R² doubles."""
        return torch.linalg.eigvalsh(self.gram()).flip(0).clamp(min=0)

    def top(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues (k,), falling, and eigenvectors (P, k) of F.

        If GGᵀ/N u = λu, then v = Gᵀu/‖Gᵀu‖ has Fv = λv. Lanczos' iteration (ARPACK) finds the u: of the Gram matrix if
        there are few rows, and of the products c ↦ G(Gᵀc)/N if there are many.
        """
        R, like = sum(B * K for B, K in self.shapes()), flat(self.params)
        if not 0 < k < min(R, len(like)):
            most = min(R, len(like)) - 1
            raise ValueError(f"k must lie between 1 and {most}, not {k}: G has {R} rows of {len(like)} numbers.")
        tensor = lambda array: torch.as_tensor(array.copy()).to(like)
        through = lambda c: (self.times(self.transposed(tensor(c)[:, None]))[:, 0] / self.samples()).cpu().double()
        dense = R <= DENSE
        K = self.gram().cpu().numpy() if dense else LinearOperator((R, R), matvec=through, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(R)  # ARPACK's own would differ from call to call
        values, u = eigsh(K, k, v0=start, tol=torch.finfo(like.dtype).eps)
        values, u = tensor(values[::-1]), tensor(u[:, ::-1])
        return values.clamp(min=0), torch.linalg.qr(self.transposed(u))[0]
