"""Lift, layers, readout."""

import pytest
import torch
from torch import nn

from pso_lib.layers import FeedForward, Fold
from pso_lib.networks import DeepNetwork, deep_network, plain_network


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("layer", ["feedforward", "residual", "fold", "modified_feedforward"])
def test_forward_is_lift_layers_readout(layer):
    network = deep_network(5, 6, layer=layer, inputs=9, classes=3, generator=seeded(), dtype=torch.float64)
    x = torch.randn(4, 9, generator=seeded(1), dtype=torch.float64)
    states = network.states(x)
    assert len(states) == 6 and network.depth == 5 and network.dim == 6
    torch.testing.assert_close(states[0], network.lift(x))
    torch.testing.assert_close(network.trunk(states[0]), states[-1])
    torch.testing.assert_close(network(x), network.readout(states[-1]))
    assert network(x).shape == (4, 3)


def test_without_ends_the_network_maps_the_space_to_itself():
    network = deep_network(2, 5, generator=seeded())
    x = torch.randn(3, 5)
    torch.testing.assert_close(network(x), network.trunk(x))


def test_orthogonal_ends():
    network = deep_network(1, 6, inputs=20, classes=3, generator=seeded(), dtype=torch.float64)
    for weight, bias in ((network.lift.weight, network.lift.bias), (network.readout.weight, network.readout.bias)):
        assert (weight @ weight.T - torch.eye(len(weight), dtype=torch.float64)).abs().max() < 1e-14
        assert not bias.any()


def test_default_ends_follow_torch_linear():
    lift = deep_network(1, 50, inputs=400, ends="default", generator=seeded()).lift
    reference = nn.Linear(400, 50)
    assert lift.weight.std().item() == pytest.approx(reference.weight.std().item(), rel=0.05)
    assert lift.weight.abs().max() <= 1 / 20


def test_state_dict_round_trip_of_a_network_kept_orthogonal():
    first, second = (
        deep_network(3, 6, layer="fold", orthogonal="always", inputs=4, classes=2, generator=seeded(s)) for s in (0, 1)
    )
    second.load_state_dict(first.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: deep_network(0), ["depth", "0"]),
        (lambda: deep_network(2, layer="folds"), ["layer='folds'", "Did you mean 'fold'"]),
        (lambda: deep_network(2, ends="ortogonal"), ["ends='ortogonal'", "'orthogonal'"]),
        (lambda: deep_network(2, inputs=0), ["inputs", "0"]),
        (lambda: deep_network(2, classes=-1), ["classes", "-1"]),
        (lambda: plain_network(2, start="hee"), ["start='hee'", "'he'"]),
        (lambda: DeepNetwork([]), ["empty"]),
        (lambda: DeepNetwork([Fold(3), FeedForward(4)]), ["[3, 4]"]),
        (lambda: DeepNetwork([Fold(3)], lift=nn.Linear(5, 4)), ["4", "3"]),
        (lambda: DeepNetwork([Fold(3)], readout=nn.Linear(5, 4)), ["5", "3"]),
        (lambda: deep_network(2, 4).trunk(torch.zeros(2, 5)), ["(2, 5)", "4"]),
    ],
)
def test_bad_input_names_the_remedy(call, parts):
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
