"""Which parameters of a model are matrices that act on its states: those with a spectrum worth looking at.

What a parameter is for is known by the module that owns it, not by its shape: the gain of a LayerNorm may have two
axes, and a table of positions is no map. So the choice is made by owner and role, for torch's own modules and for
``pso_lib.nn.layers``; anything else can be named.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from pso_lib.errors import checked, nearest
from pso_lib.nn.layers import Layer

__all__ = [
    "Matrix",
    "Weights",
    "as_matrix",
    "chosen_matrices",
    "chosen_weights",
    "gains",
    "hidden_matrices",
    "require_ranks",
]

COMPILED = "_orig_mod."  # what torch.compile puts into a name
Weights = Iterable[str] | Callable[[str, nn.Parameter], bool] | None

_GATES = {
    nn.LSTM: ("input", "forget", "cell", "output"),
    nn.LSTMCell: ("input", "forget", "cell", "output"),
    nn.GRU: ("reset", "update", "new"),
    nn.GRUCell: ("reset", "update", "new"),
    nn.RNN: ("",),
    nn.RNNCell: ("",),
}
_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def as_matrix(W: Tensor) -> Tensor:
    """A weight as the matrix that acts: (out, in) as it is, a kernel (out, in, *k) as (out, in * prod k).

    Half precision becomes float32, as LAPACK knows no less; a sparse gradient becomes dense. Raises ``ValueError`` for
    fewer than two axes.
    """
    if W.ndim < 2:
        raise ValueError(f"a weight of shape {tuple(W.shape)} is no matrix; choose weights with at least two axes.")
    M = (W.to_dense() if W.is_sparse else W).flatten(1)
    return M.float() if M.dtype in (torch.float16, torch.bfloat16) else M


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix of a model: a parameter, or those of its rows that act as one.

    ``tensor()`` is the parameter itself, or a view of the rows without a graph, whose ``grad`` is that of the rows.
    """

    parameter: nn.Parameter
    rows: slice | None = None

    def tensor(self) -> Tensor:
        if self.rows is None:
            return self.parameter
        part = self.parameter.detach()[self.rows]
        if self.parameter.grad is not None:
            part.grad = self.parameter.grad.detach()[self.rows]
        return part


@checked
def chosen_weights(model: nn.Module, weights: Weights = None, *, empty: bool = False) -> dict[str, nn.Parameter]:
    """The weights of a model to look at or to smooth, by name.

    Args:
        weights: names, or patterns such as "blocks.*.weight" (of a compiled model also the names it has uncompiled); or
            ``weights(name, parameter)``, true for those wanted; or None for every trainable matrix of the following:
            the weights of ``nn.Linear`` and of convolutions (but depthwise ones, whose rows act each alone), the
            projections of ``nn.MultiheadAttention``, the weights of recurrent modules, A and B of pso_lib's layers. So
            neither embeddings (also where tied to a readout) nor biases, gains, positions, the originals behind a
            parametrisation, nor parameters of other modules: those must be named.
        empty: whether it may be that none is left.

    Raises:
        ValueError: nothing chosen, a name that matches nothing, a weight that is no matrix of real numbers.
    """
    known = dict(model.named_parameters())
    if weights is None:
        roles = _roles(model)
        found = {
            name: p
            for name, p in known.items()
            if roles.get(id(p)) and p.requires_grad and (is_lazy(p) or p.is_floating_point() and p.numel())
        }
    elif callable(weights):
        found = {name: p for name, p in known.items() if weights(name, p)}
    elif not isinstance(weights, Iterable):
        raise TypeError(f"weights must be names, patterns, a function or None, got {weights!r}.")
    else:
        patterns = [weights] if isinstance(weights, str) else list(weights)
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise TypeError(
                    f"weights holds a {type(pattern).__name__}; give names, as in named_parameters(), or patterns."
                )
            if not any(_matches(name, pattern) for name in known):
                raise ValueError(
                    f"weights: {pattern!r} matches no parameter of {type(model).__name__}; use names as in "
                    f"model.named_parameters(), or patterns.{nearest(pattern, known)}"
                )
        found = {name: p for name, p in known.items() if any(_matches(name, pattern) for pattern in patterns)}
    for name, p in found.items():
        if is_lazy(p):
            raise ValueError(f"weights: {name!r} has no shape yet; run one batch through the model first.")
        if p.ndim < 2 or not p.is_floating_point() or p.numel() == 0:
            raise ValueError(
                f"weights: {name!r} has shape {tuple(p.shape)} and dtype {p.dtype}; a spectrum needs real weights with "
                "two axes or more. Leave it out."
            )
    if not found and not empty:
        others = [name for name, p in known.items() if not is_lazy(p) and p.ndim >= 2]
        hint = f" Frozen, or of a module whose use of it is not known: {', '.join(others[:5])}." if others else ""
        raise ValueError(
            f"weights chose no parameter of {type(model).__name__}; name some that act as matrices: weights=[…].{hint}"
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.replace(COMPILED, ""), pattern)


