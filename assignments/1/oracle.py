"""How A1 is judged: differences in float64, many digits, fractions, and pieces that are counted."""

import itertools
import math
from fractions import Fraction

import mpmath
import torch

from pso_lib.checks import wrong
from pso_lib.course import Case, Exercise, Judgement
from pso_lib.course.judges import Partly, expect, fields, numbers


def gaussians(rng, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(rng.getrandbits(40)))


# An activation with one kink, wherever it is and whatever its slopes.
def activation(rng):
    low, high = rng.choice([("-0.5", "1.5"), ("0.2", "1"), ("-1", "0.4"), ("1.2", "-0.3"), ("0.1", "-0.9")])
    kink = rng.choice(["-0.4", "0.3", "0.5", "-0.3"])
    beyond = rf"{scaled(high, f'(z {-float(kink):+g})')} {float(low) * float(kink):+g}"
    return {"low": low, "high": high, "kink": kink, "below": scaled(low, "z"), "beyond": beyond}


def scaled(factor, what):
    """The product as one writes it: x and -x without their 1."""
    return {"1": what, "-1": f"-{what}"}.get(factor, rf"{factor}\,{what}")


def bent(z, low, high, kink):
    return low * torch.minimum(z, kink + 0 * z) + high * (z - kink).clamp_min(0)


def three(variant):
    return float(variant["low"]), float(variant["high"]), float(variant["kink"])


def differences(function, x, step=1e-6):
    """The Jacobian at each row by central differences, which are exact within a piece."""
    columns = [
        (function(x + step * e) - function(x - step * e)) / (2 * step) for e in torch.eye(x.shape[-1], dtype=x.dtype)
    ]
    return torch.stack(columns, -1)


# Exercise 1


def jacobian_variant(rng):
    alpha = rng.choice(["1", "0.5", "-1"])  # none without a skip, which could not be forgotten
    return {**activation(rng), "alpha": alpha, "skip": scaled(alpha, "x")}


def run_residual(layers, x, alpha, bend):
    for A, b, B in layers:
        x = alpha * x + bend(x @ A.T + b) @ B
    return x


def clear(layers, alpha, bend, kink, n, rng, rows=4):
    """Points that have no kink near them: (rows, n)."""
    x, found = gaussians(rng, 400, n), torch.ones(400, dtype=torch.bool)
    h = x
    for A, b, B in layers:
        found &= ((h @ A.T + b - kink).abs() > 1e-3).all(1)
        h = alpha * h + bend(h @ A.T + b) @ B
    return x[found][:rows]


def jacobian_cases(variant, rng):
    low, high, kink = three(variant)
    alpha = float(variant["alpha"])

    def bend(z):
        return bent(z, low, high, kink)

    def swapped(z):
        return bent(z, high, low, kink)

    def at_zero(z):
        return bent(z, low, high, 0.0)

    cases = []
    for weight, n, hidden, depth, what in (
        (1, 3, 3, 1, "one layer"),
        (1, 4, 4, 3, "three layers"),
        (1, 3, 5, 4, "more units than inputs"),
    ):
        layers = [
            (gaussians(rng, hidden, n) / n**0.5, 0.3 * gaussians(rng, hidden), gaussians(rng, hidden, n) / n**0.5)
            for _ in range(depth)
        ]
        x = clear(layers, alpha, bend, kink, n, rng)

        def jacobians(bend=bend, alpha=alpha, layers=layers, x=x):
            return differences(lambda x: run_residual(layers, x, alpha, bend), x)

        right = jacobians()
        backwards = skipless = torch.eye(n, dtype=torch.float64)
        for at, one in enumerate(layers):
            here = run_residual(layers[:at], x, alpha, bend)
            J = differences(lambda y, one=one: run_residual([one], y, alpha, bend), here)
            backwards = backwards @ J
            skipless = (J - alpha * torch.eye(n, dtype=torch.float64)) @ skipless
        mistakes = {
            "These are the transposes: rows belong to outputs, columns to inputs.": Partly(right.mT, 0.5),
            "The slopes are those of the other side of the kink.": jacobians(bend=swapped),
            "The kink is taken at 0; read where the activation bends.": Partly(jacobians(bend=at_zero), 0.25),
            "The part of each layer that skips the activation is missing in the derivative.": skipless,
            "The part of each layer that skips the activation is missing.": jacobians(alpha=0.0),
            "The layers are multiplied in the wrong order: the last layer stands on the left.": Partly(backwards, 0.25),
        }
        judge = expect(right, mistakes, tol=1e-5, what="network_jacobian")
        cases.append(Case(weight, (layers, x), judge, what))
    return cases


