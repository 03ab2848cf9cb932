"""The optimisers: who decays, who is orthogonalised, and several as one."""

import copy
import math

import pytest
import torch
from three_networks import network, transformer
from torch import nn

from pso_lib.nn.convnet import ConvNet
from pso_lib.nn.init import seeded
from pso_lib.nn.weights import hidden_matrices
from pso_lib.train.optimizers import ChainedOptimizer, adamw, fused, muon, sgd

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no torch.optim.Muon")


def test_adamw_decays_matrices_alone():
    model = ConvNet((1, 8, 8), 10, 1, 4, generator=seeded())
    optimizer = adamw(model, 0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if p.ndim >= 2 else 1.0), msg=name)


@needs_muon
@pytest.mark.parametrize("name", ["transformer", "mlp", "cnn"])
def test_muon_is_torchs_on_hidden_matrices_and_adamw_elsewhere(name):
    """Kernels too: what torch's Muon does to the flattened matrix."""
    model, x = network(name)
    hidden = hidden_matrices(model)
    flat = {key: nn.Parameter(W.detach().flatten(1).clone()) for key, W in hidden.items()}
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    reference = torch.optim.Muon(flat.values(), lr=0.01, adjust_lr_fn="match_rms_adamw", weight_decay=0.1)
    optimizer = muon(model, 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        for key, W in flat.items():
            W.grad = hidden[key].grad.flatten(1).clone()
        optimizer.step()
        reference.step()
        for key, W in flat.items():
            torch.testing.assert_close(hidden[key].flatten(1), W, rtol=1e-12, atol=1e-14, msg=key)
    moved = [p for key, p in model.named_parameters() if key not in hidden and not torch.equal(p, before[key])]
    assert len(moved) == len(before) - len(hidden)


@needs_muon
def test_muon_and_adamw_as_one():
    model, x = network("cnn")
    optimizer = muon(model, 0.01)
    for group in optimizer.param_groups:
        group["lr"] *= 0.0
    before = [p.detach().clone() for p in model.parameters()]
    model(x).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))  # the rate reaches kernels
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, hidden_matrices(model).values(), strict=False))
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@needs_muon
def test_muon_trains_kernels_however_they_lie():
    """Kernels in channels_last, or moved after the optimiser was made, take the steps of contiguous ones."""
    trained = {}
    for layout in ("contiguous", "channels_last", "moved later"):
        model, x = network("cnn")
        if layout == "channels_last":
            model = model.to(memory_format=torch.channels_last)
        optimizer = muon(model, 0.01)
        for step in range(3):
            if layout == "moved later" and step == 1:
                model = model.to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        trained[layout] = [p.detach().contiguous() for p in model.parameters()]
    for layout, weights in trained.items():
        for ours, wanted in zip(weights, trained["contiguous"], strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12, msg=layout)


