"""Checks for A1 that you may see. They cover 8 of 20 points: what passes here can still fail where you cannot see."""

import itertools
import math
from fractions import Fraction

import torch

from pso_lib.checks import as_numbers, require_close, require_parts, require_shape, wrong


def check_jacobian(function, variant):
    low, high, kink = (float(variant[key]) for key in ("low", "high", "kink"))
    generator = torch.Generator().manual_seed(3)
    layers = [tuple(torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((5, 4), (5,), (5, 4)))] * 2
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator)

    def network(x):
        for A, b, B in layers:
            z = x @ A.T + b
            x = float(variant["alpha"]) * x + (low * z + (high - low) * (z - kink).clamp_min(0)) @ B
        return x

    found = require_shape(function(layers, x), (3, 4, 4), "network_jacobian(layers, x)")
    step = 1e-6 * torch.randn(4, dtype=torch.float64, generator=generator)
    change = network(x + step) - network(x - step)
    if torch.allclose(2 * (found.mT @ step), change, rtol=1e-4, atol=1e-12):
        wrong("these are the transposes: rows belong to outputs, columns to inputs.")
    require_close(2 * (found @ step), change, tol=1e-4, what="the Jacobian times a small step")
    return "it predicts how the output moves under a small step"


def check_spectrum(function, variant):
    matrices = torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = require_shape(function(matrices), (3,), "log_spectrum(matrices)")
    if not bool(found.isfinite().all()) or found.tolist() != sorted(found.tolist(), reverse=True):
        wrong("give three finite logarithms, largest first.")
    return "three numbers, largest first; whether they are right, this does not test"


def check_bends(function, variant):
    bend = {
        "relu": lambda z: max(z, Fraction(0)),
        "abs": abs,
        "leaky": lambda z: max(z, -z / 2),
    }[variant["activation"]]
    F = Fraction
    layers = [
        ([[F(1)], [F(-2)], [F(1)]], [F(0), F(1), F(-1, 2)]),
        ([[F(1), F(1), F(-2)], [F(-1), F(2), F(1)]], [F(-1), F(-3)]),
        ([[F(1), F(-1)]], [F(0)]),
    ]

    def output(t):
        h = [F(-3) + 6 * t]
        for number, (W, b) in enumerate(layers):
            h = [sum(w * v for w, v in zip(row, h, strict=True)) + c for row, c in zip(W, b, strict=True)]
            h = h if number == 2 else [bend(z) for z in h]
        return h[0]

    found = as_numbers(function(layers, [F(-3)], [F(3)]), "bends(layers, p, q)").flatten().tolist()
    if found != sorted(found) or any(not 0 < t < 1 for t in found):
        wrong("give the places in increasing order, without the ends: 0 < t < 1.")
    grid = [F(k, 601) for k in range(602)]
    bent_cells = [
        t for s, t, u in zip(grid, grid[1:], grid[2:], strict=False) if output(s) + output(u) != 2 * output(t)
    ]
    for t in found:
        if not any(abs(float(s) - t) <= 1 / 601 for s in bent_cells):
            wrong(f"the output does not bend at t = {t:.4g}, though a unit may pass its kink there.")
    for s in bent_cells:
        if not any(abs(float(s) - t) <= 1 / 601 for t in found):
            wrong(f"the output bends near t = {float(s):.3f}, which is not among your places.")
    for s, t in itertools.pairwise(found):
        if t - s < 1e-9:
            wrong("a place is there twice.")
    return "the output bends where you say, and nowhere else"


def check_cells(function, variant):
    d = variant["slice"]
    n = d + 1
    if function(n, [1]) != 2 or function(n, [4]) != 5:
        wrong("one unit with k kinks makes k + 1 slabs, in any dimension.")
    if function(n, [2, 3]) != 12:
        wrong("two families of 2 and 3 walls make 3 times 4 regions; parallel walls do not meet.")
    known = {2: 11, 3: 15, 4: 16}[d]
    if (found := function(n, [1, 1, 1, 1])) != known:
        also = {2: 11, 3: 15, 4: 16}.get(n)
        wrong(
            f"four walls make {known} regions in dimension {d}, not {found}."
            + (" That is what they make in the whole space." if found == also else "")
        )
    return "one unit, two families and four single walls are right"


def check_radius(function, variant):
    generator = torch.Generator().manual_seed(5)
    shapes = ((4, 3), (4,)), ((5, 4), (5,)), ((3, 5), (3,))
    *layers, readout = [tuple(torch.randn(*s, dtype=torch.float64, generator=generator) for s in two) for two in shapes]
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    found = require_shape(function(layers, readout, x), (6,), "safe_radius(layers, readout, x)")
    if not all(0 < radius < math.inf for radius in found.tolist()):
        wrong("each row of these has a kink or another class somewhere: give positive numbers.")
    return "a positive radius for each row; whether it is right, this does not test"


def check_saw(function, variant):
    first, second = variant["first"], variant["second"]
    shapes = {"A1": (first, 1), "b1": (first,), "A2": (second, first), "b2": (second,), "c": (second,)}
    if not bool(require_parts(function(), shapes).isfinite().all()):
        wrong("all weights must be finite numbers.")
    return "the weights have their shapes; the pieces are not counted here"


# The points are those of what is tested, so a check of the form alone has none.
CHECKS = {
    "network_jacobian": (3, check_jacobian),
    "log_spectrum": (0, check_spectrum),
    "bends": (3, check_bends),
    "cells": (2, check_cells),
    "safe_radius": (0, check_radius),
    "saw": (0, check_saw),
}
