"""How singular a network's weights are, and what that does to gradients and representations.

A weight W of stable rank SR = |W|_F^2 / sigma_1^2 acts on about SR directions. The quantities here say how few
these are (``stable_rank``), how much of the gradient falls on them (``stable_jacobian_energy``), how alike the
gradients of different examples have become (``ntk_top_eigenvalue``), and how alike the tokens (``token_similarity``).

The names are those of the paper by Cao and others. It leaves open how SR is rounded and what the energy is a share
of: both are arguments here.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pso_lib.analysis.spectrum import singular_values, spectrum_stable_rank, stable_rank
from pso_lib.analysis.transforms import lacks_vmap, plain_kernels
from pso_lib.errors import (
    UndefinedError,
    checked,
    require_choice,
    require_finite,
    require_floating,
    require_matrix,
    require_positive_int,
    require_same_dtype,
)
from pso_lib.modes import evaluating
from pso_lib.nn.weights import Weights, as_matrix, chosen_weights
from pso_lib.norms import cosines, svd, unit

__all__ = [
    "DENOMINATORS",
    "ROUNDINGS",
    "as_matrix",
    "chosen_weights",
    "leading_count",
    "ntk_gram",
    "ntk_top_eigenvalue",
    "require_rounding",
    "singular_values",
    "spectrum_stable_rank",
    "stable_jacobian_energy",
    "stable_rank",
    "token_similarity",
]

ROUNDINGS = ("floor", "ceil")
DENOMINATORS = ("pairs", "gradient")


def require_rounding(k: int | str) -> int | str:
    """k itself, a number as Python's own. ``ValueError`` unless it is "floor", "ceil" or an integer of at least 1."""
    if not isinstance(k, str):
        return require_positive_int("k", k)
    require_choice("k", k, ROUNDINGS)
    return k


@checked
def leading_count(stable_rank: Tensor, k: int | str = "floor", *, rank: int) -> Tensor:
    """How many leading singular values are meant: floor or ceiling of the stable rank, or k itself; (...) to (...).

    A stable rank within rounding of an integer counts as that integer, so that an orthogonal n x n matrix has n.

    Raises:
        ValueError: k is unknown, or an integer above ``rank``, the number of singular values.
    """
    k, rank = require_rounding(k), require_positive_int("rank", rank)
    require_floating("stable_rank", stable_rank)
    require_finite("stable_rank", stable_rank)
    if stable_rank.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"stable_rank is {stable_rank.dtype}, too coarse to be rounded; give it in torch.float32.")
    if not isinstance(k, str):
        if k > rank:
            raise ValueError(f"k={k} exceeds the {rank} singular values of the matrix; give k <= {rank}.")
        return torch.full_like(stable_rank, k, dtype=torch.int64)
    slack = 32 * torch.finfo(stable_rank.dtype).eps * stable_rank
    rounded = torch.floor(stable_rank + slack) if k == "floor" else torch.ceil(stable_rank - slack)
    return rounded.long().clamp(1, rank)


@checked
def stable_jacobian_energy(W: Tensor, G: Tensor, *, k: int | str = "floor", denominator: str = "pairs") -> Tensor:
    """The share of the gradient G = dL/dW on the k leading singular pairs of W: (..., m, n), (..., m, n) to (...).

    With W = sum_i sigma_i u_i v_i^T over the r singular values that are not zero: the sum of (u_i^T G v_i)^2 over
    i <= k, divided by a whole. u_i^T G v_i is the rate at which sigma_i moves along G, and so defined where singular
    values are equal and their vectors are not: together such move by the eigenvalues of the symmetric part of U^T G V,
    whose squares count, the same share for each. Zero and equal are to within rounding, beside sigma_1.

    Args:
        k: "floor" of the stable rank of W (the paper's text), "ceil" of it (the authors' published code), or a number.
        denominator: "pairs", the same sum over i <= r (the text), so that 1 is reached; or "gradient", |G|_F^2 (a
            third reading), which counts what moves singular vectors too and is never larger.

    Raises:
        ValueError: shapes that differ, non-finite entries, a zero W, a gradient with nothing to share but rounding.
    """
    require_choice("denominator", denominator, DENOMINATORS)
    if W.ndim < 2 or W.shape != G.shape:
        raise ValueError(f"W has shape {tuple(W.shape)} and G {tuple(G.shape)}; both must be (..., m, n).")
    require_matrix("W", W)
    require_matrix("G", G)
    require_same_dtype("G", G, "W", W.dtype)
    W, G = (M.float() if M.dtype in (torch.float16, torch.bfloat16) else M for M in (W, G))
    U, s, Vh = svd(W)
    count = leading_count(spectrum_stable_rank(s), k, rank=s.shape[-1])
    scale = G.abs().amax((-2, -1))
    G = G / torch.where(scale > 0, scale, 1)[..., None, None]  # squares of tiny gradients would underflow
    pairs, rounding = _pair_energies(U, s, Vh, G), 8 * max(G.shape[-2:]) ** 0.5 * torch.finfo(G.dtype).eps
    squares = (G**2).sum((-2, -1))
    whole = pairs.sum(-1) if denominator == "pairs" else squares
    if (whole <= rounding**2 * squares).any():
        raise UndefinedError(f"G has no {denominator} energy for W (a zero gradient?); its share is not defined.")
    leading = torch.arange(s.shape[-1], device=s.device) < count[..., None]
    return (pairs * leading).sum(-1) / whole


