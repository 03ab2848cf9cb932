"""Every network of the library is saved, copied and sent to another process, and comes out the same."""

import copy
import io
import itertools
import operator
import pickle

import pytest
import torch
from torch import nn

from pso_lib.nn.activations import known
from pso_lib.nn.convnet import ConvNet
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import kinds
from pso_lib.nn.networks import deep_network, plain_network
from pso_lib.nn.transformer import GPT

X = torch.randn(5, 16, generator=seeded(1))
TOKENS = torch.randint(0, 7, (3, 4), generator=seeded(2))


def deep(layer: str, **options):
    return lambda seed: deep_network(2, 4, layer=layer, inputs=16, classes=3, generator=seeded(seed), **options)


NETWORKS = {
    **{
        f"{layer}-{sigma}": deep(layer, activation=sigma)
        for layer, sigma in itertools.product(kinds, known)
        if layer != "modified_feedforward"  # whose activation is |.|
    },
    "modified_feedforward": deep("modified_feedforward"),
    "without ends": lambda seed: deep_network(2, 16, generator=seeded(seed)),
    **{
        f"plain-{start}": lambda seed, start=start: plain_network(2, 16, start=start, generator=seeded(seed))
        for start in ("he", "xavier", "orthogonal")
    },
    **{
        f"GPT-{norm}-{'tied' if tied else 'free'}": lambda seed, norm=norm, tied=tied: GPT(
            7, 4, 8, 2, 2, norm=norm, tied=tied, qk_norm=not tied, generator=seeded(seed)
        )
        for norm, tied in itertools.product(("pre", "post"), (True, False))
    },
    **{
        f"ConvNet-{norm}": lambda seed, norm=norm: ConvNet((1, 4, 4), 3, 2, 8, norm=norm, generator=seeded(seed))
        for norm in ("group", "none")
    },
}


KEPT = {f"{layer}-always": deep(layer, orthogonal="always") for layer in kinds}  # by torch's parametrisation


def values(network: nn.Module) -> torch.Tensor:
    return network(TOKENS if isinstance(network, GPT) else X)


def saved(what):
    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("name", [*NETWORKS, *KEPT])
def test_it_comes_back_the_same(name):
    make = (NETWORKS | KEPT)[name]
    network, other = make(0), make(1)
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):  # as if trained; kept matrices stay orthogonal all the same
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(i)))
    before = values(network)
    assert not torch.equal(values(other), before)
    other.load_state_dict(torch.load(saved(network.state_dict()), weights_only=True))
    others = {"state": other, "copy": copy.deepcopy(network)}
    if name in NETWORKS:
        others["pickle"] = pickle.loads(pickle.dumps(network))
        others["file"] = torch.load(saved(network), weights_only=False)
    else:  # torch's rule
        with pytest.raises(RuntimeError, match=r"only\s+supported through state_dict\(\)"):
            pickle.dumps(network)
    for way, found in others.items():
        assert torch.equal(values(found), before), way
        assert isinstance(found, type(network)) and found.training == network.training
        assert [n for n, _ in found.named_parameters()] == [n for n, _ in network.named_parameters()]  # ties kept
    with torch.no_grad():
        for found in others.values():
            for p in found.parameters():
                p.mul_(1.5)
    assert torch.equal(values(network), before)  # no storage is shared


@pytest.mark.parametrize("name", ["feedforward-relu", "fold-always", "GPT-pre-tied", "ConvNet-group"])
def test_an_empty_state_names_what_is_missing_and_changes_nothing(name):
    network = (NETWORKS | KEPT)[name](0)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(RuntimeError) as caught:
        network.load_state_dict({})
    assert "Missing key" in str(caught.value) and all(f'"{key}"' in str(caught.value) for key in before)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.slow
def test_they_compute_the_same_in_a_spawned_process():
    """Which shares nothing with this one: a local function among the activations would not arrive."""
    networks = [make(0).requires_grad_(False) for make in NETWORKS.values()]
    work = [(network, TOKENS if isinstance(network, GPT) else X) for network in networks]
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.starmap(operator.call, work)
    for name, network, value in zip(NETWORKS, networks, found, strict=True):
        torch.testing.assert_close(value, values(network), msg=lambda text, name=name: f"{name}: {text}")
