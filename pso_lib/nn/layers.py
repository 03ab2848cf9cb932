"""The layer family F(x) = alpha x + beta B^T sigma(A x + b), with A, B of shape (h, n) and b of shape (h,).

Points are rows, x of shape (..., n). Type A, feedforward, is alpha = 0; type B, residual, is alpha = 1
(the names are those of Massucco, Murari and Schönlieb). The Jacobian off the kinks is
J(x) = alpha I + beta B^T diag(sigma'(Ax + b)) A.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from pso_lib.errors import (
    checked,
    require_choice,
    require_dtype,
    require_finite,
    require_positive_int,
    require_real,
    require_shape,
)
from pso_lib.nn import init
from pso_lib.nn.activations import get

__all__ = ["Layer", "FeedForward", "Residual", "Fold", "ModifiedFeedForward", "kinds"]

Outer = Literal["free", "tied", "identity"]
Orthogonal = Literal["no", "start", "always"]


class Layer(nn.Module):
    """F(x) = alpha x + beta B^T sigma(A x + b), for x of shape (..., dim).

    Args:
        dim: n, the width of input and output.
        hidden: h, the number of units; ``dim`` if not given.
        alpha, beta: the two fixed numbers of the formula.
        activation: a name or an ``Activation`` (see ``pso_lib.nn.activations``).
        outer: where B comes from. "free": a weight of its own; "tied": B is A; "identity": B = I, h = n.
        orthogonal: "no": He's normal weights (``init.kaiming_``). "start": A and B are Haar matrices at the
            start, free afterwards. "always": kept orthogonal during training, by torch's parametrisation.
        bias: whether there is a b. It starts at zero.
        generator: source of the random draws; ``dtype`` and ``device`` as in torch.

    Raises:
        ValueError: unknown names, sizes below 1, ``outer="identity"`` with h != n, orthonormal rows
            asked for with h > n where B = A, ``orthogonal="always"`` in half precision.
        TypeError: a generator that is none.
    """

    @checked
    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        alpha: float,
        beta: float,
        activation="relu",
        outer: Outer = "free",
        orthogonal: Orthogonal = "no",
        bias: bool = True,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device=None,
    ):
        super().__init__()
        dim = require_positive_int("dim", dim)
        hidden = dim if hidden is None else require_positive_int("hidden", hidden)
        require_choice("outer", outer, get_args(Outer))
        require_choice("orthogonal", orthogonal, get_args(Orthogonal))
        if outer == "identity" and hidden != dim:
            raise ValueError(
                f'outer="identity" needs hidden == dim, got hidden={hidden}, dim={dim}; drop hidden or use outer="free"'
            )
        if orthogonal != "no" and outer == "tied" and hidden > dim:
            raise ValueError(
                f"hidden={hidden} orthonormal rows do not fit in dimension dim={dim}; use hidden <= {dim} "
                'or orthogonal="no".'
            )
        kept = dtype or torch.get_default_dtype()
        if orthogonal == "always" and kept not in (torch.float32, torch.float64):
            raise ValueError(
                f'orthogonal="always" solves a linear system at each use, which torch does not do in {kept}; '
                'give dtype=torch.float32 and train under torch.autocast, or use orthogonal="start".'
            )
        self.dim, self.hidden, self.alpha, self.beta = dim, hidden, float(alpha), float(beta)
        self.activation, self.outer, self.orthogonal = get(activation), outer, orthogonal
        options = {"dtype": dtype, "device": device}
        self.A = nn.Parameter(torch.empty(hidden, dim, **options))
        if self.has_own_B:
            self._B = nn.Parameter(torch.empty(hidden, dim, **options))
        if bias:
            self.b = nn.Parameter(torch.zeros(hidden, **options))
        else:
            self.register_parameter("b", None)
        if orthogonal == "no":
            init.kaiming_(self, generator)
        else:
            init.orthogonal_(self, 1.0, generator)
        if orthogonal == "always":
            for name in ("A", "_B") if self.has_own_B else ("A",):
                start = getattr(self, name).detach().clone()
                # Cayley's map: one linear solve. The base point keeps the Haar start (trivialisation).
                square = "cayley" if hidden == dim else "householder"
                parametrizations.orthogonal(self, name, orthogonal_map=square)
                setattr(self, name, start)

    @property
    def has_own_B(self) -> bool:
        """Whether B is a weight of its own."""
        return self.outer == "free"

    @property
    def B(self) -> Tensor:
        """The outer matrix, (h, n), which is a weight of its own, A itself, or the identity."""
        if self.outer == "free":
            return self._B
        return self.A if self.outer == "tied" else torch.eye(self.dim, dtype=self.A.dtype, device=self.A.device)

    def preactivation(self, x: Tensor) -> Tensor:
        """A x + b, (..., n) to (..., h)."""
        A = self.A
        require_dtype("x", x, A.dtype)
        return nn.functional.linear(x, A, self.b)

    def forward(self, x: Tensor) -> Tensor:
        require_shape("x", x, self.dim)
        if self.orthogonal == "always":
            with parametrize.cached():  # A is used twice when B is tied to it
                branch = self._branch(x)
        else:
            branch = self._branch(x)
        branch = branch if self.beta == 1.0 else self.beta * branch
        if self.alpha == 0.0:
            return branch
        return x + branch if self.alpha == 1.0 else self.alpha * x + branch

    def _branch(self, x: Tensor) -> Tensor:
        units = self.activation(self.preactivation(x))  # (..., h)
        return units if self.outer == "identity" else units @ self.B  # rows: (B^T s)^T = s^T B

    @torch.no_grad()
    def set_weights(self, A=None, B=None, b=None) -> None:
        """Copy the given values into the weights; what is None stays. ``b`` may be a number.

        Raises:
            ValueError: wrong shape, non-finite values, a B for a layer that has none of its own, or a
                matrix that is not orthogonal for a layer that is kept orthogonal.
        """
        if B is not None and not self.has_own_B:
            raise ValueError(f'B cannot be set: outer="{self.outer}" derives it; use outer="free" or set A.')
        if b is not None and self.b is None and _tensor("b", b).any():
            raise ValueError("b cannot be set: the layer was made with bias=False; make it with bias=True.")
        matrices = {}
        for argument, name, value in (("A", "A", A), ("B", "_B", B)):
            if value is not None:
                matrices[name] = _tensor(argument, value)
                self._check_matrix(argument, name, matrices[name])
        if b is not None and self.b is not None:
            bias = _tensor("b", b)
            if bias.ndim and bias.shape != self.b.shape:
                raise ValueError(f"b has shape {tuple(bias.shape)}; it must be ({self.hidden},) or a number.")
            require_finite("b", bias)
            self.b.copy_(bias)
        for name, value in matrices.items():
            if parametrize.is_parametrized(self, name):
                setattr(self, name, value.to(self.A))
            else:
                getattr(self, name).copy_(value)

    def _check_matrix(self, argument: str, name: str, value: Tensor) -> None:
        if tuple(value.shape) != (self.hidden, self.dim):
            raise ValueError(
                f"{argument} has shape {tuple(value.shape)}; it must be (hidden, dim) = ({self.hidden}, {self.dim})."
            )
        require_finite(argument, value)
        if not parametrize.is_parametrized(self, name):
            return
        short = min(value.shape)
        gram = value @ value.T if self.hidden <= self.dim else value.T @ value
        error = (gram - torch.eye(short, dtype=value.dtype, device=value.device)).abs().max().item()
        if error > 1e-4:
            raise ValueError(
                f"{argument} is not orthogonal (error {error:.1e}, allowed 1e-4), but this layer was made with "
                'orthogonal="always"; give an orthogonal matrix or make the layer with orthogonal="start".'
            )

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, hidden={self.hidden}, alpha={self.alpha:g}, beta={self.beta:g}, "
            f"outer={self.outer}, orthogonal={self.orthogonal}"
        )


def _tensor(argument: str, value) -> Tensor:
    """Numbers as a float64 tensor on the CPU, whatever torch's defaults are; a tensor of real ones as it is."""
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{argument} must be a tensor, or hold numbers, got {value!r}.") from None
    require_real(argument, value)
    return value


