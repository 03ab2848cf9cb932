"""The kernels under the ensemble: gradients, several chunks, every device and precision."""

import copy

import pytest
import torch
from stacks import KINDS, TOLERANCE, build, close, seeded
from torch.nn.functional import cross_entropy

from pso_lib.data import load
from pso_lib.nn.activations import PiecewiseAffine
from pso_lib.train import ensemble as engine
from pso_lib.train import stacked
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.loop import train


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_autograd(digits, kind, dtype):
    images, networks = digits.to(dtype=dtype), build(dtype=dtype, **KINDS[kind])
    x, y = images.train_x[:96].view(3, 32, -1), images.train_y[:96].view(3, 32)  # each network its own
    losses, gradients = Ensemble(networks).gradients(x, y)
    for e, network in enumerate(networks):
        loss = cross_entropy(network(x[e]), y[e])
        loss.backward()
        close(losses[e], loss.detach(), dtype)
        assert gradients[e].keys() == dict(network.named_parameters()).keys()
        for name, parameter in network.named_parameters():
            scale = parameter.grad.abs().max().clamp_min(1)
            close(gradients[e][name] / scale, parameter.grad / scale, dtype)


def test_a_deep_network_of_several_chunks_and_groups(digits, monkeypatch):
    """More layers than one chunk of gradients holds, an incomplete last chunk, groups of unequal size."""
    images, dtype = digits.to(dtype=torch.float64), torch.float64
    monkeypatch.setattr(engine, "CHUNK", 4)
    monkeypatch.setattr(engine, "GROUP", 2)
    networks = build(5, depth=11, dtype=dtype, **KINDS["residual"])
    alone = copy.deepcopy(networks)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # two workers, also on a machine with one core
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    together = Ensemble(networks)
    together.train(images, steps=26, lr=1e-3, batch=64, generators=seeded(5))
    for e, generator in enumerate(seeded(5)):
        train(alone[e], images, steps=26, lr=1e-3, batch=64, generator=generator)
    close(together.weights, Ensemble(alone).weights, dtype)


def test_without_the_fused_kernel(digits, monkeypatch):
    images = digits.to(dtype=torch.float64)
    fused, plain = (Ensemble(build(dtype=torch.float64, **KINDS["residual"])) for _ in range(2))
    fused.train(images, steps=10, lr=1e-3, generators=seeded())

    def absent(*args, **options):
        raise NotImplementedError

    monkeypatch.setattr(torch, "_fused_adam_", absent)
    plain.train(images, steps=10, lr=1e-3, generators=seeded())
    close(plain.weights, fused.weights, torch.float64)


def test_a_rule_is_told_by_its_function_not_its_name():
    assert stacked.rule(PiecewiseAffine("anything", [0], ["1/5", 1])).name == "leaky_relu(0.2)"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the CUDA graph needs a CUDA device")
@pytest.mark.parametrize("kind", ["residual", "textbook", "fold"])
def test_the_cuda_graph_equals_the_cpu(digits, kind):
    images, networks = digits.to(dtype=torch.float64), build(dtype=torch.float64, **KINDS[kind])
    on_gpu = Ensemble([copy.deepcopy(network).cuda() for network in networks])
    on_cpu = Ensemble(networks)
    rates = [1e-3, 1e4, 1e-3]  # the second may diverge: the graph freezes it too
    ours = on_gpu.train(images.to("cuda"), steps=10, lr=rates, batch=64, generators=seeded())
    wanted = on_cpu.train(images, steps=10, lr=rates, batch=64, generators=seeded())
    for e in (0, 2):
        assert ours[e].loss == pytest.approx(wanted[e].loss, rel=1e-9)
        torch.testing.assert_close(on_gpu.weights[e].cpu(), on_cpu.weights[e], rtol=1e-9, atol=1e-9)
    assert ours[1].diverged == wanted[1].diverged
