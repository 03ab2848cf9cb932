"""Activations. The piecewise-affine ones know their kinks and slopes exactly.

Every activation is an ``nn.Module`` without parameters, so it can stand in any torch
network, and has a sympy twin: ``activation.sympy(z)``. Tests prove both equal.
"""

from collections.abc import Iterable

import sympy as sp
import torch
from torch import nn

from pso_lib.errors import require_choice

__all__ = [
    "Activation",
    "PiecewiseAffine",
    "PairFold",
    "Smooth",
    "relu",
    "leaky_relu",
    "absolute",
    "zigzag",
    "maxmin",
    "householder",
    "tanh",
    "gelu",
    "silu",
    "softplus",
    "get",
    "known",
    "nearest_kink_offset",
]


def _exact(argument: str, number) -> sp.Expr:
    """A sympy number; floats and strings become the rational they are written as."""
    if isinstance(number, (list, tuple, bool)) or number is None:
        raise ValueError(f"{argument} must be a real number, got {number!r}; give an int, '1/2', or a sympy number.")
    # sympify's own rational=True reads strings alone: a Python float would stay a float.
    try:
        number = sp.sympify(repr(float(number)) if isinstance(number, float) else number, rational=True)
    except sp.SympifyError as error:
        raise ValueError(f"{argument} must be a real number; {error}") from None
    number = sp.nsimplify(number, rational=True) if number.has(sp.Float) else number
    if not number.is_number or not number.is_real:
        raise ValueError(f"{argument} must be a real number, got {number!r}; give an int, '1/2', or a sympy number.")
    return number


def _several(argument: str, numbers) -> tuple:
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        raise TypeError(f"{argument} must be a list of numbers, got {numbers!r}.")
    return tuple(numbers)


def nearest_kink_offset(z: torch.Tensor, kinks: tuple[float, ...]) -> torch.Tensor:
    """z minus the kink nearest to it, signed, same shape; infinite without kinks."""
    z = _floating(z)
    if not kinks:
        return torch.full_like(z, torch.inf)
    if len(kinks) == 1:
        return z - kinks[0]
    points = torch.tensor(kinks, dtype=z.dtype, device=z.device)
    return z - points[(z.detach().unsqueeze(-1) - points).abs().argmin(-1)]


def _floating(z: torch.Tensor) -> torch.Tensor:
    """Integers in torch's default dtype: in their own, slopes and kinks would lose their fractions."""
    return z if z.is_floating_point() or z.is_complex() else z.to(torch.get_default_dtype())


class Activation(nn.Module):
    """A map of the last axis, (..., h) to (..., h). ``is_affine_in_pieces`` says which kind."""

    is_affine_in_pieces = False

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def extra_repr(self) -> str:
        return self.name

    def kink_offset(self, z: torch.Tensor) -> torch.Tensor:
        """z minus the nearest kink, signed, (..., h); infinite where there is no kink."""
        return torch.full_like(_floating(z), torch.inf)