def _with(kind: str, options: dict, **fixed) -> dict:
    """The options and what is fixed of this kind of layer."""
    for name in fixed.keys() & options.keys():
        raise TypeError(f"{kind} has {name}={fixed[name]!r} and takes no {name}; give it to Layer, whose all are free.")
    return options | fixed


class FeedForward(Layer):
    """Type A: B^T sigma(A x + b). With ``outer="identity"``, the textbook layer sigma(A x + b)."""

    def __init__(self, dim: int, hidden: int | None = None, *, beta: float = 1.0, **options):
        super().__init__(dim, hidden, beta=beta, **_with("FeedForward", options, alpha=0.0))


class Residual(Layer):
    """Type B: x + beta B^T sigma(A x + b)."""

    def __init__(self, dim: int, hidden: int | None = None, *, beta: float = 1.0, **options):
        super().__init__(dim, hidden, beta=beta, **_with("Residual", options, alpha=1.0))


class Fold(Layer):
    """The modified ResNet x - 2 A^T relu(A x + b), the rows of A orthonormal, h <= n: h perpendicular folds."""

    def __init__(self, dim: int, hidden: int | None = None, *, orthogonal: Orthogonal = "start", **options):
        fixed = _with("Fold", options, alpha=1.0, beta=-2.0, outer="tied")
        super().__init__(dim, hidden, orthogonal=orthogonal, **fixed)


class ModifiedFeedForward(Layer):
    """The modified feedforward layer B^T |A x + b|, A and B orthogonal: n folds, then a rotation."""

    def __init__(self, dim: int, *, orthogonal: Orthogonal = "start", **options):
        fixed = _with("ModifiedFeedForward", options, alpha=0.0, beta=1.0, activation="abs")
        super().__init__(dim, orthogonal=orthogonal, **fixed)


kinds = {
    "feedforward": FeedForward,
    "residual": Residual,
    "fold": Fold,
    "modified_feedforward": ModifiedFeedForward,
}
