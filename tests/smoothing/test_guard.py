"""The guard in training loops: what it meets, records, skips and leaves alone."""

import json
import math

import pytest
import torch
from small_models import X, Y, backward, mlp, quick, run
from torch import nn

from pso_lib.analysis.spectrum import stable_rank
from pso_lib.smoothing import AtSteps, Detector, EnergyTrigger, Guard, StableRankTrigger, smooth_


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


SPIKE = [1.0] * 4 + [20.0] + [1.0] * 3


def test_a_spike_is_met_and_recorded():
    model = mlp()
    guard = Guard(model, trigger=quick(), method="clip", k="ceil")
    stepped = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run(model, guard, optimizer, SPIKE[:4], stepped)
    before = weights_of(model)
    run(model, guard, optimizer, SPIKE[4:], stepped)
    assert stepped == [True] * 4 + [False] + [True] * 3
    (record,) = guard.interventions
    assert record["step"] == 5 and record["skipped"] and record["norm"] == pytest.approx(20 * record["average"])
    backward_norms = sum(p.grad.norm().item() for p in model.parameters())
    assert guard.trigger.average > 0 and backward_norms > 0
    assert [w["name"] for w in record["weights"]] == ["0.weight", "2.weight", "4.weight"]
    for told in record["weights"]:
        expected = before[told["name"]].clone()
        smooth_(expected, "clip", k="ceil")
        assert torch.equal(model.get_parameter(told["name"]), expected)
        assert told["stable_rank_before"] == pytest.approx(stable_rank(before[told["name"]]).item())
        assert told["stable_rank_after"] == pytest.approx(stable_rank(expected).item())
    assert torch.equal(model[0].bias, before["0.bias"])
    assert guard.seconds > 0
    json.dumps(guard.interventions, allow_nan=False)


@pytest.mark.parametrize("norm", ["sum", "global"])
def test_the_norm(norm):
    model = mlp()
    guard = Guard(model, trigger=AtSteps([1]), method="watch", norm=norm)
    backward(model)
    assert guard.step()  # watching skips nothing
    norms = torch.stack([p.grad.norm() for p in model.parameters()])
    expected = norms.sum() if norm == "sum" else norms.norm()
    assert guard.interventions[0]["norm"] == pytest.approx(expected.item())
    assert not guard.interventions[0]["skipped"]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("method", ["skip", "watch", "shrink", "published", "log"])
def test_what_a_trigger_does(method, skip):
    if method == "skip" and not skip:
        pytest.skip("a contradiction, refused")
    model = mlp()
    before = weights_of(model)
    guard = Guard(model, trigger=AtSteps([1]), method=method, skip_step=skip, factor=0.5, weights=["2.weight"])
    backward(model)
    assert guard.step() == (not skip or method == "watch")
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert ("2.weight" in same) == (method in ("skip", "watch")) and len(same) >= 5
    if method == "shrink":
        assert torch.equal(model[2].weight, 0.5 * before["2.weight"])
        assert guard.interventions[0]["weights"][0]["stable_rank_before"] is None
    if method == "published":
        torch.testing.assert_close(
            torch.linalg.svdvals(model[2].weight)[1:], torch.linalg.svdvals(before["2.weight"])[1:] / 2
        )


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_of_what_changed_are_as_at_the_first_step(name):
    """After a reset, the next step is that of a fresh optimiser; other weights go on with theirs."""
    model = mlp()
    optimizer = OPTIMIZERS[name](model.parameters())
    guard = Guard(
        model, trigger=AtSteps([4]), method="shrink", moments="reset", optimizer=optimizer, weights=["2.weight"]
    )
    run(model, guard, optimizer, [1.0] * 4)
    before = model[2].weight.detach().clone()
    fresh_model = mlp()
    fresh_model.load_state_dict(model.state_dict())
    fresh = OPTIMIZERS[name](fresh_model.parameters())
    run(model, guard, optimizer, [1.0])
    backward(fresh_model)
    fresh.step()
    assert not torch.equal(model[2].weight, before)
    assert torch.equal(model[2].weight, fresh_model[2].weight)
    assert not torch.equal(model[0].weight, fresh_model[0].weight)


