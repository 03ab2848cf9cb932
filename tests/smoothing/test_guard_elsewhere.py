"""The guard in other people's training: frozen, replaced, stacked, tied, sparse weights; closures; arguments."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from small_models import Sequence, X, Y, backward, draw, mlp, quick, sequence_backward, start
from torch import nn
from torch.nn.functional import mse_loss

from pso_lib.analysis.recorder import Recorder
from pso_lib.nn.init import seeded
from pso_lib.smoothing import AtSteps, Detector, EnergyTrigger, Guard, StableRankTrigger, smooth_


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# Parameters that change their standing


def test_the_last_gradient_of_a_frozen_parameter_is_not_judged():
    """Left in ``grad``, it would drown an eightfold jump of what still trains."""
    model = mlp()
    guard = Guard(model, trigger=quick(), method="skip")
    backward(model, 1000.0)
    model[0].requires_grad_(False)
    stale = [p.grad.clone() for p in model[0].parameters()]
    fired = []
    for factor in [1.0] * 5 + [8.2]:
        for p in model[2:].parameters():
            p.grad = None
        (factor * mse_loss(model(X), Y)).backward()
        fired.append(not guard.step())
    assert all(torch.equal(p.grad, g) for p, g in zip(model[0].parameters(), stale, strict=True))
    assert fired == [False] * 5 + [True]
    live = sum(p.grad.norm().item() for p in model[2:].parameters())
    assert guard.interventions[0]["norm"] == pytest.approx(live)


def test_weights_frozen_replaced_or_added_later():
    model = mlp()
    guard = Guard(model, trigger=AtSteps([1]), method="shrink", factor=0.5)
    model[0].requires_grad_(False)
    model[2] = start(nn.Linear(8, 7).double())
    model.append(nn.Tanh())
    model.append(start(nn.Linear(3, 3).double()))
    before = copies(model)
    backward(model)
    guard.step()
    assert [w["name"] for w in guard.interventions[0]["weights"]] == ["2.weight", "4.weight", "6.weight"]
    assert list(guard.weights) == ["2.weight", "4.weight", "6.weight"]
    for name, p in model.named_parameters():
        factor = 0.5 if name in guard.weights else 1.0
        assert torch.equal(p, factor * before[name]), name
    assert guard.interventions[0]["norm"] == pytest.approx(
        sum(p.grad.norm().item() for p in model.parameters() if p.grad is not None)
    )


def test_with_all_matrices_frozen_it_still_watches():
    model = mlp()
    guard = Guard(model, trigger=AtSteps([1]), method="clip")
    for name, p in model.named_parameters():
        p.requires_grad_(name.endswith("bias"))
    backward(model)
    assert not guard.step() and guard.interventions[0]["weights"] == []


def test_watching_needs_no_matrix():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(2, 3))

    model = Gain()
    guard = Guard(model, trigger=AtSteps([1]), method="skip")
    model.gain.sum().backward()
    assert not guard.step() and guard.interventions[0]["norm"] == pytest.approx(6**0.5)
    with pytest.raises(ValueError, match="gain"):
        Guard(model)


def test_a_named_weight_that_is_gone_is_missed_at_once():
    model = mlp()
    guard = Guard(model, trigger=AtSteps([2]), weights=["0.weight"])
    nn.utils.parametrizations.spectral_norm(model[0])
    backward(model)
    with pytest.raises(ValueError, match="'0.weight' matches no parameter"):
        guard.step()
    assert guard.steps == 0


def test_frozen_weights_alone_are_nothing_to_smooth():
    model = mlp()
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"frozen ones only \(0.weight\)"):
        Guard(model, weights="0.weight")
    assert list(Guard(model, weights=["0.weight", "2.weight"]).weights) == ["2.weight"]


def test_a_weight_that_the_optimizer_does_not_know_is_named():
    model = mlp()
    guard = Guard(model, moments="reset", optimizer=torch.optim.Adam(model.parameters()))
    model[2] = nn.Linear(8, 7).double()
    backward(model)
    with pytest.raises(ValueError, match="does not train weight '2.weight'"):
        guard.step()


def test_looking_again_costs_no_seed():
    """The rehearsal of k at the start draws from a generator of its own."""
    guard = Guard(mlp(), k=2, full_up_to=2, seed=5)
    assert torch.equal(guard._generator.get_state(), seeded(5).get_state())


# Matrices that share a parameter


def test_stacked_matrices_are_smoothed_one_by_one():
    model = start(Sequence())
    guard = Guard(model, trigger=AtSteps([1]), method="log", k=2)
    before = copies(model)
    sequence_backward(model)
    guard.step()
    for name, parts in (("attention.in_proj_weight", 3), ("lstm.weight_ih_l0", 4), ("lstm.weight_hh_l0", 4)):
        expected = torch.cat([_smoothed(part) for part in before[name].chunk(parts)])
        torch.testing.assert_close(model.get_parameter(name).detach(), expected)
    assert "attention.in_proj_weight[value]" in [w["name"] for w in guard.interventions[0]["weights"]]
    assert torch.equal(model.table.weight, before["table.weight"])


def _smoothed(part):
    part = part.clone()
    smooth_(part, "log", k=2)
    return part


def test_moments_of_a_stacked_parameter_are_reset_as_a_whole():
    model = start(Sequence())
    optimizer = torch.optim.Adam(model.parameters())
    guard = Guard(model, trigger=AtSteps([2]), method="log", k=2, moments="reset", optimizer=optimizer)
    for _ in range(2):
        sequence_backward(model)
        if guard.step():
            optimizer.step()
    assert model.attention.in_proj_weight not in optimizer.state and model.table.weight in optimizer.state


@pytest.mark.parametrize("trigger", [StableRankTrigger, EnergyTrigger])
def test_other_triggers_read_stacked_and_sparse_ones(trigger):
    model = start(Sequence())
    model.table = start(nn.Embedding(5, 8, sparse=True))
    guard = Guard(model, trigger=trigger(every=1), weights=["*weight*"], method="watch")
    sequence_backward(model)
    assert model.table.weight.grad.is_sparse and guard.step()
    reading = guard.trigger.measure(guard.weights).item()
    assert math.isfinite(reading) and reading > 0


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel, lambda m: m])
def test_wrapped_models(wrap):
    model = start(Sequence())
    inner = model
    model = wrap(model)
    guard = Guard(model, trigger=AtSteps([1]), method="shrink", factor=0.5)
    before = inner.out.weight.detach().clone()
    sequence_backward(inner)
    guard.step()
    assert torch.equal(inner.out.weight, before / 2) and len(guard.weights) == 3 + 1 + 4 + 4 + 1


def test_tied_linears_are_smoothed_once():
    model = mlp()
    model.append(nn.Tanh()).append(nn.Linear(3, 7).double()).append(nn.Tanh()).append(nn.Linear(7, 3).double())
    model[8].weight = model[4].weight
    guard = Guard(model, trigger=AtSteps([1]), method="shrink", factor=0.5)
    before = model[4].weight.detach().clone()
    backward(model)
    guard.step()
    assert torch.equal(model[4].weight, before / 2)


# Closures


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, torch.optim.SGD])
def test_a_closure_is_no_place_for_it(optimizer):
    model = mlp()
    optimizer, guard, recorder = optimizer(model.parameters(), lr=0.1), Guard(model), Recorder(model)

    def closure(call=None):
        backward(model)
        if call is not None:
            call()
        return mse_loss(model(X), Y)

    for call, name in ((guard.step, "guard.step"), (recorder.step, "recorder.step")):
        with pytest.raises(RuntimeError, match=rf"{name}\(\) is called from the closure of {type(optimizer).__name__}"):
            optimizer.step(lambda call=call: closure(call))
    assert guard.steps == 0 and recorder.calls == 0
    before = mse_loss(model(X), Y).item()
    for _ in range(3):
        closure(recorder.step)
        if guard.step():
            optimizer.step(closure)
    assert guard.steps == 3 and recorder.steps == [0] and mse_loss(model(X), Y).item() < before


# Construction


def rank_one_head():
    model = mlp()
    with torch.no_grad():
        model[4].weight.copy_(torch.outer(draw(3), draw(7)))
    return model


@pytest.mark.parametrize(
    "error, call, parts",
    [
        (ValueError, lambda: Guard(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)), k=2), ["k=2", "'1.weight' has 1"]),
        (ValueError, lambda: Guard(rank_one_head(), k=2), ["'4.weight' cannot be smoothed", "singular value 2"]),
        (ValueError, lambda: Guard(mlp(), trigger=EnergyTrigger(k=4)), ["k=4", "'4.weight' has 3"]),
        (ValueError, lambda: EnergyTrigger(denominator="gradients"), ["Did you mean 'gradient'"]),
        (ValueError, lambda: EnergyTrigger(k="flor"), ["Did you mean 'floor'"]),
        (ValueError, lambda: StableRankTrigger(seed=-1), ["seed", "-1"]),
        (TypeError, lambda: AtSteps(5), ["steps", "5", "brackets"]),
        (ValueError, lambda: Guard(mlp(), full_up_to=0), ["full_up_to"]),
        (ValueError, lambda: Guard(mlp(), seed=0.5), ["seed", "0.5"]),
        (TypeError, lambda: Guard(mlp(), trigger="norm"), ["trigger='norm'", "Detector()", "norm="]),
        (TypeError, lambda: Guard(mlp(), trigger=Detector), ["is a class", "Detector()"]),
        (TypeError, lambda: Guard(mlp(), on_trigger=5), ["on_trigger", "5"]),
        (TypeError, lambda: Guard(mlp(), moments="reset", optimizer=3), ["optimizer", "3"]),
        (TypeError, lambda: Guard(mlp().parameters()), ["nn.Module"]),
        (ValueError, lambda: Guard(mlp()).load_state_dict({}), ["Guard", "interventions"]),
        (ValueError, lambda: Detector().load_state_dict({"calls": 1}), ["Detector", "average", "calls"]),
    ],
)
def test_what_cannot_work_fails_when_it_is_made(error, call, parts):
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_as_many_singular_values_as_there_are():
    model = mlp()
    guard = Guard(model, trigger=AtSteps([1]), method="clip", k=3)  # the head is (3, 7)
    backward(model)
    guard.step()
    s = torch.linalg.svdvals(model[4].weight.detach())
    torch.testing.assert_close(s, s[-1:].expand(3))
    assert EnergyTrigger(k=3).check(guard.weights) is None


TRIGGERS = [Detector, StableRankTrigger, EnergyTrigger, lambda: AtSteps([1])]


@pytest.mark.parametrize("theirs", TRIGGERS)
@pytest.mark.parametrize("mine", TRIGGERS)
def test_the_state_of_another_kind_of_guard_is_refused_before_anything_changes(mine, theirs):
    def used(trigger):
        model = mlp()
        guard = Guard(model, trigger=trigger, method="watch")
        for _ in range(3):
            backward(model)
            guard.step()
        return guard

    state, guard = used(theirs()).state_dict(), Guard(mlp(), trigger=mine(), method="watch")
    if mine is theirs:
        guard.load_state_dict(state)
        assert guard.steps == 3
        return
    before = copy.deepcopy(guard.state_dict())
    with pytest.raises(ValueError, match="is of another kind"):
        guard.load_state_dict(state)
    after = guard.state_dict()
    assert after["trigger"] == before["trigger"] and after["steps"] == before["steps"] == 0


# Numbers of numpy


def test_numpy_numbers_are_numbers():
    two = np.int64(2)
    recorder = Recorder(mlp(), ("stable_rank", "sje"), every=two, k=two)
    recorder.look(0)
    assert json.loads(recorder.to_json())["k"] == 2
    model = mlp()
    steps = AtSteps(np.arange(1, 3))
    guard = Guard(model, trigger=steps, method="log", k=two, seed=np.int32(3), full_up_to=two)
    backward(model)
    guard.step()
    assert [w["k"] for w in json.loads(json.dumps(guard.interventions))[0]["weights"]] == [2, 2, 2]
    assert Detector(warmup=two).warmup == 2


def test_a_weight_tied_to_its_transpose_is_smoothed_once():
    encoder, decoder = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    encoder.weight.data = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]))
    decoder.weight = nn.Parameter(encoder.weight.data.T)
    model = nn.Sequential(encoder, decoder)
    guard = Guard(model, trigger=AtSteps([1]), k=3)
    model(torch.randn(2, 4)).sum().backward()
    guard.step()
    torch.testing.assert_close(encoder.weight.detach().diag(), torch.tensor([2.0, 2.0, 2.0, 1.0]))
