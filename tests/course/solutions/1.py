"""Reference solutions of A1."""

import itertools
import math
from fractions import Fraction
from itertools import combinations

import mpmath
import torch


def network_jacobian(layers, x):
    low, high, kink, alpha = (float(VARIANT["network_jacobian"][key]) for key in ("low", "high", "kink", "alpha"))
    J = torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1)
    for A, b, B in layers:
        z = x @ A.T + b
        slope = torch.where(z > kink, high, low).to(x.dtype)
        layer = alpha * torch.eye(x.shape[1], dtype=x.dtype) + (B.T * slope[:, None]) @ A
        J = layer @ J
        x = alpha * x + (low * z + (high - low) * (z - kink).clamp_min(0)) @ B
    return J


def log_spectrum(matrices):
    base = {"2": 2, "e": math.e, "10": 10}[VARIANT["log_spectrum"]["base"].strip("$")]
    mpmath.mp.dps = 250
    product = mpmath.eye(matrices.shape[1])
    for J in matrices.tolist():
        product = mpmath.matrix(J) * product
    values = mpmath.svd_r(product, compute_uv=False)
    logs = [float(mpmath.log(value)) / math.log(base) for value in values]
    return torch.tensor(sorted(logs, reverse=True), dtype=torch.float64)


def bends(layers, p, q):
    low = {"relu": Fraction(0), "abs": Fraction(-1), "leaky": Fraction(-1, 2)}[VARIANT["bends"]["activation"]]
    places = [Fraction(0), Fraction(1)]
    values = [[Fraction(a) for a in p], [Fraction(a) for a in q]]
    for number, (W, b) in enumerate(layers):
        values = [[sum(w * v for w, v in zip(row, h)) + c for row, c in zip(W, b)] for h in values]
        if number == len(layers) - 1:
            break
        new = []
        for (s, g), (t, h) in itertools.pairwise(zip(places, values)):
            new.append((s, g))
            zeros = sorted({u / (u - v) for u, v in zip(g, h) if u * v < 0})
            new += [(s + r * (t - s), [u + r * (v - u) for u, v in zip(g, h)]) for r in zeros]
        new.append((places[-1], values[-1]))
        places = [t for t, _ in new]
        values = [[v if v > 0 else low * v for v in h] for _, h in new]
    slopes = [[(v - u) / (t - s) for u, v in zip(g, h)] for (s, g), (t, h) in itertools.pairwise(zip(places, values))]
    return [t for t, left, right in zip(places[1:], slopes, slopes[1:]) if left != right]


def cells(n, kinks):
    most = VARIANT["cells"]["slice"]
    return sum(math.prod(some) for size in range(most + 1) for some in combinations(kinks, size))


def safe_radius(layers, readout, x):
    low, high, kink = (float(VARIANT["safe_radius"][key]) for key in ("low", "high", "kink"))
    J = torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1)
    radius = torch.full((len(x),), math.inf, dtype=x.dtype)
    for W, b in layers:
        z, J = x @ W.T + b, W @ J
        radius = torch.minimum(radius, ((z - kink).abs() / J.norm(dim=2)).amin(1))
        J = torch.where(z > kink, high, low).to(x.dtype)[:, :, None] * J
        x = low * z + (high - low) * (z - kink).clamp_min(0)
    f, J = x @ readout[0].T + readout[1], readout[0] @ J
    best = f.argmax(1)
    rows = torch.arange(len(x))
    gap, normal = f[rows, best][:, None] - f, J[rows, best][:, None] - J
    distance = gap / normal.norm(dim=2)
    distance[rows, best] = math.inf
    return torch.minimum(radius, distance.amin(1))


def saw():
    first, second = VARIANT["saw"]["first"], VARIANT["saw"]["second"]
    # Slopes 1, -1, 1, -2, 2, -2, … between the kinks; units 2 and 3 face left, so that the first slope is not 0.
    slopes = [1.0, -1.0, 1.0] + [2.0 * (-1) ** j for j in range(3, first + 1)]
    kinks = [0.0]
    for slope in slopes[1:-1]:
        kinks.append(kinks[-1] + 2 / abs(slope))
    facing = [-1.0 if j in (1, 2) else 1.0 for j in range(first)]
    A1 = torch.tensor(facing, dtype=torch.float64)[:, None]
    b1 = -A1[:, 0] * torch.tensor(kinks, dtype=torch.float64)
    jumps = torch.tensor([b - a for a, b in itertools.pairwise(slopes)], dtype=torch.float64)
    level = float(jumps @ (-A1[:, 0] * 0 + (b1).clamp_min(0)))  # the saw at x = 0, where its first peak is
    A2 = torch.stack([jumps * (-1) ** k for k in range(second)])
    heights = torch.tensor([0.5 * k - 0.4 for k in range(second)], dtype=torch.float64)
    b2 = torch.tensor([(-1) ** k for k in range(second)], dtype=torch.float64) * (1 - level - heights)
    return A1, b1, A2, b2, torch.tensor([1.0, 0.7, 1.3][:second], dtype=torch.float64)
