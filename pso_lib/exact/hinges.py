"""Layers that are affine in pieces, as sums of hinges, exact.

A layer F(x) = alpha x + beta B^T sigma(A x + b) whose activation is affine in pieces is

    F(x) = M x + c + sum_k d_k relu(g_k . x + e_k),

one hinge per kink of each unit. Its region Jacobians are M plus the d_k g_k^T of the hinges that are
on: this is how ``regions`` and ``origami`` see every layer. Points are columns here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import sympy as sp

from pso_lib.errors import checked, require_attributes
from pso_lib.exact.symbolic import exact_matrix, exact_number, jacobian_conditions, sign, tidy
from pso_lib.nn.activations import Activation, PairFold, PiecewiseAffine, get

__all__ = [
    "HingedLayer",
    "activation_hinges",
    "affine_on",
    "from_torch",
    "hinged_layer",
    "layer_conditions",
    "pattern_of",
]


@dataclass(frozen=True, eq=False)
class HingedLayer:
    """F(x) = M x + c + sum_k d_k relu(g_k . x + e_k), exact; entries of M, c, D, G may hold symbols.

    Attributes:
        M: (m, n). c: (m, 1). G: (K, n), rows g_k. e: (K, 1). D: (m, K), columns d_k.
        units: for each hinge the unit it belongs to, so that a pattern counts hinges per unit.
    """

    M: sp.ImmutableMatrix
    c: sp.ImmutableMatrix
    G: sp.ImmutableMatrix
    e: sp.ImmutableMatrix
    D: sp.ImmutableMatrix
    units: tuple[int, ...]

    @property
    def unit_count(self) -> int:
        return max(self.units, default=-1) + 1

    def pattern(self, on: Iterable) -> tuple[int, ...]:
        """The piece each unit is on, leftmost 0, from which hinges are on (K booleans)."""
        return pattern_of(self.units, on)

    def patterns(self) -> Iterator[tuple[int, ...]]:
        """Every pattern, realised somewhere in space or not."""
        pieces = [1] * self.unit_count
        for unit in self.units:
            pieces[unit] += 1
        return product(*(range(count) for count in pieces))

    def hinges_on(self, pattern) -> list[int]:
        """1 for each hinge that is on in ``pattern``, else 0."""
        left = list(pattern)
        if len(left) != self.unit_count:
            raise ValueError(f"pattern has {len(left)} entries for {self.unit_count} units; give one piece per unit.")
        on = []
        for unit in self.units:
            on.append(1 if left[unit] > 0 else 0)
            left[unit] -= on[-1]
        if any(left):
            raise ValueError(f"pattern {tuple(pattern)} names a piece that does not exist; pieces count from 0.")
        return on

    def piece(self, pattern) -> tuple[sp.Matrix, sp.Matrix]:
        """The affine map of a pattern: J (m, n) and c (m, 1), so that F(x) = J x + c there."""
        on = sp.diag(*self.hinges_on(pattern)) if self.units else sp.zeros(0, 0)
        J = self.M + self.D * on * self.G
        return sp.Matrix(J).applyfunc(tidy), sp.Matrix(self.c + self.D * on * self.e).applyfunc(tidy)

    def pattern_at(self, x) -> tuple[int, ...]:
        """The pattern at a point; a point on a crease counts to the left piece."""
        heights = self.G * exact_matrix("x", x) + self.e
        return self.pattern(sign(height) > 0 for height in heights)

    def __call__(self, x) -> sp.Matrix:
        """F(x), exact, a column."""
        J, c = self.piece(self.pattern_at(x))
        return (J * exact_matrix("x", x) + c).applyfunc(tidy)


def hinged_layer(A, b=None, *, B="tied", alpha=0, beta=1, activation: str | Activation = "relu") -> HingedLayer:
    """The layer F(x) = alpha x + beta B^T sigma(A x + b), exact.

    Args:
        A: (h, n). b: h numbers, zero if None. B: (h, m), or "tied" (B = A) or "identity".
        alpha, beta: exact numbers or symbols. activation: any but the smooth ones.

    Raises:
        ValueError: floats, shapes that do not fit, a smooth activation.
    """
    A = exact_matrix("A", A)
    h, n = A.shape
    if isinstance(B, str):
        if B not in ("tied", "identity"):
            raise ValueError(f"B={B!r} is unknown; give a matrix, 'tied' or 'identity'.")
        B = A if B == "tied" else sp.eye(h)
    B = exact_matrix("B", B)
    b = exact_matrix("b", [0] * h if b is None else b)
    alpha, beta = exact_number("alpha", alpha), exact_number("beta", beta)
    if b.shape != (h, 1):
        raise ValueError(f"b has {len(b)} entries for the {h} rows of A; give one offset per row.")
    if B.rows != h or (alpha != 0 and B.cols != n):
        raise ValueError(f"B has shape {B.shape}; A has {h} rows and x has length {n}, so B must be ({h}, {n}).")
    activation = get(activation)
    rows, offsets, slope, constant, lift, units = activation_hinges(activation, h)
    outer = beta * B.T
    return HingedLayer(
        M=sp.ImmutableMatrix(alpha * sp.eye(B.cols, n) + outer * slope * A),
        c=sp.ImmutableMatrix(outer * (slope * b + constant)),
        G=sp.ImmutableMatrix(rows * A),
        e=sp.ImmutableMatrix(rows * b + offsets),
        D=sp.ImmutableMatrix(outer * lift),
        units=units,
    )


def activation_hinges(activation: Activation, h: int) -> tuple:
    """sigma(z) = slope z + constant + lift relu(rows z + offsets) on R^h.

    Returns:
        rows, offsets, slope, constant, lift (sympy matrices) and, for each hinge, its unit.
    """
    if isinstance(activation, PiecewiseAffine):
        kinks, slopes = activation.kinks, activation.slopes
        jumps = [b - a for a, b in zip(slopes, slopes[1:], strict=False)]
        each, units = len(kinks), tuple(i for i in range(h) for _ in kinks)
        rows = sp.Matrix(h * each, h, lambda k, i: int(units[k] == i))
        lift = sp.Matrix(h, h * each, lambda i, k: jumps[k % each] * int(units[k] == i))
        offsets = sp.Matrix(h * each, 1, lambda k, _: -kinks[k % each])
        return rows, offsets, slopes[0] * sp.eye(h), activation.constant * sp.ones(h, 1), lift, units
    if isinstance(activation, PairFold):
        if h % 2:
            raise ValueError(f"{activation.name} folds pairs, but A has {h} rows; use an even number.")
        normal = activation.normal
        rows = sp.Matrix(h // 2, h, lambda p, i: -normal[i % 2] if i // 2 == p else 0)
        return rows, sp.zeros(h // 2, 1), sp.eye(h), sp.zeros(h, 1), -2 * rows.T, tuple(range(h // 2))
    raise ValueError(
        f"activation {activation.name!r} is not affine in pieces, so the layer has no regions; "
        "use relu, leaky_relu, abs, zigzag, maxmin or householder."
    )


def pattern_of(units: Sequence[int], on: Iterable) -> tuple[int, ...]:
    """Count the hinges that are on, unit by unit."""
    counts = [0] * (max(units, default=-1) + 1)
    for unit, is_on in zip(units, on, strict=True):
        counts[unit] += int(bool(is_on))
    return tuple(counts)


@checked
def from_torch(layer, limit: int | None = None) -> HingedLayer:
    """A torch layer with A, B, b, alpha, beta, activation, its floats made rational.

    Every float is a binary fraction and is taken as that; with ``limit`` the nearest fraction whose
    denominator is at most ``limit`` is taken instead.
    """

    require_attributes("layer", layer, "A", "B", "b", "alpha", "beta", "activation")

    def rational(value) -> sp.Rational:
        value = Fraction(float(value))
        value = value if limit is None else value.limit_denominator(limit)
        return sp.Rational(value.numerator, value.denominator)

    def matrix(tensor) -> list:
        return [[rational(v) for v in row] for row in tensor.detach().double().tolist()]

    b = None if layer.b is None else [rational(v) for v in layer.b.detach().double().tolist()]
    return hinged_layer(
        matrix(layer.A),
        b,
        B=matrix(layer.B),
        alpha=rational(layer.alpha),
        beta=rational(layer.beta),
        activation=layer.activation,
    )


def layer_conditions(layer: HingedLayer, patterns=None) -> list[sp.Expr]:
    """J^T J = I on each pattern (all of them by default), without repetition."""
    conditions = (jacobian_conditions(layer.piece(p)[0]) for p in patterns or layer.patterns())
    return list(dict.fromkeys(e for each in conditions for e in each))


def affine_on(layers: Sequence[HingedLayer], patterns) -> tuple[sp.Matrix, sp.Matrix]:
    """The affine map (J, c) of a stack of layers on given patterns, one per layer. Any width, exact."""
    layers = [layers] if isinstance(layers, HingedLayer) else list(layers)
    J, c = layers[0].piece(patterns[0])
    for layer, pattern in zip(layers[1:], patterns[1:], strict=True):
        K, d = layer.piece(pattern)
        J, c = (K * J).applyfunc(tidy), (K * c + d).applyfunc(tidy)
    return J, c
