"""A small Transformer that predicts the next token: the workload of the chapters on instability.

    model = GPT(vocabulary=65, context=64, width=128, layers=5, generator=torch.Generator().manual_seed(0))
    logits = model(tokens)                      # (B, T) int64 to (B, T, vocabulary)

Each block adds two branches to its state: attention, which moves information between positions, and an
MLP, which works at each position. The normalisation stands in front of a branch (pre-norm, as in GPT-2:
Radford et al. 2019) or behind the sum (post-norm: Vaswani et al. 2017). No matrix has a bias.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from pso_lib.errors import (
    checked,
    device_of,
    require_choice,
    require_number,
    require_positive,
    require_positive_int,
    require_tensor,
)
from pso_lib.nn import init

__all__ = ["GPT", "Attention", "Block", "MLP", "next_token_loss"]


NO_TOKEN = torch.iinfo(torch.int64).min  # torch would leave out targets of -100 without a word


class Attention(nn.Module):
    """Causal multi-head attention, (B, T, n) to (B, T, n); four (n, n) matrices.

    ``qk_norm``: queries and keys pass a LayerNorm over each head, so that no logit of the attention
    exceeds the square root of the head's width times the two gains (Dehghani et al. 2023; Henry et al. 2020).
    """

    def __init__(self, width: int, heads: int, qk_norm: bool):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.query_norm, self.key_norm = (_norm(width // heads) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.query, self.key, self.value))  # (B, T, H, n/H)
        q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H, T, n/H)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, T, n)


class MLP(nn.Module):
    """Two matrices with a GELU between them, (B, T, n) to (B, T, n); the hidden width is 4 n."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))


class Block(nn.Module):
    """Attention, then an MLP, each beside a skip connection, (B, T, n) to (B, T, n)."""

    def __init__(self, width: int, heads: int, norm: str, qk_norm: bool):
        super().__init__()
        self.pre = norm == "pre"
        self.attention, self.mlp = Attention(width, heads, qk_norm), MLP(width)
        self.norm1, self.norm2 = _norm(width), _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class GPT(nn.Module):
    """A Transformer language model: embeddings, blocks, a head.

    Args:
        vocabulary: how many tokens there are.
        context: the longest sequence T it can read.
        width: n; layers: L blocks of 12 n^2 weights each; heads: a divisor of the width.
        norm: "pre" or "post".
        qk_norm: normalise queries and keys; see ``Attention``.
        tied: the head's matrix is that of the token embedding (Press and Wolf 2017).
        std: all matrices and embeddings start as N(0, std^2), those that end a branch as N(0, std^2 / 2L).
            0.02 is GPT-2's, for any width.
        generator: source of the draws; drawn in float64, so every precision starts from the same numbers.

    Raises:
        ValueError: sizes below 1, heads that do not divide the width, unknown ``norm``, std not above 0.
    """

    @checked
    def __init__(
        self,
        vocabulary: int,
        context: int = 64,
        width: int = 128,
        layers: int = 5,
        heads: int = 4,
        *,
        norm: str = "pre",
        qk_norm: bool = False,
        tied: bool = True,
        std: float = 0.02,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device=None,
    ):
        super().__init__()
        sizes = {"vocabulary": vocabulary, "context": context, "width": width, "layers": layers, "heads": heads}
        vocabulary, context, width, layers, heads = (require_positive_int(*size) for size in sizes.items())
        require_choice("norm", norm, ("pre", "post"))
        if width % heads:
            raise ValueError(f"width={width} is not a multiple of heads={heads}; each head gets an equal part.")
        std = require_positive("std", std)
        self.context, self.width, self.vocabulary = context, width, vocabulary
        with init.building(device):
            self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.ModuleList(Block(width, heads, norm, qk_norm) for _ in range(layers))
            self.norm = _norm(width) if norm == "pre" else nn.Identity()  # post-norm blocks end in one already
            self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        self.to(dtype=dtype, device=device)
        with torch.no_grad():
            for name, weight in self.named_parameters():  # each once, so a tied matrix is drawn once
                if weight.ndim == 2:
                    ends = name.endswith(("out.weight", "down.weight"))
                    rows, columns = weight.shape
                    size = std / math.sqrt(2 * layers) if ends else std
                    weight.copy_(init.gaussian(rows, columns, size, generator))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) of the token after each position, for tokens (B, T) int64, T <= context."""
        return self.head(self.norm(self.states(tokens)[-1]))

    def states(self, tokens: Tensor) -> list[Tensor]:
        """What enters the first block and what leaves each: L + 1 tensors (B, T, n)."""
        self._check(tokens)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        try:
            states = [self.tokens(tokens) + self.positions(places)]
        except IndexError:  # asked of the CPU's own check: to look at the tokens would make a GPU wait at each step
            raise ValueError(
                f"tokens holds numbers from {int(tokens.min())} to {int(tokens.max())}, the vocabulary has "
                f"{self.vocabulary}: 0 to {self.vocabulary - 1}. Encode the text with the vocabulary of this model."
            ) from None
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    @checked
    @torch.no_grad()
    def generate(
        self, tokens: Tensor, count: int, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Continue (B, T) by ``count`` tokens drawn one after the other: (B, T + count). Temperature 0 takes the top.

        Only the last ``context`` tokens are read, so T and count may be of any length.
        """
        count = require_positive_int("count", count)
        device_of(generator)
        require_number("temperature", temperature, least=0)
        self._check(tokens[:, -self.context :] if tokens.ndim == 2 else tokens)
        for _ in range(count):
            logits = self(tokens[:, -self.context :])[:, -1]  # (B, vocabulary)
            if temperature == 0:
                following = logits.argmax(-1, keepdim=True)
            else:
                following = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            tokens = torch.cat([tokens, following], dim=1)
        return tokens

    def _check(self, tokens: Tensor) -> None:
        require_tensor("tokens", tokens)
        if tokens.device != self.positions.weight.device:
            here = self.positions.weight.device
            raise ValueError(f"tokens is on {tokens.device}, the model on {here}; move it: tokens.to({str(here)!r}).")
        if (
            tokens.ndim != 2
            or tokens.dtype not in (torch.int64, torch.int32)
            or not 1 <= tokens.shape[1] <= self.context
        ):
            raise ValueError(
                f"tokens must be integers of shape (B, T) with 1 <= T <= context={self.context}, got "
                f"{tuple(tokens.shape)} {tokens.dtype}. For one sequence add an axis: tokens[None]."
            )


@checked
def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy, in nats per token, of tokens[:, 1:] as continuations; tokens (B, T + 1).

    Raises:
        ValueError: tokens of another shape or dtype, or, on a CPU, outside the model's vocabulary.
    """
    if tokens.ndim != 2 or tokens.shape[1] < 2 or len(tokens) == 0:
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}; it must be (B, T + 1), B and T at least 1.")
    logits, targets = model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
    try:
        return cross_entropy(logits, targets, ignore_index=NO_TOKEN)
    except IndexError:
        raise ValueError(
            f"tokens holds numbers from {int(tokens.min())} to {int(tokens.max())}, the model knows "
            f"{logits.shape[-1]}: 0 to {logits.shape[-1] - 1}."
        ) from None


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, bias=False)
