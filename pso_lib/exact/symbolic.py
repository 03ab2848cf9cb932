"""Mirrors and orthogonality in sympy: exact numbers, never a float. Vectors are columns.

The scalar layers, the rigidity lemma, the mirror lemma, and the conditions J^T J = I of any
Jacobian. Everything exact in this library goes through ``exact_matrix`` (what may come in), ``tidy`` (how
numbers are kept short), ``sign`` (how they are compared) and ``in_order`` (how they are sorted).
"""

from collections.abc import Iterable
from functools import cmp_to_key
from itertools import product

import numpy as np
import sympy as sp
import torch
from sympy.core.evalf import PrecisionExhausted
from sympy.functions.elementary.hyperbolic import HyperbolicFunction
from sympy.simplify.fu import TR8

from pso_lib.errors import checked, require_positive_int
from pso_lib.nn.activations import PiecewiseAffine

__all__ = [
    "exact_matrix",
    "exact_number",
    "exact_planes",
    "in_order",
    "jacobian_conditions",
    "mirror_solutions",
    "reflection",
    "rigidity_solution",
    "rigidity_system",
    "scalar_conditions",
    "sign",
    "solve_scalar",
    "tidy",
]


def exact_matrix(argument: str, value) -> sp.ImmutableMatrix:
    """``value`` as an exact sympy matrix; a flat list becomes a column.

    Raises:
        ValueError: it holds a float, or what is no number. Strings such as "1/3" and "sqrt(2)" are read exactly.
    """
    if isinstance(value, str):
        raise ValueError(f"{argument} is the text {value!r}; give a list of numbers, of rows for a matrix.")
    try:
        matrix = sp.ImmutableMatrix(_plain(value)).applyfunc(sp.sympify)
    except (TypeError, ValueError, sp.SympifyError) as error:
        raise ValueError(f"{argument} is not a matrix of numbers: {error}. Give a list of rows.") from None
    for entry in matrix:
        if not isinstance(entry, sp.Expr):
            raise ValueError(f"{argument} holds {entry}, which is no number; give integers, strings, or sympy numbers.")
        if entry.has(sp.Float, sp.nan, sp.zoo, sp.oo):
            raise ValueError(
                f"{argument} holds {entry}, but this module is exact; give integers, strings such as '1/3' "
                "or 'sqrt(2)', or sympy numbers. For a torch layer use from_torch(layer)."
            )
    return matrix


def exact_number(argument: str, value) -> sp.Expr:
    """``value`` as an exact sympy number or symbol; raises as ``exact_matrix`` does."""
    value = _plain(value)
    if isinstance(value, (list, tuple, sp.MatrixBase)):
        raise ValueError(f"{argument} must be one number, got {value!r}.")
    return exact_matrix(argument, [value])[0]


def exact_planes(normals, offsets=None) -> tuple[list[sp.Matrix], sp.ImmutableMatrix]:
    """The hyperplanes a_i . x + b_i = 0: columns a_i, all of one length, and as many b_i, zero if None.

    Raises:
        ValueError: no lists of numbers, or not as many of one as of the other.
    """
    for argument, given in (("normals", normals), ("offsets", [] if offsets is None else offsets)):
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"{argument} must be a list, one entry per hyperplane, got {given!r}.")
    rows = [sp.Matrix(exact_matrix("normals", a)) for a in normals]
    if len({a.shape for a in rows}) > 1 or any(a.cols != 1 for a in rows):
        raise ValueError(f"normals must be vectors of one length, got the shapes {[a.shape for a in rows]}.")
    heights = exact_matrix("offsets", [0] * len(rows) if offsets is None else list(offsets))
    if len(heights) != len(rows):
        raise ValueError(f"offsets has {len(heights)} entries for {len(rows)} normals; give one for each.")
    return rows, heights


def _plain(value):
    """Arrays and tensors, also as rows or entries of a list, as Python's own lists and numbers."""
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def tidy(expression: sp.Expr) -> sp.Expr:
    """Expand, and turn products of sines and cosines into sums: cheap, and enough for folds."""
    if expression.is_Rational:
        return expression
    expression = sp.expand(expression)
    if expression.has(sp.sin, sp.cos):
        return sp.expand(TR8(expression))  # radsimp is slow on these, and gains nothing
    return expression if expression.is_Rational else sp.radsimp(expression)


