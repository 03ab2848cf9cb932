"""Optimisers: torch's own by name, and those of the experiments on instability, each built from a model and a rate."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import nn

from pso_lib.errors import checked, require_positive
from pso_lib.nn.weights import gains, hidden_matrices

__all__ = ["BY_NAME", "OPTIMIZERS", "ChainedOptimizer", "adamw", "fused", "muon", "require_betas", "sgd"]


@checked
def adamw(model: nn.Module, lr: float, *, betas=(0.9, 0.95), weight_decay: float = 0.1) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), the ground of all arms; only matrices and kernels decay.

    The numbers are those usual for language models (Brown et al. 2020), not torch's defaults.

    Raises:
        ValueError: a rate that is not above 0, betas outside [0, 1), a weight decay below 0, an embedding with sparse
            gradients.
    """
    return _adamw(model, list(model.parameters()), lr, betas, weight_decay)


def _adamw(model: nn.Module, parameters: list[nn.Parameter], lr: float, betas, weight_decay: float):
    _check(lr, betas=betas, weight_decay=weight_decay)
    _refuse_sparse(model, parameters)
    no_matrices = gains(model) | {id(p) for p in parameters if p.ndim < 2}
    groups = [
        {"params": [p for p in parameters if id(p) not in no_matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in no_matrices], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return fused(torch.optim.AdamW, groups, lr=lr, betas=betas, weight_decay=weight_decay)


def fused(make: Callable[..., torch.optim.Optimizer], parameters: Iterable, **options) -> torch.optim.Optimizer:
    """The optimiser with one kernel for all weights (a deep narrow network has hundreds of small ones), or, where
    device, dtype or version of torch have none, as it is."""
    parameters = list(parameters)
    try:
        return make(parameters, fused=True, **options)
    except RuntimeError:
        return make(parameters, **options)


def _refuse_sparse(model: nn.Module, parameters: list[nn.Parameter]) -> None:
    """Torch's AdamW would say so at its first step."""
    known = {id(p) for p in parameters}
    for name, part in model.named_modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.sparse and id(part.weight) in known:
            weight = f"{name}.weight".removeprefix(".")
            raise ValueError(
                f"{weight!r} gets sparse gradients, which AdamW does not take. Make it with sparse=False, or "
                "give it to torch.optim.SparseAdam, the other modules to this function, and both to ChainedOptimizer."
            )


@checked
def sgd(model: nn.Module, lr: float, *, momentum: float = 0.9) -> torch.optim.Optimizer:
    """Gradient descent with momentum, without decay: nothing bounds the size of a step, as AdamW's division does."""
    _check(lr, momentum=momentum)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


BY_NAME: dict[str, Callable[..., torch.optim.Optimizer]] = {  # torch's, with its defaults: what ``train`` takes
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
# the book's, with its own: those of unstable training that a method may be added to
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "sgd": sgd}


def _check(lr: float, *, betas=(0.9, 0.95), weight_decay: float = 0.0, momentum: float = 0.0) -> None:
    """Torch looks at the defaults of an optimiser, not at those of its groups."""
    require_positive("lr", lr)
    require_betas(betas)
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be a finite number, 0 or above, got {weight_decay!r}.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}.")


def require_betas(betas) -> None:
    """Raise ``ValueError`` unless ``betas`` are two numbers from 0 up to, not including, 1."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}; Adam's own are (0.9, 0.999).")


def _loss_of(closure: Callable | None):
    """What ``closure``, which computes gradients, returns."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class ChainedOptimizer(torch.optim.Optimizer):
    """Several optimisers, each with parameters of its own, as one: what a schedule, a scaler or a loop expects.

    ``param_groups`` are the optimisers' own, in their order, and ``state`` is theirs: what is changed there, or
    removed, is changed with them.

    Raises:
        ValueError: no optimiser, one that runs a closure many times a step (LBFGS), or a parameter of two of them.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer):
        if not optimizers:
            raise ValueError("give at least one optimiser.")
        for optimizer in optimizers:
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise TypeError(f"optimizers must be torch optimisers, got {optimizer!r}.")
        for optimizer in optimizers:
            closure = inspect.signature(optimizer.step).parameters.get("closure")
            if closure is not None and closure.default is closure.empty:
                raise ValueError(
                    f"{type(optimizer).__name__} runs its closure many times a step and cannot be chained; let it "
                    "train all parameters by itself."
                )
        parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        if len({id(p) for p in parameters}) < len(parameters):
            raise ValueError("a parameter belongs to two of the optimisers; it would take two steps. Give it to one.")
        super().__init__(parameters, {})
        self.optimizers = optimizers
        self._link()

    def _link(self) -> None:
        """Loading replaces an optimiser's groups."""
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.state = _States(self.optimizers)  # type: ignore[assignment]  # torch's is a dict, used as a mapping

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step of each. ``closure`` is called once, before."""
        loss = _loss_of(closure)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def add_param_group(self, param_group: dict) -> None:
        """Only to one of the ``optimizers``, before they are chained."""
        if hasattr(self, "optimizers"):
            raise ValueError("add the group to one of the optimisers, then chain them again.")
        super().add_param_group(param_group)

    def state_dict(self) -> dict:
        """{"optimizers": the state of each}."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Put back what ``state_dict`` returned. ``ValueError`` for anything else, before a state is changed."""
        states: Any = state_dict.get("optimizers")
        sizes = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in self.optimizers]
        try:
            given = [[len(group["params"]) for group in state["param_groups"]] for state in states]
        except (TypeError, KeyError):
            given = None
        if given != sizes:
            raise ValueError(
                f"state_dict must hold the states of {len(sizes)} optimisers with groups of {sizes} parameters under "
                f"'optimizers', as {type(self).__name__}.state_dict returns them; got "
                f"{given if given is not None else sorted(map(str, state_dict))}."
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self._link()

    def __getstate__(self) -> dict:
        return {"optimizers": self.optimizers}

    def __setstate__(self, state: dict) -> None:
        ChainedOptimizer.__init__(self, *state["optimizers"])


class _States(MutableMapping):
    """The states of several optimisers, by parameter."""

    def __init__(self, optimizers):
        self.optimizers = optimizers

    def _owner(self, parameter) -> MutableMapping:
        for optimizer in self.optimizers:
            if any(parameter is p for group in optimizer.param_groups for p in group["params"]):
                return optimizer.state
        raise KeyError(parameter)

    def __getitem__(self, parameter):
        owner = self._owner(parameter)
        if parameter not in owner:  # torch's states are defaultdicts; looking must not fill them
            raise KeyError(parameter)
        return owner[parameter]

    def __setitem__(self, parameter, state) -> None:
        self._owner(parameter)[parameter] = state

    def __delitem__(self, parameter) -> None:
        del self._owner(parameter)[parameter]

    def __iter__(self) -> Iterator:
        return (parameter for optimizer in self.optimizers for parameter in optimizer.state)

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self.optimizers)


