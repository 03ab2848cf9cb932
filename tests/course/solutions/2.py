"""Reference solutions of A2."""

import math
from fractions import Fraction

import sympy as sp
import torch

from pso_lib.exact import origami


def walk(Q, c, creases):
    Q, c = sp.Matrix(Q), sp.Matrix(c)
    for a, b in creases:
        a = sp.Matrix(a)
        R = sp.eye(len(a)) - 2 * a * a.T / a.dot(a)
        shift = -2 * b * a / a.dot(a)
        if VARIANT["walk"]["kind"] == "sheet":
            Q, c = Q * R, Q * shift + c
        else:
            Q, c = R * Q, R * c + shift
    return Q.tolist(), list(c)


def half_space(a, t):
    low, high, kink = (float(VARIANT["half_space"][key]) for key in ("low", "high", "kink"))
    side = 1.0 if VARIANT["half_space"]["side"] == "above" else -1.0
    w = side * a
    d = kink - side * t
    v = -2 * a * side / (a @ a) / (high - low)
    M = torch.eye(len(a), dtype=a.dtype) - low * torch.outer(v, w)
    c = -low * d * v
    return M, c, v, w, d


def repairs(angles):
    found = []
    for i in range(len(angles)):
        others = [sp.rad(a) for a in angles[:i] + angles[i + 1 :]]
        for x in origami.kawasaki_completion(others):
            degrees = sp.nsimplify(x * 180 / sp.pi)
            found.append((i, Fraction(int(degrees.p), int(degrees.q))))
    return found


def pencil(angles):
    low, high = float(VARIANT["pencil"]["low"]), float(VARIANT["pencil"]["high"])
    order = sorted(range(len(angles)), key=lambda i: float(angles[i]) % 180)
    A = torch.zeros(len(angles), 2, dtype=torch.float64)
    V = torch.zeros(len(angles), 2, dtype=torch.float64)
    # From the direction of the first normal minus 90 degrees on, all units are off: there the Jacobian is I.
    # Turning to the left, the walls with normals at t are passed in increasing order, and their units go on.
    Q = torch.eye(2, dtype=torch.float64)
    for i in order:
        t = math.radians(float(angles[i]) % 180)
        A[i] = torch.tensor([math.cos(t), math.sin(t)], dtype=torch.float64)
        V[i] = -2 * Q @ A[i] / (high - low)
        Q = Q + (high - low) * torch.outer(V[i], A[i])
    return torch.eye(2, dtype=torch.float64) - low * V.T @ A, V, A


def needle(ts, y):
    points = {y}
    for t in reversed(ts):
        before = set()
        for v in points:
            if VARIANT["needle"]["kind"] == "abs":
                before |= {t + v, t - v} if v >= 0 else set()
            elif VARIANT["needle"]["kind"] == "roof":
                before |= {t - v, v - t} if v <= t else set()
            else:
                before |= {v + t, -v - t} if v + t >= 0 else set()
        points = before
    return sorted(points)