# Exercise 2


def spectrum_variant(rng):
    base = rng.choice(["2", "e", "10"])
    return {"base": f"${base}$"}


def exact_logs(matrices, base, digits=220):
    """By digits that outlast the whole range: float64 numbers are exact in them."""
    with mpmath.workdps(digits):
        product = mpmath.eye(matrices.shape[1])
        for J in matrices.tolist():
            product = mpmath.matrix(J) * product
        values = mpmath.svd_r(product, compute_uv=False)
        return sorted((float(mpmath.log(s) / mpmath.log(base)) for s in values), reverse=True)


def spectrum_cases(variant, rng):
    base = {"$2$": 2.0, "$e$": math.e, "$10$": 10.0}[variant["base"]]
    cases = []
    for weight, n, depth, scale, what in (
        (1, 3, 4, 1.0, "four layers"),
        (2, 4, rng.randint(60, 90), 1.0, "so many layers that small values drown in a float"),
        (1, rng.choice([5, 6]), rng.randint(100, 150), 1.3, "a hundred layers and more"),
    ):
        matrices = scale * gaussians(rng, depth, n, n)
        right = exact_logs(matrices, base)
        each = torch.linalg.svdvals(matrices).log() / math.log(base)
        product = torch.eye(n, dtype=torch.float64)
        for J in matrices:
            product = J @ product
        eigen = torch.linalg.eigvals(product).abs().log().sort(descending=True).values / math.log(base)
        drowned = torch.linalg.svdvals(product).log() / math.log(base)
        frame, rates = torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        for J in matrices:
            frame, R = torch.linalg.qr(J @ frame)
            rates += R.diagonal().abs().log() / math.log(base)
        mistakes = {
            "These are the layers' own logarithms, added up; their singular vectors do not match.": each.sum(0),
            "These are the squared singular values' logarithms.": Partly([2 * v for v in right], 0.25),
            "The logarithms have another base than yours.": Partly([v * math.log(base) for v in right], 0.5),
            "These are eigenvalues, not singular values.": eigen,
            "These are growth rates along a frame (the diagonals of the R), not singular values; the two agree only "
            "per layer, in the limit of many.": Partly(rates.sort(descending=True).values, 0.4),
        }
        if base == math.e:
            mistakes["The logarithms have another base than yours."] = Partly([v / math.log(10) for v in right], 0.5)
        cases.append(Case(weight, (matrices,), spectrum_judge(right, mistakes, drowned), what))
    return cases


def spectrum_judge(right, mistakes, drowned):
    close = expect(right, mistakes, tol=1e-9, what="log_spectrum")

    def judge(value):
        found = numbers(value, (len(right),), "log_spectrum")
        off = (found - torch.tensor(right)).abs()
        if bool((off < 1e-3).all()):
            return None
        good = int((off < 1e-3).long().cumprod(0).sum())
        lost = float(drowned[-1]) - right[-1] > 1e-3 or not bool(drowned.isfinite().all())
        if good and lost:
            return Judgement(
                0.25 * good / len(right),
                f"log_spectrum: the {good} largest are right, the others are not: they are lost to rounding in the "
                "product.",
            )
        return close(found) or Judgement(0.5, "log_spectrum is right to two digits only; 0.001 is asked for.")

    return judge


# Exercise 3


def bends_variant(rng):
    name = rng.choice(["relu", "abs", "leaky"])
    return {"activation": name, "formula": {"relu": r"\max(z, 0)", "abs": "|z|", "leaky": r"\max(z, -z/2)"}[name]}


SLOPES = {"relu": (0, 1), "abs": (-1, 1), "leaky": (Fraction(-1, 2), 1)}


def curve(layers, p, q, slopes):
    """The output along the segment: its knots (t, value), exactly, and which knots are units' kinks in layer 1."""
    line = [(Fraction(t), [a + t * (b - a) for a, b in zip(p, q, strict=True)]) for t in (0, 1)]
    first = set()
    for number, (W, b) in enumerate(layers):
        line = [(t, [dot(row, h) + c for row, c in zip(W, b, strict=True)]) for t, h in line]
        if number == len(layers) - 1:
            return line, first
        cut = [line[0]]
        for (s, g), (t, h) in itertools.pairwise(line):
            places = {s + (t - s) * u / (u - v) for u, v in zip(g, h, strict=True) if u * v < 0}
            for r in sorted(places):
                cut.append((r, [u + (r - s) / (t - s) * (v - u) for u, v in zip(g, h, strict=True)]))
            cut.append((t, h))
        line = [(t, [(slopes[1] if v > 0 else slopes[0]) * v for v in h]) for t, h in cut]
        if number == 0:
            first = {t for t, _ in cut} - {0, 1}
    raise ValueError("a network has layers")


