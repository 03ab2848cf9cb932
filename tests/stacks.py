"""Networks of one shape, for the tests of the ensemble and its engine."""

import torch

from pso_lib.nn.networks import deep_network

KINDS = {
    "residual": {"layer": "residual", "beta": -2.0, "orthogonal": "start"},
    "feedforward": {"layer": "feedforward"},
    "fold": {"layer": "fold", "hidden": 5},
    "modified": {"layer": "modified_feedforward"},
    "textbook": {"layer": "feedforward", "outer": "identity"},
    "textbook abs": {"layer": "feedforward", "outer": "identity", "activation": "abs"},
    "identity tanh": {"layer": "feedforward", "outer": "identity", "beta": 0.7, "activation": "tanh"},
    "identity gelu": {"layer": "residual", "outer": "identity", "beta": -0.5, "activation": "gelu"},
    "wide silu": {"layer": "residual", "hidden": 12, "beta": 0.5, "activation": "silu"},
    "no bias": {"layer": "residual", "bias": False, "beta": 0.5, "activation": "leaky_relu"},
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def build(count: int = 3, depth: int = 5, dim: int = 8, dtype=torch.float32, **options) -> list:
    def one(seed: int):
        generator = torch.Generator().manual_seed(seed)
        return deep_network(depth, dim, inputs=64, classes=10, dtype=dtype, generator=generator, **options)

    return [one(seed) for seed in range(count)]


def seeded(count: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(10 + e) for e in range(count)]


def close(ours, theirs, dtype) -> None:
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
