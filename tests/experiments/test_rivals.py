"""Other authors' cures: each has the property that defines it, and trains as the arms of the engine do."""

import math
from dataclasses import replace

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

from pso_lib import data
from pso_lib.experiments import experiment, live, rivals
from pso_lib.experiments.depth_plans import RIVALS
from pso_lib.experiments.starts import build, tailored_slope
from pso_lib.nn.init import gaussian, seeded
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.loop import train

ARMS = {arm.name: arm for arm in RIVALS}


def network(name: str, depth: int = 6, width: int = 16, **options):
    return rivals.network(ARMS[name], depth, width, 20, 10, 0, **options)


def states(count: int = 40, width: int = 16) -> torch.Tensor:
    return gaussian(count, width, 1.0, seeded(7)).float()


def few_images(count: int = 64) -> data.Images:
    return data.load("digits", limit=(count, count))


@pytest.mark.parametrize("name", ["rezero", "fixup", "zero_branch"])
def test_these_are_the_identity_at_the_start(name):
    h = states()
    assert torch.equal(network(name).trunk(h), h)


def test_every_arm_starts_with_the_same_lift():
    lift = network("he_single").lift.weight
    for name in ARMS.keys() - {"shallow"}:
        one = network(name)
        assert torch.equal(getattr(one, "network", one).lift.weight, lift), name


def test_fixup_has_its_weights():
    """He's over the root of the depth, zeros at the end of each branch and in the readout."""
    fixup, he = network("fixup", depth=25), build(replace(ARMS["fixup"], init="he"), 25, 16, 20, 10, 0)
    for ours, plain in zip(fixup.layers, he.layers, strict=True):
        torch.testing.assert_close(ours.A, plain.A / 5)
        assert not ours.B.any() and ours.scale == 1 and not ours.shifts.any()
    assert not fixup.readout.weight.any()


def test_fixup_computes_its_formula():
    layer = network("fixup", depth=1).layers[0]
    with torch.no_grad():
        layer.B.copy_(torch.eye(16))
        layer.shifts.copy_(torch.tensor([0.1, -0.2, 0.3, -0.4]))
        layer.scale.fill_(1.7)
        x = states(1)[0]
        units = [max(0.0, float(row @ (x + 0.1)) - 0.2) + 0.3 for row in layer.A]
        torch.testing.assert_close(layer(x), x + 1.7 * torch.tensor(units) - 0.4)


def test_lsuv_has_unit_variance_in_every_layer():
    images = few_images()
    arm = ARMS["lsuv"]
    one = rivals.network(arm, 12, 16, 64, 10, 0)
    rivals.prepare(arm, one, images.train_x)
    h = one.lift(images.train_x)
    for layer in one.layers:
        assert layer.preactivation(h).std().item() == pytest.approx(1, abs=1e-4)
        gram = layer.A @ layer.A.T  # a multiple of an orthogonal matrix still
        torch.testing.assert_close(gram, gram[0, 0] * torch.eye(16), atol=1e-5 * gram[0, 0].item(), rtol=0)
        h = layer(h)


@pytest.mark.parametrize("depth", [15, 50, 200])
def test_the_tailored_slope_ends_at_its_target(depth):
    """The kernel by quadrature of sigma(u) sigma(v) over a Gaussian pair, in place of its closed form."""
    slope = tailored_slope(depth)
    nodes, weights = (torch.from_numpy(a) for a in hermegauss(200))
    weights = weights / weights.sum()

    def sigma(z):
        return torch.where(z > 0, z, slope * z) * math.sqrt(2 / (1 + slope**2))

    cosine = 0.0
    for _ in range(depth):
        v = cosine * nodes[:, None] + math.sqrt(1 - cosine**2) * nodes
        cosine = (weights[:, None] * weights * sigma(nodes)[:, None] * sigma(v)).sum().item()
    assert cosine == pytest.approx(0.9, abs=0.01)