def sign(number: sp.Expr) -> int:
    """-1, 0 or 1, decided exactly.

    Digits settle what is not zero, 12,800 if it takes so many; a zero is proved by algebra.

    Raises:
        ValueError: the number holds a free symbol, or is not real.
        ArithmeticError: neither digits nor algebra decide.
    """
    number = sp.sympify(number)
    if number.is_Rational:
        return int(bool(number > 0)) - int(bool(number < 0))
    if number.free_symbols:
        raise ValueError(
            f"the sign of {number} depends on {sorted(map(str, number.free_symbols))}; substitute numbers."
        )
    found = _sign_by_digits(number, 200)
    if found:
        return found
    # sympy knows the error of exp, and not that of sinh and its kin
    number = tidy(number.replace(lambda part: isinstance(part, HyperbolicFunction), lambda part: part.rewrite(sp.exp)))
    if number == 0 or _vanishes_on_circle(number):
        return 0
    for working in (800, 3200, 12800):
        found = _sign_by_digits(number, working)
        if found:
            return found
    if number.equals(0):
        return 0
    raise ArithmeticError(f"could not decide the sign of {number}; rationalise it first.")


def _sign_by_digits(number: sp.Expr, working: int) -> int:
    """The sign if computing with so many digits leaves some that are certain, and more of them say the same; else 0."""
    try:
        value, again = (number.evalf(wanted, maxn=working, strict=True) for wanted in (15, 30))
    except PrecisionExhausted:
        return 0
    if value.is_real is False and sp.im(again)._prec > 1:
        raise ValueError(f"{number} is not real, about {value}, and has no sign.")
    value, again = sp.re(value), sp.re(again)
    if value.is_infinite and value == again:
        return 1 if value > 0 else -1
    if not value.is_Float or not abs(value - again) < abs(value) / 10**10:
        return 0
    return 1 if value > 0 else -1


def in_order(items: Iterable, key=lambda item: item) -> list:
    """``items`` sorted by exact numbers, decided by ``sign``: floats would mix up what differs beyond their digits."""
    return sorted(items, key=cmp_to_key(lambda p, q: sign(key(p) - key(q))))


