"""The residual network on images."""

import torch

from pso_lib.nn.convnet import ConvNet
from pso_lib.nn.init import seeded


def test_without_normalisation_the_cnn_grows_with_depth():
    x, growth = torch.randn(32, 64, generator=seeded()), {}
    for norm in ("group", "none"):
        states = ConvNet((1, 8, 8), 10, 24, 16, norm=norm, generator=seeded()).states(x)
        assert len(states) == 25 and states[11].shape == (32, 16, 8, 8) and states[-1].shape == (32, 16, 4, 4)
        growth[norm] = (states[11].square().mean() / states[0].square().mean()).sqrt().item()
    assert growth["group"] < 4 and growth["none"] > 8, growth  # like the root of the depth; by a factor each block


def test_large_pictures_are_halved_at_once():
    model = ConvNet((3, 28, 20), 10, 2, 8, generator=seeded())
    states = model.states(torch.zeros(2, 3 * 28 * 20))
    assert [tuple(s.shape[-2:]) for s in states] == [(14, 10), (7, 5), (7, 5)]
    assert model(torch.zeros(2, 3 * 28 * 20)).shape == (2, 10)
