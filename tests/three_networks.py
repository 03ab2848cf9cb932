"""The networks of the three workloads, small."""

import torch
from torch import nn

from pso_lib.data import load
from pso_lib.nn.init import seeded
from pso_lib.nn.transformer import GPT
from pso_lib.train.workloads import cnn_workload, mlp_workload


def transformer(**options) -> GPT:
    return GPT(11, 6, 8, 2, 2, std=0.3, generator=seeded(), dtype=torch.float64, **options)


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A fresh network in float64 and an input."""
    if name == "transformer":
        return transformer(), torch.randint(11, (3, 6), generator=seeded(1))
    images = load("digits", dtype=torch.float64)
    task = {"mlp": mlp_workload(images, depth=3, width=16), "cnn": cnn_workload(images, blocks=2, width=8)}[name]
    return task.model(0), images.train_x[:3]