class PiecewiseAffine(Activation):
    """A continuous scalar function, affine between its kinks.

    Args:
        name: how it is printed.
        kinks: m increasing numbers, exact (int, str such as "1/2", or sympy numbers).
        slopes: m + 1 numbers, from the leftmost piece to the rightmost.
        at_zero: the value at z = 0.
    """

    is_affine_in_pieces = True

    def __init__(self, name: str, kinks, slopes, at_zero=0):
        super().__init__(name)
        self.kinks = tuple(_exact("kinks", k) for k in _several("kinks", kinks))
        self.slopes = tuple(_exact("slopes", s) for s in _several("slopes", slopes))
        if len(self.slopes) != len(self.kinks) + 1:
            raise ValueError(
                f"slopes has {len(self.slopes)} entries for {len(self.kinks)} kinks; give one slope more "
                "than kinks, from the leftmost piece to the rightmost."
            )
        if any(a >= b for a, b in zip(self.kinks, self.kinks[1:], strict=False)):
            raise ValueError(f"kinks must increase strictly, got {[str(k) for k in self.kinks]}; sort them.")
        # sigma(z) = slopes[0] z + constant + sum_i (slopes[i+1] - slopes[i]) relu(z - kinks[i])
        jumps = [b - a for a, b in zip(self.slopes, self.slopes[1:], strict=False)]
        constant = _exact("at_zero", at_zero)
        constant -= sum(j * max(-k, sp.Integer(0)) for j, k in zip(jumps, self.kinks, strict=True))
        self.constant = constant
        self._float_kinks = tuple(float(k) for k in self.kinks)
        self._float_slopes = tuple(float(s) for s in self.slopes)
        self._float_jumps = tuple(float(j) for j in jumps)
        self._float_constant = float(constant)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        z = _floating(z)
        if self._float_kinks == (0.0,) and self._float_constant == 0.0:
            return self._one_kink_at_zero(z)
        out = self._float_slopes[0] * z + self._float_constant
        for kink, jump in zip(self._float_kinks, self._float_jumps, strict=True):
            out = out + jump * torch.relu(z - kink)
        return out

    def _one_kink_at_zero(self, z: torch.Tensor) -> torch.Tensor:
        """The usual activations through torch's own kernels: exact, and fast."""
        left, right = self._float_slopes
        if (left, right) == (0.0, 1.0):
            return torch.relu(z)
        if (left, right) == (-1.0, 1.0):
            return z.abs()
        if right == 1.0:
            return nn.functional.leaky_relu(z, left)
        return torch.where(z > 0, right * z, left * z)

    def slope(self, z: torch.Tensor) -> torch.Tensor:
        """The slope at each z, same shape. At a kink: the slope of the piece to its left."""
        z = _floating(z)
        slopes = torch.tensor(self._float_slopes, dtype=z.dtype, device=z.device)
        kinks = torch.tensor(self._float_kinks, dtype=z.dtype, device=z.device)
        return slopes[torch.bucketize(z.contiguous(), kinks)]

    def kink_offset(self, z: torch.Tensor) -> torch.Tensor:
        return nearest_kink_offset(z, self._float_kinks)

    def sympy(self, z) -> sp.Expr:
        """The same function as an exact sympy expression."""
        pieces, start = [], self.slopes[0] * z + self.constant
        for kink, left, right in zip(self.kinks, self.slopes, self.slopes[1:], strict=False):
            pieces.append((sp.expand(start), z <= kink))
            start += (right - left) * (z - kink)
        return sp.Piecewise(*pieces, (sp.expand(start), True))


class PairFold(Activation):
    """Fold each pair of neighbours (z_0, z_1), (z_2, z_3), … along a line through the origin.

    A pair w stays where it is if v·w >= 0 and is reflected to (I - 2 v v^T) w otherwise, with the
    unit vector v = (cos angle, sin angle): the Householder activation of Singla, Singla and Feizi
    (2021). With v = (1, -1)/sqrt 2 it returns (max, min): MaxMin, the GroupSort2 of Anil, Lucas
    and Grosse (2019).

    Args:
        name: how it is printed.
        angle: direction of v, exact (a sympy expression in radians, such as ``-sympy.pi / 4``).
    """

    is_affine_in_pieces = True

    def __init__(self, name: str, angle):
        super().__init__(name)
        self.angle = _exact("angle", angle)
        self.normal = (sp.cos(self.angle), sp.sin(self.angle))
        self._float_normal = tuple(float(c) for c in self.normal)

    def _heights(self, z: torch.Tensor) -> torch.Tensor:
        if z.shape[-1] % 2:
            raise ValueError(
                f"{self.name} folds pairs, but the last axis has odd length {z.shape[-1]}; use an even width."
            )
        pairs = _floating(z).unflatten(-1, (-1, 2))
        return pairs[..., 0] * self._float_normal[0] + pairs[..., 1] * self._float_normal[1]

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        below = torch.relu(-self._heights(z))  # (..., h/2)
        first, second = self._float_normal
        move = torch.stack((2 * first * below, 2 * second * below), dim=-1)
        return z + move.flatten(-2)

    def kink_offset(self, z: torch.Tensor) -> torch.Tensor:
        return self._heights(z).repeat_interleave(2, dim=-1)

    def sympy(self, first, second) -> tuple[sp.Expr, sp.Expr]:
        """The folded pair as two exact sympy expressions."""
        height = first * self.normal[0] + second * self.normal[1]
        below = sp.Piecewise((-height, height < 0), (0, True))
        return first + 2 * self.normal[0] * below, second + 2 * self.normal[1] * below