class _Flat(torch.optim.Optimizer):
    """An optimiser of matrices, applied to kernels (out, in, h, w) as matrices (out, in h w).

    It steps copies: kernels need not lie in memory as the matrices do (channels_last), nor stay where they were.
    Groups and states are those of the kernels, and are handed on at each step.
    """

    def __init__(self, kernels: list[nn.Parameter], build: Callable[[list[nn.Parameter]], torch.optim.Optimizer]):
        self.pairs = [(kernel, nn.Parameter(kernel.detach().flatten(1).clone())) for kernel in kernels]
        self.inner = build([flat for _, flat in self.pairs])
        super().__init__(kernels, {k: v for k, v in self.inner.param_groups[0].items() if k != "params"})

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step of all kernels that have a gradient."""
        loss = _loss_of(closure)
        self.inner.param_groups[0].update({k: v for k, v in self.param_groups[0].items() if k != "params"})
        self.inner.state.clear()
        for kernel, flat in self.pairs:
            flat.copy_(kernel.flatten(1))
            flat.grad = None if kernel.grad is None else kernel.grad.flatten(1)
            if kernel in self.state:
                self.inner.state[flat] = self.state[kernel]
        self.inner.step()
        for kernel, flat in self.pairs:
            if kernel.grad is not None:
                kernel.copy_(flat.view_as(kernel))
                self.state[kernel] = self.inner.state[flat]
        return loss

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"pairs": self.pairs, "inner": self.inner}


@checked
def muon(
    model: nn.Module, lr: float, *, betas=(0.9, 0.95), weight_decay: float = 0.1, momentum: float = 0.95
) -> ChainedOptimizer:
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for everything else.

    Torch's own, with its "match_rms_adamw" (Liu et al. 2025): an update has the size of AdamW's, so that one grid of
    learning rates suits both. Kernels are taken as matrices (out, in h w), as Jordan et al. do.

    Raises:
        RuntimeError: this torch has no ``torch.optim.Muon``.
        ValueError: a rate that is not above 0, betas or momentum outside [0, 1), a weight decay below 0.
    """
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(
            f"torch {torch.__version__} has no torch.optim.Muon; install 2.9 or later, or leave Muon out."
        )
    _check(lr, betas=betas, weight_decay=weight_decay, momentum=momentum)
    build = partial(
        torch.optim.Muon, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    hidden = list(hidden_matrices(model).values())
    matrices, kernels = [p for p in hidden if p.ndim == 2], [p for p in hidden if p.ndim > 2]
    known = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in known]
    parts: list[torch.optim.Optimizer] = [build(matrices)] if matrices else []
    parts += [_Flat(kernels, build)] if kernels else []
    parts += [_adamw(model, rest, lr, betas, weight_decay)] if rest else []
    return ChainedOptimizer(*parts)
