"""Random exact numbers, matrices and rotations, and the tolerances of the property tests."""

import random
from itertools import combinations

import sympy as sp
import torch

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


def rational(source: random.Random, low=-9, high=9) -> sp.Rational:
    return sp.Rational(source.randint(low, high), source.randint(1, 7))


def matrix(source: random.Random, h: int, n: int) -> sp.Matrix:
    return sp.Matrix(h, n, lambda i, j: rational(source))


def rotation(source: random.Random, n: int) -> sp.Matrix:
    """A random rational orthogonal matrix: Cayley's transform, then a flip of some axes."""
    S = sp.zeros(n, n)
    for i, j in combinations(range(n), 2):
        S[i, j] = sp.Rational(source.randint(-3, 3), source.randint(1, 3))
        S[j, i] = -S[i, j]
    flips = sp.diag(*(source.choice([1, -1]) for _ in range(n)))
    return (sp.eye(n) - S) * (sp.eye(n) + S).inv() * flips
