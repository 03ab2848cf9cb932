"""Lift, layers, readout."""

import copy
import inspect
import pickle
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

from pso_lib.nn.activations import known
from pso_lib.nn.init import block_, projection_, seeded
from pso_lib.nn.layers import FeedForward, Fold, Layer, kinds
from pso_lib.nn.networks import DeepNetwork, Kind, LayerOptions, deep_network, plain_network, starts


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


# ------------------------------------------------------------------------------------- errors in words


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: deep_network(2, 4, generator=0), TypeError, r"generator must be .*got 0.*manual_seed\(0\)"),
        (lambda: deep_network(2, 4, inputs=3, ends="default", generator=0), TypeError, "generator must be"),
        (lambda: deep_network(2, 4, inputs=3)(torch.ones(2, 3).double()), ValueError, r"x.to\(torch.float32\)"),
        (lambda: deep_network(2, 4)(torch.ones(2, 4).double()), ValueError, "x is torch.float64, the weights"),
        (lambda: deep_network(2, 4, dtype=torch.float64)(torch.arange(4)), ValueError, "x is torch.int64"),
        (lambda: deep_network(2, 4, inputs=3)(torch.ones(2, 4)), ValueError, "last axis must have length 3"),
        (lambda: deep_network(2, 4)(np.ones((2, 4))), TypeError, "x is a ndarray; give a tensor"),
        (lambda: deep_network(2, 4, inputs=3)([1.0, 2.0, 3.0]), TypeError, "x is a list; give a tensor"),
        (lambda: deep_network(2, 4, alpha=0.5), TypeError, "FeedForward has alpha=0.0 and takes no alpha; .*Layer"),
        (lambda: deep_network(2, 4, layer="fold", beta=3.0), TypeError, "Fold has beta=-2.0 and takes no beta"),
        (lambda: deep_network(2, 4, layer="fold", outer="free"), TypeError, "Fold has outer='tied'"),
        (
            lambda: deep_network(2, 4, layer="modified_feedforward", activation="relu"),
            TypeError,
            "ModifiedFeedForward has activation='abs'",
        ),
        (lambda: DeepNetwork([nn.Linear(4, 4)]), TypeError, r"layers\[0\] is a Linear without .dim"),
        (lambda: DeepNetwork([nn.Softmax()]), TypeError, r"layers\[0\] is a Softmax without .dim"),
        (lambda: deep_network(2, 4, orthogonal="always", dtype=torch.bfloat16), ValueError, "float32 and train under"),
        (lambda: deep_network(2, 4, orthogonal="always", dtype=torch.float16), ValueError, "torch.float16"),
        (lambda: block_(deep_network(2, 4), 5), ValueError, "k must be an integer from 0 to the width 4, got 5"),
        (lambda: block_(deep_network(2, 4), 1.0), ValueError, "k must be an integer, got 1.0"),
    ],
)
def test_what_goes_wrong_is_said(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_autocast_may_mix_dtypes():
    network = deep_network(2, 4, inputs=3, classes=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.ones(2, 3)).dtype == torch.bfloat16


def test_numpys_integers_are_integers():
    ours = deep_network(np.int64(2), np.int32(4), inputs=np.int8(3), hidden=np.int64(5), generator=seeded())
    plain = deep_network(2, 4, inputs=3, hidden=5, generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert type(ours.dim) is int and type(ours.layers[0].hidden) is int
    first, second = (deep_network(2, 4, generator=seeded()) for _ in range(2))
    block_(first, np.int64(2), generator=seeded()), block_(second, 2, generator=seeded())
    assert torch.equal(first.layers[1].A, second.layers[1].A)


def test_meta_as_the_default_device():
    """Nothing is drawn on meta; what is made for the CPU draws what it drew."""
    plain = deep_network(2, 4, inputs=3, generator=seeded())
    torch.set_default_device("meta")
    try:
        empty, full = deep_network(2, 4, inputs=3), deep_network(2, 4, inputs=3, generator=seeded(), device="cpu")
        projection_(empty, 2), projection_(deep_network(2, 4, device="cpu"), 0)
        deep_network(2, 4, inputs=3, ends="default", device="cpu")
        assert all(p.is_meta for p in empty.parameters())
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), full.parameters(), strict=True))
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("activation", known)
def test_networks_are_pickled_copied_and_saved(activation, tmp_path):
    network, x = deep_network(2, 4, inputs=3, classes=2, activation=activation), torch.ones(5, 3)
    torch.save(network, tmp_path / "network.pt")
    loaded = torch.load(tmp_path / "network.pt", weights_only=False)
    for other in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network), loaded):
        assert torch.equal(other(x), network(x)) and other.layers[0].activation.name == activation


def test_the_types_name_what_the_functions_take():
    assert set(get_args(Kind)) == set(kinds)
    assert set(get_args(get_type_hints(plain_network)["start"])) == set(starts)
    theirs = set(inspect.signature(Layer).parameters) - {"dim", "alpha", "generator", "dtype", "device"}
    assert set(LayerOptions.__annotations__) == theirs