class Smooth(Activation):
    """A smooth scalar activation: torch's kernel and its sympy formula."""

    def __init__(self, name: str, function, formula):
        super().__init__(name)
        self._function, self._formula = function, formula

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self._function(_floating(z))

    def sympy(self, z) -> sp.Expr:
        """The same function as a sympy expression."""
        return self._formula(sp.sympify(z))


def relu() -> PiecewiseAffine:
    """max(z, 0): slopes 0 and 1."""
    return PiecewiseAffine("relu", [0], [0, 1])


def leaky_relu(slope="1/10") -> PiecewiseAffine:
    """z for z > 0, else ``slope`` z. The slope is read as an exact rational."""
    return PiecewiseAffine("leaky_relu", [0], [_exact("slope", slope), 1])


def absolute() -> PiecewiseAffine:
    """|z|: slopes -1 and 1."""
    return PiecewiseAffine("abs", [0], [-1, 1])


def zigzag(kinks=(-1, 1)) -> PiecewiseAffine:
    """A function whose slope alternates between 1 and -1 at the given kinks, zero at z = 0."""
    kinks = _several("kinks", kinks)
    return PiecewiseAffine("zigzag", kinks, [(-1) ** i for i in range(len(kinks) + 1)])


def maxmin() -> PairFold:
    """(max, min) of each pair: one fold along (1, -1)/sqrt 2."""
    return PairFold("maxmin", -sp.pi / 4)


def householder(angle=sp.pi / 3) -> PairFold:
    """Each pair folded along the line normal to (cos angle, sin angle)."""
    return PairFold("householder", angle)


def tanh() -> Smooth:
    """The hyperbolic tangent."""
    return Smooth("tanh", torch.tanh, sp.tanh)


def gelu() -> Smooth:
    """z Phi(z), Phi the normal distribution function."""
    return Smooth("gelu", nn.functional.gelu, _gelu)


def silu() -> Smooth:
    """z / (1 + exp(-z))."""
    return Smooth("silu", nn.functional.silu, _silu)


def softplus() -> Smooth:
    """log(1 + exp z)."""
    return Smooth("softplus", nn.functional.softplus, _softplus)


# Formulas with names, so that networks can be pickled, and sent to another process.
def _gelu(z) -> sp.Expr:
    return z * (1 + sp.erf(z / sp.sqrt(2))) / 2


def _silu(z) -> sp.Expr:
    return z / (1 + sp.exp(-z))


def _softplus(z) -> sp.Expr:
    return sp.log(1 + sp.exp(z))


known = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "abs": absolute,
    "zigzag": zigzag,
    "maxmin": maxmin,
    "householder": householder,
    "tanh": tanh,
    "gelu": gelu,
    "silu": silu,
    "softplus": softplus,
}


def get(activation: "str | Activation") -> Activation:
    """Return the activation of that name, or the given activation itself.

    Raises:
        ValueError: unknown name; the text lists the known ones and the nearest.
        TypeError: neither a name nor an ``Activation``.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            f"activation must be a name or a pso_lib Activation, got {type(activation).__name__}; "
            "wrap your own as PiecewiseAffine(name, kinks, slopes) or Smooth(name, function, formula)."
        )
    require_choice("activation", activation, known)
    return known[activation]()
