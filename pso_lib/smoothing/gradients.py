"""The length of all gradients together, in one transfer to the host, right wherever it can be written."""

import math

import torch
from torch import Tensor

__all__ = ["careful_norm", "dense", "norm_on_device"]

SAFE = 1e-15  # below, squares of single entries may be lost in float32


def dense(gradient: Tensor) -> Tensor:
    """A gradient as a tensor whose norm does not overflow by its type: sparse ones by their values."""
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    return gradient.float() if gradient.dtype == torch.float16 else gradient


def norm_on_device(gradients: list[Tensor], kind: str) -> Tensor:
    """The sum of the tensors' norms ("sum") or the norm of all entries ("global"), a scalar where the first one lies.

    In float32 (float64 if one gradient is): trust it above ``SAFE`` if it is finite, else see ``careful_norm``.
    """
    home = gradients[0].device
    dtype = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
    norms = torch.stack([n.to(home, dtype) for n in torch._foreach_norm(gradients)])
    return norms.sum() if kind == "sum" else norms.norm()


def careful_norm(gradients: list[Tensor], kind: str) -> float:
    """The same from gradients divided by their largest entry, added up on the host: finite wherever they are."""
    norms = []
    for g in gradients:
        size = g.abs().amax().item() if g.numel() else 0.0
        norms.append(size * (g / size).norm().item() if 0 < size < math.inf else size)
    return sum(norms) if kind == "sum" else math.hypot(*norms)