def dot(u, v):
    return sum((a * b for a, b in zip(u, v, strict=True)), Fraction(0))


def corners(line):
    """The knots where the slope changes."""
    slopes = [[(v - u) / (t - s) for u, v in zip(g, h, strict=True)] for (s, g), (t, h) in itertools.pairwise(line)]
    return [t for (t, _), left, right in zip(line[1:-1], slopes[:-1], slopes[1:], strict=True) if left != right]


def small(rng, rows, columns):
    return [
        [Fraction(rng.choice([-3, -2, -1, 1, 2, 3]), rng.choice([1, 2])) for _ in range(columns)] for _ in range(rows)
    ]


def bends_cases(variant, rng):
    slopes = SLOPES[variant["activation"]]
    cases = []
    for weight, sizes, hidden_needed, what in (
        (1, (2, 3, 1), 0, "one hidden layer"),
        (2, (2, 4, 4, 1), 2, "two hidden layers, with kinks that do not reach the output"),
        (1, (3, 4, 4, 3, 2), 1, "three hidden layers and two outputs"),
    ):
        for _ in range(20000):
            layers = [(small(rng, m, n), small(rng, 1, m)[0]) for n, m in itertools.pairwise(sizes)]
            if hidden_needed:
                hide(layers, rng)
            p = [Fraction(rng.randint(-6, -2), 2) for _ in range(sizes[0])]
            q = [Fraction(rng.randint(2, 6), 2) * rng.choice([1, -1]) for _ in range(sizes[0])]
            line, first = curve(layers, p, q, slopes)
            right = corners(line)
            everything = [t for t, _ in line[1:-1]]
            if len(right) >= (2 if len(sizes) == 3 else 4) and len(everything) - len(right) >= hidden_needed:
                break
        cases.append(Case(weight, (layers, p, q), bends_judge(right, everything, sorted(first)), what))
    return cases


def hide(layers, rng):
    """Two units of the first layer that undo each other's kink: opposite in the first, equal and opposite after it."""
    (W, b), V = layers[0], layers[1][0]
    W[1], b[1] = W[0], b[0]
    for row in V:
        row[1] = -row[0]


def bends_judge(right, everything, first):
    def judge(value):
        found = numbers(value, what="bends").flatten()
        if found.numel() and not bool(found.isfinite().all()):
            return Judgement(0, "bends returns a place that is no finite number.")
        got = sorted(set(round(float(t), 8) for t in found))
        wanted = sorted({round(float(t), 8) for t in right})
        if near(found.tolist(), [float(t) for t in right]):
            return None
        if near(got, wanted):
            return Judgement(0.75, "The corners are right, but not in increasing order, or some are there twice.")
        inner = [t for t in got if 1e-7 < t < 1 - 1e-7]
        if len(inner) < len(got) and near(inner, wanted):
            return Judgement(
                0.75, "The ends of the segment, or places outside it, are among them; 0 < t < 1 is asked for."
            )
        if len(everything) > len(right) and near(inner, sorted({round(float(t), 8) for t in everything})):
            return Judgement(
                0.25, "These are all places where a unit passes its kink; at some of them the output does not bend."
            )
        if near(inner, sorted({round(float(t), 8) for t in first})):
            return Judgement(0.25, "These are the kinks of the first layer alone; later units have kinks of their own.")
        hits = sum(any(abs(t - s) < 1e-7 for s in wanted) for t in inner)
        share = max(0.0, (2 * hits / (len(inner) + len(wanted)) - 0.5)) if inner else 0.0
        missing, extra = len(wanted) - hits, len(inner) - hits
        return Judgement(
            min(share, 0.25), f"Corners are missing ({missing}), and places that are none are given ({extra})."
        )

    return judge


def near(found, wanted):
    return len(found) == len(wanted) and all(abs(a - b) < 1e-7 for a, b in zip(found, wanted, strict=True))


# Exercise 4


def cells_variant(rng):
    return {"slice": rng.choice([2, 3, 4])}


def flats(kinks, most):
    """Walls of different families meet; each flat of the arrangement of a generic section is a bounded-below region."""
    return sum(math.prod(chosen) for size in range(most + 1) for chosen in itertools.combinations(kinks, size))


