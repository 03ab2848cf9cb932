"""What others do against unstable training, each as small as it can be: the arms beside singularity smoothing.

    arm = BASELINES["zclip"]                   # a name, and how to build what it needs
    pso_lib.train.monitored.run(task, arm, lr=3e-3, seed=0, steps=1000)

A ``Baseline`` may change the model, add a term to the loss, look at the gradients before the update (its guard), or
bring its own optimiser. A seed means the same drawn weights in each. Torch's own implementation is used where there
is one.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import clip_grad_norm_, parametrizations, parametrize

from pso_lib.errors import checked, require_finite, require_number
from pso_lib.finite import finite_or_none
from pso_lib.nn.weights import hidden_matrices
from pso_lib.norms import svd
from pso_lib.train.optimizers import adamw, muon

__all__ = [
    "BASELINES",
    "Baseline",
    "Clip",
    "SigmaReparam",
    "Stepper",
    "ZClip",
    "orthogonality",
    "sigma_reparam_",
    "spectral_norm_",
]


class Stepper(Protocol):
    """Anything with ``step() -> bool``, called between backward and update; False: skip the update.

    If it has a list ``interventions``, one entry is added at each step at which it did something.
    """

    def step(self) -> bool:
        """Look at the gradients, or change them."""


# -------------------------------------------------------------------------------------------- gradients


class Clip:
    """Clip the global gradient norm (Pascanu, Mikolov and Bengio 2013): ``torch.nn.utils.clip_grad_norm_``.

    As in torch, a non-finite gradient is not held back. ``interventions``: the steps at which the norm was above.
    """

    @checked(but=("max_norm",))  # infinity: only measure
    def __init__(self, model: nn.Module, max_norm: float = 1.0):
        _require_positive("max_norm", max_norm)
        self.parameters, self.max_norm, self.steps = list(model.parameters()), max_norm, 0
        self.interventions: list[dict] = []

    def step(self) -> bool:
        """Scale all gradients so that their norm is at most ``max_norm``; always True."""
        self.steps += 1
        norm = clip_grad_norm_(self.parameters, self.max_norm).item()
        if not norm <= self.max_norm:
            self.interventions.append({"step": self.steps, "norm": finite_or_none(norm)})
        return True


class ZClip:
    """Clip the gradient norm where it is an outlier among the latest ones (Kumar et al. 2025, "ZClip").

    Mean m and variance s^2 of the norm are running averages. A norm g of z = (g - m) / s > ``threshold`` is scaled down
    to m + s threshold^2 / z: the further out, the harder. The averages take the norm after clipping. During
    ``warmup`` steps nothing is clipped; their mean and variance are the start.

    The paper does not say what a non-finite norm does: here the update is skipped and the averages stay (ours).
    """

    @checked
    def __init__(self, model: nn.Module, *, alpha: float = 0.97, threshold: float = 2.5, warmup: int = 25):
        _require_positive("threshold", threshold)
        if not 0 <= alpha < 1 or warmup < 2:
            raise ValueError(
                f"alpha must lie in [0, 1) and warmup be 2 or more, got alpha={alpha!r}, warmup={warmup!r}."
            )
        self.parameters, self.alpha, self.threshold, self.warmup = list(model.parameters()), alpha, threshold, warmup
        self.seen: list[float] = []
        self.mean = self.variance = math.nan
        self.steps = 0
        self.interventions: list[dict] = []

    def step(self) -> bool:
        """Clip if need be; False where the norm is not finite."""
        self.steps += 1
        norm = clip_grad_norm_(self.parameters, math.inf).item()  # measures, and scales by 1
        if not math.isfinite(norm):
            self.interventions.append({"step": self.steps, "norm": None})
            return False
        if len(self.seen) < self.warmup:
            self.seen.append(norm)
            self.mean = sum(self.seen) / len(self.seen)
            self.variance = sum((g - self.mean) ** 2 for g in self.seen) / len(self.seen)
            return True
        width = math.sqrt(self.variance)
        z = (norm - self.mean) / (width + 1e-6)
        if z > self.threshold:
            self.interventions.append({"step": self.steps, "norm": norm})
            allowed = self.mean + width * self.threshold**2 / z
            clip_grad_norm_(self.parameters, allowed)
            norm = allowed
        self.mean = self.alpha * self.mean + (1 - self.alpha) * norm
        self.variance = self.alpha * self.variance + (1 - self.alpha) * (norm - self.mean) ** 2
        return True


# ------------------------------------------------------------------------------------ loss and weights


@checked
def orthogonality(model: nn.Module, strength: float = 1e-4) -> Tensor:
    """strength times the sum of |W^T W - I|_F^2 over the hidden matrices, a term for the loss (Bansal et al. 2018).

    Of W^T W and W W^T the smaller is taken: the other cannot be I. Kernels are matrices (out, in h w).
    """
    require_number("strength", strength, least=0)
    total = []
    for name in hidden_matrices(model):
        W = model.get_parameter(name).flatten(1)
        gram = W.mT @ W if W.shape[0] >= W.shape[1] else W @ W.mT
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        total.append((gram - eye).square().sum())
    return strength * torch.stack(total).sum()


@checked
def spectral_norm_(model: nn.Module) -> None:
    """Divide each hidden matrix by its largest singular value (Miyato et al. 2018): torch's parametrisation, in place.

    One power iteration each time the weight is read in training mode; so look at it in ``eval`` mode. Torch draws the
    first vector from the global generator; here it is always the same, and the global generator is left as it was.
    """
    for module, name in _owners(model, "spectral_norm_"):
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # seeding is of all of them
            torch.manual_seed(0)
            parametrizations.spectral_norm(module, name)


class SigmaReparam(nn.Module):
    """W to gamma W / sigma_1(W), gamma a trained number (Zhai et al. 2023). Kernels are matrices (out, in h w).

    sigma_1 = u^T W v by one power iteration each time the weight is read in training mode, from the exact vectors at
    the start; u and v are constants in the gradient. gamma starts at sigma_1, so that the network starts as it was.
    """

    u: Tensor
    v: Tensor

    def __init__(self, W: Tensor):
        super().__init__()
        M = W.detach().flatten(1)
        # LAPACK knows no half precision
        U, s, Vh = svd(M.to(torch.promote_types(M.dtype, torch.float32)))
        self.gamma = nn.Parameter(s[0].to(M.dtype, copy=True))
        self.register_buffer("u", U[:, 0].to(M.dtype, copy=True))
        self.register_buffer("v", Vh[0].to(M.dtype, copy=True))

    def forward(self, W: Tensor) -> Tensor:
        M = W.flatten(1)
        if self.training:
            with torch.no_grad():
                self.v.copy_(normalize(M.mT @ self.u, dim=0))
                self.u.copy_(normalize(M @ self.v, dim=0))
        u, v = self.u.clone(), self.v.clone()  # the next forward pass may come before this one's backward
        return W * (self.gamma / (u @ M @ v))


@checked
def sigma_reparam_(model: nn.Module) -> None:
    """``SigmaReparam`` on each hidden matrix, in place."""
    for module, name in _owners(model, "sigma_reparam_"):
        parametrize.register_parametrization(module, name, SigmaReparam(getattr(module, name)))


def _owners(model: nn.Module, method: str) -> list[tuple[nn.Module, str]]:
    """The module and attribute of each hidden matrix, as parametrisations want them; all fit to be divided."""
    matrices = hidden_matrices(model)
    owners = [(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in matrices]
    if any(isinstance(module, parametrize.ParametrizationList) for module, _ in owners):
        raise ValueError("the hidden matrices already have a parametrisation; prepare a fresh model, once.")
    for path, W in matrices.items():
        require_finite(path, W.detach())
        if not W.any():
            raise ValueError(
                f"{path} is zero, and {method} would divide it by its largest singular value; start it from other "
                "numbers, or leave this arm out."
            )
    return owners


# ------------------------------------------------------------------------------------------------ arms


@dataclass(frozen=True)
class Baseline:
    """One way to train: a name, and how to build what it needs. All but the name may be left out.

    Attributes:
        optimizer: ``optimizer(model, lr)``.
        options: of the model, such as qk_norm=True; see ``Workload.model``.
        prepare: ``prepare(model)`` changes a fresh model in place.
        penalty: ``penalty(model)`` is added to the loss.
        guard: ``guard(model, optimizer)`` is a ``Stepper``: ``lambda model, optimizer: Guard(model, method="log")``.
    """

    name: str
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] = adamw
    options: dict = field(default_factory=dict)
    prepare: Callable[[nn.Module], None] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    guard: Callable[[nn.Module, torch.optim.Optimizer], Stepper] | None = None


BASELINES = {
    arm.name: arm
    for arm in (
        Baseline("plain"),
        Baseline("clip", guard=lambda model, optimizer: Clip(model)),
        Baseline("orthogonality", penalty=orthogonality),
        Baseline("spectral_norm", prepare=spectral_norm_),
        Baseline("sigma_reparam", prepare=sigma_reparam_),
        Baseline("qk_norm", options={"qk_norm": True}),
        Baseline("zclip", guard=lambda model, optimizer: ZClip(model)),
        Baseline("muon", optimizer=muon),
    )
}


def _require_positive(argument: str, given: float) -> None:
    if not isinstance(given, numbers.Real) or not given > 0:
        raise ValueError(f"{argument} must be a number above 0, got {given!r}.")
