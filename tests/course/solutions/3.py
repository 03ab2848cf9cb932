"""Reference solutions of A3."""

from fractions import Fraction
from math import comb

import torch

from pso_lib import deep_network, haar, seeded
from pso_lib.data import load
from pso_lib.train.loop import train


def predict(Q, kinds, x, depth):
    shift = float(VARIANT["predict"]["shift"])
    found = []
    for u in x @ Q.T:
        kept = 0
        for z, kind in zip(u.tolist(), kinds):
            if kind == "abs":
                kept += 1
            elif kind == "step":
                kept += z > depth * shift
            else:
                kept += z > 0
        found.append(kept)
    return found


def law(relu, absolute, leaky, inputs):
    least = VARIANT["law"]["least"]
    p = Fraction(1, 2**inputs)
    m = relu + leaky
    fewer = sum(comb(m, k) * p**k * (1 - p) ** (m - k) for k in range(max(least - absolute, 0)))
    return absolute + m * p, m * p * (1 - p), fewer


def measure(jacobians):
    if VARIANT["measure"]["order"] == "last layer first":
        jacobians = jacobians.flip(0)
    n = jacobians.shape[1]
    V = torch.eye(n, dtype=jacobians.dtype)  # a basis of what is left, and where it is now
    U = V
    for J in jacobians:
        # Invertible layers: G^T G v = v at this layer and the one before means J^T J u = u.
        values, vectors = torch.linalg.eigh(J.T @ J)
        kept = vectors[:, (values - 1).abs() < 1e-6]
        _, s, W = torch.linalg.svd(kept.T @ U)
        inside = W[: len(s)][s > 1 - 1e-6]
        V, U = V @ inside.T, U @ inside.T
        U = kept @ (kept.T @ U)  # what rounding has leaked would grow
        U = torch.linalg.svd(J @ U, full_matrices=False)
        U = U.U @ U.Vh
    return V.shape[1], V


def start(depth, n, seed):
    variant = VARIANT["start"]
    generator = seeded(seed)
    d = variant["quarters"] * n // 4
    A, B = torch.zeros(depth, n, n, dtype=torch.float64), torch.zeros(depth, n, n, dtype=torch.float64)
    frame = haar(n, n, generator)
    kept, rest = frame[:d], frame[d:]
    for layer in range(depth):
        O = haar(d, d, generator)
        if variant["activation"] == "abs":
            A[layer, :d], B[layer, :d] = O @ kept, kept
            continue
        # Two units take turns: relu(z) - relu(-z) = z, and (1 + slope) z for leaky.
        scale = 1 + (float(variant["slope"]) if variant["activation"] == "leaky" else 0)
        if variant["alpha"] == 0:
            A[layer, :d], A[layer, d : 2 * d] = O @ kept, -O @ kept
            B[layer, :d], B[layer, d : 2 * d] = kept / scale, -kept / scale
        else:
            m = n - d
            share = 0.2 + 1.6 * torch.rand(m, 1, dtype=torch.float64, generator=generator)
            A[layer, :m], A[layer, m : 2 * m] = rest, -rest
            B[layer, :m], B[layer, m : 2 * m] = -share * rest / scale, share * rest / scale
    return A, B, torch.zeros(depth, n, dtype=torch.float64)


def trained(seed):
    generator = seeded(seed)
    network = deep_network(VARIANT["trained"]["depth"], 32, inputs=64, classes=10, generator=generator)
    W = haar(16, 32, generator)
    for layer in network.layers:
        O = haar(16, 16, generator)
        layer.set_weights(A=torch.cat([O @ W, -O @ W]), B=torch.cat([W, -W]), b=0.0)

    def weights():
        layers = network.layers
        return tuple(
            torch.stack([getattr(layer, name).detach().clone() for layer in layers]) for name in ("A", "B", "b")
        )

    first = weights()
    train(network, load("digits"), steps=120, lr=1e-3, generator=generator, progress=False)
    ends = {
        name: (end.weight.detach(), end.bias.detach())
        for name, end in (("lift", network.lift), ("readout", network.readout))
    }
    return {**ends, "first": first, "last": weights()}
