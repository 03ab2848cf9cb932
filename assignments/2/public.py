"""Checks for A2 that you may see. They cover 8 of 20 points: what passes here can still fail where you cannot see."""

from fractions import Fraction

import torch

from pso_lib.checks import as_number, as_numbers, require_parts, require_shape, wrong


def check_walk(function, variant):
    F = Fraction
    Q, c = [[F(3, 5), F(4, 5)], [F(-4, 5), F(3, 5)]], [F(1), F(-2)]
    a, b = [F(1), F(2)], F(-3)
    found = function(Q, c, [(a, b)])
    Q, c = as_numbers(Q), as_numbers(c)
    Q2, c2 = require_shape(found[0], (2, 2), "Q"), require_shape(found[1], (2,), "c")
    if not torch.allclose(Q2.T @ Q2, torch.eye(2, dtype=torch.float64), atol=1e-9):
        wrong("the new Q is not orthogonal; does the mirror know the length of a?")
    if float(torch.det(Q2) * torch.det(Q)) > 0:
        wrong("a crease turns the sheet over: the determinant must change its sign.")
    on_crease = torch.tensor([[1.0, 1.0], [3.0, 0.0]], dtype=torch.float64)  # a . z + b = 0
    x = on_crease if variant["kind"] == "sheet" else (on_crease - c) @ Q
    if not torch.allclose(x @ Q.T + c, x @ Q2.T + c2, atol=1e-9):
        place = "on the sheet" if variant["kind"] == "sheet" else "on the table"
        wrong(f"the two pieces tear: at points of the crease ({place}) they must agree.")
    return "the next piece is a mirror image and does not tear off"


def check_half_space(function, variant):
    low, high, kink = (float(variant[key]) for key in ("low", "high", "kink"))
    a, t = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64), 0.5
    M, c, v, w, d = (as_numbers(part) for part in function(a, t))
    up = 1.0 if variant["side"] == "above" else -1.0

    def F(x):
        z = x @ w + d
        return x @ M.T + c + (low * z + (high - low) * (z - kink).clamp_min(0)) * v

    foot = t * a
    along = torch.tensor([0.8, 0.0, -0.6], dtype=torch.float64)
    still, moving = foot - up * 2 * a + along, foot + up * 2 * a + along
    if not torch.allclose(F(still), still, atol=1e-6):
        wrong("a point of the half that stays has moved.")
    if not torch.allclose(F(moving), still, atol=1e-6):
        wrong("a point of the half that is turned over does not arrive at its mirror image.")
    return "one half stays and the other lies on it, for a normal of length 1"


def check_needle(function, variant):
    F = Fraction
    forth = {
        "abs": lambda u, t: abs(u - t),
        "roof": lambda u, t: t - abs(u),
        "valley": lambda u, t: abs(u) - t,
    }[variant["kind"]]
    ts = [F(4), F(5, 2), F(1)]
    for start in (F(0), F(7, 3), F(-2)):
        y = start
        for t in ts:
            y = forth(y, t)
        found = as_numbers(function(ts, y), "needle(ts, y)").flatten().tolist()
        if not any(abs(u - float(start)) < 1e-9 for u in found):
            wrong(f"the point {start} arrives at {y}, and is not among yours.")
        if found != sorted(set(found)):
            wrong("give the points in increasing order, each once.")
        for u in found:
            for t in map(float, ts):
                u = forth(u, t)
            if abs(u - as_number(y)) > 1e-9:
                wrong(f"one of your points arrives at {u:.4g}, not at {y}.")
    return "your points arrive where they should, and those known are among them"


def check_repairs(function, variant):
    found = as_numbers(function([0, 40, 90, 120]), "repairs([0, 40, 90, 120])")
    if found.ndim != 2 or found.shape[1] != 2 or not all(i in range(4) for i in found[:, 0].tolist()):
        wrong("return a list of pairs (i, angle), i from 0 to 3; a pencil of four creases has such pairs.")
    return "a list of pairs; whether they are all, and fold, this does not test"


def check_pencil(function, variant):
    if not bool(require_parts(function([0, 60, 90, 120]), {"M": (2, 2), "V": (4, 2), "A": (4, 2)}).isfinite().all()):
        wrong("all weights must be finite numbers.")
    return "the weights have their shapes; nothing is folded here"


# The points are those of what is tested, so a check of the form alone has none.
CHECKS = {
    "walk": (3, check_walk),
    "half_space": (3, check_half_space),
    "repairs": (0, check_repairs),
    "pencil": (0, check_pencil),
    "needle": (2, check_needle),
}