def cells_cases(variant, rng):
    d = variant["slice"]
    cases = []
    for weight, n, kinks, what in (
        (1, d, [1] * rng.randint(d + 1, d + 4), "one kink each, the whole space"),
        (1, d + rng.randint(1, 3), [rng.randint(1, 4) for _ in range(d + 2)] + [2], "several kinks, in a section"),
        (1, d + rng.randint(2, 5), [rng.randint(1, 3) for _ in range(d + 3)] + [3], "a section of a larger space"),
        (0.5, d + 2, [rng.randint(2, 4) for _ in range(d + 1)], "fewer units than dimensions"),
    ):
        walls = sum(kinks)
        mistakes = {
            "Parallel walls are counted as if they met.": flats([1] * walls, d),
            "These are the regions of the whole space, not of the section.": Partly(flats(kinks, n), 0.25),
            "All combinations are counted; in a section not all of them occur.": flats(kinks, len(kinks)),
            "Each unit counts as one wall, whatever its kinks.": flats([1] * len(kinks), d),
            "The flats of one dimension are counted once too few.": flats(kinks, d - 1),
        }
        cases.append(Case(weight, (n, kinks), expect(flats(kinks, d), mistakes, tol=1e-12, what="cells"), what))
    return cases


# Exercise 5


def radius_cases(variant, rng):
    low, high, kink = three(variant)
    cases = []
    for weight, sizes, near_boundary, what in (
        (1, (3, 5, 3), False, "one hidden layer, the kink is nearest"),
        (1, (3, 5, 3), True, "one hidden layer, the other class is nearest"),
        (2, (4, 6, 5, 4), None, "two hidden layers of different widths"),
    ):
        for _ in range(500):
            layers = [(gaussians(rng, m, n) / n**0.5, 0.4 * gaussians(rng, m)) for n, m in itertools.pairwise(sizes)]
            readout = layers.pop()
            x = gaussians(rng, 200, sizes[0])
            kinks, first, boundary, naive, unsorted = radii(layers, readout, x, (low, high, kink))
            fine = torch.minimum(kinks, boundary) > 1e-2
            kinds = [fine & (boundary < 0.8 * kinks), fine & (kinks < 0.8 * boundary)]
            kinds = kinds if near_boundary is None else [kinds[0] if near_boundary else kinds[1]]
            kinds += [kinds[-1] & (kinks < 0.8 * first)] if len(layers) > 1 else []
            if min(int(kind.sum()) for kind in kinds) >= 3:
                break
        take = torch.cat([kind.nonzero().flatten()[:3] for kind in kinds])
        kinks, first, boundary, naive, unsorted = (r[take] for r in (kinks, first, boundary, naive, unsorted))
        mistakes = {
            "Only the kinks are looked at; the answer may change before.": kinks,
            "Only the boundary between classes is looked at; a kink may come before it.": boundary,
            "Only the units of the first layer are looked at.": Partly(torch.minimum(first, boundary), 0.25),
            "The distance to another class needs the gradient of the difference of two outputs.": Partly(
                torch.minimum(kinks, naive), 0.25
            ),
            "The differences are not divided by the length of a gradient.": unsorted,
        }
        mistakes = {
            t: m for t, m in mistakes.items() if not torch.allclose(as_value(m), torch.minimum(kinks, boundary))
        }
        judge = expect(torch.minimum(kinks, boundary), mistakes, tol=1e-5, what="safe_radius")
        cases.append(Case(weight, (layers, readout, x[take]), judge, what))
    return cases


def as_value(mistake):
    return mistake.value if isinstance(mistake, Partly) else mistake


def radii(layers, readout, x, shape):
    """Distances to the nearest kink of all layers, of the first, to the boundary, and two mistaken ones; each (N,)."""
    kinks, raw = [], []

    def before(count):
        def function(y):
            for number, (W, b) in enumerate(layers[:count]):
                z = y @ W.T + b
                y = z if number == count - 1 else bent(z, *shape)
            return y

        return function

    for count in range(1, len(layers) + 1):
        z, J = before(count)(x), differences(before(count), x)
        kinks.append(((z - shape[2]).abs() / J.norm(dim=2)).amin(1))
        raw.append((z - shape[2]).abs().amin(1))

    def outputs(y):
        for W, b in layers:
            y = bent(y @ W.T + b, *shape)
        return y @ readout[0].T + readout[1]

    f, J = outputs(x), differences(outputs, x)
    best = f.argmax(1)
    at = torch.arange(len(x))
    gap, normal = f[at, best, None] - f, J[at, best, None] - J
    own = torch.arange(f.shape[1]) == best[:, None]
    boundary = (gap / normal.norm(dim=2)).masked_fill(own, math.inf).amin(1)
    naive = (gap / J.norm(dim=2)[at, best, None]).masked_fill(own, math.inf).amin(1)
    undivided = torch.minimum(torch.stack(raw).amin(0), gap.masked_fill(own, math.inf).amin(1))
    return torch.stack(kinks).amin(0), kinks[0], boundary, naive, undivided


