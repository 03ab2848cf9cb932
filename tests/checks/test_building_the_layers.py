"""The checks of the chapter on building the layers: the solutions pass, each likely mistake is named."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from exercise_cases import named, passes

from pso_lib.nn.init import haar, seeded
from pso_lib.nn.layers import Fold
from pso_lib.nn.networks import DeepNetwork, deep_network

DOUBLE = {"dtype": torch.float64}
HERE = "building-the-layers"


def twin(A, b):
    return -A, -A.T @ b


def polar(A):
    U, _, Vh = torch.linalg.svd(A, full_matrices=False)
    return U @ Vh


def newton(A, steps=6):
    for _ in range(steps):
        A = 1.5 * A - 0.5 * A @ A.T @ A
    return A


def by_qr(A, signs=True):
    Q, R = torch.linalg.qr(A.T)
    return (Q * R.diagonal().sign() if signs else Q).T


def in_place(A):
    A.mul_(1.0000001)
    return polar(A)


def untouched(layer):
    return torch.linalg.svd(layer.A.detach())[2][layer.hidden :]


def by_complete_qr(layer):
    return np.linalg.qr(layer.A.detach().numpy().T, mode="complete")[0].T[layer.hidden :]


def shared(depth, dim, generator, **changes):
    network = deep_network(depth, dim, layer="fold", generator=generator, **DOUBLE | changes)
    for layer in network.layers:
        layer.set_weights(A=network.layers[0].A)
    return network


def biased(depth, dim, generator):
    network = shared(depth, dim, generator)
    for index, layer in enumerate(network.layers):
        layer.set_weights(b=0.1 * index)
    return network


HALF = torch.full((2, 1), math.sqrt(0.5))
SOLUTIONS = {
    f"{HERE}/twin": [twin, lambda A, b: [part.tolist() for part in twin(A, b)]],
    f"{HERE}/repair-weights": [polar, newton, lambda A: polar(A).numpy()],
    f"{HERE}/untouched-subspace": [untouched, by_complete_qr, lambda layer: -untouched(layer).flip(0)],
    f"{HERE}/wide-fold": [
        (HALF.double(), [0.0, -1.0], [0.5]),
        (HALF, torch.tensor([0.0, -1.0]), 0.5),
        (sp.Matrix([1, 1]).reshape(2, 1).tolist() / np.sqrt(2), np.array([0, -1]), ["1/2"]),
        ([[0.5, 0.5], [0.5, -0.5], [0.5, 0.5], [0.5, -0.5]], [1, 1, -1, -1], [0.1, 0.2]),
    ],
    f"{HERE}/same-creases": [shared],
}
MISTAKES = {
    f"{HERE}/twin": [
        (lambda A, b: (A, -A.T @ b), "B has the other sign"),
        (lambda A, b: (A, A.T @ b), "B and c have the other sign"),
        (lambda A, b: (-A, 0 * b), "c is not zero"),
        (lambda A, b: (-A, A.T @ b), "c has the other sign"),
        (lambda A, b: (-A, -A @ b), "wrong way"),
        (lambda A, b: (-A, -b), "not turned"),
        (lambda A, b: (-A.T, -A.T @ b), "transpose"),
        (lambda A, b: -A, "return 2 things"),
    ],
    f"{HERE}/repair-weights": [
        (lambda A: A.clone(), "digits, not accuracy"),
        (lambda A: by_qr(A, signs=False), "changed sign"),
        (by_qr, "not the nearest"),
        (lambda A: newton(A, steps=1), "too few"),
        (lambda A: A / A.norm(dim=1, keepdim=True), "perpendicular"),
        (lambda A: polar(A.float()), "in float32"),
        (lambda A: polar(A.roll(1, 0)), "another layer"),
        (torch.zeros_like, "another layer"),
        (lambda A: polar(A).T, "transpose"),
        (in_place, "in place"),
        (torch.eye(3), "the function itself"),
    ],
    f"{HERE}/untouched-subspace": [
        (lambda layer: layer.A, "one for each crease"),
        (lambda layer: untouched(layer).T, "shape"),
        (lambda layer: 2 * untouched(layer), "not orthonormal"),
        (lambda layer: torch.eye(layer.dim)[layer.hidden :], "axes of the space"),
        (lambda layer: torch.linalg.svd(layer.A).Vh[: layer.dim - layer.hidden], "first rows"),
    ],
    f"{HERE}/wide-fold": [
        ((torch.eye(2), [0.0, 0.0], [0.5, 0.5]), "more rows than columns"),
        ((torch.ones(2, 1), [0.0, -1.0], [0.5]), "divide A"),
        ((HALF.double(), [0.0, 0.0], [0.5]), "2 of 2 units"),
        ((HALF.double(), [0.0, -1.0], [0.0]), "on a crease"),
        ((HALF.double(), [0.0, -1.0], [math.sqrt(2)]), "on a crease"),
        ((HALF.double(), [0.0], [0.0]), "shape"),
        (([1.0, 1.0], [0.0, -1.0], [0.5]), "must be a matrix"),
        ((HALF * math.nan, [0.0, -1.0], [0.5]), "no finite number"),
    ],
    f"{HERE}/same-creases": [
        (lambda L, n, g: deep_network(L, n, layer="fold", generator=g, **DOUBLE), "different"),
        (biased, "b = 0"),
        (lambda L, n, g: shared(7, n, g), "depth 7"),
        (lambda L, n, g: shared(L, n, seeded(0)), "same A"),
        (lambda L, n, g: shared(L, n, g, dtype=torch.float32), "not float64"),
        (lambda L, n, g: Fold(n), "DeepNetwork"),
        (lambda L, n, g: DeepNetwork([Fold(n, generator=g, **DOUBLE)] * L), "one layer several times"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)


@pytest.mark.parametrize("n", [2, 5])
def test_the_twin_is_the_fold(n):
    A, b, x = (
        haar(n, n, seeded(n)),
        torch.linspace(-1, 1, n, **DOUBLE),
        torch.randn(50, n, generator=seeded(0), **DOUBLE),
    )
    B, c = twin(A, b)
    fold = x - 2 * torch.relu(x @ A.T + b) @ A
    torch.testing.assert_close((x @ A.T + b).abs() @ B + c, fold)
