"""Generative replay: learn to dream the past, and keep no sample of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..learn import Learner, Method
from ..streams import Batch, Task
from ..vectors import Params
from .regularization import snapshot
from .replay import check_replay


class VAE(nn.Module):
    """Two small networks, p(x|z) p(z) with z ~ N(0, I), and q(z|x) to train it with (Kingma & Welling 2014)."""

    def __init__(self, pixels: int, hidden: int, latent: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """−ELBO = E_q[−log p(x|z)] + KL(q(z|x) ‖ p(z)), in nats a sample, for x (B, D) in [0, 1] and noise (B, Z)."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        z = mean + (log_var / 2).exp() * noise
        miss = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
        return (miss + kl) / len(x)

    def forward(self, noise: Tensor) -> Tensor:
        """Dream: (B, Z) -> (B, D) in [0, 1]."""
        return self.decoder(noise).sigmoid()


@dataclass
class GenerativeReplay(Method):
    """L(B) + α E_{x' ~ G_old}[−Σ_c p_old(c|x') log p(c|x'; θ)]: dreams, labelled by the old network (Shin et al. 2017).

    A generator G is trained beside the network, on the batch and on dreams of its own past self:
    r ELBO(x) + (1 − r) ELBO(x') with r = 1/(tasks seen), the weights of eq. 2. (The paper gives its network r and 1 − r
    as well, ours has 1 and α.) Their labels are the old network's probabilities; each dream is asked under the head of
    an old task drawn at random.

    Keeps no training sample: two copies of a VAE and one of the network, however many tasks there are. (What a
    generator has learnt by heart it can still give away.) Suits all scenarios where inputs are pixels in [0, 1] and
    simple enough for a small VAE; needs nothing at test time.
    """

    size: int = 64
    alpha: float = 1.0
    latent: int = 16
    hidden: int = 200
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_replay(self.size, alpha=self.alpha)
        for name in ("latent", "hidden", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)}.")
        self.rng_ = torch.Generator().manual_seed(self.seed)
        self.teacher_: Params = {}  # the network at the end of the last task
        self.dreamer_: Params = {}  # the generator at the end of the last task

    def check(self, learner: Learner) -> None:
        for task in learner.stream.tasks:
            size = (
                1000 if task.train.x.dtype == torch.uint8 else len(task.train.x)
            )  # bytes become 0 ... 1 by themselves
            x = next(task.batches(size)).x
            if x.min() < 0 or x.max() > 1:
                reached = f"{x.min():g} and {x.max():g}"
                raise ValueError(f"GenerativeReplay dreams pixels in [0, 1], but inputs reach {reached}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.vae_ = VAE(x[0].numel(), self.hidden, self.latent).to(learner.device, x.dtype)

    def before_task(self, learner: Learner, task: Task) -> None:
        self.opt = torch.optim.Adam(self.vae_.parameters(), self.lr)

    def noise(self, like: Tensor, rows: int) -> Tensor:
        return torch.randn(rows, self.latent, generator=self.rng_, dtype=like.dtype).to(like.device)

    @torch.no_grad()
    def dream(self, like: Tensor) -> Tensor:
        """`size` inputs of the past, of the shape of `like`."""
        x = torch.func.functional_call(self.vae_, dict(self.dreamer_), self.noise(like, self.size))
        return x.view(-1, *like.shape[1:])

    def loss(self, learner: Learner, batch: Batch) -> Tensor | float:
        if not self.alpha or not self.teacher_:
            return 0.0
        x = self.dream(batch.x)
        old = learner.seen - 1
        t = torch.randint(old, (len(x),), generator=self.rng_).to(x.device)
        z = learner.frozen(x, t, self.teacher_)
        p = z.masked_fill(~learner.stream.competing(t, old), -torch.inf).softmax(1)
        log_q = learner.mask(learner.logits(x, t), t).log_softmax(1)
        return -self.alpha * (p * log_q.masked_fill(p == 0, 0)).sum(1).mean()

    def after_step(self, learner: Learner, batch: Batch) -> None:
        x = batch.x
        r = 1 / learner.seen
        loss = r * self.vae_.loss(x.flatten(1), self.noise(x, len(x)))
        if self.dreamer_:
            loss = loss + (1 - r) * self.vae_.loss(self.dream(x).flatten(1), self.noise(x, self.size))
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()

    def after_task(self, learner: Learner, task: Task) -> None:
        self.teacher_ = snapshot(learner.net.state_dict())
        self.dreamer_ = snapshot(dict(self.vae_.named_parameters()))
