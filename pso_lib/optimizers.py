"""The optimisers of the experiments on instability, each built from a model and a rate: AdamW, SGD, Muon."""

from collections import ChainMap
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from pso_lib.patients import hidden_matrices

__all__ = ["OPTIMIZERS", "Together", "adamw", "muon", "sgd"]


def adamw(model: nn.Module, lr: float, *, betas=(0.9, 0.95), weight_decay: float = 0.1) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), the ground of all arms; only matrices and kernels decay.

    The numbers are those usual for language models (Brown et al. 2020), not torch's defaults.
    """
    return _adamw(list(model.parameters()), lr, betas, weight_decay)


def _adamw(parameters: list[nn.Parameter], lr: float, betas, weight_decay: float) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    try:
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    except RuntimeError:  # not on this device or version of torch
        return torch.optim.AdamW(groups, lr=lr, betas=betas)


def sgd(model: nn.Module, lr: float, *, momentum: float = 0.9) -> torch.optim.Optimizer:
    """Gradient descent with momentum, without decay: nothing bounds the size of a step, as AdamW's division does."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


OPTIMIZERS = {"adamw": adamw, "sgd": sgd}  # those that a method may be added to


class Together:
    """Several optimisers, each with its own parameters, handled as one.

    ``param_groups`` are the optimisers' own, so schedules reach them all; ``state`` shows all their states, and
    removes entries of the first only.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.state = ChainMap(*(optimizer.state for optimizer in optimizers))

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: dict) -> None:
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        self.__init__(*self.optimizers)  # loading replaces the groups and states


class _Flat(torch.optim.Optimizer):
    """An optimiser of matrices, applied to kernels (out, in, h, w) as matrices (out, in h w) in the same memory."""

    def __init__(self, kernels: list[nn.Parameter], build: Callable[[list[nn.Parameter]], torch.optim.Optimizer]):
        self.pairs = [(kernel, nn.Parameter(kernel.detach().flatten(1))) for kernel in kernels]
        self.inner = build([flat for _, flat in self.pairs])
        super().__init__(kernels, {"lr": self.inner.param_groups[0]["lr"]})

    def step(self, closure=None) -> None:
        self.inner.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        for kernel, flat in self.pairs:
            flat.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        self.inner.step()

    def state_dict(self) -> dict:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state)


def muon(
    model: nn.Module, lr: float, *, betas=(0.9, 0.95), weight_decay: float = 0.1, momentum: float = 0.95
) -> Together:
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for everything else.

    Torch's own, with its "match_rms_adamw" (Liu et al. 2025): an update has the size of AdamW's, so that one grid of
    learning rates suits both. Kernels are taken as matrices (out, in h w), as Jordan et al. do.

    Raises:
        RuntimeError: this torch has no ``torch.optim.Muon``.
    """
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(
            f"torch {torch.__version__} has no torch.optim.Muon; install 2.9 or later, or leave Muon out."
        )
    build = partial(
        torch.optim.Muon, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    hidden = list(hidden_matrices(model).values())
    matrices, kernels = [p for p in hidden if p.ndim == 2], [p for p in hidden if p.ndim > 2]
    known = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in known]
    parts = [build(matrices)] if matrices else []
    parts += [_Flat(kernels, build)] if kernels else []
    return Together(*parts, _adamw(rest, lr, betas, weight_decay))