def _vanishes_on_circle(number: sp.Expr) -> bool:
    """Whether a number made of sines and cosines of rational multiples of pi, sqrt 2 and sqrt 3 is zero.

    Written in z = exp(2 pi i / N) it is a polynomial, and zero iff the N-th cyclotomic polynomial divides it.
    False also where the number is made of something else: this is a fast way, not the only one.
    """
    waves = number.atoms(sp.sin, sp.cos)
    turns = {wave: wave.args[0] / (2 * sp.pi) for wave in waves}
    if not turns or not all(turn.is_Rational for turn in turns.values()):
        return False
    z, N = sp.Symbol("z"), sp.ilcm(24, *(turn.q for turn in turns.values()))
    swap = {sp.sqrt(2): z ** (N // 8) + z ** (7 * N // 8), sp.sqrt(3): z ** (N // 12) + z ** (11 * N // 12)}
    for wave, turn in turns.items():
        k = turn * N % N
        if wave.func is sp.cos:
            swap[wave] = (z**k + z ** (N - k)) / 2
        else:  # 1 / (2 i) = -i / 2, and -i = z^(3N/4)
            swap[wave] = (z**k - z ** (N - k)) * z ** (3 * N // 4) / 2
    numerator = sp.fraction(sp.together(number.xreplace(swap)))[0]
    if numerator.free_symbols != {z} or not numerator.is_polynomial(z):
        return numerator == 0
    return sp.rem(sp.Poly(numerator, z, domain="EX"), sp.Poly(sp.cyclotomic_poly(N, z), z)).is_zero


def reflection(a) -> sp.Matrix:
    """I - 2 a a^T / |a|^2, the mirror with normal ``a`` (n numbers or symbols).

    Raises:
        ValueError: a is zero.
    """
    a = _vector(a)
    square = tidy((a.T * a)[0])
    if _is_zero(a):
        raise ValueError("a is zero, and a mirror needs a normal; give a vector with a non-zero entry.")
    return (sp.eye(a.rows) - 2 * a * a.T / square).applyfunc(tidy)


def _is_zero(a: sp.MatrixBase) -> bool:
    """Whether every entry is zero, also where it takes algebra to see it; an entry with a symbol is not."""
    return not any(entry != 0 and (entry.free_symbols or sign(entry)) for entry in a)


def _vector(a) -> sp.ImmutableMatrix:
    a = exact_matrix("a", a)
    if a.cols != 1 or not a.rows:
        raise ValueError(f"a has shape {a.shape}; it must be a vector, n numbers.")
    return a


def jacobian_conditions(J) -> list[sp.Expr]:
    """J^T J = I as expressions that must vanish: the upper triangle, the trivial ones left out."""
    J = exact_matrix("J", J)
    gram = J.T * J - sp.eye(J.cols)
    found = [tidy(gram[i, j]) for i in range(J.cols) for j in range(i, J.cols)]
    return list(dict.fromkeys(e for e in found if e != 0))


def _slopes(slopes) -> tuple[sp.Expr, ...]:
    if isinstance(slopes, PiecewiseAffine):
        slopes = slopes.slopes
    if isinstance(slopes, str) or not isinstance(slopes, Iterable):
        raise ValueError(f"slopes must be a list of numbers or symbols, or a PiecewiseAffine, got {slopes!r}.")
    return tuple(dict.fromkeys(exact_matrix("slopes", list(slopes))))


def scalar_conditions(slopes, alpha=None, beta=None) -> list[sp.Expr]:
    """The scalar theorem's conditions (alpha + beta s)^2 = 1, one for each slope, as expressions that vanish."""
    alpha = sp.Symbol("alpha", real=True) if alpha is None else alpha
    beta = sp.Symbol("beta", real=True) if beta is None else beta
    return [(alpha + beta * s) ** 2 - 1 for s in _slopes(slopes)]


def solve_scalar(slopes) -> list[tuple[sp.Expr, sp.Expr]]:
    """Scalar layers: every (alpha, beta) with alpha + beta s = 1 or -1 for each slope.

    Args:
        slopes: numbers, symbols (taken as different from each other), or a PiecewiseAffine.

    Returns:
        (1, 0) and (-1, 0), and for exactly two slopes the two that fold.
    """
    slopes, (alpha, beta) = _slopes(slopes), sp.symbols("alpha beta", real=True)
    if len(slopes) < 2:
        raise ValueError("slopes must hold at least two different slopes; one slope leaves alpha, beta a line.")
    solutions = []
    for signs in product((1, -1), repeat=len(slopes)):
        equations = [alpha + beta * s - sign for s, sign in zip(slopes, signs, strict=True)]
        # Two slopes decide alpha and beta; the others must agree.
        pair = sp.solve(equations[:2], [alpha, beta], dict=True)[0]
        if all(sp.simplify(e.subs(pair)) == 0 for e in equations[2:]):
            solutions.append((sp.factor(pair[alpha]), sp.factor(pair[beta])))
    return sorted(solutions, key=lambda s: s[1] != 0)


@checked
def rigidity_system(n: int) -> tuple[list[sp.Symbol], list[sp.Expr]]:
    """The rigidity lemma's linear system for c_kij = <d_k d_i F, d_j F>, symmetric in k, i, antisymmetric in i, j.

    Returns:
        The n^3 unknowns, and the expressions that must vanish.
    """
    n = require_positive_int("n", n)
    indices = list(product(range(1, n + 1), repeat=3))
    c = {index: sp.Symbol("c_" + "".join(map(str, index))) for index in indices}
    symmetric = [c[k, i, j] - c[i, k, j] for k, i, j in indices if k < i]
    antisymmetric = [c[k, i, j] + c[k, j, i] for k, i, j in indices if i <= j]
    return list(c.values()), symmetric + antisymmetric


@checked
def rigidity_solution(n: int) -> dict[sp.Symbol, sp.Expr]:
    """The solution of :func:`rigidity_system`, by sympy: every unknown is zero."""
    unknowns, equations = rigidity_system(n)
    (solution,) = sp.linsolve(equations, unknowns)
    return dict(zip(unknowns, solution, strict=True))


def mirror_solutions(Q, a) -> list[sp.Matrix]:
    """The mirror lemma: every v with Q + v a^T orthogonal. They are 0 and -2 Q a / |a|^2.

    With u = Q^T v the condition reads u a^T + a u^T + |u|^2 a a^T = 0: linear in u once t = |u|^2 has a
    name of its own, and then one equation for t. ``a`` may be symbolic (and is taken as non-zero).

    Raises:
        ValueError: Q is not orthogonal, or a is zero.
    """
    Q, a = exact_matrix("Q", Q), _vector(a)
    n = a.rows
    if Q.shape != (n, n) or a.cols != 1:
        raise ValueError(f"Q has shape {Q.shape} and a has shape {a.shape}; give (n, n) and n numbers.")
    if any(sp.simplify(e) != 0 for e in jacobian_conditions(Q)):
        raise ValueError("Q is not orthogonal: Q^T Q differs from the identity; give an orthogonal Q.")
    if _is_zero(a):
        raise ValueError("a is zero, and a mirror needs a normal; give a vector with a non-zero entry.")
    u, t = sp.Matrix(sp.symbols(f"u1:{n + 1}")), sp.Symbol("t")
    (direction,) = sp.linsolve(list(u * a.T + a * u.T + t * a * a.T), list(u))
    u = sp.Matrix(direction)
    sizes = sp.solve(sp.factor((u.T * u)[0] - t), t)
    return [(Q * u.subs(t, size)).applyfunc(sp.cancel).applyfunc(tidy) for size in sizes]
