import torch

from pso_lib.checks import require_close, wrong


def _distance(function, variant):
    require_close(function(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0]), 1.0), 2.0, {"the sign": -2.0})
    return "two to the right of the crease"


def _fold(function, variant):
    x = torch.tensor([[1.0, 2.0]])
    if not torch.equal(function(x, torch.tensor([1.0, 0.0])), x):
        wrong("points on the positive side must stay")
    return "what is on the positive side stays"


CHECKS = {"signed_distance": (4, _distance), "fold": (4, _fold)}