@checked
def chosen_matrices(model: nn.Module, weights: Weights = None, *, empty: bool = False) -> dict[str, Matrix]:
    """The matrices in the weights of ``chosen_weights``, each with a spectrum of its own, by name.

    Where a parameter stacks several, each is named after its part: "attention.in_proj_weight[query]",
    "lstm.weight_hh_l0[forget]", "conv.weight[0]" for the first group of channels. In a compiled model they have the
    names they have uncompiled.
    """
    roles, found = _roles(model), {}
    for name, p in chosen_weights(model, weights, empty=empty).items():
        parts = roles.get(id(p)) or ("",)
        name, step = name.replace(COMPILED, ""), len(p) // len(parts)
        for i, part in enumerate(parts):
            whole = len(parts) == 1
            found[name if whole else f"{name}[{part}]"] = Matrix(p, None if whole else slice(i * step, (i + 1) * step))
    return found


def require_ranks(k: int | str, matrices: dict[str, Tensor]) -> None:
    """Raise ``ValueError`` if k is a number and some matrix has fewer singular values."""
    if isinstance(k, str):
        return
    for name, W in matrices.items():
        rank = min(len(W), W[0].numel())
        if k > rank:
            raise ValueError(
                f"k={k}, but weight {name!r} has {rank} singular values; give a smaller k, or choose other weights."
            )


def _roles(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """For each parameter, by its id, the names of the matrices that it stacks; empty if it is not known to be one.

    A parameter of several modules is a matrix if each of them uses it as one.
    """
    roles: dict[int, tuple[str, ...]] = {}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            parts = _parts(module, name)
            roles[id(p)] = parts if roles.get(id(p), parts) == parts else ()
    return roles


def _parts(module: nn.Module, name: str) -> tuple[str, ...]:
    whole = ("",)
    if isinstance(module, nn.Linear):
        return whole if name == "weight" else ()
    if isinstance(module, _ConvNd):
        groups = module.groups
        if name != "weight" or (groups > 1 and groups == module.weight.shape[0]):
            return ()
        return whole if groups == 1 else tuple(map(str, range(groups)))
    if isinstance(module, nn.MultiheadAttention):
        return ("query", "key", "value") if name == "in_proj_weight" else whole if name in _PROJECTIONS else ()
    if isinstance(module, Layer):
        return whole if name in ("A", "_B") else ()
    for kind, gates in _GATES.items():
        if isinstance(module, kind):
            return whole if name.startswith("weight_hr") else gates if name.startswith("weight_") else ()
    return ()


_NORMS = tuple(getattr(nn, name) for name in ("LayerNorm", "RMSNorm") if hasattr(nn, name))  # RMSNorm: torch 2.4


def gains(model: nn.Module) -> set[int]:
    """The ids of the parameters of norms whose gains may have several axes, and are no matrices for all that."""
    return {id(p) for part in model.modules() if isinstance(part, _NORMS) for p in part.parameters(recurse=False)}


WRAPPERS = ("module.", COMPILED)  # what DistributedDataParallel and torch.compile put before a name


@checked
def hidden_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights between first and last layer, by name: what methods for hidden matrices act on.

    Parameters with two axes or more (kernels have four) below ``model.blocks`` or ``model.layers``, also where
    ``DistributedDataParallel`` or ``torch.compile`` wraps the model. Embeddings, gains, lift and head are left out.
    """
    others = gains(model) | {
        id(part.weight) for part in model.modules() if isinstance(part, (nn.Embedding, nn.EmbeddingBag))
    }
    found = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim >= 2 and id(weight) not in others and _unwrapped(name).startswith(("blocks.", "layers."))
    }
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no matrix below .blocks or .layers; put its hidden layers into an "
            "nn.ModuleList of one of these names."
        )
    return found


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name
