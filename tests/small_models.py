"""Small models and matrices with known starts, for the tests of what watches and smooths them."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, scaled_dot_product_attention

from pso_lib.nn.init import seeded
from pso_lib.smoothing import Detector


def draw(*shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


X, Y = draw(16, 6, seed=1), draw(16, 3, seed=2)


def start(model: nn.Module, seed: int = 0) -> nn.Module:
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(draw(*p.shape, seed=seed + i) / max(1, p.shape[-1]) ** 0.5)
    return model


def mlp(dtype=torch.float64, seed=0, a=8, b=7) -> nn.Sequential:
    return start(nn.Sequential(nn.Linear(6, a), nn.Tanh(), nn.Linear(a, b), nn.Tanh(), nn.Linear(b, 3)).to(dtype), seed)


def backward(model, factor=1.0):
    """The gradients of one step, ``factor`` times as large."""
    model.zero_grad()
    dtype = next(model.parameters()).dtype
    (factor * mse_loss(model(X.to(dtype)), Y.to(dtype))).backward()


def quick(**options) -> Detector:
    return Detector(**{"warmup": 3, "cooldown": 4} | options)


def run(model, guard, optimizer, factors, stepped=None):
    for factor in factors:
        backward(model, factor)
        allowed = guard.step()
        if allowed:
            optimizer.step()
        if stepped is not None:
            stepped.append(allowed)


class Sequence(nn.Module):
    """Parameters that stack matrices: those of attention, and of an LSTM."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.attention, self.lstm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LSTM(8, 4, batch_first=True)
        self.out = nn.Linear(4, 5)

    def forward(self, tokens):
        h = self.table(tokens)
        h = h + self.attention(h, h, h)[0]
        return self.out(self.lstm(h)[0])


TOKENS = torch.randint(0, 5, (3, 6), generator=seeded(3))


def sequence_backward(model):
    model.zero_grad()
    cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.roll(-1, 1).flatten()).backward()


class Attention(nn.Module):
    """One attention layer on characters, its readout tied to the table; with dropout, which a probe must not draw."""

    def __init__(self, width: int = 8, letters: int = 11):
        super().__init__()
        self.table = nn.Embedding(letters, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.drop = nn.Dropout(0.5)
        self.readout = nn.Linear(width, letters, bias=False)
        self.readout.weight = self.table.weight
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(draw(*p.shape, seed=i, dtype=p.dtype) / 3)

    def forward(self, x):
        h = self.table(x)
        q, k, v = self.qkv(h).chunk(3, -1)
        return self.readout(h + self.mix(self.drop(scaled_dot_product_attention(q, k, v, is_causal=True))))


def text(examples=6, length=5):
    x = torch.randint(0, 11, (examples, length), generator=seeded(3))
    return x, x.roll(-1, 1)


def letter_loss(logits, y):
    return cross_entropy(logits.flatten(0, 1), y.flatten())


# Matrices of a given spectrum


def orthonormal(m, r, seed):
    return torch.linalg.qr(torch.randn(m, r, generator=seeded(seed), dtype=torch.float64))[0]


def matrix(s, m=None, n=None, seed=0, dtype=torch.float64):
    """A matrix with the singular values s, and its singular vectors as columns."""
    s = torch.as_tensor(s, dtype=torch.float64)
    U, V = orthonormal(m or len(s), len(s), seed), orthonormal(n or len(s), len(s), seed + 1)
    return ((U * s) @ V.T).to(dtype), U, V


DECAYING, BULK = "decaying", "bulk"


def large(kind):
    """600 x 640: a spectrum that decays, stable rank 2.9, or a flat bulk below one large value, stable rank 24."""
    g = seeded(7)
    if kind == DECAYING:
        return matrix(torch.arange(1.0, 601) ** -0.7, 600, 640)[0].float()
    W = torch.randn(600, 640, generator=g) / 600**0.5
    u, v = torch.randn(600, generator=g), torch.randn(640, generator=g)
    return W + 5 * torch.outer(u / u.norm(), v / v.norm())