def test_a_non_finite_gradient_is_never_stepped_on():
    model = mlp()
    guard = Guard(model, trigger=quick(), method="log", skip_step=False, k="ceil")
    stepped = []
    run(model, guard, torch.optim.AdamW(model.parameters()), [1.0, math.nan, math.inf, 1.0], stepped)
    assert stepped == [True, False, False, True]
    assert len(guard.interventions) == 1 and guard.refused == 1  # the second fell into the cooldown
    assert guard.interventions[0]["norm"] is None and guard.interventions[0]["skipped"]
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_spoilt_weight_is_named_and_none_is_touched():
    model = mlp()
    guard = Guard(model, trigger=AtSteps([1]), method="clip")
    backward(model)
    model[4].weight.data[1, 2] = math.nan
    before = weights_of(model)
    with pytest.raises(
        ValueError, match=r"weight '4.weight' holds 1 non-finite value\(s\), the first at index \[1, 2\]"
    ):
        guard.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], rtol=0, atol=0, equal_nan=True)


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    factors = SPIKE * 3

    def begin(trigger):
        model = mlp(dtype=torch.float32, a=20, b=20)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        # small full_up_to: the randomised SVD, whose generator is part of the state
        guard = Guard(model, trigger=trigger(), method="log", k=2, full_up_to=2, moments="reset", optimizer=optimizer)
        return model, optimizer, guard

    for trigger in (quick, lambda: StableRankTrigger(every=2), lambda: AtSteps([3, 9, 14])):
        model, optimizer, guard = begin(trigger)
        run(model, guard, optimizer, factors)
        first = begin(trigger)
        run(*first[:1], first[2], first[1], factors[:10])
        torch.save([part.state_dict() for part in first], tmp_path / "state")
        second = begin(trigger)
        for part, state in zip(second, torch.load(tmp_path / "state", weights_only=True), strict=True):
            part.load_state_dict(state)
        run(second[0], second[2], second[1], factors[10:])
        for p, q in zip(model.parameters(), second[0].parameters(), strict=True):
            assert torch.equal(p, q)
        assert second[2].interventions == guard.interventions and second[2].steps == guard.steps
        assert second[2].trigger.average == guard.trigger.average


def test_mixed_precision_and_a_scheduler():
    """The scaler multiplies losses by 2^15: unscaled, the guard sees the norms that it would without one."""
    norms = {}
    for scaled in (False, True):
        model = mlp(dtype=torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15, enabled=scaled)
        guard = Guard(model, trigger=quick(nonfinite="ignore"), method="clip", k="ceil")
        taken = []
        for factor in [*SPIKE, math.inf, 1.0]:
            optimizer.zero_grad()
            loss = factor * nn.functional.mse_loss(model(X.float()), Y.float())
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            taken.append(guard.step())
            if taken[-1]:
                scaler.step(optimizer)
            scaler.update()
            schedule.step()
        assert taken == [True] * 4 + [False] + [True] * 3 + [False, True]
        assert guard.refused == 1
        assert scaler.get_scale() == (2.0**14 if scaled else 1.0)  # it saw the overflow, and not the spike
        norms[scaled] = [guard.trigger.average, guard.interventions[0]["norm"]]
    assert norms[True] == pytest.approx(norms[False], rel=1e-4)


def test_gradient_accumulation():
    model = mlp()
    guard = Guard(model, trigger=AtSteps([1]), method="watch")
    model.zero_grad()
    for x, y in zip(X.chunk(4), Y.chunk(4), strict=True):
        (nn.functional.mse_loss(model(x), y) / 4).backward()
    guard.step()
    whole = Guard(model, trigger=AtSteps([1]), method="watch")
    backward(model)
    whole.step()
    assert guard.interventions[0]["norm"] == pytest.approx(whole.interventions[0]["norm"])


