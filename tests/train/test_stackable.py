"""What an ensemble refuses: all that its engine would train otherwise than the networks would train alone."""

import math

import numpy as np
import pytest
import torch
from stacks import build, seeded
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from torch.optim import optimizer

from pso_lib.data import load
from pso_lib.nn.activations import PiecewiseAffine
from pso_lib.nn.layers import FeedForward, Layer
from pso_lib.nn.networks import DeepNetwork, deep_network
from pso_lib.train import stackable
from pso_lib.train.ensemble import Ensemble


@pytest.mark.parametrize(
    "networks, words",
    [
        (lambda: [], "empty"),
        (lambda: [torch.nn.Linear(2, 2)], "deep_network"),
        (
            lambda: build(1) + build(1, depth=6),
            r"networks\[1\] has depth 6, networks\[0\] has 5.*one Ensemble for each",
        ),
        (lambda: build(1) + build(1, layer="residual"), "alpha"),
        (lambda: build(1) + build(1, activation="abs"), "activation"),
        (lambda: build(1) + build(1, dtype=torch.float64), "dtype"),
        (lambda: build(activation="maxmin"), "no kernels.*training.train"),
        (lambda: build(activation=PiecewiseAffine("steep", [0], [0, 2])), "no kernels"),
        (lambda: build(orthogonal="always"), 'orthogonal="start"'),
        (lambda: [deep_network(2, 4)], "inputs= and classes="),
    ],
)
def test_it_refuses(networks, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Ensemble(networks())


def test_it_refuses_frozen_and_broken_weights():
    frozen, broken = build(), build()
    frozen[1].lift.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad_"):
        Ensemble(frozen)
    with torch.no_grad():
        broken[2].layers[0].A[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"networks\[2\].*lower learning rate"):
        Ensemble(broken)


def changed(change) -> list:
    networks = build()
    change(networks)
    return networks


class Doubled(Layer):
    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(DeepNetwork):
    def trunk(self, h):
        return super().trunk(h) + 1


class Bent(PiecewiseAffine):
    def forward(self, z):
        return super().forward(z) ** 2


def doubled(networks) -> None:
    networks[1].layers[2] = Doubled(8, alpha=0.0, beta=1.0)


def reordered(networks) -> None:
    lift = networks[2].lift
    del networks[2].lift
    modules = networks[2]._modules
    networks[2]._modules = {"lift": lift, **modules}


def bent(networks) -> None:
    networks[0].layers[1].activation = Bent("relu", [0], [0, 1])


def wrapped(networks) -> None:
    forward = networks[1].lift.forward
    networks[1].lift.forward = lambda x: 2 * forward(x)


class Called(FeedForward):
    def __call__(self, x):
        return super().__call__(x)


class Detached(FeedForward):
    @property
    def A(self):
        return self._parameters["A"].detach()  # the same numbers, and never trained

    @A.setter
    def A(self, value):
        self.register_parameter("A", value)


class Shuffled(DeepNetwork):
    def __getattr__(self, name):
        return super().__getattr__(name)


class Named(torch.Tensor):
    pass


def called(networks) -> None:
    networks[0].layers[0] = Called(8)


def detached(networks) -> None:
    networks[0].layers[1].__class__ = Detached


def patched(networks) -> None:
    activation = networks[1].layers[2].activation
    plain = activation.forward
    activation.forward = lambda z: plain(z).detach()


def replaced(module, name: str, value) -> None:
    setattr(module, name, torch.nn.Parameter(value))


def overlapping(networks) -> None:
    """The readouts' biases of two networks, half of each in the other."""
    memory = torch.zeros(15)
    for network, start in zip(networks, (0, 5), strict=False):
        replaced(network.readout, "bias", memory[start : start + 10])


def overlapping_in_numpy(networks) -> None:
    """Memory that torch takes for two: arrays that overlap, one after the other made a tensor."""
    memory = np.zeros(12, dtype=np.float32)
    for layer, start in ((1, 0), (3, 4)):
        replaced(networks[0].layers[layer], "b", torch.from_numpy(memory[start : start + 8]))


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda n: parametrizations.weight_norm(n[1].lift),
            r"networks\[1\].lift.weight is parametrised by _WeightNorm",
        ),
        (lambda n: parametrizations.weight_norm(n[1].layers[2], "A"), r"networks\[1\].layers\[2\].A is parametrised"),
        (lambda n: parametrizations.spectral_norm(n[2].readout), r"networks\[2\].readout.weight .* by _SpectralNorm"),
        (lambda n: parametrizations.orthogonal(n[0].layers[0], "_B"), r"layers\[0\]._B is parametrised"),
        (lambda n: weight_norm(n[1].lift), "lift has a hook"),
        (lambda n: n[1].layers[3].register_forward_hook(lambda m, x, y: 2 * y), "layers.3 has a hook"),
        (lambda n: n[1].register_forward_pre_hook(lambda m, x: None), r"networks\[1\] has a hook"),
        (lambda n: n[1].lift.register_full_backward_hook(lambda m, i, o: None), "lift has a hook .backward_hooks"),
        (lambda n: n[1].lift.register_full_backward_pre_hook(lambda m, o: None), "lift has a hook"),
        (lambda n: n[1].layers[0].activation.register_forward_hook(lambda m, x, y: -y), "activation has a hook"),
        (lambda n: n[2].lift.bias.register_hook(lambda g: 2 * g), "lift.bias has a hook on its gradient"),
        (lambda n: n[2].lift.bias.register_post_accumulate_grad_hook(lambda p: None), "hook on its gradient"),
        (doubled, "layers.2. is a Doubled with a forward of its own"),
        (lambda n: n.append(Shifted(n[0].layers, n[0].lift, n[0].readout)), "Shifted with a trunk of its own"),
        (wrapped, "lift is a Linear with a forward of its own"),
        (bent, "no kernels here"),
        (lambda n: setattr(n[1], "scale", torch.nn.Parameter(torch.ones(3))), "another parameter, 'scale'"),
        (lambda n: n[1].register_buffer("mean", torch.zeros(3)), "has a buffer, 'mean'"),
        (lambda n: setattr(n[1].layers[1], "A", torch.nn.Parameter(torch.ones(8, 4))), "'layers.1.A' of shape .8, 4."),
        (reordered, "another order"),
        (lambda n: n[1].layers.__setitem__(1, n[1].layers[0]), "shared or in another order"),
        (lambda n: n.append(n[0]), r"networks\[3\]\.(\S+) shares memory with networks\[0\]\.\1; .*two copies"),
        (lambda n: setattr(n[2], "lift", n[1].lift), r"networks\[2\].lift.\w+ shares memory with networks\[1\].lift"),
        (overlapping, r"networks\[1\].readout.bias shares memory with networks\[0\].readout.bias"),
        (overlapping_in_numpy, r"networks\[0\].layers.3.b shares memory with networks\[0\].layers.1.b"),
        (lambda n: replaced(n[1].lift, "bias", torch.zeros(1).expand(8)), r"networks\[1\].lift.bias .* with itself"),
        (lambda n: replaced(n[1].lift, "weight", Named(n[1].lift.weight.detach())), "lift.weight is a Named"),
        (patched, r"layers\[2\].activation is a PiecewiseAffine with a forward of its own"),
        (called, r"networks\[0\].layers\[0\] is a Called with a __call__ of its own"),
        (detached, r"networks\[0\].layers\[1\] is a Detached with a A of its own"),
        (lambda n: setattr(n[1], "_call_impl", lambda x: x), "is a DeepNetwork with a _call_impl of its own"),
        (lambda n: n.append(Shuffled(n[0].layers, n[0].lift, n[0].readout)), "Shuffled with a __getattr__ of its own"),
        (lambda n: n.append(deep_network(5, 8, inputs=64, classes=10, device="meta")), "is on meta and has no numbers"),
    ],
)
def test_it_refuses_by_name_what_it_does_not_compute(change, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Ensemble(changed(change))


def test_what_slips_through_is_caught_by_its_numbers(monkeypatch):
    """Whatever makes a network compute something else: here the check for hooks itself is put out of action."""
    monkeypatch.setattr(stackable, "HOOKS", ())
    for place in ("layers.4", "lift", "readout", ""):
        networks = build()
        networks[1].get_submodule(place).register_forward_hook(lambda m, x, y: 1.001 * y)
        with pytest.raises(ValueError, match=rf"networks\[1\]{place and '.' + place} computes something else"):
            Ensemble(networks)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_deep_and_wild_networks_are_accepted(dtype):
    """Rounding grows through 200 layers, numbers over- and underflow: none of it is another network."""
    for options in ({"layer": "residual"}, {"activation": "tanh"}, {"layer": "feedforward"}, {"layer": "fold"}):
        networks = build(2, depth=200, dtype=dtype, **options)
        for layer in networks[1].layers:
            layer.set_weights(A=3 * layer.A)
        Ensemble(networks)


def test_weights_side_by_side_in_one_memory_are_weights_of_their_own():
    """Rows and columns of one matrix: close to each other, interleaved even, and no element is in two."""
    networks = build(2)
    memory = torch.randn(16, 128)
    for place, network in enumerate(networks):
        network.lift.weight = torch.nn.Parameter(memory[:8, 64 * place : 64 * (place + 1)])
        network.lift.bias = torch.nn.Parameter(memory[8 + place, ::16])
        network.layers[0].b = torch.nn.Parameter(memory[8 + place, 1::16])
    assert torch.equal(Ensemble(networks).unstack()[1].lift.weight, memory[:8, 64:])


class Plain(DeepNetwork):
    """Built and printed in another way, with a method more: the same network."""

    def __init__(self, count: int):
        (like,) = build(1)
        super().__init__(list(like.layers)[:count], like.lift, like.readout)

    def extra_repr(self) -> str:
        return "plain"

    def count(self) -> int:
        return len(self.layers)


def test_a_subclass_that_redefines_nothing_is_accepted():
    assert len(Ensemble([Plain(3), Plain(3)])) == 2


# ------------------------------------------------------------------------------------------ surroundings

REGISTER = {
    "forward_pre_hooks": lambda: nn.modules.module.register_module_forward_pre_hook(lambda m, x: None),
    "forward_hooks": lambda: nn.modules.module.register_module_forward_hook(lambda m, x, y: None),
    "backward_pre_hooks": lambda: nn.modules.module.register_module_full_backward_pre_hook(lambda m, d: None),
    "backward_hooks": lambda: nn.modules.module.register_module_full_backward_hook(lambda m, i, o: None),
    "optimizer_pre_hooks": lambda: optimizer.register_optimizer_step_pre_hook(lambda o, a, k: None),
    "optimizer_post_hooks": lambda: optimizer.register_optimizer_step_post_hook(lambda o, a, k: None),
}


def ways(ensemble) -> list:
    """To build an ensemble, and to use it."""
    images = load("digits")
    x, y = images.test_x[:8], images.test_y[:8]
    return [
        lambda: Ensemble(build(1)),
        ensemble.restack,
        lambda: ensemble.gradients(x, y),
        lambda: ensemble.train(images, steps=1, lr=1e-3, batch=8, generators=seeded(1)),
    ]


@pytest.mark.parametrize("kind", REGISTER)
def test_hooks_of_everything_are_refused_while_they_are_there(kind):
    ensemble = Ensemble(build(1))
    handle = REGISTER[kind]()
    try:
        for way in ways(ensemble):
            with pytest.raises(RuntimeError, match=f"torch holds a hook of every .*{kind}.*handle.*training.train"):
                way()
    finally:
        handle.remove()
    for way in ways(ensemble):
        way()


def test_autocast_is_refused_while_it_is_on():
    ensemble = Ensemble(build(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = ensemble.weights.clone()
        for way in ways(ensemble):
            with pytest.raises(RuntimeError, match="autocast is on for cpu.*Leave torch.autocast"):
                way()
        assert torch.equal(before, ensemble.weights)
        with torch.autocast("cpu", enabled=False):
            for way in ways(ensemble):
                way()


def test_a_hook_that_came_after_the_stack_is_seen_by_the_training():
    networks = build(1)
    ensemble = Ensemble(networks)
    networks[0].lift.weight.register_hook(lambda gradient: 0 * gradient)
    with pytest.raises(ValueError, match="hook on its gradient"):
        ensemble.train(load("digits"), steps=1, lr=1e-3)