def test_a_tailored_network_keeps_inputs_apart_as_it_should():
    """Wide layers: squares are kept, and inputs at a right angle leave at cosine 0.9, where ReLU's end at one."""
    wide = rivals.network(ARMS["tailored"], 30, 512, 20, 10, 0)
    relu = rivals.network(replace(ARMS["tailored"], activation="relu", init="orthogonal"), 30, 512, 20, 10, 0)
    pair = torch.linalg.qr(states(2, 512).T).Q.T * math.sqrt(512)
    ends = wide.trunk(pair)
    assert ends.square().mean().item() == pytest.approx(1, abs=0.1)
    cosine = torch.nn.functional.cosine_similarity(*ends, dim=0).item()
    assert cosine == pytest.approx(0.9, abs=0.04)
    assert torch.nn.functional.cosine_similarity(*relu.trunk(pair), dim=0).item() > 0.97


def test_too_shallow_a_network_keeps_relu():
    assert tailored_slope(5) == 0.0 < tailored_slope(15) < tailored_slope(200) < 1


def jacobian(trunk, x):
    return torch.autograd.functional.jacobian(trunk, x)


@pytest.mark.parametrize("name", ["maxmin", "fold_step", "constraint_shared", "constraint_independent"])
def test_these_jacobians_are_orthogonal_at_the_start(name):
    J = jacobian(network(name).trunk, states(1)[0])
    torch.testing.assert_close(J.T @ J, torch.eye(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["constraint_shared", "constraint_independent"])
def test_a_constraint_outlives_training(name):
    one = rivals.network(ARMS[name], 4, 16, 64, 10, 0)
    before = one.Q.detach().clone()
    train(one, few_images(), steps=10, lr=1e-2, batch=16, generator=seeded())
    assert (one.Q - before).norm() > 0.1
    J = jacobian(one.trunk, states(1)[0])
    torch.testing.assert_close(J.T @ J, torch.eye(16), atol=1e-4, rtol=0)


def test_a_constraint_is_the_fold_of_its_start():
    """The same function as the untied fold, whose A and B are equal at the start."""
    for name, init in (("constraint_shared", "shared"), ("constraint_independent", "independent_folds")):
        plain = build(replace(ARMS[name], init=init), 6, 16, 20, 10, 0)
        x = states(5, 20)
        torch.testing.assert_close(network(name)(x), plain(x), atol=1e-5, rtol=1e-5)


def test_the_step_of_a_fold_is_kept_between_identity_and_fold():
    one = network("fold_step", depth=1)
    layer, x = one.layers[0], states()
    assert layer.step == 2
    with torch.no_grad():
        layer.step.fill_(2.5)
    torch.testing.assert_close(layer(x).norm(dim=-1), x.norm(dim=-1))  # a fold again
    assert layer.step == 2
    with torch.no_grad():
        layer.step.fill_(-1.0)
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        layer.step.fill_(1.0)
    torch.testing.assert_close(layer(layer(x)), layer(x))  # a projection: twice is once
    layer(x).square().sum().backward()
    assert layer.step.grad is not None and layer.step.grad != 0


def test_the_penalty_is_that_of_the_whole_jacobian():
    one = network("penalty_shared", depth=3)
    with torch.no_grad():
        for layer in one.network.layers:
            layer.A.add_(0.1 * torch.randn(16, 16, generator=seeded(3)))
    h = states(5)
    v = torch.randn(5, 16, generator=seeded(0))  # what its own generator, of the same seed, draws
    wanted = 0.0
    for x, direction in zip(h, v, strict=True):
        J = jacobian(one.network.trunk, x)
        wanted += (J.T @ J @ direction - direction).square().sum().item() / 16 / 5
    assert one.penalty(h).item() == pytest.approx(wanted, rel=1e-4)


def test_the_penalty_goes_into_the_gradient_and_leaves_the_logits():
    torch.manual_seed(0)
    one, x, y = network("penalty_shared", depth=3), states(8, 20), torch.arange(8)
    with torch.no_grad():
        one.network.layers[0].A.mul_(1.3)
    logits = one(x)
    assert torch.equal(logits, one.network(x)) and torch.equal(one.eval()(x), logits)
    loss = torch.nn.functional.cross_entropy(logits, y)
    loss.backward()
    together = one.network.layers[1].A.grad.clone()
    one.train(), one.zero_grad()
    one.generator = seeded(0)
    loss = torch.nn.functional.cross_entropy(one.network(x), y) + one.penalty(one.network.lift(x).detach())
    loss.backward()
    torch.testing.assert_close(together, one.network.layers[1].A.grad)


def test_the_penalty_falls_when_it_is_trained():
    one = rivals.network(ARMS["penalty_shared"], 3, 16, 64, 10, 0)
    plain = build(replace(ARMS["penalty_shared"], init="shared"), 3, 16, 64, 10, 0)
    images = few_images()
    for trained in (one, plain):
        train(trained, images, steps=40, lr=3e-3, batch=16, generator=seeded())
    h = states(200)

    def departure(trunk):
        total = 0.0
        for x in h[:20]:
            J = jacobian(trunk, x)
            total += (J.T @ J - torch.eye(16)).square().sum().item()
        return total

    assert departure(one.network.trunk) < 0.3 * departure(plain.trunk)


def test_normed_layers_do_not_feel_the_scale_of_what_comes_in():
    for name, power in (("layer_norm", 0), ("pre_norm", 1)):
        layer, h = network(name, depth=1).layers[0], states() * 100
        branch = layer(h) - power * h
        scaled = layer(3 * h) - power * 3 * h
        torch.testing.assert_close(scaled, branch, atol=1e-3, rtol=1e-3)
    assert network("layer_norm").trunk(states()).min() >= 0


@pytest.mark.parametrize("depth", [2, 50])
def test_the_shallow_network_has_as_many_parameters_and_one_hidden_layer(depth):
    shallow = network("shallow", depth=depth, width=64)
    deep = build(replace(ARMS["shallow"], init="he"), depth, 64, 20, 10, 0)
    counts = [sum(p.numel() for p in one.parameters()) for one in (shallow, deep)]
    assert counts[0] == pytest.approx(counts[1], abs=20)  # less than a unit's parameters
    assert [type(part).__name__ for part in shallow] == ["Linear", "ReLU", "Linear"]


def test_he_with_one_matrix_has_one():
    one = network("he_single", depth=3)
    assert len(list(one.parameters())) == 2 * 3 + 4
    wide = rivals.network(ARMS["he_single"], 1, 512, 20, 10, 0)
    h = states(64, 512)
    assert wide.trunk(h).square().mean().item() == pytest.approx(1, abs=0.1)  # He keeps squares


def test_who_is_trained_alone_is_what_the_engine_refuses():
    for arm in RIVALS:
        one = rivals.network(arm, 3, 16, 20, 10, 0)
        if rivals.alone(arm):
            with pytest.raises((TypeError, ValueError)):
                Ensemble([one])
        else:
            Ensemble([one])


def test_trained_alone_is_trained_the_same(monkeypatch):
    """An arm of the engine through the loop: the same batches, rates and numbers, up to rounding."""
    plan = experiment("rivals", "smoke")
    arms = tuple(arm for arm in plan.arms if arm.name in ("he_single", "scaled_residual"))
    plan = replace(plan, arms=arms, depths=(3,), halving=None, choose_rate=False, rates=(1e-3,))
    together = live(plan, device="cpu")
    monkeypatch.setattr("pso_lib.experiments.passes.alone", lambda arm: True)
    for one, other in zip(together, live(plan, device="cpu"), strict=True):
        assert one["arm"] == other["arm"] and one["seed"] == other["seed"]
        assert one["curve"]["loss"] == pytest.approx(other["curve"]["loss"], rel=1e-3)


def test_rivals_run_as_an_experiment():
    plan = experiment("rivals", "smoke")
    runs = live(replace(plan, depths=(3,)), device="cpu")
    assert {run["arm"] for run in runs} == ARMS.keys() and not any(run["diverged"] for run in runs)
    assert all(math.isfinite(run["curve"]["loss"][-1]) for run in runs)