def _pair_energies(U: Tensor, s: Tensor, Vh: Tensor, G: Tensor) -> Tensor:
    """(u_i^T G v_i)^2 for each singular pair, (..., r): 0 for zero singular values, and one number for equal ones."""
    rounding = torch.finfo(s.dtype).eps * s[..., :1]
    moves = U.mT @ G @ Vh.mT
    cluster = (-s.diff(dim=-1, prepend=s[..., :1]) > 4 * max(G.shape[-2:]) ** 0.5 * rounding).cumsum(-1)
    same = (cluster[..., :, None] == cluster[..., None, :]).to(s)
    squares = ((moves + moves.mT) / 2).square() * same
    together = (same @ squares.sum(-1, keepdim=True)).squeeze(-1) / same.sum(-1)
    return together * (s > max(G.shape[-2:]) * rounding)


@checked
def ntk_gram(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    weights: Weights = None,
    chunk_size: int = 8,
) -> Tensor:
    """Cosines between the gradients of N examples' losses: the Gram matrix of g_i / |g_i|, (N, N).

    Args:
        loss: ``loss(model(x[i:i+1]), y[i:i+1])`` to a number, for one example.
        weights: which to differentiate by, as in ``chosen_weights``.
        chunk_size: how many examples at once. The N gradients themselves are kept: N times the chosen weights.

    The model runs in evaluation mode, so that an example's gradient is its own; modes are put back. An example
    without gradient keeps a zero row. Raises ``ValueError`` for non-finite gradients or examples that do not fit.
    """
    chunk_size = require_positive_int("chunk_size", chunk_size)
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(f"x and y must hold an example per row, got the shapes {tuple(x.shape)} and {tuple(y.shape)}.")
    if x.is_floating_point():
        require_finite("x", x)
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x has {len(x)} examples and y {len(y)}; give equally many, at least one.")
    chosen = {name: p.detach() for name, p in chosen_weights(model, weights).items()}
    rest = {name: p.detach() for name, p in model.named_parameters() if name not in chosen}

    # Every place of a tied weight by hand: torch's own tying leaves a module that is used twice without its parameter.
    name_of = {id(p): name for name, p in model.named_parameters()}
    places = {
        f"{prefix}.{own}".removeprefix("."): name_of[id(p)]
        for prefix, module in model.named_modules()
        for own, p in module.named_parameters(recurse=False, remove_duplicate=False)
    }

    def one(values, example, target):
        everywhere = {place: values[name] if name in values else rest[name] for place, name in places.items()}
        return loss(functional_call(model, everywhere, (example[None],), tie_weights=False), target[None])

    def together(a, b):
        return vmap(grad(one), in_dims=(None, 0, 0))(chosen, a, b).values()

    def one_by_one(a, b):
        values = {name: value.requires_grad_() for name, value in chosen.items()}
        with torch.enable_grad():
            losses = [one(values, *pair) for pair in zip(a, b, strict=True)]
        leaves = list(values.values())
        rows = [torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True) for value in losses]
        return map(torch.stack, zip(*rows, strict=True))

    def gradients_by(per_example):
        chunks = zip(x.split(chunk_size), y.split(chunk_size), strict=True)
        return torch.cat([torch.cat([g.flatten(1) for g in per_example(a, b)], 1) for a, b in chunks])

    with evaluating(model), plain_kernels():
        try:
            try:
                gradients = gradients_by(together)
            except RuntimeError as error:
                if not lacks_vmap(error):
                    raise
                gradients = gradients_by(one_by_one)
        except (IndexError, RuntimeError) as error:
            error.add_note("In loss(model(x), y): x must be what the model takes, and y what the loss takes.")
            raise
    require_finite("the gradients", gradients)
    return cosines(gradients)


@checked
def ntk_top_eigenvalue(model: nn.Module, loss: Callable, x: Tensor, y: Tensor, **options) -> float:
    """The largest eigenvalue of ``ntk_gram``: 1 if all gradients are orthogonal, N if all are parallel."""
    return torch.linalg.eigvalsh(ntk_gram(model, loss, x, y, **options))[-1].item()


@checked
def token_similarity(h: Tensor) -> Tensor:
    """The cosine between two tokens' representations, averaged over all pairs: (..., T, d) to (...), T >= 2.

    From |sum of unit vectors|^2, so linear in T. A zero vector has cosine 0 with all others.
    """
    if h.ndim < 2 or h.shape[-2] < 2:
        raise ValueError(f"h has shape {tuple(h.shape)}; pairs of tokens need (..., T, d) with T >= 2.")
    require_finite("h", h)
    directions, tokens = unit(h), h.shape[-2]
    return (directions.sum(-2).square().sum(-1) - directions.square().sum((-2, -1))) / (tokens * (tokens - 1))