def test_gradients_of_any_kind():
    """Half, single and sparse in one model; a parameter without a gradient; float16 whose norm would overflow it."""
    table, half, single = nn.Embedding(5, 3, sparse=True), nn.Linear(3, 3).bfloat16(), nn.Linear(3, 3)
    model = nn.ModuleList([table, half, single])
    table(torch.tensor([1, 1, 2])).sum().backward()
    half.weight.grad = torch.full_like(half.weight, 2.0)
    guard = Guard(model, trigger=AtSteps([1]), method="clip", k=2)
    assert not guard.step()
    assert guard.interventions[0]["norm"] == pytest.approx((3 * 4 + 3 * 1) ** 0.5 + 6, rel=1e-2)
    single.half()
    single.weight.grad = torch.full_like(single.weight, 60000.0)
    watch = Guard(model, trigger=AtSteps([1]), method="watch")
    watch.step()
    assert watch.interventions[0]["norm"] == pytest.approx(180000, rel=1e-2)


def test_more_can_be_done_on_a_trigger():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def halve(record):
        for group in optimizer.param_groups:
            group["lr"] /= 2

    guard = Guard(model, trigger=AtSteps([1, 2]), method="watch", on_trigger=halve)
    run(model, guard, optimizer, [1.0] * 3)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_it_rescues_a_run_that_a_spike_would_ruin():
    """One gradient 1e6 times too large, plain SGD: unguarded, the weights are gone. (Skipping alone would do.)"""
    factors = [1.0] * 60 + [1e6] + [1.0] * 60
    losses = {}
    for method in ("watch", "clip"):
        model = mlp()
        run(model, Guard(model, method=method), torch.optim.SGD(model.parameters(), lr=0.05), factors)
        losses[method] = nn.functional.mse_loss(model(X), Y).item()
    assert losses["clip"] < 1 < 100 < losses["watch"]


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda m: Detector(tau=1.0), ["tau", "above 1", "1.0"]),
        (lambda m: Detector(tau=math.nan), ["tau", "nan"]),
        (lambda m: Detector(tau=2, side="below"), ["between 0 and 1"]),
        (lambda m: Detector(alpha=1.0), ["alpha", "1.0"]),
        (lambda m: Detector(warmup=-1), ["warmup", "-1"]),
        (lambda m: Detector(cooldown=1.5), ["cooldown", "1.5"]),
        (lambda m: Detector(nonfinite="fires"), ["Did you mean 'fire'"]),
        (lambda m: Detector().update(torch.tensor(1.0)), ["item()"]),
        (lambda m: Detector().update(-1.0), ["-1.0"]),
        (lambda m: StableRankTrigger(share=1.2), ["between 0 and 1"]),
        (lambda m: EnergyTrigger(every=0), ["every"]),
        (lambda m: AtSteps([0]), ["steps", "at least 1"]),
        (lambda m: Guard(m, method="clp"), ["Did you mean 'clip'"]),
        (lambda m: Guard(m, method="skip", skip_step=False), ["watch"]),
        (lambda m: Guard(m, skip_step="yes"), ["True or False"]),
        (lambda m: Guard(m, moments="reset"), ["optimizer="]),
        (
            lambda m: Guard(m, optimizer=torch.optim.SGD(m.parameters())),
            ["optimizer", 'moments="reset"', "leave it out"],
        ),
        (lambda m: Guard(m, moments="reset", optimizer=torch.optim.SGD(mlp().parameters())), ["0.weight"]),
        (lambda m: Guard(m, k=4), ["k=4", "4.weight", "3 singular values"]),
        (lambda m: Guard(m, factor=2), ["factor"]),
        (lambda m: Guard(m, norm="max"), ["sum", "global"]),
        (lambda m: Guard(m, weights="9.weight"), ["9.weight"]),
    ],
)
def test_bad_arguments_name_the_remedy(call, parts):
    with pytest.raises(ValueError) as caught:
        call(mlp())
    for part in parts:
        assert part in str(caught.value)


def test_without_gradients_it_says_where_it_belongs():
    with pytest.raises(RuntimeError, match=r"between loss.backward\(\)"):
        Guard(mlp()).step()