@needs_muon
def test_the_chain_is_an_optimiser_for_schedules_closures_and_checkpoints():
    model, x = network("cnn")
    optimizer = muon(model, 0.01)
    assert isinstance(optimizer, torch.optim.Optimizer)
    schedules = torch.optim.lr_scheduler
    warm = schedules.LinearLR(optimizer, 0.5, total_iters=2)
    schedule = schedules.SequentialLR(optimizer, [warm, schedules.CosineAnnealingLR(optimizer, 4)], [2])

    def loss():
        optimizer.zero_grad()
        value = model(x).square().mean()
        value.backward()
        return value

    first = optimizer.step(loss)
    assert first.item() > 0 and [group["lr"] for group in optimizer.param_groups] == [0.005] * 3
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0075] * 3)
    kernel = model.blocks[0].conv1.weight
    assert set(optimizer.state) == set(model.parameters()) and optimizer.state[kernel]["momentum_buffer"].any()

    twin, other = copy.deepcopy((model, optimizer))
    fresh, loaded = network("cnn")[0], None
    fresh.load_state_dict(model.state_dict())
    loaded = muon(fresh, 0.3)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, update in ((model, optimizer), (twin, other), (fresh, loaded)):
        update.zero_grad()
        net(x).square().mean().backward()
        update.step()
    for p, q, r in zip(model.parameters(), twin.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(p, r)

    optimizer.state.pop(kernel)
    assert kernel not in optimizer.state
    loss(), optimizer.step()
    again = optimizer.state[kernel]["momentum_buffer"]
    torch.testing.assert_close(again, 0.05 * kernel.grad.flatten(1), rtol=1e-9, atol=0)  # from zero, at momentum 0.95
    optimizer.state.clear()
    assert not optimizer.state


@needs_muon
def test_the_chain_refuses_before_it_changes_anything():
    model, x = network("cnn")
    optimizer = muon(model, 0.01)
    model(x).square().mean().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    half = copy.deepcopy(before)
    half["optimizers"][1]["param_groups"][0]["params"].pop()
    for bad in ({}, {"optimizers": []}, {"optimizers": None}, half, torch.optim.Adam(model.parameters()).state_dict()):
        with pytest.raises(ValueError, match="state_dict must hold the states of 2 optimisers"):
            optimizer.load_state_dict(bad)
    for kept, state in zip(optimizer.state_dict()["optimizers"], before["optimizers"], strict=True):
        torch.testing.assert_close(kept["state"], state["state"], rtol=0, atol=0)
    with pytest.raises(ValueError, match="chain them again"):
        optimizer.add_param_group({"params": [nn.Parameter(x)]})
    with pytest.raises(ValueError, match="belongs to two"):
        ChainedOptimizer(optimizer, adamw(model, 0.1))
    with pytest.raises(ValueError, match="at least one optimiser"):
        ChainedOptimizer()


@needs_muon
def test_wrapped_models_have_the_same_hidden_matrices():
    model, _ = network("mlp")
    wrapped = nn.Module()
    wrapped.module = model  # as DistributedDataParallel and DataParallel do
    plain = [p.shape for group in muon(model, 0.01).param_groups for p in group["params"]]
    assert [p.shape for group in muon(wrapped, 0.01).param_groups for p in group["params"]] == plain
    assert len(hidden_matrices(torch.compile(model))) == len(hidden_matrices(model))


@needs_muon
def test_muon_without_anything_else():
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(3, 3, bias=False)])
    assert len(muon(model, 0.01).optimizers) == 1


@pytest.mark.parametrize("make", [adamw, pytest.param(muon, marks=needs_muon)])
@pytest.mark.parametrize(
    "options, words",
    [
        ({"betas": (1.5, 0.9)}, "betas must be two numbers in"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"weight_decay": -0.1}, "weight_decay must be a finite number, 0 or above, got -0.1"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"lr": 0.0}, "lr must be"),
        ({"lr": math.nan}, "lr must be"),
    ],
)
def test_bad_numbers_of_optimisers(make, options, words):
    with pytest.raises(ValueError, match=words):
        make(transformer(), **{"lr": 0.01} | options)
    make(transformer(), 0.01, betas=(0.0, 0.0), weight_decay=0.0)
    with pytest.raises(ValueError, match="momentum must lie in"):
        sgd(transformer(), 0.1, momentum=1.5)


def test_without_muon_the_error_says_so(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(RuntimeError, match="install 2.9 or later"):
        muon(transformer(), 0.01)


def test_a_fused_optimiser_where_there_is_one_and_the_plain_one_elsewhere():
    weights = [nn.Parameter(torch.ones(3))]
    assert fused(torch.optim.Adam, iter(weights), lr=0.1).defaults["fused"]

    def without_fused(parameters, **options):
        if options.get("fused"):
            raise RuntimeError("not on this device")
        return torch.optim.Adam(parameters, **options)

    plain = fused(without_fused, iter(weights), lr=0.1)
    assert not plain.defaults["fused"] and plain.param_groups[0]["params"] == weights
