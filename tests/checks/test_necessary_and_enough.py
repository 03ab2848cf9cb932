"""The checks of the chapter on necessity and sufficiency: right answers pass in each form, mistakes are named."""

import math

import numpy as np
import sympy as sp
import torch
from exercise_cases import named, passes

I = [[1, 0], [0, 1]]
FOUR = [[1, 2], [-1, 2], [1, -2], [-1, -2]]


def turned(angle=0.3, scale=1.0):
    Q = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    return Q, torch.zeros(2), scale * torch.tensor(FOUR).double() @ Q


def together(G, c, ratio=2):
    s = torch.linalg.svdvals(G)
    s = s.where(s > 1e-10 * s[:, :1], torch.nan)
    return (s[:, None, :] <= s[:, :, None]).logical_and(s[:, None, :] >= s[:, :, None] * c**ratio).sum(2).amax(1)


def softened(G, c):
    s = torch.linalg.svdvals(G)
    return ((s >= c) & (s <= 1 / c)).sum(-1)


def zeros_too(G, c):
    s = torch.linalg.svdvals(G)
    s = s * (s > 1e-10 * s[:, :1])
    return (s[:, None, :] <= s[:, :, None]).logical_and(s[:, None, :] >= s[:, :, None] * c**2).sum(2).amax(1)


def exponent(keep, depths, level=None, logs=(True, True), inverse=False):
    found = []
    for depth in depths:
        drifts = np.geomspace(1e-3, 2, 4000)
        target = keep(0.0, depth) / 2 if level is None else level
        found.append(next(d for d in drifts if keep(d, depth) <= target))
    x, y = (np.log(v) if log else np.array(v, float) for v, log in zip((depths, found), logs, strict=True))
    return float(-np.polyfit(*((y, x) if inverse else (x, y)), 1)[0])


def skipped(network, x, *, before=False, after=False):
    with torch.no_grad():
        states, changed = network.states(x), []
        answer = network.readout(states[-1]).argmax(1)
        for index in range(network.depth):
            h = states[0 if before else index]
            for layer in [] if after else network.layers[index + 1 :]:
                h = layer(h)
            changed.append((network.readout(h).argmax(1) != answer).double().mean())
    return torch.stack(changed)


NAME = "necessary-and-enough/"
SOLUTIONS = {
    NAME + "folded-together": [
        (I, [0, 0], FOUR),
        (np.eye(2), [0.0, -1.0], [[2, 3], [-2, 3], [2, -1], [-2, -1]]),
        (sp.eye(2), [0, 0], [sp.Matrix(point) for point in FOUR]),
        ([[0, -1], [1, 0]], [0, 0], FOUR),
        turned(),
        turned(scale=1e-6),
    ],
    NAME + "common-factor": [together, lambda G, c: together(G, c).tolist()],
    NAME + "drift-tolerance": [exponent, lambda *case: torch.tensor(exponent(*case))],
    NAME + "skipped-layers": [skipped, lambda *case: skipped(*case).tolist()],
}
MISTAKES = {
    NAME + "folded-together": [
        ((I, [0, 0], [[math.nan, 2], [-1, 2], [1, -2], [-1, -2]]), "no finite number"),
        ((I, [math.nan, 0], FOUR), "no finite number"),
        (([[math.nan, 0], [0, 1]], [0, 0], FOUR), "no finite number"),
        (([[1, 0]], [0], FOUR), "two creases"),
        ((I, [0, 0], [[1, 2], [2, 2], [1, -2], [-1, -2]]), "3 of the four quarters"),
        ((I, [0, 0], [[1, 2], [-1, 2], [1, -2], [-1, -3]]), "Mirror a point"),
        ((I, [0, 0], [[1, 2], [-1, 2], [1, -2], [1, -2]]), "four different"),
        ((I, [0, 0], [[1, 2], [-1, 2], [1, 2 + 1e-12], [-1, 2 + 1e-12]]), "four different"),
        ((I, [0, 0], [[1, 0], [-1, 0], [1, 1], [-1, 1]]), "on a crease"),
        ((I, [0, 0], [[1, 1e-9], [-1, 1e-9], [1, 1], [-1, 1]]), "on a crease"),
        (([[1, 1], [1, -1]], [0, 0], FOUR), "orthonormal"),
        ((torch.eye(3), [0], FOUR), "(h, 2)"),
        ((I, [0, 0], [[1, 2], [-1, 2]]), "list of points has shape"),
    ],
    NAME + "common-factor": [
        (softened, "as the chapter does"),
        (lambda G, c: (torch.linalg.svdvals(G) >= c**2 * torch.linalg.svdvals(G)[:, :1]).sum(1), "largest singular"),
        (lambda G, c: softened(G / torch.linalg.svdvals(G).median(1).values[:, None, None], c), "differs in"),
        (lambda G, c: softened(G / torch.linalg.svdvals(G).mean(1)[:, None, None], c), "around the mean"),
        (lambda G, c: together(G, c, ratio=1), "factor of 1 / c²"),
        (zeros_too, "that are 0"),
        (lambda G, c: together(G, c) / 6, "shares"),
        (lambda G, c: together(G, c).max(), "one number"),
        (lambda G, c: together(torch.diag_embed(torch.linalg.eigvals(G).abs().sort(1, True).values), c), "eigenvalues"),
        (lambda G, c: together(G, 0.5), "right on"),
        (lambda G, c: together(G.mul_(2), c), "in place"),
    ],
    NAME + "drift-tolerance": [
        (lambda *case: -exponent(*case), "sign is turned"),
        (lambda *case: exponent(*case, level=0.5), "without drift"),
        (lambda keep, depths: exponent(keep, depths, level=keep(0.0, depths[0]) / 2), "each depth has its own"),
        (lambda *case: exponent(*case, inverse=True), "L over d"),
        (lambda *case: exponent(*case, logs=(False, False)), "their logarithms"),
        (lambda *case: exponent(*case, logs=(False, True)), "drifts only"),
        (lambda *case: 0.16, "use its arguments"),
    ],
    NAME + "skipped-layers": [
        (lambda network, x: 1 - skipped(network, x), "that stay"),
        (lambda network, x: 100 * skipped(network, x), "per cent"),
        (lambda network, x: 200 * skipped(network, x), "counts"),
        (lambda network, x: skipped(network, x, after=True), "all after it"),
        (lambda network, x: skipped(network, x, before=True), "all before it"),
        (lambda network, x: skipped(network, x).flip(0), "from the end"),
        (lambda network, x: skipped(network, x)[:-1], "shape"),
        (lambda network, x: 0.5 * skipped(network, x), "is half"),
        (lambda network, x: (skipped(network, x), x.zero_())[0], "in place"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)