# Exercise 6


def saw_variant(rng):
    first, second = rng.choice([3, 4, 5]), rng.choice([2, 3])
    return {"first": first, "second": second, "together": first + second}


def saw_cases(variant, rng):
    first, second = variant["first"], variant["second"]
    one, most = first + second + 1, (first + 1) * (second + 1)

    def judge(value):
        names = ["A1", "b1", "A2", "b2", "c"]
        shapes = [(first, 1), (first,), (second, first), (second,), (second,)]
        parts = fields(value, names, "what saw returns")
        parts[4] = numbers(parts[4], what="c")
        if parts[4].numel() == second and parts[4].ndim == 2:  # a row or a column says the same
            parts[4] = parts[4].flatten()
        exact = [fractions(part, shape, name) for part, shape, name in zip(parts, shapes, names, strict=True)]
        pieces = count_pieces(*exact)
        if pieces >= most:
            return None
        if pieces <= one:
            return Judgement(
                0,
                f"f has {pieces} pieces, no more than {first + second} units in one layer make ({one}). "
                "A unit of the second layer can bend f once in every piece of the first.",
            )
        middle = (pieces - one) / (most - one)
        hint = (
            "Kinks of the first layer stay hidden where all units after them are silent."
            if pieces in (most - first, most - first // 2, most - (first + 1) // 2)
            else "Does every unit of the second layer pass zero in every piece of the first? Which way do units face?"
        )
        return Judgement(middle, f"f has {pieces} pieces; there can be more. {hint}")

    return [Case(1, (), judge, "the number of pieces")]


def fractions(part, shape, name):
    """The numbers as they are, floats included, as fractions in lists."""
    values = numbers(part, shape, name)
    if not bool(values.isfinite().all()):
        wrong(f"{name} holds what is no finite number.")
    return exactly(values.tolist())


def exactly(part):
    return [exactly(one) for one in part] if isinstance(part, list) else Fraction(part)


def count_pieces(A1, b1, A2, b2, c):
    """Pieces of f on the whole line that are neither slivers nor, by slope, continuations of their neighbours."""

    def inner(x):
        return [max(a[0] * x + b, Fraction(0)) for a, b in zip(A1, b1, strict=True)]

    def second(x):
        h = inner(x)
        return [dot(row, h) + b for row, b in zip(A2, b2, strict=True)]

    def f(x):
        return dot(c, [max(z, Fraction(0)) for z in second(x)])

    kinks = sorted({-b / a[0] for a, b in zip(A1, b1, strict=True) if a[0]})
    if not kinks:
        return 1
    width = (kinks[-1] - kinks[0]) or Fraction(1)
    knots = set(kinks)
    far = 1
    ends = [kinks[0] - far, *kinks, kinks[-1] + far]
    for number, (s, t) in enumerate(itertools.pairwise(ends)):
        for u, v in zip(second(s), second(t), strict=True):
            if u != v:
                place = s - u * (t - s) / (v - u)
                inside = s < place < t or (number == 0 and place < t) or (number == len(ends) - 2 and place > s)
                knots |= {place} if inside else set()
    knots = sorted(knots)
    width = max(width, knots[-1] - knots[0])
    points = [knots[0] - 1, *knots, knots[-1] + 1]
    pairs = [(s, t) for s, t in itertools.pairwise(points)]
    slopes = [(f(t) - f(s)) / (t - s) for s, t in pairs]
    steepest = max(map(abs, slopes)) or Fraction(1)
    long = [
        slope
        for number, ((s, t), slope) in enumerate(zip(pairs, slopes, strict=True))
        if number in (0, len(pairs) - 1) or (t - s) * 10**6 > width
    ]
    return 1 + sum(abs(a - b) * 10**6 > steepest for a, b in itertools.pairwise(long))


EXERCISES = {
    "network_jacobian": Exercise(3, jacobian_variant, jacobian_cases),
    "log_spectrum": Exercise(3, spectrum_variant, spectrum_cases),
    "bends": Exercise(4, bends_variant, bends_cases),
    "cells": Exercise(3, cells_variant, cells_cases),
    "safe_radius": Exercise(3, activation, radius_cases),
    "saw": Exercise(4, saw_variant, saw_cases),
}
